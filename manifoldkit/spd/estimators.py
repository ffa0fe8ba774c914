"""Scikit-learn estimators with the generalized Bures-Wasserstein metric.

Both compute in float64 and return the floating dtype of their input. They are
deterministic: the same data give the same fit.
"""

from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_choice, check_settings, count, interval
from manifoldkit.linalg.checks import check_weights
from manifoldkit.spd.gbw.barycenter import gbw_mean
from manifoldkit.spd.gbw.chart import check_power, power_of
from manifoldkit.spd.gbw.metric import gbw_distance
from manifoldkit.spd.gbw.metric_learning import learn_metric_matrix
from manifoldkit.spd.gbw.tangent import OUTSIDE, from_tangent_vector, tangent_vector
from manifoldkit.spd.validation import (
    ThreeDimensionalInput,
    check_labels,
    check_matrices,
    classes_of,
)


def _tensor(X: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64))


def _sample_weights(sample_weight, X: np.ndarray) -> Tensor:
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    return check_weights(torch.from_numpy(weights), len(X), "sample_weight")


def _matrix_option(value, name: str, n: int, names: tuple[str, ...]):
    """Return the name that was given, or the matrix as a checked tensor."""
    if isinstance(value, str):
        if value not in names:
            options = ", ".join(map(repr, names))
            raise ValueError(f"{name}: expected {options} or a matrix, found {value!r}")
        return value
    value = np.asarray(value)
    if value.ndim != 2:
        raise ValueError(
            f"{name}: expected a matrix of shape ({n}, {n}), found shape {value.shape}"
        )
    return _tensor(check_matrices(value[None], name, n)[0])


def _metric_matrix(M, x: Tensor, weights: Tensor, power: float) -> Tensor | None:
    """Return the metric matrix in the units of x^power, None for the identity."""
    M = _matrix_option(M, "M", x.shape[-1], ("identity", "mean"))
    if isinstance(M, Tensor):
        return M
    if M == "identity":
        return None
    return power_of(gbw_mean(x, weights, power=power), power)


def _as_array(matrix: Tensor | None, n: int) -> np.ndarray:
    return np.eye(n) if matrix is None else matrix.numpy()


class _SPDInput(ThreeDimensionalInput):
    """Checks of what comes after ``fit``."""

    n_channels_: int

    def _check(self, X: ArrayLike) -> tuple[Tensor, np.dtype]:
        check_is_fitted(self)
        X = check_matrices(X, "X", self.n_channels_)
        return _tensor(X), X.dtype


