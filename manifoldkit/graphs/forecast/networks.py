"""What :class:`~manifoldkit.graphs.TrafficForecaster` needs of skorch."""

from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit.graphs.forecast.graph_wavenet import GraphWaveNet
from manifoldkit.graphs.forecast.linear import SharedLinear
from manifoldkit.graphs.forecast.metrics import masked_mae
from manifoldkit.graphs.forecast.stgcn import STGCN
from manifoldkit.graphs.virtual.adjacency import SemiAdaptiveAdjacency

RECIPES: dict[str, dict] = {  # of the published codes
    "stgcn": {"weight_decay": 5e-4, "clip": None},
    "gwnet": {"weight_decay": 1e-4, "clip": 5.0},
    "linear": {"weight_decay": 0.0, "clip": None},
}


def recipe_of(
    kind: Any, weight_decay: float | None, clip: float | None
) -> tuple[float, float | None]:
    """Return weight decay and clipping: what is given, else the published ones."""
    recipe = RECIPES.get(kind, {}) if isinstance(kind, str) else {}
    decay = recipe.get("weight_decay", 0.0) if weight_decay is None else weight_decay
    return decay, recipe.get("clip") if clip is None else clip


def make_backbone(
    kind: Any,
    adjacency: SemiAdaptiveAdjacency,
    sizes: tuple[int, int],
    options: dict,
) -> nn.Module:
    """Return a backbone by name, or what a callable makes, for (history, horizon)."""
    if kind == "linear":
        return SharedLinear(*sizes, **options)
    if kind == "stgcn":
        return STGCN(adjacency, *sizes, **options)
    if kind == "gwnet":
        if adjacency.is_sparse:  # its own support is dense
            options = {"adaptive_dim": 0} | options
        return GraphWaveNet(adjacency, *sizes, **options)
    return kind(adjacency, *sizes, **options)


class ForecastNetwork(nn.Module):
    """A backbone on standardized readings, with an optional linear highway.

    Parameters
    ----------
    backbone : Module
        Maps features (B, history, N, 3) to (B, horizon, N).
    highway : Tensor, shape (history + 1, horizon), optional
        A ridge map whose forecast is added; the backbone then starts at zero.
    """

    highway: Tensor | None

    def __init__(self, backbone: nn.Module, highway: Tensor | None = None):
        super().__init__()
        self.backbone = backbone
        self.register_buffer("highway", highway)
        head = getattr(backbone, "head", None)
        if highway is not None and isinstance(head, nn.Linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, z: Tensor, day: Tensor, week: Tensor) -> Tensor:
        """Map readings (B, history, N) and clocks (B, history) to (B, horizon, N)."""
        clock = torch.stack([day, week], -1)[:, :, None]
        clock = clock.expand(*z.shape, 2)
        out = self.backbone(torch.cat([z[..., None], clock], -1))
        if self.highway is not None:
            linear = torch.einsum("bhn,hk->bkn", z, self.highway[:-1])
            out = out + linear + self.highway[-1][:, None]
        return out


class MaskedMAE(nn.Module):
    """Mean absolute error in the readings' unit; NaN targets do not count."""

    scale: Tensor

    def __init__(self, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, forecast: Tensor, target: Tensor) -> Tensor:
        """Return the loss of one batch."""
        return masked_mae(forecast, target, self.scale)
