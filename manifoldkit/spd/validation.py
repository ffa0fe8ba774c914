"""Input checks of the scikit-learn estimators: arrays in, clean float arrays out."""

import contextlib
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from manifoldkit.spd.hermitian import check_hermitian

_EPOCHS = "epochs of shape (n_epochs, n_channels, n_times)"


class ThreeDimensionalInput(BaseEstimator):
    """Tags of estimators that take arrays of shape (n_items, n, m)."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _as_array(X: Any, name: str, expected: str) -> np.ndarray:
    try:
        return np.asarray(X)
    except ValueError:  # NumPy's words for lists of different lengths
        raise ValueError(
            f"{name}: expected {expected}, found lists or arrays of different shapes"
        ) from None


def _as_float_array(X: np.ndarray, name: str, hermitian: bool = False) -> np.ndarray:
    if np.iscomplexobj(X) and not hermitian:
        raise TypeError(f"{name}: real values only, found dtype {X.dtype}")
    if X.dtype == object and X.ndim > 0:
        with contextlib.suppress(TypeError, ValueError):
            X = X.astype(np.float64)
    if X.dtype.kind not in "fiubc":
        raise TypeError(f"{name}: expected numbers, found dtype {X.dtype}")
    complex_ = X.dtype.kind == "c"
    if X.dtype not in ((np.complex64,) if complex_ else (np.float32,)):
        X = X.astype(np.complex128 if complex_ else np.float64, copy=False)
    # joblib hands large arrays over as read-only maps, which torch does not take
    return np.require(X, requirements="W")


def check_numbers(X: ArrayLike, name: str, expected: str) -> np.ndarray:
    """Return an array of real floating-point numbers; raise in our words for others."""
    return _as_float_array(_as_array(X, name, expected), name)


def _recorded(X: Any, name: str) -> Any:
    """Take the signals out of MNE's epochs, and out of lists of them.

    Scikit-learn's cross-validation splits MNE's epochs into a list of single ones.
    """
    if callable(getattr(X, "get_data", None)):
        return X.get_data()
    if not isinstance(X, list | tuple) or len(X) == 0:
        return X
    own = [callable(getattr(x, "get_data", None)) for x in X]
    if not any(own):
        return X
    if not all(own):
        raise TypeError(
            f"{name}: expected MNE epochs or arrays, found a list of both, such as "
            f"{name}[{own.index(False)}], {type(X[own.index(False)]).__name__}"
        )
    return [trial for x in X for trial in x.get_data()]


def channel_names(X: Any) -> np.ndarray | None:
    """Return the names of the channels of MNE's epochs, or of lists of them.

    None for arrays, which have no names.
    """
    first = X[0] if isinstance(X, list | tuple) and len(X) else X
    names = getattr(first, "ch_names", None)
    if names is None or not callable(getattr(first, "get_data", None)):
        return None
    return np.array([str(name) for name in names], dtype=object)


def check_channel_names(X: Any, fitted: np.ndarray | None, name: str = "X") -> None:
    """Raise where MNE's epochs have other channels than those in ``fit``.

    Parameters
    ----------
    X : array-like or mne.Epochs
        Epochs; without names there is nothing to compare.
    fitted : ndarray of str, or None
        Names in ``fit``.
    name : str
        The argument's name, for the message.

    Raises
    ------
    ValueError
        The first channel that is another one.
    """
    found = channel_names(X)
    if fitted is None or found is None or len(found) != len(fitted):
        return  # another number of channels is refused with the shape
    other = found != fitted
    if other.any():
        i = int(np.argmax(other))
        raise ValueError(
            f"{name}: expected the channels in the order of fit, with {fitted[i]!r} at "
            f"place {i}, found {found[i]!r}; pick or reorder the channels"
        )


def _trials(X: Any, name: str) -> np.ndarray:
    """Return epochs as one array, or of different duration as an array of arrays."""
    X = _recorded(X, name)
    try:
        whole = np.asarray(X)
    except ValueError:  # trials of different shapes
        pass
    else:
        column = whole.dtype == object and whole.ndim > 0 and whole.size == len(whole)
        if not column or 0 in whole.shape:
            return _as_float_array(whole, name)
        X = whole.ravel()  # a list, a series, a column of a data frame
    trials = []
    for i, x in enumerate(X):
        trial = _as_array(x, f"{name}[{i}]", "a trial of shape (n_channels, n_times)")
        if trial.ndim != 2:
            raise ValueError(
                f"{name}: expected {_EPOCHS} or a list of trials of shape (n_channels, "
                f"n_times), found {name}[{i}] of shape {trial.shape}"
            )
        trials.append(_as_float_array(trial, f"{name}[{i}]"))
    channels = [trial.shape[0] for trial in trials]
    if len(set(channels)) > 1:
        other = next(i for i, n in enumerate(channels) if n != channels[0])
        raise ValueError(
            f"{name}: expected trials of equally many channels, found {channels[0]} in "
            f"{name}[0] and {channels[other]} in {name}[{other}]"
        )
    dtype = np.result_type(*(trial.dtype for trial in trials))
    trials = [trial.astype(dtype, copy=False) for trial in trials]
    if len({trial.shape for trial in trials}) == 1:
        return np.stack(trials)
    ragged = np.empty(len(trials), dtype=object)
    for i, trial in enumerate(trials):
        ragged[i] = trial
    return ragged


def is_ragged(X: np.ndarray) -> bool:
    """Tell whether checked epochs are an array of trials of different duration."""
    return X.dtype == object


def check_epochs(
    X: ArrayLike,
    name: str = "X",
    n_channels: int | None = None,
    *,
    missing: bool = False,
) -> np.ndarray:
    """Return epochs as a finite float array of shape (n_epochs, n_channels, n_times).

    Parameters
    ----------
    X : array-like, shape (n_epochs, n_channels, n_times)
        Signals; integers and half precision become float64, float32 stays. Or a list,
        an object array or a column of trials (n_channels, n_times), whose durations
        may differ; or ``mne.Epochs``.
    name : str
        The argument's name, for the message.
    n_channels : int, optional
        Number of channels seen in ``fit``.
    missing : bool, default=False
        Let NaN pass where another channel of its epoch is complete.

    Returns
    -------
    ndarray
        Trials of different duration: an object array (n_epochs,) of arrays.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Wrong number of dimensions, no epoch, another number of channels, or the first
        epoch and channel that holds NaN or infinity.
    """
    X = _trials(X, name)
    shape = (len(X), *min(x.shape for x in X)) if is_ragged(X) and len(X) else X.shape
    if len(shape) != 3:
        raise ValueError(f"{name}: expected {_EPOCHS}, found shape {X.shape}")
    if 0 in shape:
        raise ValueError(
            f"{name}: expected at least one epoch, channel and sample, "
            f"found shape {shape}"
        )
    if n_channels is not None and shape[1] != n_channels:
        raise ValueError(
            f"{name}: expected {n_channels} channels as in fit, found shape {shape}"
        )
    if is_ragged(X):
        for i, x in enumerate(X):
            _check_values(x[None], name, i, missing)
    else:
        _check_values(X, name, 0, missing)
    return X


def _check_values(X: np.ndarray, name: str, first: int, missing: bool) -> None:
    finite = np.isfinite(X)
    if finite.all():
        return
    bad = ~finite
    if missing:
        lost = np.isnan(X).any(-1).all(-1)
        if lost.any():
            raise ValueError(
                f"{name}[{first + int(np.argmax(lost))}] has no channel without NaN: "
                "nothing is known of this epoch, leave it out"
            )
        bad = np.isinf(X)
        if not bad.any():
            return
    epoch, channel = np.argwhere(bad)[0, :2]
    raise ValueError(
        f"{name}[{first + epoch}, {channel}] is not finite: it contains NaN or infinity"
    )


def check_matrices(
    X: ArrayLike, name: str = "X", n: int | None = None, *, hermitian: bool = False
) -> np.ndarray:
    """Return SPD matrices as a float array of shape (n_matrices, n, n).

    Parameters
    ----------
    X : array-like, shape (n_matrices, n, n)
        Matrices; integers and half precision become float64, float32 stays.
    name : str
        The argument's name, for the message.
    n : int, optional
        Their size in ``fit``.
    hermitian : bool, default=False
        Let complex Hermitian matrices pass too.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Wrong shape, no matrix, another size than in ``fit``, or the first matrix that
        is not finite, not symmetric or not positive definite, with its smallest
        eigenvalue.
    """
    kind = "SPD matrices of shape (n_matrices, n, n)"
    X = _as_float_array(_as_array(X, name, kind), name, hermitian)
    if X.ndim != 3 or X.shape[1] != X.shape[2]:
        raise ValueError(f"{name}: expected {kind}, found shape {X.shape}")
    if 0 in X.shape:
        raise ValueError(f"{name}: expected at least one matrix, found shape {X.shape}")
    if n is not None and X.shape[1] != n:
        raise ValueError(
            f"{name}: expected matrices of shape (n_matrices, {n}, {n}) as in fit, "
            f"found shape {X.shape}"
        )
    check_hermitian(torch.from_numpy(np.ascontiguousarray(X)), name)
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
