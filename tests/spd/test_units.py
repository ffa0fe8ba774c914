"""Volts give what microvolts give, for every estimator, metric and covariance."""

import numpy as np
import pytest
import torch
from pyriemann.classification import SVC
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from manifoldkit.spd import (
    GBWMDM,
    AugmentedCovariances,
    GBWTangentSpace,
    augmented_covariance,
    gbw_distance,
    gbw_metric,
    make_acm_classifier,
    make_gbw_kmeans,
    select_delay_embedding,
)

UNITS = [1e-9, 1e9]
METRICS = {
    **{m: m for m in ("riemann", "euclid", "wasserstein", "logchol")},
    "gbw": gbw_metric(),
    "gbw, power 0.5": gbw_metric(power=0.5),
}


@pytest.fixture(scope="module")
def data():
    """Three classes that overlap, in microvolts."""
    rng = np.random.default_rng(0)
    X, y = 10 * rng.standard_normal((24, 3, 50)), np.repeat(["a", "b", "c"], 8)
    X[:8, 0] *= 1.5
    X[8:16, 1] *= 1.5
    return X, y


def regression():
    return LogisticRegression(max_iter=5000, tol=1e-9)


def answers(model, X, y, unit):
    model.fit(X * unit, y)
    proba = hasattr(model, "predict_proba")
    return (model.predict_proba if proba else model.decision_function)(X * unit)


def agree(model, data):
    X, y = data
    expected = answers(model, X, y, 1.0)
    assert np.ptp(expected) > 0.05  # chance would agree with anything
    for unit in UNITS:
        np.testing.assert_allclose(
            answers(model, X, y, unit), expected, rtol=0, atol=1e-6
        )


@pytest.mark.filterwarnings("ignore:Convergence not reached:UserWarning")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classifier", ["svm", "lr", "mdm", "fgmdm"])
def test_make_acm_classifier(data, classifier, metric):
    agree(make_acm_classifier(classifier=classifier, metric=METRICS[metric]), data)


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("M", ["identity", "mean"])
@pytest.mark.parametrize("make", [GBWMDM, GBWTangentSpace])
def test_features_in_front_of_a_linear_model(data, make, M, power):
    space = make(power, M)
    # distances have a unit; inverses of microvolts are too small to tell apart
    if make is GBWMDM or power < 0:
        space.set_params(normalize=True)
    agree(make_pipeline(AugmentedCovariances(), space, regression()), data)


@pytest.mark.parametrize("unit", [0.1, 7.0, 1e-7, 1e5])
@pytest.mark.parametrize("make", [GBWMDM, GBWTangentSpace])
def test_no_factor_at_all_matters_where_that_is_asked_for(data, make, unit):
    X, y = data
    space = make(normalize=True)
    model = make_pipeline(AugmentedCovariances(), space, regression())
    np.testing.assert_allclose(
        answers(model, X, y, unit), answers(model, X, y, 1.0), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_features_are_distances_in_the_unit_that_suits_the_data(data, power):
    C = AugmentedCovariances().fit_transform(data[0])
    space = GBWTangentSpace(power).fit(C)
    distances = space.reference_[None], C
    expected = gbw_distance(*map(torch.from_numpy, distances), power=power).numpy()
    lengths = np.linalg.norm(space.transform(C), axis=1)
    assert space.scale_ == 1
    np.testing.assert_allclose(lengths, expected)
    volts = GBWTangentSpace(power).fit(C * 1e-12)
    assert volts.scale_ == pytest.approx(1e-6**power)
    np.testing.assert_allclose(volts.transform(C * 1e-12), space.transform(C))


@pytest.mark.parametrize("M", ["identity", "mean"])
def test_gbwmdm(data, M):
    agree(make_pipeline(AugmentedCovariances(), GBWMDM(M=M)), data)


def test_raw_units_are_an_option(data):
    X, _ = data
    C = AugmentedCovariances().fit_transform(X)
    space = GBWTangentSpace(normalize=False)
    volts = space.fit_transform(C * 1e-12)
    np.testing.assert_allclose(volts * 1e6, space.fit_transform(C), atol=1e-9)


def test_a_given_reference_is_in_the_unit_of_the_data(data):
    C = AugmentedCovariances().fit_transform(data[0])
    for reference in ("identity", np.eye(3)):
        with pytest.warns(UserWarning, match="in the unit of the data"):
            GBWTangentSpace(reference=reference).fit(C * 1e-12)
        GBWTangentSpace(reference=reference).fit(C)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("structure", ["stacked", "toeplitz"])
@pytest.mark.parametrize(
    "estimator",
    [
        *("cov", "scm", "corr", "oas", "lwf", "sch"),
        *(
            pytest.param(e, marks=pytest.mark.slow)
            for e in ("hub", "stu", "tyl", "mcd")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Convergence not reached:UserWarning")
@pytest.mark.filterwarnings("ignore:`xpx.expand_dims` is deprecated")
def test_covariances_are_homogeneous(data, estimator, structure, unit):
    if structure == "toeplitz" and estimator not in ("cov", "scm", "corr", "oas"):
        return
    X = data[0][:2]
    model = AugmentedCovariances(2, 1, estimator, structure, random_state=0)
    scale = 1 if estimator in ("corr", "tyl") else unit**2
    found = model.fit_transform(X * unit) / scale
    expected = model.fit_transform(X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * expected.max())


@pytest.mark.parametrize("unit", [1e-140, 1e140])
@pytest.mark.parametrize("estimator", ["oas", "lwf"])
def test_shrinkage_at_the_ends_of_the_range(data, estimator, unit):
    x = torch.from_numpy(data[0][:4])
    expected = augmented_covariance(x, 2, 1, estimator=estimator)
    found = augmented_covariance(x * unit, 2, 1, estimator=estimator)
    torch.testing.assert_close(found / unit / unit, expected)


@pytest.mark.parametrize("unit", [1e-170, 1e170])
def test_what_no_number_can_hold_is_named(data, unit):
    with pytest.raises(ValueError, match=r"X\[0\].*outside the range of float64"):
        AugmentedCovariances().fit_transform(data[0] * unit)


def test_clusters_and_kernel(data):
    X, y = data
    C = AugmentedCovariances().fit_transform(X)
    metric = gbw_metric()
    svc = SVC(Cref=metric["mean"], kernel_fct=metric["kernel"])
    expected = svc.fit(C, y).decision_function(C)
    labels = make_gbw_kmeans(3, random_state=0, n_init=2).fit(C).labels_
    for scale in (1e-18, 1e-12, 1e18):
        found = svc.fit(C * scale, y).decision_function(C * scale)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        again = make_gbw_kmeans(3, random_state=0, n_init=2).fit(C * scale).labels_
        np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize("method", ["mdop", "afnn", "bic", "uniform"])
def test_choice_of_order_and_lag(data, method):
    X = data[0][:6]
    chosen = [
        select_delay_embedding(X * unit, method, random_state=0)
        for unit in (1.0, 1e-9, 1e9, 1e-200)
    ]
    assert len({(c.order, c.lag) for c in chosen}) == 1
