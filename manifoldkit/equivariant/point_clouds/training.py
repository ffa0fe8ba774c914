"""What the point-cloud estimators need of skorch: data, networks, checkpoints."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit.equivariant.parot.classifier import PaRotBase
from manifoldkit.equivariant.risurconv.surface_graph import (
    SurfaceGraph,
)
from manifoldkit.exceptions import MissingExtraError
from manifoldkit.linalg.actions import haar_rotations


class CloudSource(torch.utils.data.Dataset):
    """Clouds, or their graphs, with random views, turns and sizes in training.

    Parameters
    ----------
    inputs : Tensor (v * n, N, 3) or SurfaceGraph of v * n clouds
        All clouds in their first view, then all in the second, and so on.
    y : Tensor, shape (n,) or (v * n, N)
        Target of each cloud, or of each point of each view.
    category : Tensor or None
        Category of each cloud.
    augment : dict or None
        "rotation" and "scale"; None for evaluation, which sees the first view.
    """

    def __init__(self, inputs, y, category, augment: dict | None, seed: int, n: int):
        self.inputs, self.y, self.category = inputs, y, category
        self.augment, self.n = augment, n
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, rows: list[int]) -> tuple[dict[str, Any], Tensor]:
        """Return a whole batch, ready for the network."""
        index = seen = torch.tensor(rows)
        if self.augment is not None and len(self.inputs) > self.n:
            n_views = len(self.inputs) // self.n
            pick = torch.randint(n_views, index.shape, generator=self.generator)
            seen = pick * self.n + index
        x = self.inputs[seen]
        if self.augment is not None:
            x = self._vary(x)
        batch = (
            {f"t{i}": t for i, t in enumerate(x.tensors())}
            if isinstance(x, SurfaceGraph)
            else {"x": x}
        )
        if self.category is not None:
            batch["category"] = self.category[index]
        return batch, self.y[seen if self.y.ndim == 2 else index]

    def __getitem__(self, row: int):
        return self.__getitems__([row])

    def _vary(self, x):
        augment = self.augment or {}
        low, high = augment["scale"]
        share = torch.rand(len(x), generator=self.generator)
        factor = low + (high - low) * share
        if isinstance(x, SurfaceGraph):
            return x.scaled(factor)
        x = x * factor.to(x)[:, None, None]
        return turned(x, augment["rotation"], augment["axis"], self.generator)


def turned(x: Tensor, rotation: str, axis: int, generator: torch.Generator) -> Tensor:
    """Turn each cloud at random: "none", about one "z" axis, or by any "so3"."""
    if rotation == "none":
        return x
    if rotation == "so3":
        return x @ haar_rotations(len(x), x, generator).mT
    angle = 2 * math.pi * torch.rand(len(x), generator=generator, dtype=x.dtype)
    rot = torch.eye(3, dtype=x.dtype).repeat(len(x), 1, 1)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rot[:, i, i] = rot[:, j, j] = angle.cos()
    rot[:, j, i], rot[:, i, j] = angle.sin(), -angle.sin()
    return x @ rot.to(x.device).mT


class Trainee(nn.Module):
    """A network that takes batches of :class:`CloudSource`.

    Gives (scores, auxiliary loss); the loss is PaRot's, 0 for other networks.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.template: SurfaceGraph | None = None

    def forward(self, x: Tensor | None = None, category=None, **tensors):
        """Score one batch."""
        known = {} if category is None else {"category": category}
        if x is None:
            ordered = [tensors[f"t{i}"] for i in range(len(tensors))]
            if self.template is None:
                raise RuntimeError("the network was given no template of its graphs")
            return self.network(self.template.from_tensors(ordered), **known), 0.0
        if isinstance(self.network, PaRotBase):
            scores, losses = self.network.scores_and_losses(x, **known)  # type: ignore[operator]
            return scores, self.network.auxiliary(losses)
        if not hasattr(self.network, "n_categories"):
            known = {}
        return self.network(x, **known), 0.0


class ScoreLoss(nn.Module):
    """Cross entropy with smoothing over the other classes, and the auxiliary loss."""

    def __init__(self, smoothing: float = 0.0, class_weight: Tensor | None = None):
        super().__init__()
        self.smoothing = smoothing
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weight)

    def forward(self, out: tuple[Tensor, Tensor | float], y: Tensor) -> Tensor:
        """Return the loss of one batch."""
        scores, auxiliary = out
        n = scores.shape[-1]
        loss = F.cross_entropy(
            scores.flatten(0, -2),
            y.flatten(),
            weight=self.class_weight,
            label_smoothing=self.smoothing * n / max(n - 1, 1),
        )
        return loss + auxiliary


