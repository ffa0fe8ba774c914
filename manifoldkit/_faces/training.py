"""One trainer for all scikit-learn faces: the only file that imports skorch.

It is imported late, by ``fit``, so that models predict without skorch. Early stopping,
clipping and learning-rate schedules are skorch's own; three callbacks are ours: a
deadline, a checkpoint from which training resumes, and a watcher that keeps the rows
of the log and ends a training that diverges.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._faces.estimator import Deadline
from manifoldkit.exceptions import (
    ConvergenceWarning,
    MissingExtraError,
    TrainingInterrupted,
)

try:
    from skorch import NeuralNet
    from skorch.callbacks import (
        Callback,
        EarlyStopping,
        GradientNormClipping,
        LRScheduler,
    )
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split
except ImportError:
    raise MissingExtraError("training a network", "skorch", "train") from None

#: Fewer steps an epoch than this are worth a word.
FEW_STEPS = 4


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and buffers."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def are_finite(module: nn.Module) -> bool:
    """Whether all weights are finite."""
    return all(bool(p.isfinite().all()) for p in module.parameters())


class Watcher(Callback):
    """Adds figures to the log, and ends a training whose loss is not finite."""

    def __init__(self, measure: Callable[[nn.Module], Mapping[str, float]] | None):
        self.measure = measure
        self.diverged = False
        self.epochs = 0
        self.finite: dict[str, Tensor] = {}

    def on_train_begin(self, net, **_):
        """Remember the weights that training starts from."""
        self.epochs = len(net.history)
        self.finite = weights_of(net.module_)

    def on_batch_end(self, net, training, **_):
        """Stop at the first loss that is not finite."""
        if training and not math.isfinite(net.history[-1, "batches", -1, "train_loss"]):
            self.stop()

    def on_epoch_end(self, net, **_):
        """Measure; remember the weights if they are finite."""
        if not are_finite(net.module_):
            self.stop()
        self.epochs, self.finite = len(net.history), weights_of(net.module_)
        for name, value in (self.measure(net.module_) if self.measure else {}).items():
            net.history.record(name, value)

    def stop(self):
        """End the training."""
        self.diverged = True
        raise KeyboardInterrupt  # skorch's way to end a training cleanly


class StopInTime(Callback):
    """Ends training after the epoch in which the deadline has passed."""

    def __init__(self, deadline: Deadline):
        self.deadline = deadline

    def on_train_begin(self, net, **_):
        """Begin to count."""
        self.deadline.start()

    def on_epoch_end(self, net, **_):
        """End the training if it is time."""
        if self.deadline():
            raise KeyboardInterrupt  # skorch's way to end a training cleanly


class Checkpoint(Callback):
    """A file after every epoch, from which a training goes on as if uninterrupted.

    Parameters
    ----------
    path : str or Path
        The file.
    fingerprint : str
        Of data and settings; a file with another one is refused.
    generator : torch.Generator
        Of the data, beside torch's own.
    """

    def __init__(self, path: str | Path, fingerprint: str, generator: torch.Generator):
        self.path, self.fingerprint = Path(path), fingerprint
        self.generator = generator
        self.stopper: Any = None
        self.columns: Sequence[str] = ()
        self.state: dict[str, Any] | None = None

    def begin(self, stopper: EarlyStopping | None, columns: Sequence[str]) -> None:
        """Read the file, if there is one.

        Raises
        ------
        ValueError
            It belongs to other data or settings.
        """
        self.stopper, self.columns = stopper, columns
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["fingerprint"] != self.fingerprint:
                raise ValueError(
                    f"checkpoint: {self.path} belongs to other data or settings; "
                    "remove it or name another file"
                )
            self.state = state

    def resume(self, net: Any, lr: float, epochs: int) -> int:
        """Put the state that was read into a trainer; return the epochs to go."""
        if self.state is None:
            return epochs
        state = self.state
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        for group in net.optimizer_.param_groups:  # the base of a schedule
            group.setdefault("initial_lr", lr)
        for row in state["rows"]:
            net.history.new_epoch()
            for name, value in row.items():
                net.history.record(name, value)
        torch.set_rng_state(state["torch"])
        self.generator.set_state(state["source"])
        left = max(epochs - state["done"], 0)
        if self.stopper is not None and (
            state["done"] - state["best_at"] >= self.stopper.patience
        ):
            left = 0
        if not left and state["best_state"]:
            net.module_.load_state_dict(state["best_state"])
        return left

    def on_train_begin(self, net, **_):
        """Tell the stopper, which begins anew, what it knew."""
        state, stopper = self.state, self.stopper
        if state is not None and stopper is not None and state["best_state"]:
            stopper.misses_ = state["done"] - state["best_at"]
            stopper.dynamic_threshold_ = state["best"]
            stopper.best_epoch_ = state["best_at"]
            stopper.best_model_weights_ = state["best_state"]

    def on_epoch_end(self, net, **_):
        """Write the file."""
        self.write(net)

    def on_train_end(self, net, **_):
        """Write it too where the stopper ended the last epoch before we were asked."""
        if self.stopper is not None and self.stopper.misses_ >= self.stopper.patience:
            self.write(net)

    def write(self, net: Any) -> None:
        """Write the file; a partial one never takes its place."""
        stopper = self.stopper
        best = None if stopper is None else stopper.best_model_weights_
        state = {
            "fingerprint": self.fingerprint,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "done": len(net.history),
            "best": math.inf if best is None else float(stopper.dynamic_threshold_),
            "best_at": -1 if best is None else stopper.best_epoch_,
            "best_state": best,
            "rows": rows_of(net, self.columns),
            "torch": torch.get_rng_state(),
            "source": self.generator.get_state(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".part")
        torch.save(state, partial)
        os.replace(partial, self.path)


def rows_of(net: Any, columns: Sequence[str], begin: int = 0) -> list[dict[str, Any]]:
    """Return the log of a trainer from an epoch on, as plain numbers.

    An epoch that was broken off before its loss was known is none.
    """
    return [
        {"epoch": int(entry["epoch"])}
        | {name: float(entry[name]) for name in columns if name in entry}
        for entry in list(net.history)[begin:]
        if "train_loss" in entry
    ]


def _silent(*_: Any) -> None:
    """What skorch's callbacks print to."""


