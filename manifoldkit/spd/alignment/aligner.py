"""Recentering, scaling and rotation of the SPD matrices of each domain."""

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from manifoldkit._checks import check_settings, interval, one_of, positive
from manifoldkit.spd.alignment.domains import (
    Domain,
    check_domains,
    check_kind,
    rows_of,
)
from manifoldkit.spd.alignment.rotation import find_rotations
from manifoldkit.spd.alignment.statistics import (
    Statistics,
    align,
    double,
    estimate,
    squared_distances,
)
from manifoldkit.spd.estimators.matrices import weights_of
from manifoldkit.spd.pyriemann_bridge import geometry_of
from manifoldkit.spd.validation import (
    ThreeDimensionalInput,
    check_labels,
    check_matrices,
)

UNSEEN = ("estimate", "identity", "error")


class DomainAligner(TransformerMixin, ThreeDimensionalInput):
    r"""Bring the SPD matrices of several domains to one place, size and orientation.

    A domain is a subject, a session, a device: what changes the mixing of the signals
    but not what they tell. The matrices X of a domain with mean G and dispersion
    :math:`\sigma^2`, the mean squared distance to G, become

    .. math:: Q\,(G^{-1/2} X G^{-1/2})^{\,s / \sigma}\, Q^\top

    with the wanted dispersion :math:`s^2`. By default only the mean is moved (the
    exponent is one, Q the identity): then domains that differ by an invertible mixing
    of their channels come out equal but for a rotation, and classifiers of one subject
    serve another. Domains are given beside the data, never inside the labels, and
    each is treated by its own matrices alone.

    The argument ``domains`` of the methods is requested by default: with
    ``sklearn.set_config(enable_metadata_routing=True)`` a pipeline, and
    ``cross_val_score(..., params={"domains": ...})`` with ``scoring=None``, hand it on,
    to ``predict`` and ``score`` too. Without ``domains`` all matrices are of one
    domain without a name, which is another one than those with a name.

    Parameters
    ----------
    recenter : bool, default=True
        Move the mean of each domain to the identity.
    rescale : bool, default=False
        Bring each domain to the dispersion ``dispersion``. A domain whose matrices are
        all the same is not stretched.
    rotate : bool, default=False
        Rotate each fitted domain so that its class means come to those of ``target``;
        needs labels in ``fit``. Unseen domains are not rotated.
    metric : {"riemann", "euclid", "logeuclid"} or dict, default="riemann"
        Of means and distances, or :func:`~manifoldkit.spd.gbw_metric`. Only the
        affine-invariant "riemann" puts the mean exactly at the identity.
    unseen : {"estimate", "identity", "error"}, default="estimate"
        Domains that come in ``transform`` alone. "estimate": mean and dispersion of
        the matrices of that domain that are given, no labels needed. "identity": not
        aligned, only divided by ``scale_`` so that the unit of the signals does not
        matter (unchanged without ``recenter``). "error": refused.
    dispersion : float, default=1.0
        Wanted mean squared distance to the mean.
    target : str, int or None, default=None
        Domain that the others are rotated to; None: the means over all domains of the
        class means.
    rotation_metric : {"euclid", "riemann"}, default="euclid"
        What the rotations minimize between class means.
    forgetting : float, default=0.0
        In [0, 1): with every matrix of a domain, :meth:`partial_fit` multiplies the
        weight of its earlier ones by one less this. 0 weighs all alike, 0.05 follows
        about the last 20.

    Attributes
    ----------
    centers_ : dict
        Mean of each domain, ndarray (n, n), in the unit of the data.
    dispersions_ : dict
        Mean squared distance to it.
    rotations_ : dict
        Orthogonal matrices (n, n) of the fitted domains, with ``rotate``.
    weights_ : dict
        Total weight of the matrices of each domain, less what was forgotten.
    scale_ : float
        Mean eigenvalue of the matrices.
    n_channels_ : int
        Size of the matrices.

    Raises
    ------
    ValueError
        When fitted: bad matrices (the first is named) or settings.

    Notes
    -----
    With ``domains`` known the transformed matrices are those of ``TLCenter``,
    ``TLScale(centered_data=True)`` and ``TLRotate`` of ``pyriemann.transfer``.
    Recentering an unseen domain whose class shares differ from those of the others
    moves its classes, because the mean follows the larger class.

    References
    ----------
    .. [1] Zanini et al., "Transfer learning: a Riemannian geometry framework with
           applications to brain-computer interfaces", IEEE TBME 65, 2018.
    .. [2] Rodrigues, Jutten, Congedo, "Riemannian Procrustes analysis: transfer
           learning for brain-computer interfaces", IEEE TBME 66, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([np.diag([1.0, 4.0]), np.diag([4.0, 4.0])])
    >>> both = np.concatenate([X, 9 * X])  # the second subject's signals are larger
    >>> aligner = DomainAligner()
    >>> Z = aligner.fit_transform(both, domains=["a", "a", "b", "b"])
    >>> bool(np.allclose(Z[:2], Z[2:]))
    True
    >>> new = aligner.transform(100 * X, domains=["c", "c"])
    >>> bool(np.allclose(new, Z[:2]))
    True
    """

    # scikit-learn routes domains without being asked to
    __metadata_request__fit = {"domains": True}  # noqa: RUF012
    __metadata_request__partial_fit = {"domains": True}  # noqa: RUF012
    __metadata_request__transform = {"domains": True}  # noqa: RUF012

    n_channels_: int
    centers_: dict[Domain, np.ndarray]
    dispersions_: dict[Domain, float]
    weights_: dict[Domain, float]
    rotations_: dict[Domain, np.ndarray]

    def __init__(
        self,
        recenter: bool = True,
        rescale: bool = False,
        rotate: bool = False,
        metric: str | dict[str, Callable[..., Any]] = "riemann",
        unseen: str = "estimate",
        *,
        dispersion: float = 1.0,
        target: str | int | None = None,
        rotation_metric: str = "euclid",
        forgetting: float = 0.0,
    ):
        self.recenter = recenter
        self.rescale = rescale
        self.rotate = rotate
        self.metric = metric
        self.unseen = unseen
        self.dispersion = dispersion
        self.target = target
        self.rotation_metric = rotation_metric
        self.forgetting = forgetting

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        domains: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn mean, dispersion and rotation of each domain.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices, real or complex (complex ones without ``rotate``).
        y : array-like of shape (n_matrices,), optional
            Labels; needed and used with ``rotate`` only.
        domains : array-like of shape (n_matrices,), optional
            Name of each matrix's domain, strings or integers.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights; every domain needs a positive sum.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            Names that are neither strings nor integers; complex matrices to rotate.
        ValueError
            A matrix is not SPD (named), lengths or settings do not fit, ``rotate``
            without labels or with a class that a domain lacks.
        """
        self._check_settings()
        X = check_matrices(X, hermitian=True)
        names = check_domains(domains, len(X))
        weights = weights_of(sample_weight, X).numpy()
        labels = self._labels(X, y) if self.rotate else None
        self._start(X)
        for name, rows in rows_of(names):
            self._learn(name, X[rows], weights[rows])
        kept = weights > 0
        self._set_scale(X, weights)
        if labels is not None:
            centered = self._move(X, names)
            self.rotations_ = find_rotations(
                centered[kept],
                labels[kept],
                [name for name, keep in zip(names, kept, strict=True) if keep],
                weights[kept],
                self.target,
                self.rotation_metric,
            )
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        domains: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        r"""Move the means of domains towards further matrices, one after the other.

        The mean of total weight W moves along the geodesic to a matrix of weight w by
        the part :math:`w / ((1 - f) W + w)`, f the ``forgetting``; so portions of any
        size give the same. Without forgetting, and where the metric is flat or the
        matrices commute, that is the mean of all. The dispersion follows alike. A
        domain may be new; rotations stay those of :meth:`fit`.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices in the order in which they came.
        y : None
            Ignored.
        domains, sample_weight
            As for :meth:`fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :meth:`fit`.
        """
        self._check_settings()
        first = not hasattr(self, "centers_")
        X = check_matrices(X, n=None if first else self.n_channels_, hermitian=True)
        names = check_domains(domains, len(X))
        weights = weights_of(sample_weight, X).numpy()
        if first:
            self._start(X)
        else:
            X = self._as_fitted(X)
            check_kind(names, self.centers_)
        for x, name, weight in zip(X, names, weights, strict=True):
            if weight > 0:
                self._step(name, double(x), float(weight))
        self._set_scale(X, weights)
        return self

    def adapt(
        self,
        X: ArrayLike,
        domains: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn mean and dispersion of the given domains anew; the others stay.

        For a new subject's trials without labels, before there are more of them.

        Parameters
        ----------
        X, domains, sample_weight
            As for :meth:`fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :meth:`fit`.
        """
        check_is_fitted(self)
        self._check_settings()
        matrices, names = self._checked(X, domains)
        weights = weights_of(sample_weight, matrices).numpy()
        for name, rows in rows_of(names):
            self._learn(name, matrices[rows], weights[rows])
        return self

    def transform(self, X: ArrayLike, domains: ArrayLike | None = None) -> np.ndarray:
        """Return the aligned matrices, shape (n_matrices, n, n).

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices.
        domains : array-like of shape (n_matrices,), optional
            Name of each matrix's domain. With ``unseen="estimate"`` give all that is
            there of a domain that was not fitted: its mean is theirs. A single matrix
            would be its own mean, and a warning says so.

        Raises
        ------
        ValueError
            Bad matrices; a domain that was not fitted, with ``unseen="error"``.
        """
        check_is_fitted(self)
        matrices, names = self._checked(X, domains)
        return self._move(matrices, names).astype(matrices.dtype, copy=False)

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        domains: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> np.ndarray:
        """Fit, and return the aligned matrices.

        Parameters
        ----------
        X, y, domains, sample_weight
            As for :meth:`fit`.
        """
        return self.fit(X, y, domains, sample_weight).transform(X, domains)

    def _check_settings(self) -> None:
        switch = one_of(True, False)
        check_settings(
            self,
            {
                "recenter": switch,
                "rescale": switch,
                "rotate": switch,
                "unseen": one_of(*UNSEEN),
                "dispersion": positive,
                "rotation_metric": one_of("euclid", "riemann"),
                "forgetting": interval(0, 1, "[)"),
            },
        )
        geometry_of(self.metric)
        if self.rotate and not self.recenter:
            raise ValueError(
                "rotate: expected recenter=True, rotations are about the common mean; "
                "found recenter=False"
            )

    def _labels(self, X: np.ndarray, y: ArrayLike | None) -> np.ndarray:
        if np.iscomplexobj(X):
            raise TypeError(f"rotate: real matrices only, found dtype {X.dtype}")
        return check_labels(X, y, "DomainAligner(rotate=True)")

    def _checked(
        self, X: ArrayLike, domains: ArrayLike | None
    ) -> tuple[np.ndarray, list[Domain]]:
        """Return matrices and domains as those that were fitted."""
        X = self._as_fitted(check_matrices(X, n=self.n_channels_, hermitian=True))
        names = check_domains(domains, len(X))
        check_kind(names, self.centers_)
        return X, names

    def _as_fitted(self, X: np.ndarray) -> np.ndarray:
        """Return real matrices as complex ones where those were fitted."""
        complex_ = np.iscomplexobj(next(iter(self.centers_.values())))
        if np.iscomplexobj(X) and not complex_:
            raise TypeError(
                f"X: expected real matrices as in fit, found dtype {X.dtype}"
            )
        return X + 0j if complex_ and not np.iscomplexobj(X) else X

    def _start(self, X: np.ndarray) -> None:
        self.n_channels_ = X.shape[-1]
        self.centers_, self.dispersions_ = {}, {}
        self.weights_, self.rotations_ = {}, {}
        self.scale_, self._scale_weight = 0.0, 0.0

    def _set_scale(self, X: np.ndarray, weights: np.ndarray) -> None:
        """Move the mean eigenvalue to what these matrices add."""
        sizes = np.trace(X, axis1=1, axis2=2).real.astype(float) / X.shape[-1]
        added = float(weights.sum())
        total = self._scale_weight + added
        self.scale_ += (float(weights @ sizes) - added * self.scale_) / total
        self._scale_weight = total

    def _learn(self, name: Domain, X: np.ndarray, weights: np.ndarray) -> None:
        kept = weights > 0
        if not kept.any():
            raise ValueError(
                f"sample_weight: expected a positive sum in domain {name!r}, found zero"
            )
        found = estimate(X[kept], self.metric, weights[kept])
        self.centers_[name] = found.center
        self.dispersions_[name] = found.dispersion
        self.weights_[name] = float(weights.sum())

    def _step(self, name: Domain, x: np.ndarray, weight: float) -> None:
        """Take one matrix of a domain in."""
        if name not in self.centers_:
            self.centers_[name], self.dispersions_[name] = x, 0.0
            self.weights_[name] = weight
            return
        center, kept = self.centers_[name], self.weights_[name] * (1 - self.forgetting)
        part = weight / (kept + weight)
        squared = float(squared_distances(x[None], center, self.metric)[0])
        moved = geometry_of(self.metric).geodesic(center, x, part)
        self.centers_[name] = (moved + moved.conj().T) / 2
        # the variance of a mixture of the earlier matrices and this one
        old = self.dispersions_[name]
        self.dispersions_[name] = (1 - part) * (old + part * squared)
        self.weights_[name] = kept + weight

    def _known(self, name: Domain, X: np.ndarray) -> Statistics:
        """Return what is known of a domain, or what ``unseen`` makes of it."""
        if name in self.centers_:
            rotation = self.rotations_.get(name)
            return Statistics(self.centers_[name], self.dispersions_[name], rotation)
        if self.unseen == "error":
            raise ValueError(
                f"domains: expected one of {list(self.centers_)} as in fit "
                f"(unseen='error'), found {name!r}"
            )
        if self.unseen == "identity":
            n = self.n_channels_
            size = self.scale_ if self.recenter else 1.0
            return Statistics(size * np.eye(n), 0.0, None)
        if len(X) == 1:
            warnings.warn(
                f"domains: a single matrix of the unseen domain {name!r}, which is its "
                "own mean; give more of them, or call partial_fit before",
                UserWarning,
                stacklevel=4,
            )
        return estimate(X, self.metric)

    def _move(self, X: np.ndarray, names: list[Domain]) -> np.ndarray:
        X = double(X)
        out = X.copy()
        for name, rows in rows_of(names):
            known = self._known(name, X[rows])
            out[rows] = align(
                X[rows],
                known,
                recenter=self.recenter,
                dispersion=self.dispersion if self.rescale else None,
            )
        return out
