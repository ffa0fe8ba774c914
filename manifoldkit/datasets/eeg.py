"""Real EEG: PhysioNet motor imagery and MAMEM steady-state potentials."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfiltfilt

from manifoldkit.datasets.archive import Source, find_archive, obtain, read_archive
from manifoldkit.datasets.epochs import EEGEpochs, channel_index
from manifoldkit.exceptions import MissingExtraError

#: The 21 channels over the motor cortex that ``channels="motor"`` means.
MOTOR_CHANNELS = (
    *("FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6"),
    *("C5", "C3", "C1", "Cz", "C2", "C4", "C6"),
    *("CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6"),
)

_RUN_CLASSES = {
    **dict.fromkeys((3, 7, 11), ("executed", "left_fist", "right_fist")),
    **dict.fromkeys((4, 8, 12), ("imagined", "left_fist", "right_fist")),
    **dict.fromkeys((5, 9, 13), ("executed", "both_fists", "both_feet")),
    **dict.fromkeys((6, 10, 14), ("imagined", "both_fists", "both_feet")),
}

#: Tasks of :func:`load_eeg_demo` and the runs that hold them.
DEMO_TASKS = {
    "imagined_fists_feet": (6, 10),
    "imagined_left_right": (4, 8),
    "executed_left_right": (3, 7, 11),
}

_PHYSIONET_CITATION = (
    "Schalk et al., IEEE Trans. Biomed. Eng. 51(6), 2004; "
    "Goldberger et al., Circulation 101(23), 2000"
)
_MAMEM_CITATION = "Oikonomou et al., arXiv 1602.00904, 2016"
_MAMEM_HZ = {0: 12.0, 1: 10.0, 2: 8.57, 3: 7.5, 4: 6.66}
# PO7 PO3 POz PO4 PO8 O1 Oz O2 on the 256-channel geodesic net
_MAMEM_CHANNELS = ("PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2")
_MAMEM_ELECTRODES = ("E97", "E109", "E119", "E140", "E161", "E116", "E126", "E150")


def _physionet_source(subject: int) -> Source:
    known = (
        (14_769_479, "4bfdeca64f450b151255bbf4bb4086ecedb6414627882a588bf7772478a846c7")
        if subject == 1
        else (None, None)
    )
    return Source(
        f"eeg/physionet_mi_S{subject:03d}.npz",
        "https://physionet.org/content/eegmmidb/1.0.0/",
        'pip install "manifoldkit[eeg]" and call fetch_physionet_mi with a network: '
        "MNE downloads the recordings (about 2.5 MB a run) and checks their SHA-256.",
        *known,
    )


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


def _check_numbers(name: str, values, allowed) -> tuple[int, ...]:
    values = (values,) if np.ndim(values) == 0 else tuple(values)
    bad = [v for v in values if isinstance(v, bool) or v not in allowed]
    if bad or not values:
        raise ValueError(
            f"{name}: expected numbers out of {min(allowed)}..{max(allowed)}, "
            f"found {bad or values}"
        )
    return tuple(int(v) for v in values)


def _check_window(fmin, fmax, tmin, tmax, sfreq: float) -> None:
    if not 0 < fmin < fmax < sfreq / 2:
        raise ValueError(
            f"fmin, fmax: expected 0 < fmin < fmax < {sfreq / 2:g} Hz, "
            f"found {fmin} and {fmax}"
        )
    if not 0 <= tmin < tmax:
        raise ValueError(
            f"tmin, tmax: expected 0 <= tmin < tmax, found {tmin} and {tmax}"
        )


def fetch_physionet_mi(
    subjects: int | Sequence[int] = (1,),
    runs: int | Sequence[int] = (6, 10),
    *,
    fmin: float = 8.0,
    fmax: float = 30.0,
    tmin: float = 0.5,
    tmax: float = 3.5,
    channels: str | Sequence[str] | None = "motor",
    include_rest: bool = False,
    path: str | Path | None = None,
    download: bool = True,
    return_X_y: bool = False,
):
    """Load epochs of the PhysioNet EEG Motor Movement/Imagery data set.

    109 subjects, 64 channels, 160 Hz. Each run is band-passed as a whole (zero-phase
    Butterworth, order 4) and then cut from ``tmin`` to ``tmax`` after each cue.

    Parameters
    ----------
    subjects : int or sequence of int
        Out of 1..109.
    runs : int or sequence of int
        Out of 3..14: 3, 7, 11 executed and 4, 8, 12 imagined left or right fist;
        5, 9, 13 executed and 6, 10, 14 imagined both fists or both feet. Mixing
        executed and imagined runs merges their labels; ``run`` tells them apart.
    fmin, fmax : float
        Pass band in Hz.
    tmin, tmax : float
        Window in seconds after the cue.
    channels : "motor", sequence of str, or None
        21 channels over the motor cortex, a choice by name, or all 64.
    include_rest : bool, default=False
        Also return the rest periods between trials, labelled "rest".
    path : str or Path, optional
        Archive file or data folder; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Download what is not there, through MNE (extra ``eeg``).
    return_X_y : bool, default=False
        Return ``(X, y)`` only.

    Returns
    -------
    EEGEpochs

    Raises
    ------
    DatasetNotFoundError
        Not there and not to be downloaded.
    MissingExtraError
        A download is needed and MNE is not installed.
    ValueError
        Unknown subject, run or channel, or an impossible band or window.

    References
    ----------
    .. [1] Schalk et al., "BCI2000", IEEE Trans. Biomed. Eng. 51(6), 2004.
    .. [2] Goldberger et al., "PhysioBank, PhysioToolkit, and PhysioNet",
           Circulation 101(23), 2000.

    Examples
    --------
    >>> from manifoldkit.datasets import fetch_physionet_mi
    >>> epochs = fetch_physionet_mi([1], [4, 8])  # doctest: +SKIP
    >>> epochs.classes  # doctest: +SKIP
    ('left_fist', 'right_fist')
    """
    subjects = _check_numbers("subjects", subjects, range(1, 110))
    runs = _check_numbers("runs", runs, range(3, 15))
    _check_window(fmin, fmax, tmin, tmax, 160.0)
    parts = []
    for subject in subjects:
        arrays = _physionet_arrays(subject, runs, path, download)
        for run in runs:
            parts.append(
                (
                    subject,
                    run,
                    *_cut_run(
                        arrays, run, fmin, fmax, tmin, tmax, channels, include_rest
                    ),
                )
            )
    X = np.concatenate([p[2] for p in parts])
    y = np.concatenate([p[3] for p in parts])
    if return_X_y:
        return X, y
    counts = [len(p[3]) for p in parts]
    kinds = sorted({_RUN_CLASSES[run][0] for run in runs})
    return EEGEpochs(
        X=X,
        y=y,
        sfreq=float(arrays["sfreq"]),
        ch_names=_channel_names(arrays, channels),
        subject=np.repeat([p[0] for p in parts], counts),
        session=np.ones(len(y), dtype=int),
        run=np.repeat([p[1] for p in parts], counts),
        name="physionet_mi",
        task=f"{' and '.join(kinds)} movement, runs {', '.join(map(str, runs))}",
        is_real=True,
        provenance=(
            "PhysioNet EEG Motor Movement/Imagery 1.0.0, "
            f"{_plural('subject', subjects)}, {_plural('run', runs)}, "
            f"{fmin:g}-{fmax:g} Hz, {tmin:g}-{tmax:g} s after the cue"
        ),
        citation=_PHYSIONET_CITATION,
        license="Open Data Commons Attribution 1.0",
    )


def _plural(word: str, numbers: Sequence[int]) -> str:
    return f"{word}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _physionet_arrays(subject, runs, path, download) -> dict[str, np.ndarray]:
    """The arrays of a subject's archive; runs that it lacks are downloaded."""
    source = _physionet_source(subject)
    all_runs = tuple(range(3, 15))
    file = obtain(source, lambda: _convert_physionet(subject, all_runs), path, download)
    arrays = read_archive(file, ("ch_names", "sfreq", "runs"))
    absent = [run for run in runs if f"run{run:02d}_data" not in arrays]
    if absent:
        held = ", ".join(str(r) for r in arrays["runs"])
        if not download:
            raise ValueError(f"runs: {absent} not in {file}, which holds runs {held}")
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
    return arrays


