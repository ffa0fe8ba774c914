"""Clustering of SPD matrices: pyriemann's k-means with our metric."""

import numpy as np
from numpy.typing import ArrayLike
from pyriemann.clustering import Kmeans
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.spd.pyriemann_bridge import gbw_metric
from manifoldkit.spd.validation import check_matrices


class _Kmeans(Kmeans):
    """pyriemann's k-means behind our checks; it leaves NumPy's global generator."""

    random_state: int | np.random.RandomState | None

    def fit(self, X, y=None):
        """Fit the centroids.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices, real or complex Hermitian.
        y : None
            Ignored.

        Returns
        -------
        self
        """
        X = check_matrices(X, hermitian=True)
        if len(X) < self.n_clusters:
            raise ValueError(
                f"X: expected at least n_clusters = {self.n_clusters} matrices, "
                f"found {len(X)}"
            )
        given = self.random_state
        state = np.random.get_state()  # noqa: NPY002 (pyriemann seeds it)
        try:
            if isinstance(given, np.random.RandomState):
                self.random_state = check_random_state(given).randint(2**31 - 1)
            return super().fit(X, y)
        finally:
            self.random_state = given
            np.random.set_state(state)  # noqa: NPY002

    def predict(self, X):
        """Return the nearest centroid of each matrix, shape (n_matrices,)."""
        return super().predict(self._check(X))

    def transform(self, X):
        """Return distances to the centroids, in the root of the unit of X."""
        return super().transform(self._check(X))

    def _check(self, X):
        check_is_fitted(self, "mdm_")
        return check_matrices(X, n=self.mdm_.covmeans_.shape[-1], hermitian=True)


def make_gbw_kmeans(
    n_clusters: int = 2,
    M: ArrayLike | Tensor | None = None,
    power: float = 1.0,
    *,
    max_iter: int = 100,
    n_init: int = 10,
    tol: float = 1e-4,
    init: str | np.ndarray = "random",
    n_jobs: int = 1,
    random_state: int | np.random.RandomState | None = None,
) -> Kmeans:
    r"""Build a k-means clustering in the generalized Bures-Wasserstein metric.

    Minimizes :math:`\sum_i \min_k d_\theta(X_i, G_k)^2`: matrices go to the nearest
    centroid, centroids are the means of their matrices. A
    ``pyriemann.clustering.Kmeans`` with ``metric=gbw_metric(M, power)`` that checks its
    input; complex Hermitian matrices are welcome.

    Parameters
    ----------
    n_clusters : int, default=2
        Number of clusters.
    M, power
        Metric matrix and power, see :func:`~manifoldkit.spd.gbw_metric`.
    max_iter, n_init, tol, init, n_jobs, random_state
        Options of pyriemann's k-means.

    Returns
    -------
    pyriemann.clustering.Kmeans

    Raises
    ------
    ValueError
        M is not SPD, power near 0, or no cluster.

    Examples
    --------
    >>> X = np.array([np.eye(2), 1.1 * np.eye(2), 9 * np.eye(2), 10 * np.eye(2)])
    >>> labels = make_gbw_kmeans(2, random_state=0).fit(X).labels_
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """
    return Kmeans(
        n_clusters=check_count(n_clusters, "n_clusters"),
        metric=gbw_metric(M, power),
        max_iter=max_iter,
        n_init=n_init,
        tol=tol,
        init=init,
        n_jobs=n_jobs,
        random_state=random_state,
    )
