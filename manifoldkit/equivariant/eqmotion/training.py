"""Module and loss of :class:`~manifoldkit.equivariant.MotionForecaster`."""

import torch
from torch import Tensor, nn

from manifoldkit.equivariant.eqmotion.scaling import oversize
from manifoldkit.linalg.checks import known_any


class Forecast(nn.Module):
    """A network on tracks in which NaN means "not observed".

    Gives (forecast, category); the category is None for networks that infer none.

    Parameters
    ----------
    network : nn.Module
        Sees tracks divided by the unit; its forecast is multiplied by it.
    takes_mask : bool
        Whether it is EqMotion: told who is there, and shown scenes that are far larger
        than the unit smaller than they are.
    unit : float, optional
        Length; without one the network sees tracks as they are.
    """

    def __init__(self, network: nn.Module, takes_mask: bool, unit: float | None = None):
        super().__init__()
        self.network, self.takes_mask, self.unit = network, takes_mask, unit

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Forecast tracks (B, N, T, D)."""
        seen = x.isfinite().all(-1)
        size: Tensor | float | None = self.unit
        if size is not None:
            wide = x if x.device.type == "mps" else x.double()
            x = wide / size
            if self.takes_mask:
                more = oversize(x, seen)
                x, size = x / more, more * size
        if self.takes_mask:
            # a mask of ones where values cannot be read, as while exporting
            out = self.network(x, None if known_any(~seen) is False else seen)
        else:
            out = self.network(x.to(next(self.network.parameters()).dtype))
        pred = getattr(out, "pred", out)
        if size is not None:
            if isinstance(size, Tensor) and pred.ndim > size.ndim:
                size = size[..., None]
            pred = pred.to(x.dtype) * size
        return pred, getattr(out, "category", None)


class DisplacementLoss(nn.Module):
    """Mean distance to the truth over the steps that are known.

    With several modes the best one of each agent counts. ``ego`` counts the first
    agent only. The entropy of the categories, times ``entropy_weight``, is added.
    Distances at each step are multiplied by ``step_weights``, and counted in units of
    ``unit``.
    """

    step_weights: Tensor | None

    def __init__(
        self,
        n_modes: int = 1,
        ego: bool = False,
        entropy_weight: float = 0,
        step_weights: list[float] | None = None,
        unit: float | None = None,
    ):
        super().__init__()
        self.n_modes, self.ego, self.unit = n_modes, ego, unit
        self.entropy_weight = entropy_weight
        weights = None if step_weights is None else torch.tensor(step_weights)
        self.register_buffer("step_weights", weights)

    def forward(self, out: tuple[Tensor, Tensor | None], target: Tensor) -> Tensor:
        """Return the loss of one batch."""
        pred, category = out
        known = target.isfinite().all(-1)
        target = target.to(pred.dtype).where(known[..., None], 0.0)
        if self.ego:
            pred, target, known = pred[:, :1], target[:, :1], known[:, :1]
        if self.n_modes > 1:
            target, known = target[:, :, None], known[:, :, None]
        gap = (pred - target).where(known[..., None], 0.0)
        if self.unit is not None:
            gap = gap / self.unit
        error = torch.linalg.vector_norm(gap, dim=-1)
        if self.step_weights is not None:
            error = error * self.step_weights.to(error.dtype)
        if self.n_modes > 1:
            best = error.sum(-1).argmin(2, keepdim=True)
            error = error.gather(
                2, best[..., None].expand(*best.shape, error.shape[-1])
            )
        loss = error.sum() / known.sum().clamp_min(1)
        if self.entropy_weight and category is not None:
            entropy = torch.special.entr(category).sum(-1).mean()
            loss = loss + self.entropy_weight * entropy
        return loss
