"""Normalization that keeps real and virtual nodes apart."""

import torch
from torch import Tensor, nn


class NodeLayerNorm(nn.Module):
    """Layer normalization over nodes and channels, real and virtual nodes apart.

    Virtual nodes carry averages: in one normalization their number and scale would
    change the statistics of the sensors.

    Statistics over all nodes are a channel between all of them, whatever the graph: a
    virtual node that nobody asked for.

    Parameters
    ----------
    num_real, num_virtual, channels : int
        Sizes; features have shape (..., num_real + num_virtual, channels), or without
        the virtual nodes where a network has dropped them.
    """

    def __init__(self, num_real: int, num_virtual: int, channels: int):
        super().__init__()
        self.num_real = num_real
        self.real = nn.LayerNorm([num_real, channels])
        self.virtual = (
            nn.LayerNorm([num_virtual, channels]) if num_virtual > 0 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        if self.virtual is None or x.shape[-2] == self.num_real:
            return self.real(x)
        real, virtual = x[..., : self.num_real, :], x[..., self.num_real :, :]
        return torch.cat([self.real(real), self.virtual(virtual)], -2)


class NodeBatchNorm(nn.Module):
    """Batch normalization of channels, real and virtual nodes apart.

    Parameters
    ----------
    num_real, num_virtual, channels : int
        As for :class:`NodeLayerNorm`.
    """

    def __init__(self, num_real: int, num_virtual: int, channels: int):
        super().__init__()
        self.num_real = num_real
        self.real = nn.BatchNorm1d(channels)
        self.virtual = nn.BatchNorm1d(channels) if num_virtual > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        if self.virtual is None or x.shape[-2] == self.num_real:
            return _channels(self.real, x)
        real, virtual = x[..., : self.num_real, :], x[..., self.num_real :, :]
        return torch.cat(
            [_channels(self.real, real), _channels(self.virtual, virtual)], -2
        )


def _channels(norm: nn.Module, x: Tensor) -> Tensor:
    return norm(x.reshape(-1, x.shape[-1])).view(x.shape)
