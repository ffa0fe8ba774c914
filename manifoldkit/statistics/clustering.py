"""K-means with geodesic distances and Frechet means."""

import warnings
from typing import NamedTuple, Self

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_settings, count, interval
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.manifolds import Euclidean
from manifoldkit.manifolds.pairwise import distances
from manifoldkit.optim import karcher_mean
from manifoldkit.statistics.base import (
    PointEstimator,
    as_array,
    as_numpy,
    to_points,
    to_weights,
)

_SETTINGS = {
    "n_clusters": count(),
    "n_init": count(),
    "max_iter": count(),
    "tol": interval(0),
}


def _total(sample_weight: ArrayLike) -> float:
    return float(np.asarray(as_array(sample_weight)).sum())


class ManifoldKMeans(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, PointEstimator
):
    r"""Clusters around Frechet means, found by Lloyd's algorithm.

    Each iteration moves the centers one step of the mean's fixed-point iteration, all
    together; the best run ends with exact means. The inertia, the weighted sum of
    squared distances to the nearest center, never rises.

    Parameters
    ----------
    manifold : geoopt.Manifold, optional
        Manifold with exponential, logarithm and distance; default Euclidean space,
        where this finds what ``sklearn.cluster.KMeans`` finds from the same start.
    n_clusters : int, default=8
        Number of clusters.
    n_init : int, default=10
        Runs; the one with the lowest inertia stays. Given centers are one run.
    max_iter : int, default=300
        Most iterations of a run.
    tol : float, default=1e-4
        A run ends when labels stay, or when the squared movement of the centers is
        below ``tol`` times the variance of a dimension.
    init : "k-means++", "random" or array-like, shape (n_clusters, *point)
        Centers to start from: samples drawn by squared distance (the best of a few
        draws, as in scikit-learn), any samples, or these.
    random_state : int or RandomState, optional
        Source of the starts.

    Attributes
    ----------
    cluster_centers_ : ndarray, shape (n_clusters, *point)
    labels_ : ndarray of int, shape (n_samples,)
    inertia_ : float
    n_iter_ : int
        Iterations of the run that stayed.

    Raises
    ------
    TypeError, ValueError
        From ``fit``: settings or points that do not fit, fewer samples than clusters.

    Warns
    -----
    ConvergenceWarning
        Fewer distinct points than clusters, or ``max_iter`` is reached.

    References
    ----------
    D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA
    2007.

    Examples
    --------
    >>> from manifoldkit.manifolds import SPD
    >>> X = np.stack([s * np.eye(2) for s in (1.0, 1.1, 5.0, 5.5)])
    >>> model = ManifoldKMeans(SPD(), n_clusters=2, random_state=0).fit(X)
    >>> bool(model.labels_[0] == model.labels_[1] != model.labels_[2])
    True
    >>> model.transform(X).shape
    (4, 2)
    """

    def __init__(
        self,
        manifold: Manifold | None = None,
        n_clusters: int = 8,
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        init: str | ArrayLike = "k-means++",
        random_state: int | np.random.RandomState | None = None,
    ):
        self.manifold = manifold
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.init = init
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Find the clusters.

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        y : object, optional
            Ignored.
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative weights.
        """
        check_settings(self, _SETTINGS)
        space = self._space()
        points = self._as_points(X, reset=True)
        n = len(points)
        if n < self.n_clusters:
            raise ValueError(
                f"n_clusters: expected at most n_samples={n}, found {self.n_clusters}"
            )
        w = to_weights(sample_weight, n)
        rng = check_random_state(self.random_state)
        run = _Lloyd(space, points, w, self.max_iter, self.tol)
        given = self._given_centers(space, points)
        starts = 1 if given is not None else self.n_init
        runs = [
            run(given if given is not None else self._start(space, points, w, rng))
            for _ in range(starts)
        ]
        best = runs[0]
        for other in runs[1:]:
            if other.inertia < best.inertia * (1 - 1e-12):
                best = other
        best = run.finish(best)
        distinct = len(torch.unique(best.labels))
        if distinct < self.n_clusters:
            warnings.warn(
                f"X: {distinct} distinct clusters found, fewer than n_clusters = "
                f"{self.n_clusters}: are there equal points?",
                ConvergenceWarning,
                stacklevel=2,
            )
        if not best.converged:
            warnings.warn(
                f"ManifoldKMeans: {self.max_iter} iterations did not settle the "
                "labels; raise max_iter",
                ConvergenceWarning,
                stacklevel=2,
            )
        total = n if sample_weight is None else _total(sample_weight)
        self.cluster_centers_ = as_numpy(best.centers)
        self.labels_ = as_numpy(best.labels).astype(np.int32)
        self.inertia_, self.n_iter_ = best.inertia * total, best.iterations
        return self

    def _given_centers(self, space: Manifold, points: Tensor) -> Tensor | None:
        if isinstance(self.init, str):
            if self.init not in ("k-means++", "random"):
                raise ValueError(
                    'init: expected "k-means++", "random" or centers, found '
                    f"{self.init!r}"
                )
            return None
        array = np.asarray(as_array(self.init), dtype=np.float64)
        shape = (self.n_clusters, *points.shape[1:])
        if array.shape != shape:
            raise ValueError(
                f"init: expected centers of shape {shape}, found shape {array.shape}"
            )
        return to_points(space, array, "init")

    def _start(self, space: Manifold, points: Tensor, w: Tensor, rng) -> Tensor:
        """Draw the centers of a run from the points."""
        n, k, p = len(points), self.n_clusters, as_numpy(w)
        if self.init == "random":
            k_known = min(k, int(np.count_nonzero(p)))
            index = list(rng.choice(n, k_known, replace=False, p=p / p.sum()))
            return points[index + index[:1] * (k - k_known)]
        index = [int(rng.choice(n, p=p / p.sum()))]
        square = distances(space, points[index], points)[0].square()
        trials = 2 + int(np.log(k))
        for _ in range(1, k):
            weight = np.maximum(as_numpy(w * square), 0)
            if not weight.sum() > 0:  # every point is a center already
                index.append(index[0])
                continue
            draws = rng.choice(n, trials, p=weight / weight.sum())
            new = distances(space, points[draws], points).square()
            new = torch.minimum(new, square)
            chosen = int((new @ w).argmin())
            square = new[chosen]
            index.append(int(draws[chosen]))
        return points[index]

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def _distances(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        points = self._as_points(X, reset=False)
        return distances(self._space(), torch.tensor(self.cluster_centers_), points).mT

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the nearest center of each point, shape (n_samples,).

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        """
        return as_numpy(self._distances(X).argmin(-1)).astype(np.int32)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return geodesic distances to the centers, shape (n_samples, n_clusters).

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        """
        return as_numpy(self._distances(X))

    def score(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return minus the inertia of points.

        Parameters
        ----------
        X : array-like, shape (n_samples, *point)
            Points.
        y : object, optional
            Ignored.
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative weights.
        """
        square = self._distances(X).square().amin(-1)
        if sample_weight is None:
            return -float(square.sum())
        total = _total(sample_weight)
        return -float(to_weights(sample_weight, len(square)) @ square) * total