def _schedule(name: str, lr: float, epochs: int, steps: int) -> LRScheduler:
    """Return a learning rate by name; skorch counts the epochs of the log."""
    if name == "step":  # a factor .95 every ten epochs
        return LRScheduler("StepLR", step_size=10, gamma=0.95)
    if name == "one_cycle":
        return LRScheduler(
            torch.optim.lr_scheduler.OneCycleLR,
            step_every="batch",
            max_lr=lr,
            total_steps=epochs * steps + 1,
        )

    def cosine(epoch: int) -> float:  # down to a hundredth
        rate = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return 0.01 + 0.99 * rate

    return LRScheduler("LambdaLR", lr_lambda=cosine)


def given(dataset: Any, **_: Any) -> Any:
    """Hand skorch batches that the data set makes itself."""
    return dataset.X if hasattr(dataset, "X") else dataset


def first(batch: Any) -> Any:
    """Hand skorch batches that the data set gives whole."""
    return batch


def train(
    module: nn.Module,
    criterion: nn.Module,
    data: Any,
    held: Any = None,
    *,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    lr: float,
    epochs: int,
    batch_size: int = 128,
    loader: Mapping[str, Any] | None = None,
    schedule: str | None = None,
    clip: float | None = None,
    patience: int | None = None,
    monitor: str = "valid_loss",
    higher_is_better: bool = False,
    threshold: float = 1e-4,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    columns: Sequence[str] = ("train_loss", "valid_loss", "dur"),
    deadline: Deadline | None = None,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
    verbose: int = 0,
    net: Any = None,
    whole: bool = True,
) -> tuple[Any, list[dict[str, Any]]]:
    """Train a network in place.

    Parameters
    ----------
    module, criterion : nn.Module
        The network; the loss of its output and a batch of targets.
    data, held : torch Dataset, or pair of arrays (X, y)
        To train on; to validate on after every epoch.
    optimizer : callable
        Takes parameter groups and ``lr``.
    lr : float
        Learning rate, before any schedule.
    epochs, batch_size : int
        Passes over the data; samples a step.
    loader : mapping, optional
        skorch's options of the iterators, such as ``iterator_train__drop_last``.
    schedule : {"step", "one_cycle", "cosine"}, optional
        How the learning rate changes: by .95 every ten epochs; up and down once over
        all batches; along a cosine to a hundredth.
    clip : float, optional
        Largest norm of the gradient.
    patience : int, optional
        Epochs without a better ``monitor`` after which training ends; the best weights
        are kept.
    monitor : str
        Figure of the log that says which weights are better.
    higher_is_better : bool
        Whether a larger ``monitor`` is better.
    threshold : float
        Share by which it must be better to count.
    measure : callable, optional
        Called with the network after every epoch; its figures go to the log.
    columns : sequence of str
        Figures of the rows that are returned.
    deadline : Deadline, optional
        Ends training after the epoch in which it passes.
    checkpoint : Checkpoint, optional
        Written after every epoch; if it is there, training goes on from it.
    device : str
        Where the network is trained.
    verbose : int
        1 prints a line an epoch.
    net : NeuralNet, optional
        What an earlier call returned: its optimizer and its log go on.
    whole : bool, default=True
        A whole fit, which is told if its epochs have few steps.

    Returns
    -------
    net : skorch.NeuralNet
        ``net.module_`` is the network.
    rows : list of dict
        One an epoch of this call: ``epoch`` and the columns.

    Raises
    ------
    TrainingInterrupted
        The user's Ctrl-C; it holds the network, trained as far as it got.

    Warns
    -----
    ConvergenceWarning
        The loss or a weight is not finite: training ends, and the best or the last
        finite weights are kept. Or every epoch has fewer than four steps.
    """
    X, y = data if isinstance(data, tuple) else (data, None)
    whole_batches = (loader or {}).get("iterator_train") is given
    steps = len(X) if whole_batches else math.ceil(len(X) / batch_size)
    watcher, stopper = Watcher(measure), None
    if patience is not None:
        stopper = EarlyStopping(
            monitor,
            patience=patience,
            threshold=threshold,
            lower_is_better=not higher_is_better,
            load_best=True,
            sink=_silent,
        )
    if checkpoint is not None:
        checkpoint.begin(stopper, columns)
    callbacks: dict[str, Callback | None] = {  # called in this order
        "clip": None if clip is None else GradientNormClipping(clip),
        "schedule": schedule and _schedule(schedule, lr, epochs, steps),
        "watcher": watcher,
        "early_stopping": stopper,
        "checkpoint": checkpoint,
        "deadline": None if deadline is None else StopInTime(deadline),
    }
    ours = [(name, call) for name, call in callbacks.items() if call is not None]
    if net is None:
        net = NeuralNet(
            module,
            criterion,
            optimizer=optimizer,
            lr=lr,
            batch_size=batch_size,
            iterator_train__shuffle=True,
            device=device,
            verbose=verbose,
            callbacks=ours,
            **(loader or {}),
            **({} if verbose else {"callbacks__print_log": None}),
        )
        net.initialize()
    else:
        vars(net).update(loader or {})
        net.callbacks = ours
        net.initialize_callbacks()
    if isinstance(held, tuple):
        held = Dataset(*held)
    net.train_split = None if held is None else predefined_split(held)
    known = len(net.history)
    left = epochs if checkpoint is None else checkpoint.resume(net, lr, epochs)
    if left:
        try:
            _run(net, X, y, left, watcher, stopper, deadline)
        except KeyboardInterrupt:
            rows = rows_of(net, columns, known)
            raise TrainingInterrupted(net.module_.eval(), rows) from None
    _tell(net, known, lr, watcher, whole)
    # callbacks and split hold data, which copies and pickles do not need
    net.callbacks, net.train_split = None, None
    mine = {id(call) for _, call in ours}
    net.callbacks_ = [pair for pair in net.callbacks_ if id(pair[1]) not in mine]
    net.module_.eval()
    rows = rows_of(net, columns, known)
    if watcher.diverged and not rows:
        # broken off in the first epoch, which has no mean loss: a log is never empty
        rows.append({"epoch": len(net.history), "train_loss": math.nan})
    return net, rows


