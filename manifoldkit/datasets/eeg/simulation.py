"""Simulated motor-imagery EEG with known truth."""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.random import Generator
from scipy.signal import butter, lfilter, sosfiltfilt

from manifoldkit._checks import (
    check_count,
    check_counts,
    check_interval,
    check_numbers,
    check_positive,
    check_selection,
)
from manifoldkit.datasets.archive import Arrays
from manifoldkit.datasets.eeg.epochs import MOTOR_CHANNELS, EEGEpochs

# places on the unit sphere: x to the right ear, y to the nose, z up
_ROW = {"FC": 0.42, "C": 0.0, "CP": -0.42}
_COLUMN = {"5": -0.8, "3": -0.55, "1": -0.27, "z": 0.0, "2": 0.27, "4": 0.55, "6": 0.8}
_SOURCES = {  # where the power drops, below the scalp
    "left_hand": (0.50, 0.0, 0.65),  # contralateral: right hemisphere
    "right_hand": (-0.50, 0.0, 0.65),
    "both_fists": (0.45, 0.05, 0.68),
    "both_feet": (0.0, -0.05, 0.85),
    "tongue": (0.68, 0.05, 0.40),
}
_N_BACKGROUND = 12
Rng = np.random.RandomState | Generator


@dataclass(frozen=True, eq=False)
class MotorImageryTruth:
    """What :func:`make_motor_imagery_eeg` built its epochs from.

    Attributes
    ----------
    mixing : ndarray, shape (n_channels, n_sources)
        Leadfield: columns are the scalp patterns of the sources.
    source_positions : ndarray, shape (n_sources, 3)
        In units of the head's radius; x to the right ear, y to the nose, z up.
    source_names : tuple of str
        The first ones are the classes' motor sources, then background sources.
    channel_positions : ndarray, shape (n_channels, 3)
        On the unit sphere.
    source_power : ndarray, shape (n_epochs, n_sources)
        Power of each source's rhythm in each epoch; a class lowers that of its own.
    desynchronization : float
        Factor on the power of a class's source during its imagery.
    """

    mixing: np.ndarray
    source_positions: np.ndarray
    source_names: tuple[str, ...]
    channel_positions: np.ndarray
    source_power: np.ndarray
    desynchronization: float


