"""pyriemann's estimators run unchanged on the GBW metric."""

import pickle

import numpy as np
import pytest
import torch
from pyriemann.artifact_detection import Potato
from pyriemann.classification import MDM, SVC, FgMDM, KNearestNeighbor, TSClassifier
from pyriemann.clustering import Kmeans, MeanShift
from pyriemann.geometry.distance import distance_wasserstein
from pyriemann.geometry.geodesic import geodesic_wasserstein
from pyriemann.geometry.mean import mean_wasserstein
from pyriemann.geometry.tangentspace import (
    exp_map,
    log_map,
    log_map_wasserstein,
)
from pyriemann.tangentspace import TangentSpace
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from manifoldkit.spd import gbw_metric

SETTINGS = [(False, 1.0), (True, 1.0), (True, 0.5), (False, 1.5)]


@pytest.fixture
def data(rng):
    """Two well separated classes."""
    a = rng.standard_normal((24, 3, 30))
    y = np.arange(24) % 2
    a[y == 1, 0] *= 3
    return a @ a.transpose(0, 2, 1) / 30, y


@pytest.fixture(params=SETTINGS, ids=str)
def metric(request, data):
    matrix, power = request.param
    return gbw_metric(data[0].mean(0) if matrix else None, power)


def test_plain_metric_is_pyriemanns_wasserstein(data):
    X, _ = data
    metric = gbw_metric()
    np.testing.assert_allclose(
        metric["distance"](X, X[0])[1:], distance_wasserstein(X, X[0])[1:], rtol=1e-10
    )
    np.testing.assert_allclose(
        metric["mean"](X), mean_wasserstein(X, tol=1e-12), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        metric["map"].log(X, X[0]), log_map_wasserstein(X, X[0]), rtol=0, atol=1e-11
    )
    np.testing.assert_allclose(
        metric["mean"](X[0], X[1], 0.3), geodesic_wasserstein(X[0], X[1], 0.3)
    )


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])
def test_mean_is_free_of_units(data, scale):
    X, _ = data
    expected = mean_wasserstein(X, tol=1e-12) * scale
    np.testing.assert_allclose(gbw_metric()["mean"](X * scale), expected, rtol=1e-7)


def test_one_map_entry_serves_log_and_exp(data, metric):
    X, _ = data
    tangent = log_map(X, X[0], metric=metric["map"])
    np.testing.assert_allclose(
        exp_map(tangent, X[0], metric=metric["map"]), X, rtol=0, atol=1e-10
    )
    space = TangentSpace(metric=metric)
    np.testing.assert_allclose(
        space.inverse_transform(space.fit_transform(X)), X, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    "make",
    [
        MDM,
        FgMDM,
        TSClassifier,
        lambda metric: KNearestNeighbor(3, metric=metric),
        lambda metric: SVC(Cref=metric["mean"], kernel_fct=metric["kernel"]),
    ],
    ids=["MDM", "FgMDM", "TSClassifier", "KNearestNeighbor", "SVC"],
)
def test_classifiers(data, metric, make):
    X, y = data
    classifier = make(metric=metric)
    assert classifier.fit(X, y).score(X, y) >= 0.9
    assert pickle.loads(pickle.dumps(classifier)).score(X, y) >= 0.9
    assert clone(classifier).fit(X, y).score(X, y) >= 0.9


@pytest.mark.slow
def test_metric_travels_to_other_processes(data):
    X, y = data
    scores = cross_val_score(MDM(metric=gbw_metric(power=0.5)), X, y, cv=2, n_jobs=2)
    assert scores.min() >= 0.9


def test_kmeans_and_mean_shift_find_the_classes(rng, metric):
    noise = rng.standard_normal((24, 3, 3)) * 0.02
    y = np.repeat([0, 1], 12)
    centers = np.array([np.diag([1.0, 2, 3]), np.diag([3.0, 2, 1])])
    X = centers[y] + noise + noise.transpose(0, 2, 1)
    for clustering in (
        Kmeans(2, metric=metric, random_state=0),
        MeanShift(metric=metric),
    ):
        labels = clustering.fit(X).predict(X)
        assert len(set(zip(labels, y, strict=True))) == 2


def test_potato_moves_its_reference(data, metric):
    X, y = data
    X = X[y == 0]
    potato = Potato(metric=metric).fit(X)
    before = potato.covmean_.copy()
    potato.partial_fit(2 * X[:4], alpha=0.5)
    assert potato.predict(X).shape == (len(X),)
    moved = potato._mdm.covmeans_[0]
    distance = metric["distance"]
    target = metric["mean"](2 * X[:4])
    np.testing.assert_allclose(
        distance(before, moved), 0.5 * distance(before, target), rtol=1e-9
    )


def test_weights_reach_the_mean(data):
    X, _ = data
    weights = np.arange(len(X))
    mean = gbw_metric()["mean"]
    repeated = np.repeat(X, weights, axis=0)
    np.testing.assert_allclose(
        mean(X, sample_weight=weights), mean(repeated), rtol=0, atol=1e-9
    )


def test_tensors_in_tensors_out(data):
    X = torch.from_numpy(data[0])
    metric = gbw_metric(np.eye(3) * 2, 0.5)
    distance = metric["distance"](X, X[0])
    assert isinstance(distance, torch.Tensor)
    np.testing.assert_allclose(
        distance, metric["distance"](data[0], data[0][0]), atol=1e-14
    )
    assert metric["distance"](X.numpy().astype(np.float32), X[0].float().numpy())[
        0
    ].dtype == np.float32  # fmt: skip
    X = X.clone().requires_grad_()
    metric["mean"](X).sum().backward()
    assert X.grad.isfinite().all()


def test_equality_and_repr():
    assert gbw_metric(np.eye(2), 0.5) == gbw_metric(torch.eye(2), 0.5)
    assert gbw_metric(power=0.5) != gbw_metric(power=1.0)
    assert "power=0.5" in repr(gbw_metric(np.eye(2), 0.5))
    assert len({gbw_metric()["map"], gbw_metric()["map"]}) == 1


@pytest.mark.parametrize(
    ("M", "power", "error", "text"),
    [
        (None, 0.0, ValueError, "power"),
        (None, 1e-4, ValueError, "power"),
        (-np.eye(2), 1.0, ValueError, "M is not positive definite"),
        (np.eye(2)[None], 1.0, ValueError, r"M: .*\(1, 2, 2\)"),
        (np.eye(2) * 1j, 1.0, ValueError, "M is not Hermitian"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), 1.0, ValueError, "symmetric"),
    ],
)
def test_bad_settings_at_construction(M, power, error, text):
    with pytest.raises(error, match=text):
        gbw_metric(M, power)


def test_matrix_of_another_size(data):
    with pytest.raises(ValueError, match=r"M: .*\(\.\.\., 3, 3\).*\(2, 2\)"):
        MDM(metric=gbw_metric(np.eye(2))).fit(*data)


def test_indefinite_training_matrix_is_named(data):
    X, y = data
    X[3, 0, 0] = -1
    with pytest.raises(ValueError, match="not positive semidefinite"):
        MDM(metric=gbw_metric()).fit(X, y)