class _Run(NamedTuple):
    centers: Tensor
    labels: Tensor
    inertia: float  # for weights of sum one
    iterations: int
    converged: bool


class _Lloyd:
    """Lloyd's iteration from given centers."""

    def __init__(
        self, space: Manifold, points: Tensor, w: Tensor, max_iter: int, tol: float
    ):
        self.space, self.points, self.w = space, points, w
        self.max_iter = max_iter
        with warnings.catch_warnings():  # a rough mean will do for a unit
            warnings.simplefilter("ignore", ConvergenceWarning)
            variance = karcher_mean(space, points, w, 1e-2, max_iter=3).variance
        #: squared movement of the centers to stop at
        self.bound = tol * float(variance) / max(1, points[0].numel())

    def _square(self, centers: Tensor) -> Tensor:
        """Squared distances of the points to the centers, shape (n, k)."""
        return distances(self.space, centers, self.points).mT.square()

    def _sum(self, labels: Tensor, values: Tensor, k: int) -> Tensor:
        """Sum of what belongs to each cluster."""
        return values.new_zeros((k, *values.shape[1:])).index_add(0, labels, values)

    def _refill(self, square: Tensor, labels: Tensor, centers: Tensor):
        """Put the center of an empty cluster on the farthest point."""
        empty = (self._sum(labels, self.w, len(centers)) == 0).nonzero()[:, 0]
        own = square.gather(1, labels[:, None])[:, 0] * (self.w > 0)
        if not len(empty) or not bool(own.any()):  # every point may be a center
            return square, labels, centers
        order = own.argsort(descending=True, stable=True)
        labels, centers = labels.clone(), centers.clone()
        for cluster, i in zip(empty.tolist(), order.tolist(), strict=False):
            if float(own[i]) > 0:
                labels[i], centers[cluster] = cluster, self.points[i]
        return self._square(centers), labels, centers

    def _step(self, square: Tensor, labels: Tensor, centers: Tensor):
        """Move the centers one step of their means, halved where the cost rises."""
        lift = (..., *(None,) * self.space.ndim)
        k = len(centers)
        mass = self._sum(labels, self.w, k)
        share = self.w / torch.where(mass > 0, mass, 1.0)[labels]
        logs = self.space.logmap(centers[labels], self.points)
        direction = self._sum(labels, share[lift] * logs, k)

        def cost(square: Tensor) -> Tensor:
            return self._sum(labels, share * square.gather(1, labels[:, None])[:, 0], k)

        # a cluster of equal points costs rounding, which may rise
        before = cost(square)
        before = before * (1 + 1e-12) + 1e-13 * before.max()
        t = torch.ones_like(mass)
        for _ in range(30):
            new = self.space.expmap(centers, t[lift] * direction)
            found = self._square(new)
            rises = cost(found) > before
            if not bool(rises.any()):
                return found, new
            t = torch.where(rises, t / 2, t)
        centers = torch.where(rises[lift], centers, new)
        return self._square(centers), centers

    def __call__(self, centers: Tensor) -> _Run:
        """Run until labels stay or the centers hardly move."""
        square = self._square(centers)
        labels = square.argmin(-1)
        converged, iteration = False, 0
        while not converged and iteration < self.max_iter:
            iteration += 1
            square, labels, old = self._refill(square, labels, centers)
            square, centers = self._step(square, labels, old)
            moved = self.space.dist(old, centers, keepdim=True).square().sum()
            before, labels = labels, square.argmin(-1)
            converged = bool((labels == before).all()) or float(moved) <= self.bound
        inertia = float(self.w @ square.gather(1, labels[:, None])[:, 0])
        return _Run(centers, labels, inertia, iteration, converged)

    def finish(self, run: _Run) -> _Run:
        """Return exact means of the clusters, and the labels that they give."""
        if isinstance(self.space, Euclidean):  # where every step is exact
            return run
        centers = run.centers.clone()
        for k in range(len(centers)):
            mine = (run.labels == k) & (self.w > 0)
            if bool(mine.any()):
                centers[k] = karcher_mean(
                    self.space, self.points[mine], self.w[mine], init=centers[k]
                ).mean
        square = self._square(centers)
        labels = square.argmin(-1)
        inertia = float(self.w @ square.gather(1, labels[:, None])[:, 0])
        return run._replace(centers=centers, labels=labels, inertia=inertia)
