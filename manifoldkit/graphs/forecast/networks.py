"""What :class:`~manifoldkit.graphs.TrafficForecaster` needs of skorch."""

import time
from functools import partial

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from manifoldkit.exceptions import MissingExtraError
from manifoldkit.graphs.forecast.graph_wavenet import GraphWaveNet
from manifoldkit.graphs.forecast.linear import SharedLinear
from manifoldkit.graphs.forecast.metrics import masked_mae
from manifoldkit.graphs.forecast.series import WindowLoader, Windows
from manifoldkit.graphs.forecast.stgcn import STGCN
from manifoldkit.graphs.virtual.adjacency import SemiAdaptiveAdjacency

RECIPES: dict[str, dict] = {  # of the published codes
    "stgcn": {"weight_decay": 5e-4, "clip": None},
    "gwnet": {"weight_decay": 1e-4, "clip": 5.0},
    "linear": {"weight_decay": 0.0, "clip": None},
}


def make_backbone(
    kind,
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


class Deadline:
    """Tells whether a time has passed since training began."""

    def __init__(self, seconds: float | None):
        self.seconds, self.end = seconds, float("inf")

    def start(self) -> None:
        """Begin to count."""
        if self.seconds is not None:
            self.end = time.monotonic() + self.seconds

    def __call__(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self.end


class StopInTime(BaseEstimator):
    """A callback of skorch that ends training after an epoch past the deadline.

    Not derived from skorch's class, so that this module imports without skorch and
    trained models pickle.
    """

    def __init__(self, deadline: Deadline):
        self.deadline = deadline

    def initialize(self) -> "StopInTime":
        """Nothing to set up."""
        return self

    def on_train_begin(self, net, **_) -> None:
        """Begin to count."""
        self.deadline.start()

    def on_epoch_end(self, net, **_) -> None:
        """End the training if it is time."""
        if self.deadline():
            raise KeyboardInterrupt  # skorch's word for it

    def _nothing(self, net, **_) -> None:
        """Let other events pass."""

    on_train_end = on_epoch_begin = on_batch_begin = on_batch_end = _nothing
    on_grad_computed = _nothing


def _silent(*_) -> None:
    """What skorch's callbacks print to."""


def make_trainer(
    module: nn.Module,
    *,
    scale: Tensor,
    held: Windows | None,
    patience: int,
    max_seconds: float | None,
    clip: float | None,
    decay_every: int,
    decay: float,
    verbose: int,
    **kw,
):
    """Return a skorch trainer.

    Raises
    ------
    MissingExtraError
        skorch is not installed.
    """
    try:
        from skorch import NeuralNet
        from skorch.callbacks import (
            EarlyStopping,
            GradientNormClipping,
            LRScheduler,
        )
        from skorch.helper import predefined_split
    except ImportError:
        raise MissingExtraError("TrafficForecaster", "skorch", "train") from None
    deadline = Deadline(max_seconds)

    callbacks: list = [
        ("decay", LRScheduler("StepLR", step_size=decay_every, gamma=decay))
    ]
    if clip is not None:
        callbacks.append(("clip", GradientNormClipping(clip)))
    if held is not None:
        stop = EarlyStopping(patience=patience, load_best=True, sink=_silent)
        callbacks.append(("early_stopping", stop))
    callbacks.append(("stop_in_time", StopInTime(deadline)))
    if not verbose:
        kw["callbacks__print_log"] = None
    return NeuralNet(
        module,
        MaskedMAE,
        criterion__scale=scale,
        iterator_train=partial(WindowLoader, stop=deadline),
        iterator_train__shuffle=True,
        iterator_valid=WindowLoader,
        train_split=None if held is None else predefined_split(held),
        callbacks=callbacks,
        verbose=verbose,
        **kw,
    )
