"""Normalization that keeps real and virtual nodes apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Apart(nn.Module):
    """Two normalizations, of the real and of the virtual nodes."""

    def __init__(self, num_real: int, real: nn.Module, virtual: nn.Module | None):
        super().__init__()
        self.num_real, self.real, self.virtual = num_real, real, virtual

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        if self.virtual is None or x.shape[-2] == self.num_real:
            return self.normalize(self.real, x)
        real, virtual = x[..., : self.num_real, :], x[..., self.num_real :, :]
        parts = [self.normalize(self.real, real), self.normalize(self.virtual, virtual)]
        return torch.cat(parts, -2)

    @staticmethod
    def normalize(norm: nn.Module, x: Tensor) -> Tensor:
        """Apply one of the two."""
        return norm(x)


class NodeLayerNorm(_Apart):
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
        virtual = nn.LayerNorm([num_virtual, channels]) if num_virtual > 0 else None
        super().__init__(num_real, nn.LayerNorm([num_real, channels]), virtual)


class NodeBatchNorm(_Apart):
    """Batch normalization of channels, real and virtual nodes apart.

    Parameters
    ----------
    num_real, num_virtual, channels : int
        Sizes, with the meaning that :class:`NodeLayerNorm` gives them.
    """

    def __init__(self, num_real: int, num_virtual: int, channels: int):
        virtual = nn.BatchNorm1d(channels) if num_virtual > 0 else None
        super().__init__(num_real, nn.BatchNorm1d(channels), virtual)

    @staticmethod
    def normalize(norm: nn.Module, x: Tensor) -> Tensor:
        """Take all nodes and steps as one batch."""
        flat = x.reshape(-1, x.shape[-1])
        if not isinstance(norm, nn.BatchNorm1d) or not norm.training:
            return norm(flat).view(x.shape)
        held, spread = norm.running_mean, norm.running_var
        seen = norm.num_batches_tracked
        if held is None or spread is None or seen is None or norm.momentum is None:
            return norm(flat).view(x.shape)
        mean, var = held.clone(), spread.clone()
        out = F.batch_norm(
            flat, mean, var, norm.weight, norm.bias, True, norm.momentum, norm.eps
        )
        with torch.no_grad():  # a batch with NaN must not stay for good
            seen.add_(1)
            for old, new in ((held, mean), (spread, var)):
                old.copy_(torch.where(torch.isfinite(new), new, old))
        return out.view(x.shape)