def _run(
    net: Any,
    X: Any,
    y: Any,
    epochs: int,
    watcher: Watcher,
    stopper: EarlyStopping | None,
    deadline: Deadline | None,
) -> None:
    """Train; leave the best weights, else the last finite ones."""
    goal = len(net.history) + epochs
    try:
        net.partial_fit(X, y, epochs=epochs)
    except (ValueError, RuntimeError):
        # networks refuse what is not finite; where the weights are, it is their matter
        if are_finite(net.module_):
            raise
        watcher.diverged = True
        net.notify("on_train_end", X=X, y=y)
    if watcher.diverged:
        if stopper is None or stopper.best_model_weights_ is None:
            net.module_.load_state_dict(watcher.finite)
        net.initialize_optimizer()  # its moments are not finite either
        return
    patient = stopper is None or stopper.misses_ < stopper.patience
    in_time = deadline is None or not deadline()
    if watcher.epochs < goal and patient and in_time:
        raise KeyboardInterrupt  # the user's, which skorch keeps for itself


def _tell(net: Any, known: int, lr: float, watcher: Watcher, whole: bool) -> None:
    """Warn of a training that diverged, and of epochs with few steps."""
    if watcher.diverged:
        warnings.warn(
            f"training diverged in epoch {len(net.history)}: the loss or a weight is "
            "not finite. Training ended and the last good weights are kept; use a "
            f"smaller lr than {lr:g}, clip gradients, or scale the input",
            ConvergenceWarning,
            stacklevel=4,
        )
    epochs = [e for e in list(net.history)[known:] if "train_batch_count" in e]
    steps = [int(e["train_batch_count"]) for e in epochs]
    if whole and steps and max(steps) < FEW_STEPS:
        warnings.warn(
            f"an epoch takes {max(steps)} step(s), {sum(steps)} in all: lower "
            "batch_size or raise max_epochs if the network shall learn more",
            ConvergenceWarning,
            stacklevel=4,
        )
