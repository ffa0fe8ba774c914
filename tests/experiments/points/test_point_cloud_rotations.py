"""The point-cloud experiment on little data."""

from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from sklearn.base import clone

from manifoldkit import datasets
from manifoldkit.datasets import make_point_clouds
from manifoldkit.equivariant import rotate_clouds
from manifoldkit.experiments.evaluation import Store, progress_bar
from manifoldkit.experiments.points import ablation, settings
from manifoldkit.experiments.points import point_cloud_rotations as experiment
from manifoldkit.experiments.points import shapes as point_cloud_shapes
from manifoldkit.experiments.points.changes import robustness
from manifoldkit.experiments.points.floor import ShapeHistograms, make_floor
from manifoldkit.experiments.result import Result, source


def test_floor_is_invariant_and_tells_shapes_apart():
    train = make_point_clouds(60, 600, shapes=("table", "torus"), random_state=0)
    test = make_point_clouds(40, 600, shapes=("table", "torus"), random_state=1)
    turned, _ = rotate_clouds(test.X, "so3", random_state=0)
    plain = ShapeHistograms().fit_transform(test.X)
    np.testing.assert_allclose(
        ShapeHistograms().fit_transform(turned)[:, -3:], plain[:, -3:], atol=1e-5
    )
    model = clone(make_floor()).fit(train.X, train.y)
    assert model.score(turned, test.y) > 0.95


@pytest.mark.parametrize("with_normals", [True, False])
def test_changes_keep_shapes_and_change_something(with_normals):
    clouds = make_point_clouds(4, 200, random_state=0)
    normals = clouds.normals if with_normals else None
    seen = []

    class Spy:
        n_points, n_votes = 128, 3

        def set_params(self, **params):
            self.__dict__.update(params)
            return self

        def score(self, X, y, normals):
            assert X.dtype == np.float32
            assert len(X[0]) >= self.n_points
            assert (normals is None) != with_normals
            if normals is not None:
                assert normals.shape == X.shape
            seen.append(X)
            return 0.0

    spy = Spy()
    scores = robustness(spy, clouds.X, normals, clouds.y)
    assert (spy.n_points, spy.n_votes) == (128, 3)
    assert ("normals of random sign" in scores) == with_normals
    assert len(seen) == len(scores) == 7 + with_normals
    for X in seen[1:7]:
        assert X.shape != clouds.X.shape or not np.array_equal(X, clouds.X)


def test_run_is_complete_and_resumes(tmp_path, monkeypatch):
    tiny = {"sizes": (16, 8, 8, 8), "neighbors": (4, 4, 4, 4), "n_blocks": 0}
    sizes = {
        "risurconv": tiny,
        "parot": {"n_patches": 8, "k_local": 8},
        "pointnet": {"width": 0.1},
        "pointnet-frames": {"width": 0.1},
    }
    small = {
        name: ({**options, "model_options": sizes[options["model"]]}, *rest)
        for name, (options, *rest) in settings.CONTESTANTS.items()
    }
    for module in (settings, experiment):
        monkeypatch.setattr(module, "CONTESTANTS", small)
    few = {"n_points": 512, "n_views": 2}
    monkeypatch.setattr(settings, "RECIPES", dict.fromkeys(sizes, few))
    clouds = [
        make_point_clouds(n, 520, shapes=("table", "torus"), random_state=i)
        for i, n in enumerate((20, 10))
    ]
    monkeypatch.setattr(
        experiment,
        "load",
        lambda this: ({"psb12": tuple(clouds)}, {"made": source("of this test")}),
    )
    result = experiment.run(tmp_path, quick=True)
    tasks = {row["task"] for row in result.metrics}
    assert len(tasks) == 3
    classified = [r for r in result.metrics if "same label" in r]
    assert len(classified) == 4
    for row in classified:
        assert 0 <= row["turned"] <= 1
    exact = next(r for r in classified if r["method"] == "RISurConv, mesh normals")
    assert exact["same label"] == 1.0
    monkeypatch.setattr(experiment, "train_and_test", None)  # nothing is left to do
    again = experiment.run(tmp_path, quick=True, resume=True)
    assert again.metrics == result.metrics
    assert Result.load(tmp_path).metrics == result.metrics


