"""Archives made from fabricated originals, and archives that were tampered with."""

import sys
import warnings

import numpy as np
import pytest

from manifoldkit.datasets import fetch_mamem, fetch_physionet_mi
from manifoldkit.datasets.archive import read_archive, write_archive
from manifoldkit.datasets.eeg.archives import MAMEM_HZ
from manifoldkit.exceptions import DatasetNotFoundError, MissingExtraError

ORDER = np.array([int(c) for c in "4235125423154324125341313"])
ELECTRODES = ("E150", "E97", "E109", "E119", "E140", "E161", "E116", "E126")


@pytest.fixture
def moabb_mamem(tmp_path, monkeypatch):
    """MOABB's MAMEM2 with the recordings that ``serve`` is given, and no network."""
    for name in ("_MNE_FAKE_HOME_DIR", "MNE_DATA", "MOABB_RESULTS"):
        monkeypatch.setenv(name, str(tmp_path))
    pytest.importorskip("moabb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moabb.datasets import MAMEM2

    def serve(runs):
        monkeypatch.setattr(
            MAMEM2, "_prefetch_nemar_sourcedata", lambda *a: None, raising=False
        )
        monkeypatch.setattr(
            MAMEM2, "_get_single_subject_data", lambda self, subject: {"0": runs}
        )

    return serve


def recording(codes, hertz, rng):
    """Five seconds of flicker at each window's frequency, five of rest between."""
    mne = pytest.importorskip("mne")
    rate = 250
    data = 0.5e-6 * rng.standard_normal((len(ELECTRODES) + 1, 10 * rate * len(codes)))
    data[-1] = 0
    t = np.arange(5 * rate) / rate
    for i, (code, f) in enumerate(zip(codes, hertz, strict=True)):
        onset = 10 * rate * i + 3 * rate
        for k in range(len(ELECTRODES)):  # amplitude 1, 2, ... tells electrodes apart
            wave = (k + 1) * 1e-6 * np.sin(2 * np.pi * f * t)
            data[k, onset : onset + 5 * rate] += wave
        data[-1, onset] = code
    types = ["eeg"] * len(ELECTRODES) + ["stim"]
    info = mne.create_info([*ELECTRODES, "stim"], rate, types)
    return mne.io.RawArray(data, info, verbose="error")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mirrored", [False, True], ids=["from 12 Hz", "from 6.66 Hz"])
def test_mamem_download_cuts_and_labels_the_flicker(
    mirrored, moabb_mamem, tmp_path, rng
):
    hertz = np.array(MAMEM_HZ)[ORDER - 1]
    codes = 6 - ORDER if mirrored else ORDER
    lost = slice(0, 22)  # a session that ended early
    moabb_mamem(
        {
            "1": recording(codes[lost], hertz[lost], rng),
            "0": recording(codes, hertz, rng),
        }
    )
    epochs = fetch_mamem(2, path=tmp_path)
    assert epochs.X.shape == (188, 8, 125)
    assert "converted by manifoldkit" in epochs.provenance
    assert epochs.session.tolist() == [1] * 100 + [2] * 88
    assert epochs.y[:100:4].tolist() == [f"{h:g}" for h in hertz]
    # every second lies inside its window, in microvolts, at the labeled frequency
    t = np.arange(125) / 125
    for label in epochs.classes:
        wave = np.exp(2j * np.pi * float(label) * t)
        amplitude = 2 * np.abs(epochs.X[epochs.y == label] @ wave) / 125
        # E97 E109 E119 E140 E161 E116 E126 E150, by ascending amplitude but the last
        expected = np.array([2, 3, 4, 5, 6, 7, 8, 1])
        np.testing.assert_allclose(
            amplitude, np.broadcast_to(expected, amplitude.shape), atol=0.8
        )


@pytest.mark.filterwarnings("ignore")
def test_mamem_windows_in_an_unknown_order_are_refused(moabb_mamem, tmp_path, rng):
    codes = np.sort(ORDER)
    moabb_mamem({"0": recording(codes, np.array(MAMEM_HZ)[codes - 1], rng)})
    with pytest.raises(DatasetNotFoundError, match="documented order"):
        fetch_mamem(2, path=tmp_path)
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.fixture
def physionet_arrays(rng):
    return {
        "ch_names": np.array(["C3", "Cz", "C4"]),
        "sfreq": np.array(160.0),
        "runs": np.array([4]),
        "run04_data": rng.integers(-50, 50, (3, 3000)).astype(np.int16),
        "run04_events": np.array([[0, 672, 0], [672, 656, 1], [1400, 656, 2]]),
    }


@pytest.fixture
def mamem_arrays(rng):
    return {
        "X": rng.standard_normal((10, 8, 125)).astype(np.float32),
        "y": np.arange(10) % 5,
        "session": np.repeat([1, 2], 5),
        "sfreq": np.array(125.0),
        "stim_hz": np.array(MAMEM_HZ),
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sfreq", np.array([160.0, 160.0]), r"sfreq has shape \(2,\)"),
        ("sfreq", np.array(-1.0), "sfreq is -1.0, not a positive number"),
        ("ch_names", np.array(["C3", "Cz"]), r"run04_data has shape \(3, 3000\)"),
        ("ch_names", np.arange(3), "ch_names has"),
        ("run04_data", np.full((3, 3000), np.nan), "run04_data is not finite"),
        ("run04_events", None, "it has no run04_events"),
        ("run04_events", np.zeros((3, 2), int), "run04_events has shape"),
        ("run04_events", np.array([[0, 656, 3]]), "codes other than 0, 1, 2"),
        ("run04_events", np.array([[-5, 656, 1]]), "onsets outside"),
        ("run04_events", np.array([[9000, 656, 1]]), "onsets outside"),
    ],
)
def test_tampered_physionet(key, value, message, physionet_arrays, tmp_path):
    arrays = {**physionet_arrays, key: value}
    arrays = {k: v for k, v in arrays.items() if v is not None}
    file = write_archive(tmp_path / "physionet_mi_S001.npz", arrays)
    with pytest.raises(ValueError, match=rf"S001\.npz is not the archive .*{message}"):
        fetch_physionet_mi(1, 4, channels=["C3"], path=file, download=False)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("X", np.zeros((10, 7, 125)), r"X has shape \(10, 7, 125\)"),
        ("X", np.full((10, 8, 125), np.inf), "X is not finite"),
        ("y", np.zeros(9, int), "y has shape"),
        ("y", np.full(10, 5), r"labels outside 0\.\.4"),
        ("session", np.zeros(10), "session has shape"),
        ("stim_hz", np.array("12"), "stim_hz"),
    ],
)
def test_tampered_mamem(key, value, message, mamem_arrays, tmp_path):
    file = write_archive(
        tmp_path / "mamem_ssvep_U001.npz", {**mamem_arrays, key: value}
    )
    with pytest.raises(ValueError, match=rf"U001\.npz is not the archive .*{message}"):
        fetch_mamem(1, path=file, download=False)