def _channel_names(arrays, channels) -> tuple[str, ...]:
    available = tuple(str(name) for name in arrays["ch_names"])
    if channels is None:
        return available
    if isinstance(channels, str):
        if channels != "motor":
            raise ValueError(
                f'channels: expected "motor", names or None, found {channels!r}'
            )
        return MOTOR_CHANNELS
    return tuple(channels)


def _cut_run(arrays, run, fmin, fmax, tmin, tmax, channels, include_rest):
    """Filter one run and cut its trials."""
    sfreq = float(arrays["sfreq"])
    names = tuple(str(name) for name in arrays["ch_names"])
    columns = channel_index(names, _channel_names(arrays, channels))
    sos = butter(4, (fmin, fmax), "bandpass", fs=sfreq, output="sos")
    signal = arrays[f"run{run:02d}_data"][columns].astype(np.float64)
    signal = sosfiltfilt(sos, signal, axis=-1)
    first, last = round(tmin * sfreq), round(tmax * sfreq)
    labels = ("rest", *_RUN_CLASSES[run][1:])
    X, y = [], []
    for onset, length, code in arrays[f"run{run:02d}_events"]:
        if code == 0 and not include_rest:
            continue
        if onset + last > signal.shape[-1] or last > length:
            if last > length:
                raise ValueError(
                    f"tmax: {tmax:g} s is beyond a trial of run {run}, "
                    f"which lasts {length / sfreq:.2f} s"
                )
            continue
        X.append(signal[:, onset + first : onset + last])
        y.append(labels[code])
    return np.stack(X), np.array(y)