def test_further_shapes_are_learned_and_never_answered(tmp_path, monkeypatch):
    shapes = ("table", "torus", "mug", "box")
    made = make_point_clouds(40, 96, shapes=shapes, random_state=0)
    every = datasets.ShapeSet(made.X, made.y, made.normals, shapes, np.arange(40))
    part = made.y < 2
    train = datasets.ShapeSet(
        made.X[part], made.y[part], made.normals[part], shapes[:2], np.arange(40)[part]
    )
    monkeypatch.setattr(datasets, "fetch_point_clouds", lambda *_: every)
    joined = point_cloud_shapes.with_further_shapes(train)
    assert sorted(np.unique(joined.y)) == [0, 1, 2 + 2, 2 + 3]
    assert len(joined.X) == len(joined.y) == len(joined.normals) == 40
    name = "RISurConv, mesh normals, further shapes"
    tiny = {"sizes": (16, 8, 8, 8), "neighbors": (4, 4, 4, 4), "n_blocks": 0}
    monkeypatch.setitem(
        settings.CONTESTANTS,
        name,
        ({"model": "risurconv", "model_options": tiny}, True, 1, 1),
    )
    monkeypatch.setitem(settings.RECIPES, "risurconv", {"n_points": 64})
    # clouds of further shapes, which the network knows and may not say
    found = experiment.train_and_test(
        name, train, every, 0, False, "cpu", tmp_path / "part.pt"
    )
    table = np.array(found["probabilities"]["turned"])
    assert table.shape == (40, 2)
    np.testing.assert_allclose(table.sum(1), 1, atol=2e-4)
    assert 0 < found["turned"] <= 0.5


def test_ablation_holds_out_thirds_and_kinds(tmp_path, monkeypatch):
    tiny = {"sizes": (16, 8, 8, 8), "neighbors": (4, 4, 4, 4), "n_blocks": 0}
    options = {"n_points": 64, "model_options": tiny, "max_epochs": 1}
    for name in ("ABLATION", "KINDS"):
        monkeypatch.setattr(ablation, name, {"plain": options})
    made = make_point_clouds(24, 96, shapes=("table", "torus"), random_state=0)
    clouds = SimpleNamespace(
        X=made.X,
        y=made.y,
        normals=made.normals,
        class_names=("table", "torus"),
        kind=2 * made.y + np.arange(24) // 2 % 2,
    )
    fit, rest = ablation.kinds_of(clouds, 0, 0.5)
    assert sorted([*fit, *rest]) == list(range(24))
    assert not set(clouds.kind[fit]) & set(clouds.kind[rest])
    assert set(clouds.y[fit]) == {0, 1}
    monkeypatch.setattr(ablation, "kinds_of", lambda clouds, seed: (fit, rest))
    with progress_bar(Console(quiet=True)) as bar:
        rows = ablation.ablate(Store(tmp_path, {}, False), clouds, "cpu", bar)
    assert [row["clouds"] for row in rows] == [8, 3 * len(rest)]
    assert ("log loss" in rows[0], rows[1]["log loss"] > 0) == (False, True)
    assert ("votes: 8" in rows[0], "votes: 8" in rows[1]) == (False, True)
    for row in rows:
        for key in ("votes: 1", "votes: 4"):
            right = row[key] * row["clouds"]
            assert right == pytest.approx(round(right))


def test_committees_share_no_network_and_average_probabilities():
    y = np.array(["a", "b", "b"])
    sure, unsure = [0.9, 0.1], [0.4, 0.6]
    shown = ("upright", "one axis", "turned", "no votes")
    pieces = [
        {"seconds": 1.0, "probabilities": dict.fromkeys(shown, table)}
        for table in (
            [sure, unsure, sure],
            [sure, unsure, unsure],
            [unsure, unsure, unsure],
            [unsure, sure, unsure],
            [unsure, sure, unsure],
        )
    ]
    rows = experiment.votes(pieces, 2, ["b", "a", "c"][:2], y)
    assert len(rows) == 2  # the fifth network is in none
    assert [row["seconds"] for row in rows] == [2.0, 2.0]
    assert rows[0]["turned"] == pytest.approx(2 / 3)  # a, b, a
    assert rows[1]["turned"] == pytest.approx(1 / 3)  # b, a, b
    assert rows[0]["agreement"] == 1.0
    assert rows[0]["balanced"] == pytest.approx(0.75)