class GBWMDM(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, _SPDInput
):
    r"""Minimum distance to the class means, generalized Bures-Wasserstein metric.

    A matrix goes to the class whose mean is nearest. All class means are computed in
    one batched call.

    Parameters
    ----------
    power : float, default=1.0
        Power deformation of the metric, see :func:`~manifoldkit.spd.gbw_distance`.
    M : {"identity", "mean"} or array-like of shape (n, n), default="identity"
        Metric matrix. "identity": Bures-Wasserstein. "mean": the mean of all training
        matrices (of their powers), which makes the metric nearly affine invariant
        around the data while distances stay linear in small eigenvalues.
    learn_metric : bool, default=False
        Start from ``M`` and learn the metric matrix: L-BFGS on the penalized
        cross-entropy of ``softmax(-d^2 / tau)`` over its log-Cholesky coordinates, the
        class means following the metric. Exact gradients; slower.
    penalty : float, default=0.01
        Weight of the squared distance of the learned coordinates to their start.
    max_iter : int, default=30
        Largest number of L-BFGS iterations.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    covmeans_ : ndarray of shape (n_classes, n, n)
        Class means.
    metric_ : ndarray of shape (n, n)
        Metric matrix that is used.
    temperature_ : float
        ``tau``, fitted to the training labels by maximum likelihood with smoothed
        targets (Platt), so that separable classes leave it positive.
    n_channels_ : int
        Size of the matrices seen in ``fit``.

    Raises
    ------
    ValueError
        When fitted: bad matrices (the first is named), one class only, or settings out
        of range.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([np.diag([1., 1.]), np.diag([1., 2.]), np.diag([9., 1.])])
    >>> model = GBWMDM().fit(X, ["rest", "rest", "move"])
    >>> model.predict(np.array([np.diag([8., 2.])]))
    array(['move'], dtype='<U4')
    """

    def __init__(
        self,
        power: float = 1.0,
        M: ArrayLike = "identity",
        learn_metric: bool = False,
        penalty: float = 0.01,
        max_iter: int = 30,
    ):
        self.power = power
        self.M = M
        self.learn_metric = learn_metric
        self.penalty = penalty
        self.max_iter = max_iter

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Compute the class means and the temperature.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices.
        y : array-like of shape (n_matrices,)
            Labels, at least two different ones.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights; every class needs a positive sum.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A matrix is not SPD (named), one class only, lengths or settings do not fit.
        """
        X = check_matrices(X)
        y = check_labels(X, y, "GBWMDM")
        labels = classes_of(y)
        codes = np.searchsorted(labels, y)
        check_power(self.power)
        check_settings(self, {"max_iter": count(), "penalty": interval(0)})
        x, weights = _tensor(X), _sample_weights(sample_weight, X)
        groups = _group(codes, weights, labels)
        metric = _metric_matrix(self.M, x, weights, self.power)
        if self.learn_metric:
            metric = learn_metric_matrix(
                x,
                torch.from_numpy(codes),
                weights,
                groups,
                metric,
                power=self.power,
                penalty=self.penalty,
                max_iter=self.max_iter,
            )
        index, group_weights = groups
        means = gbw_mean(x[index], group_weights, metric, self.power)
        self.classes_ = labels
        self.n_channels_ = X.shape[-1]
        self.covmeans_ = means.numpy()
        self.metric_ = _as_array(metric, X.shape[-1])
        distances = self._distances(x)
        self.temperature_ = _fit_temperature(distances**2, codes, weights.numpy())
        return self

    def _distances(self, x: Tensor) -> np.ndarray:
        metric, means = map(torch.from_numpy, (self.metric_, self.covmeans_))
        return gbw_distance(x[:, None], means, metric, self.power).numpy()

    @property
    def _n_features_out(self) -> int:
        return len(self.classes_)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the distances to the class means, shape (n_matrices, n_classes)."""
        x, dtype = self._check(X)
        return self._distances(x).astype(dtype, copy=False)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the label of the nearest class mean, shape (n_matrices,)."""
        x, _ = self._check(X)
        return self.classes_[self._distances(x).argmin(1)]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return ``softmax(-d^2 / temperature_)``, shape (n_matrices, n_classes)."""
        x, _ = self._check(X)
        return softmax(-(self._distances(x) ** 2) / self.temperature_, axis=1)


def _group(codes, weights: Tensor, labels):
    """Return indices (n_classes, longest) of the classes and weights, 0 for padding."""
    members = [np.flatnonzero(codes == k) for k in range(len(labels))]
    index = torch.zeros(len(labels), max(map(len, members)), dtype=torch.long)
    grouped = torch.zeros(index.shape, dtype=weights.dtype)
    for k, rows in enumerate(members):
        index[k, : len(rows)] = torch.from_numpy(rows)
        grouped[k, : len(rows)] = weights[rows]
        if not grouped[k].sum() > 0:
            raise ValueError(
                f"sample_weight: all weights of class {labels.tolist()[k]!r} are zero"
            )
    return index, grouped


