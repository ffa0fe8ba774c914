"""SPDNetClassifier with domains: fit, predict, routing, adaptation, files."""

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score

from manifoldkit.spd import SPDNetClassifier

pytestmark = pytest.mark.filterwarnings("ignore:an epoch takes")
SMALL = {"dims": (3,), "max_epochs": 8, "random_state": 0, "batchnorm": "airm"}


def make(**options):
    return SPDNetClassifier(**SMALL | {"domain_batchnorm": True} | options)


@pytest.fixture(scope="module")
def data():
    """Two classes of three subjects behind mixings of their own."""
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(["feet", "hands"], 10), 3)
    domains = np.repeat(["ann", "bob", "cy"], 20)
    x = rng.standard_normal((60, 4, 60))
    x[y == "hands", 0] *= 3
    for name in np.unique(domains):
        mix = np.eye(4) + 0.2 * rng.standard_normal((4, 4))
        x[domains == name] = mix @ x[domains == name]
    return x @ x.swapaxes(1, 2) / 60, x, y, domains


@pytest.fixture(scope="module")
def fitted(data):
    X, _, y, domains = data
    return make(max_epochs=20).fit(X, y, domains=domains)


def test_fit_and_predict(fitted, data):
    X, _, y, domains = data
    assert fitted.domains_.tolist() == ["ann", "bob", "cy"]
    assert fitted.score(X, y, domains=domains) > 0.9
    assert fitted.transform(X, domains=domains).shape == (60, 6)
    # the company of other domains changes nothing
    some = domains == "bob"
    alone = fitted.predict_proba(X[some], domains=domains[some])
    together = fitted.predict_proba(X, domains=domains)[some]
    np.testing.assert_allclose(alone, together, atol=1e-12)
    numbers = np.unique(domains, return_inverse=True)[1] + 7
    other = make(max_epochs=20).fit(X, y, domains=numbers)
    np.testing.assert_array_equal(
        other.predict_proba(X, domains=numbers),
        fitted.predict_proba(X, domains=domains),
    )


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"batch_size": 7}])
def test_signals_and_batches(options, data):
    _, epochs, y, domains = data
    model = make(input="signal", batchnorm="gbw", **options)
    model.fit(1e-6 * epochs, y, domains=domains)
    assert np.isfinite(model.predict_proba(1e-6 * epochs, domains=domains)).all()


def test_unseen_domains_and_adapt(fitted, data):
    X, _, y, domains = data
    new = 50 * X[:20]
    with pytest.raises(ValueError, match=r"found 'new'; call adapt\(X, 'new'\)"):
        fitted.predict(new, domains=np.repeat("new", 20))
    guess = clone(fitted).set_params(unseen="adapt").fit(X, y, domains=domains)
    expected = guess.predict_proba(new, domains=np.repeat("new", 20))
    assert "new" not in guess.domains_
    guess.adapt(new, "new")
    assert guess.domains_.tolist() == ["ann", "bob", "cy", "new"]
    found = guess.predict_proba(new, domains=np.repeat("new", 20))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    guess.adapt(new, "new", information=True, steps=5)
    assert not np.allclose(guess.predict_proba(new, domains=["new"] * 20), found)
    with pytest.raises(ValueError, match="more than 1 matrix"):
        guess.adapt(new[:1], "one")
    assert "one" not in guess.domains_


def test_partial_fit_meets_new_domains(data):
    X, _, y, domains = data
    model = make()
    first = domains != "cy"
    model.partial_fit(X[first], y[first], classes=["feet", "hands"],
                      domains=domains[first])  # fmt: skip
    model.partial_fit(X[~first], y[~first], domains=domains[~first])
    assert model.domains_.tolist() == ["ann", "bob", "cy"]
    assert np.isfinite(model.predict_proba(X, domains=domains)).all()


def test_saved_and_loaded(fitted, data, tmp_path):
    X, _, _, domains = data
    model = clone(fitted).fit(X, data[2], domains=domains)
    model.adapt(2 * X[:10], "later")
    model.save(tmp_path / "m")
    twin = SPDNetClassifier.load(tmp_path / "m")
    assert twin.domains_.tolist() == model.domains_.tolist()
    for names in (domains, np.repeat("later", 60)):
        np.testing.assert_array_equal(
            twin.predict_proba(X, domains=names), model.predict_proba(X, domains=names)
        )


def test_metadata_routing(data):
    X, _, y, domains = data
    with sklearn.config_context(enable_metadata_routing=True):
        model = make(unseen="adapt", max_epochs=15)
        model.set_fit_request(domains=True).set_score_request(domains=True)
        params = {"domains": domains, "groups": domains}
        scores = cross_val_score(model, X, y, cv=GroupKFold(3), params=params)
    assert scores.mean() > 0.7


def test_bad_domains(fitted, data):
    X, _, y, domains = data
    for model, given, error, message in (
        (make(), None, ValueError, "domains: expected one a sample"),
        (make(domain_batchnorm=False), domains, ValueError, "domains: expected None"),
        (make(), domains[:5], ValueError, r"expected shape \(60,\), one a sample"),
        (make(), ["x", *domains[1:]], ValueError, "at least two samples .* one of 'x'"),
        (make(unseen="guess"), domains, ValueError, "unseen: expected"),
    ):
        with pytest.raises(error, match=message):
            model.fit(X, y, domains=given)
    with pytest.raises(TypeError, match="domains: expected labels like"):
        fitted.predict(X, domains=np.arange(60))
    with pytest.raises(ValueError, match="domains: expected one a sample"):
        fitted.predict(X)
