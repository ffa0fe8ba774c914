"""The experiment on SPD networks, on fabricated archives."""

import io

import numpy as np
import pytest
from rich.console import Console

from manifoldkit.datasets.archive import write_archive
from manifoldkit.experiments.spd import ill_conditioned
from manifoldkit.experiments.spd import spd_networks as experiment


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def mamem(no_data, rng):
    """Two subjects whose classes are oscillations."""
    t = np.arange(125) / 125
    hertz = np.array([12.0, 10.0, 8.57, 7.5, 6.66])
    y = np.tile(np.arange(5), 30)
    phase = rng.uniform(0, 6.28, (150, 8, 1))
    X = 2 * np.sin(2 * np.pi * hertz[y][:, None, None] * t + phase)
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


def test_quick_run_and_resume(mamem, tmp_path):
    console = Console(file=io.StringIO(), width=160)
    out = tmp_path / "run"
    result = experiment.run(out, quick=True, console=console)
    rows = {row.get("pipeline"): row for row in result.metrics}
    for name in ("SPDNet, no normalization", "SPDNet, GBW, M learned"):
        assert 0 <= rows[name]["accuracy"] <= 1
        assert rows[name]["n"] == 30
    # strong oscillations: the filter bank finds them
    assert rows["filter-bank tangent space + SVM"]["accuracy"] > 0.5
    assert result.data[experiment.TASK]["is_real"]
    assert not result.data["ill-conditioned matrices"]["is_real"]
    oracle = [r for r in result.metrics if "best possible" in r.get("method", "")]
    assert len(oracle) == 2
    begin = [r for r in result.metrics if r.get("method", "").startswith("SPDNet")]
    assert len(begin) == 10  # with batch statistics where there are any
    again = experiment.run(out, quick=True, console=console, resume=True)
    assert again.metrics == result.metrics


def test_without_recordings_it_says_so(no_data, tmp_path):
    console = Console(file=io.StringIO(), width=160)
    result = experiment.run(tmp_path / "run", quick=True, console=console)
    assert any("MAMEM was not on this machine" in text for text in result.remarks)
    assert list(result.data) == ["ill-conditioned matrices"]


def test_sessions_are_kept_apart(mamem):
    """Labels of session 5 count in the report only."""
    from dataclasses import replace

    from manifoldkit.datasets import fetch_mamem

    epochs = fetch_mamem(1, download=False)
    options = {"batchnorm": None}
    one = experiment.train_network(epochs, options, 0, 2, "cpu")
    y = epochs.y.copy()
    last = epochs.session == 5
    y[last] = np.roll(y[last], 1)
    two = experiment.train_network(replace(epochs, y=y), options, 0, 2, "cpu")
    assert one["validation"] == two["validation"]
    assert one["epoch"] == two["epoch"]
    assert one["accuracy"] + two["accuracy"] <= 1 + 1e-12


def test_simulated_truth():
    for where in ill_conditioned.WHERE:
        X, y, ratio = ill_conditioned.simulate(2000, 1e4, where, seed=1)
        s = np.linalg.eigvalsh(X)
        assert (s > 0).all()
        assert np.median(s[:, -1] / s[:, 0]) > 1e4
        assert 0.9 < ((ratio > 0) == y).mean() < 0.99
        # calibrated: the ratio is the log odds
        middle = np.abs(ratio) < 1
        share = y[middle & (ratio > 0)].mean()
        expected = (1 / (1 + np.exp(-ratio[middle & (ratio > 0)]))).mean()
        assert abs(share - expected) < 0.12


def test_remarks_report_harm_and_help():
    base = {"task": "t", "pipeline": "SPDNet, no normalization"}
    rows = [
        base | {"per_subject": [0.5, 0.6, 0.7]},
        base | {"pipeline": "SPDNet, BW", "per_subject": [0.4, 0.5, 0.61]},
        base | {"pipeline": "SPDNet, GBW", "per_subject": [0.6, 0.7, 0.81]},
        base | {"pipeline": "SPDNet, AIRM", "per_subject": [0.4, 0.6, 0.8]},
    ]
    texts = experiment.remarks_on(rows, [], {"some": "data"})
    assert "SPDNet, BW: -9.7 points" in texts[0]
    assert texts[0].endswith("HARMS.")
    assert texts[1].endswith("helps.")
    assert texts[2].endswith("is not told apart.")
