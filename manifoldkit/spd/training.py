"""Loss and optimizer of :class:`~manifoldkit.spd.SPDNetClassifier`."""

import torch
from torch import Tensor, nn

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
