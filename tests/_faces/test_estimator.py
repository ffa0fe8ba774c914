"""What the faces share: splits, deadlines, batches, one way of refusing settings."""

import json

import numpy as np
import pytest
import torch

from manifoldkit import equivariant, graphs, spd
from manifoldkit._faces.estimator import Deadline, evaluate, seeded, split_off

FACES = {
    "SPDNetClassifier": spd.SPDNetClassifier,
    "MotionForecaster": equivariant.MotionForecaster,
    "PointCloudClassifier": equivariant.PointCloudClassifier,
    "PointCloudSegmenter": equivariant.PointCloudSegmenter,
    "TrafficForecaster": graphs.TrafficForecaster,
    "SubgraphRetriever": graphs.SubgraphRetriever,
}


def fit_anything(face, **settings):
    """Settings are looked at before data, so bad data do not matter."""
    model = face(**settings)
    data = {
        "TrafficForecaster": (None,),
        "SubgraphRetriever": ([], [], []),
        "MotionForecaster": (np.zeros((2, 2, 4, 2)),),
    }.get(type(model).__name__, (np.zeros((4, 3, 3)), [0, 1, 0, 1]))
    return model.fit(*data)


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("setting", ["max_epochs", "batch_size", "patience"])
@pytest.mark.parametrize("value", [2.5, None, True, "3", 0, np.nan])
def test_one_rule_for_integers(name, setting, value):
    with pytest.raises(ValueError, match=rf"{setting}: expected an integer >= \d") as e:
        fit_anything(FACES[name], **{setting: value})
    assert repr(value) in str(e.value)
    assert isinstance(e.value, TypeError)


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("value", [-1, None, "fast", np.nan, np.inf])
def test_one_rule_for_rates(name, value):
    with pytest.raises(ValueError, match=r"lr: expected a .*number"):
        fit_anything(FACES[name], lr=value)


def test_split_keeps_the_shares_of_classes():
    labels = np.repeat([0, 1], [40, 10])
    rows, held = split_off(50, 0.2, 0, labels)
    assert sorted([*rows, *held]) == list(range(50))
    assert np.bincount(labels[held]).tolist() == [8, 2]
    with pytest.raises(ValueError, match="early_stopping: the data cannot be split"):
        split_off(1, 0.2, 0)


def test_no_deadline_never_passes_and_zero_passes_at_once():
    late = Deadline(None)
    late.start()
    now = Deadline(0.0)
    now.start()
    assert (late(), now()) == (False, True)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_batches_join_to_the_whole(n):
    x = torch.arange(float(n))
    parts = evaluate(lambda x: 2 * x, {"x": x}, 2, "cpu")
    assert torch.equal(torch.cat(parts), 2 * x)


def test_seeded_leaves_torch_as_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with seeded(5, "cpu"):
        first = torch.rand(3)
    with seeded(5, "cpu"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_of_another_face_is_refused(tmp_path):
    content = {"format": "manifoldkit.spd.SPDNetClassifier", "params": {}}
    (tmp_path / "m.json").write_text(json.dumps(content))
    for name, face in FACES.items():
        if name != "SPDNetClassifier":
            with pytest.raises(ValueError, match="does not hold a"):
                face.load(tmp_path / "m")


def test_loaded_models_need_no_skorch(tmp_path, monkeypatch):
    """They predict, and tell what is missing when training shall go on."""
    import sys

    from manifoldkit.exceptions import MissingExtraError

    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3, 9))
    X, y = x @ x.swapaxes(1, 2), np.repeat([0, 1], 12)
    model = spd.SPDNetClassifier(max_epochs=1, batch_size=4, random_state=0).fit(X, y)
    model.save(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "skorch", None)
    monkeypatch.delitem(sys.modules, "manifoldkit._faces.training")
    loaded = spd.SPDNetClassifier.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X))
    with pytest.raises(MissingExtraError, match=r"manifoldkit\[train\]"):
        loaded.partial_fit(X, y)
