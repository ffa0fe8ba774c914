"""Loaders, on fabricated archives of the documented form and on the real ones."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifoldkit.datasets import fetch_mamem, fetch_physionet_mi, load_eeg_demo
from manifoldkit.datasets.archive import find_archive, write_archive
from manifoldkit.datasets.eeg.epochs import MOTOR_CHANNELS
from manifoldkit.exceptions import DatasetNotFoundError, MissingExtraError


def real(relative):
    return pytest.mark.skipif(
        find_archive(relative) is None,
        reason=f"{relative} is not in MANIFOLDKIT_DATA or the cache",
    )


@pytest.fixture
def physionet(tmp_path, rng):
    """A folder with a fabricated archive of subject 1, runs 4, 6 and 8."""
    names = (*MOTOR_CHANNELS, "O1", "O2")
    arrays = {
        "ch_names": np.array(names),
        "sfreq": np.array(160.0),
        "unit": np.array("uV"),
        "runs": np.array([4, 6, 8]),
    }
    for run in (4, 6, 8):
        data = 20 * rng.standard_normal((len(names), 6000))
        arrays[f"run{run:02d}_data"] = data.astype(np.int16)
        onsets = np.arange(8) * 700
        events = [(t, 656, (0, 1, 0, 2)[i % 4]) for i, t in enumerate(onsets)]
        arrays[f"run{run:02d}_events"] = np.array(events, dtype=np.int32)
    write_archive(tmp_path / "eeg" / "physionet_mi_S001.npz", arrays)
    return tmp_path


@pytest.fixture
def mamem(tmp_path, rng):
    arrays = {
        "X": rng.standard_normal((20, 8, 125)).astype(np.float32),
        "y": np.arange(20) % 5,
        "session": np.repeat([1, 2, 3, 4, 5], 4),
        "sfreq": np.array(125.0),
        "stim_hz": np.array([12.0, 10.0, 8.57, 7.5, 6.66]),
    }
    for subject in (1, 2):
        write_archive(tmp_path / "eeg" / f"mamem_ssvep_U{subject:03d}.npz", arrays)
    return tmp_path


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


def test_select_and_torch(physionet):
    epochs = fetch_physionet_mi(1, [4, 6], path=physionet)
    part = epochs.select(channels=["C4", "C3"], classes=["left_fist", "both_feet"])
    assert part.X.shape == (4, 2, 480)
    np.testing.assert_array_equal(part.X[:, 1], part.select(channels=["C3"]).X[:, 0])
    assert len(epochs.select(index=epochs.run == 6)) == 4
    X, y = part.to_torch()
    assert X.shape == (4, 2, 480)
    assert [part.classes[i] for i in y] == part.y.tolist()
    with pytest.raises(ValueError, match="Fp9"):
        epochs.select(channels=["Fp9"])
    with pytest.raises(ValueError, match="jump"):
        epochs.select(classes=["jump"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"subjects": 110}, "subjects: expected numbers out of 1..109"),
        ({"subjects": ()}, "subjects"),
        ({"subjects": "1"}, "subjects"),
        ({"subjects": [1, 1]}, "subjects: expected each number once"),
        ({"runs": [4, 4]}, "runs: expected each number once"),
        ({"runs": [2]}, "runs: expected numbers out of 3..14"),
        ({"runs": [4, 12]}, "runs: .*12.* not in .*holds runs 4, 6, 8"),
        ({"fmin": 40.0}, "fmin, fmax"),
        ({"fmax": 90.0}, "fmin, fmax"),
        ({"tmin": 3, "tmax": 1}, "tmin, tmax"),
        ({"tmax": 5.0}, "tmax: 5 s is beyond a trial"),
        ({"channels": ["Xz"]}, "channels: .*Xz.* not recorded"),
        ({"channels": "all"}, "channels: expected"),
    ],
)
def test_physionet_bad_input(kwargs, message, physionet):
    call = {"subjects": 1, "runs": 4, "path": physionet, "download": False, **kwargs}
    with pytest.raises(ValueError, match=message):
        fetch_physionet_mi(**call)


def test_epochs_of_uneven_length_are_refused(physionet):
    epochs = fetch_physionet_mi(1, 4, path=physionet)
    with pytest.raises(ValueError, match="y: expected one value an epoch, 4, found 3"):
        replace(epochs, y=epochs.y[:3])
    with pytest.raises(ValueError, match="X: expected shape"):
        replace(epochs, X=epochs.X[:, :2])


def test_mamem(mamem):
    epochs = fetch_mamem([1, 2], sessions=[1, 3], path=mamem, download=False)
    assert epochs.X.shape == (16, 8, 125)
    assert set(epochs.session) == {1, 3}
    assert epochs.subject.tolist() == [1] * 8 + [2] * 8
    assert set(epochs.y) <= {"12", "10", "8.57", "7.5", "6.66"}
    with pytest.raises(ValueError, match=r"sessions: expected numbers out of 1\.\.5"):
        fetch_mamem(1, sessions=6, path=mamem)
    with pytest.raises(ValueError, match=r"subjects: expected numbers out of 1\.\.11"):
        fetch_mamem(12, path=mamem)


@pytest.mark.parametrize("fetch", [fetch_physionet_mi, fetch_mamem])
def test_missing_data_offline(fetch, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"Publisher: https://.*path="):
        fetch(3, path=tmp_path, download=False)


@pytest.mark.parametrize(
    ("fetch", "package"), [(fetch_physionet_mi, "mne"), (fetch_mamem, "moabb")]
)
def test_missing_extra(fetch, package, tmp_path, monkeypatch):
    for name in ("mne", "mne.datasets", "moabb", "moabb.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{fetch.__name__} needs {package}"):
        fetch(3, path=tmp_path)


def test_failed_download_is_a_dataset_error(tmp_path, monkeypatch):
    pytest.importorskip("mne")
    from mne.datasets import eegbci

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(eegbci, "load_data", offline)
    with pytest.raises(DatasetNotFoundError, match="no route to host"):
        fetch_physionet_mi(2, path=tmp_path)
    assert list(tmp_path.rglob("*.npz")) == []


def test_download_converts_what_mne_delivers(tmp_path, monkeypatch, rng):
    """The publisher's files, here fabricated, end up in the archive's form."""
    mne = pytest.importorskip("mne")
    from mne.datasets import eegbci

    names = [f"{name}." for name in ("C3.", "Cz.", "C4.")]
    info = mne.create_info(names, 160.0, "eeg")
    signal = np.round(30 * rng.standard_normal((3, 3000)))
    raw = mne.io.RawArray(signal * 1e-6, info, verbose="error")
    raw.set_annotations(mne.Annotations([0, 4.2], [4.2, 4.1], ["T0", "T2"]))
    monkeypatch.setattr(eegbci, "load_data", lambda s, runs, **k: [*runs])
    monkeypatch.setattr(mne.io, "read_raw_edf", lambda file, **k: raw.copy())
    epochs = fetch_physionet_mi(7, [6], channels=["C3", "C4"], path=tmp_path)
    assert epochs.y.tolist() == ["both_feet"]
    assert epochs.X.shape == (1, 2, 480)
    stored = np.load(tmp_path / "eeg" / "physionet_mi_S007.npz")
    np.testing.assert_array_equal(stored["run06_data"], signal.astype(np.int16))
    assert stored["run06_events"].tolist() == [[0, 672, 0], [672, 656, 2]]


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
    folder = physionet if present else tmp_path / "empty"
    epochs = load_eeg_demo("imagined_left_right", path=folder)
    assert epochs.is_real == present


def test_demo_bad_task():
    with pytest.raises(ValueError, match="task: expected one of"):
        load_eeg_demo("jump")


@real("eeg/physionet_mi_S001.npz")
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


@real("eeg/mamem_ssvep_U001.npz")
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


def test_importing_loaders_is_light():
    code = (
        "import sys, manifoldkit.datasets as d\n"
        "heavy = ('torch', 'mne', 'moabb', 'sklearn', 'pooch')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "d.fetch_physionet_mi\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:2] == ["[]", "[]"]


def test_every_loader_has_a_card():
    cards = Path(__file__).parents[3] / "datasets"
    text = "".join(p.read_text() for p in cards.glob("*.md"))
    for name in (
        "fetch_physionet_mi",
        "fetch_mamem",
        "load_digits_covariances",
        "make_motor_imagery_eeg",
    ):
        assert name in text


def test_no_recordings_in_the_repository():
    root = Path(__file__).parents[3]
    names = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.split()
    assert not [n for n in names if os.path.splitext(n)[1] in (".npz", ".edf", ".mat")]
