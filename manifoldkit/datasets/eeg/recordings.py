"""Real EEG: PhysioNet motor imagery and MAMEM steady-state potentials."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, Unpack, overload

import numpy as np
from scipy.signal import butter, sosfiltfilt

from manifoldkit._checks import check_choice, check_interval, check_selection
from manifoldkit.datasets.archive import Arrays
from manifoldkit.datasets.eeg.archives import (
    check_path,
    mamem_arrays,
    mamem_source,
    physionet_arrays,
    physionet_source,
)
from manifoldkit.datasets.eeg.epochs import MOTOR_CHANNELS, EEGEpochs, channel_index

Numbers = int | Sequence[int]

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


class _Cut(NamedTuple):
    """How trials are cut out of a run; the options of :func:`fetch_physionet_mi`."""

    fmin: float
    fmax: float
    tmin: float
    tmax: float
    channels: str | Sequence[str] | None
    include_rest: bool

    def check(self, sfreq: float) -> None:
        check_interval(self.fmin, "fmin", 0, sfreq / 2, "()")
        check_interval(self.fmax, "fmax", self.fmin, sfreq / 2, "()")
        check_interval(self.tmin, "tmin", 0)
        check_interval(self.tmax, "tmax", self.tmin, ends="()")

    def names(self, available: tuple[str, ...]) -> tuple[str, ...]:
        if self.channels is None:
            return available
        if isinstance(self.channels, str):
            check_choice(self.channels, ("motor",), "channels")
            return MOTOR_CHANNELS
        return tuple(self.channels)


class _CutOptions(TypedDict, total=False):
    fmin: float
    fmax: float
    tmin: float
    tmax: float
    channels: str | Sequence[str] | None
    include_rest: bool
    path: str | Path | None
    download: bool


def _selected(name: str, values: Numbers, options: range) -> tuple[int, ...]:
    """Return some of the options; a single one may stand alone."""
    return check_selection([values] if np.ndim(values) == 0 else values, options, name)


@overload
def fetch_physionet_mi(
    subjects: Numbers = ...,
    runs: Numbers = ...,
    *,
    return_X_y: Literal[False] = ...,
    **options: Unpack[_CutOptions],
) -> EEGEpochs: ...
@overload
def fetch_physionet_mi(
    subjects: Numbers = ...,
    runs: Numbers = ...,
    *,
    return_X_y: Literal[True],
    **options: Unpack[_CutOptions],
) -> Arrays: ...
def fetch_physionet_mi(
    subjects: Numbers = (1,),
    runs: Numbers = (6, 10),
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
) -> EEGEpochs | Arrays:
    """Load epochs of the PhysioNet EEG Motor Movement/Imagery data set.

    109 subjects, 64 channels, 160 Hz. Each run is band-passed as a whole (zero-phase
    Butterworth, order 4) and then cut from ``tmin`` to ``tmax`` after each cue.

    Parameters
    ----------
    subjects : int or sequence of int
        Subjects, out of 1..109.
    runs : int or sequence of int
        Runs, out of 3..14: 3, 7, 11 executed and 4, 8, 12 imagined left or right fist;
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
    subjects = _selected("subjects", subjects, range(1, 110))
    runs = _selected("runs", runs, range(3, 15))
    cut = _Cut(fmin, fmax, tmin, tmax, channels, include_rest)
    cut.check(160.0)
    check_path(path, subjects, physionet_source(1))
    parts: list[Arrays] = []
    rates: dict[int, float] = {}
    for subject in subjects:
        arrays = physionet_arrays(subject, runs, path, download)
        rates[subject] = float(arrays["sfreq"])
        if len(set(rates.values())) > 1:
            raise ValueError(
                f"subjects: expected one sampling rate, found {rates} (Hz by subject); "
                "load them apart"
            )
        cut.check(rates[subject])
        parts += [_cut_run(arrays, run, cut) for run in runs]
    X, y = (np.concatenate(part) for part in zip(*parts, strict=True))
    origins = [(subject, run) for subject in subjects for run in runs]
    subject_of, run_of = np.repeat(
        origins, [len(labels) for _, labels in parts], 0
    ).T.copy()
    kinds = sorted({_RUN_CLASSES[run][0] for run in runs})
    epochs = EEGEpochs(
        X=X,
        y=y,
        sfreq=rates[subjects[0]],
        ch_names=cut.names(_channel_names(arrays)),
        subject=subject_of,
        session=np.ones(len(y), dtype=int),
        run=run_of,
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
    return (epochs.X, epochs.y) if return_X_y else epochs


def _plural(word: str, numbers: Sequence[int]) -> str:
    return f"{word}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _channel_names(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    return tuple(str(name) for name in arrays["ch_names"])


def _cut_run(arrays: dict[str, np.ndarray], run: int, cut: _Cut) -> Arrays:
    """Filter one run and cut its trials."""
    sfreq, names = float(arrays["sfreq"]), _channel_names(arrays)
    columns = channel_index(names, cut.names(names))
    sos = butter(4, (cut.fmin, cut.fmax), "bandpass", fs=sfreq, output="sos")
    signal = arrays[f"run{run:02d}_data"][columns].astype(np.float64)
    signal = sosfiltfilt(sos, signal, axis=-1)
    first, last = round(cut.tmin * sfreq), round(cut.tmax * sfreq)
    labels = ("rest", *_RUN_CLASSES[run][1:])
    X, y = [], []
    for onset, length, code in arrays[f"run{run:02d}_events"]:
        if code == 0 and not cut.include_rest:
            continue
        if last > length:
            raise ValueError(
                f"tmax: {cut.tmax:g} s is beyond a trial of run {run}, "
                f"which lasts {length / sfreq:.2f} s"
            )
        if onset + last <= signal.shape[-1]:
            X.append(signal[:, onset + first : onset + last])
            y.append(labels[code])
    if not X:
        raise ValueError(f"tmax: no trial of run {run} lasts until {cut.tmax:g} s")
    return np.stack(X), np.array(y)


@overload
def fetch_mamem(
    subjects: Numbers = ...,
    sessions: Numbers | None = ...,
    *,
    path: str | Path | None = ...,
    download: bool = ...,
    return_X_y: Literal[False] = ...,
) -> EEGEpochs: ...
@overload
def fetch_mamem(
    subjects: Numbers = ...,
    sessions: Numbers | None = ...,
    *,
    path: str | Path | None = ...,
    download: bool = ...,
    return_X_y: Literal[True],
) -> Arrays: ...
def fetch_mamem(
    subjects: Numbers = (1,),
    sessions: Numbers | None = None,
    *,
    path: str | Path | None = None,
    download: bool = True,
    return_X_y: bool = False,
) -> EEGEpochs | Arrays:
    """Load one-second epochs of the MAMEM SSVEP data set II.

    11 subjects look at boxes that flicker at 12, 10, 8.57, 7.5 or 6.66 Hz; eight
    occipital channels at 125 Hz, five sessions of about 100 epochs. Four consecutive
    epochs come from one five-second window and share its label: **split by session,
    never at random**.

    Parameters
    ----------
    subjects : int or sequence of int
        Subjects, out of 1..11.
    sessions : int or sequence of int, optional
        Sessions, out of 1..5; all by default.
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
    subjects = _selected("subjects", subjects, range(1, 12))
    every = range(1, 6)
    sessions = _selected("sessions", every if sessions is None else sessions, every)
    check_path(path, subjects, mamem_source(1))
    parts, origins = [], set()
    for subject in subjects:
        arrays = mamem_arrays(subject, path, download)
        origins.add(str(arrays.get("origin", "prepared elsewhere, see the data card")))
        keep = np.isin(arrays["session"], sessions)
        hz = np.array([f"{value:g}" for value in arrays["stim_hz"]])
        y = hz[arrays["y"][keep]]
        own = np.full(len(y), subject)
        parts.append((arrays["X"][keep], y, arrays["session"][keep], own))
    X, y, session, subject_of = (np.concatenate(p) for p in zip(*parts, strict=True))
    epochs = EEGEpochs(
        X=X.astype(np.float64),
        y=y,
        sfreq=float(arrays["sfreq"]),
        ch_names=_MAMEM_CHANNELS,
        subject=subject_of,
        session=session,
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
    return (epochs.X, epochs.y) if return_X_y else epochs
