"""Input checks of the scikit-learn estimators: arrays in, clean float arrays out."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from manifoldkit.linalg.checks import check_spd


class ThreeDimensionalInput(BaseEstimator):
    """Tags of estimators that take arrays of shape (n_items, n, m)."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _as_float_array(X: ArrayLike, name: str) -> np.ndarray:
    X = np.asarray(X)
    if np.iscomplexobj(X):
        raise TypeError(f"{name}: real values only, found dtype {X.dtype}")
    if X.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, found dtype {X.dtype}")
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    # joblib hands large arrays over as read-only maps, which torch does not take
    return np.require(X, requirements="W")


def check_epochs(
    X: ArrayLike, name: str = "X", n_channels: int | None = None
) -> np.ndarray:
    """Return epochs as a finite float array of shape (n_epochs, n_channels, n_times).

    Parameters
    ----------
    X : array-like, shape (n_epochs, n_channels, n_times)
        Signals; integers become float64, float32 stays.
    name : str
        The argument's name, for the message.
    n_channels : int, optional
        Number of channels seen in ``fit``.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Wrong number of dimensions, no epoch, another number of channels, or the first
        epoch and channel that holds NaN or infinity.
    """
    X = _as_float_array(X, name)
    if X.ndim != 3:
        raise ValueError(
            f"{name}: expected epochs of shape (n_epochs, n_channels, n_times), "
            f"found shape {X.shape}"
        )
    if 0 in X.shape:
        raise ValueError(
            f"{name}: expected at least one epoch, channel and sample, "
            f"found shape {X.shape}"
        )
    if n_channels is not None and X.shape[1] != n_channels:
        raise ValueError(
            f"{name}: expected {n_channels} channels as in fit, found shape {X.shape}"
        )
    if not np.isfinite(X).all():
        epoch, channel = np.argwhere(~np.isfinite(X))[0, :2]
        raise ValueError(
            f"{name}[{epoch}, {channel}] is not finite: it contains NaN or infinity"
        )
    return X


def check_matrices(X: ArrayLike, name: str = "X", n: int | None = None) -> np.ndarray:
    """Return SPD matrices as a float array of shape (n_matrices, n, n).

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Wrong shape, no matrix, another size than in ``fit``, or the first matrix that
        is not finite, not symmetric or not positive definite, with its smallest
        eigenvalue.
    """
    X = _as_float_array(X, name)
    if X.ndim != 3 or X.shape[1] != X.shape[2]:
        raise ValueError(
            f"{name}: expected SPD matrices of shape (n_matrices, n, n), "
            f"found shape {X.shape}"
        )
    if 0 in X.shape:
        raise ValueError(f"{name}: expected at least one matrix, found shape {X.shape}")
    if n is not None and X.shape[1] != n:
        raise ValueError(
            f"{name}: expected matrices of shape (n_matrices, {n}, {n}) as in fit, "
            f"found shape {X.shape}"
        )
    check_spd(torch.from_numpy(np.ascontiguousarray(X)), name)
    return X


def check_labels(X: np.ndarray, y: ArrayLike | None, owner: str) -> np.ndarray:
    """Return the class labels of items, one each.

    Parameters
    ----------
    X : ndarray, shape (n_items, ...)
        The items.
    y : array-like, shape (n_items,)
        Their labels.
    owner : str
        Name of the estimator, for the message.

    Raises
    ------
    ValueError
        No labels, another number of them, or numbers that are no classes.
    """
    if y is None:
        raise ValueError(
            f"y: {owner} requires y to be passed, but the target y is None"
        )
    labels = column_or_1d(y, warn=True)
    check_consistent_length(X, labels)
    check_classification_targets(labels)
    return labels


def classes_of(y: np.ndarray) -> np.ndarray:
    """Return the sorted classes of labels; ``ValueError`` unless there are two.

    Examples
    --------
    >>> classes_of(np.array(["rest", "move", "rest"])).tolist()
    ['move', 'rest']
    """
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"y: expected at least 2 classes, found one class, {classes.tolist()[0]!r}"
        )
    return classes
