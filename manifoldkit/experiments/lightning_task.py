"""The set-up of Lightning: the module that trains, its batches, its trainer.

This file is imported late, by :func:`manifoldkit.experiments.training.fit`.
"""

import logging
import math
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit.exceptions import MissingExtraError

try:
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy
except ImportError:
    raise MissingExtraError("training", "lightning", "train") from None

for _part in ("pytorch", "fabric"):
    logging.getLogger(f"lightning.{_part}").setLevel(logging.ERROR)

#: Steps between two looks at the loss where a look waits for a GPU or other processes.
LOOK_EVERY = 16


class Task(LightningModule):
    """Trains a plain module on a loss function, and keeps its best state.

    A loss or a weight that is not finite ends the training: the weights that the epoch
    began with are put back, validated, and counted as the state of that epoch.

    Parameters
    ----------
    model : torch.nn.Module
        What is trained.
    loss : callable
        ``loss(model, batch)`` returns the scalar to minimize.
    log : TrainingLog
        Filled epoch by epoch.
    **settings
        Those of :func:`manifoldkit.experiments.training.fit`; "sign" is -1 where the
        largest figure is the best.
    """

    def __init__(self, model: nn.Module, loss: Any, log: Any, **settings: Any):
        super().__init__()
        self.model, self.loss = model, loss
        self.settings = settings
        self.log_ = log
        self.best_state: dict[str, Tensor] | None = None
        self.waited = 0
        self.broken = False

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with its schedule if there is one."""
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

    def on_train_epoch_start(self) -> None:
        """Seed the draws of the model, start the clock, remember the weights."""
        self.model.train()
        place = self.current_epoch * 4096 + self.global_rank + 1
        torch.manual_seed(self.settings["seed"] * 1_000_003 - place)
        self.first_weights = self._weights()
        self.losses: list[Tensor] = []
        self.started = time.perf_counter()

    def training_step(self, batch: Any, _: int) -> Tensor | None:
        """Return the loss, or None where weights that are not finite make it fail."""
        try:
            value = self.loss(self.model, batch)
        except (ValueError, RuntimeError):
            if self._has_finite_weights():
                raise
            self.broken = True
            return None
        self.losses.append(value.detach())
        return value

    def on_train_batch_start(self, _: Any, index: int) -> int | None:
        """Leave the epoch when the time is over or the loss is not finite."""
        if index == 0:
            return None
        limit, alone = self.settings["max_seconds"], self.trainer.world_size == 1
        stop = self.broken or (limit is not None and self._seconds() >= limit)
        look = index % LOOK_EVERY == 0
        if (look or (alone and self.device.type == "cpu")) and self.losses:
            stop = stop or not self.losses[-1].isfinite()
        if look or alone or limit is not None:
            # clocks differ, and a process that goes on alone would wait forever
            decide = self.trainer.strategy.reduce_boolean_decision
            stop = decide(bool(stop), all=False)
            if stop:
                self.trainer.should_stop = True
                return -1  # Lightning's word for leaving the epoch
        return None

    def _seconds(self) -> float:
        return self.log_.seconds + time.perf_counter() - self.started

    def on_train_epoch_end(self) -> None:
        """Write the row of the epoch, validate, keep the best state."""
        everyone = self.trainer.strategy
        self.log_.seconds = everyone.broadcast(self._seconds())
        done, limit = self.current_epoch + 1, self.settings["max_seconds"]
        row = {"epoch": done, "loss": self._mean_loss(), "seconds": self.log_.seconds}
        broken = not (math.isfinite(row["loss"]) and self._has_finite_weights())
        if broken:
            self._give_up(done)
        late = limit is not None and self.log_.seconds >= limit
        last = broken or late or done == self.settings["last_epoch"]
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

    def _mean_loss(self) -> float:
        """Mean over the batches of all processes; no number where one is missing."""
        loss = torch.stack(self.losses).double().mean() if self.losses else math.nan
        loss = torch.as_tensor(math.nan if self.broken else loss, device=self.device)
        return self.trainer.strategy.reduce(loss, reduce_op="mean").item()

    def _give_up(self, epoch: int) -> None:
        """Put the weights back that the epoch began with, and stop."""
        self.model.load_state_dict(self.first_weights)
        self.log_.diverged = epoch
        self.trainer.should_stop = True

    def _keep_best(self, row: dict[str, Any]) -> None:
        key, sign = self.settings["monitor"], self.settings["sign"]
        if key is None:
            return
        best = self.log_.best.get(key)
        # a figure that is no number (unequal to itself) is worse than any other
        if best is None or best != best or sign * row[key] < sign * best:
            self.log_.best, self.waited = row, 0
            self.best_state = self._weights()
        else:
            self.waited += 1
        patience = self.settings["patience"]
        if patience is not None and self.waited >= patience:
            self.trainer.should_stop = True

    def _weights(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def _has_finite_weights(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def restore_best(self) -> None:
        """Leave the model in its best state, where one was monitored."""
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the log and the best state."""
        checkpoint["training_log"] = vars(self.log_) | {"waited": self.waited}
        checkpoint["best_state"] = self.best_state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        saved = dict(checkpoint["training_log"])
        self.waited = saved.pop("waited")
        vars(self.log_).update(saved)
        self.best_state = checkpoint["best_state"]


