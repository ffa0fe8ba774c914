"""GBWMDM and GBWTangentSpace: what they compute and how they behave in scikit-learn."""

import pickle

import numpy as np
import pytest
import torch
from pyriemann.classification import MDM
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from manifoldkit.spd import GBWMDM, GBWTangentSpace, gbw_distance, gbw_metric

POWERS = [1.0, 0.5, -1.0]
MATRICES = ["identity", "mean", "array"]


def _wishart(rng, count, n=3, samples=12):
    a = rng.standard_normal((count, n, samples))
    return a @ a.transpose(0, 2, 1) / samples


@pytest.fixture
def data(rng):
    """Three classes, overlapping."""
    X, y = _wishart(rng, 36), np.arange(36) % 3
    X[y == 1] *= 1.5
    X[y == 2, 0] *= 2
    X[y == 2, :, 0] *= 2
    return X, np.array(["left", "right", "feet"])[y]


@pytest.fixture(params=MATRICES)
def matrix(request, rng):
    return _wishart(rng, 1)[0] if request.param == "array" else request.param


# --- GBWMDM ---


def test_plain_mdm_is_pyriemanns_with_our_metric(data):
    X, y = data
    ours = GBWMDM(normalize=False).fit(X, y)
    theirs = MDM(metric=gbw_metric()).fit(X, y)
    np.testing.assert_array_equal(ours.classes_, ["feet", "left", "right"])
    np.testing.assert_allclose(ours.covmeans_, theirs.covmeans_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("power", POWERS)
def test_mdm_predicts_the_nearest_mean(data, matrix, power):
    X, y = data
    model = GBWMDM(power=power, M=matrix, normalize=False).fit(X, y)
    distances = model.transform(X)
    units = GBWMDM(power=power, M=matrix).fit(X, y)
    np.testing.assert_allclose(units.transform(X) * units.scale_, distances)
    means = torch.from_numpy(model.covmeans_)
    expected = gbw_distance(
        torch.from_numpy(X)[:, None], means, torch.from_numpy(model.metric_), power
    )
    np.testing.assert_allclose(distances, expected, atol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[distances.argmin(1)])
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(probabilities.argmax(1), distances.argmin(1))


def test_temperature_minimises_the_smoothed_cross_entropy(data):
    X, y = data
    model = GBWMDM().fit(X, y)
    # Platt's targets for 3 classes of 12: (12 + 1) / (12 + 3) and 1 / 15
    targets = np.where(y[:, None] == model.classes_, 13 / 15, 1 / 15)

    def score(tau):
        model.temperature_ = tau
        return (targets * np.log(model.predict_proba(X))).mean()

    best = model.temperature_
    assert score(best) > max(score(best * 0.99), score(best * 1.01))


def test_separable_classes_leave_probabilities_short_of_one(rng):
    X = _wishart(rng, 20) * 1e-3 + np.eye(3)
    X[10:] *= 9
    model = GBWMDM().fit(X, np.repeat([0, 1], 10))
    assert 0.85 < model.predict_proba(X).max(1).mean() < 1 - 1e-6


def test_zero_weight_is_leaving_out(data, matrix):
    X, y = data
    weights = np.ones(36)
    weights[:9] = 0
    ours = GBWMDM(M=matrix).fit(X, y, sample_weight=weights)
    other = GBWMDM(M=matrix).fit(X[9:], y[9:])
    np.testing.assert_allclose(ours.covmeans_, other.covmeans_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.temperature_, other.temperature_, rtol=0.2)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_units_do_not_matter(data, scale):
    X, y = data
    reference = GBWMDM(M="mean").fit(X, y)
    scaled = GBWMDM(M="mean").fit(X * scale, y)
    np.testing.assert_allclose(
        scaled.predict_proba(X * scale), reference.predict_proba(X), atol=1e-6
    )


def test_learned_metric_finds_the_channel_that_matters(rng):
    """One quiet channel holds the class, a loud one hides it from the plain metric."""
    X = _wishart(rng, 60, n=2, samples=20)
    y = np.arange(60) % 2
    scale = np.ones((60, 2))
    scale[:, 0] = 10 * rng.lognormal(0, 1, 60)
    scale[y == 1, 1] = 2.0
    X = X * scale[:, :, None] * scale[:, None]
    plain = GBWMDM().fit(X[:40], y[:40])
    learned = GBWMDM(learn_metric=True, penalty=1e-3).fit(X[:40], y[:40])
    assert plain.score(X[40:], y[40:]) <= 0.75
    assert learned.score(X[40:], y[40:]) >= 0.9
    # distances divide by M: large where the channel does not count
    assert learned.metric_[0, 0] > 20 * learned.metric_[1, 1]
    again = GBWMDM(learn_metric=True, penalty=1e-3).fit(X[:40], y[:40])
    np.testing.assert_array_equal(again.metric_, learned.metric_)


def test_learned_metric_with_a_great_penalty_stays(data):
    X, y = data
    model = GBWMDM(learn_metric=True, penalty=1e8, M="mean").fit(X, y)
    start = GBWMDM(M="mean").fit(X, y)
    np.testing.assert_allclose(model.metric_, start.metric_, rtol=1e-4, atol=1e-6)


def test_learning_does_not_depend_on_units(data):
    X, y = data
    settings = {"learn_metric": True, "max_iter": 5, "power": 0.5}
    one = GBWMDM(**settings).fit(X, y)
    other = GBWMDM(**settings).fit(X * 1e-12, y)
    np.testing.assert_allclose(other.metric_ * 1e6, one.metric_, rtol=1e-4, atol=1e-6)


# --- GBWTangentSpace ---


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("reference", ["mean", "identity", "array"])
def test_features_are_isometric_and_invertible(data, rng, matrix, reference, power):
    X, _ = data
    if reference == "array":
        reference = _wishart(rng, 1)[0] + np.eye(3)
    space = GBWTangentSpace(power, matrix, reference).fit(X)
    Z = space.transform(X)
    base, metric = torch.from_numpy(space.reference_), torch.from_numpy(space.metric_)
    distance = gbw_distance(torch.from_numpy(X), base, metric, power)
    lengths = np.linalg.norm(Z, axis=1) * space.scale_
    np.testing.assert_allclose(lengths, distance, rtol=1e-11)
    raw = clone(space).set_params(normalize=False).fit(X)
    np.testing.assert_allclose(np.linalg.norm(raw.transform(X), axis=1), lengths)
    np.testing.assert_allclose(raw.inverse_transform(raw.transform(X)), X, atol=1e-10)
    np.testing.assert_allclose(space.inverse_transform(Z), X, rtol=0, atol=1e-10)
    if isinstance(reference, str) and reference == "mean":
        np.testing.assert_allclose(Z.mean(0), 0, atol=1e-9)


def test_outside_the_domain(data):
    X, _ = data
    far = -100 * np.eye(6)[:1]
    space = GBWTangentSpace().fit(X)
    with pytest.raises(ValueError, match=r"vector\[0\] is outside"):
        space.inverse_transform(far)
    clipped = GBWTangentSpace(outside="clip").fit(X)
    Y = clipped.inverse_transform(far)
    assert np.linalg.eigvalsh(Y[0])[0] > 0
    back = clipped.transform(Y)
    np.testing.assert_allclose(back / np.linalg.norm(back), far / 100, atol=1e-6)
    inside = space.transform(X)
    np.testing.assert_allclose(
        clipped.inverse_transform(inside), space.inverse_transform(inside)
    )


def test_weights_move_the_reference(data):
    X, _ = data
    weights = np.zeros(36)
    weights[:5] = 1
    ours = GBWTangentSpace().fit(X, sample_weight=weights)
    np.testing.assert_allclose(
        ours.reference_, GBWTangentSpace().fit(X[:5]).reference_, rtol=0, atol=1e-9
    )


def test_feature_names_and_pandas_output(data):
    X, y = data
    frame = GBWTangentSpace().set_output(transform="pandas").fit(X).transform(X)
    assert list(frame.columns)[:2] == ["gbwtangentspace0", "gbwtangentspace1"]
    assert frame.shape == (36, 6)
    frame = GBWMDM().set_output(transform="pandas").fit(X, y).transform(X)
    assert list(frame.columns) == ["gbwmdm0", "gbwmdm1", "gbwmdm2"]


# --- both ---


@pytest.mark.parametrize("make", [GBWMDM, GBWTangentSpace])
def test_clone_pickle_float32_lists(data, make):
    X, y = data
    model = make(power=0.5, M="mean")
    assert clone(model).get_params() == model.get_params()
    out = model.fit(X, y).transform(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), out)
    np.testing.assert_array_equal(clone(model).fit(X.tolist(), y).transform(X), out)
    single = clone(model).fit(X.astype(np.float32), y).transform(X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, out, atol=1e-4)


