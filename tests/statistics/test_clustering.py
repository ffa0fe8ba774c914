"""K-means on manifolds: scikit-learn's on flat data, monotone, without coordinates."""

import numpy as np
import pytest
import torch
from pyriemann.clustering import Kmeans
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from spaces import FEW, ISOMETRIES, SPACES, base_point, cloud

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.manifolds import SPD, Sphere
from manifoldkit.optim import karcher_mean
from manifoldkit.statistics import ManifoldKMeans


def test_scikit_learn_checks():
    # seeding draws samples, which weights do not repeat: as scikit-learn's own KMeans
    name = "check_sample_weight_equivalence_on_dense_data"
    model = ManifoldKMeans(n_clusters=3, n_init=2)
    check_estimator(model, on_skip=None, expected_failed_checks={name: "seeding"})


@pytest.mark.parametrize("tol", [0.0, 1e-4, 1e-1])
@pytest.mark.parametrize("weighted", [False, True])
def test_euclidean_data_have_the_clusters_of_scikit_learn(rng, tol, weighted):
    X, _ = make_blobs(150, 3, centers=6, cluster_std=3.0, random_state=0)
    w = rng.random(150) if weighted else None
    start = X[:6]
    ours = ManifoldKMeans(n_clusters=6, init=start, tol=tol).fit(X, sample_weight=w)
    peer = KMeans(6, init=start, n_init=1, tol=tol).fit(X, sample_weight=w)
    np.testing.assert_array_equal(ours.labels_, peer.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, peer.cluster_centers_, atol=1e-10)
    np.testing.assert_allclose(ours.inertia_, peer.inertia_, rtol=1e-10)
    np.testing.assert_allclose(ours.transform(X), peer.transform(X), atol=1e-10)
    np.testing.assert_allclose(ours.score(X), peer.score(X), rtol=1e-10)


def groups(name, n=8, spread=0.15):
    """Points around three centers, and which."""
    manifold, _ = SPACES[name]
    n = FEW.get(name, n)
    centers = cloud(name, 3, spread=0.9, seed=2)
    parts = [cloud(name, n, spread, seed=i, base=c) for i, c in enumerate(centers)]
    return manifold, torch.cat(parts), np.repeat([0, 1, 2], n)


@pytest.mark.parametrize(
    "name", ["euclidean", "sphere", "rotations", "grassmann", "airm", "bw", "product"]
)
def test_laws_on_manifolds(name):
    manifold, x, truth = groups(name)
    model = ManifoldKMeans(manifold, 3, n_init=4, random_state=0).fit(x)
    assert adjusted_rand_score(truth, model.labels_) > 0.8
    d = model.transform(x)
    np.testing.assert_array_equal(model.labels_, d.argmin(1))
    np.testing.assert_array_equal(model.labels_, model.predict(x))
    np.testing.assert_allclose(model.inertia_, (d.min(1) ** 2).sum(), rtol=1e-10)
    for k in range(3):
        mean = karcher_mean(manifold, x[model.labels_ == k]).mean
        gap = manifold.dist(mean, torch.tensor(model.cluster_centers_[k]))
        assert float(gap) < 1e-6


