"""Traffic archives: found, read, refused, and the real ones."""

import os

import numpy as np
import pytest

from manifoldkit.datasets import fetch_metr_la, fetch_the_hague
from manifoldkit.datasets.archive import write_archive
from manifoldkit.exceptions import DatasetNotFoundError


def archive(folder, name="metr_la_week", **extra):
    arrays = {
        "values": np.ones((50, 3, 1), np.float32),
        "adjacency": np.eye(3, dtype=np.float32),
        "lat": np.zeros(3),
        "lon": np.zeros(3),
        "sensor_id": np.arange(3),
        "start": np.datetime64("2012-03-01T00:00", "m"),
        "step_minutes": np.int64(5),
    }
    write_archive(folder / f"{name}.npz", arrays | extra)
    return folder


def test_the_archive_is_found_and_read(tmp_path, monkeypatch):
    archive(tmp_path / "traffic")
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path))
    data = fetch_metr_la(download=False)
    assert repr(data) == "TrafficData('METR-LA week', 50 rows of 5 min, 3 sensors)"
    assert data.is_real
    assert len(data) == 50
    assert data.values.shape == (50, 3)
    assert data.timestamps[-1] == np.datetime64("2012-03-01T04:05")
    assert (
        fetch_metr_la(path=tmp_path / "traffic" / "metr_la_week.npz").step_minutes == 5
    )


def test_the_hague_keeps_what_else_is_there(tmp_path):
    archive(tmp_path, "denhaag_2019_11", junction=np.arange(3), step_minutes=15)
    data = fetch_the_hague(path=tmp_path)
    assert data.extra["junction"].tolist() == [0, 1, 2]
    assert data.mape_floor == 10


@pytest.mark.parametrize("fetch", [fetch_metr_la, fetch_the_hague])
def test_without_the_archive_the_message_says_where_to_get_it(fetch, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"SHA-256.*github\.com"):
        fetch(path=tmp_path, download=False)


def test_other_archives_are_refused(tmp_path):
    archive(tmp_path, values=np.ones((50, 3)))
    with pytest.raises(
        ValueError,
        match=r"values has shape \(50, 3\) .* expected numbers of shape \(n, n, 1\)",
    ):
        fetch_metr_la(path=tmp_path)
    write_archive(tmp_path / "metr_la_week.npz", {"values": np.ones((5, 3, 1))})
    with pytest.raises(ValueError, match="it has no adjacency"):
        fetch_metr_la(path=tmp_path)


@pytest.mark.skipif(
    not os.environ.get("MANIFOLDKIT_DATA"), reason="the traffic archives are not here"
)
def test_the_real_archives():
    for fetch, shape, weights in (
        (fetch_metr_la, (2016, 207), 1722),
        (fetch_the_hague, (2880, 123), 2224),
    ):
        try:
            data = fetch(download=False)
        except DatasetNotFoundError:
            pytest.skip("the archive is not here")
        assert data.values.shape == shape
        assert (data.adjacency > 0).sum() == weights
        assert np.isfinite(data.values).all()
