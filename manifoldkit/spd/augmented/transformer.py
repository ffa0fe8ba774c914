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
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_choice, check_settings, interval, one_of
from manifoldkit.spd.augmented import definite
from manifoldkit.spd.augmented.covariance import (
    MOMENT_ESTIMATORS,
    STRUCTURES,
    augmented_covariance,
    check_toeplitz,
    shrink,
)
from manifoldkit.spd.augmented.missing import (
    Group,
    describe_missing,
    fill,
    group_epochs,
    observed_channels,
    reference_covariance,
    reference_rows,
)
from manifoldkit.spd.augmented.moments import (
    TRIMS,
    check_order_lag,
    delay_names,
    n_delay_vectors,
)
from manifoldkit.spd.augmented.peers import by_peer
from manifoldkit.spd.augmented.selection import select_without_labels
from manifoldkit.spd.validation import (
    ThreeDimensionalInput,
    channel_names,
    check_channel_names,
    check_epochs,
)

_SHRINKING = ("oas", "lwf", "sch")
_REPAIR_SHRINKAGE = 1e-3
_SETTINGS = {
    "structure": one_of(*STRUCTURES),
    "trim": one_of(*TRIMS),
    "on_singular": one_of("warn", "raise"),
    "missing": one_of("impute", "raise"),
    "shrinkage": interval(0, 1),
}


