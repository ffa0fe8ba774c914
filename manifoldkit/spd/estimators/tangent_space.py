"""Isometric tangent-space features of the generalized Bures-Wasserstein metric."""

import warnings
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_choice, check_settings, one_of
from manifoldkit.linalg import unvech, vech
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian
from manifoldkit.spd.estimators.matrices import (
    SPDInput,
    as_matrix,
    as_tensor,
    matrix_option,
    metric_matrix,
    move,
    size_of,
    weights_of,
)
from manifoldkit.spd.gbw.barycenter import gbw_mean
from manifoldkit.spd.gbw.chart import check_power
from manifoldkit.spd.gbw.tangent import OUTSIDE, from_tangent_vector, tangent_vector
from manifoldkit.spd.hermitian import (
    hermitian_matrix,
    hermitian_vector,
)
from manifoldkit.spd.validation import check_matrices, check_numbers

# A reference that was given is compared with data: further apart in size than this
# the features hold little but the unit.
_UNIT_RATIO = 1e4


class GBWTangentSpace(ClassNamePrefixFeaturesOutMixin, TransformerMixin, SPDInput):
    r"""Isometric tangent-space features of the generalized Bures-Wasserstein metric.

    The logarithm at the reference is transported to the identity, in closed form, and
    half-vectorized, so that the Euclidean norm of a feature vector is exactly the
    distance to the reference and inner products are those of the metric: what a linear
    model behind it assumes. By default that is so in the unit that suits the data, a
    power of 1000 times theirs (volts are turned into microvolts), so that regularized
    models behind it answer alike in every such unit.

    Matrices may be complex Hermitian (cross-spectra); then the n² features are the real
    part, half-vectorized, and the imaginary part above the diagonal times
    :math:`\sqrt 2`.

    Parameters
    ----------
    power : float, default=1.0
        Power deformation of the metric, see :func:`~manifoldkit.spd.gbw_distance`.
    M : {"identity", "mean"} or array-like of shape (n, n), default="identity"
        Metric matrix; "mean": the mean of the training matrices (of their powers).
    reference : {"mean", "identity"} or array-like of shape (n, n), default="mean"
        Where the tangent space is; "mean" is the mean of the training matrices.
        "identity" or a matrix is in the unit of the data, which then matters; a warning
        tells where it is 10,000 times as large as the matrices, or as small.
    outside : {"raise", "clip"}, default="raise"
        What ``inverse_transform`` does with vectors beyond the injectivity domain:
        raise, or shorten them until they are inside.
    normalize : {"unit", True, False}, default="unit"
        What features are divided by. "unit": the power of 1000 that is nearest to the
        size of the signals (one, where their root mean square is between 0.03 and 30),
        and the same for the deformed metric. True: the size of the reference, so that
        no factor at all changes what a model behind it answers. False: one. With
        ``M="mean"`` distances have no unit, and "unit" divides by one.

    Attributes
    ----------
    reference_ : ndarray of shape (n, n)
        Reference matrix.
    metric_ : ndarray of shape (n, n)
        Metric matrix that is used.
    scale_ : float
        What features are divided by: times it their lengths are the distances of
        :func:`~manifoldkit.spd.gbw_distance`. With ``normalize=True`` the root of the
        mean eigenvalue of :math:`M^{-1} G^\theta` at the reference G.
    weight_ : float
        Total weight of the matrices that were given.
    n_channels_ : int
        Size of the matrices seen in ``fit``.

    Raises
    ------
    ValueError
        When fitted: bad matrices (the first is named), or settings out of range.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([np.diag([1., 1.]), np.diag([9., 1.])])
    >>> GBWTangentSpace(reference="identity").fit_transform(X)
    array([[0., 0., 0.],
           [2., 0., 0.]])
    """

    def __init__(
        self,
        power: float = 1.0,
        M: ArrayLike = "identity",
        reference: ArrayLike = "mean",
        outside: str = "raise",
        normalize: bool | str = "unit",
    ):
        self.power = power
        self.M = M
        self.reference = reference
        self.outside = outside
        self.normalize = normalize

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Compute the reference and the metric matrix.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices, real or complex.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights of the mean.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A matrix is not SPD (named), or settings do not fit.
        """
        return self._start(self._check_training(X), sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        r"""Move the reference towards further matrices.

        The reference of total weight W moves along the geodesic to the mean of the new
        matrices, of weight w, by the part :math:`w / (W + w)`: exact for commuting
        matrices, and for one matrix a call the running mean of pyriemann's online
        examples. The metric matrix, and a reference that was given, stay those of the
        first call (or of :meth:`fit`, after which this method goes on). What was fitted
        to earlier features is not told: keep the reference, or fit it again.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As :meth:`fit`.
        """
        if not hasattr(self, "reference_"):
            return self._start(self._check_training(X), sample_weight)
        X = self._check_training(X, self.n_channels_)
        self._check_kind(X)
        weights, added = self._weights(sample_weight, X)
        if isinstance(self.reference, str) and self.reference == "mean":
            real, metric = self._is_real(), self._metric()
            batch = gbw_mean(as_tensor(X, real), weights, metric, self.power)
            old = as_tensor(self.reference_, real)
            moved = move(old, self.weight_, batch, added, metric, self.power)
            self._set_reference(moved, real)
        self.weight_ += added
        return self

    def _check_training(self, X: ArrayLike, n: int | None = None) -> np.ndarray:
        check_power(self.power)
        check_choice(self.outside, OUTSIDE, "outside")
        check_settings(self, {"normalize": one_of("unit", True, False)})
        return check_matrices(X, n=n, hermitian=True)

    def _weights(self, sample_weight, X) -> tuple[Tensor, float]:
        weights = weights_of(sample_weight, X)
        return weights, float(weights.sum())

    def _start(self, X: np.ndarray, sample_weight: ArrayLike | None) -> Self:
        real, n = not np.iscomplexobj(X), X.shape[-1]
        x, (weights, self.weight_) = as_tensor(X, real), self._weights(sample_weight, X)
        metric = metric_matrix(self.M, x, weights, self.power, real)
        names = ("mean", "identity")
        reference = matrix_option(self.reference, "reference", n, names, real)
        given = reference != "mean" if isinstance(reference, str) else True
        if isinstance(reference, str):
            reference = (
                torch.eye(x.shape[-1]).to(x)
                if given
                else gbw_mean(x, weights, metric, self.power)
            )
        self.n_channels_ = n
        self.metric_ = np.eye(n) if metric is None else as_matrix(metric, real)
        self._set_reference(reference, real)
        if given:
            self._compare_units(x)
        return self

    def _set_reference(self, reference: Tensor, real: bool) -> None:
        self.reference_ = as_matrix(reference, real)
        metric = as_tensor(self.metric_, real)
        if self.normalize == "unit":
            self.scale_ = self._unit()
        elif self.normalize:
            self.scale_ = size_of(reference, metric, self.power)
        else:
            self.scale_ = 1.0

    def _unit(self) -> float:
        """Size of features in the unit of a power of 1000 that suits the reference."""
        if isinstance(self.M, str) and self.M == "mean":
            return 1.0
        square = float(np.trace(self.reference_).real) / self.n_channels_
        steps = np.floor(np.log10(square) / 6 + 0.5)
        return float(1000.0 ** (steps * self.power))

    def _compare_units(self, x: Tensor) -> None:
        reference = as_tensor(self.reference_, self._is_real())
        size = [float(m.diagonal(dim1=-2, dim2=-1).mean()) for m in (x, reference)]
        if not 1 / _UNIT_RATIO < size[0] / size[1] < _UNIT_RATIO:
            warnings.warn(
                f"reference: its mean eigenvalue is {size[1]:.1e}, that of the "
                f"matrices {size[0]:.1e}; a given reference is in the unit of the "
                "data: choose another unit for the signals, or reference='mean'",
                UserWarning,
                stacklevel=4,
            )

    def _is_real(self) -> bool:
        return not np.iscomplexobj(self.reference_)

    def _turn(self) -> Tensor:
        """Orthogonal matrix from the real form of chol(M) to chol of the real form.

        Tangent coordinates are those of the frame that the Cholesky factor of M gives;
        in the former their matrices are real forms.
        """
        factor = torch.linalg.cholesky(torch.from_numpy(self.metric_))
        second = cholesky(self._metric())
        return torch.linalg.solve_triangular(
            second, hermitian_to_real(factor), upper=False
        )

    @property
    def _n_features_out(self) -> int:
        n = self.n_channels_
        return n * (n + 1) // 2 if self._is_real() else n * n

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the features, shape (n_matrices, n (n + 1) / 2) or, complex, n²."""
        x, dtype = self._check(X)
        base = as_tensor(self.reference_, self._is_real())
        vectors = tangent_vector(base, x, self._metric(), self.power)
        if not self._is_real():
            turn = self._turn()
            tangent = real_to_hermitian(turn.mT @ unvech(vectors) @ turn)
            vectors = hermitian_vector(tangent)
        return (vectors / self.scale_).numpy().astype(dtype, copy=False)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Return the SPD matrices that features stand for.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n (n + 1) / 2) or (n_matrices, n²)
            Features.

        Returns
        -------
        ndarray of shape (n_matrices, n, n)

        Raises
        ------
        ValueError
            Wrong number of features; or, with ``outside="raise"``, the first vector
            beyond the injectivity domain.
        """
        check_is_fitted(self)
        X = check_numbers(X, "X", "features of shape (n_matrices, n_features)")
        if X.ndim != 2 or X.shape[1] != self._n_features_out:
            raise ValueError(
                f"X: expected features of shape (n_matrices, {self._n_features_out}), "
                f"found shape {X.shape}"
            )
        if not np.isfinite(X).all():
            row = np.argwhere(~np.isfinite(X))[0, 0]
            raise ValueError(f"X[{row}] is not finite: it contains NaN or infinity")
        real = self._is_real()
        vectors = torch.from_numpy(X.astype(np.float64)) * self.scale_
        if not real:
            turn = self._turn()
            tangent = hermitian_to_real(hermitian_matrix(vectors))
            vectors = vech(turn @ tangent @ turn.mT)
        base = as_tensor(self.reference_, real)
        matrices = as_matrix(
            from_tangent_vector(
                base, vectors, self._metric(), self.power, outside=self.outside
            ),
            real,
        )
        single = np.float32 if real else np.complex64
        return matrices.astype(single) if X.dtype == np.float32 else matrices
