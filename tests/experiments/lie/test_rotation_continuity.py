"""The experiment on rotation representations: networks, figures, a quick run."""

import json

import pytest
import torch
from rich.console import Console

from manifoldkit.experiments.lie import rotation_continuity as experiment
from manifoldkit.experiments.result import Result
from manifoldkit.lie import SO, rotation

pytest.importorskip("lightning")


@pytest.mark.parametrize("rep", experiment.NAMES)
@pytest.mark.parametrize("matched", [True, False])
def test_networks_return_rotations_and_learn_in_every_layer(rep, matched):
    torch.manual_seed(0)
    r = rotation.random_rotation(5)
    aligner = experiment.CloudAligner(rep, matched)
    x = torch.randn(5, 9, 3)
    pairs = torch.stack([x, x @ r.mT], 1)
    for model, batch in ((experiment.RotationAutoencoder(rep), r), (aligner, pairs)):
        found = model(batch)
        assert SO(3).belongs(found, atol=1e-5).all()
        (found - r).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("matched", [True, False])
def test_order_of_points_matters_only_as_pairs(matched):
    torch.manual_seed(0)
    model = experiment.CloudAligner("sixd", matched)
    pairs = torch.randn(3, 2, 12, 3)
    order = torch.randperm(12)
    together = pairs[:, :, order]
    torch.testing.assert_close(model(together), model(pairs))
    one = torch.stack([pairs[:, 0], pairs[:, 1, order]], 1)
    same = torch.allclose(model(one), model(pairs), atol=1e-6)
    assert same is not matched


def test_pairs_are_turned_by_their_rotation():
    torch.manual_seed(0)
    pairs = experiment.turned_pairs(torch.randn(4, 10, 3), steps=3, batch_size=2)
    for both, r in pairs:
        torch.testing.assert_close(both[:, 1], both[:, 0] @ r.mT)
    assert len(list(pairs)) == len(pairs) == 3


def test_errors_are_angles_in_degrees():
    class Turned(torch.nn.Linear):
        def forward(self, r):
            quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
            return r @ quarter

    r = rotation.random_rotation(6)
    found = experiment.errors(Turned(1, 1), r, r)
    assert found == pytest.approx({"mean": 90, "p99_9": 90, "largest": 90}, abs=1e-3)


def row(rep, **values):
    piece = {"mean": 0.5, "p99_9": 1.0, "largest": 2.0, **values}
    return experiment.summary(experiment.AUTOENCODER, rep, [piece, piece])


@pytest.mark.parametrize(
    ("rep", "values", "kept"),
    [
        ("sixd", {}, True),
        ("sixd", {"mean": 1.5}, False),
        ("sixd", {"largest": 6.0}, False),
        ("euler", {"largest": 170.0}, True),
        ("euler", {"largest": 90.0}, False),
    ],
)
def test_gates(rep, values, kept):
    assert experiment.gates_hold([row(rep, **values)]) is kept


def test_continuous_codes_win_the_short_protocol():
    """A hundredth of the published iterations already separates the two kinds."""
    good = experiment.score_autoencoder("sixd", 300, seed=0)
    bad = experiment.score_autoencoder("rotvec", 300, seed=0)
    assert good["mean"] < 4
    assert good["largest"] < 15
    assert bad["mean"] > 2 * good["mean"]
    assert bad["largest"] > 150


def test_run_plans_writes_and_resumes(tmp_path, monkeypatch):
    calls = []

    def fake(rep, steps, seed, device, matched=True):
        calls.append((rep, steps, seed, matched))
        good = rep in experiment.CONTINUOUS
        return {
            "mean": 0.5 if good else 3.0,
            "p99_9": 1.0,
            "largest": 2 if good else 170,
        }

    monkeypatch.setattr(experiment, "score_autoencoder", fake)
    monkeypatch.setattr(experiment, "score_clouds", fake)
    console = Console(quiet=True)
    result = experiment.run(tmp_path, seed=4, console=console)
    reps = {"reproduce": len(experiment.NAMES), "align": len(experiment.CLOUD_REPS)}
    assert len(calls) == reps["reproduce"] + 2 * reps["align"] + 1
    assert {seed for *_, seed, _ in calls} == {4, 5}
    assert [matched for *_, matched in calls[-2:]] == [True, False]
    assert result.remarks[2].endswith("hold.")
    assert "NOT" not in result.remarks[2]
    assert json.loads((tmp_path / "result.json").read_text())["seeds"] == [4, 5]
    count = len(calls)
    experiment.run(tmp_path, seed=4, resume=True, console=console)
    assert len(calls) == count
    with pytest.raises(ValueError, match="resume"):
        experiment.run(tmp_path, seed=5, resume=True, console=console)


@pytest.mark.slow
def test_quick_run(tmp_path):
    result = experiment.run(tmp_path, quick=True, console=Console(quiet=True))
    assert result == Result.load(tmp_path)
    means = {r["representation"]: r["mean"] for r in result.metrics[:4]}
    assert max(means["6D"], means["9D, SVD"]) < means["rotation vector"]
