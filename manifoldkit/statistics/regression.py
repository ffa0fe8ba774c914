"""Geodesic regression: points on a manifold explained by numbers."""

import warnings
from typing import NamedTuple, Self

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from sklearn.base import RegressorMixin
from sklearn.utils import Tags, check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from manifoldkit._checks import check_settings
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg.checks import tolerance
from manifoldkit.manifolds.tangent import tangent_basis
from manifoldkit.statistics.base import (
    SEARCH,
    PointEstimator,
    as_array,
    as_numpy,
    frechet_mean,
    log_coordinates,
    to_points,
    to_weights,
)

#: Searches, each in coordinates at the point where the last one ended.
_ROUNDS = 5


class GeodesicRegression(RegressorMixin, PointEstimator):
    r"""Least squares on a manifold: :math:`y_i \approx \exp_p(\sum_j (x_{ij} - \bar
    x_j) V_j)`.

    Minimizes the sum of squared geodesic distances over the point p and the tangent
    vectors :math:`V_j`. The start, the mean and the least squares of its logarithms,
    is exact for data without noise; L-BFGS refines it.

    Parameters
    ----------
    manifold : geoopt.Manifold, optional
        Manifold of y; default Euclidean space, where this is
        ``sklearn.linear_model.LinearRegression``.
    fit_intercept : bool, default=True
        Fit p. Otherwise p is the origin of the manifold, and x is not centered.
    max_iter : int, default=200
        Most iterations of the refinement.
    tol : float, default=1e-8
        Largest entry of the gradient to stop at, in units in which the spread of y
        and of x are one.

    Attributes
    ----------
    intercept_ : ndarray, shape (*point,)
        p, the prediction at the mean covariates.
    coef_ : ndarray, shape (q, *point)
        :math:`V_j`, tangent vectors at p, per unit of the covariate.
    x_mean_ : ndarray, shape (q,)
        Mean covariates.
    loss_ : float
        Half the (weighted) mean squared distance.
    n_iter_ : int
        Iterations of the refinement.

    Raises
    ------
    TypeError, ValueError
        From ``fit``: settings, covariates or points that do not fit.

    Warns
    -----
    ConvergenceWarning
        The refinement did not reach ``tol``.
    UserWarning
        A covariate is constant; its coefficient is zero.

    References
    ----------
    P. T. Fletcher, "Geodesic regression and the theory of least squares on Riemannian
    manifolds", IJCV 105, 2013.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> t = np.linspace(0, 1, 9)
    >>> y = np.stack([np.cos(t), np.sin(t), 0 * t], 1)
    >>> model = GeodesicRegression(Sphere()).fit(t[:, None], y)
    >>> abs(model.predict([[1.5]]) - [[np.cos(1.5), np.sin(1.5), 0]]).max() < 1e-9
    np.True_
    """

    def __init__(
        self,
        manifold: Manifold | None = None,
        fit_intercept: bool = True,
        max_iter: int = 200,
        tol: float = 1e-8,
    ):
        self.manifold = manifold
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # the manifold is that of y; covariates are rows of numbers
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        tags.target_tags.multi_output = True
        return tags

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Fit point and tangent vectors.

        Parameters
        ----------
        X : array-like, shape (n_samples, q)
            Covariates.
        y : array-like, shape (n_samples, *point)
            Points; without a manifold also (n_samples,).
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative weights.
        """
        check_settings(self, SEARCH)
        space = self._space()
        x, points = self._check_fit(space, X, y)
        w = to_weights(sample_weight, len(x))
        design = _Design.of(x, w, bool(self.fit_intercept))
        if self.fit_intercept:
            p = frechet_mean(space, points, w, None, max(100, self.max_iter)).mean
        else:
            event = points.shape[1:]
            p = space.origin(*event, dtype=points.dtype).as_subclass(Tensor)
        basis = tangent_basis(space, p)
        c = log_coordinates(space, p, basis, points)
        unit = float((w @ c.square().sum(-1)).sqrt())
        slope = design.rows.mT @ (w[:, None] * c)
        fit = _Fit(p, basis, slope, 0, 0.0)
        own = float(space.inner(p, p, keepdim=True).clamp_min(0).max().sqrt())
        if unit > tolerance(p.dtype, 64) * own:  # the points are not all equal
            fit = self._refine(space, fit, design.rows, points, w, unit)
        self._design, self._weights = design, w
        self._slope, self._basis = as_numpy(fit.slope), as_numpy(fit.basis)
        self.intercept_, self.x_mean_ = as_numpy(fit.p), as_numpy(design.mean)
        coefficients = design.back @ fit.slope
        self.coef_ = as_numpy(torch.tensordot(coefficients, fit.basis, 1))
        self.n_iter_ = max(1, fit.iterations)
        residual = space.dist(self._at(x), points, keepdim=True).reshape(-1)
        self.loss_ = float(w @ residual.square()) / 2
        return self

    def _check_fit(self, space: Manifold, X, y) -> tuple[Tensor, Tensor]:
        if y is None:
            raise ValueError(
                "y: requires y to be passed, but the target y is None: expected "
                "points, one for each row of X"
            )
        if self.manifold is None:
            X, y = validate_data(
                self,
                as_array(X),
                as_array(y),
                dtype=np.float64,
                multi_output=True,
                y_numeric=True,
            )
            self._plain = y.ndim == 1
            y = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        else:
            X = validate_data(self, as_array(X), dtype=np.float64)
            y = check_array(
                as_array(y),
                dtype=np.float64,
                allow_nd=True,
                ensure_2d=False,
                ensure_all_finite=False,
                input_name="y",
            )
            check_consistent_length(X, y)
            self._plain = False
        points = to_points(space, y, "y")
        self.point_shape_ = tuple(points.shape[1:])
        return torch.tensor(X), points

    def _refine(self, space, fit: "_Fit", rows, points, w, unit: float) -> "_Fit":
        """Search in coordinates (z, v) of the point and the vectors, re-centered."""
        free, iterations = bool(self.fit_intercept), 0
        for _ in range(_ROUNDS):
            problem = _Problem(space, fit, rows, points, w, unit, free)
            found = minimize(
                problem.cost,
                problem.start(),
                jac=True,
                method="L-BFGS-B",
                options={
                    "maxiter": max(1, self.max_iter - iterations),
                    "gtol": self.tol,
                    "ftol": 0.0,
                    "maxcor": 20,
                    "maxls": 40,
                },
            )
            iterations += int(found.nit)
            moved = float(np.abs(found.x - problem.start()).max())
            gradient = float(np.abs(found.jac).max())
            fit = problem.fit_at(found.x, iterations, gradient)
            if moved < 1e-6 or iterations >= self.max_iter:
                break
        # status 2: the line search ended, as rounding hides what the cost still falls
        if gradient > (max(self.tol, 1e-6) if found.status == 2 else self.tol):
            warnings.warn(
                f"GeodesicRegression on {space}: gradient {gradient:.1e} after "
                f"{iterations} iterations, expected at most tol = {self.tol:.1e}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return fit

    def _at(self, x: Tensor) -> Tensor:
        u = torch.tensordot(x - torch.tensor(self.x_mean_), torch.tensor(self.coef_), 1)
        return self._space().expmap(torch.tensor(self.intercept_).expand_as(u), u)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the points of covariates, shape (n_samples, *point).

        Parameters
        ----------
        X : array-like, shape (n_samples, q)
            Covariates.
        """
        check_is_fitted(self)
        X = validate_data(self, as_array(X), reset=False, dtype=np.float64)
        found = as_numpy(self._at(torch.tensor(X)))
        return found[:, 0] if self._plain else found

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        r"""Return :math:`R^2 = 1 -` mean squared distance / Frechet variance of y.

        Parameters
        ----------
        X : array-like, shape (n_samples, q)
            Covariates.
        y : array-like, shape (n_samples, *point)
            Points.
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative weights.
        """
        check_is_fitted(self)
        space = self._space()
        y = np.asarray(as_array(y), dtype=np.float64)
        points = to_points(space, y[:, None] if self._plain else y, "y")
        fitted = self.predict(X)
        check_consistent_length(fitted, points)
        w = to_weights(sample_weight, len(points))
        found = torch.tensor(fitted).reshape(points.shape)
        residual = space.dist(found, points, keepdim=True).reshape(-1)
        rest = float(w @ residual.square())
        total = float(frechet_mean(space, points, w, None, 100).variance)
        if total == 0:
            return 1.0 if rest == 0 else 0.0
        return 1 - rest / total

    @property
    def coef_covariance_(self) -> np.ndarray:
        """Covariance of the coefficients, (q d, q d), covariate by covariate.

        Gauss-Newton: noise of one variance in every direction, in coordinates of
        ``tangent_basis`` at ``intercept_``. Computed when it is asked for.
        """
        check_is_fitted(self)
        space, rows, w = self._space(), self._design.rows, self._weights
        n, d = 1 / float(w.square().sum()), self._slope.shape[1]
        k = rows.shape[1] + bool(self.fit_intercept)
        if n <= k:
            raise ValueError(
                f"X: a covariance needs more samples than the {k} coefficients, "
                f"found {n:.4g}"
            )
        variance = 2 * self.loss_ * n / ((n - k) * d)
        gram = _gauss_newton(
            space,
            torch.tensor(self.intercept_),
            torch.tensor(self._basis),
            torch.tensor(self._slope),
            rows,
            w,
            bool(self.fit_intercept),
        )
        inverse = torch.linalg.pinv(gram, hermitian=True) * variance / n
        first = d if self.fit_intercept else 0
        slopes = inverse[first:, first:].reshape(rows.shape[1], d, rows.shape[1], d)
        back = self._design.back
        q = len(back)
        out = torch.einsum("ak,kilj,bl->aibj", back, slopes, back)
        return as_numpy(out.reshape(q * d, q * d))


