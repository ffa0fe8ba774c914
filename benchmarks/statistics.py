"""Statistics on manifolds against scikit-learn, pyriemann, geomstats if it imports."""

import logging
import warnings

import numpy as np
import torch
from pyriemann.clustering import Kmeans
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from benchmarks.timing import compare, ratio_row, row
from manifoldkit.manifolds import SPD, Sphere, pairwise_distance, tangent_basis
from manifoldkit.statistics import (
    FrechetMean,
    GeodesicRegression,
    ManifoldKMeans,
    TangentPCA,
    WrappedNormal,
)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _matrices(count, n, spread=0.3):
    x = torch.eye(n, dtype=torch.float64)
    return WrappedNormal(SPD(), x, spread**2).rsample(count, generator=_generator())


def _components():
    x = _matrices(1000, 8)
    return ratio_row(
        "tangent PCA, 1000 matrices 8 x 8",
        lambda: TangentPCA(SPD()).fit(x),
        "our mean alone",
        lambda: FrechetMean(SPD()).fit(x),
        repeats=5,
        target="<= 3",
    )


def _flat_components():
    x = np.random.default_rng(0).standard_normal((5000, 50))
    return ratio_row(
        "PCA of 5000 x 50 numbers",
        lambda: TangentPCA().fit(x),
        "scikit-learn PCA",
        lambda: PCA(svd_solver="full").fit(x),
        repeats=5,
        note="checks, basis and coordinates of a general manifold",
    )


def _sphere_line(count=50):
    """Covariates, and points around a great circle at those angles."""
    g = _generator(1)
    t = torch.rand(count, 1, dtype=torch.float64, generator=g) * 2 - 1
    y = torch.cat([t.cos(), t.sin(), 0 * t], -1)
    noise = 0.2 * torch.randn(count, 2, dtype=torch.float64, generator=g)
    u = torch.einsum("na,na...->n...", noise, tangent_basis(Sphere(), y))
    return t.numpy(), Sphere().expmap(y, u).numpy()


def _regression():
    x, y = _sphere_line()

    def ours():
        return GeodesicRegression(Sphere()).fit(x, y)

    case = "geodesic regression, 50 points on the sphere"
    try:
        logging.disable(logging.WARNING)
        from geomstats.geometry.hypersphere import Hypersphere
        from geomstats.learning.geodesic_regression import (
            GeodesicRegression as PeerRegression,
        )
    except ImportError:  # its wheels do not import under every NumPy
        return row(case, compare({"ours": ours})["ours"], target="<= 1")
    finally:
        logging.disable(logging.NOTSET)

    def peer():
        model = PeerRegression(
            Hypersphere(2),
            center_X=True,
            method="extrinsic",
            initialization="warm_start",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(x[:, 0], y)

    return ratio_row(case, ours, "geomstats", peer, repeats=5, target="<= 1")


def _clusters():
    centers = _matrices(3, 4, 1.0)
    parts = [
        WrappedNormal(SPD(), c, 0.04).rsample(60, generator=_generator(i))
        for i, c in enumerate(centers)
    ]
    x = torch.cat(parts).numpy()

    def ours():
        return ManifoldKMeans(SPD(), 3, n_init=5, random_state=0).fit(x)

    def peer():
        return Kmeans(n_clusters=3, n_init=5, random_state=0).fit(x)

    return ratio_row(
        "k-means, 180 matrices 4 x 4 in 3 clusters, 5 starts",
        ours,
        "pyriemann Kmeans",
        peer,
        repeats=5,
        target="<= 2",
    )


def _flat_clusters():
    x = np.random.default_rng(0).standard_normal((2000, 8))
    start = x[:10]
    return ratio_row(
        "k-means, 2000 x 8 numbers, one start",
        lambda: ManifoldKMeans(n_clusters=10, init=start).fit(x),
        "scikit-learn KMeans",
        lambda: KMeans(10, init=start, n_init=1).fit(x),
        repeats=5,
        note="BLAS products against distances of a general manifold",
    )


def _distances():
    from pyriemann.geometry.distance import pairwise_distance as peer

    x = _matrices(300, 8)
    return ratio_row(
        "all distances of 300 matrices 8 x 8",
        lambda: pairwise_distance(SPD(), x),
        "pyriemann pairwise_distance",
        lambda: peer(x.numpy(), metric="riemann"),
        repeats=3,
        note="each pair once, eigenvalues refined where they are rough",
    )


def run():
    """Return the rows."""
    return [
        _components(),
        _flat_components(),
        _regression(),
        _clusters(),
        _flat_clusters(),
        _distances(),
    ]
