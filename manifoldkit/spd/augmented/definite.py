"""Why a covariance of an epoch is not positive definite, in words for the user."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg.lapack import dpotrf, spotrf

# part of a variance that no rounding of single precision can feign, and its rounding
_CLEAR = 1e-2
_ROUGH = float(np.finfo(np.float32).eps)


def check_variation(C: np.ndarray, X: np.ndarray, rows: np.ndarray) -> None:
    """Raise where an epoch does not vary, or beyond the range of its dtype.

    Parameters
    ----------
    C : ndarray, shape (k, n, n)
        Covariances.
    X : ndarray, shape (k, n_channels, n_times)
        Their epochs.
    rows : ndarray of int, shape (k,)
        Indices of these epochs, for the message.
    """
    low, high = X.min(-1), X.max(-1)
    flat = (low == high).all(-1)
    if flat.any():
        raise ValueError(
            f"X[{rows[np.argmax(flat)]}] has no variation: every channel is flat"
        )
    limits = np.finfo(X.dtype)
    size = np.trace(C, axis1=1, axis2=2) / C.shape[-1]
    extent = np.maximum(-low, high).max(-1)
    outside = (size < limits.tiny) | (extent > np.sqrt(limits.max))
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(
            f"X[{rows[i]}]: signals of size {extent[i]:.1e} have covariances "
            f"outside the range of {X.dtype}, expected another unit or float64"
        )


def singular(C: np.ndarray) -> np.ndarray:
    """Tell which matrices are singular to rounding, whatever the channels' units.

    Also those that are not finite. A Cholesky pivot over its diagonal entry is the part
    of a row's variance that the rows before it leave unexplained.
    """
    eps = np.finfo(C.dtype).eps
    n, variance = C.shape[-1], np.diagonal(C, axis1=1, axis2=2)
    largest = variance.max(-1)
    found = ~np.isfinite(largest) | (variance <= eps**1.5 * largest[:, None]).any(-1)
    for i in np.flatnonzero(~found):
        # first in single precision, which is rough, half the time and mostly enough
        rough = np.divide(C[i], largest[i], dtype=np.float32, casting="same_kind")
        if not _dependent(rough, spotrf, max(_CLEAR, 64 * n * _ROUGH)):
            continue
        found[i] = _dependent(C[i].copy(), dpotrf, 16 * n * eps)
    return found


def _dependent(x: np.ndarray, potrf: Callable[..., Any], least: float) -> bool:
    """Whether a row of x, which is written over, has less than a part of its own."""
    variance = x.diagonal().copy()
    # LAPACK through SciPy: half the time of torch's batched factorization on a CPU
    factor, info = potrf(x.T, lower=0, clean=0, overwrite_a=1)
    pivot = factor.diagonal() ** 2
    return info != 0 or not bool((pivot > least * variance).all())


def describe_singular(x: np.ndarray, channels: np.ndarray) -> str:
    """Say which channel of an epoch (n_channels, n_times) makes it rank-deficient."""
    flat = np.flatnonzero(x.max(-1) == x.min(-1))
    if flat.size:
        return f"channel {channels[flat[0]]} is flat"
    x = x.astype(np.float64) / np.abs(x).max(-1, keepdims=True)
    x = x - x.mean(-1, keepdims=True)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    gram = unit @ unit.T
    first, second = np.nonzero(np.triu(np.abs(gram) > 1 - 1e-12, 1))
    if first.size:
        return f"channel {channels[second[0]]} duplicates channel {channels[first[0]]}"
    if np.linalg.eigvalsh(gram)[0] < 1e-12:
        return "its channels are linearly dependent (an average reference?)"
    return "its delay vectors are linearly dependent (a narrow band?)"