def _mamem_source(subject: int) -> Source:
    return Source(
        f"eeg/mamem_ssvep_U{subject:03d}.npz",
        "https://figshare.com/articles/dataset/3153409",
        'pip install "manifoldkit[eeg]" and call fetch_mamem with a network: '
        "MOABB's MAMEM2 downloads the recordings (about 500 MB a subject).",
    )


def _convert_mamem(subject: int) -> dict[str, np.ndarray]:
    """Download a subject through MOABB and cut one-second epochs of 8 channels."""
    try:
        import mne
        from moabb.datasets import MAMEM2
    except ImportError:
        raise MissingExtraError("fetch_mamem", "moabb", "eeg") from None
    runs = next(iter(MAMEM2().get_data([subject])[subject].values()))
    X, y, session = [], [], []
    frequencies = {f"{hz:.2f}": label for label, hz in _MAMEM_HZ.items()}
    for number, name in enumerate(sorted(runs), 1):
        raw = runs[name].copy().load_data()
        events, codes = mne.events_from_annotations(raw, verbose="error")
        if not len(events):
            events = mne.find_events(raw, verbose="error")
            codes = MAMEM2().event_id
        label_of = {v: frequencies[f"{float(k):.2f}"] for k, v in codes.items()}
        raw.pick(list(_MAMEM_ELECTRODES)).filter(1, 50, verbose="error")
        scale = raw.info["sfreq"] / 125.0
        raw.resample(125.0, verbose="error")
        signal = raw.get_data() * 1e6
        for onset, _, code in events:
            start = round((onset - runs[name].first_samp) / scale) + 125
            for second in range(4):
                piece = signal[:, start + 125 * second : start + 125 * (second + 1)]
                if piece.shape[1] == 125:
                    X.append(piece.astype(np.float32))
                    y.append(label_of[code])
                    session.append(number)
    return {
        "X": np.stack(X),
        "y": np.array(y, dtype=np.int64),
        "session": np.array(session, dtype=np.int64),
        "sfreq": np.array(125.0),
        "stim_hz": np.array([_MAMEM_HZ[k] for k in range(5)]),
    }


