"""Train a torch module with Lightning: the one way the experiments do it.

The loss is a function of the model and a batch, so the models stay plain modules.
Every epoch starts from a seed of its own, so a run that was interrupted and resumed
ends where an uninterrupted one does.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
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

from manifoldkit.exceptions import MissingExtraError

Loss = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]
_DEVICES: ContextVar[int] = ContextVar("devices", default=1)


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
    """

    epochs: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=dict)
    seconds: float = 0.0


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
    """
    if epochs is None and max_seconds is None:
        raise ValueError("fit needs epochs or max_seconds")
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
    if monitor is not None and validate is None:
        raise ValueError(f"monitor={monitor!r} needs a validate function")
    devices = _DEVICES.get() if devices is None else devices
    lightning = _lightning()
    if devices > 1:
        from manifoldkit.spd.batchnorm_sync import convert_sync_batchnorm

        convert_sync_batchnorm(model)
    task = _task_class(lightning)(
        model,
        loss,
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
    callbacks = []
    if out is not None:
        callbacks.append(
            lightning.pytorch.callbacks.ModelCheckpoint(
                dirpath=out,
                filename="last",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    last = Path(out) / "last.ckpt" if out is not None else None
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Lightning advises on loader workers and log folders; nothing to change here
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = lightning.Trainer(
            **_placement(lightning, torch.device(device), devices),
            max_epochs=-1 if epochs is None else epochs,
            gradient_clip_val=clip,
            precision=precision,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=out is not None,
            enable_progress_bar=progress and sys.stderr.isatty(),
            enable_model_summary=False,
        )
        try:
            trainer.fit(
                task,
                train_dataloaders=_Epochs(train, task, seed),
                ckpt_path=str(last) if resume and last and last.exists() else None,
                weights_only=False if resume else None,
            )
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    task.restore_best()
    model.eval()
    return task.log_


def _placement(lightning, device: torch.device, devices: int) -> dict[str, Any]:
    """Return what Lightning's trainer wants to know about devices."""
    settings: dict[str, Any] = {
        "accelerator": "cpu" if device.type == "cpu" else "gpu",
        "devices": devices,
    }
    if devices == 1 and device.index is not None:
        settings["devices"] = [device.index]
    if devices > 1:
        settings["strategy"] = lightning.pytorch.strategies.DDPStrategy(
            # the losses of the experiments may leave out a head of a model
            find_unused_parameters=_DEVICES.get() > 1
        )
        settings["sync_batchnorm"] = device.type != "cpu"
    return settings


def _lightning():
    try:
        import lightning
    except ImportError:
        raise MissingExtraError("training", "lightning", "train") from None
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.ERROR)
    return lightning


class _Epochs:
    """The batches of every epoch, drawn from a random state of their own.

    Lightning fetches ahead, at moments that differ after a resume; a state of its own
    makes the order independent of that. With several processes each takes its share.
    """

    def __init__(self, train, task, seed):
        self.train, self.task, self.seed = train, task, seed

    def __len__(self):
        world = self.task.trainer.world_size
        if len(self.train) < world:
            raise ValueError(
                f"devices: {len(self.train)} batch(es) cannot be shared by {world}"
            )
        return len(self.train) // world

    def __iter__(self):
        rank, world = self.task.global_rank, self.task.trainer.world_size
        outside = torch.get_rng_state()
        torch.manual_seed(self.seed * 1_000_003 + self.task.current_epoch)
        iterator = iter(self.train)
        while True:
            share = list(islice(iterator, world))
            inside = torch.get_rng_state()
            torch.set_rng_state(outside)
            if len(share) < world:
                return
            yield share[rank]
            outside = torch.get_rng_state()
            torch.set_rng_state(inside)


def _task_class(lightning):
    """Return the LightningModule; a function, because lightning is optional."""

    class Task(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self, model, loss, **settings):
            super().__init__()
            self.model, self.loss = model, loss
            self.settings = settings
            self.log_ = TrainingLog()
            self.best_state = None
            self.waited = 0

        def configure_optimizers(self):
            optimizer = self.settings["optimizer"](self.model)
            if self.settings["scheduler"] is None:
                return optimizer
            return {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": self.settings["scheduler"](optimizer),
                    "interval": self.settings["scheduler_interval"],
                },
            }

        def on_train_epoch_start(self):
            self.model.train()
            place = self.current_epoch * 4096 + self.global_rank + 1
            torch.manual_seed(self.settings["seed"] * 1_000_003 - place)
            self.losses, self.started = [], time.perf_counter()

        def training_step(self, batch, _):
            value = self.loss(self.model, batch)
            self.losses.append(value.detach())
            return value

        def on_train_batch_start(self, *_):
            limit = self.settings["max_seconds"]
            if limit is None or not self.losses:
                return None
            # clocks differ, and a process that goes on alone would wait forever
            late = self.trainer.strategy.reduce_boolean_decision(
                self._seconds() >= limit, all=False
            )
            if late:
                self.trainer.should_stop = True
                return -1  # Lightning's word for leaving the epoch
            return None

        def _seconds(self):
            return self.log_.seconds + time.perf_counter() - self.started

        def on_train_epoch_end(self):
            everyone = self.trainer.strategy
            self.log_.seconds = everyone.broadcast(self._seconds())
            loss = torch.stack(self.losses).double().mean()
            row = {
                "epoch": self.current_epoch + 1,
                "loss": everyone.reduce(loss, reduce_op="mean").item(),
                "seconds": self.log_.seconds,
            }
            done = self.current_epoch + 1
            limit = self.settings["max_seconds"]
            last = done == self.settings["last_epoch"] or (
                limit is not None and self.log_.seconds >= limit
            )
            validate = self.settings["validate"]
            if validate and (last or done % self.settings["validate_every"] == 0):
                self.model.eval()
                with torch.no_grad():
                    found = {k: float(v) for k, v in validate(self.model).items()}
                row |= everyone.broadcast(found)
                self.model.train()
                self._keep_best(row)
            self.log_.epochs.append(row)
            if self.settings["monitor"] is None:
                self.log_.best = row

        def _keep_best(self, row):
            key, sign = self.settings["monitor"], self.settings["sign"]
            if key is None:
                return
            best = self.log_.best.get(key)
            if best is None or sign * row[key] < sign * best:
                self.log_.best, self.waited = row, 0
                self.best_state = {
                    k: v.detach().clone() for k, v in self.model.state_dict().items()
                }
            else:
                self.waited += 1
            patience = self.settings["patience"]
            if patience is not None and self.waited >= patience:
                self.trainer.should_stop = True

        def restore_best(self):
            if self.best_state is not None:
                self.model.load_state_dict(self.best_state)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["training_log"] = vars(self.log_) | {"waited": self.waited}
            checkpoint["best_state"] = self.best_state

        def on_load_checkpoint(self, checkpoint):
            saved = dict(checkpoint["training_log"])
            self.waited = saved.pop("waited")
            self.log_ = TrainingLog(**saved)
            self.best_state = checkpoint["best_state"]

    return Task
