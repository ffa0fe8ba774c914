"""Covariances of delay vectors by pyriemann's estimators, or by the user's own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from manifoldkit.spd.augmented.moments import delay_embed


def by_peer(
    X: np.ndarray,
    order: int,
    lag: int,
    trim: str,
    estimator: str | Callable[..., Any],
    params: dict[str, Any],
) -> np.ndarray:
    """Estimate epoch by epoch: no other epoch changes an answer.

    Parameters
    ----------
    X : ndarray, shape (n_epochs, n_channels, n_times)
        Epochs.
    order, lag, trim
        See :func:`~manifoldkit.spd.augmented.delay_embed`.
    estimator, params
        As ``pyriemann.estimation.Covariances`` takes them.

    Returns
    -------
    ndarray, shape (n_epochs, order * n_channels, order * n_channels)
    """
    from pyriemann.estimation import Covariances

    covariances = Covariances(estimator, **params)
    size = order * X.shape[1]
    C = np.empty((len(X), size, size))
    for i, z in enumerate(delay_embed(X, order, lag, trim=trim)):
        C[i] = covariances.transform(z.reshape(1, size, -1))[0]
    return C
