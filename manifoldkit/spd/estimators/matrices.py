"""What the estimators share: matrices in, metric matrices, running means.

Complex Hermitian matrices are computed with as real symmetric ones of twice the size,
see :mod:`manifoldkit.linalg.hermitian`.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor

from manifoldkit.linalg.checks import check_weights
from manifoldkit.linalg.elementary import trace
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian
from manifoldkit.spd.gbw.barycenter import gbw_mean
from manifoldkit.spd.gbw.chart import power_of
from manifoldkit.spd.gbw.metric import gbw_geodesic
from manifoldkit.spd.validation import ThreeDimensionalInput, check_matrices


def as_tensor(X: np.ndarray, real: bool) -> Tensor:
    """Return checked matrices in float64, or the real form of Hermitian ones."""
    dtype = np.complex128 if np.iscomplexobj(X) else np.float64
    x = torch.from_numpy(np.ascontiguousarray(X, dtype=dtype))
    return x if real else hermitian_to_real(x)


def as_matrix(x: Tensor, real: bool) -> np.ndarray:
    """Invert :func:`as_tensor`."""
    return (x if real else real_to_hermitian(x)).numpy()


def feature_dtype(X: np.ndarray) -> np.dtype:
    """Return the dtype of features: single or double precision as the matrices."""
    return np.dtype(np.float32 if X.dtype in (np.float32, np.complex64) else np.float64)


def weights_of(sample_weight: ArrayLike | None, X: np.ndarray) -> Tensor:
    """Return checked weights of matrices, ones by default."""
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    return check_weights(torch.from_numpy(weights), len(X), "sample_weight")


def matrix_option(
    value: ArrayLike, name: str, n: int, names: tuple[str, ...], real: bool
) -> str | Tensor:
    """Return the name that was given, or the matrix as a checked tensor."""
    if isinstance(value, str):
        if value not in names:
            options = ", ".join(map(repr, names))
            raise ValueError(f"{name}: expected {options} or a matrix, found {value!r}")
        return value
    matrix = np.asarray(value)
    if matrix.ndim != 2:
        raise ValueError(
            f"{name}: expected a matrix of shape ({n}, {n}), found shape {matrix.shape}"
        )
    if real and np.iscomplexobj(matrix):
        raise TypeError(
            f"{name}: expected a real matrix as those of X, found dtype {matrix.dtype}"
        )
    return as_tensor(check_matrices(matrix[None], name, n, hermitian=True)[0], real)


def metric_matrix(
    M: ArrayLike, x: Tensor, weights: Tensor, power: float, real: bool
) -> Tensor | None:
    """Return the metric matrix in the units of x^power, None for the identity."""
    n = x.shape[-1] if real else x.shape[-1] // 2
    matrix = matrix_option(M, "M", n, ("identity", "mean"), real)
    if isinstance(matrix, Tensor):
        return matrix
    if matrix == "identity":
        return None
    return power_of(gbw_mean(x, weights, power=power), power)


def size_of(x: Tensor, metric: Tensor | None, power: float) -> float:
    r"""Return :math:`\sqrt{\operatorname{tr}(M^{-1} X^\theta) / n}`, averaged over x.

    It has the unit of distances, so that what is divided by it has none.
    """
    flat = power_of(x, power)
    if metric is not None:
        flat = torch.linalg.solve(metric, flat)
    return float((trace(flat).mean() / x.shape[-1]).sqrt())


def move(mean: Tensor, weight: float, batch: Tensor, added: float, metric, power):
    """Return the running mean after a batch: a step along the geodesic to its mean."""
    return gbw_geodesic(mean, batch, added / (weight + added), metric, power)


class SPDInput(ThreeDimensionalInput):
    """Checks of what comes after ``fit``."""

    n_channels_: int
    metric_: np.ndarray

    def _is_real(self) -> bool:
        raise NotImplementedError

    def _check(self, X: ArrayLike) -> tuple[Tensor, np.dtype]:
        check_is_fitted(self)
        X = check_matrices(X, "X", self.n_channels_, hermitian=True)
        self._check_kind(X)
        return as_tensor(X, self._is_real()), feature_dtype(X)

    def _check_kind(self, X: np.ndarray) -> None:
        if np.iscomplexobj(X) and self._is_real():
            raise TypeError(
                f"X: expected real matrices as in fit, found dtype {X.dtype}; fit on "
                "complex matrices to use their imaginary part"
            )

    def _metric(self) -> Tensor:
        return as_tensor(self.metric_, self._is_real())
