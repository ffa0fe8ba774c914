"""Training through Lightning: learning, the best state, time limits, resuming."""

import math
import os
import pickle
import sys

import pytest
import torch
from torch import nn

from manifoldkit.exceptions import ConvergenceWarning, MissingExtraError
from manifoldkit.experiments.training import batches, fit

pytest.importorskip("lightning")


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    y = x @ torch.arange(5.0)[:, None]
    return batches(x, y, batch_size=16)


def make_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def squared(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.02)


def run(problem, **options):
    model = make_model()
    options = {"optimizer": adam, "epochs": 6} | options
    return model, fit(model, squared, problem, **options)


def test_training_lowers_the_loss_and_reports_every_epoch(problem):
    model, log = run(problem, epochs=20)
    assert [row["epoch"] for row in log.epochs] == list(range(1, 21))
    assert log.epochs[-1]["loss"] < 0.3 * log.epochs[0]["loss"]
    assert log.seconds == log.epochs[-1]["seconds"] > 0
    assert not model.training


def test_same_seed_same_weights_and_the_global_generator_is_given_back(problem):
    torch.manual_seed(7)
    first, _ = run(problem)
    torch.manual_seed(7)
    drawn = torch.rand(3)
    second, _ = run(problem)
    other, _ = run(problem, seed=1)
    torch.manual_seed(7)
    make_model()
    after_model = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0].weight, other[0].weight)
    make_model()
    state = torch.get_rng_state()
    fit(first, squared, problem, optimizer=adam, epochs=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(after_model, state)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(problem, tmp_path):
    scores = iter([3.0, 1.0, 2.0, 4.0, 7.0, 6.0])
    options = {
        "validate": lambda model: {"score": next(scores)},
        "monitor": "score",
        "mode": "max",
        "scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    }
    whole, log = run(problem, **options)
    scores = iter([3.0, 1.0, 2.0])

    def interrupted(model, batch):
        interrupted.calls += 1
        if interrupted.calls == 14:  # in the fourth epoch
            raise KeyboardInterrupt
        return squared(model, batch)

    interrupted.calls = 0
    part = make_model()
    with pytest.raises(KeyboardInterrupt):
        fit(
            part,
            interrupted,
            problem,
            optimizer=adam,
            epochs=6,
            out=tmp_path,
            **options,
        )
    scores = iter([4.0, 7.0, 6.0])
    resumed, second = run(problem, out=tmp_path, resume=True, **options)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [row["loss"] for row in log.epochs] == [row["loss"] for row in second.epochs]
    assert second.best["epoch"] == log.best["epoch"] == 5


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "within", "weights", "text"])
def test_nothing_of_a_checkpoint_is_executed(problem, tmp_path, kind):
    file, mark = tmp_path / "last.ckpt", tmp_path / "executed"
    run(problem, epochs=1, out=tmp_path)
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Payload(mark)))
    elif kind == "torch":
        torch.save(Payload(mark), file)
    elif kind == "within":
        torch.save(torch.load(file) | {"callbacks": {"x": Payload(mark)}}, file)
    elif kind == "weights":
        torch.save(make_model().state_dict(), file)
    else:
        file.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"resume: .*last\.ckpt"):
        run(problem, out=tmp_path, resume=True)
    assert not mark.exists()


def test_the_best_state_is_restored(problem):
    seen = []

    def validate(model):
        assert not model.training
        seen.append(model[0].weight.detach().clone())
        return {"accuracy": [0.1, 0.9, 0.5][len(seen) - 1]}

    model, log = run(
        problem, epochs=3, validate=validate, monitor="accuracy", mode="max"
    )
    assert torch.equal(model[0].weight, seen[1])
    assert log.best["accuracy"] == 0.9


def test_patience_and_time_limits_stop(problem):
    _, log = run(
        problem,
        epochs=50,
        validate=lambda model: {"loss_": 1.0},
        monitor="loss_",
        patience=3,
    )
    assert len(log.epochs) == 4
    _, log = run(problem, epochs=None, max_seconds=0.3)
    assert 0.3 <= log.seconds < 3
    _, log = run([next(iter(problem))] * 100_000, epochs=None, max_seconds=0.3)
    assert len(log.epochs) == 1
    assert 0.3 <= log.seconds < 3


def test_bad_settings(problem):
    with pytest.raises(ValueError, match="epochs or max_seconds"):
        fit(make_model(), squared, problem, optimizer=adam)
    with pytest.raises(ValueError, match="mode: expected one of"):
        run(problem, mode="up")
    with pytest.raises(ValueError, match="needs a validate"):
        run(problem, monitor="accuracy")


def test_without_lightning_the_extra_is_named(problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    late = "manifoldkit.experiments.lightning_task"
    monkeypatch.delitem(sys.modules, late, raising=False)
    with pytest.raises(MissingExtraError, match="train"):
        run(problem)


def steep(model):
    return torch.optim.SGD(model.parameters(), lr=1e4)


def diverge(problem, **options):
    with pytest.warns(ConvergenceWarning, match="smaller learning rate") as caught:
        model, log = run(problem, optimizer=steep, epochs=50, **options)
    assert f"diverged in epoch {log.diverged}:" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert all(p.isfinite().all() for p in model.parameters())
    assert len(log.epochs) == log.diverged < 50
    return model, log, str(caught[0].message)


def test_a_training_that_diverges_ends_with_the_last_finite_weights(problem):
    model, log, text = diverge(problem)
    assert "the last finite weights are kept" in text
    assert not math.isfinite(log.epochs[-1]["loss"])
    before = make_model()
    if log.diverged > 1:  # the weights that the last epoch began with
        fit(before, squared, problem, optimizer=steep, epochs=log.diverged - 1)
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_that_diverges_keeps_its_best_weights(problem):
    x, y = problem.dataset.tensors
    _, log, text = diverge(
        problem,
        validate=lambda model: {"error": squared(model, (x, y))},
        monitor="error",
    )
    assert "the best weights are kept" in text
    assert math.isfinite(log.best["error"])
    assert log.best["error"] == min(row["error"] for row in log.epochs)


@pytest.mark.parametrize("at", [1, 3, 6])
def test_one_bad_batch_ends_the_training_at_once(problem, at):
    calls = []

    def once(model, batch):
        calls.append(1)
        value = squared(model, batch)
        return value * math.nan if len(calls) == at else value

    model = make_model()
    with pytest.warns(ConvergenceWarning):
        log = fit(model, once, problem, optimizer=adam, epochs=9)
    assert log.diverged == (1 if at <= 4 else 2)
    assert len(calls) == at
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_network_that_refuses_its_weights_has_diverged(problem):
    def careful(model, batch):
        if not model[0].weight.isfinite().all():
            raise ValueError("expected finite weights")
        return squared(model, batch)

    def poison(model):
        class Poisoned(torch.optim.SGD):
            def step(self, closure=None):
                value = super().step(closure)
                with torch.no_grad():
                    model[0].weight.mul_(math.inf)
                return value

        return Poisoned(model.parameters(), lr=0.1)

    model = make_model()
    start = [p.detach().clone() for p in model.parameters()]
    with pytest.warns(ConvergenceWarning):
        log = fit(model, careful, problem, optimizer=poison, epochs=5)
    assert log.diverged == 1
    assert all(
        torch.equal(p, first)
        for p, first in zip(model.parameters(), start, strict=True)
    )


def test_an_error_of_the_loss_is_not_called_divergence(problem):
    def wrong(model, batch):
        raise ValueError("expected 3 features, found 5")

    with pytest.raises(ValueError, match="3 features"):
        fit(make_model(), wrong, problem, optimizer=adam, epochs=1)
