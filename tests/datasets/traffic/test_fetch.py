import os

import numpy as np
import pytest

from manifoldkit.datasets import (
    TrafficData,
    fetch_metr_la,
    fetch_the_hague,
    regularize_series,
)
from manifoldkit.datasets.archive import write_archive
from manifoldkit.datasets.traffic.convert import convert_metr_la_week
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
    with pytest.raises(ValueError, match="values of shape"):
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


def test_conversion_of_the_publishers_files(tmp_path):
    (tmp_path / "los_speed.csv").write_text("7,9,8\n60,61.5,62\n63,64,65\n")
    (tmp_path / "distances.csv").write_text(
        "from,to,cost\n7,7,0\n7,9,100\n9,7,300\n8,5,1\n8,8,0\n9,9,0\n"
    )
    (tmp_path / "places.csv").write_text(
        "index,sensor_id,latitude,longitude\n0,9,34.5,-118\n1,7,34.1,-117\n2,8,34,-116\n"
    )
    files = [tmp_path / f"{k}.csv" for k in ("los_speed", "distances", "places")]
    arrays = convert_metr_la_week(*files)
    assert arrays["values"][..., 0].tolist() == [[60, 61.5, 62], [63, 64, 65]]
    sigma = np.std([0, 100, 300, 0, 0])
    assert arrays["adjacency"][0, 1] == pytest.approx(np.exp(-((100 / sigma) ** 2)))
    assert arrays["adjacency"][1, 0] == 0  # below the cut
    assert arrays["lat"].tolist() == [34.1, 34.5, 34.0]
    files[2].write_text("index,sensor_id,latitude,longitude\n0,9,34.5,-118\n")
    with pytest.raises(ValueError, match=r"no place of the sensors \[7, 8\]"):
        convert_metr_la_week(*files)


def test_an_hour_that_is_skipped_and_one_that_comes_twice():
    t = np.datetime64("2024-03-31T01:30", "m") + 15 * np.arange(6)
    t[2:] += np.timedelta64(60, "m")
    values, start = regularize_series(np.arange(6.0)[:, None], t, 15)
    assert start == t[0]
    assert values[:, 0].tolist()[:2] == [0, 1]
    assert np.isnan(values[2:6, 0]).all()
    assert values[6:, 0].tolist() == [2, 3, 4, 5]
    twice = np.array(["2024-10-27T02:00"] * 2 + ["2024-10-27T02:15"], "datetime64[m]")
    values, _ = regularize_series([[1, 8], [3, 8], [5, 8]], twice, 15)
    assert values.tolist() == [[2, 8], [5, 8]]
    shuffled, _ = regularize_series(np.array([[2.0], [1.0]]), t[[1, 0]], 15)
    assert shuffled.ravel().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "stamps", "step", "message"),
    [
        ([[1.0]], ["2024-01-01", "2024-01-02"], 5, "expected shapes"),
        ([[1.0]], ["2024-01-01"], 0, "step_minutes"),
        ([[1.0], [2.0]], ["2000-01-01", "2024-01-02"], 1, "is step_minutes right"),
        ([[1.0]], ["2024-01-01T00:00+01:00"], 5, "without a zone"),
    ],
)
def test_bad_times(values, stamps, step, message):
    with pytest.raises(ValueError, match=message):
        regularize_series(values, stamps, step)


def test_times_of_the_rows():
    data = TrafficData(np.ones((3, 2)), np.eye(2), np.datetime64("2024-01-01"), 30)
    assert data.timestamps.tolist()[2].isoformat() == "2024-01-01T01:00:00"


def test_times_that_are_missing_and_grids_that_are_no_minutes():
    t = np.array(["2020-01-01T00:00", "NaT"], "datetime64[m]")
    with pytest.raises(ValueError, match="timestamps: expected times, found NaT"):
        regularize_series([[1.0], [3.0]], t, 5)
    with pytest.raises(ValueError, match="step_minutes: expected a whole number"):
        regularize_series([[1.0], [3.0]], t[[0, 0]], 2.5)
