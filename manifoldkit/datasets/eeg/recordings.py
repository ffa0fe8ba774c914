"""Real EEG: PhysioNet motor imagery and MAMEM steady-state potentials."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfiltfilt

from manifoldkit.datasets.eeg.archives import (
    check_path,
    mamem_arrays,
    mamem_source,
    physionet_arrays,
    physionet_source,
)
from manifoldkit.datasets.eeg.epochs import MOTOR_CHANNELS, EEGEpochs, channel_index

_RUN_CLASSES = {
    **dict.fromkeys((3, 7, 11), ("executed", "left_fist", "right_fist")),
    **dict.fromkeys((4, 8, 12), ("imagined", "left_fist", "right_fist")),
    **dict.fromkeys((5, 9, 13), ("executed", "both_fists", "both_feet")),
    **dict.fromkeys((6, 10, 14), ("imagined", "both_fists", "both_feet")),
}


_PHYSIONET_CITATION = (
    "Schalk et al., IEEE Trans. Biomed. Eng. 51(6), 2004; "
    "Goldberger et al., Circulation 101(23), 2000"
)
_MAMEM_CITATION = "Oikonomou et al., arXiv 1602.00904, 2016"
_MAMEM_CHANNELS = ("PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2")


def _check_numbers(name: str, values, allowed) -> tuple[int, ...]:
    values = (values,) if np.ndim(values) == 0 else tuple(values)
    bad = [v for v in values if isinstance(v, bool) or v not in allowed]
    if bad or not values:
        raise ValueError(
            f"{name}: expected numbers out of {min(allowed)}..{max(allowed)}, "
            f"found {bad or values}"
        )
    if len(set(values)) < len(values):
        raise ValueError(f"{name}: expected each number once, found {values}")
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
        Also return the rest periods between trials, labeled "rest".
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
    check_path(path, subjects, physionet_source(1))
    parts, rates = [], {}
    for subject in subjects:
        arrays = physionet_arrays(subject, runs, path, download)
        sfreq = rates[subject] = float(arrays["sfreq"])
        if sfreq != rates[subjects[0]]:
            raise ValueError(
                "subjects: expected one sampling rate, found "
                f"{rates[subjects[0]]:g} Hz for {subjects[0]} and {sfreq:g} Hz for "
                f"{subject}; load them apart"
            )
        _check_window(fmin, fmax, tmin, tmax, sfreq)
        for run in runs:
            X, y = _cut_run(arrays, run, fmin, fmax, tmin, tmax, channels, include_rest)
            parts.append((subject, run, X, y))
    X = np.concatenate([p[2] for p in parts])
    y = np.concatenate([p[3] for p in parts])
    if return_X_y:
        return X, y
    counts = [len(p[3]) for p in parts]
    kinds = sorted({_RUN_CLASSES[run][0] for run in runs})
    return EEGEpochs(
        X=X,
        y=y,
        sfreq=sfreq,
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
    if not X:
        raise ValueError(f"tmax: no trial of run {run} lasts until {tmax:g} s")
    return np.stack(X), np.array(y)


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
    agrees with those archives in form, not sample by sample; ``provenance`` says which
    one was read. Labels follow the documented order of a session's windows, 1 = 12 Hz
    to 5 = 6.66 Hz, which every session of the prepared archives agrees with; the event
    names of MOABB 1.7 count the other way.

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
    check_path(path, subjects, mamem_source(1))
    parts = []
    origins = set()
    for subject in subjects:
        arrays = mamem_arrays(subject, path, download)
        origins.add(str(arrays.get("origin", "prepared elsewhere, see the data card")))
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
            "one-second epochs of eight occipital channels, "
            + " and ".join(sorted(origins))
        ),
        citation=_MAMEM_CITATION,
        license="Open Data Commons Attribution 1.0",
    )
