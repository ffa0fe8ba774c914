"""Train a torch module with Lightning: the one way the experiments do it.

The loss is a function of the model and a batch, so the models stay plain modules.
Every epoch starts from a seed of its own, so a run that was interrupted and resumed
ends where an uninterrupted one does.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
from manifoldkit.experiments.lightning_task import (
    Epochs,
    Loss,
    TrainingLog,
    Validate,
    task_class,
)

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
        from manifoldkit.spd.batchnorm.sync import convert_sync_batchnorm

        convert_sync_batchnorm(model)
    task = task_class(lightning)(
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
                train_dataloaders=Epochs(train, task, seed),
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
