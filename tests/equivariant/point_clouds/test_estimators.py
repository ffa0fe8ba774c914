"""The scikit-learn faces of the point-cloud networks."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from manifoldkit.datasets import make_point_clouds
from manifoldkit.equivariant import (
    PointCloudClassifier,
    PointCloudSegmenter,
    rotate_clouds,
)

OPTIONS = {
    "risurconv": {"sizes": (32, 16, 8, 8), "neighbors": (8, 8, 8, 8), "n_blocks": 0},
    "parot": {"n_patches": 16, "k_local": 8, "k_global": 8, "k_intra": 4},
    "pointnet-frames": {"width": 0.1},
    "pointnet": {"width": 0.1},
}


def data(n=24, points=64, seed=0, shapes=("box", "torus")):
    return make_point_clouds(n, points, shapes=shapes, random_state=seed)


def classifier(model="risurconv", **options):
    settings = {"max_epochs": 2, "batch_size": 8, "random_state": 0}
    return PointCloudClassifier(
        model, model_options=OPTIONS[model], **(settings | options)
    )


def weights(model):
    return model.net_.module_.network.state_dict()


@pytest.mark.parametrize("model", sorted(OPTIONS))
def test_every_network_trains_and_predicts(model):
    clouds = data()
    labels = np.array(["box", "torus"])[clouds.y]
    fitted = classifier(model).fit(clouds.X, labels, normals=clouds.normals)
    proba = fitted.predict_proba(clouds.X, normals=clouds.normals)
    assert proba.shape == (24, 2)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    predicted = fitted.predict(clouds.X, normals=clouds.normals)
    assert set(predicted) <= {"box", "torus"}
    assert fitted.score(clouds.X, labels, normals=clouds.normals) == np.mean(
        predicted == labels
    )
    assert [row["epoch"] for row in fitted.history_] == [1, 2]
    again = clone(fitted).fit(clouds.X, labels, normals=clouds.normals)
    assert np.array_equal(
        again.decision_function(clouds.X), fitted.decision_function(clouds.X)
    )


def test_learns_unrotated_and_predicts_rotated():
    train, test = data(60), data(40, seed=1)
    model = classifier(max_epochs=12, batch_size=16)
    model.fit(train.X, train.y, normals=train.normals)
    X, n = rotate_clouds(test.X, "so3", normals=test.normals, random_state=0)
    plain = model.predict(test.X, normals=test.normals)
    assert np.mean(plain == test.y) >= 0.9
    assert np.mean(model.predict(X, normals=n) == plain) >= 0.97


def test_grid_search_and_missing_normals():
    clouds = data(16)
    search = GridSearchCV(
        classifier(max_epochs=1), {"lr": [1e-3, 1e-2]}, cv=2, error_score="raise"
    )
    search.fit(clouds.X, clouds.y)
    assert set(search.best_params_) == {"lr"}
    features = search.best_estimator_.transform(clouds.X)
    assert features.shape == (16, 512)


def test_committee_of_scikit_learn():
    clouds = data(16)
    X = np.concatenate([clouds.X, clouds.normals], -1)
    members = [(f"{i}", classifier(random_state=i)) for i in range(2)]
    committee = VotingClassifier(members, voting="soft").fit(X, clouds.y)
    one, two = (member.predict_proba(X) for member in committee.estimators_)
    np.testing.assert_allclose(committee.predict_proba(X), (one + two) / 2, atol=1e-6)
    assert np.abs(one - two).max() > 1e-6


def test_clouds_of_different_sizes():
    clouds = data(12)
    X = [cloud[: 64 - i] for i, cloud in enumerate(clouds.X)]
    n = [normal[: 64 - i] for i, normal in enumerate(clouds.normals)]
    model = classifier(n_points=40, n_views=2, jitter=0.01).fit(X, clouds.y, normals=n)
    assert model.predict(X, normals=n).shape == (12,)
    with pytest.raises(ValueError, match="clouds of 53 to 64 points need n_points"):
        classifier().fit(X, clouds.y)
    with pytest.raises(ValueError, match="expected at least n_points=60"):
        classifier(n_points=60).fit(X, clouds.y)


@pytest.mark.parametrize("model", ["risurconv", "parot"])
def test_interrupted_training_goes_on_from_its_checkpoint(model, tmp_path, monkeypatch):
    clouds = data()
    whole = classifier(model, max_epochs=4, n_views=2, n_points=48)
    whole.fit(clouds.X, clouds.y)
    file = tmp_path / "run.pt"
    parts = classifier(model, max_epochs=4, n_views=2, n_points=48, checkpoint=file)

    from manifoldkit.equivariant.point_clouds import training

    original = training.ScoreLoss.forward
    calls = {"n": 0}

    def dies(self, out, y):
        calls["n"] += 1
        if calls["n"] == 8:  # in the third epoch
            raise RuntimeError("the power fails")
        return original(self, out, y)

    monkeypatch.setattr(training.ScoreLoss, "forward", dies)
    with pytest.raises(RuntimeError, match="the power fails"):
        parts.fit(clouds.X, clouds.y)
    monkeypatch.setattr(training.ScoreLoss, "forward", original)
    parts.fit(clouds.X, clouds.y)
    assert len(parts.history_) == 4
    for a, b in zip(weights(whole).values(), weights(parts).values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="belongs to other data or settings"):
        clone(parts).set_params(lr=0.5).fit(clouds.X, clouds.y)


def test_early_stopping_keeps_the_best_weights():
    clouds = data(30)
    model = classifier(
        max_epochs=30, early_stopping=True, patience=2, lr=0.05, validation_fraction=0.3
    )
    model.fit(clouds.X, clouds.y)
    losses = [row["valid_loss"] for row in model.history_]
    best = int(np.argmin(losses))
    assert len(losses) == 30 or len(losses) == best + 3
    assert min(losses) < losses[-1] or len(losses) == 30


def test_class_weights_change_the_loss():
    clouds = data(20)
    y = np.array([0] * 4 + [1] * 16)
    plain = classifier(max_epochs=1).fit(clouds.X, y)
    weighted = classifier(max_epochs=1, class_weight="balanced").fit(clouds.X, y)
    assert plain.history_[0]["train_loss"] != weighted.history_[0]["train_loss"]


@pytest.mark.parametrize("model", ["risurconv", "parot"])
def test_saved_and_read_again(model, tmp_path):
    clouds = data()
    fitted = classifier(model).fit(clouds.X, np.array(["a", "b"])[clouds.y])
    fitted.save(tmp_path / "net")
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json"}
    read = PointCloudClassifier.load(tmp_path / "net")
    assert np.array_equal(read.predict_proba(clouds.X), fitted.predict_proba(clouds.X))
    assert np.array_equal(read.classes_, fitted.classes_)
    with pytest.raises(ValueError, match="does not hold"):
        PointCloudSegmenter.load(tmp_path / "net")


@pytest.mark.parametrize("model", sorted(OPTIONS))
def test_segmenter(model, tmp_path):
    clouds = data(12, shapes=("mug", "table"))
    options = dict(OPTIONS[model])
    if model == "risurconv":
        options.pop("n_blocks")
        options["up_neighbors"] = (8, 8, 8, 8)
    if model == "parot":
        options["k_interp"] = 5
    fitted = PointCloudSegmenter(
        model, model_options=options, max_epochs=2, batch_size=6, random_state=0
    )
    fitted.fit(clouds.X, clouds.parts, category=clouds.y, normals=clouds.normals)
    predicted = fitted.predict(clouds.X, category=clouds.y, normals=clouds.normals)
    assert predicted.shape == (12, 64)
    for row, kind in zip(predicted, clouds.y, strict=True):
        assert set(row) <= set(fitted.parts_[int(kind)])
    score = fitted.score(clouds.X, clouds.parts, clouds.y, normals=clouds.normals)
    assert 0 <= score <= 1
    fitted.save(tmp_path / "net")
    read = PointCloudSegmenter.load(tmp_path / "net")
    again = read.predict(clouds.X, category=clouds.y, normals=clouds.normals)
    assert np.array_equal(again, predicted)


def test_segmenter_carries_parts_back_to_all_points():
    clouds = data(10, 80, shapes=("mug",))
    model = PointCloudSegmenter(
        "pointnet", n_points=40, max_epochs=1, model_options={"width": 0.1}
    )
    model.fit(clouds.X, clouds.parts)
    assert model.predict(clouds.X).shape == (10, 80)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X[..., :2], r"X\[0\]: expected points of shape"),
        (lambda X: X[:, :5], r"X\[0\]: expected points of shape \(n, 3\) with n >= 8"),
        (lambda X: X[0], "X: expected shape"),
        (lambda X: [], "X: expected at least one cloud"),
        (lambda X: (10 * X).astype(int), r"X\[0\]: expected floating-point numbers"),
        (
            lambda X: np.where(np.arange(24)[:, None, None] == 3, np.nan, X),
            r"X\[3\] is",
        ),
    ],
)
def test_bad_clouds(change, message):
    clouds = data()
    with pytest.raises(ValueError, match=message):
        classifier().fit(change(clouds.X), clouds.y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "pct"}, "model: expected one of"),
        ({"rotation": "y"}, "rotation: expected"),
        ({"normalize": "box"}, "normalize: expected"),
        ({"max_epochs": 0}, "max_epochs: expected an integer >= 1"),
        ({"batch_size": 1}, "batch_size: expected an integer >= 2"),
        ({"lr": 0}, "lr: expected a positive number"),
        ({"weight_decay": -1}, "weight_decay: expected a number >= 0"),
        ({"jitter": None}, "jitter: expected a number >= 0"),
        ({"validation_fraction": 1.5}, "validation_fraction: expected"),
    ],
)
def test_bad_settings(options, message):
    clouds = data()
    with pytest.raises(ValueError, match=message):
        PointCloudClassifier(**options).fit(clouds.X, clouds.y)


def test_bad_labels_and_normals():
    clouds = data()
    with pytest.raises(ValueError, match="y: expected 24 labels"):
        classifier().fit(clouds.X, clouds.y[:3])
    with pytest.raises(ValueError, match="y: expected at least 2 classes"):
        classifier().fit(clouds.X, np.zeros(24))
    with pytest.raises(ValueError, match="normals: expected 24 arrays"):
        classifier().fit(clouds.X, clouds.y, normals=clouds.normals[:3])
    with pytest.raises(NotFittedError):
        classifier().predict(clouds.X)
    segmenter = PointCloudSegmenter("pointnet", max_epochs=1)
    with pytest.raises(ValueError, match="y: expected integers from 0 on of shape"):
        segmenter.fit(clouds.X, clouds.y)
    with pytest.raises(ValueError, match="category: expected 24 integers"):
        segmenter.fit(clouds.X, clouds.parts, category=[0])


def test_six_numbers_and_points_to_drop():
    clouds = make_point_clouds(8, 64, shapes=("box", "torus"), random_state=0)
    options = {"sizes": (32, 16, 8, 8), "n_blocks": 0}
    model = PointCloudClassifier(model_options=options, max_epochs=1, random_state=0)
    model.fit(np.concatenate([clouds.X, clouds.normals], -1), clouds.y)
    np.testing.assert_array_equal(
        model.decision_function(np.concatenate([clouds.X, clouds.normals], -1)),
        model.decision_function(clouds.X, clouds.normals),
    )
    X = clouds.X.copy()
    X[2, 5] = np.nan
    with pytest.raises(ValueError, match=r"X\[2\] is not finite"):
        model.predict(X, clouds.normals)
    kept = [np.delete(x, 5, 0) if i == 2 else x for i, x in enumerate(X)]
    sizes = {"on_invalid": "drop", "n_points": 48}
    np.testing.assert_allclose(
        model.set_params(**sizes).decision_function(X, clouds.normals)[2],
        model.decision_function(kept[2:3], [np.delete(clouds.normals[2], 5, 0)])[0],
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="on_invalid: expected"):
        PointCloudClassifier(on_invalid="ignore").fit(clouds.X, clouds.y)


def test_sides_of_normals_do_not_matter_unless_wanted():
    clouds = make_point_clouds(8, 64, shapes=("box", "torus"), random_state=0)
    options = {"sizes": (32, 16, 8, 8), "n_blocks": 0}
    change = []
    for extra in ({}, {"unsigned_normals": False}):
        model = PointCloudClassifier(
            model_options={**options, **extra}, max_epochs=1, random_state=0
        ).fit(clouds.X, clouds.y, normals=clouds.normals)
        scores = [
            model.decision_function(clouds.X, s * clouds.normals) for s in (1, -1)
        ]
        change.append(np.abs(scores[0] - scores[1]).max())
    assert change[0] < 1e-5 < 1e-3 < change[1]