class AugmentedCovariances(
    # matrices have no data frame form, whatever output is asked for
    TransformerMixin,
    ThreeDimensionalInput,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
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
        For the selection methods that sample reference points, and for "mcd".
    missing : {"impute", "raise"}, default="impute"
        What to do with an epoch in which some channels hold NaN. "impute": its matrix
        is completed by what the mean matrix of the training epochs expects given the
        channels that are there (the step of the EM algorithm for Gaussian data), with
        a warning that names epochs and channels; no other epoch changes. "raise": name
        the first one.

    Attributes
    ----------
    order_, lag_ : int
        Values in use.
    n_channels_, n_times_ : int
        Shape of the epochs in ``fit``, of trials of different duration the shortest.
        Epochs of another length are welcome in ``transform`` if long enough.
    channel_names_ : ndarray of str, shape (n_channels,), or None
        Names of the channels where the epochs in ``fit`` were MNE's.
    reference_ : ndarray, shape (order * n_channels, order * n_channels), or None
        Mean matrix of (at most 64 of) the training epochs, which missing channels are
        filled in by.
    selection_ : DelayEmbedding
        What "auto" found, with curves to plot. Only after an automatic choice.

    Raises
    ------
    ValueError
        In ``fit`` and ``transform``: bad epochs; ``order`` and ``lag`` leave fewer than
        two delay vectors; MNE's epochs of other channels than in ``fit``; fewer delay
        vectors than ``order * n_channels + 1`` while nothing shrinks; an epoch without
        any variation, or without any channel that is free of NaN; a channel that is
        missing in all training epochs.
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

    Trials may differ in duration:

    >>> trials = [X[0], X[1, :, :150], X[2, :, 20:]]
    >>> AugmentedCovariances(order=4, lag=2).fit_transform(trials).shape
    (3, 12, 12)
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
        missing: str = "impute",
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
        self.missing = missing

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Check the parameters against the epochs and make the automatic choices.

        Parameters
        ----------
        X : array-like, shape (n_epochs, n_channels, n_times)
            Training epochs; a list of trials (n_channels, n_times) of different
            duration; or ``mne.Epochs``.
        y : array-like, shape (n_epochs,), optional
            Labels; only their number is looked at.

        Returns
        -------
        self
        """
        X = self._fit(X, y)
        rows = reference_rows(observed_channels(X))
        parts = []
        for group in group_epochs(X, rows):
            C = self._estimate(group.X)
            usable = np.isfinite(C).all((1, 2)) & (np.trace(C, axis1=1, axis2=2) > 0)
            if usable.any():  # transform refuses the others
                C = self._repair(C[usable])
                parts.append((C, group.channels))
        self._set_reference(parts)
        return self

    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> np.ndarray:
        """Fit, and return the augmented covariances of the same epochs.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.
        **fit_params
            None is known.

        Returns
        -------
        ndarray, shape (n_epochs, order * n_channels, order * n_channels)
        """
        if fit_params:
            raise TypeError(
                f"AugmentedCovariances.fit_transform takes no {sorted(fit_params)}"
            )
        X = self._fit(X, y)
        groups, blocks = self._blocks(X)
        chosen = np.isin(np.arange(len(X)), reference_rows(observed_channels(X)))
        parts = []
        for group, C in zip(groups, blocks, strict=True):
            mine = chosen[group.rows]
            if mine.any():
                parts.append((C if mine.all() else C[mine], group.channels))
        self._set_reference(parts)
        return self._assemble(X, groups, blocks)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the augmented covariance of each epoch.

        Parameters
        ----------
        X : array-like, shape (n_epochs, n_channels, n_times)
            Epochs, in the forms of :meth:`fit`.

        Returns
        -------
        ndarray, shape (n_epochs, order * n_channels, order * n_channels)
            float32 for float32 epochs (summed in float64), else float64.
        """
        check_is_fitted(self, "order_")
        check_channel_names(X, getattr(self, "channel_names_", None))
        X = check_epochs(
            X, n_channels=self.n_channels_, missing=self.missing == "impute"
        )
        return self._assemble(X, *self._blocks(X))

    def get_feature_names_out(
        self, input_features: ArrayLike | None = None
    ) -> np.ndarray:
        """Return the names of the rows of a matrix: channel and delay.

        Parameters
        ----------
        input_features : array-like of str, optional
            Names of the channels, default those of MNE's epochs in ``fit``, else
            ``x0, x1, ...``; a single name stands for all channels, which are then
            numbered.

        Returns
        -------
        ndarray of str objects, shape (order * n_channels,)
            "x0" for order 1, else "x0_t0", "x1_t0", ..., "x0_t{lag}", ...
        """
        check_is_fitted(self, "order_")
        if input_features is None:
            input_features = getattr(self, "channel_names_", None)
        return delay_names(input_features, self.n_channels_, self.order_, self.lag_)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Do nothing: matrices have no data frame form, but pipelines ask each step."""
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "impute"
        return tags

    def _fit(self, X: ArrayLike, y: ArrayLike | None) -> np.ndarray:
        """Check epochs and settings and choose order and lag; return the epochs."""
        names = channel_names(X)
        X = check_epochs(X, missing=self.missing == "impute")
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
        self.n_channels_, self.channel_names_ = X[0].shape[0], names
        self.n_times_ = min(x.shape[1] for x in X)
        self._check_length(self.n_times_)
        if self.estimator == "mcd":
            # one seed for all epochs: no epoch's answer depends on those before it
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return X

    def _coordinates(self, channels: np.ndarray) -> Tensor:
        """Rows of a matrix that belong to some channels, in all delays."""
        starts = np.arange(self.order_) * self.n_channels_
        return torch.from_numpy((starts[:, None] + channels).ravel())

    def _set_reference(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.reference_: np.ndarray | None = None
        if not parts:
            return
        reference, seen = reference_covariance(
            [(torch.from_numpy(C), self._coordinates(c)) for C, c in parts],
            self.order_ * self.n_channels_,
        )
        if not bool(seen.all()):
            channel = int((~seen).nonzero()[0, 0])
            raise ValueError(
                f"X: channel {channel} is missing (NaN) in all training epochs, "
                "nothing is known of it; leave the channel out"
            )
        self.reference_ = reference.numpy()

    def _blocks(self, X: np.ndarray) -> tuple[list[Group], list[np.ndarray]]:
        """Return groups of epochs and the matrices of their observed channels."""
        groups = group_epochs(X)
        blocks = []
        for group in groups:
            self._check_length(group.X.shape[2], f"X[{group.rows[0]}]: ")
            C = self._estimate(group.X)
            blocks.append(self._ensure_definite(C, group, len(X)))
        return groups, blocks

    def _assemble(
        self, X: np.ndarray, groups: list[Group], blocks: list[np.ndarray]
    ) -> np.ndarray:
        """Put the matrices of groups in order, missing channels filled in."""
        dtype, size = X[0].dtype, self.order_ * self.n_channels_
        if len(groups) == 1 and len(groups[0].channels) == self.n_channels_:
            return blocks[0].astype(dtype, copy=False)
        observed = observed_channels(X)
        count = int((~observed.all(1)).sum())
        if count:
            warnings.warn(
                f"X: channels are missing (NaN) in {count} of {len(X)} epochs and were "
                f"filled in from the others: {describe_missing(observed)}",
                UserWarning,
                stacklevel=3,
            )
        C = np.empty((len(X), size, size))
        for group, block in zip(groups, blocks, strict=True):
            C[group.rows] = self._fill(block, group.channels)
        return C.astype(dtype, copy=False)

    def _fill(self, block: np.ndarray, channels: np.ndarray) -> np.ndarray:
        if len(channels) == self.n_channels_:
            return block
        reference = getattr(self, "reference_", None)
        if reference is None:
            raise ValueError(
                "X: channels are missing (NaN), and this model was loaded from a file, "
                "which holds no reference to fill them in by"
            )
        observed = self._coordinates(channels)
        C = fill(torch.from_numpy(block), observed, torch.from_numpy(reference)).numpy()
        if self.estimator == "corr":  # filled-in variances are only near one
            std = np.sqrt(np.diagonal(C, axis1=1, axis2=2))
            C = C / (std[:, :, None] * std[:, None, :])
        return C

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

    def _check_length(self, n_times: int, where: str = "") -> None:
        n = n_delay_vectors(n_times, self.order_, self.lag_, self.trim)
        size = self.order_ * self.n_channels_
        if self.structure == "toeplitz":
            n = n_times + (self.order_ - 1) * self.lag_
        if isinstance(self.estimator, str) and not self._shrinks() and n < size + 1:
            raise ValueError(
                f"{where}too few samples for a {size} x {size} covariance: "
                f"T = {n_times}, order = {self.order_}, lag = {self.lag_} give "
                f"T_eff = {n} delay vectors, expected at least {size + 1}; "
                "use estimator='oas', set shrinkage, or lower order and lag"
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
        params = dict(self.estimator_params or {})
        if self.estimator == "mcd":
            params.setdefault("random_state", getattr(self, "_seed", 0))
        C = by_peer(X, self.order_, self.lag_, self.trim, self.estimator, params)
        return shrink(torch.from_numpy(C), self.shrinkage).numpy()

    def _ensure_definite(self, C: np.ndarray, group: Group, total: int) -> np.ndarray:
        """Return positive definite matrices, or raise naming the first bad epoch."""
        X, rows = group.X, group.rows
        definite.check_variation(C, X, rows)
        bad = self._singular(C)  # what is not finite too
        if not bad.any():
            return C
        index = int(np.argmax(bad))
        found = definite.describe_singular(X[index], group.channels)
        found = f"X[{rows[index]}]: {found}; its augmented covariance"
        finite = np.isfinite(C[bad]).all()
        if self.on_singular == "raise" or not finite:
            raise ValueError(
                f"{found} is {'singular' if finite else 'not finite'}; use "
                "estimator='oas', set shrinkage, or drop the channel"
            )
        warnings.warn(
            f"{found} is singular and was shrunk by {_REPAIR_SHRINKAGE} "
            f"({int(bad.sum())} of {total} epochs); use estimator='oas', set "
            "shrinkage, or drop the channel",
            UserWarning,
            stacklevel=4,
        )
        return self._repair(C, bad)

    def _singular(self, C: np.ndarray) -> np.ndarray:
        # "sch" shrinks correlations: a flat channel stays flat
        if self._shrinks() and (self.estimator != "sch" or self.shrinkage):
            return ~np.isfinite(C).all((1, 2))
        return definite.singular(C)

    def _repair(self, C: np.ndarray, bad: np.ndarray | None = None) -> np.ndarray:
        bad = self._singular(C) if bad is None else bad
        if bad.any():
            C[bad] = shrink(torch.from_numpy(C[bad]), _REPAIR_SHRINKAGE).numpy()
        return C
