"""Clouds of different sizes, units and qualities, alone and in company."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import SkipTestWarning
from sklearn.metrics import get_scorer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from manifoldkit.datasets import make_point_clouds
from manifoldkit.equivariant import PointCloudClassifier, PointCloudSegmenter, part_iou

OPTIONS = {
    "risurconv": {"sizes": (32, 16, 8, 8), "neighbors": (8, 8, 8, 8), "n_blocks": 0},
    "parot": {"n_patches": 16, "k_local": 8, "k_global": 8, "k_intra": 4},
    "pointnet-frames": {"width": 0.1},
    "pointnet": {"width": 0.1},
}
SEGMENTER = {
    **{name: OPTIONS[name] for name in ("parot", "pointnet-frames", "pointnet")},
    "risurconv": {
        **{"sizes": (32, 16), "neighbors": (8, 8), "up_neighbors": (8, 8)},
        "channels": (8, 16),
    },
}
SIZES = (64, 50, 64, 57, 70, 50, 41, 64)
ATOL = 1e-5  # of scores about 1, in float32


def clouds(sizes=SIZES, shapes=("mug", "table")):
    made = make_point_clouds(len(sizes), 128, shapes=shapes, random_state=0)
    cut = [np.arange(128)[:n] for n in sizes]
    return (
        [x[c] for x, c in zip(made.X, cut, strict=True)],
        [n[c] for n, c in zip(made.normals, cut, strict=True)],
        [p[c] for p, c in zip(made.parts, cut, strict=True)],
        made.y,
    )


def fitted(kind, model, **options):
    settings = {"max_epochs": 1, "batch_size": 4, "random_state": 0} | options
    X, normals, parts, y = clouds([64] * 8)
    if kind is PointCloudClassifier:
        made = kind(model, model_options=OPTIONS[model], **settings)
        return made.fit(X, y, normals=normals)
    made = kind(model, model_options=SEGMENTER[model], **settings)
    return made.fit(X, parts, category=y, normals=normals)


def scores(model, rows, X, normals, y):
    X, normals = [X[i] for i in rows], [normals[i] for i in rows]
    if isinstance(model, PointCloudClassifier):
        return list(model.predict_proba(X, normals=normals))
    return list(model.decision_function(X, category=y[rows], normals=normals))


@pytest.mark.parametrize("votes", [{}, {"n_points": 40, "n_votes": 2}])
@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("kind", [PointCloudClassifier, PointCloudSegmenter])
def test_what_is_said_of_a_cloud_does_not_depend_on_the_others(kind, name, votes):
    model = fitted(kind, name, **votes)
    X, normals, _, y = clouds()
    together = scores(model, range(len(X)), X, normals, y)
    for i in range(len(X)):
        alone = scores(model, [i], X, normals, y)[0]
        assert alone.shape == together[i].shape
        np.testing.assert_allclose(together[i], alone, atol=ATOL)
    turned = scores(model, [6, 1, 3], X, normals, y)
    for i, now in zip([6, 1, 3], turned, strict=True):
        np.testing.assert_allclose(together[i], now, atol=ATOL)


@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("kind", [PointCloudClassifier, PointCloudSegmenter])
def test_neither_unit_nor_place_changes_an_answer(kind, name):
    model = fitted(kind, name)
    X, normals, _, y = clouds(SIZES[:3])
    X = [x.astype(np.float64) for x in X]
    before = scores(model, range(3), X, normals, y)
    for unit in (1e-30, 1e-9, 1e9, 1e36, 1e200):
        after = scores(model, range(3), [unit * x for x in X], normals, y)
        for a, b in zip(before, after, strict=True):
            np.testing.assert_allclose(a, b, atol=ATOL)
    offset = np.array([1e3, -1e3, 0])
    after = scores(model, range(3), [x + offset for x in X], normals, y)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_unit_of_training_clouds_does_not_matter_either():
    X, normals, _, y = clouds([64] * 8)
    options = {"model_options": OPTIONS["risurconv"], "max_epochs": 2}
    first, second = (
        PointCloudClassifier(**options, random_state=0).fit(
            [unit * x for x in X], y, normals=normals
        )
        for unit in (1.0, 2.0**-40)
    )
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_sizes_that_are_features_are_told():
    X, _, _, y = clouds([64] * 8)
    model = PointCloudClassifier(
        "pointnet", normalize=None, max_epochs=1, model_options=OPTIONS["pointnet"]
    )
    with pytest.warns(UserWarning, match="normalize=None and clouds of radius 9"):
        model.fit([1e6 * x / np.abs(x).max() for x in X], y)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "n_views": 2}])
def test_segmenter_takes_and_gives_lists(options):
    X, normals, parts, y = clouds()
    model = PointCloudSegmenter(
        "risurconv",
        n_points=40,
        max_epochs=1,
        batch_size=4,
        random_state=0,
        validation_fraction=0.25,
        model_options=SEGMENTER["risurconv"],
        **options,
    ).fit(X, parts, category=y, normals=normals)
    found = model.predict(X, category=y, normals=normals)
    assert [len(row) for row in found] == list(SIZES)
    score = model.score(X, parts, category=y, normals=normals)
    assert score == part_iou(parts, found, y, model.parts_)["instance"]
    same = model.predict(X[:1], category=y[:1], normals=normals[:1])
    assert isinstance(same, np.ndarray)
    assert np.array_equal(same[0], found[0])


def test_ragged_input_that_does_not_fit_is_named():
    X, normals, parts, _ = clouds()
    model = PointCloudSegmenter("pointnet", max_epochs=1)
    with pytest.raises(ValueError, match="clouds of 41 to 70 points need n_points"):
        model.fit(X, parts)
    model.set_params(n_points=40)
    with pytest.raises(ValueError, match=r"int64 of shape \(49,\) in y\[1\]"):
        model.fit(X, [parts[0], parts[1][1:], *parts[2:]])
    with pytest.raises(ValueError, match=r"y: .*, found -1 in y\[0\]"):
        model.fit(X, [parts[0] * 0 - 1, *parts[1:]])
    with pytest.raises(ValueError, match=r"y: expected .* for each of 8 .*, found 7"):
        model.fit(X, parts[1:])
    with pytest.raises(ValueError, match=r"normals\[0\]: expected shape \(64, 3\)"):
        model.fit(X, parts, normals=[normals[0][1:], *normals[1:]])
    with pytest.raises(ValueError, match="n_points: expected an integer >= 1"):
        model.set_params(n_points=2.5).fit(X, parts)


def test_segmenter_drops_points_that_are_not_finite():
    X, _, parts, y = clouds([64] * 8)
    bad = [x.copy() for x in X]
    bad[3][[5, 9]] = np.nan
    settings = {"max_epochs": 1, "random_state": 0, "model_options": {"width": 0.1}}
    model = PointCloudSegmenter("pointnet", n_points=48, **settings)
    with pytest.raises(ValueError, match=r"X\[3\] is not finite"):
        model.fit(bad, parts, category=y)
    model.set_params(on_invalid="drop").fit(bad, parts, category=y)
    found = model.predict(bad, category=y)
    assert np.flatnonzero(found[3] < 0).tolist() == [5, 9]
    assert (found[:3] >= 0).all()
    keep = np.delete(np.arange(64), [5, 9])
    alone = model.predict([bad[3][keep]], category=y[3:4])
    assert np.array_equal(found[3][keep], alone[0])
    scores = model.decision_function(bad, category=y)
    assert np.isnan(scores[3, [5, 9]]).all()
    assert not np.isnan(scores[3, keep]).any()
    assert 0 <= model.score(bad, parts, category=y) <= 1


def test_weights_of_parts_move_the_answer_their_way():
    X, _, parts, _ = clouds([64] * 8, shapes=("mug",))
    settings = {"max_epochs": 8, "random_state": 0, "model_options": {"width": 0.1}}
    settings["lr"] = 0.02
    shares = []
    for weight in ({0: 1.0, 1: 100.0}, {0: 100.0, 1: 1.0}):
        model = PointCloudSegmenter("pointnet", class_weight=weight, **settings)
        shares.append(np.mean(model.fit(X, parts).predict(X) == 1))
    assert shares[0] > shares[1] + 0.5
    PointCloudSegmenter("pointnet", class_weight="balanced", **settings).fit(X, parts)
    with pytest.raises(ValueError, match="class_weight"):
        PointCloudSegmenter("pointnet", class_weight="even").fit(X, parts)


def test_both_kinds_have_the_same_options(tmp_path):
    one, other = PointCloudClassifier(), PointCloudSegmenter()
    assert one.get_params() == other.get_params()
    model = fitted(PointCloudClassifier, "pointnet", class_weight={0: 1.0, 1: 2.0})
    model.save(tmp_path / "net")
    again = PointCloudClassifier.load(tmp_path / "net")
    assert again.class_weight == {0: 1.0, 1: 2.0}


def test_two_classes_as_scikit_learn_has_them():
    X, _, _, y = clouds([64] * 8)
    X = np.stack(X)
    model = fitted(PointCloudClassifier, "pointnet")
    decision, proba = model.decision_function(X), model.predict_proba(X)
    assert decision.shape == (8,)
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), proba[:, 1], atol=1e-6)
    assert np.array_equal(model.classes_[(decision > 0).astype(int)], model.predict(X))
    assert 0 <= get_scorer("roc_auc")(model, X, y) <= 1
    made = PointCloudClassifier("pointnet", model_options={"width": 0.1}, max_epochs=1)
    calibrated = CalibratedClassifierCV(made, cv=2).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(calibrated.sum(1), 1)


@pytest.mark.parametrize(
    "y",
    [
        np.linspace(0, 1, 8),
        np.array([0, 1, np.nan, 1] * 2),
        np.array([0, None] * 4, object),
        np.eye(8),
    ],
)
def test_targets_that_are_no_classes_are_refused(y):
    with pytest.raises(ValueError, match=r"(?i)y|label"):
        PointCloudClassifier("pointnet", max_epochs=1).fit(clouds([64] * 8)[0], y)


@pytest.mark.parametrize("kind", [PointCloudClassifier, PointCloudSegmenter])
def test_tags_say_what_input_is(kind):
    tags = get_tags(kind()).input_tags
    assert tags.three_d_array
    assert not tags.two_d_array
    assert not tags.allow_nan
    assert get_tags(kind(on_invalid="drop")).input_tags.allow_nan
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        check_estimator(kind("pointnet", max_epochs=1))