class Epochs:
    """The batches of every epoch, drawn from a random state of their own.

    Lightning fetches ahead, at moments that differ after a resume; a state of its own
    makes the order independent of that. With several processes each takes its share.
    """

    def __init__(self, train: Any, task: Task, seed: int):
        self.train, self.task, self.seed = train, task, seed

    def __len__(self) -> int:
        world = self.task.trainer.world_size
        if len(self.train) < world:
            raise ValueError(
                f"devices: {len(self.train)} batch(es) cannot be shared by {world}"
            )
        return len(self.train) // world

    def __iter__(self) -> Iterator[Any]:
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


def make_trainer(
    device: torch.device,
    devices: int,
    unused_parameters: bool,
    out: str | Path | None,
    progress: bool,
    **settings: Any,
) -> Trainer:
    """Return Lightning's trainer for a device, or with DDP for several.

    ``unused_parameters``: whether a loss may leave out parameters with DDP; ``out``:
    the folder of ``last.ckpt``; ``settings``: further ones of the trainer.
    """
    if devices > 1:
        settings["strategy"] = DDPStrategy(find_unused_parameters=unused_parameters)
        settings["sync_batchnorm"] = device.type != "cpu"
    if out is not None:
        settings["callbacks"] = ModelCheckpoint(
            dirpath=out,
            filename="last",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
    only = devices == 1 and device.index is not None
    return Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=[device.index] if only else devices,
        logger=False,
        enable_checkpointing=out is not None,
        enable_progress_bar=progress and sys.stderr.isatty(),
        enable_model_summary=False,
        **settings,
    )


def go(trainer: Trainer, task: Task, train: Epochs, checkpoint: Path | None) -> None:
    """Train, on from a checkpoint where there is one; nothing in it is executed."""
    resume = checkpoint is not None and checkpoint.exists()
    if checkpoint is not None and resume:
        _check_checkpoint(checkpoint)
    try:
        trainer.fit(
            task,
            train_dataloaders=train,
            ckpt_path=str(checkpoint) if resume else None,
            weights_only=True if resume else None,
        )
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None


def _check_checkpoint(file: Path) -> None:
    """Refuse what is not a checkpoint of :func:`go`, without running code of it."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        missing = {"training_log", "best_state", "state_dict"} - content.keys()
    except Exception as error:  # a broken or foreign file can raise anything
        raise ValueError(
            f"resume: {file} is not a checkpoint of this experiment, or holds more "
            f"than numbers and tensors, which would be executed on loading; delete it "
            f"to begin anew ({str(error).splitlines()[0]})"
        ) from error
    if missing:
        raise ValueError(
            f"resume: {file} lacks {', '.join(sorted(missing))}: it is not a "
            "checkpoint of this experiment"
        )