class _Design(NamedTuple):
    """Covariates as orthonormal columns: rows = (x - mean) times the way back."""

    mean: Tensor
    rows: Tensor  # (n, k), sum of w row row' = I
    back: Tensor  # (q, k)

    @classmethod
    def of(cls, x: Tensor, w: Tensor, center: bool) -> "_Design":
        mean = w @ x if center else torch.zeros_like(x[0])
        x0 = x - mean
        scale = (w @ x0.square()).sqrt()
        constant = scale <= 64 * torch.finfo(x.dtype).eps * x.abs().amax(0)
        if bool(constant.any()) and center:
            index = [int(i) for i in constant.nonzero()[:, 0]]
            warnings.warn(
                f"X: covariate {index if len(index) > 1 else index[0]} is constant, "
                "its coefficient is zero",
                UserWarning,
                stacklevel=4,
            )
        scale = torch.where(constant, 1.0, scale)
        x1 = torch.where(constant, 0.0, x0 / scale)
        _, s, vh = torch.linalg.svd(w.sqrt()[:, None] * x1, full_matrices=False)
        keep = s > s.new_tensor(max(x.shape) * torch.finfo(x.dtype).eps) * s.max()
        keep &= s > 0
        back = vh[keep].mT / s[keep]
        return cls(mean, x1 @ back, back / scale[:, None])


