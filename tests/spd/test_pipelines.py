import pickle

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    ParameterGrid,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from manifoldkit.spd.augmented.transformer import AugmentedCovariances
from manifoldkit.spd.pipelines import make_acm_classifier

# Workers that have imported torch since their first task restart to give memory back;
# as an error this warning would end joblib's manager thread and the test would hang.
pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped while some jobs")

NAMES = ["svm", "lr", "en", "mdm", "fgmdm", "gbwmdm"]


def needs_gbwmdm(name):
    if name == "gbwmdm":
        pytest.importorskip("manifoldkit.spd.estimators", reason="GBWMDM is not there")


@pytest.fixture(scope="module")
def data():
    """Two classes with equal covariance that differ in time, at lag 2."""
    rng = np.random.default_rng(0)
    y = np.tile(["feet", "hands"], 20)
    noise = rng.standard_normal((40, 3, 162))
    sign = np.where(y == "feet", 1, -1)[:, None, None]
    return noise[..., 2:] + 0.4 * sign * noise[..., :-2], y


@pytest.mark.parametrize("name", NAMES)
def test_laws_of_every_classifier(name, data):
    needs_gbwmdm(name)
    X, y = data
    model = make_acm_classifier(2, 2, name)
    assert type(model) is Pipeline
    assert [n for n, _ in model.steps][:: len(model) - 1] == ["augmented", "classifier"]
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.fit(X, y)
    assert_array_equal(model.classes_, ["feet", "hands"])
    assert model.score(X, y) > 0.9
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), model.predict(X))
    twin = clone(model).fit(X, y)
    assert_array_equal(twin.predict(X), model.predict(X))
    assert twin.get_params()["augmented__order"] == 2
    assert cross_val_score(model, X, y, cv=4).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_classifier_runs_in_worker_processes(name, data):
    needs_gbwmdm(name)
    X, y = data
    model = make_acm_classifier(2, 2, name)
    serial = cross_val_score(model, X, y, cv=4)
    assert_allclose(cross_val_score(model, X, y, cv=4, n_jobs=2), serial)


@pytest.mark.parametrize("name", NAMES)
def test_plain_covariance_does_not_see_the_difference(name, data):
    needs_gbwmdm(name)
    X, y = data
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    plain = cross_val_score(make_acm_classifier(1, 1, name), X, y, cv=folds)
    augmented = cross_val_score(make_acm_classifier(2, 2, name), X, y, cv=folds)
    assert plain.mean() < 0.75 < augmented.mean()


@pytest.mark.parametrize("name", NAMES)
def test_bad_labels(name, data):
    needs_gbwmdm(name)
    X, y = data
    model = make_acm_classifier(2, 2, name)
    with pytest.raises(ValueError, match="class"):
        model.fit(X[:10], ["feet"] * 10)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_bad_epochs(name, data):
    needs_gbwmdm(name)
    X, y = data
    with pytest.raises(ValueError, match=r"n_epochs, n_channels, n_times"):
        make_acm_classifier(2, 2, name).fit(X[:, 0], y)
    spoiled = X.copy()
    spoiled[3, 1, 7] = np.inf
    with pytest.raises(ValueError, match=r"X\[3, 1\] is not finite"):
        make_acm_classifier(2, 2, name).fit(spoiled, y)
    with pytest.raises(ValueError, match="T_eff"):
        make_acm_classifier(20, 10, name).fit(X, y)
    model = make_acm_classifier(2, 2, name).fit(X, y)
    with pytest.raises(ValueError, match="expected 3 channels as in fit"):
        model.predict(X[:, :2])


@pytest.mark.parametrize("name", ["svm", "lr", "mdm", "gbwmdm"])
def test_sample_weight_is_routed(name, data):
    needs_gbwmdm(name)
    X, y = data
    weight = np.where(np.arange(len(y)) < 20, 1.0, 0.0)
    weight[20:] = 1e-9
    with sklearn.config_context(enable_metadata_routing=True):
        model = make_acm_classifier(2, 2, name)
        model[-1].set_fit_request(sample_weight=True)
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=False)
        for step in model[:-1]:
            if hasattr(step, "set_fit_request"):
                step.set_fit_request(sample_weight=False)
        routed = clone(model).fit(X, y, sample_weight=weight)
        few = clone(model).fit(X[:20], y[:20], sample_weight=weight[:20])
        if name in ("mdm", "gbwmdm"):
            assert_array_equal(routed.predict(X), few.predict(X))
        params = {"sample_weight": weight + 0.5}
        cross_validate(model, X, y, scoring=scorer, params=params, error_score="raise")
        plain = clone(model).fit(X, y, sample_weight=np.ones(len(y)))
    a, b = (
        m.decision_function(X) if hasattr(m, "decision_function") else m.transform(X)
        for m in (routed, plain)
    )
    assert np.abs(a - b).max() > 1e-6


