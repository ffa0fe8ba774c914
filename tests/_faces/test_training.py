"""The one trainer of the faces: best weights, divergence, checkpoints, interrupts."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from manifoldkit._faces.estimator import Deadline, seeded
from manifoldkit._faces.training import Checkpoint, train
from manifoldkit.exceptions import ConvergenceWarning, TrainingInterrupted


def line(n=40, seed=0):
    """A linear law with noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5]], dtype=np.float32)
    return x, y + 0.1 * rng.standard_normal((n, 1)).astype(np.float32)


def fit(module=None, data=None, *, seed=0, **options):
    settings = {"lr": 0.05, "epochs": 4, "batch_size": 8} | options
    with seeded(seed, "cpu"):
        module = nn.Linear(3, 1) if module is None else module
        return train(module, nn.MSELoss(), line() if data is None else data, **settings)


def weights(net):
    return {k: v.clone() for k, v in net.module_.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_rows_and_network():
    net, rows = fit(held=line(16, 1))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"epoch", "train_loss", "valid_loss", "dur"}
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert not net.module_.training


def test_equal_seeds_give_equal_weights():
    assert_equal(weights(fit()[0]), weights(fit()[0]))


def test_a_second_call_goes_on():
    """Two epochs twice: the optimizer and the log go on, the rows are the new ones."""
    net, first = fit(epochs=2)
    steps = int(net.optimizer_.state_dict()["state"][0]["step"])
    again, second = train(
        net.module_, nn.MSELoss(), line(), lr=0.05, epochs=2, batch_size=8, net=net
    )
    assert again is net
    assert [row["epoch"] for row in first + second] == [1, 2, 3, 4]
    assert net.optimizer_.state_dict()["state"][0]["step"] == 2 * steps


@pytest.mark.parametrize("schedule", ["step", "one_cycle", "cosine"])
def test_schedules_change_the_rate(schedule):
    rates = []

    def measure(module):
        return {}

    class Spy(torch.optim.Adam):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    fit(epochs=12, schedule=schedule, optimizer=Spy, measure=measure)
    if schedule == "step":
        assert rates[0] == 0.05
        assert rates[-1] == pytest.approx(0.05 * 0.95)
    elif schedule == "cosine":
        want = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 11 / 12))
        assert rates[-1] == pytest.approx(0.05 * want)
    else:
        assert max(rates) == pytest.approx(0.05, rel=2e-3)
        assert rates[-1] < rates[0] < max(rates)


def test_patience_keeps_the_best_weights():
    """The held-out loss rises from the second epoch on, as the figures say."""
    seen = []
    figures = iter([3.0, 1.0, 2.0, 2.5, 0.0])

    def measure(module):
        seen.append({k: v.clone() for k, v in module.state_dict().items()})
        return {"figure": next(figures)}

    net, rows = fit(
        epochs=9, patience=2, monitor="figure", measure=measure, columns=("figure",)
    )
    assert [row["figure"] for row in rows] == [3.0, 1.0, 2.0, 2.5]
    assert_equal(weights(net), seen[1])


def test_higher_is_better():
    figures = iter([0.1, 0.9, 0.5, 0.4])
    _, rows = fit(
        epochs=9,
        patience=2,
        monitor="figure",
        higher_is_better=True,
        measure=lambda module: {"figure": next(figures)},
    )
    assert len(rows) == 4


class Explodes(nn.Module):
    """Turns infinite after some batches."""

    def __init__(self, after):
        super().__init__()
        self.linear, self.after, self.seen = nn.Linear(3, 1), after, 0

    def forward(self, x):
        out = self.linear(x)
        if self.training:
            self.seen += 1
            if self.seen > self.after:
                return out * math.inf
        return out


def test_divergence_is_told_and_the_last_finite_weights_are_kept():
    """Five steps an epoch: the third epoch breaks, the weights of the second stay."""
    seen = []

    def measure(module):
        seen.append({k: v.clone() for k, v in module.state_dict().items()})
        return {}

    with pytest.warns(ConvergenceWarning, match=r"epoch 3.*smaller lr than 0.05"):
        net, rows = fit(Explodes(after=12), epochs=9, measure=measure)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert_equal(weights(net), seen[1])


def test_divergence_in_the_first_epoch_leaves_the_start():
    module = Explodes(after=2)
    start = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.warns(ConvergenceWarning, match="epoch 1"):
        net, rows = fit(module)
    ((epoch, loss),) = [row.values() for row in rows]
    assert epoch == 1
    assert math.isnan(loss)
    assert_equal(weights(net), start)


def test_divergence_with_early_stopping_keeps_the_best():
    seen = []
    figures = iter([1.0, 2.0, 3.0])

    def measure(module):
        seen.append({k: v.clone() for k, v in module.state_dict().items()})
        return {"figure": next(figures)}

    with pytest.warns(ConvergenceWarning, match="epoch 3"):
        net, _ = fit(
            Explodes(after=12), epochs=9, patience=5, monitor="figure", measure=measure
        )
    assert_equal(weights(net), seen[0])


