"""The archives of the EEG sets: made from the publisher's files, read and checked."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifoldkit.datasets.archive import (
    Source,
    check_array,
    data_folder,
    obtain,
    read_archive,
    refuse,
)
from manifoldkit.exceptions import MissingExtraError

#: Stimulus frequency in Hz of the labels 0..4 of MAMEM.
MAMEM_HZ = (12.0, 10.0, 8.57, 7.5, 6.66)
# The marked boxes of a session's 25 windows, 1 = 12 Hz ... 5 = 6.66 Hz; every session
# of every subject follows this order.
_MAMEM_ORDER = tuple(map(int, "4235125423154324125341313"))
# PO7 PO3 POz PO4 PO8 O1 Oz O2 on the 256-channel geodesic net
_MAMEM_ELECTRODES = ("E97", "E109", "E119", "E140", "E161", "E116", "E126", "E150")
_MAMEM_RATE = 125

# Size and SHA-256 of the archives that this project's figures were measured on:
# subject 1 of PhysioNet, subjects 1 to 8 of MAMEM.
_PHYSIONET_S001 = (
    14_769_479,
    "4bfdeca64f450b151255bbf4bb4086ecedb6414627882a588bf7772478a846c7",
)
_MAMEM_SIZES = (
    *(1_852_686, 1_873_828, 1_851_134, 1_850_288),
    *(1_852_142, 1_847_987, 1_852_450, 1_854_236),
)
_MAMEM_SHA256 = (
    "c7f2c5b3ab0344c8f97ba79330a76e8c4f549de3496aac406885803f92601316",
    "b2849d6e25a278bfba7365af9cf45a9401becb436bde3afd4b16d881edd3e4fb",
    "31d6990cc04379b64f9bf659af64c52a00937d584d5c3c227540552c36ca7d99",
    "27d5ece4cc2fe469b0dca00b756b12fc7286c0449cedaeba6c6ad51675b32283",
    "93e22bc6182699fb73d58c5b9878b967b1ad72b619b93be3f5da131b088a9d11",
    "816eaba5bf480bfeff14e2e82693392a78cf3293bd24760fff52b853b3f219c9",
    "acc4632a5f728055ade29ed6b4c446a42a61e3cac4e86c42510f45e5f269b83d",
    "0b714285cc1e3ac538e87e3eab7bcae557a40e47d27e04696d16f92bca8b192f",
)


def physionet_source(subject: int) -> Source:
    """Return what is known of a PhysioNet subject's archive."""
    return Source(
        f"eeg/physionet_mi_S{subject:03d}.npz",
        "https://physionet.org/content/eegmmidb/1.0.0/ (SHA-256 of its files in "
        "https://physionet.org/files/eegmmidb/1.0.0/SHA256SUMS.txt)",
        'pip install "manifoldkit[eeg]" and call fetch_physionet_mi with a network: '
        "MNE downloads the recordings (about 2.5 MB a run) and checks their SHA-256.",
        *(_PHYSIONET_S001 if subject == 1 else ()),
    )


def mamem_source(subject: int) -> Source:
    """Return what is known of a MAMEM subject's archive."""
    sums = dict(enumerate(zip(_MAMEM_SIZES, _MAMEM_SHA256, strict=True), start=1))
    return Source(
        f"eeg/mamem_ssvep_U{subject:03d}.npz",
        "https://figshare.com/articles/dataset/3153409",
        'pip install "manifoldkit[eeg]" and call fetch_mamem with a network: '
        "MOABB's MAMEM2 downloads the recordings (about 500 MB a subject).",
        *sums.get(subject, ()),
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
    source, every = physionet_source(subject), tuple(range(3, 15))
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
        folder = None if path is None else data_folder(path)
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


def _check_rate(arrays: dict[str, np.ndarray], file: Path) -> None:
    rate = arrays["sfreq"]
    check_array(file, "sfreq", rate, ())
    if not rate > 0:
        refuse(file, f"sfreq is {rate}, not a positive number")


def _check_physionet(
    arrays: dict[str, np.ndarray], file: Path, runs: Sequence[int]
) -> None:
    _check_rate(arrays, file)
    names = arrays["ch_names"]
    check_array(file, "ch_names", names, (None,), "U")
    for run in runs:
        key = f"run{run:02d}"
        if f"{key}_events" not in arrays:
            refuse(file, f"it has no {key}_events")
        data, events = arrays[f"{key}_data"], arrays[f"{key}_events"]
        check_array(file, f"{key}_data", data, (len(names), None))
        check_array(file, f"{key}_events", events, (None, 3), "iu")
        onset, length, code = events.T
        inside = (onset >= 0) & (onset < data.shape[1])
        if not (inside & (length > 0) & np.isin(code, (0, 1, 2))).all():
            refuse(
                file,
                f"{key}_events has onsets outside the {data.shape[1]} samples, "
                "durations of 0 or codes other than 0, 1, 2",
            )


def _check_mamem(arrays: dict[str, np.ndarray], file: Path) -> None:
    _check_rate(arrays, file)
    X, y, hertz = arrays["X"], arrays["y"], arrays["stim_hz"]
    check_array(file, "X", X, (None, len(_MAMEM_ELECTRODES), None))
    for name in ("y", "session"):
        check_array(file, name, arrays[name], (len(X),), "iu")
    check_array(file, "stim_hz", hertz, (None,))
    if ((y < 0) | (y >= len(hertz))).any():
        refuse(file, f"y has labels outside 0..{len(hertz) - 1}")


def _convert_physionet(subject: int, runs: Sequence[int]) -> dict[str, np.ndarray]:
    """Download a subject's runs through MNE; exact microvolts as int16."""
    try:
        import mne
        from mne.datasets import eegbci
    except ImportError:
        raise MissingExtraError("fetch_physionet_mi", "mne", "eeg") from None
    from tqdm import tqdm

    arrays: dict[str, np.ndarray] = {"runs": np.array(runs)}
    # run by run: an interrupted download goes on where it was (MNE keeps the files
    # whose SHA-256 is right)
    shown = tqdm(runs, f"PhysioNet subject {subject}", unit="run", disable=None)
    for run in shown:
        options = {"update_path": False, "verbose": "error"}
        (file,) = eegbci.load_data(subject, [run], **options)
        raw = mne.io.read_raw_edf(file, preload=True, verbose="error")
        eegbci.standardize(raw)
        onset = np.round(raw.annotations.onset * raw.info["sfreq"]).astype(np.int32)
        length = np.round(raw.annotations.duration * raw.info["sfreq"])
        code = [int(text[1]) for text in raw.annotations.description]
        arrays[f"run{run:02d}_data"] = np.round(raw.get_data() * 1e6).astype(np.int16)
        events = np.stack([onset, length, code], 1)
        arrays[f"run{run:02d}_events"] = events.astype(np.int32)
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
    for boxes in (sessions, [6 - codes for codes in sessions]):
        if all(_follows(codes, _MAMEM_ORDER) for codes in boxes):
            return [np.repeat(codes - 1, 4).astype(np.int64) for codes in boxes]
    raise ValueError(
        "the windows of MAMEM's sessions are not in the documented order of "
        "frequencies, so their labels cannot be told"
    )


def _follows(codes: np.ndarray, order: Sequence[int]) -> bool:
    """Whether codes appear in this order, some windows perhaps lost."""
    rest = iter(order)
    return len(codes) > 0 and all(int(code) in rest for code in codes)
