"""Train a torch module with Lightning: the one way the experiments do it.

The loss is a function of the model and a batch, so the models stay plain modules.
Every epoch starts from a seed of its own, so a run that was interrupted and resumed
ends where an uninterrupted one does.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.exceptions import ConvergenceWarning

Loss = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]
_DEVICES: ContextVar[int] = ContextVar("devices", default=1)


@dataclass
class TrainingLog:
    """What happened in a training run.

    Attributes
    ----------
    epochs : list of dict
        One row an epoch: ``epoch``, ``loss`` (mean over its batches), ``seconds``
        (training time so far, without validation) and the validation figures.
    best : dict
        The row whose state the model was left in.
    seconds : float
        Training time, validation excluded, over all resumed parts.
    diverged : int, optional
        The epoch in which the loss or a weight was not finite. Its row has the figures
        of the weights that it began with.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    diverged: int | None = None


@contextmanager
def use_devices(count: int) -> Iterator[None]:
    """Train with DDP on ``count`` devices in every :func:`fit` inside.

    How many processes share the work belongs to the start of a program, not to the
    protocol of an experiment. Lightning starts the same command line once more for
    every other device; each process takes its share of the batches, so a step sees
    ``count`` times as many samples.

    Examples
    --------
    >>> with use_devices(1):
    ...     pass
    """
    token = _DEVICES.set(count)
    try:
        yield
    finally:
        _DEVICES.reset(token)


def batches(
    *tensors: Tensor, batch_size: int, shuffle: bool = True, drop_last: bool = False
) -> DataLoader:
    """Return a loader that cuts tensors of equal length into batches by index.

    One index operation a batch, instead of one a sample and a collation.

    Examples
    --------
    >>> loader = batches(torch.arange(5.0), batch_size=2, shuffle=False)
    >>> [batch.tolist() for (batch,) in loader]
    [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """
    data = TensorDataset(*tensors)
    order = RandomSampler(data) if shuffle else SequentialSampler(data)
    return DataLoader(
        data, sampler=BatchSampler(order, batch_size, drop_last), batch_size=None
    )


class Draws:
    """An epoch of so many fresh batches, each drawn when it is needed.

    Parameters
    ----------
    steps : int
        Batches an epoch.
    draw : callable
        ``draw()`` returns a batch; it draws from torch's generator.
    """

    def __init__(self, steps: int, draw: Callable[[], Any]):
        self.steps, self.draw = steps, draw

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return (self.draw() for _ in range(self.steps))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside, and give torch's generator back as it was.

    >>> with seeded(0):
    ...     first = torch.rand(())
    >>> with seeded(0):
    ...     bool(torch.rand(()) == first)
    True
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross entropy of a model's scores of ``(x, y)``."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def fit(
    model: nn.Module,
    loss: Loss,
    train: Iterable,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    epochs: int | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    scheduler_interval: str = "epoch",
    validate: Validate | None = None,
    validate_every: int = 1,
    monitor: str | None = None,
    mode: str = "min",
    patience: int | None = None,
    max_seconds: float | None = None,
    clip: float | None = None,
    device: str = "cpu",
    devices: int | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> TrainingLog:
    """Train ``model`` in place and return the log.

    Parameters
    ----------
    model : torch.nn.Module
        Left in evaluation mode.
    loss : callable
        ``loss(model, batch)`` returns the scalar to minimize.
    train : iterable
        Batches; gone through once an epoch (a DataLoader, :func:`batches`, or any
        object whose iterator draws from torch's generator).
    optimizer, scheduler : callable
        ``optimizer(model)`` and ``scheduler(optimizer)``; the scheduler steps every
        ``scheduler_interval`` ("epoch" or "step").
    epochs : int, optional
        Number of epochs; unlimited when only ``max_seconds`` is given.
    validate : callable, optional
        ``validate(model)`` returns figures by name; called in evaluation mode and
        without gradients after every ``validate_every`` epochs and the last one.
    monitor, mode : str, optional
        The figure by which the best state is kept, smallest ("min") or largest
        ("max"). Without it the last state stays.
    patience : int, optional
        Stop after so many validations without a better ``monitor``.
    max_seconds : float, optional
        Stop at the end of the step that passes this training time.
    clip : float, optional
        Largest gradient norm.
    device : str
        "cpu", "cuda" or "cuda:N".
    devices : int, optional
        More than one trains with DDP: every process takes its share of the batches,
        and the SPD batch normalizations (on CUDA all) use the statistics of all
        shares; the loss must use every parameter. Default: what :func:`use_devices`
        says, or one.
    precision : str, optional
        Lightning's ``precision``, such as "bf16-mixed".
    out : path, optional
        Folder of the checkpoint ``last.ckpt``; with ``resume=True`` training goes on
        from it when it exists.
    seed : int
        Seed of shuffling, dropout and other draws; torch's global generator is given
        back as it was.
    progress : bool
        Show a progress bar, when the output is a terminal.

    Returns
    -------
    TrainingLog

    Warns
    -----
    ConvergenceWarning
        The loss or a weight is not finite: training ends, and the best weights (those
        that the epoch began with, where nothing is monitored) are kept.
    """
    _check(epochs, max_seconds, mode, monitor, validate)
    from manifoldkit.experiments.lightning_task import Epochs, Task, go, make_trainer

    shared = _DEVICES.get()
    devices = shared if devices is None else devices
    if devices > 1:
        from manifoldkit.spd.batchnorm.sync import convert_sync_batchnorm

        convert_sync_batchnorm(model)
    log = TrainingLog()
    task = Task(
        model,
        loss,
        log,
        optimizer=optimizer,
        scheduler=scheduler,
        scheduler_interval=scheduler_interval,
        validate=validate,
        validate_every=validate_every,
        monitor=monitor,
        sign=1.0 if mode == "min" else -1.0,
        patience=patience,
        max_seconds=max_seconds,
        last_epoch=epochs,
        seed=seed,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Lightning advises on loader workers and log folders; nothing to change here
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = make_trainer(
            torch.device(device),
            devices,
            shared > 1,  # the losses of the experiments may leave out a head of a model
            out,
            progress,
            max_epochs=-1 if epochs is None else epochs,
            gradient_clip_val=clip,
            precision=precision,
        )
        last = Path(out) / "last.ckpt" if resume and out is not None else None
        go(trainer, task, Epochs(train, task, seed), last)
    task.restore_best()
    model.eval()
    if log.diverged is not None and trainer.is_global_zero:
        kept = "last finite" if monitor is None else "best"
        warnings.warn(
            f"training diverged in epoch {log.diverged}: the loss or a weight is not "
            f"finite. Training ended and the {kept} weights are kept; use a smaller "
            "learning rate, clip gradients (clip=), or scale the input",
            ConvergenceWarning,
            stacklevel=2,
        )
    return log


def _check(
    epochs: int | None,
    max_seconds: float | None,
    mode: str,
    monitor: str | None,
    validate: Validate | None,
) -> None:
    if epochs is None and max_seconds is None:
        raise ValueError("fit needs epochs or max_seconds")
    if epochs is not None:
        check_count(epochs, "epochs", 0)
    if max_seconds is not None:
        check_positive(max_seconds, "max_seconds")
    check_choice(mode, ("min", "max"), "mode")
    if monitor is not None and validate is None:
        raise ValueError(f"monitor={monitor!r} needs a validate function")
