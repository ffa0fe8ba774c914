"""What the layers on sampled groups share: places, window, kept kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit._checks import check_choice, check_counts
from manifoldkit.lie.nn.kernels import (
    WINDOWS,
    KernelFactory,
    kernel_grid,
    kernel_network,
    window_values,
)
from manifoldkit.lie.nn.sampled_group import GroupSamples


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class GroupLayer(nn.Module):
    """Base of the convolutions and the projection; subclasses give ``kernel_at``."""

    kernel_at: Callable[..., Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int,
        stride: int,
        window: str,
        bias: bool,
    ):
        super().__init__()
        check_counts(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding, self.stride = kernel_size, padding, stride
        self.window = check_choice(window, WINDOWS, "window")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.kept: tuple | None = None

    def _plane_network(
        self, kernel: str | KernelFactory, hidden: int, n_hidden: int, w0: float
    ) -> nn.Module:
        """Network of kernels ``k_oc(x)`` that know of pixels only."""
        pairs = self.out_channels * self.in_channels
        fan_in = self.in_channels * self.kernel_size**2
        return kernel_network(kernel, 2, pairs, fan_in, hidden, n_hidden, w0)

    def _local(self, samples: GroupSamples) -> tuple[Tensor, Tensor]:
        """Pixels seen from every sample, and the window there."""
        g = samples.g
        grid = kernel_grid(self.kernel_size, dtype=g.dtype, device=g.device)
        local = samples.local(grid)
        return local, window_values(local, self.window)

    def _kernels(self, *samples: GroupSamples) -> Any:
        """Kernels at the samples; in evaluation they are computed once and kept."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self.kept = None
            return self.evaluate(*samples)
        sources = [s.g for s in samples] + [s.weight for s in samples]
        sources += self.parameters()
        if self.kept is not None:
            before, kernels = self.kept
            if len(before) == len(sources) and all(map(_same, before, sources)):
                return kernels
        kernels = self.evaluate(*samples)
        # values, not versions: an update through ``.data`` (an average of weights)
        # leaves the version as it was, and tensors of inference mode have none
        self.kept = [x.detach().clone() for x in sources], kernels
        return kernels

    def evaluate(self, *samples: GroupSamples) -> Any:
        """Compute the kernels in the dtype and on the device of the layer."""
        # kernels are small and enter everything: full precision under autocast
        own = next(self.parameters(), samples[0].g)
        with torch.autocast(own.device.type, enabled=False):
            return self.kernel_at(*(s.to(own.dtype, own.device) for s in samples))

    def _conv(self, x: Tensor, kernel: Tensor, groups: int = 1) -> Tensor:
        return F.conv2d(
            x, kernel, stride=self.stride, padding=self.padding, groups=groups
        )

    def _as_features(self, x: Tensor, n: int) -> Tensor:
        """Split ``(B, C N, H, W)`` into ``(B, C, N, H, W)`` and add the bias."""
        return self._biased(x.unflatten(1, (self.out_channels, n)))

    def _biased(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x
        return x + self.bias.to(x.dtype).view(-1, *[1] * (x.ndim - 2))

    def __getstate__(self):
        state = self.__dict__.copy()
        state["kept"] = None
        return state

    def extra_repr(self) -> str:
        """Return channels and form."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, window={self.window!r}"
        )
