"""Domains through pipelines, cross-validation and searches of scikit-learn."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import (
    GroupKFold,
    LeaveOneGroupOut,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline

from manifoldkit.spd import (
    GBWMDM,
    AugmentedCovariances,
    DomainAligner,
    GBWTangentSpace,
    make_acm_classifier,
)


@pytest.fixture(scope="module")
def data():
    """Four subjects who see one difference of classes through mixings of their own."""
    rng = np.random.default_rng(0)
    signs, basis = np.array([1.0, -1.0]), np.linalg.qr(rng.standard_normal((3, 3)))[0]
    X, y, domains = [], [], []
    for i, name in enumerate(("s1", "s2", "s3", "s4")):
        labels = np.tile([0, 1], 15)
        sources = rng.standard_normal((30, 3, 80))
        sources[:, 0] *= np.exp(0.7 * signs[labels])[:, None]
        # symmetric mixings: recentering leaves no rotation
        values = np.exp(rng.uniform(-2, 2, 3))
        mixing = (basis * values) @ basis.T if i else np.eye(3)
        X.append(mixing @ sources)
        y.append(labels)
        domains += 30 * [name]
    return np.concatenate(X), np.concatenate(y), np.array(domains)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize("classifier", ["lr", "mdm", "gbwmdm"])
def test_a_subject_left_out(data, classifier, routing):
    X, y, domains = data
    model = make_acm_classifier(classifier=classifier, align=True)
    assert [name for name, _ in model.steps][1] == "align"
    plain = make_acm_classifier(classifier=classifier)
    for cv in (LeaveOneGroupOut(), GroupKFold(2)):
        params = {"groups": domains, "domains": domains}
        aligned = cross_val_score(model, X, y, cv=cv, params=params)
        params = {"groups": domains}
        apart = cross_val_score(plain, X, y, cv=cv, params=params)
        assert aligned.mean() > max(0.85, apart.mean() + 0.1)


def test_domains_reach_every_method(data, routing):
    X, y, domains = data
    model = make_acm_classifier(classifier="lr", align=True)
    model.fit(X, y, domains=domains)
    assert set(model["align"].centers_) == set(domains)
    known = model.predict_proba(X[::7], domains=domains[::7])
    new = model.predict_proba(X[::7])  # no names: one new domain
    assert np.abs(known - new).max() > 0.01
    front = model[:-1].transform(X[::7], domains=domains[::7])
    np.testing.assert_array_equal(model[-1].predict_proba(front), known)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        again.predict_proba(X[::7], domains=domains[::7]), known
    )
    assert model.score(X, y, domains=domains) > 0.85


def test_without_routing_by_the_step(data):
    X, y, domains = data
    model = make_acm_classifier(classifier="lr", align=True)
    model.fit(X, y, align__domains=domains)
    rows = domains == "s2"
    held_out = make_acm_classifier(classifier="lr", align=True)
    held_out.fit(X[~rows], y[~rows], align__domains=domains[~rows])
    assert held_out.score(X[rows], y[rows]) > 0.8
    assert set(model["align"].centers_) == set(domains)


def test_a_search_and_a_request_by_another_name(data, routing):
    X, y, domains = data
    search = make_acm_classifier(
        "auto", 2, "lr", align=DomainAligner(rescale=True), orders=(1, 2), cv=2
    )
    rows = domains == "s4"
    search.fit(X[~rows], y[~rows], domains=domains[~rows])
    assert search.best_estimator_["align"].rescale
    assert search.score(X[rows], y[rows]) > 0.8
    # MOABB hands the subjects over by this name
    aligner = DomainAligner()
    aligner.set_fit_request(domains="subjects")
    aligner.set_transform_request(domains="subjects")
    model = make_acm_classifier(classifier="lr", align=aligner)
    model.fit(X, y, subjects=domains)
    assert set(model["align"].centers_) == set(domains)


def test_elastic_net(data):
    X, y, domains = data
    model = make_acm_classifier(classifier="en", align=True, random_state=0)
    model.fit(X, y, align__domains=domains)
    assert model["classifier"].l1_ratio == 0.7
    assert (model["classifier"].coef_ == 0).any()  # what a ridge never does
    proba = model.predict_proba(X[:30])
    again = clone(model).fit(1e-6 * X, y, align__domains=domains)
    np.testing.assert_allclose(again.predict_proba(1e-6 * X[:30]), proba, atol=1e-6)


def test_bad_align():
    with pytest.raises(TypeError, match="align: expected a bool or a DomainAligner"):
        make_acm_classifier(align="yes")


@pytest.mark.parametrize("unit", [1.0, 1e-6])
@pytest.mark.parametrize("model", [GBWMDM(), GBWTangentSpace(normalize=True)])
def test_aligned_streams_of_the_estimators(data, model, unit):
    """One trial at a time through aligner and model: the answers of larger portions."""
    X, y, domains = data
    matrices = AugmentedCovariances().fit_transform(unit * X)
    answers = []
    for size in (1, 30):
        aligner, own = DomainAligner(), clone(model)
        labels = {"classes": [0, 1]} if isinstance(own, GBWMDM) else {}
        for start in range(0, len(X), size):
            part = slice(start, start + size)
            aligner.partial_fit(matrices[part], domains=domains[part])
        aligned = aligner.transform(matrices, domains)
        for start in range(0, len(X), size):
            part = slice(start, start + size)
            own.partial_fit(aligned[part], y[part], **labels)
        answers.append(own.transform(aligned))
    fitted = clone(model).fit(DomainAligner().fit_transform(matrices, None, domains), y)
    expected = fitted.transform(aligned)
    for answer in answers:
        gap = np.linalg.norm(answer - expected) / np.linalg.norm(expected)
        assert gap < 0.15
    if isinstance(model, GBWMDM):
        same = answers[0].argmin(1) == expected.argmin(1)
        assert same.mean() > 0.95


def test_parts_of_a_pipeline_without_labels_ask_for_none(data):
    X, _, domains = data
    front = make_pipeline(AugmentedCovariances(), DomainAligner(), GBWTangentSpace())
    assert front.fit_transform(X, domainaligner__domains=domains).shape == (120, 6)


def test_adapt_learns_one_domain_anew(data):
    X, _, domains = data
    matrices = AugmentedCovariances().fit_transform(X)
    model = DomainAligner().fit(matrices, domains=domains)
    before = dict(model.centers_)
    rows = domains == "s3"
    model.adapt(matrices[rows][:10], domains[rows][:10])
    expected = DomainAligner().fit(matrices[rows][:10]).centers_[None]
    np.testing.assert_array_equal(model.centers_["s3"], expected)
    assert all(model.centers_[name] is before[name] for name in ("s1", "s2", "s4"))