def test_pipelines_grid_search_and_routing(data):
    X, y = data
    pipe = make_pipeline(GBWTangentSpace(), LogisticRegression())
    search = GridSearchCV(pipe, {"gbwtangentspace__power": [0.5, 1.0]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.5
    assert cross_val_score(GBWMDM(), X, y, cv=3).mean() > 0.5
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            GBWTangentSpace().set_fit_request(sample_weight=True),
            LogisticRegression().set_fit_request(sample_weight=True),
        )
        weights = np.arange(36.0)
        pipe.fit(X, y, sample_weight=weights)
        direct = GBWTangentSpace().fit(X, sample_weight=weights)
        np.testing.assert_array_equal(pipe[0].reference_, direct.reference_)
        scores = cross_val_score(
            GBWMDM()
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=False),
            X,
            y,
            cv=3,
            params={"sample_weight": weights},
        )
        assert scores.shape == (3,)


@pytest.mark.parametrize("make", [GBWMDM, GBWTangentSpace])
def test_tags_and_not_fitted(data, make):
    tags = make().__sklearn_tags__()
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    with pytest.raises(NotFittedError):
        make().transform(data[0])


def _bad_matrix(change):
    def make(X):
        X = X.copy()
        change(X)
        return X

    return make


def _set(index, value):
    return _bad_matrix(lambda X: X.__setitem__(index, value))


