"""Loaders, on fabricated archives of the documented form and on the real ones."""

import numpy as np
import pytest

from manifoldkit.datasets import fetch_mamem, fetch_physionet_mi
from manifoldkit.datasets.archive import find_archive, read_archive, write_archive
from manifoldkit.datasets.eeg import MOTOR_CHANNELS
from manifoldkit.exceptions import DatasetNotFoundError


def test_physionet_epochs(physionet):
    epochs = fetch_physionet_mi(1, [4, 6], path=physionet, download=False)
    assert epochs.X.shape == (8, 21, 480)
    assert epochs.X.dtype == np.float64
    assert epochs.ch_names == MOTOR_CHANNELS
    assert epochs.class_counts == {
        "both_feet": 2,
        "both_fists": 2,
        "left_fist": 2,
        "right_fist": 2,
    }
    assert epochs.run.tolist() == [4] * 4 + [6] * 4
    assert epochs.is_real
    spectrum = np.abs(np.fft.rfft(epochs.X, axis=-1)) ** 2
    hertz = np.fft.rfftfreq(480, 1 / 160)
    outside = (hertz < 4) | (hertz > 45)
    assert spectrum[..., outside].mean() < 0.02 * spectrum[..., ~outside].mean()


def test_physionet_options(physionet):
    epochs = fetch_physionet_mi(
        1, 4, channels=["Cz", "O2"], include_rest=True, tmin=0, tmax=2, path=physionet
    )
    assert epochs.X.shape == (8, 2, 320)
    assert epochs.class_counts["rest"] == 4
    everything = fetch_physionet_mi(1, 4, channels=None, path=physionet)
    assert everything.X.shape[1] == 23
    X, y = fetch_physionet_mi(1, 4, path=physionet, return_X_y=True)
    assert len(X) == len(y) == 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"subjects": 110}, "subjects: expected some of 1..109"),
        ({"subjects": ()}, "subjects"),
        ({"subjects": "1"}, "subjects"),
        ({"subjects": [1, 1]}, r"subjects: expected .* each once, found \(1, 1\)"),
        ({"runs": [4, 4]}, r"runs: expected .* each once, found \(4, 4\)"),
        ({"runs": [2]}, "runs: expected some of 3..14"),
        ({"runs": [4, 12]}, "runs: .*12.* not in .*holds runs 4, 6, 8"),
        ({"fmin": 40.0}, r"fmax: expected a number in \(40, 80\), found 30"),
        ({"fmax": 90.0}, r"fmax: expected a number in \(8, 80\), found 90"),
        ({"tmin": 3, "tmax": 1}, "tmax: expected a number > 3, found 1"),
        ({"tmax": 5.0}, "tmax: 5 s is beyond a trial"),
        ({"channels": ["Xz"]}, "channels: .*Xz.* not recorded"),
        ({"channels": "all"}, "channels: expected"),
    ],
)
def test_physionet_bad_input(kwargs, message, physionet):
    call = {"subjects": 1, "runs": 4, "path": physionet, "download": False, **kwargs}
    with pytest.raises(ValueError, match=message):
        fetch_physionet_mi(**call)


def test_mamem(mamem):
    epochs = fetch_mamem([1, 2], sessions=[1, 3], path=mamem, download=False)
    assert epochs.X.shape == (16, 8, 125)
    assert set(epochs.session) == {1, 3}
    assert epochs.subject.tolist() == [1] * 8 + [2] * 8
    assert set(epochs.y) <= {"12", "10", "8.57", "7.5", "6.66"}
    with pytest.raises(ValueError, match=r"sessions: expected some of 1\.\.5"):
        fetch_mamem(1, sessions=6, path=mamem)
    with pytest.raises(ValueError, match=r"subjects: expected some of 1\.\.11"):
        fetch_mamem(12, path=mamem)


@pytest.mark.parametrize("fetch", [fetch_physionet_mi, fetch_mamem])
def test_missing_data_offline(fetch, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"Publisher: https://.*path="):
        fetch(3, path=tmp_path, download=False)


@pytest.mark.skipif(
    find_archive("eeg/mamem_ssvep_U001.npz") is None,
    reason="the archive of subject 1 is not on this machine",
)
def test_real_mamem_carries_the_stimulus_frequency():
    """Power at the stimulus frequency and its harmonic singles out the class."""
    epochs = fetch_mamem(1)
    assert epochs.X.shape == (500, 8, 125)
    t = np.arange(125) / 125
    waves = {
        hz: np.exp(2j * np.pi * np.outer([1, 2], float(hz) * t))
        for hz in epochs.classes
    }
    X = epochs.X - epochs.X.mean(-1, keepdims=True)
    X /= X.std((1, 2), keepdims=True)
    score = {hz: np.abs(X @ w.T).mean((1, 2)) for hz, w in waves.items()}
    for hz in ("12", "10"):
        own = score[hz][epochs.y == hz].mean()
        assert own > score[hz][epochs.y != hz].mean()


def test_subjects_at_different_rates_are_loaded_apart(physionet):
    folder = physionet / "eeg"
    arrays = read_archive(folder / "physionet_mi_S001.npz")
    slow = {**arrays, "sfreq": np.array(128.0)}
    write_archive(folder / "physionet_mi_S088.npz", slow)
    call = {"runs": 4, "channels": ["C3"], "path": physionet, "download": False}
    assert fetch_physionet_mi(88, **call).X.shape == (4, 1, 384)
    with pytest.raises(ValueError, match="subjects: expected one sampling rate"):
        fetch_physionet_mi([1, 88], **call)
