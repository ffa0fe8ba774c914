"""Means on manifolds, their covariance, and how sure they are."""

import math
import warnings
from typing import Self

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from scipy.stats import f as f_distribution
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_interval,
    check_settings,
)
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.manifolds import Euclidean, PositiveReals, Sphere
from manifoldkit.manifolds.spd.flat import FlatSPD
from manifoldkit.manifolds.sphere import Oblique
from manifoldkit.manifolds.tangent import tangent_basis
from manifoldkit.optim import karcher_mean
from manifoldkit.statistics.base import (
    SEARCH,
    PointEstimator,
    as_numpy,
    check_coordinates,
    exp_coordinates,
    frechet_mean,
    log_coordinates,
    to_weights,
)
from manifoldkit.statistics.limits import injectivity_radius
from manifoldkit.statistics.region import Region, standardize

#: Numbers that second derivatives and resampled means are held in at a time.
_ROOM = 1 << 22


class FrechetMean(ClassNamePrefixFeaturesOutMixin, TransformerMixin, PointEstimator):
    r"""Mean of points on a manifold, with covariance and confidence region.

    The mean minimizes :math:`\tfrac{1}{2n}\sum_i d(m, y_i)^2`. ``transform`` takes
    points to coordinates of their logarithms at the mean, so a classifier behind it is
    the tangent-space pipeline of any manifold.

    Parameters
    ----------
    manifold : geoopt.Manifold, optional
        Manifold with exponential and logarithm; default Euclidean space, rows of X.
    tol, max_iter : float, int
        Of :func:`~manifoldkit.optim.karcher_mean`.

    Attributes
    ----------
    mean_ : ndarray, shape (*point,)
    variance_ : float
        Mean squared distance to the mean, the trace of ``covariance_``.
    covariance_ : ndarray, shape (d, d)
        Mean of :math:`cc'`, c the coordinates in ``basis_``.
    basis_ : ndarray, shape (d, *point)
        Orthonormal basis of the tangent space at the mean.
    n_iter_ : int
        Iterations.

    Raises
    ------
    TypeError, ValueError
        From ``fit``: settings or points that do not fit; the message says which.

    Warns
    -----
    ConvergenceWarning
        From ``fit``: the mean is not reached, or not unique.

    References
    ----------
    R. Bhattacharya, V. Patrangenaru, "Large sample theory of intrinsic and extrinsic
    sample means on manifolds II", Ann. Statist. 33, 2005. X. Pennec, "Intrinsic
    statistics on Riemannian manifolds", J. Math. Imaging Vis. 25, 2006.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> X = Sphere().projx(torch.tensor([[1., .2, 0.], [1., -.2, 0.], [1., 0., .3]]))
    >>> mean = FrechetMean(Sphere()).fit(X)
    >>> mean.mean_.round(3)
    array([0.995, 0.   , 0.098])
    >>> mean.transform(X).shape
    (3, 2)
    """

    def __init__(
        self,
        manifold: Manifold | None = None,
        tol: float | None = None,
        max_iter: int = 100,
    ):
        self.manifold = manifold
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Compute mean and covariance.

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        y : object, optional
            Ignored.
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative weights.
        """
        check_settings(self, SEARCH)
        space = self._space()
        points = self._as_points(X, reset=True)
        w = to_weights(sample_weight, len(points))
        found = frechet_mean(space, points, w, self.tol, self.max_iter)
        basis = tangent_basis(space, found.mean)
        c = log_coordinates(space, found.mean, basis, points)
        self.mean_ = as_numpy(found.mean)
        self.variance_ = float(found.variance)
        self.basis_ = as_numpy(basis)
        self.covariance_ = as_numpy((c * w[:, None]).mT @ c)
        self.n_iter_ = max(1, found.iterations)
        self._samples, self._sample_weights = as_numpy(points), as_numpy(w)
        return self

    @property
    def _n_features_out(self) -> int:
        return len(self.basis_)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return coordinates of logarithms at the mean, shape (n_samples, d).

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        """
        check_is_fitted(self)
        points = self._as_points(X, reset=False)
        base, basis = torch.tensor(self.mean_), torch.tensor(self.basis_)
        return as_numpy(log_coordinates(self._space(), base, basis, points))

    def inverse_transform(self, C: ArrayLike) -> np.ndarray:
        """Return the points of coordinates, shape (n_samples, *point).

        Parameters
        ----------
        C : array-like, shape (n_samples, d)
            What ``transform`` gives.
        """
        check_is_fitted(self)
        c = check_coordinates(C, len(self.basis_), "C")
        base, basis = torch.tensor(self.mean_), torch.tensor(self.basis_)
        return as_numpy(exp_coordinates(self._space(), base, basis, c))

    def confidence_region(
        self,
        level: float = 0.95,
        method: str = "asymptotic",
        *,
        n_bootstrap: int = 500,
        random_state: int | np.random.RandomState | None = None,
    ) -> Region:
        r"""Region that holds the mean of the population with a given probability.

        Parameters
        ----------
        level : float, default=0.95
            The probability.
        method : {"asymptotic", "bootstrap"}
            "asymptotic": covariance :math:`V = H^{-1}SH^{-1}/n` of the central limit
            theorem, S the covariance and H the Hessian of half the mean squared
            distance, and radius :math:`r^2 = d\frac{n-1}{n-d}F_{d,n-d}(level)`; on flat
            space, Hotelling's. "bootstrap": covariance of means of resampled points,
            and the quantile of their lengths.
        n_bootstrap : int, default=500
            Number of resampled means.
        random_state : int or RandomState, optional
            Source of resampling.

        Returns
        -------
        Region

        Raises
        ------
        ValueError
            No more points than dimensions, or points that leave out a direction.

        Warns
        -----
        UserWarning
            The points fit in no ball in which means are unique, or the Hessian nearly
            vanishes: the limit theorem then says little.
        """
        check_is_fitted(self)
        level = check_interval(level, "level", 0, 1, "()")
        check_choice(method, ("asymptotic", "bootstrap"), "method")
        check_count(n_bootstrap, "n_bootstrap", 2)
        space, d = self._space(), len(self.basis_)
        base, basis = torch.tensor(self.mean_), torch.tensor(self.basis_)
        points, w = torch.tensor(self._samples), torch.tensor(self._sample_weights)
        n = 1 / float(w.square().sum())  # with weights, the effective number
        if n <= d + 1e-9:
            raise ValueError(
                f"X: a region needs more points than the {d} dimensions, found {n:.4g}"
                + ("" if n == len(w) else " (effective, by their weights)")
            )
        c = log_coordinates(space, base, basis, points)
        _warn_of_spread(space, c[w > 0])
        if method == "asymptotic":
            meat = (c * w[:, None]).mT @ (c * w[:, None])
            standardize(meat)  # raises where it is singular
            covariance = _sandwich(mean_hessian(space, base, basis, points, w), meat)
            quantile = float(f_distribution.ppf(level, d, n - d))
            radius = math.sqrt(d * (n - 1) / (n - d) * quantile)
        else:
            rng = check_random_state(random_state)
            means = self._resample(space, points, w, n_bootstrap, rng)
            b = log_coordinates(space, base, basis, means)
            covariance = b.mT @ b / n_bootstrap
            deviation, factor = standardize(covariance)
            z = torch.linalg.solve_triangular(factor, (b / deviation).mT, upper=False)
            radius = float(z.norm(dim=0).quantile(level))
        return Region(
            space, self.mean_, self.basis_, as_numpy(covariance), radius, level, method
        )

    def _resample(self, space, points: Tensor, w: Tensor, count: int, rng) -> Tensor:
        """Means of points drawn with replacement, started at the mean."""
        n = len(points)
        draws = rng.multinomial(n, np.full(n, 1 / n), size=count)
        weights = torch.tensor(draws) * w
        weights = weights[weights.sum(-1) > 0]
        init, means = torch.tensor(self.mean_), []
        for part in weights.split(max(1, _ROOM // points.numel())):
            batch = points.expand(len(part), *points.shape)
            found = karcher_mean(
                space, batch, part, self.tol, max_iter=self.max_iter, init=init
            )
            means.append(found.mean)
        return torch.cat(means)


def _warn_of_spread(space: Manifold, c: Tensor) -> None:
    radius = injectivity_radius(space) / 2
    far = float(c.norm(dim=-1).max())
    if far > radius:
        warnings.warn(
            f"X: points up to {far:.3g} from the mean fit in no ball of radius "
            f"{radius:.3g}, in which means on {space} are unique: the region may be "
            "of one mean among several",
            UserWarning,
            stacklevel=3,
        )


def _sandwich(hessian: Tensor, meat: Tensor) -> Tensor:
    least = float(torch.linalg.eigvalsh(hessian)[0])
    if least < 0.1:
        warnings.warn(
            f"the Hessian of the mean has the eigenvalue {least:.2g}, 1 on flat space: "
            "the mean is smeary and the limit theorem far off; bootstrap instead",
            ConvergenceWarning,
            stacklevel=3,
        )
    half = torch.linalg.solve(hessian, meat)
    covariance = torch.linalg.solve(hessian, half.mT)
    return (covariance + covariance.mT) / 2


def mean_hessian(
    space: Manifold, base: Tensor, basis: Tensor, points: Tensor, w: Tensor
) -> Tensor:
    r"""Hessian of :math:`\tfrac12\sum_i w_i d(\exp_m(Bc), y_i)^2` at c = 0.

    Parameters
    ----------
    space : geoopt.Manifold
        The manifold.
    base : Tensor, shape (*point,)
        m.
    basis : Tensor, shape (d, *point)
        B.
    points : Tensor, shape (n, *point)
        The y.
    w : Tensor, shape (n,)
        Weights of sum one.

    Returns
    -------
    Tensor, shape (d, d)
        The identity on flat metrics.

    Examples
    --------
    >>> x = torch.zeros(2, dtype=torch.float64)
    >>> y, w = torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    >>> mean_hessian(Euclidean(1), x, tangent_basis(Euclidean(1), x), y, w)
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    d = len(basis)
    eye = torch.eye(d, dtype=base.dtype)
    if isinstance(space, Euclidean | PositiveReals | FlatSPD):
        return eye
    if isinstance(space, Sphere) and not isinstance(space, Oblique):
        return _sphere_hessian(space, log_coordinates(space, base, basis, points), w)

    def cost(c: Tensor, y: Tensor, w: Tensor) -> Tensor:
        x = space.expmap(base, torch.tensordot(c, basis, 1)).expand_as(y)
        # the inner product, not a distance, whose root has no derivatives at zero
        square = space.inner(x, space.logmap(x, y), keepdim=True)
        return (w * square.reshape(-1)).sum() / 2

    total, zero = torch.zeros_like(eye), eye.new_zeros(d)
    size = max(1, _ROOM // (16 * d * base.numel()))
    for y, v in zip(points.split(size), w.split(size), strict=True):
        total = total + torch.func.hessian(cost)(zero, y, v)
    return (total + total.mT) / 2


def _sphere_hessian(space: Sphere, c: Tensor, w: Tensor) -> Tensor:
    """Sum of ``uu' + t cot t (I - uu')`` for unit directions u and angles t."""
    r = c.norm(dim=-1, keepdim=True)
    u = c / torch.where(r > 0, r, 1.0)
    t = (r / space.radius)[:, 0]
    cot = t * t.cos() / torch.where(t > 0, t.sin(), 1.0)
    cot = torch.where(t < 1e-4, 1 - t * t / 3, cot)
    along = (u * (w * (1 - cot))[:, None]).mT @ u
    return along + (w * cot).sum() * eye_like(along)
