"""The LightningModule of the experiments, and what it logs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]


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


class Epochs:
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


def task_class(lightning):
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
