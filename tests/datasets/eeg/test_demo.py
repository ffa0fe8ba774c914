"""The demonstration's data: recordings where they are, else a simulation, offline."""

import socket

import numpy as np
import pytest

from manifoldkit.datasets import load_eeg_demo
from manifoldkit.datasets.archive import find_archive


@pytest.mark.parametrize(
    "task", ["imagined_fists_feet", "imagined_left_right", "executed_left_right"]
)
def test_demo_falls_back_on_a_simulation_that_says_so(task, tmp_path):
    epochs = load_eeg_demo(task, path=tmp_path)
    assert not epochs.is_real
    assert "simulat" in epochs.name
    assert "simulation" in epochs.provenance
    assert len(epochs.classes) == 2
    X, y = load_eeg_demo(task, path=tmp_path, return_X_y=True)
    np.testing.assert_array_equal(X, epochs.X)
    assert len(y) == len(X)


@pytest.mark.parametrize("present", [True, False])
def test_demo_never_opens_a_connection(present, physionet, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    (tmp_path / "empty").mkdir(exist_ok=True)
    folder = physionet if present else tmp_path / "empty"
    epochs = load_eeg_demo("imagined_left_right", path=folder)
    assert epochs.is_real == present


@pytest.mark.parametrize("by", ["path", "variable"])
def test_demo_tells_of_a_folder_that_is_not_there(by, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    missing = tmp_path / "typo"
    if by == "variable":
        monkeypatch.setenv("MANIFOLDKIT_DATA", str(missing))
    with pytest.warns(UserWarning, match="no folder .*typo: a simulation stands in"):
        epochs = load_eeg_demo(path=missing if by == "path" else None)
    assert not epochs.is_real


def test_demo_bad_task():
    with pytest.raises(ValueError, match="task: expected one of"):
        load_eeg_demo("jump")


@pytest.mark.skipif(
    find_archive("eeg/physionet_mi_S001.npz") is None,
    reason="the archive of subject 1 is not on this machine",
)
@pytest.mark.parametrize(
    ("task", "counts"),
    [
        ("imagined_fists_feet", {"both_feet": 16, "both_fists": 14}),
        ("executed_left_right", {"left_fist": 23, "right_fist": 22}),
    ],
)
def test_real_demo(task, counts):
    epochs = load_eeg_demo(task)
    assert epochs.is_real
    assert epochs.class_counts == counts
    assert epochs.X.shape[1:] == (21, 480)
    assert 2 < epochs.X.std() < 30  # microvolts, band-passed
