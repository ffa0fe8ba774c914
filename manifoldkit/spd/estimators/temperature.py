r"""The temperature of probabilities :math:`\operatorname{softmax}(-d^2 / \tau)`.

Maximum likelihood with smoothed targets (Platt), whose loss is convex in
:math:`1 / \tau`. With the gaps g of the squared distances to the smallest of them, the
derivative in :math:`\log \tau` is the mean of g under the model less that under the
targets, in units of :math:`\tau`.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

_BOUNDS = (-16.0, 8.0)


def _gaps(squared: np.ndarray, codes: np.ndarray, sizes: np.ndarray):
    """Return the gaps of squared distances and their means under smoothed targets."""
    gaps = squared - squared.min(1, keepdims=True)
    n_classes = len(sizes)
    # Platt's targets, (N + 1) / (N + 2) for two classes
    miss = (n_classes - 1) / (sizes[codes] + n_classes)
    own = gaps[np.arange(len(gaps)), codes]
    others = (gaps.sum(1) - own) / (n_classes - 1)
    return gaps, (1 - miss) * own + miss * others


def fit_temperature(
    squared: np.ndarray, codes: np.ndarray, weights: np.ndarray, sizes: np.ndarray
) -> float:
    """Minimize the cross-entropy of softmax(-d^2 / tau) against smoothed targets.

    Parameters
    ----------
    squared : ndarray, shape (n_items, n_classes)
        Squared distances.
    codes, weights : ndarray, shape (n_items,)
        Classes and weights of the items.
    sizes : ndarray, shape (n_classes,)
        Total weights of the classes.

    Examples
    --------
    >>> squared = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> tau = fit_temperature(squared, np.array([0, 1]), np.ones(2), np.ones(2))
    >>> round(float(softmax(-squared[0] / tau)[0]), 6)  # (1 + 1) / (1 + 2)
    0.666667
    """
    gaps, target = _gaps(squared, codes, sizes)
    scale = gaps[weights > 0].max()
    if not scale > 0:
        return 1.0

    def slope(log_tau):
        shares = softmax(-gaps / (scale * np.exp(log_tau)), axis=1)
        return weights @ ((shares * gaps).sum(1) - target) / scale

    low, high = _BOUNDS
    if slope(high) <= 0:  # no better than chance
        return float(scale * np.exp(high))
    if slope(low) >= 0:
        return float(scale * np.exp(low))
    return float(scale * np.exp(brentq(slope, low, high, xtol=1e-14)))


def information(squared: np.ndarray, tau: float, weights: np.ndarray) -> float:
    """Return the Fisher information of items on the logarithm of the temperature."""
    gaps = (squared - squared.min(1, keepdims=True)) / tau
    shares = softmax(-gaps, axis=1)
    mean = (shares * gaps).sum(1, keepdims=True)
    return float(weights @ (shares * (gaps - mean) ** 2).sum(1))


def update_temperature(
    tau: float,
    known: float,
    squared: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    sizes: np.ndarray,
) -> tuple[float, float]:
    """Take a Newton step of the running likelihood for further items.

    Parameters
    ----------
    tau, known : float
        Temperature so far, and the information of the items that it comes from.
    squared, codes, weights, sizes
        The further items, as for :func:`fit_temperature`.

    Returns
    -------
    tau, known : float
        The same after these items.
    """
    gaps, target = _gaps(squared, codes, sizes)
    shares = softmax(-gaps / tau, axis=1)
    slope = weights @ ((shares * gaps).sum(1) - target) / tau
    known += information(squared, tau, weights)
    if not known > 0:
        return tau, known
    return tau * float(np.exp(np.clip(-slope / known, -1, 1))), known
