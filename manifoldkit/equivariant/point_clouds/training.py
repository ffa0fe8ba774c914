"""Data, module and loss of the point-cloud estimators."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit.equivariant.parot.classifier import PaRotBase
from manifoldkit.equivariant.risurconv.surface_graph import (
    SurfaceGraph,
)
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
            scores, losses = self.network.scores_and_losses(x, **known)
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
