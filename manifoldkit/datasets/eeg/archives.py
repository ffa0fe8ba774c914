"""The archives of the EEG sets: made from the publisher's files, read and checked."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifoldkit.datasets.archive import Source, obtain, read_archive
from manifoldkit.exceptions import MissingExtraError

#: Stimulus frequency in Hz of the labels 0..4 of MAMEM.
MAMEM_HZ = (12.0, 10.0, 8.57, 7.5, 6.66)
# The marked boxes of a session's 25 windows, 1 = 12 Hz ... 5 = 6.66 Hz; every session
# of every subject follows this order.
_MAMEM_ORDER = tuple(map(int, "4235125423154324125341313"))
# PO7 PO3 POz PO4 PO8 O1 Oz O2 on the 256-channel geodesic net
_MAMEM_ELECTRODES = ("E97", "E109", "E119", "E140", "E161", "E116", "E126", "E150")
_MAMEM_RATE = 125

# Size and SHA-256 of the archives that this project's figures were measured on.
_KNOWN = {
    "physionet_mi_S001": (
        14_769_479,
        "4bfdeca64f450b151255bbf4bb4086ecedb6414627882a588bf7772478a846c7",
    ),
    "mamem_ssvep_U001": (
        1_852_686,
        "c7f2c5b3ab0344c8f97ba79330a76e8c4f549de3496aac406885803f92601316",
    ),
    "mamem_ssvep_U002": (
        1_873_828,
        "b2849d6e25a278bfba7365af9cf45a9401becb436bde3afd4b16d881edd3e4fb",
    ),
    "mamem_ssvep_U003": (
        1_851_134,
        "31d6990cc04379b64f9bf659af64c52a00937d584d5c3c227540552c36ca7d99",
    ),
    "mamem_ssvep_U004": (
        1_850_288,
        "27d5ece4cc2fe469b0dca00b756b12fc7286c0449cedaeba6c6ad51675b32283",
    ),
    "mamem_ssvep_U005": (
        1_852_142,
        "93e22bc6182699fb73d58c5b9878b967b1ad72b619b93be3f5da131b088a9d11",
    ),
    "mamem_ssvep_U006": (
        1_847_987,
        "816eaba5bf480bfeff14e2e82693392a78cf3293bd24760fff52b853b3f219c9",
    ),
    "mamem_ssvep_U007": (
        1_852_450,
        "acc4632a5f728055ade29ed6b4c446a42a61e3cac4e86c42510f45e5f269b83d",
    ),
    "mamem_ssvep_U008": (
        1_854_236,
        "0b714285cc1e3ac538e87e3eab7bcae557a40e47d27e04696d16f92bca8b192f",
    ),
}


def physionet_source(subject: int) -> Source:
    """Return what is known of a PhysioNet subject's archive."""
    name = f"physionet_mi_S{subject:03d}"
    return Source(
        f"eeg/{name}.npz",
        "https://physionet.org/content/eegmmidb/1.0.0/ (SHA-256 of its files in "
        "https://physionet.org/files/eegmmidb/1.0.0/SHA256SUMS.txt)",
        'pip install "manifoldkit[eeg]" and call fetch_physionet_mi with a network: '
        "MNE downloads the recordings (about 2.5 MB a run) and checks their SHA-256.",
        *_KNOWN.get(name, (None, None)),
    )


def mamem_source(subject: int) -> Source:
    """Return what is known of a MAMEM subject's archive."""
    name = f"mamem_ssvep_U{subject:03d}"
    return Source(
        f"eeg/{name}.npz",
        "https://figshare.com/articles/dataset/3153409",
        'pip install "manifoldkit[eeg]" and call fetch_mamem with a network: '
        "MOABB's MAMEM2 downloads the recordings (about 500 MB a subject).",
        *_KNOWN.get(name, (None, None)),
    )


def check_path(
    path: str | Path | None, subjects: Sequence[int], source: Source
) -> None:
    """Refuse a file as ``path`` that cannot hold the subjects asked for.

    Raises
    ------
    ValueError
        One file for several subjects, or a file named after another subject.
    """
    if path is None or not (Path(path).suffix == ".npz" or Path(path).is_file()):
        return
    if len(subjects) > 1:
        raise ValueError(
            f"path: {path} is one subject's archive, found subjects {tuple(subjects)}; "
            "name the folder"
        )
    stem = Path(source.relative).stem
    pattern = re.sub(r"\d{3}$", r"(\\d{3})", stem)
    named = re.match(pattern, Path(path).name)
    if named and int(named[1]) != subjects[0]:
        raise ValueError(
            f"path: {Path(path).name} is the archive of subject {int(named[1])}, "
            f"found subjects {tuple(subjects)}"
        )


