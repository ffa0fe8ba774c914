"""Loss, optimizer and batches of :class:`~manifoldkit.spd.SPDNetClassifier`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from manifoldkit.optim import build_optimizer


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with a weight a sample; targets are rows (class code, weight)."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted mean over the batch; zero for a batch without weight."""
        codes, weights = targets[:, 0].long(), targets[:, 1]
        losses = nn.functional.cross_entropy(logits, codes, reduction="none")
        total = weights.sum()
        return (weights * losses).sum() / torch.where(total > 0, total, 1.0)


def make_optimizer(groups, *, name: str, **options) -> torch.optim.Optimizer:
    """Return the optimizer for skorch's parameter groups.

    Points of the SPD cone (bias and metric of a batch norm) get no weight decay: it
    would draw them towards the identity.
    """
    params = [p for group in groups for p in group["params"]]
    optimizer = build_optimizer(params, name, **options)
    for group in optimizer.param_groups:
        if group.get("name") == "manifold":
            group["weight_decay"] = 0.0
    return optimizer


#: Matrices of a domain in a batch, about: enough for statistics.
_PER_DOMAIN = 8


def check_pairs(codes: np.ndarray, labels: np.ndarray) -> None:
    """Raise for a domain with a single sample, which has no dispersion."""
    single = np.flatnonzero(np.bincount(codes, minlength=len(labels)) == 1)
    if len(single):
        raise ValueError(
            "domains: expected at least two samples of each to train with, found one "
            f"of {labels.tolist()[single[0]]!r}"
        )


class DomainBatches(Sampler[list[int]]):
    """Batches of several matrices of each domain that is in them.

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Numbers of the domains, at least two of each.
    batch_size : int
        Matrices a batch, about.

    Examples
    --------
    >>> batches = list(DomainBatches(np.array([0] * 5 + [1] * 4), 4))
    >>> sorted(i for batch in batches for i in batch)
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """

    def __init__(self, codes: np.ndarray, batch_size: int):
        self.groups = [np.flatnonzero(codes == d) for d in np.unique(codes)]
        share = max(1, batch_size // _PER_DOMAIN)
        self.pieces = min(len(self.groups), share)
        self.size = max(2, batch_size // self.pieces)
        parts = sum(max(1, len(g) // self.size) for g in self.groups)
        self.length = -(-parts // self.pieces)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        parts: list[Tensor] = []
        for group in self.groups:
            shuffled = torch.from_numpy(group)[torch.randperm(len(group))]
            parts += shuffled.tensor_split(max(1, len(group) // self.size))
        order = torch.randperm(len(parts)).tolist()
        for start in range(0, len(parts), self.pieces):
            chosen = [parts[k] for k in order[start : start + self.pieces]]
            yield torch.cat(chosen).tolist()


def domain_loader(
    dataset: Any, batch_size: int, codes: np.ndarray, **options: Any
) -> DataLoader:
    """Return the loader of skorch's training batches; the options are shuffling."""
    return DataLoader(dataset, batch_sampler=DomainBatches(codes, batch_size))
