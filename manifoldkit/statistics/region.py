"""Confidence regions: ellipsoids of tangent vectors, carried by the exponential map."""

from dataclasses import dataclass

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.linalg.checks import check_finite
from manifoldkit.manifolds.points import check_points
from manifoldkit.statistics.base import (
    as_array,
    as_numpy,
    exp_coordinates,
    log_coordinates,
)


def standardize(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Split a covariance into deviations (d,) and the correlation's Cholesky factor.

    Coordinates of unlike units so keep their digits.

    Raises
    ------
    ValueError
        The matrix is singular.
    """
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    safe = torch.where(deviation > 0, deviation, 1.0)
    correlation = covariance / safe / safe[:, None]
    s = torch.linalg.eigvalsh(correlation)
    rank = int((s > 1e-12 * len(s)).sum())
    if rank < len(s):
        raise ValueError(
            f"covariance: singular, the points spread in {rank} of {len(s)} "
            "directions: no region with an interior exists"
        )
    return deviation, torch.linalg.cholesky(correlation)


@dataclass(frozen=True, eq=False)
class Region:
    r"""Points whose logarithms c at the center satisfy :math:`c'V^{-1}c \le r^2`.

    Attributes
    ----------
    manifold : geoopt.Manifold
        Where it lies.
    center : ndarray, shape (*point,)
        The estimate.
    basis : ndarray, shape (d, *point)
        Orthonormal basis of the tangent space there.
    covariance : ndarray, shape (d, d)
        V, the covariance of the estimate in that basis.
    radius : float
        r, the bound of the Mahalanobis length.
    level : float
        Nominal probability.
    method : str
        "asymptotic" or "bootstrap".

    Examples
    --------
    >>> from manifoldkit.statistics import FrechetMean
    >>> X = np.random.default_rng(0).standard_normal((50, 2))
    >>> region = FrechetMean().fit(X).confidence_region()
    >>> region.contains([[0.0, 0.0], [3.0, 3.0]])
    array([ True, False])
    """

    manifold: Manifold
    center: np.ndarray
    basis: np.ndarray
    covariance: np.ndarray
    radius: float
    level: float
    method: str

    def mahalanobis(self, points: ArrayLike) -> np.ndarray:
        """Return the length of logarithms in units of their deviation, shape (...).

        Parameters
        ----------
        points : array-like, shape (..., *point)
            Points of the manifold.
        """
        y = torch.tensor(np.asarray(as_array(points), dtype=np.float64))
        y = check_points(self.manifold, y, "points")
        event = y.shape[y.ndim - self.manifold.ndim :]
        if tuple(event) != self.center.shape:
            raise ValueError(
                f"points: expected points of shape {self.center.shape}, found shape "
                f"{tuple(y.shape)}"
            )
        batch = y.shape[: y.ndim - self.manifold.ndim]
        base, basis = torch.tensor(self.center), torch.tensor(self.basis)
        c = log_coordinates(self.manifold, base, basis, y.reshape(-1, *event))
        deviation, factor = standardize(torch.tensor(self.covariance))
        z = torch.linalg.solve_triangular(factor, (c / deviation).mT, upper=False)
        return as_numpy(z.norm(dim=0).reshape(batch))

    def contains(self, points: ArrayLike) -> np.ndarray:
        """Tell which points lie in the region, shape (...).

        Parameters
        ----------
        points : array-like, shape (..., *point)
            Points of the manifold.
        """
        return self.mahalanobis(points) <= self.radius

    def boundary(self, n: int = 100, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
        """Return points of a closed curve on the boundary, for drawing.

        Parameters
        ----------
        n : int, default=100
            Number of points.
        axes : (int, int), default=(0, 1)
            Principal axes of the ellipsoid, longest first, that span the curve.

        Returns
        -------
        ndarray, shape (n, *point)
        """
        check_count(n, "n")
        d = len(self.covariance)
        known = len(axes) == 2 and all(0 <= a < d for a in axes)
        if not known or axes[0] == axes[1]:
            raise ValueError(f"axes: expected two of the {d} axes, found {axes!r}")
        s, vectors = torch.linalg.eigh(torch.tensor(self.covariance))
        half = (vectors * s.clamp_min(0).sqrt()).flip(-1)[:, list(axes)]
        t = torch.linspace(0, 2 * torch.pi, n, dtype=torch.float64)
        circle = torch.stack([t.cos(), t.sin()], -1)
        c = check_finite(self.radius * circle @ half.mT, "covariance", 1)
        base, basis = torch.tensor(self.center), torch.tensor(self.basis)
        return as_numpy(exp_coordinates(self.manifold, base, basis, c))