def physionet_arrays(
    subject: int,
    runs: Sequence[int],
    path: str | Path | None = None,
    download: bool = True,
) -> dict[str, np.ndarray]:
    """Return the checked arrays of a subject, downloading runs that are not there."""
    source = physionet_source(subject)
    every = tuple(range(3, 15))
    file = obtain(source, lambda: _convert_physionet(subject, every), path, download)
    arrays = read_archive(file, ("ch_names", "sfreq", "runs"))
    absent = [run for run in runs if f"run{run:02d}_data" not in arrays]
    if absent and not download:
        held = ", ".join(str(r) for r in np.ravel(arrays["runs"]))
        raise ValueError(f"runs: {absent} not in {file}, which holds runs {held}")
    if absent:
        extra = Source(
            source.relative.replace(".npz", f"_runs{'-'.join(map(str, absent))}.npz"),
            source.publisher,
            source.how,
        )
        folder = None if path is None else Path(path)
        if folder is not None and folder.suffix == ".npz":
            folder = folder.parent
        more = obtain(extra, lambda: _convert_physionet(subject, absent), folder)
        arrays |= read_archive(more, [f"run{run:02d}_data" for run in absent])
    _check_physionet(arrays, file, runs)
    return arrays


def mamem_arrays(
    subject: int, path: str | Path | None = None, download: bool = True
) -> dict[str, np.ndarray]:
    """Return the checked arrays of a subject."""
    source = mamem_source(subject)
    file = obtain(source, lambda: _convert_mamem(subject), path, download)
    arrays = read_archive(file, ("X", "y", "session", "stim_hz", "sfreq"))
    _check_mamem(arrays, file)
    return arrays


def _refuse(file: Path, what: str) -> None:
    raise ValueError(f"{file} is not the archive expected: {what}")


def _check_rate(arrays: dict[str, np.ndarray], file: Path) -> None:
    rate = arrays["sfreq"]
    if rate.shape != () or rate.dtype.kind not in "iuf" or not 0 < rate < np.inf:
        _refuse(file, f"sfreq is {rate!r}, not one positive number")


def _check_physionet(arrays, file: Path, runs: Sequence[int]) -> None:
    _check_rate(arrays, file)
    names = arrays["ch_names"]
    if names.ndim != 1 or names.dtype.kind != "U":
        _refuse(file, f"ch_names has shape {names.shape} and dtype {names.dtype}")
    for run in runs:
        key = f"run{run:02d}"
        if f"{key}_events" not in arrays:
            _refuse(file, f"it has no {key}_events")
        data, events = arrays[f"{key}_data"], arrays[f"{key}_events"]
        if data.ndim != 2 or len(data) != len(names) or data.dtype.kind not in "iuf":
            _refuse(
                file,
                f"{key}_data has shape {data.shape} and dtype {data.dtype}, "
                f"expected numbers ({len(names)}, n_times)",
            )
        if not np.isfinite(data).all():
            _refuse(file, f"{key}_data is not finite")
        if (
            events.ndim != 2
            or events.shape[1:] != (3,)
            or events.dtype.kind not in "iu"
        ):
            _refuse(
                file,
                f"{key}_events has shape {events.shape} and dtype {events.dtype}, "
                "expected integers (n, 3)",
            )
        onset, length, code = events.T
        if (
            (onset < 0).any()
            or (onset >= data.shape[1]).any()
            or (length <= 0).any()
            or not np.isin(code, (0, 1, 2)).all()
        ):
            _refuse(
                file,
                f"{key}_events has onsets outside the {data.shape[1]} samples, "
                "durations of 0 or codes other than 0, 1, 2",
            )


def _check_mamem(arrays, file: Path) -> None:
    _check_rate(arrays, file)
    X, y, session, hertz = (arrays[k] for k in ("X", "y", "session", "stim_hz"))
    if X.ndim != 3 or X.shape[1] != len(_MAMEM_ELECTRODES) or X.dtype.kind not in "iuf":
        _refuse(
            file, f"X has shape {X.shape} and dtype {X.dtype}, expected (n, 8, n_times)"
        )
    if not np.isfinite(X).all():
        _refuse(file, "X is not finite")
    for name, values in (("y", y), ("session", session)):
        if values.shape != (len(X),) or values.dtype.kind not in "iu":
            _refuse(
                file,
                f"{name} has shape {values.shape} and dtype {values.dtype}, "
                f"expected {len(X)} integers",
            )
    if hertz.ndim != 1 or hertz.dtype.kind not in "iuf":
        _refuse(file, f"stim_hz has shape {hertz.shape} and dtype {hertz.dtype}")
    if ((y < 0) | (y >= len(hertz))).any():
        _refuse(file, f"y has labels outside 0..{len(hertz) - 1}")


