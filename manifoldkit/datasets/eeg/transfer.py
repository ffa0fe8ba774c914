"""Simulated subjects who see the same imagery through mixings of their own."""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from manifoldkit._checks import check_choice, check_counts, check_interval
from manifoldkit.datasets.eeg.epochs import EEGEpochs
from manifoldkit.datasets.eeg.simulation import (
    MotorImageryTruth,
    Rng,
    as_generator,
    make_motor_imagery_eeg,
)

MIXINGS = ("symmetric", "general")


@dataclass(frozen=True, eq=False)
class TransferTruth:
    """What :func:`make_transfer_eeg` built its epochs from.

    Attributes
    ----------
    mixings : ndarray, shape (n_subjects, n_channels, n_channels)
        The epochs of a subject are its mixing times the common ones.
    common : ndarray, shape (n_epochs, n_channels, n_times)
        All epochs before they were mixed, of mean covariance identity: what an ideal
        alignment finds.
    imagery : MotorImageryTruth
        Sources of the pool that the epochs were drawn from, in another order.
    """

    mixings: np.ndarray
    common: np.ndarray
    imagery: MotorImageryTruth


class _Options(TypedDict, total=False):
    class_shares: ArrayLike | None
    mixing: str
    strength: float
    classes: tuple[str, ...]
    snr: float
    desynchronization: float
    variability: float
    random_state: int | Rng | None


@overload
def make_transfer_eeg(
    n_subjects: int = ...,
    n_epochs: int = ...,
    n_channels: int = ...,
    n_times: int = ...,
    *,
    return_truth: Literal[False] = ...,
    **options: Unpack[_Options],
) -> EEGEpochs: ...
@overload
def make_transfer_eeg(
    n_subjects: int = ...,
    n_epochs: int = ...,
    n_channels: int = ...,
    n_times: int = ...,
    *,
    return_truth: Literal[True],
    **options: Unpack[_Options],
) -> tuple[EEGEpochs, TransferTruth]: ...
def make_transfer_eeg(
    n_subjects: int = 6,
    n_epochs: int = 60,
    n_channels: int = 6,
    n_times: int = 480,
    *,
    class_shares: ArrayLike | None = None,
    mixing: str = "symmetric",
    strength: float = 1.0,
    classes: tuple[str, ...] = ("left_hand", "right_hand"),
    snr: float = 0.0,
    desynchronization: float = 0.4,
    variability: float = 0.5,
    random_state: int | Rng | None = None,
    return_truth: bool = False,
) -> EEGEpochs | tuple[EEGEpochs, TransferTruth]:
    r"""Simulate subjects whose channels are mixed, each in another way.

    .. math:: x_s(t) = A_s\, C^{-1/2} x(t)

    x are epochs of one head, see :func:`make_motor_imagery_eeg`, C the mean of their
    covariances, and :math:`A_s` the mixing of subject s. A symmetric mixing,
    :math:`A_s = \exp(S_s)` with a random symmetric :math:`S_s`, is what recentering
    takes away without labels. A general one has a random orthogonal matrix behind it,
    :math:`A_s = \exp(S_s) Q_s`, which no mean shows: it takes labels to find.

    Parameters
    ----------
    n_subjects : int, default=6
        Number of subjects.
    n_epochs : int, default=60
        Epochs a subject.
    n_channels : int, default=6
        Channels.
    n_times : int, default=480
        Samples an epoch, 160 a second.
    class_shares : array-like of shape (n_classes,) or (n_subjects, n_classes)
        Shares of the classes, which sum to one; default equal. The numbers of epochs
        are the nearest that sum to ``n_epochs``.
    mixing : {"symmetric", "general"}, default="symmetric"
        Kind of the mixings.
    strength : float, default=1.0
        Standard deviation of the entries of :math:`S_s`; 0 mixes nothing.
    classes, snr, desynchronization, variability
        Options of :func:`make_motor_imagery_eeg`.
    random_state : int, RandomState, Generator or None
        Same integer, same epochs.
    return_truth : bool, default=False
        Also return the :class:`TransferTruth`.

    Returns
    -------
    EEGEpochs
        In microvolts, with ``subject`` from 1, named "simulated_transfer". With
        ``return_truth`` a tuple whose second item is the truth.

    Raises
    ------
    ValueError, TypeError
        Bad counts, shares that are negative or do not sum to one, unknown mixing.

    References
    ----------
    .. [1] Li, Kawanabe, Kobler, "SPDIM: source-free unsupervised conditional and label
           shift adaptation in EEG", ICLR 2025, arXiv 2411.07249 (the generative model).

    Examples
    --------
    >>> from manifoldkit.datasets import make_transfer_eeg
    >>> epochs = make_transfer_eeg(3, 10, class_shares=[0.8, 0.2], random_state=0)
    >>> epochs.X.shape, int((epochs.y[epochs.subject == 3] == "left_hand").sum())
    ((30, 6, 480), 8)
    """
    check_counts(n_subjects=n_subjects, n_epochs=n_epochs)
    check_choice(mixing, MIXINGS, "mixing")
    check_interval(strength, "strength", 0)
    numbers = _class_counts(class_shares, n_subjects, n_epochs, len(classes))
    rng = as_generator(random_state)
    pool, imagery = make_motor_imagery_eeg(
        n_epochs=len(classes) * int(numbers.sum(0).max()),
        n_channels=n_channels,
        n_times=n_times,
        classes=classes,
        snr=snr,
        desynchronization=desynchronization,
        variability=variability,
        random_state=rng,
        return_truth=True,
    )
    rows = _shared_out(rng, pool.y, classes, numbers)
    common = _whitened(pool.X)[rows]
    mixings = np.stack(
        [_mixing(rng, n_channels, mixing, strength) for _ in range(n_subjects)]
    )
    subject = np.repeat(np.arange(n_subjects), n_epochs)
    X = np.einsum("eck,ekt->ect", mixings[subject], common)
    X *= 8.0 / X.std()  # microvolts, as band-passed EEG has
    epochs = EEGEpochs(
        X=X,
        y=pool.y[rows],
        sfreq=pool.sfreq,
        ch_names=tuple(f"mixed {i + 1}" for i in range(n_channels)),
        subject=subject + 1,
        session=np.ones(len(X), dtype=int),
        run=np.ones(len(X), dtype=int),
        name="simulated_transfer",
        task=f"simulated imagery of {n_subjects} subjects: {', '.join(classes)}",
        is_real=False,
        provenance=(
            f"simulation ({n_subjects} subjects, {mixing} random mixings of strength "
            f"{strength:g}, {snr:g} dB, power of the active source x "
            f"{desynchronization:g}); not recorded from anyone"
        ),
        citation="none: simulated by manifoldkit",
        license="BSD-3-Clause",
    )
    truth = TransferTruth(mixings, common, imagery)
    return (epochs, truth) if return_truth else epochs


