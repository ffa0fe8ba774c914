"""What the estimators share: points in, checks, means that tell when they are not one.

Estimators compute in float64; they take NumPy arrays and torch tensors and give NumPy
arrays.
"""

import warnings
from typing import Any

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import validate_data
from torch import Tensor

from manifoldkit._checks import count, optional, positive
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg.checks import check_weights
from manifoldkit.manifolds import Euclidean
from manifoldkit.manifolds.means.karcher import KarcherMean
from manifoldkit.manifolds.points import check_manifold_argument, check_points
from manifoldkit.manifolds.tangent import coordinates, tangent_basis
from manifoldkit.optim import karcher_mean
from manifoldkit.statistics.limits import injectivity_radius

#: Settings of estimators that compute means.
SEARCH = {"tol": optional(positive), "max_iter": count()}


def as_array(X: Any) -> Any:
    """Return what a torch tensor holds as an array, and anything else as it is."""
    return X.detach().cpu().numpy() if isinstance(X, Tensor) else X


def as_numpy(x: Tensor) -> np.ndarray:
    """Return the array of a tensor."""
    return x.detach().cpu().numpy()


class PointEstimator(BaseEstimator):
    """An estimator whose samples are points of ``manifold``; of None, rows."""

    manifold: Manifold | None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if self.manifold is not None and getattr(self.manifold, "ndim", 1) != 1:
            tags.input_tags.two_d_array = False
            tags.input_tags.three_d_array = True
        return tags

    def _space(self) -> Manifold:
        """Return the manifold; None is Euclidean space."""
        if self.manifold is None:
            return Euclidean(ndim=1)
        return check_manifold_argument(self.manifold)

    def _as_points(self, X: ArrayLike, *, reset: bool, least: int = 1) -> Tensor:
        """Return samples as a float64 tensor (n, *point), checked."""
        space, X = self._space(), as_array(X)
        options = {"dtype": np.float64, "ensure_min_samples": least}
        if space.ndim == 1:
            array = validate_data(
                self, X, reset=reset, ensure_all_finite=self.manifold is None, **options
            )
        else:
            array = check_array(
                X, allow_nd=True, ensure_2d=False, ensure_all_finite=False, **options
            )
        points = to_points(space, array, "X")
        shape = tuple(points.shape[1:])
        if reset:
            self.point_shape_ = shape
        elif shape != self.point_shape_:
            raise ValueError(
                f"X: expected points of shape {self.point_shape_}, as in fit, "
                f"found shape {tuple(points.shape)}"
            )
        return points


def to_points(space: Manifold, array: np.ndarray, name: str) -> Tensor:
    """Return an array (n, *point) as a tensor of its own, checked."""
    points = torch.tensor(array, dtype=torch.float64)
    if points.ndim != space.ndim + 1:
        raise ValueError(
            f"{name}: expected (n_samples, point) with points of {space.ndim} "
            f"dimensions, found shape {tuple(points.shape)}"
        )
    return check_points(space, points, name, "n_samples")


def to_weights(sample_weight: ArrayLike | None, n: int) -> Tensor:
    """Return weights of sum one, shape (n,)."""
    if sample_weight is None:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    w = torch.tensor(np.asarray(as_array(sample_weight), dtype=np.float64))
    if w.ndim != 1:
        raise ValueError(
            f"sample_weight: expected shape ({n},), Sample weights must be 1D, found "
            f"shape {tuple(w.shape)}"
        )
    check_weights(w, n, "sample_weight")
    return w / w.sum()


def check_coordinates(C: ArrayLike, d: int, name: str) -> Tensor:
    """Return rows of d numbers as a float64 tensor."""
    array = check_array(as_array(C), dtype=np.float64, input_name=name)
    if array.shape[1] != d:
        raise ValueError(
            f"{name}: expected {d} columns, as transform gives, found shape "
            f"{array.shape}"
        )
    return torch.tensor(array)


def frechet_mean(
    space: Manifold, points: Tensor, w: Tensor, tol: float | None, max_iter: int
) -> KarcherMean:
    """Mean of points (n, *point); warns where there are several.

    Widely spread points may have several means. The search is then repeated from far
    points; the lowest is kept.
    """
    if isinstance(space, Euclidean):  # no search is needed
        mean = torch.tensordot(w, points, 1)
        square = (points - mean).square().flatten(1).sum(-1)
        done = torch.tensor(True)
        return KarcherMean(mean, torch.zeros_like(w[0]), w @ square, done, 1)
    found = karcher_mean(space, points, w, tol, max_iter=max_iter)
    radius = injectivity_radius(space)
    if not np.isfinite(radius):
        return found
    mean = found.mean
    far = space.dist(mean.expand_as(points), points, keepdim=True)
    if bool(far.max() <= radius / 2 * (1 - 1e-9)):
        return found
    basis = tangent_basis(space, mean)[:8]
    starts = space.expmap(mean.expand_as(basis), radius * basis)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        others = karcher_mean(
            space,
            points.expand(len(starts), *points.shape),
            w,
            max(tol or 0.0, 1e-5),  # enough to tell whether it is another point
            max_iter=max_iter,
            init=starts,
        )
    gain = found.variance - others.variance
    best = int(gain.argmax())
    if bool(gain[best] > 1e-6 * found.variance) and bool(others.converged[best]):
        found = karcher_mean(
            space, points, w, tol, max_iter=max_iter, init=others.mean[best]
        )
    level = others.variance <= found.variance * (1 + 1e-6)
    apart = space.dist(found.mean.expand_as(starts), others.mean, keepdim=True)
    apart = apart.reshape(-1)
    if bool((level & (apart > 1e-2 * radius)).any()):
        warnings.warn(
            f"the mean on {space} is not unique: another point, "
            f"{float(apart[level].max()):.2g} away, has the same variance",
            ConvergenceWarning,
            stacklevel=3,
        )
    return found


def log_coordinates(
    space: Manifold, base: Tensor, basis: Tensor, points: Tensor
) -> Tensor:
    """Coordinates (n, d) of the logarithms at one point."""
    logs = space.logmap(base.expand_as(points), points)
    return coordinates(space, base, basis, logs)


def exp_coordinates(space: Manifold, base: Tensor, basis: Tensor, c: Tensor) -> Tensor:
    """Points (n, *point) whose logarithms have the coordinates (n, d)."""
    u = torch.tensordot(c, basis, 1)
    return space.expmap(base.expand_as(u), u)