def test_weights_of_nearest_means_are_checked(data):
    X, y = data
    for weight in (-np.ones(len(y)), np.zeros(len(y)), np.ones(3)):
        with pytest.raises(ValueError, match="sample_weight"):
            make_acm_classifier(2, 2, "mdm").fit(X, y, classifier__sample_weight=weight)


def test_own_classifier_and_metric(data):
    X, y = data
    model = make_acm_classifier(2, 2, LinearDiscriminantAnalysis())
    assert model.fit(X, y).score(X, y) > 0.9
    mdm = make_acm_classifier(2, 2, "mdm", metric="logeuclid").fit(X, y)
    assert mdm[-1].metric == "logeuclid"
    inner = make_acm_classifier(classifier="mdm")[-1]
    on_matrices = make_acm_classifier(2, 2, inner, metric=None)
    assert [n for n, _ in on_matrices.steps] == ["augmented", "classifier"]
    assert on_matrices.fit(X, y).score(X, y) > 0.9


def test_grid_search_of_the_plain_pipeline(data, tmp_path):
    X, y = data
    search = GridSearchCV(
        make_acm_classifier(memory=str(tmp_path)),
        {"augmented__order": [1, 2], "augmented__lag": [2], "classifier__C": [0.5, 1]},
        cv=3,
    ).fit(X, y)
    assert search.best_params_["augmented__order"] == 2


def test_automatic_order_is_searched_inside_the_fold(data):
    X, y = data
    model = make_acm_classifier(
        "auto", "auto", "mdm", orders=(1, 2), lags=(1, 2), random_state=0
    )
    assert isinstance(model, GridSearchCV)
    pairs = [
        (p["augmented__order"], p["augmented__lag"])
        for p in ParameterGrid(model.param_grid)
    ]
    assert sorted(pairs) == [(1, 1), (2, 1), (2, 2)]  # one copy has no lag
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    found = cross_validate(model, X, y, cv=folds, return_estimator=True)
    for search in found["estimator"]:
        assert search.best_params_ == {"augmented__order": 2, "augmented__lag": 2}
        assert len(search.predict(X)) == len(X)
    assert found["test_score"].mean() > 0.8
    again = cross_val_score(model, X, y, cv=folds)
    assert_allclose(again, found["test_score"])


def test_nested_score_of_pure_noise_stays_at_chance():
    values = (1, 2, 3)
    honest, best = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((40, 2, 60)), np.tile([0, 1], 20)
        folds = StratifiedKFold(4, shuffle=True, random_state=0)
        nested = make_acm_classifier(
            "auto", "auto", "mdm", orders=values, lags=values, random_state=0
        )
        honest.append(cross_val_score(nested, X, y, cv=folds).mean())
        # what a search that sees the test epochs would report
        scores = [
            cross_val_score(make_acm_classifier(o, k, "mdm"), X, y, cv=folds).mean()
            for o in values
            for k in values
        ]
        best.append(max(scores))
    # 160 epochs: the standard error of chance is 0.04
    assert abs(np.mean(honest) - 0.5) < 0.12
    assert np.mean(best) > np.mean(honest) + 0.04


def test_one_automatic_parameter_and_further_grid(data):
    X, y = data
    model = make_acm_classifier(
        "auto", 2, orders=[1, 2], param_grid={"classifier__C": [0.5, 1.0]}, cv=2
    ).fit(X, y)
    assert set(model.best_params_) == {"augmented__order", "classifier__C"}
    assert model.best_estimator_["augmented"].lag == 2


def test_unsupervised_selection_is_one_pipeline(data):
    X, y = data
    model = make_acm_classifier("auto", "auto", selection="mdop", random_state=0)
    assert type(model) is Pipeline
    model.fit(X, y)
    step = model["augmented"]
    assert isinstance(step, AugmentedCovariances)
    assert 1 <= step.order_ <= 6
    assert step.selection_.method == "mdop"


def test_random_state_reaches_every_step():
    model = make_acm_classifier("auto", random_state=5)
    assert model.cv.random_state == 5
    assert model.estimator["augmented"].random_state == 5
    assert model.estimator["classifier"].random_state == 5


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"classifier": "lda"}, ValueError, "classifier: expected one of"),
        ({"classifier": SVC}, TypeError, "classifier: expected one of .* or an"),
        ({"classifier": None}, TypeError, "classifier"),
        ({"selection": "best"}, ValueError, "selection: expected one of"),
        ({"param_grid": {"a": [1]}}, ValueError, "param_grid: used only with"),
    ],
)
def test_bad_parameters(params, error, match):
    with pytest.raises(error, match=match):
        make_acm_classifier(**params)
