"""Models that an earlier version saved load, and predict what they predicted then."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from manifoldkit import equivariant, graphs, spd

FOLDER = Path(__file__).resolve().parents[1] / "saved_models"
sys.path.insert(0, str(FOLDER))
from make import answer  # noqa: E402

FACES = {
    "manifoldkit.spd.SPDNetClassifier": spd.SPDNetClassifier,
    "manifoldkit.equivariant.MotionForecaster": equivariant.MotionForecaster,
    "manifoldkit.equivariant.PointCloudClassifier": equivariant.PointCloudClassifier,
    "manifoldkit.equivariant.PointCloudSegmenter": equivariant.PointCloudSegmenter,
    "manifoldkit.graphs.TrafficForecaster": graphs.TrafficForecaster,
    "manifoldkit.graphs.SubgraphRetriever": graphs.SubgraphRetriever,
}


def saved():
    return sorted(FOLDER.glob("*/*.json"))


def read(path):
    face = FACES[json.loads(path.read_text())["format"]]
    return face, face.load(path.with_suffix(""))


def test_every_face_has_a_saved_model():
    formats = {json.loads(path.read_text())["format"] for path in saved()}
    assert formats == set(FACES)


@pytest.mark.parametrize("path", saved(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_predicts_as_when_it_was_saved(path):
    _, model = read(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        x = arrays.get("x")
        now = answer(model, x, str(arrays["how"]))
        # sums may be ordered otherwise on another machine
        np.testing.assert_allclose(now, arrays["answer"], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("path", saved(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_saves_again_what_it_was_given(path, tmp_path):
    face, model = read(path)
    model.save(tmp_path / "again")
    before = json.loads(path.read_text())
    after = json.loads((tmp_path / "again.json").read_text())
    assert after.keys() >= before.keys()
    assert before["params"].items() <= after["params"].items()
    face.load(tmp_path / "again")