def _channel_layout(n_channels: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The motor channels nearest Cz first, then rings of unnamed places."""
    order = sorted(MOTOR_CHANNELS, key=lambda c: (abs(_COLUMN[c[-1]]), _ROW[c[:-1]]))
    if n_channels == len(MOTOR_CHANNELS):
        order = list(MOTOR_CHANNELS)
    # C3, Cz, C4 come first in small montages: they see the motor sources
    if n_channels < len(MOTOR_CHANNELS):
        first = ["C3", "Cz", "C4", "FC3", "FC4", "CP3", "CP4", "FCz", "CPz"]
        order = first + [c for c in order if c not in first]
    names = order[:n_channels]
    places = []
    for name in names:
        x, y = _COLUMN[name[-1]], _ROW[name[:-1]]
        places.append((x, y, np.sqrt(max(1 - x * x - y * y, 0.05))))
    extra = n_channels - len(names)
    for i in range(extra):  # a spiral over the rest of the upper half-sphere
        z, angle = 0.75 * (1 - (i + 0.5) / extra), 2.39996 * i
        flat = np.sqrt(1 - z * z)
        names.append(f"X{i + 1}")
        places.append((flat * np.cos(angle), flat * np.sin(angle), z))
    positions = np.array(places)
    return tuple(names), positions / np.linalg.norm(positions, axis=1, keepdims=True)


def _leadfield(channels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Potential of radial dipoles, smooth over the scalp, unit mean square."""
    gap = channels[:, None] - sources[None]
    distance = np.linalg.norm(gap, axis=-1)
    unit = sources / np.linalg.norm(sources, axis=-1, keepdims=True)
    pattern = (gap * unit).sum(-1) / distance**3
    return pattern / np.sqrt((pattern**2).mean(0))


def _source_positions(classes: tuple[str, ...], rng: Generator) -> np.ndarray:
    """Places of the classes' sources, then of the background's."""
    far = rng.standard_normal((_N_BACKGROUND, 3))
    far *= 0.7 / np.linalg.norm(far, axis=1, keepdims=True)
    far[:, 2] = np.abs(far[:, 2])
    return np.concatenate([[_SOURCES[c] for c in classes], far])


def _rhythm(
    rng: Generator, shape: tuple[int, ...], sfreq: float, hertz: float, width: float
) -> np.ndarray:
    """Second-order autoregressive oscillation of unit power, settled before it starts.

    x_t = 2 r cos(w) x_(t-1) - r^2 x_(t-2) + e_t with r = exp(-pi width / sfreq).
    """
    settle = int(4 * sfreq / width)
    noise = rng.standard_normal((*shape[:-1], shape[-1] + settle))
    r, w = np.exp(-np.pi * width / sfreq), 2 * np.pi * hertz / sfreq
    a1, a2 = 2 * r * np.cos(w), -r * r
    x = lfilter([1.0], [1.0, -a1, -a2], noise)[..., settle:]
    # the stationary variance of an autoregression of order two
    power = (1 - a2) / ((1 + a2) * ((1 - a2) ** 2 - a1**2))
    return x / np.sqrt(power)


def _pink(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise with power 1 / f and unit mean square, by shaping a spectrum."""
    spectrum = np.fft.rfft(rng.standard_normal(shape))
    f = np.arange(spectrum.shape[-1], dtype=float)
    f[0] = 1
    x = np.fft.irfft(spectrum / np.sqrt(f), shape[-1])
    return x / np.sqrt((x**2).mean((-1, -2), keepdims=True))


def _at_sensors(
    mixing: np.ndarray, power: np.ndarray, activity: np.ndarray
) -> np.ndarray:
    """Mix activities (n_epochs, n_sources, n_times) of unit power to the channels."""
    return np.einsum("ck,ekt->ect", mixing, np.sqrt(power[..., None]) * activity)


def _rhythms(
    rng: Generator, mixing: np.ndarray, power: np.ndarray, n_times: int, sfreq: float
) -> np.ndarray:
    """Mu rhythms of the motor sources, each with a weaker beta of twice its rate."""
    shape = (len(power), n_times)
    activity = [
        0.9 * _rhythm(rng, shape, sfreq, hertz, 2.0)
        + 0.43 * _rhythm(rng, shape, sfreq, 2 * hertz, 4.0)
        for hertz in rng.uniform(10, 12, power.shape[1:])
    ]
    return _at_sensors(mixing, power, np.stack(activity, axis=1))


def _background(
    rng: Generator, mixing: np.ndarray, power: np.ndarray, n_times: int
) -> np.ndarray:
    """Pink activity of the background's sources, and white noise of the sensors."""
    noise = _at_sensors(mixing, power, _pink(rng, (*power.shape, n_times)))
    white = rng.standard_normal(noise.shape)
    return noise + 0.3 * np.sqrt((noise**2).mean()) * white


class _Options(TypedDict, total=False):
    classes: tuple[str, ...]
    snr: float
    desynchronization: float
    variability: float
    n_sessions: int
    band: tuple[float, float] | None
    random_state: int | Rng | None


@overload
def make_motor_imagery_eeg(
    n_epochs: int = ...,
    n_channels: int = ...,
    n_times: int = ...,
    sfreq: float = ...,
    *,
    return_truth: Literal[False] = ...,
    return_X_y: Literal[False] = ...,
    **options: Unpack[_Options],
) -> EEGEpochs: ...
@overload
def make_motor_imagery_eeg(
    n_epochs: int = ...,
    n_channels: int = ...,
    n_times: int = ...,
    sfreq: float = ...,
    *,
    return_truth: Literal[False] = ...,
    return_X_y: Literal[True],
    **options: Unpack[_Options],
) -> Arrays: ...
@overload
def make_motor_imagery_eeg(
    n_epochs: int = ...,
    n_channels: int = ...,
    n_times: int = ...,
    sfreq: float = ...,
    *,
    return_truth: Literal[True],
    return_X_y: Literal[False] = ...,
    **options: Unpack[_Options],
) -> tuple[EEGEpochs, MotorImageryTruth]: ...
@overload
def make_motor_imagery_eeg(
    n_epochs: int = ...,
    n_channels: int = ...,
    n_times: int = ...,
    sfreq: float = ...,
    *,
    return_truth: Literal[True],
    return_X_y: Literal[True],
    **options: Unpack[_Options],
) -> tuple[np.ndarray, np.ndarray, MotorImageryTruth]: ...
def make_motor_imagery_eeg(
    n_epochs: int = 60,
    n_channels: int = 21,
    n_times: int = 480,
    sfreq: float = 160.0,
    *,
    classes: tuple[str, ...] = ("left_hand", "right_hand"),
    snr: float = 0.0,
    desynchronization: float = 0.4,
    variability: float = 0.5,
    n_sessions: int = 1,
    band: tuple[float, float] | None = (8.0, 30.0),
    random_state: int | Rng | None = None,
    return_truth: bool = False,
    return_X_y: bool = False,
) -> (
    EEGEpochs
    | Arrays
    | tuple[EEGEpochs, MotorImageryTruth]
    | tuple[np.ndarray, np.ndarray, MotorImageryTruth]
):
    r"""Simulate epochs of motor imagery by a forward model.

    .. math:: x(t) = A\,(\sqrt{p_k}\, s_k(t))_k + n(t)

    Each motor source :math:`s_k` is a mu rhythm (10-12 Hz) with a weaker beta rhythm,
    both narrow-band autoregressive processes of unit power. During imagery of a class
    the power of its source, contralateral for a hand, drops by ``desynchronization``
    (event-related desynchronization); apart from that it varies from epoch to epoch.
    The leadfield A is that of radial dipoles inside a unit sphere; the noise is pink
    background activity of sources all over the head plus white sensor noise. Sessions
    differ by a small change of the channels' gains (electrodes are placed anew).

    Parameters
    ----------
    n_epochs : int, default=60
        Number of epochs, as equal in number over classes as possible, shuffled.
    n_channels : int, default=21
        21 are the channels over the motor cortex that the loaders of real data use.
    n_times : int, default=480
        Samples an epoch.
    sfreq : float, default=160.0
        Samples a second.
    classes : tuple of str
        Two or more out of "left_hand", "right_hand", "both_fists", "both_feet",
        "tongue".
    snr : float, default=0.0
        Power of the motor rhythms against the noise in the pass band, mean over the
        sensors, in dB.
    desynchronization : float, default=0.4
        Factor in (0, 1] on the power of the active source; 1 leaves no effect, so
        classes cannot be told apart.
    variability : float, default=0.5
        Standard deviation of the log power of every source from epoch to epoch, which
        hides the desynchronization as real attention does.
    n_sessions : int, default=1
        Sessions that the epochs are spread over.
    band : (float, float) or None
        Zero-phase pass band in Hz, as the loaders apply it.
    random_state : int, RandomState, Generator or None
        Same integer, same epochs.
    return_truth : bool, default=False
        Also return the :class:`MotorImageryTruth`.
    return_X_y : bool, default=False
        Return arrays rather than :class:`EEGEpochs`.

    Returns
    -------
    EEGEpochs, or (X, y)
        In microvolts, named "simulated_motor_imagery". With ``return_truth`` a tuple
        whose last item is the truth.

    Raises
    ------
    ValueError, TypeError
        Counts that are no integers of at least 1, fewer epochs than classes, unknown
        classes, a band outside (0, sfreq / 2), desynchronization outside (0, 1], snr
        not finite.

    References
    ----------
    .. [1] Pfurtscheller and Lopes da Silva, "Event-related EEG/MEG synchronization and
           desynchronization", Clinical Neurophysiology 110, 1999.

    Examples
    --------
    >>> from manifoldkit.datasets import make_motor_imagery_eeg
    >>> epochs, truth = make_motor_imagery_eeg(
    ...     n_epochs=10, random_state=0, return_truth=True)
    >>> epochs.X.shape, truth.mixing.shape[0]
    ((10, 21, 480), 21)
    """
    check_positive(sfreq, "sfreq")
    check_counts(n_epochs=n_epochs, n_channels=n_channels, n_sessions=n_sessions)
    check_count(n_times, "n_times", 64)
    classes = _checked_classes(classes, n_epochs)
    check_interval(desynchronization, "desynchronization", 0, 1, "(]")
    check_interval(variability, "variability", 0)
    check_numbers(snr=snr)
    _check_band(band, sfreq)
    # the order of the draws is part of the contract: a seed gives the same epochs
    rng = as_generator(random_state)
    names, channels = _channel_layout(n_channels)
    sources = _source_positions(classes, rng)
    mixing = _leadfield(channels, sources)
    label = rng.permutation(np.arange(n_epochs) % len(classes))
    session = np.sort(np.arange(n_epochs) % n_sessions)
    power = np.exp(variability * rng.standard_normal((n_epochs, len(sources))))
    power[np.arange(n_epochs), label] *= desynchronization
    motor, rest = slice(len(classes)), slice(len(classes), None)
    signal = _rhythms(rng, mixing[:, motor], power[:, motor], n_times, sfreq)
    noise = _background(rng, mixing[:, rest], power[:, rest], n_times)
    if band is not None:
        sos = butter(4, band, "bandpass", fs=sfreq, output="sos")
        signal, noise = (sosfiltfilt(sos, x, axis=-1) for x in (signal, noise))
    gain = 1 + 0.1 * rng.standard_normal((n_sessions, n_channels, 1))
    noise *= np.sqrt((signal**2).mean() / (noise**2).mean() / 10 ** (snr / 10))
    X = gain[session] * (signal + noise)
    X *= 8.0 / X.std()  # microvolts, as band-passed EEG has
    y = np.array(classes)[label]
    truth = MotorImageryTruth(
        mixing=mixing,
        source_positions=sources,
        source_names=(*classes, *(f"background_{i}" for i in range(_N_BACKGROUND))),
        channel_positions=channels,
        source_power=power,
        desynchronization=desynchronization,
    )
    epochs = EEGEpochs(
        X=X,
        y=y,
        sfreq=float(sfreq),
        ch_names=names,
        subject=np.ones(n_epochs, dtype=int),
        session=session + 1,
        run=np.ones(n_epochs, dtype=int),
        name="simulated_motor_imagery",
        task=f"simulated imagery: {', '.join(classes)}",
        is_real=False,
        provenance=(
            f"simulation (forward model, {snr:g} dB, power of the active source x "
            f"{desynchronization:g}); not recorded from anyone"
        ),
        citation="none: simulated by manifoldkit",
        license="BSD-3-Clause",
    )
    if return_X_y:
        return (X, y, truth) if return_truth else (X, y)
    return (epochs, truth) if return_truth else epochs


def as_generator(random_state: int | Rng | None) -> Generator:
    """Return a generator that a seed, or a state of either kind, decides."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(0, 2**31, 4))
    return np.random.default_rng(random_state)


def _checked_classes(classes: tuple[str, ...], n_epochs: int) -> tuple[str, ...]:
    classes = check_selection(classes, _SOURCES, "classes", least=2)
    if n_epochs < len(classes):
        raise ValueError(
            f"n_epochs: expected one a class, {len(classes)}, or more, found {n_epochs}"
        )
    return classes


def _check_band(band: tuple[float, float] | None, sfreq: float) -> None:
    if band is not None:
        low, high = band
        check_interval(low, "band", 0, sfreq / 2, "()")
        check_interval(high, "band", low, sfreq / 2, "()")
