"""The accuracy experiment on fabricated archives."""

import io

import numpy as np
import pytest
from rich.console import Console

from manifoldkit.datasets.archive import write_archive
from manifoldkit.exceptions import DatasetNotFoundError
from manifoldkit.experiments.spd import augmented_covariance as experiment


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def mamem(no_data, rng):
    """Two subjects whose classes are oscillations: temporal structure only."""
    t = np.arange(125) / 125
    hertz = np.array([12.0, 10.0, 8.57, 7.5, 6.66])
    y = np.tile(np.arange(5), 30)
    phase = rng.uniform(0, 6.28, (150, 8, 1))
    X = np.sin(2 * np.pi * 3 * hertz[y][:, None, None] * t + phase)
    X = X + rng.standard_normal(X.shape)
    arrays = {
        "X": X.astype(np.float32),
        "y": y,
        "session": np.repeat([1, 2, 3, 4, 5], 30),
        "sfreq": np.array(125.0),
        "stim_hz": hertz,
    }
    for subject in (1, 2):
        write_archive(no_data / "eeg" / f"mamem_ssvep_U{subject:03d}.npz", arrays)


def test_sessions_are_kept_apart_and_temporal_structure_is_used(mamem, tmp_path):
    console = Console(file=io.StringIO(), width=160)
    out = tmp_path / "run"
    result = experiment.run(out, quick=True, jobs=1, console=console)
    rows = {row["pipeline"]: row for row in result.metrics}
    plain = rows["ACM + TS + SVM, order 1, lag 1"]
    assert plain["n"] == 60
    assert plain["subjects"] == [1, 2]
    assert rows["ACM + TS + SVM, order 3, lag 4"]["accuracy"] > plain["accuracy"]
    assert rows["ACM + TS + SVM, chosen on session 4"]["chosen_order_lag"]
    assert any("above the plain covariance" in text for text in result.remarks)
    again = experiment.run(out, quick=True, jobs=1, console=console, resume=True)
    assert again.metrics == result.metrics


def test_without_data_it_says_what_is_missing(no_data, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="physionet_mi_S001"):
        experiment.run(tmp_path / "run", quick=True, jobs=1)


def test_a_loss_is_reported():
    row = {"task": "t", "accuracy": 0.8}
    rows = [
        {**row, "pipeline": "TS + SVM"},
        {**row, "pipeline": "ACM + TS + SVM (grid)", "accuracy": 0.7},
    ]
    assert "10.0 points BELOW" in experiment.remarks_on(rows)[0]
