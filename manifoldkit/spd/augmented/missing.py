r"""Covariances of epochs in which channels are missing, filled in from the others.

With the reference covariance R of the training epochs, split into observed (o) and
missing (m) channels, the covariance C of an epoch is completed by what R expects given
the channels that are there,

.. math:: C_{mo} = K C_{oo}, \qquad C_{mm} = K C_{oo} K^\top + R_{mm} - K R_{om},
          \qquad K = R_{mo} R_{oo}^{-1},

the step of the EM algorithm for Gaussian data with missing values. The result is
positive definite where R and the observed part are, and scales as they do.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manifoldkit.spd.validation import is_ragged

# epochs that the reference is the mean of
_N_REFERENCE = 64
_EM_STEPS = 50
_EM_TOLERANCE = 1e-8


class Group(NamedTuple):
    """Epochs of one duration in which the same channels are observed.

    Attributes
    ----------
    rows : ndarray of int, shape (k,)
        Their indices.
    channels : ndarray of int
        The observed channels.
    X : ndarray, shape (k, n_observed, n_times)
        Their signals.
    """

    rows: np.ndarray
    channels: np.ndarray
    X: np.ndarray


def group_epochs(X: np.ndarray, rows: np.ndarray | None = None) -> list[Group]:
    """Group checked epochs by duration and observed channels, in order of appearance.

    Parameters
    ----------
    X : ndarray, shape (n_epochs, n_channels, n_times) or (n_epochs,) of arrays
        Epochs; a channel that holds a NaN is missing.
    rows : ndarray of int, optional
        Take these epochs only.
    """
    observed = observed_channels(X)
    if rows is None:
        rows = np.arange(len(X))
        if observed.all() and not is_ragged(X):
            return [Group(rows, np.arange(X.shape[1]), X)]
    found: dict[tuple[int, bytes], list[int]] = {}
    for i in rows:
        found.setdefault((X[i].shape[-1], observed[i].tobytes()), []).append(int(i))
    groups = []
    for members in found.values():
        channels = np.flatnonzero(observed[members[0]])
        signals = np.stack([X[i][channels] for i in members])
        groups.append(Group(np.array(members), channels, signals))
    return groups


def observed_channels(X: np.ndarray) -> np.ndarray:
    """Tell which channels of which epochs are there, bool (n_epochs, n_channels)."""
    if is_ragged(X):
        return np.array([np.isfinite(x).all(-1) for x in X])
    return np.isfinite(X).all(-1)


def reference_rows(observed: np.ndarray) -> np.ndarray:
    """Choose the epochs of the reference: complete ones if these suffice, or all."""
    complete = np.flatnonzero(observed.all(1))
    if len(complete) < _N_REFERENCE:
        return np.arange(len(observed))
    spread = np.linspace(0, len(complete) - 1, _N_REFERENCE).round().astype(int)
    return complete[spread]


def describe_missing(observed: np.ndarray, name: str = "X", most: int = 5) -> str:
    """Name the epochs in which channels are missing, and these channels."""
    rows = np.flatnonzero(~observed.all(1))
    parts = []
    for i in rows[:most]:
        missing = np.flatnonzero(~observed[i]).tolist()
        plural = "s" if len(missing) > 1 else ""
        parts.append(f"{name}[{i}] channel{plural} {', '.join(map(str, missing))}")
    more = f"; and {len(rows) - most} more" if len(rows) > most else ""
    return "; ".join(parts) + more


def fill(block: Tensor, observed: Tensor, reference: Tensor) -> Tensor:
    """Complete covariances of observed coordinates by the expectation given them.

    Parameters
    ----------
    block : Tensor, shape (k, n_observed, n_observed)
        Covariances of the observed coordinates.
    observed : Tensor of int, shape (n_observed,)
        Which coordinates these are.
    reference : Tensor, shape (n, n)
        Reference covariance of all coordinates.

    Returns
    -------
    Tensor, shape (k, n, n)

    Examples
    --------
    >>> reference = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> fill(torch.tensor([[[4.0]]]), torch.tensor([0]), reference)
    tensor([[[4.0000, 2.0000],
             [2.0000, 1.7500]]])
    """
    n = reference.shape[-1]
    there = torch.zeros(n, dtype=torch.bool)
    there[observed] = True
    missing = (~there).nonzero()[:, 0]
    out = block.new_empty(len(block), n, n)
    out[:, observed[:, None], observed] = block
    if len(missing) == 0:
        return out
    cross = reference[missing[:, None], observed]
    factor = torch.linalg.cholesky(reference[observed[:, None], observed])
    gain = torch.cholesky_solve(cross.mT, factor).mT
    rest = reference[missing[:, None], missing] - gain @ cross.mT
    expected = gain @ block
    corner = expected @ gain.mT + (rest + rest.mT) / 2
    out[:, missing[:, None], observed] = expected
    out[:, observed[:, None], missing] = expected.mT
    out[:, missing[:, None], missing] = (corner + corner.mT) / 2
    return out


def reference_covariance(
    parts: Sequence[tuple[Tensor, Tensor]], n: int
) -> tuple[Tensor, Tensor]:
    """Return the mean covariance of epochs, some of which miss coordinates.

    Parameters
    ----------
    parts : sequence of (Tensor, Tensor)
        Covariances (k, n_observed, n_observed) and the observed coordinates.
    n : int
        Number of coordinates.

    Returns
    -------
    reference : Tensor, shape (n, n)
        Fixed point of "fill in, then average"; the plain mean where nothing misses.
    seen : Tensor of bool, shape (n,)
        The coordinates that were observed at all; the others are unit and apart.
    """
    count = sum(len(block) for block, _ in parts)
    if all(len(observed) == n for _, observed in parts):
        total = torch.stack([block.sum(0) for block, _ in parts]).sum(0)
        return total / count, torch.ones(n, dtype=torch.bool)
    variance, times = torch.zeros(2, n, dtype=torch.float64)
    for block, observed in parts:
        variance[observed] += block.diagonal(dim1=-2, dim2=-1).sum(0)
        times[observed] += len(block)
    seen = times > 0
    reference = torch.diag(torch.where(seen, variance / times, 1.0))
    for _ in range(_EM_STEPS):
        filled = [fill(block, observed, reference).sum(0) for block, observed in parts]
        new = torch.stack(filled).sum(0) / count
        change = (new - reference).abs().max() / new.abs().max()
        reference = new
        if change <= _EM_TOLERANCE:
            break
    return reference, seen