def _callback_class():
    from skorch.callbacks import Callback

    class Training(Callback):
        """Cosine learning rate, the best weights, patience, and checkpoints."""

        def __init__(self, lr, epochs, patience, checkpoint, fingerprint, source):
            self.lr, self.epochs, self.patience = lr, epochs, patience
            self.checkpoint, self.fingerprint = checkpoint, fingerprint
            self.source = source
            self.done, self.best, self.best_at = 0, math.inf, -1
            self.best_state: dict[str, Tensor] | None = None
            self.rows: list[dict] = []

        def on_epoch_begin(self, net, **_):
            rate = 0.5 * (1 + math.cos(math.pi * self.done / self.epochs))
            for group in net.optimizer_.param_groups:
                group["lr"] = self.lr * (0.01 + 0.99 * rate)

        def on_epoch_end(self, net, **_):
            self.done += 1
            row = net.history[-1]
            kept = ("train_loss", "valid_loss", "dur")
            self.rows.append(
                {"epoch": self.done} | {k: float(row[k]) for k in kept if k in row}
            )
            if self.patience is not None and row["valid_loss"] < self.best:
                self.best, self.best_at = float(row["valid_loss"]), self.done
                state = net.module_.state_dict()
                self.best_state = {k: v.detach().clone() for k, v in state.items()}
            if self.checkpoint is not None:
                self.save(net)
            if self.patience is not None and self.done - self.best_at >= self.patience:
                raise KeyboardInterrupt  # skorch's way to end the training cleanly

        def on_train_end(self, net, **_):
            if self.best_state is not None:
                net.module_.load_state_dict(self.best_state)

        def save(self, net):
            state = {
                "fingerprint": self.fingerprint,
                "module": net.module_.state_dict(),
                "optimizer": net.optimizer_.state_dict(),
                "done": self.done,
                "best": self.best,
                "best_at": self.best_at,
                "best_state": self.best_state,
                "rows": self.rows,
                "torch": torch.get_rng_state(),
                "source": self.source.generator.get_state(),
            }
            path = Path(self.checkpoint)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".part")
            torch.save(state, partial)
            os.replace(partial, path)

        def resume(self, net) -> None:
            """Continue from a checkpoint of the same data and settings."""
            if self.checkpoint is None or not Path(self.checkpoint).exists():
                return
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if state["fingerprint"] != self.fingerprint:
                raise ValueError(
                    f"checkpoint: {self.checkpoint} belongs to other data or settings; "
                    "remove it or name another file"
                )
            net.module_.load_state_dict(state["module"])
            net.optimizer_.load_state_dict(state["optimizer"])
            self.done, self.rows = state["done"], state["rows"]
            self.best, self.best_at = state["best"], state["best_at"]
            self.best_state = state["best_state"]
            torch.set_rng_state(state["torch"])
            self.source.generator.set_state(state["source"])

    return Training


def _first(batch):
    """Batches come whole from the data set."""
    return batch


def train(
    network: nn.Module,
    source: CloudSource,
    held: CloudSource | None,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    batch_size: int,
    loss: Callable[[], nn.Module],
    patience: int | None,
    checkpoint: str | Path | None,
    fingerprint: str,
    device: str,
    verbose: int,
):
    """Train through skorch; return the trainer and one row an epoch.

    Raises
    ------
    MissingExtraError
        skorch is not installed.
    """
    try:
        from skorch import NeuralNet
        from skorch.helper import predefined_split
    except ImportError:
        raise MissingExtraError("PointCloudClassifier", "skorch", "train") from None
    callback = _callback_class()(lr, epochs, patience, checkpoint, fingerprint, source)
    quiet = {} if verbose else {"callbacks__print_log": None}
    net = NeuralNet(
        network,
        loss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=weight_decay,
        lr=lr,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        # a last batch of one cloud has no statistics
        iterator_train__drop_last=len(source) % batch_size == 1,
        iterator_train__collate_fn=_first,
        iterator_valid__collate_fn=_first,
        train_split=None if held is None else predefined_split(held),
        callbacks=[("training", callback)],
        device=device,
        verbose=verbose,
        **quiet,
    )
    net.initialize()
    callback.resume(net)
    stopped = patience is not None and callback.done - callback.best_at >= patience
    if callback.done < epochs and not stopped:
        net.partial_fit(source, None, epochs=epochs - callback.done)
    elif callback.best_state is not None:
        net.module_.load_state_dict(callback.best_state)
    # the callback and the split hold the data, which copies and pickles do not need
    net.callbacks, net.train_split = None, None
    net.callbacks_ = [pair for pair in net.callbacks_ if pair[1] is not callback]
    return net, callback.rows
