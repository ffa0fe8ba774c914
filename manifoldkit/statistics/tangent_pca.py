"""Principal components of logarithms."""

from typing import Self

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_count, check_settings, is_integer
from manifoldkit.manifolds.tangent import tangent_basis
from manifoldkit.statistics.base import (
    SEARCH,
    PointEstimator,
    as_array,
    as_numpy,
    check_coordinates,
    exp_coordinates,
    frechet_mean,
    log_coordinates,
    to_points,
    to_weights,
)


class TangentPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, PointEstimator):
    r"""Principal components of the logarithms at the mean, in the metric there.

    Scikit-learn's PCA of orthonormal coordinates, so that an isometry of the manifold
    (a rotation, a congruence of SPD matrices) changes no variance and no score beyond
    its sign. It is the linearization of principal geodesic analysis;
    ``reconstruction_error`` tells in geodesic distance what that leaves out.

    Parameters
    ----------
    manifold : geoopt.Manifold, optional
        Manifold with exponential and logarithm; default Euclidean space, where this is
        ``sklearn.decomposition.PCA``.
    n_components : int or float, optional
        Number of components, or the share of variance that they explain; default all.
    base : "mean" or array-like, shape (*point,)
        Where the logarithms are taken; they are centered there.
    whiten : bool, default=False
        Scores of variance one.
    tol, max_iter : float, int
        Of :func:`~manifoldkit.optim.karcher_mean`.

    Attributes
    ----------
    components_ : ndarray, shape (k, *point)
        Tangent vectors, orthonormal in the metric.
    mean_ : ndarray, shape (*point,)
        The base point.
    tangent_mean_ : ndarray, shape (*point,)
        Mean of the logarithms, zero at the mean.
    basis_ : ndarray, shape (d, *point)
        Basis of the tangent space.
    explained_variance_, explained_variance_ratio_, singular_values_ : ndarray, (k,)
        As scikit-learn's; all variances add up to n / (n - 1) times the Frechet
        variance if the base is the mean.
    n_components_ : int
    n_iter_ : int
        Iterations of the mean.

    Raises
    ------
    TypeError, ValueError
        From ``fit``: settings or points that do not fit; ``whiten`` for points that
        are all equal.

    References
    ----------
    P. T. Fletcher et al., "Principal geodesic analysis for the study of nonlinear
    statistics of shape", IEEE Trans. Med. Imaging 23, 2004.

    Examples
    --------
    >>> from manifoldkit.manifolds import SPD
    >>> X = SPD().random(20, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> pca = TangentPCA(SPD(), n_components=2).fit(X)
    >>> pca.transform(X).shape, pca.components_.shape
    ((20, 2), (2, 3, 3))
    >>> pca.inverse_transform(pca.transform(X)).shape
    (20, 3, 3)
    """

    def __init__(
        self,
        manifold: Manifold | None = None,
        n_components: int | float | None = None,
        base: str | ArrayLike = "mean",
        whiten: bool = False,
        tol: float | None = None,
        max_iter: int = 100,
    ):
        self.manifold = manifold
        self.n_components = n_components
        self.base = base
        self.whiten = whiten
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Compute the components.

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points, two or more.
        y : object, optional
            Ignored.
        """
        check_settings(self, SEARCH)
        space = self._space()
        points = self._as_points(X, reset=True, least=2)
        base, iterations = self._base_point(space, points)
        basis = tangent_basis(space, base)
        c = log_coordinates(space, base, basis, points)
        self._check_components(*c.shape)
        pca = PCA(self.n_components, whiten=self.whiten, svd_solver="full")
        spread = float((c - c.mean(0)).square().sum(-1).max().sqrt())
        size = float(space.inner(base, base, keepdim=True).clamp_min(0).sqrt())
        if self.whiten and spread <= 1e-14 * (size + float(c.norm(dim=-1).max())):
            raise ValueError("whiten: the points are all equal, there is no variance")
        pca.fit(as_numpy(c))
        self._pca = pca
        self.mean_, self.basis_ = as_numpy(base), as_numpy(basis)
        self.components_ = np.tensordot(pca.components_, self.basis_, 1)
        self.tangent_mean_ = np.tensordot(pca.mean_, self.basis_, 1)
        self.explained_variance_ = pca.explained_variance_
        self.explained_variance_ratio_ = pca.explained_variance_ratio_
        self.singular_values_ = pca.singular_values_
        self.n_components_, self.n_iter_ = pca.n_components_, max(1, iterations)
        return self

    def _base_point(self, space: Manifold, points: Tensor) -> tuple[Tensor, int]:
        if isinstance(self.base, str):
            if self.base != "mean":
                raise ValueError(
                    f'base: expected "mean" or a point, found {self.base!r}'
                )
            w = to_weights(None, len(points))
            found = frechet_mean(space, points, w, self.tol, self.max_iter)
            return found.mean, found.iterations
        array = np.asarray(as_array(self.base), dtype=np.float64)
        if array.shape != points.shape[1:]:
            raise ValueError(
                f"base: expected a point of shape {tuple(points.shape[1:])}, found "
                f"shape {array.shape}"
            )
        return to_points(space, array[None], "base")[0], 0

    def _check_components(self, n: int, d: int) -> None:
        k, most = self.n_components, min(n, d)
        if k is None or (is_integer(k) and 1 <= k <= most):
            return
        if isinstance(k, float) and 0 < k < 1:
            return
        raise ValueError(
            f"n_components: expected an integer in 1..{most} (the smaller of {n} "
            f"samples and {d} dimensions), a share between 0 and 1, or None, "
            f"found {k!r}"
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return scores, shape (n_samples, k).

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        """
        check_is_fitted(self)
        points = self._as_points(X, reset=False)
        base, basis = torch.tensor(self.mean_), torch.tensor(self.basis_)
        c = log_coordinates(self._space(), base, basis, points)
        return self._pca.transform(as_numpy(c))

    def inverse_transform(self, Z: ArrayLike) -> np.ndarray:
        """Return the points of scores, shape (n_samples, *point).

        Parameters
        ----------
        Z : array-like, shape (n_samples, k)
            Scores, such as ``transform`` gives.
        """
        check_is_fitted(self)
        z = check_coordinates(Z, self.n_components_, "Z")
        c = torch.tensor(self._pca.inverse_transform(as_numpy(z)))
        base, basis = torch.tensor(self.mean_), torch.tensor(self.basis_)
        return as_numpy(exp_coordinates(self._space(), base, basis, c))

    def principal_geodesic(self, k: int, t: ArrayLike) -> np.ndarray:
        """Return points of the geodesic along a component.

        Parameters
        ----------
        k : int
            The component, from 0.
        t : array-like, shape (m,)
            Signed lengths along it, in geodesic distance; one standard deviation is
            ``sqrt(explained_variance_[k])``.

        Returns
        -------
        ndarray, shape (m, *point)
        """
        check_is_fitted(self)
        if check_count(k, "k", 0) >= self.n_components_:
            raise ValueError(
                f"k: expected a component below {self.n_components_}, found {k}"
            )
        length = np.asarray(as_array(t), dtype=np.float64)
        if length.ndim != 1 or not np.isfinite(length).all():
            raise ValueError(
                f"t: expected finite lengths of shape (m,), found shape {length.shape}"
            )
        c = self._pca.mean_ + length[:, None] * self._pca.components_[k]
        base, basis = torch.tensor(self.mean_), torch.tensor(self.basis_)
        found = exp_coordinates(self._space(), base, basis, torch.tensor(c))
        return as_numpy(found)

    def reconstruction_error(self, X: ArrayLike) -> np.ndarray:
        """Return geodesic distances of points to their reconstruction, (n_samples,).

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        """
        check_is_fitted(self)
        points = self._as_points(X, reset=False)
        again = torch.tensor(self.inverse_transform(self.transform(X)))
        distance = self._space().dist(points, again, keepdim=True)
        return as_numpy(distance.reshape(len(points)))
