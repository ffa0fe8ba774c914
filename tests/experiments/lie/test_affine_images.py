"""The experiment on affine robustness: fairness, data, resuming."""

import json

import numpy as np
import pytest
import torch

from manifoldkit.datasets import make_affine_digits
from manifoldkit.experiments.lie import affine_images
from manifoldkit.experiments.lie.affine_images import (
    AUGMENTED,
    EQUIVARIANT,
    PLAIN,
    PlainCNN,
    contestant,
    equivariant_network,
    train_and_score,
)

pytest.importorskip("lightning")


def size_of(model):
    return sum(p.numel() for p in model.parameters())


def test_contestants_have_equally_many_parameters():
    assert size_of(PlainCNN()) == 65162
    for large in (False, True):
        ours, plain, augmented = (
            size_of(contestant(m, large)) for m in (EQUIVARIANT, PLAIN, AUGMENTED)
        )
        assert plain == augmented
        assert 0.97 < ours / plain <= 1


def test_both_take_any_frame():
    for model in (equivariant_network(), PlainCNN()):
        assert model.eval()(torch.zeros(2, 1, 40, 40)).shape == (2, 10)
        assert model(torch.zeros(1, 1, 32, 48)).shape == (1, 10)


@pytest.fixture
def digits():
    made = make_affine_digits(severity=0.0, size=28)
    moved = make_affine_digits(made.X[600:700], made.y[600:700], random_state=1)
    return {
        "train": (made.X[:600], made.y[:600]),
        "test": (made.X[600:700], made.y[600:700]),
        "affine": (moved.X, moved.y),
    }


@pytest.mark.parametrize("method", [EQUIVARIANT, PLAIN, AUGMENTED])
def test_every_contestant_trains_for_its_time(digits, method):
    piece = train_and_score(method, digits, 2.0, seed=0)
    assert piece["seconds"] >= 2.0
    assert piece["scores"].keys() >= {"padded", "affine", "severity 0", "severity 2"}
    assert piece["scores"]["severity 0"] == piece["scores"]["padded"]


def test_quick_runs_train_for_equal_epochs_and_learn(digits):
    piece = train_and_score(PLAIN, digits, None, seed=0)
    assert piece["epochs"] == affine_images.QUICK_EPOCHS
    assert piece["scores"]["padded"] > 0.4  # chance is 0.1


def test_augmentation_draws_new_maps_every_epoch(digits):
    train = affine_images.Deformed(*digits["train"], batch_size=64)
    torch.manual_seed(0)
    first, second = (torch.cat([x for x, _ in train]).mean(0) for _ in range(2))
    assert not torch.equal(first, second)
    assert len(train) == len(list(train)) == 10
    torch.manual_seed(0)
    again = torch.cat([x for x, _ in train]).mean(0)
    torch.testing.assert_close(again, first)


def test_run_falls_back_to_digits_writes_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def fake(method, data, seconds, seed, device):
        calls.append(method)
        assert seconds is None
        assert len(data["train"][1]) == 600
        names = ["padded", "affine"]
        names += [f"severity {s:g}" for s in affine_images.SEVERITIES]
        scores = dict(zip(names, np.linspace(1, 0.5, len(names)), strict=True))
        return {"scores": scores, "parameters": 5, "seconds": 1.0, "epochs": 2}

    monkeypatch.setattr(affine_images, "train_and_score", fake)
    result = affine_images.run(tmp_path / "out", quick=True)
    assert calls == [EQUIVARIANT, PLAIN, AUGMENTED]
    assert list(result.data) == ["scikit-learn digits"]
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [row["pipeline"] for row in stored["metrics"]] == calls
    assert (tmp_path / "out" / "accuracy_by_severity.png").stat().st_size > 5000
    affine_images.run(tmp_path / "out", quick=True, resume=True)
    assert len(calls) == 3
    with pytest.raises(ValueError, match="resume"):
        affine_images.run(tmp_path / "out", quick=True, resume=True, seed=4)


def test_schedule_goes_by_time(monkeypatch):
    clock = iter([0.0, 1.0, 50.0, 100.0, 200.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    factor = affine_images.by_time(100.0)
    values = [factor(i) for i in range(5)]
    assert values[0] == pytest.approx(0.02)
    assert values[2] == pytest.approx(0.5)
    assert values[3] == values[4] == pytest.approx(1e-4)
