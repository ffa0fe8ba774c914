"""Running class means and references, and answers that no other item changes."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from manifoldkit.spd import (
    GBWMDM,
    AugmentedCovariances,
    GBWTangentSpace,
    gbw_metric,
    make_acm_classifier,
)


@pytest.fixture
def data(rng):
    """Two classes that overlap."""
    x, y = rng.standard_normal((30, 3, 12)), np.tile(["a", "b"], 15)
    x[y == "a", 0] *= 2
    return x @ x.swapaxes(1, 2) / 12, y


@pytest.fixture
def commuting(data):
    X, y = data
    return np.stack([np.diag(np.diag(x)) for x in X]), y


def batches(X, y, size):
    for start in range(0, len(X), size):
        yield X[start : start + size], y[start : start + size]


def test_one_call_is_a_fit(data):
    X, y = data
    weights = np.linspace(0.1, 1, len(X))
    fitted = GBWMDM(M="mean").fit(X, y, weights)
    started = GBWMDM(M="mean").partial_fit(X, y, ["a", "b"], weights)
    np.testing.assert_array_equal(started.predict_proba(X), fitted.predict_proba(X))
    space = GBWTangentSpace(power=0.5)
    expected = clone(space).fit(X, sample_weight=weights).transform(X)
    found = space.partial_fit(X, sample_weight=weights).transform(X)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_commuting_matrices_in_any_portions_give_the_fit(commuting, power):
    X, y = commuting
    weights = np.linspace(0.1, 1, len(X))
    model, space = GBWMDM(power), GBWTangentSpace(power)
    rows = np.arange(len(X))
    for part, _ in batches(rows, y, 7):
        model.partial_fit(X[part], y[part], ["a", "b"], weights[part])
        space.partial_fit(X[part], sample_weight=weights[part])
    fitted = GBWMDM(power).fit(X, y, weights)
    np.testing.assert_allclose(model.covmeans_, fitted.covmeans_, atol=1e-8)
    np.testing.assert_allclose(model.class_count_, fitted.class_count_)
    np.testing.assert_allclose(model.temperature_, fitted.temperature_, rtol=0.3)
    reference = GBWTangentSpace(power).fit(X, sample_weight=weights)
    np.testing.assert_allclose(space.reference_, reference.reference_, atol=1e-8)
    np.testing.assert_allclose(space.scale_, reference.scale_)
    np.testing.assert_allclose(space.weight_, reference.weight_)


def test_one_matrix_a_call_is_the_running_mean_of_pyriemann(data):
    X, y = data
    model, mean = GBWMDM().fit(X[:10], y[:10]), gbw_metric()["mean"]
    means, counts = model.covmeans_.copy(), {"a": 5, "b": 5}
    for x, label in zip(X[10:], y[10:], strict=True):
        model.partial_fit(x[None], [label])
        k = "ab".index(label)
        counts[label] += 1
        means[k] = mean(means[k], x, 1 / counts[label])
    np.testing.assert_allclose(model.covmeans_, means, atol=1e-9)
    np.testing.assert_array_equal(model.class_count_, [15, 15])
    near = GBWMDM().fit(X, y)
    distance = gbw_metric()["distance"]
    assert (distance(near.covmeans_, model.covmeans_) < 0.05).all()
    np.testing.assert_allclose(
        model.predict_proba(X), near.predict_proba(X), rtol=0, atol=0.2
    )


def test_it_follows_a_drift(data):
    X, y = data
    model = GBWMDM().fit(X, y)
    for part, labels in batches(np.concatenate([16 * X] * 4), np.tile(y, 4), 10):
        model.partial_fit(part, labels)
    assert model.score(16 * X, y) >= GBWMDM().fit(X, y).score(16 * X, y)
    space = GBWTangentSpace().fit(X)
    before = np.trace(space.reference_)
    assert np.trace(space.partial_fit(16 * X).reference_) > 3 * before
    given = GBWTangentSpace(reference=np.eye(3)).fit(X).partial_fit(2 * X)
    np.testing.assert_array_equal(given.reference_, np.eye(3))


def test_a_class_that_has_not_come_yet(data):
    X, y = data
    first = y == "b"
    model = GBWMDM().partial_fit(X[first], y[first], ["a", "b", "c"])
    assert set(model.predict(X)) == {"b"}
    np.testing.assert_array_equal(model.predict_proba(X), [[0, 1, 0]] * len(X))
    with pytest.raises(ValueError, match="no matrices of class 'a' were given"):
        model.transform(X)
    model.partial_fit(X[~first], y[~first])
    np.testing.assert_array_equal(model.predict(X), GBWMDM().fit(X, y).predict(X))
    probabilities = model.predict_proba(X)
    np.testing.assert_array_equal(probabilities[:, 2], 0)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_bad_calls(data):
    X, y = data
    with pytest.raises(ValueError, match="classes: expected in the first call"):
        GBWMDM().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"labels out of .'a', 'c'., found 'b'"):
        GBWMDM().partial_fit(X, y, ["a", "c"])
    with pytest.raises(ValueError, match=r"needs matrices of every class.*'c'"):
        GBWMDM(learn_metric=True).partial_fit(X, y, ["a", "b", "c"])
    model = GBWMDM().fit(X, y)
    before = model.covmeans_.copy()
    for call, text in (
        (lambda: model.partial_fit(X, y, ["a", "x"]), "as before"),
        (lambda: model.partial_fit(X[:, :2, :2], y), r"\(n_matrices, 3, 3\) as in fit"),
        (lambda: model.partial_fit(-X, y), r"X\[0\] is not positive definite"),
        (lambda: model.partial_fit(X, y[:-1]), "inconsistent"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    np.testing.assert_array_equal(model.covmeans_, before)
    with pytest.raises(TypeError, match="expected real matrices as in fit"):
        model.partial_fit(X.astype(complex), y)


@pytest.mark.parametrize("classifier", ["svm", "lr", "mdm", "fgmdm", "gbwmdm"])
def test_company_changes_no_answer(rng, classifier):
    X, y = rng.standard_normal((24, 3, 60)), np.tile(["a", "b"], 12)
    X[y == "a", 0] *= 2
    model = make_acm_classifier(2, 1, classifier).fit(X, y)
    method = "decision_function" if classifier == "svm" else "predict_proba"
    answer = getattr(model, method)
    alone = np.concatenate([answer(x[None]) for x in X])
    np.testing.assert_allclose(answer(X), alone, rtol=0, atol=1e-9)
    # with a missing channel and an outlier beside them
    spoiled = X.copy()
    spoiled[3, 1], spoiled[7] = np.nan, 1e6 * X[7]
    with pytest.warns(UserWarning, match=r"1 of 24 epochs.*X\[3\] channel 1"):
        found = answer(spoiled)
    kept = np.delete(np.arange(24), [3, 7])
    np.testing.assert_allclose(found[kept], alone[kept], rtol=0, atol=1e-9)
    assert np.isfinite(found).all()


def test_features_in_company_and_alone(rng):
    X = rng.standard_normal((6, 3, 60))
    for step in (GBWTangentSpace(), GBWTangentSpace(power=0.5, M="mean")):
        model = make_pipeline(AugmentedCovariances("auto", 2, "lwf"), step).fit(X)
        alone = np.concatenate([model.transform(x[None]) for x in X])
        np.testing.assert_allclose(model.transform(X), alone, rtol=0, atol=1e-12)