@pytest.mark.parametrize(
    ("make_X", "error", "text"),
    [
        (_set((4, 0, 0), np.nan), ValueError, r"X\[4\] is not finite"),
        (_set((4, 0, 0), np.inf), ValueError, r"X\[4\] is not finite"),
        (_set((4, 0, 1), 9.0), ValueError, r"X\[4\] is not symmetric"),
        (_set((4, 0, 0), -1.0), ValueError, r"X\[4\] is not positive definite"),
        (_set(4, np.zeros((3, 3))), ValueError, r"X\[4\].*shrinkage"),
        (lambda X: X[0], ValueError, r"\(n_matrices, n, n\).*\(3, 3\)"),
        (lambda X: X[:, :2], ValueError, r"\(36, 2, 3\)"),
        (lambda X: X[:0], ValueError, "at least one"),
        (lambda X: X * 1j, ValueError, r"X\[0\] is not Hermitian"),
        (lambda X: [*X.tolist()[:-1], [[1.0]]], ValueError, "different shapes"),
        (lambda X: X.astype(str), TypeError, "numbers"),
    ],
)
@pytest.mark.parametrize("make", [GBWMDM, GBWTangentSpace])
def test_bad_matrices_are_named(data, make, make_X, error, text):
    X, y = data
    with pytest.raises(error, match=text):
        make().fit(make_X(X), y)
    fitted = make().fit(X, y)
    with pytest.raises(error, match=text):
        fitted.transform(make_X(X))


def test_other_size_after_fit(data):
    X, y = data
    for model in (GBWMDM().fit(X, y), GBWTangentSpace().fit(X)):
        with pytest.raises(ValueError, match=r"\(n_matrices, 3, 3\).*\(36, 2, 2\)"):
            model.transform(X[:, :2, :2])
    with pytest.raises(ValueError, match=r"\(n_matrices, 6\).*\(2, 5\)"):
        model.inverse_transform(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"X\[1\] is not finite"):
        model.inverse_transform(np.array([[0.0] * 6, [np.nan] * 6]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"power": 0.0}, "power"),
        ({"power": np.nan}, "power"),
        ({"M": "maen"}, "M: expected 'identity', 'mean' or a matrix, found 'maen'"),
        ({"M": -np.eye(3)}, "M.*not positive definite"),
        ({"M": np.eye(2)}, r"M: .*\(1, 2, 2\)"),
        ({"M": np.ones(3)}, r"M: expected a matrix of shape \(3, 3\)"),
    ],
)
@pytest.mark.parametrize("make", [GBWMDM, GBWTangentSpace])
def test_bad_settings_are_reported_at_fit(data, make, settings, text):
    model = make(**settings)
    with pytest.raises(ValueError, match=text):
        model.fit(*data)


def test_bad_options_of_one(data):
    X, y = data
    with pytest.raises(ValueError, match="penalty"):
        GBWMDM(penalty=-1).fit(X, y)
    with pytest.raises(ValueError, match="max_iter: expected an integer >= 1"):
        GBWMDM(max_iter=0).fit(X, y)
    with pytest.raises(ValueError, match="outside"):
        GBWTangentSpace(outside="ignore").fit(X)
    with pytest.raises(ValueError, match="reference"):
        GBWTangentSpace(reference="median").fit(X)


def test_bad_labels_and_weights(data):
    X, y = data
    with pytest.raises(ValueError, match="requires y"):
        GBWMDM().fit(X, None)
    with pytest.raises(ValueError, match="one class, 'left'"):
        GBWMDM().fit(X, np.full(36, "left"))
    with pytest.raises(ValueError, match="inconsistent"):
        GBWMDM().fit(X, y[:-1])
    with pytest.raises(ValueError, match="continuous"):
        GBWMDM().fit(X, np.linspace(0, 1, 36))
    for make in (GBWMDM, GBWTangentSpace):
        with pytest.raises(ValueError, match=r"sample_weight\[3\] is -1"):
            make().fit(X, y, sample_weight=np.where(np.arange(36) == 3, -1.0, 1))
        with pytest.raises(ValueError, match="at least one non-zero"):
            make().fit(X, y, sample_weight=np.zeros(36))
        with pytest.raises(ValueError, match="NaN"):
            make().fit(X, y, sample_weight=np.full(36, np.nan))
        with pytest.raises(ValueError, match="shape"):
            make().fit(X, y, sample_weight=np.ones(35))
    with pytest.raises(ValueError, match="class 'left' are zero"):
        GBWMDM().fit(X, y, sample_weight=(y != "left").astype(float))


def test_one_sample_a_class_is_enough(data):
    X, y = data
    model = GBWMDM().fit(X[:3], y[:3])
    np.testing.assert_array_equal(model.predict(X[:3]), y[:3])
    np.testing.assert_allclose(
        np.diag(model.transform(X[:3])[:, [1, 2, 0]]), 0, atol=1e-9
    )