def _convert_physionet(subject: int, runs: Sequence[int]) -> dict[str, np.ndarray]:
    """Download a subject's runs through MNE; exact microvolts as int16."""
    try:
        import mne
        from mne.datasets import eegbci
    except ImportError:
        raise MissingExtraError("fetch_physionet_mi", "mne", "eeg") from None
    files = eegbci.load_data(subject, list(runs), update_path=False, verbose="error")
    arrays: dict[str, np.ndarray] = {"runs": np.array(runs)}
    for run, file in zip(runs, files, strict=True):
        raw = mne.io.read_raw_edf(file, preload=True, verbose="error")
        eegbci.standardize(raw)
        onset = np.round(raw.annotations.onset * raw.info["sfreq"]).astype(np.int32)
        length = np.round(raw.annotations.duration * raw.info["sfreq"])
        code = [int(text[1]) for text in raw.annotations.description]
        arrays[f"run{run:02d}_data"] = np.round(raw.get_data() * 1e6).astype(np.int16)
        arrays[f"run{run:02d}_events"] = np.stack([onset, length, code], 1).astype(
            np.int32
        )
        arrays["ch_names"] = np.array(raw.ch_names)
        arrays["sfreq"] = np.array(raw.info["sfreq"])
    arrays["unit"] = np.array("uV")
    return arrays


def _convert_mamem(subject: int) -> dict[str, np.ndarray]:
    """Download a subject through MOABB and cut one-second epochs of 8 channels."""
    try:
        from moabb.datasets import MAMEM2
    except ImportError:
        raise MissingExtraError("fetch_mamem", "moabb", "eeg") from None
    runs = next(iter(MAMEM2().get_data([subject])[subject].values()))
    sessions = [_cut_mamem_session(runs[name]) for name in sorted(runs)]
    labels = _mamem_labels([codes for _, codes in sessions])
    counts = [len(epochs) for epochs, _ in sessions]
    return {
        "X": np.concatenate([epochs for epochs, _ in sessions]),
        "y": np.concatenate(labels),
        "session": np.repeat(np.arange(1, len(sessions) + 1), counts),
        "sfreq": np.array(float(_MAMEM_RATE)),
        "stim_hz": np.array(MAMEM_HZ),
        "origin": np.array("converted by manifoldkit from the publisher's recordings"),
    }


def _cut_mamem_session(raw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return one-second epochs, seconds 1 to 5 of each window, and window codes."""
    import mne

    # the trigger channel: MOABB's annotations lie a second later than the windows
    events = mne.find_events(
        raw, stim_channel="stim", shortest_event=0, verbose="error"
    )
    rate, first = raw.info["sfreq"], raw.first_samp
    raw = raw.copy().pick(list(_MAMEM_ELECTRODES)).load_data()
    raw = raw.reorder_channels(list(_MAMEM_ELECTRODES))
    raw.filter(1, 50, verbose="error").resample(_MAMEM_RATE, verbose="error")
    signal = raw.get_data() * 1e6
    start = np.round((events[:, 0] - first) * _MAMEM_RATE / rate).astype(int)
    start += _MAMEM_RATE
    whole = start + 4 * _MAMEM_RATE <= signal.shape[1]
    samples = start[whole, None] + np.arange(4 * _MAMEM_RATE)
    windows = signal[:, samples].reshape(len(signal), -1, _MAMEM_RATE)
    return windows.transpose(1, 0, 2).astype(np.float32), events[whole, 2]


def _mamem_labels(sessions: list[np.ndarray]) -> list[np.ndarray]:
    """Turn trigger codes into labels by the documented order of the windows.

    The documentation counts the boxes from 12 Hz down, MOABB's event names from 6.66
    Hz up; as all sessions follow one order, that order decides which holds.
    """
    if all(_follows(codes, _MAMEM_ORDER) for codes in sessions):
        return [np.repeat(codes - 1, 4).astype(np.int64) for codes in sessions]
    if all(_follows(6 - codes, _MAMEM_ORDER) for codes in sessions):
        return [np.repeat(5 - codes, 4).astype(np.int64) for codes in sessions]
    raise ValueError(
        "the windows of MAMEM's sessions are not in the documented order of "
        "frequencies, so their labels cannot be told"
    )


def _follows(codes: np.ndarray, order: Sequence[int]) -> bool:
    """Whether codes appear in this order, some windows perhaps lost."""
    rest = iter(order)
    return len(codes) > 0 and all(int(code) in rest for code in codes)
