"""Mean and dispersion of one domain, and what aligning its matrices by them means."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from manifoldkit.spd.pyriemann_bridge import (
    geometry_of,
    inverse_root,
    matrix_power,
    root,
)

# squared distances below this are rounding: the matrices of a domain are all the same
_NO_DISPERSION = 1e-20
Metric = str | dict[str, Callable[..., Any]]


class Statistics(NamedTuple):
    """What is known of one domain.

    Attributes
    ----------
    center : ndarray, shape (n, n)
        Mean.
    dispersion : float
        Mean squared distance to it.
    rotation : ndarray, shape (n, n), or None
        Orthogonal matrix, where one was learned.
    """

    center: np.ndarray
    dispersion: float
    rotation: np.ndarray | None = None


def double(X: np.ndarray) -> np.ndarray:
    """Return matrices in double precision, real or complex as they are."""
    return X.astype(np.promote_types(X.dtype, np.float64), copy=False)


def estimate(
    X: np.ndarray, metric: Metric, weights: np.ndarray | None = None
) -> Statistics:
    """Return mean and dispersion of matrices (n_matrices, n, n), weights positive.

    >>> estimate(np.array([[[1.0]], [[4.0]]]), "riemann").center.round(12).tolist()
    [[2.0]]
    """
    X = double(X)
    if len(X) == 1:
        return Statistics(X[0], 0.0)
    center = geometry_of(metric).mean(X, sample_weight=weights)
    squared = squared_distances(X, center, metric)
    return Statistics(center, float(np.average(squared, weights=weights)))


def squared_distances(X: np.ndarray, center: np.ndarray, metric: Metric) -> np.ndarray:
    """Return squared distances to a center, which whitens everything first."""
    whitened = _congruence(inverse_root(center), X)
    eye = np.eye(X.shape[-1], dtype=whitened.dtype)
    distance = geometry_of(metric).distance
    return np.reshape(distance(whitened, eye, squared=True), len(X))


def align(
    X: np.ndarray, known: Statistics, *, recenter: bool, dispersion: float | None
) -> np.ndarray:
    """Recenter, stretch to a dispersion (None: do not) and rotate one domain."""
    stretch = dispersion is not None and known.dispersion > _NO_DISPERSION
    if not (recenter or stretch):
        return X
    X = _congruence(inverse_root(known.center), X)
    if dispersion is not None and stretch:
        X = matrix_power(X, float(np.sqrt(dispersion / known.dispersion)))
    if not recenter:
        X = _congruence(root(known.center), X)
    if known.rotation is not None:
        X = known.rotation @ X @ known.rotation.T
    return (X + X.conj().swapaxes(-1, -2)) / 2


def _congruence(W: np.ndarray, X: np.ndarray) -> np.ndarray:
    return W @ X @ W