@pytest.mark.parametrize("name", ["sphere", "rotations", "airm", "log_euclidean"])
def test_isometries_keep_the_labels(name):
    manifold, x, _ = groups(name)
    a = ManifoldKMeans(manifold, 3, n_init=2, random_state=0).fit(x)
    b = ManifoldKMeans(manifold, 3, n_init=2, random_state=0).fit(ISOMETRIES[name](x))
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_allclose(a.inertia_, b.inertia_, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:ManifoldKMeans")
@pytest.mark.parametrize("name", ["sphere", "airm", "log_cholesky"])
def test_the_inertia_never_rises(name):
    manifold, _ = SPACES[name]
    x = cloud(name, 40, spread=1.0)
    inertia = [
        ManifoldKMeans(manifold, 5, init=x[:5], tol=0, max_iter=i).fit(x).inertia_
        for i in range(1, 7)
    ]
    assert np.diff(inertia).max() <= 1e-9 * inertia[0]
    assert inertia[-1] <= inertia[0]


def test_pyriemann_finds_the_same_from_its_best_start():
    _, x, _ = groups("airm", 20)
    ours = ManifoldKMeans(SPD(), 3, random_state=0).fit(x)
    peer = Kmeans(n_clusters=3, n_init=10, random_state=0).fit(x.numpy())
    assert adjusted_rand_score(ours.labels_, peer.labels_) == 1


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_changes_nothing(rng, scale):
    X = rng.standard_normal((40, 2))
    a = ManifoldKMeans(n_clusters=3, random_state=0).fit(X)
    b = ManifoldKMeans(n_clusters=3, random_state=0).fit(scale * X)
    np.testing.assert_array_equal(a.labels_, b.labels_)
    x = cloud("airm", 20)
    a, b = (ManifoldKMeans(SPD(), 3, random_state=0).fit(s * x) for s in (1, scale))
    np.testing.assert_array_equal(a.labels_, b.labels_)


def test_an_empty_cluster_moves_to_the_farthest_point():
    X = np.array([[0.0], [0.1], [0.2], [9.0]])
    start = np.array([[0.1], [100.0], [101.0]])
    ours = ManifoldKMeans(n_clusters=3, init=start).fit(X)
    assert len(set(ours.labels_)) == 3
    assert ours.labels_[3] not in ours.labels_[:3]
    peer = KMeans(3, init=start, n_init=1).fit(X)
    np.testing.assert_allclose(ours.inertia_, peer.inertia_)


def test_seeds_and_starts():
    x = cloud("sphere", 40, 0.8)
    a, b = (ManifoldKMeans(Sphere(), 4, random_state=3).fit(x) for _ in range(2))
    np.testing.assert_array_equal(a.labels_, b.labels_)
    many = ManifoldKMeans(Sphere(), 4, n_init=20, random_state=0).fit(x).inertia_
    one = ManifoldKMeans(Sphere(), 4, n_init=1, init="random", random_state=1).fit(x)
    assert many <= one.inertia_ * (1 + 1e-9)


def test_bad_input_and_few_points():
    x = cloud("sphere", 6)
    twice = x[:2].repeat(3, 1)
    with pytest.warns(ConvergenceWarning, match="2 distinct clusters found"):
        model = ManifoldKMeans(Sphere(), 3, random_state=0).fit(twice)
    assert model.inertia_ < 1e-12
    with pytest.raises(ValueError, match="n_clusters: expected at most n_samples=6"):
        ManifoldKMeans(Sphere(), 7).fit(x)
    for key, value in {
        "n_clusters": 0,
        "n_init": 1.5,
        "tol": -1,
        "max_iter": 0,
    }.items():
        with pytest.raises(ValueError, match=f"{key}: expected"):
            ManifoldKMeans(Sphere(), **{key: value}).fit(x)
    with pytest.raises(ValueError, match="init: expected"):
        ManifoldKMeans(Sphere(), 2, init="best").fit(x)
    with pytest.raises(ValueError, match="init: expected centers of shape"):
        ManifoldKMeans(Sphere(), 2, init=x[:3]).fit(x)
    with pytest.raises(ValueError, match="init: not points"):
        ManifoldKMeans(Sphere(), 2, init=2 * x[:2]).fit(x)
    far = cloud("sphere", 50, 1.0)
    with pytest.warns(ConvergenceWarning, match="1 iterations did not settle"):
        ManifoldKMeans(Sphere(), 5, init=far[:5], max_iter=1).fit(far)


def test_it_works_in_a_pipeline(rng):
    X = rng.standard_normal((30, 2))
    y = np.zeros(30)
    model = make_pipeline(StandardScaler(), ManifoldKMeans(n_clusters=2)).fit(X, y)
    assert model.predict(X[:1]).shape == (1,)
    assert base_point("sphere").shape == (3,)