def _fit_temperature(squared: np.ndarray, codes, weights) -> float:
    """Minimize the cross-entropy of softmax(-d^2 / tau) against smoothed targets."""
    count, n_classes = squared.shape
    sizes = np.bincount(codes, weights, minlength=n_classes)
    # Platt's targets, (N + 1) / (N + 2) for two classes
    miss = (n_classes - 1) / (sizes[codes] + n_classes)
    targets = np.repeat((miss / (n_classes - 1))[:, None], n_classes, axis=1)
    targets[np.arange(count), codes] = 1 - miss
    gaps = squared - squared.min(1, keepdims=True)
    scale = gaps[weights > 0].max()
    if not scale > 0:
        return 1.0

    def loss(log_tau):
        logits = log_softmax(-gaps / (scale * np.exp(log_tau)), axis=1)
        return -(weights[:, None] * targets * logits).sum() / weights.sum()

    best = minimize_scalar(loss, bounds=(-16.0, 8.0), method="bounded")
    return float(scale * np.exp(best.x))


class GBWTangentSpace(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _SPDInput):
    r"""Isometric tangent-space features of the generalized Bures-Wasserstein metric.

    The logarithm at the reference is transported to the identity, in closed form, and
    half-vectorized, so that the Euclidean norm of a feature vector is exactly the
    distance to the reference and inner products are those of the metric: what a linear
    model behind it assumes.

    Parameters
    ----------
    power : float, default=1.0
        Power deformation of the metric, see :func:`~manifoldkit.spd.gbw_distance`.
    M : {"identity", "mean"} or array-like of shape (n, n), default="identity"
        Metric matrix; "mean": the mean of the training matrices (of their powers).
    reference : {"mean", "identity"} or array-like of shape (n, n), default="mean"
        Where the tangent space is; "mean" is the mean of the training matrices.
    outside : {"raise", "clip"}, default="raise"
        What ``inverse_transform`` does with vectors beyond the injectivity domain:
        raise, or shorten them until they are inside.

    Attributes
    ----------
    reference_ : ndarray of shape (n, n)
        Reference matrix.
    metric_ : ndarray of shape (n, n)
        Metric matrix that is used.
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
    ):
        self.power = power
        self.M = M
        self.reference = reference
        self.outside = outside

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
            SPD matrices.
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
        X = check_matrices(X)
        n = X.shape[-1]
        check_power(self.power)
        check_choice(self.outside, OUTSIDE, "outside")
        x, weights = _tensor(X), _sample_weights(sample_weight, X)
        metric = _metric_matrix(self.M, x, weights, self.power)
        reference = _matrix_option(self.reference, "reference", n, ("mean", "identity"))
        if not isinstance(reference, Tensor):
            mean = reference == "mean"
            reference = (
                gbw_mean(x, weights, metric, self.power) if mean else torch.eye(n).to(x)
            )
        self.n_channels_ = n
        self.metric_ = _as_array(metric, n)
        self.reference_ = reference.numpy()
        return self

    @property
    def _n_features_out(self) -> int:
        return self.n_channels_ * (self.n_channels_ + 1) // 2

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the features, shape (n_matrices, n (n + 1) / 2)."""
        x, dtype = self._check(X)
        metric, base = map(torch.from_numpy, (self.metric_, self.reference_))
        vectors = tangent_vector(base, x, metric, self.power)
        return vectors.numpy().astype(dtype, copy=False)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Return the SPD matrices that features stand for.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n (n + 1) / 2)
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
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self._n_features_out:
            raise ValueError(
                f"X: expected features of shape (n_matrices, {self._n_features_out}), "
                f"found shape {X.shape}"
            )
        if not np.isfinite(X).all():
            row = np.argwhere(~np.isfinite(X))[0, 0]
            raise ValueError(f"X[{row}] is not finite: it contains NaN or infinity")
        metric, base = map(torch.from_numpy, (self.metric_, self.reference_))
        matrices = from_tangent_vector(
            base, _tensor(X), metric, self.power, outside=self.outside
        )
        dtype = X.dtype if X.dtype == np.float32 else np.float64
        return matrices.numpy().astype(dtype, copy=False)