def fetch_mamem(
    subjects: int | Sequence[int] = (1,),
    sessions: int | Sequence[int] | None = None,
    *,
    path: str | Path | None = None,
    download: bool = True,
    return_X_y: bool = False,
):
    """Load one-second epochs of the MAMEM SSVEP data set II.

    11 subjects look at boxes that flicker at 12, 10, 8.57, 7.5 or 6.66 Hz; eight
    occipital channels at 125 Hz, five sessions of about 100 epochs. Four consecutive
    epochs come from one five-second window and share its label: **split by session,
    never at random**.

    Parameters
    ----------
    subjects : int or sequence of int
        Out of 1..11.
    sessions : int or sequence of int, optional
        Out of 1..5; all by default.
    path : str or Path, optional
        Archive file or data folder; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Download what is not there, through MOABB (extra ``eeg``).
    return_X_y : bool, default=False
        Return ``(X, y)`` only.

    Returns
    -------
    EEGEpochs
        ``y`` holds the stimulus frequency as text, such as "8.57".

    Raises
    ------
    DatasetNotFoundError, MissingExtraError, ValueError
        As :func:`fetch_physionet_mi`.

    Notes
    -----
    The archives that papers on SPD networks use were prepared by the authors of MAtt
    (NeurIPS 2022). A download is converted here (1-50 Hz, 125 Hz, seconds 1 to 5 of
    each window, occipital electrodes by their usual place on the 256-channel net) and
    agrees with those archives in form, not sample by sample; say which one a result
    used.

    References
    ----------
    .. [1] Oikonomou et al., "Comparative evaluation of state-of-the-art algorithms for
           SSVEP-based BCIs", arXiv 1602.00904, 2016.

    Examples
    --------
    >>> from manifoldkit.datasets import fetch_mamem
    >>> fetch_mamem(subjects=1, sessions=[1, 2, 3]).X.shape  # doctest: +SKIP
    (300, 8, 125)
    """
    subjects = _check_numbers("subjects", subjects, range(1, 12))
    chosen = range(1, 6) if sessions is None else sessions
    chosen = _check_numbers("sessions", chosen, range(1, 6))
    parts = []
    for subject in subjects:
        source = _mamem_source(subject)
        file = obtain(source, partial(_convert_mamem, subject), path, download)
        arrays = read_archive(file, ("X", "y", "session", "stim_hz", "sfreq"))
        keep = np.isin(arrays["session"], chosen)
        hz = np.array([f"{value:g}" for value in arrays["stim_hz"]])
        parts.append(
            (arrays["X"][keep], hz[arrays["y"][keep]], arrays["session"][keep])
        )
    X = np.concatenate([p[0] for p in parts]).astype(np.float64)
    y = np.concatenate([p[1] for p in parts])
    if return_X_y:
        return X, y
    return EEGEpochs(
        X=X,
        y=y,
        sfreq=float(arrays["sfreq"]),
        ch_names=_MAMEM_CHANNELS,
        subject=np.repeat(subjects, [len(p[1]) for p in parts]),
        session=np.concatenate([p[2] for p in parts]),
        run=np.ones(len(y), dtype=int),
        name="mamem_ssvep",
        task="steady-state visual potentials at five frequencies",
        is_real=True,
        provenance=(
            f"MAMEM SSVEP data set II, {_plural('subject', subjects)}, "
            "one-second epochs of eight occipital channels"
        ),
        citation=_MAMEM_CITATION,
        license="Open Data Commons Attribution 1.0",
    )


def load_eeg_demo(
    task: str = "imagined_fists_feet",
    *,
    path: str | Path | None = None,
    return_X_y: bool = False,
    random_state: int | None = 0,
):
    """Load epochs for a demonstration, without ever using the network.

    Subject 1 of :func:`fetch_physionet_mi` where its archive is on this machine, else
    :func:`make_motor_imagery_eeg`; ``is_real`` and ``provenance`` tell which.

    Parameters
    ----------
    task : {"imagined_fists_feet", "imagined_left_right", "executed_left_right"}
        Two classes each; 30, 30 and 45 trials.
    path : str or Path, optional
        Archive file or data folder; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    return_X_y : bool, default=False
        Return ``(X, y)`` only.
    random_state : int or None, default=0
        Of the simulation.

    Returns
    -------
    EEGEpochs

    Raises
    ------
    ValueError
        Unknown task.

    Examples
    --------
    >>> from manifoldkit.datasets import load_eeg_demo
    >>> load_eeg_demo().X.ndim
    3
    """
    if task not in DEMO_TASKS:
        raise ValueError(f"task: expected one of {tuple(DEMO_TASKS)}, found {task!r}")
    if find_archive(_physionet_source(1).relative, path) is not None:
        runs = DEMO_TASKS[task]
        epochs = fetch_physionet_mi((1,), runs, path=path, download=False)
    else:
        from manifoldkit.datasets.simulation import make_motor_imagery_eeg

        classes = {
            "imagined_fists_feet": ("both_fists", "both_feet"),
            "imagined_left_right": ("left_hand", "right_hand"),
            "executed_left_right": ("left_hand", "right_hand"),
        }[task]
        epochs = make_motor_imagery_eeg(
            n_epochs=45 if task == "executed_left_right" else 30,
            classes=classes,
            snr=0.0 if task == "executed_left_right" else -5.0,
            random_state=random_state,
        )
    return (epochs.X, epochs.y) if return_X_y else epochs
