r"""Augmented covariances: covariances of delay vectors, for tensors and scikit-learn.

The augmented covariance method (ACM) of Carrara and Papadopoulo replaces the
covariance of an epoch by that of its delay vectors
:math:`z_t = (x_t, x_{t+l}, \dots, x_{t+(o-1)l})`, so that the SPD matrix also holds how
the channels follow each other in time.
"""

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import TransformerMixin
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_choice, check_settings, interval, one_of
from manifoldkit.spd.augmented.covariance import (
    MOMENT_ESTIMATORS,
    STRUCTURES,
    augmented_covariance,
    check_toeplitz,
    shrink,
)
from manifoldkit.spd.augmented.moments import (
    TRIMS,
    check_order_lag,
    delay_embed,
    n_delay_vectors,
)
from manifoldkit.spd.augmented.selection import select_without_labels
from manifoldkit.spd.validation import ThreeDimensionalInput, check_epochs

_SHRINKING = ("oas", "lwf", "sch")
_REPAIR_SHRINKAGE = 1e-3
_SETTINGS = {
    "structure": one_of(*STRUCTURES),
    "trim": one_of(*TRIMS),
    "on_singular": one_of("warn", "raise"),
    "shrinkage": interval(0, 1),
}


class AugmentedCovariances(TransformerMixin, ThreeDimensionalInput):
    """Augmented covariance matrices of epochs.

    Turns epochs into SPD matrices of size ``order * n_channels``: the covariances of
    the delay vectors ``(x_t, x_{t+lag}, ..., x_{t+(order-1)lag})``. Put
    ``pyriemann.tangentspace.TangentSpace`` or any SPD classifier behind it, or call
    :func:`manifoldkit.spd.make_acm_classifier`.

    Parameters
    ----------
    order : int or "auto", default=1
        Number of delayed copies; 1 is the plain covariance. "auto" chooses it in
        ``fit`` from the training epochs.
    lag : int or "auto", default=1
        Delay between copies, in samples.
    estimator : str or callable, default="oas"
        Any covariance estimator of pyriemann ("oas", "lwf", "cov", "scm", "corr",
        "sch", "hub", "stu", "tyl", "mcd") or a callable that takes an array of shape
        (order * n_channels, T_eff). The first five are computed by exact block
        updates. Augmented covariances are ill-conditioned, so the default shrinks.
    structure : {"stacked", "toeplitz"}, default="stacked"
        Covariance of the delay vectors, or the block-Toeplitz matrix of biased
        autocovariances.
    trim : {"full", "moabb"}, default="full"
        Keep all ``T - (order - 1) lag`` delay vectors, or drop one lag more as MOABB's
        ``AugmentedDataset`` does.
    shrinkage : float, default=0.0
        Further shrinkage towards the scaled identity, in [0, 1].
    on_singular : {"warn", "raise"}, default="warn"
        What to do where the channels of an epoch make its matrix singular (a flat
        channel, a duplicated channel, an average reference) and neither estimator nor
        ``shrinkage`` repairs it: shrink that matrix by 0.001 with a warning that names
        epoch and channel, or raise.
    estimator_params : dict, optional
        Keyword arguments for pyriemann's estimator, for example ``{"nu": 5}``. Given,
        the block updates are not used.
    selection : {"mdop", "afnn", "aic", "bic", "hq", "uniform"}, default="mdop"
        How "auto" chooses; see :func:`manifoldkit.spd.select_delay_embedding`.
    max_order, max_lag : int, default=10
        Largest values that "auto" may choose.
    random_state : int, RandomState instance or None, default=None
        For the selection methods that sample reference points.

    Attributes
    ----------
    order_, lag_ : int
        Values in use.
    n_channels_, n_times_ : int
        Shape of the epochs in ``fit``. Epochs of another length are welcome in
        ``transform`` if long enough.
    selection_ : DelayEmbedding
        What "auto" found, with curves to plot. Only after an automatic choice.

    Raises
    ------
    ValueError
        In ``fit`` and ``transform``: bad epochs; ``order`` and ``lag`` leave fewer than
        two delay vectors; fewer delay vectors than ``order * n_channels + 1`` while
        nothing shrinks; an epoch without any variation.
    sklearn.exceptions.NotFittedError
        ``transform`` before ``fit``.

    Notes
    -----
    The blocks are in the order of MOABB's ``AugmentedDataset``, and
    ``AugmentedCovariances(order, lag, "cov", trim="moabb")`` equals
    ``AugmentedDataset(order, lag)`` followed by pyriemann's ``Covariances("cov")``.
    pyriemann's ``TimeDelayCovariances`` is another matrix: it rolls the epoch, so the
    samples at its end are paired with those at its start, and its first block is the
    latest copy, not the earliest.

    In a grid search over ``lag`` or a classifier's parameters give the pipeline a
    ``memory`` directory: each (order, lag) is then computed once a fold.

    References
    ----------
    .. [1] Carrara and Papadopoulo, "Classification of BCI-EEG based on the augmented
           covariance matrix", IEEE Trans. Biomed. Eng. 2024, arXiv 2302.04508.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((6, 3, 200))
    >>> AugmentedCovariances(order=4, lag=2).fit_transform(X).shape
    (6, 12, 12)
    """

    def __init__(
        self,
        order: int | str = 1,
        lag: int | str = 1,
        estimator: str | Callable[..., Any] = "oas",
        structure: str = "stacked",
        trim: str = "full",
        shrinkage: float = 0.0,
        on_singular: str = "warn",
        estimator_params: dict[str, Any] | None = None,
        selection: str = "mdop",
        max_order: int = 10,
        max_lag: int = 10,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.order = order
        self.lag = lag
        self.estimator = estimator
        self.structure = structure
        self.trim = trim
        self.shrinkage = shrinkage
        self.on_singular = on_singular
        self.estimator_params = estimator_params
        self.selection = selection
        self.max_order = max_order
        self.max_lag = max_lag
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Check the parameters against the epochs and make the automatic choices.

        Parameters
        ----------
        X : array-like, shape (n_epochs, n_channels, n_times)
            Training epochs.
        y : array-like, shape (n_epochs,), optional
            Labels; only their number is looked at.

        Returns
        -------
        self
        """
        X = check_epochs(X)
        if y is not None:
            check_consistent_length(X, y)
        check_settings(self, _SETTINGS)
        if not (isinstance(self.estimator, str) or callable(self.estimator)):
            raise TypeError(
                "estimator: expected the name of a covariance estimator or a callable, "
                f"found {self.estimator!r}"
            )
        check_toeplitz(self.structure, self.estimator)
        if self.structure == "toeplitz" and self.estimator_params:
            raise ValueError(
                "estimator_params: structure='toeplitz' takes none, found "
                f"{self.estimator_params!r}"
            )
        self.order_, self.lag_ = check_order_lag(*self._choose(X))
        self.n_channels_, self.n_times_ = X.shape[1:]
        self._check_length(self.n_times_)
        if not self._from_moments():
            self._estimate(X[:1])  # an unknown or unsuitable estimator shows here
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the augmented covariance of each epoch.

        Parameters
        ----------
        X : array-like, shape (n_epochs, n_channels, n_times)
            Epochs.

        Returns
        -------
        ndarray, shape (n_epochs, order * n_channels, order * n_channels)
            float32 for float32 epochs (summed in float64), else float64.
        """
        check_is_fitted(self, "order_")
        X = check_epochs(X, n_channels=self.n_channels_)
        self._check_length(X.shape[2])
        C = self._estimate(X)
        return self._ensure_definite(C, X).astype(X.dtype, copy=False)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Do nothing: matrices have no data frame form, but pipelines ask each step."""
        return self

    def _choose(self, X: np.ndarray) -> tuple[Any, Any]:
        asked: dict[str, Any] = {"order": self.order, "lag": self.lag}
        automatic = {k: v for k, v in asked.items() if isinstance(v, str)}
        if not automatic:
            return self.order, self.lag
        for name, value in automatic.items():
            check_choice(value, ("auto",), name)
            asked[name] = None
        self.selection_ = select_without_labels(
            X,
            method=self.selection,
            **asked,
            max_order=self.max_order,
            max_lag=self.max_lag,
            random_state=self.random_state,
        )
        return self.selection_.order, self.selection_.lag

    def _from_moments(self) -> bool:
        return self.estimator in MOMENT_ESTIMATORS and not self.estimator_params

    def _shrinks(self) -> bool:
        return self.shrinkage > 0 or self.estimator in _SHRINKING

    def _check_length(self, n_times: int) -> None:
        n = n_delay_vectors(n_times, self.order_, self.lag_, self.trim)
        size = self.order_ * self.n_channels_
        if self.structure == "toeplitz":
            n = n_times + (self.order_ - 1) * self.lag_
        known = isinstance(self.estimator, str)
        if known and not self._shrinks() and n < size + 1:
            raise ValueError(
                f"too few samples for a {size} x {size} covariance: T = {n_times}, "
                f"order = {self.order_}, lag = {self.lag_} give T_eff = {n} delay "
                f"vectors, expected at least {size + 1}; use estimator='oas', set "
                "shrinkage, or lower order and lag"
            )

    def _estimate(self, X: np.ndarray) -> np.ndarray:
        X = np.ascontiguousarray(X, dtype=np.float64)
        if self._from_moments():
            return augmented_covariance(
                torch.from_numpy(X),
                self.order_,
                self.lag_,
                estimator=str(self.estimator),
                structure=self.structure,
                trim=self.trim,
                shrinkage=self.shrinkage,
            ).numpy()
        from pyriemann.estimation import Covariances

        covariances = Covariances(self.estimator, **(self.estimator_params or {}))
        size = self.order_ * self.n_channels_
        C = np.empty((len(X), size, size))
        for i, z in enumerate(delay_embed(X, self.order_, self.lag_, trim=self.trim)):
            C[i] = covariances.transform(z.reshape(1, size, -1))[0]
        return shrink(torch.from_numpy(C), self.shrinkage).numpy()

    def _ensure_definite(self, C: np.ndarray, X: np.ndarray) -> np.ndarray:
        trace = np.trace(C, axis1=1, axis2=2)
        flat = (X.max(-1) == X.min(-1)).all(-1) | (trace == 0)
        if flat.any():
            raise ValueError(
                f"X[{int(np.argmax(flat))}] has no variation: every channel is flat"
            )
        bad = ~np.isfinite(C).all((1, 2))
        # "sch" shrinks correlations: a flat channel stays flat
        if not self._shrinks() or (self.estimator == "sch" and not self.shrinkage):
            bad |= _singular(torch.from_numpy(C))
        if not bad.any():
            return C
        index = int(np.argmax(bad))
        found = f"X[{index}]: {_describe_singular(X[index])}; its augmented covariance"
        finite = np.isfinite(C[bad]).all()
        if self.on_singular == "raise" or not finite:
            raise ValueError(
                f"{found} is {'singular' if finite else 'not finite'}; use "
                "estimator='oas', set shrinkage, or drop the channel"
            )
        warnings.warn(
            f"{found} is singular and was shrunk by {_REPAIR_SHRINKAGE} "
            f"({int(bad.sum())} of {len(C)} epochs); use estimator='oas', set "
            "shrinkage, or drop the channel",
            UserWarning,
            stacklevel=3,
        )
        C[bad] = shrink(torch.from_numpy(C[bad]), _REPAIR_SHRINKAGE).numpy()
        return C


def _singular(C: Tensor) -> np.ndarray:
    """Tell which matrices are singular to rounding, whatever the channels' units.

    A Cholesky pivot over its diagonal entry is the part of a row's variance that the
    rows before it leave unexplained.
    """
    eps = torch.finfo(C.dtype).eps
    factor, info = torch.linalg.cholesky_ex(C)
    variance = C.diagonal(dim1=-2, dim2=-1)
    pivot = factor.diagonal(dim1=-2, dim2=-1).square()
    tiny = variance <= eps**1.5 * variance.amax(-1, keepdim=True)
    dependent = pivot <= 16 * C.shape[-1] * eps * variance
    return ((info != 0) | (tiny | dependent).any(-1)).numpy()


def _describe_singular(x: np.ndarray) -> str:
    """Say which channel of an epoch (n_channels, n_times) makes it rank-deficient."""
    flat = np.flatnonzero(x.max(-1) == x.min(-1))
    if flat.size:
        return f"channel {flat[0]} is flat"
    x = x.astype(np.float64) - x.mean(-1, keepdims=True)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    gram = unit @ unit.T
    first, second = np.nonzero(np.triu(np.abs(gram) > 1 - 1e-12, 1))
    if first.size:
        return f"channel {second[0]} duplicates channel {first[0]}"
    if np.linalg.eigvalsh(gram)[0] < 1e-12:
        return "its channels are linearly dependent (an average reference?)"
    return "its delay vectors are linearly dependent (a narrow band?)"
