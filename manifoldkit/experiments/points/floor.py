"""The floor under rotation-invariant networks: histograms and a support vector machine.

Distances, areas and radii do not change when a cloud is turned, and a few histograms
of them already tell many shapes apart. A network that claims more must beat this.
"""

from typing import Any, Self

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

_BINS = 32


class ShapeHistograms(TransformerMixin, BaseEstimator):
    """Histograms of distances, radii and triangle areas, and principal variances.

    Parameters
    ----------
    n_pairs : int, default=512
        Points whose mutual distances are taken.
    random_state : int, default=0
        Seed of the triangles.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((2, 600, 3))
    >>> ShapeHistograms().fit_transform(X).shape
    (2, 99)
    """

    def __init__(self, n_pairs: int = 512, random_state: int = 0):
        self.n_pairs = n_pairs
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: Any = None) -> Self:
        """Nothing is learned."""
        return self

    def transform(self, X: np.ndarray, normals: Any = None) -> np.ndarray:
        """Describe clouds (n_clouds, n_points, 3)."""
        return np.stack([self._describe(np.asarray(cloud, float)) for cloud in X])

    def _describe(self, cloud: np.ndarray) -> np.ndarray:
        cloud = cloud - cloud.mean(0)
        radius = np.linalg.norm(cloud, axis=1)
        scale = radius.max() or 1.0
        cloud, radius = cloud / scale, radius / scale
        rng = np.random.RandomState(self.random_state)
        corners = cloud[rng.randint(len(cloud), size=(4096, 3))]
        sides = corners[:, 1:] - corners[:, :1]
        areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2
        parts = [
            np.histogram(values, _BINS, (0, top), density=True)[0]
            for values, top in (
                (pdist(cloud[: self.n_pairs]), 2.0),
                (radius, 1.0),
                (np.sqrt(areas), 1.2),
            )
        ]
        spread = np.linalg.eigvalsh(cloud.T @ cloud / len(cloud))
        return np.concatenate([*parts, np.sqrt(np.maximum(spread, 0))])


def make_floor() -> Pipeline:
    """Return the floor as a pipeline on clouds."""
    return make_pipeline(
        ShapeHistograms(), StandardScaler(), SVC(C=10.0, gamma="scale")
    )