def test_one_file_holds_one_subject(physionet_arrays, mamem_arrays, tmp_path):
    """A file given as ``path`` never stands for another subject in silence."""
    call = {"runs": 4, "channels": ["C3"], "download": False}
    file = write_archive(tmp_path / "physionet_mi_S001.npz", physionet_arrays)
    assert len(fetch_physionet_mi(1, path=file, **call)) == 2
    with pytest.raises(ValueError, match=r"path: .* one subject's .*\(1, 2\)"):
        fetch_physionet_mi([1, 2], path=file, **call)
    with pytest.raises(ValueError, match=r"path: .*archive of subject 1"):
        fetch_physionet_mi(3, path=file, **call)
    own_name = write_archive(tmp_path / "mine.npz", mamem_arrays)
    assert len(fetch_mamem(5, path=own_name, download=False)) == 10
    with pytest.raises(ValueError, match=r"path: .* one subject's"):
        fetch_mamem([5, 6], path=own_name, download=False)


def test_runs_that_an_archive_lacks_are_added(physionet_arrays, tmp_path, monkeypatch):
    mne = pytest.importorskip("mne")
    from mne.datasets import eegbci

    info = mne.create_info(["C3..", "Cz..", "C4.."], 160.0, "eeg")
    raw = mne.io.RawArray(np.zeros((3, 3000)), info, verbose="error")
    raw.set_annotations(mne.Annotations([0, 4.2], [4.2, 4.1], ["T0", "T1"]))
    asked = []
    monkeypatch.setattr(
        eegbci, "load_data", lambda s, runs, **k: asked.append(runs) or [*runs]
    )
    monkeypatch.setattr(mne.io, "read_raw_edf", lambda file, **k: raw.copy())
    file = write_archive(tmp_path / "eeg" / "physionet_mi_S001.npz", physionet_arrays)
    before = file.read_bytes()
    for _ in range(2):
        epochs = fetch_physionet_mi(1, [4, 8], channels=["C3"], path=tmp_path)
        assert epochs.run.tolist() == [4, 4, 8]
    assert asked == [[8]]
    assert file.read_bytes() == before
    extra = tmp_path / "eeg" / "physionet_mi_S001_runs8.npz"
    assert read_archive(extra)["runs"].tolist() == [8]


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


def test_failed_download_is_a_dataset_error(tmp_path, monkeypatch):
    pytest.importorskip("mne")
    from mne.datasets import eegbci

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(eegbci, "load_data", offline)
    with pytest.raises(DatasetNotFoundError, match="no route to host"):
        fetch_physionet_mi(2, path=tmp_path)
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.mark.parametrize(
    ("fetch", "package"), [(fetch_physionet_mi, "mne"), (fetch_mamem, "moabb")]
)
def test_missing_extra(fetch, package, tmp_path, monkeypatch):
    for name in ("mne", "mne.datasets", "moabb", "moabb.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{fetch.__name__} needs {package}"):
        fetch(3, path=tmp_path)