class Refuses(nn.Module):
    """Jumps to an infinite weight, and refuses to compute with it."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(3, 1), 0

    def forward(self, x):
        self.seen += 1
        if self.seen > 7:
            with torch.no_grad():
                self.linear.weight.fill_(math.inf)
            raise ValueError("x: expected finite numbers")
        return self.linear(x)


def test_a_network_that_refuses_infinite_weights_has_diverged():
    with pytest.warns(ConvergenceWarning, match="epoch 2"):
        net, rows = fit(Refuses())
    assert len(rows) == 1
    assert all(value.isfinite().all() for value in weights(net).values())


def test_other_errors_are_not_swallowed():
    class Wrong(nn.Linear):
        def forward(self, x):
            raise ValueError("x: expected something else")

    with pytest.raises(ValueError, match="something else"):
        fit(Wrong(3, 1))


def test_training_goes_on_after_divergence():
    """The optimizer's moments were infinite; a new call begins with new ones."""
    with pytest.warns(ConvergenceWarning):
        net, _ = fit(Explodes(after=12), epochs=9)
    net.module_.after = 10**9
    train(net.module_, None, line(), lr=0.05, epochs=1, batch_size=8, net=net)
    assert all(value.isfinite().all() for value in weights(net).values())


def test_few_steps_are_told_once():
    with pytest.warns(ConvergenceWarning, match=r"2 step\(s\), 6 in all") as told:
        fit(epochs=3, batch_size=20)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(epochs=3, batch_size=10)  # four steps
        fit(epochs=3, batch_size=20, whole=False)  # partial_fit


def test_a_deadline_ends_after_the_epoch():
    _, rows = fit(epochs=50, deadline=Deadline(0.0))
    assert len(rows) == 1


def test_ctrl_c_reaches_the_caller():
    def measure(module):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(epochs=3, measure=measure)


@pytest.mark.parametrize("verbose", [0, 1])
def test_ctrl_c_in_an_epoch_keeps_what_was_learned(verbose):
    steps = []

    class Interrupted(torch.nn.Linear):
        def forward(self, x):
            steps.append(1)
            if len(steps) == 13:  # in the third epoch of five steps
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(TrainingInterrupted, match="after 2 epoch") as caught:
        fit(Interrupted(3, 1), epochs=5, verbose=verbose)
    error = pickle.loads(pickle.dumps(TrainingInterrupted(None, [{"epoch": 1}])))
    assert error.history == [{"epoch": 1}]
    assert [row["epoch"] for row in caught.value.history] == [1, 2]
    assert all("dur" in row for row in caught.value.history)
    assert not caught.value.module.training


class Stop(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("patience", [None, 50])
@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    tmp_path, patience, killed_after
):
    def run(path, epochs=5, measure=None):
        generator = torch.Generator().manual_seed(3)
        keeper = Checkpoint(path, "same", generator)
        options = {"schedule": "cosine", "patience": patience, "threshold": 0.0}
        held = line(16, 1)
        return fit(
            held=held, epochs=epochs, checkpoint=keeper, measure=measure, **options
        )

    whole, rows = run(tmp_path / "whole.pt")
    count = iter(range(100))

    def kill(module):
        if next(count) == killed_after:
            raise Stop
        return {}

    with pytest.raises(Stop):
        run(tmp_path / "cut.pt", measure=kill)
    again, rest = run(tmp_path / "cut.pt")
    assert_equal(weights(again), weights(whole))
    assert [row["epoch"] for row in rest] == [1, 2, 3, 4, 5]
    assert [r["train_loss"] for r in rest] == [r["train_loss"] for r in rows]
    once_more, _ = run(tmp_path / "cut.pt")  # nothing is left to do
    assert_equal(weights(once_more), weights(whole))


def test_a_stopped_training_stays_stopped(tmp_path):
    def run(figures):
        figures = iter(figures)
        keeper = Checkpoint(tmp_path / "c.pt", "same", torch.Generator())
        return fit(
            epochs=9,
            patience=2,
            monitor="figure",
            threshold=0.0,
            measure=lambda module: {"figure": next(figures)},
            columns=("train_loss", "figure"),
            checkpoint=keeper,
        )

    net, rows = run([3.0, 1.0, 2.0, 2.5])
    again, same = run([])  # measuring would raise StopIteration
    assert_equal(weights(again), weights(net))
    assert same == rows


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    fit(epochs=1, checkpoint=Checkpoint(path, "one", torch.Generator()))
    with pytest.raises(ValueError, match="other data or settings"):
        fit(epochs=1, checkpoint=Checkpoint(path, "two", torch.Generator()))