def _class_counts(
    shares: ArrayLike | None, n_subjects: int, n_epochs: int, n_classes: int
) -> np.ndarray:
    """Return the number of epochs of each class, shape (n_subjects, n_classes)."""
    if shares is None:
        shares = np.full(n_classes, 1 / n_classes)
    given = np.asarray(shares, dtype=float)
    if given.shape not in ((n_classes,), (n_subjects, n_classes)):
        raise ValueError(
            f"class_shares: expected shape ({n_classes},) or "
            f"({n_subjects}, {n_classes}), found {given.shape}"
        )
    if not (given >= 0).all() or not np.allclose(given.sum(-1), 1):
        raise ValueError(
            "class_shares: expected shares of at least 0 that sum to one, found "
            f"{given.tolist()}"
        )
    wanted = np.broadcast_to(given, (n_subjects, n_classes)) * n_epochs
    # the largest remainders are rounded up; twelve digits, for shares such as 0.1 + 0.2
    numbers = np.floor(wanted.round(12)).astype(int)
    order = np.argsort(numbers - wanted.round(12), axis=1, kind="stable")
    for row, places in enumerate(order):
        numbers[row, places[: n_epochs - numbers[row].sum()]] += 1
    return numbers


def _shared_out(
    rng: Generator, y: np.ndarray, classes: tuple[str, ...], numbers: np.ndarray
) -> np.ndarray:
    """Return rows of the pool, subject after subject, each used once."""
    stock = {name: list(np.flatnonzero(y == name)) for name in classes}
    rows = []
    for counts in numbers:
        own = [
            stock[name].pop()
            for name, n in zip(classes, counts, strict=True)
            for _ in range(n)
        ]
        rows.append(rng.permutation(own))
    return np.concatenate(rows)


def _whitened(X: np.ndarray) -> np.ndarray:
    covariance = np.einsum("ect,ekt->ck", X, X) / (len(X) * X.shape[-1])
    values, vectors = np.linalg.eigh(covariance)
    return np.einsum("ck,ekt->ect", (vectors / np.sqrt(values)) @ vectors.T, X)


def _mixing(rng: Generator, n: int, kind: str, strength: float) -> np.ndarray:
    """Return exp of a random symmetric matrix, times an orthogonal one if general."""
    square = strength * rng.standard_normal((n, n))
    values, vectors = np.linalg.eigh((square + square.T) / 2)
    symmetric = (vectors * np.exp(values)) @ vectors.T
    if kind == "symmetric":
        return symmetric
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return symmetric @ (q * np.sign(np.diag(r)))
