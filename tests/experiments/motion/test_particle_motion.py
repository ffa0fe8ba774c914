import json

import numpy as np
import pytest
import torch

from manifoldkit.experiments.motion import particle_models as models
from manifoldkit.experiments.motion import particle_motion as experiment
from manifoldkit.experiments.result import Result

EQUIVARIANT = {
    "constant velocity": lambda: models.ConstantVelocity(6, 5),
    "EGNN": lambda: models.EGNN(6, 5, hidden=8, n_layers=2),
    "FA-GNN": lambda: models.FrameAveragedGNN(6, 5, n_vectors=4, n_layers=2),
    "e3nn": lambda: models.SphericalGraphNetwork(6, 5, multiplicity=3, n_layers=2),
}


def tracks(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 6, 3, generator=g, dtype=torch.float64).cumsum(2)


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_the_peers_turn_with_the_scene(name):
    torch.manual_seed(0)
    model, x = EQUIVARIANT[name]().double(), tracks()
    q, _ = torch.linalg.qr(tracks(1)[0, 0, :3])
    pred = model(x)
    assert pred.shape == (4, 3, 5, 3)
    torch.testing.assert_close(model(x @ q.T + 2), pred @ q.T + 2)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(x[:, order]), pred[:, order])


def test_the_plain_network_does_not():
    torch.manual_seed(0)
    model, x = models.GraphNetwork(6, 5, hidden=8, n_layers=2).double(), tracks()
    torch.testing.assert_close(model(x + 2), model(x) + 2)
    assert not torch.allclose(model(-x), -model(x))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in {"train": 40, "valid": 10, "test": 20}.items():
        start, speed = rng.standard_normal((2, n, 3, 1, 3)).astype(np.float32)
        arrays[f"{split}_loc"] = start + 0.1 * speed * np.arange(
            40, dtype=np.float32
        ).reshape(-1, 1)
        arrays[f"{split}_edges"] = rng.integers(0, 2, (n, 3, 3))
    return arrays


def test_scores_of_straight_motion(data):
    row = experiment.score(models.ConstantVelocity(20, 20), data, "test")
    assert row["ade"] < 1e-4
    assert "edge_accuracy" not in row


def test_training_learns_and_is_repeatable(data, monkeypatch):
    monkeypatch.setattr(experiment, "BATCH", 10)

    egnn = experiment.Contestant(_egnn)
    short, long = (experiment.train(egnn, data, epochs=e, seed=0) for e in (1, 8))
    assert long["ade"] < short["ade"]
    again = experiment.train(egnn, data, epochs=8, seed=0)
    assert again["ade"] == long["ade"]
    few = experiment.train(egnn, data, epochs=0, steps=4, n_train=10, seed=0)
    assert few["curve"][-1]["epoch"] == 4


def test_the_state_is_chosen_on_validation(data, monkeypatch):
    monkeypatch.setattr(experiment, "BATCH", 10)
    fdes = iter([3.0, 1.0, 2.0, 4.0])
    true_score = experiment.score

    def score(model, arrays, split, device):
        row = true_score(model, arrays, split, device)
        return row | {"fde": next(fdes)} if split == "valid" else row

    monkeypatch.setattr(experiment, "score", score)
    fast = experiment.Contestant(_egnn, lr=0.01, decay=False)
    row = experiment.train(fast, data, epochs=4, seed=0)
    assert row["chosen_epoch"] == 2
    monkeypatch.setattr(experiment, "score", true_score)
    assert row["ade"] == experiment.train(fast, data, epochs=2, seed=0)["ade"]


def test_remarks_count_the_trainings_that_reach_the_gates():
    row = {
        "task": "springs",
        "method": "EqMotion",
        "ade": 0.03,
        "ade_per_seed": [0.02, 0.04],
        "edge_accuracy": 0.835,
        "edge_accuracy_per_seed": [0.97, 0.7],
    }
    peer = {"task": "springs", "method": "EGNN", "ade": 0.06}
    few = [
        {"task": "few", "trajectories": size, "method": method, "ade": ade}
        for size, method, ade in ((10, "a", 0.2), (10, "b", 0.4), (90, "a", 0.1))
    ] + [{"task": "few", "trajectories": 90, "method": "b", "ade": 0.3}]
    text = " ".join(experiment.remarks_on([row, peer, *few]))
    assert "with 10 trajectories errs less" in text
    assert "ADE of EGNN is 2.0 times" in text
    assert "1 of 2 at or below 0.035" in text
    assert "97.0%, 70.0% (1 of 2 below 95 %)" in text


def test_a_run_stores_its_result_and_resumes(data, monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "particle_sets", lambda *_: data)
    small = {
        name: experiment.Contestant(make)
        for name, make in {"EqMotion": _eqmotion, "EGNN": _egnn}.items()
    }
    monkeypatch.setattr(experiment, "contestants", lambda task: small)
    monkeypatch.setattr(experiment, "sample_efficiency", lambda *_: [])
    result = experiment.run(tmp_path, quick=True)
    assert {row["task"] for row in result.metrics} == {"springs", "charged"}
    assert Result.load(tmp_path).metrics == json.loads(json.dumps(result.metrics))

    def never(*_, **__):
        raise AssertionError("a finished training was repeated")

    monkeypatch.setattr(experiment, "train", never)
    again = experiment.run(tmp_path, quick=True, resume=True)
    assert again.metrics == result.metrics
    springs = next(r for r in result.metrics if r["method"] == "EqMotion")
    assert 0 <= springs["edge_accuracy"] <= 1


def _egnn():
    return models.EGNN(20, 20, hidden=8, n_layers=1)


def _eqmotion():
    from manifoldkit.equivariant import EqMotion

    return EqMotion(20, 20, hidden=8, channels=6, n_layers=1)