class _Fit(NamedTuple):
    p: Tensor
    basis: Tensor
    slope: Tensor  # (k, d), coordinates of the vectors for the columns of the design
    iterations: int
    gradient: float


class _Problem:
    """Half the mean squared distance as a function of numbers of size one."""

    def __init__(self, space, fit: _Fit, rows, points, w, unit: float, free: bool):
        self.space, self.fit, self.rows = space, fit, rows
        self.points, self.w, self.unit, self.free = points, w, unit, free
        self.d = len(fit.basis)

    def start(self) -> np.ndarray:
        z = np.zeros(self.d if self.free else 0)
        return np.concatenate([z, as_numpy(self.fit.slope / self.unit).ravel()])

    def _parts(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point and the tangent vectors there."""
        fit, first = self.fit, self.d if self.free else 0
        v = self.unit * theta[first:].reshape(-1, self.d)
        vectors = torch.tensordot(v, fit.basis, 1)
        if not self.free:
            return fit.p, vectors
        z = torch.tensordot(self.unit * theta[:first], fit.basis, 1)
        p = self.space.expmap(fit.p, z)
        return p, self.space.proju(p.expand_as(vectors), vectors)

    def cost(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(theta, requires_grad=True)
        p, vectors = self._parts(t)
        u = torch.tensordot(self.rows, vectors, 1)
        end = self.space.expmap(p.expand_as(u), u)
        distance = self.space.dist(end, self.points, keepdim=True).reshape(-1)
        loss = self.w @ (distance / self.unit).square() / 2
        (gradient,) = torch.autograd.grad(loss, t)
        return float(loss.detach()), as_numpy(gradient)

    def fit_at(self, theta: np.ndarray, iterations: int, gradient: float) -> _Fit:
        if self.free and np.any(theta[: self.d]):
            p, vectors = self._parts(torch.tensor(theta))
            basis = tangent_basis(self.space, p)
            inner = [
                self.space.inner(
                    p.expand_as(basis), basis, v.expand_as(basis), keepdim=True
                )
                for v in vectors
            ]
            slope = torch.stack(inner).reshape(len(vectors), self.d)
            return _Fit(p, basis, slope, iterations, gradient)
        first = self.d if self.free else 0
        slope = self.unit * torch.tensor(theta[first:]).reshape(-1, self.d)
        return self.fit._replace(slope=slope, iterations=iterations, gradient=gradient)


def _gauss_newton(space, p, basis, slope, rows, w, free: bool) -> Tensor:
    """Weighted sum of ``J'J``, J the derivative of predictions in the parameters."""
    d, k = slope.shape[1], slope.shape[0]
    first = d if free else 0

    def predict(theta: Tensor) -> Tensor:
        x, vectors = p, torch.tensordot(theta[first:].reshape(k, d), basis, 1)
        if free:
            x = space.expmap(p, torch.tensordot(theta[:first], basis, 1))
            vectors = space.proju(x.expand_as(vectors), vectors)
        u = torch.tensordot(rows, vectors, 1)
        return space.expmap(x.expand_as(u), u)

    theta = torch.cat([slope.new_zeros(first), slope.reshape(-1)])
    eye = torch.eye(len(theta), dtype=theta.dtype)
    end = predict(theta)
    columns = [
        space.proju(end, torch.func.jvp(predict, (theta,), (e,))[1]) for e in eye
    ]
    gram = torch.stack(
        [
            torch.stack(
                [w @ space.inner(end, a, b, keepdim=True).reshape(-1) for b in columns]
            )
            for a in columns
        ]
    )
    return (gram + gram.mT) / 2
