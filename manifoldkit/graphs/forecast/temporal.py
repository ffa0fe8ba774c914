"""Convolutions over time of features (batch, time, nodes, channels)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit._checks import check_interval

#: Multiplies the features of the nodes by a graph.
Propagate = Callable[[Tensor], Tensor]


class TemporalConv(nn.Module):
    """Convolution over time, shared by the nodes, without padding.

    Channels stay last, as the graph products and normalizations want them: the
    features are an image in "channels last" order, so nothing is copied.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel, dilation : int
        Taps, and steps between them.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1
    ):
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv2d(
            in_channels, out_channels, (kernel, 1), dilation=(dilation, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, n, C) to (B, T - (kernel - 1) dilation, n, out_channels)."""
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


class Align(nn.Module):
    """Bring features to a number of channels: project down, pad with zeros, or keep."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.pad = max(out_channels - in_channels, 0)
        self.linear = (
            nn.Linear(in_channels, out_channels) if in_channels > out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_channels) to (..., out_channels)."""
        if self.linear is not None:
            return self.linear(x)
        return F.pad(x, (0, self.pad)) if self.pad else x


class TemporalGate(nn.Module):
    """Gated temporal convolution with a residual: (p + align(x)) sigmoid(q)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.conv = TemporalConv(in_channels, 2 * out_channels, kernel)
        self.align = Align(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, n, C) to (B, T - kernel + 1, n, out_channels)."""
        p, q = self.conv(x).chunk(2, -1)
        return (p + self.align(x)[:, self.conv.kernel - 1 :]) * torch.sigmoid(q)


class ByteDropout(nn.Module):
    """Dropout whose mask takes one random byte an entry (p in steps of 1/256).

    With floats the benchmark row "STGCN, 207 sensors" takes up to 25 % longer.

    Parameters
    ----------
    p : float
        Probability of zero.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = check_interval(p, "dropout", 0, 1, "[)")
        self.kept = round(256 * (1 - p))

    def forward(self, x: Tensor) -> Tensor:
        """Drop, and scale what stays."""
        if not self.training or self.kept == 256:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        bytes_ = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()]
        return x * ((bytes_.view(x.shape) < self.kept).to(x.dtype) * (256 / self.kept))

    def extra_repr(self) -> str:
        """Probability."""
        return f"p={self.p}"
