"""STGCN: gated temporal convolutions around a graph convolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count
from manifoldkit.graphs.forecast.norm import NodeLayerNorm
from manifoldkit.graphs.forecast.temporal import (
    Align,
    ByteDropout,
    Propagate,
    TemporalGate,
)
from manifoldkit.graphs.modules import redraw_parts
from manifoldkit.graphs.virtual.adjacency import SemiAdaptiveAdjacency
from manifoldkit.graphs.virtual.laplacian import ScaledLaplacian


class ChebyshevConv(nn.Module):
    r"""Graph convolution over the supports I, P, 2 P^2 - I, ...

    With a learned, directed adjacency the scaled Laplacian of the original is not
    defined; P, the normalized adjacency, takes its place. Order 2 is the first-order
    form [I, P].

    Parameters
    ----------
    in_channels, out_channels : int
    order : int, default=3
        Number of supports.
    """

    def __init__(self, in_channels: int, out_channels: int, order: int = 3):
        super().__init__()
        self.order = check_count(order, "order")
        self.linear = nn.Linear(order * in_channels, out_channels)

    def forward(self, x: Tensor, propagate: Propagate) -> Tensor:
        """Map (..., n, C) to (..., n, out_channels)."""
        terms = [x]
        if self.order > 1:
            terms.append(propagate(x))
        for _ in range(2, self.order):
            terms.append(2 * propagate(terms[-1]) - terms[-2])
        return self.linear(torch.cat(terms, -1))


class _Block(nn.Module):
    """Temporal gate, graph convolution, temporal gate, normalization, dropout."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        kernel: int,
        order: int,
        nodes: tuple[int, int],
        dropout: float,
        norm: str,
    ):
        super().__init__()
        c0, c1, c2 = channels
        self.first = TemporalGate(in_channels, c0, kernel)
        self.align = Align(c0, c1)
        self.graph = ChebyshevConv(c1, c1, order)
        self.second = TemporalGate(c1, c2, kernel)
        self.norm = _norm(norm, nodes[0], nodes[1], c2)
        self.dropout = ByteDropout(dropout)

    def forward(self, x: Tensor, propagate: Propagate, keep: int) -> Tensor:
        x = self.align(self.first(x))
        x = torch.relu(self.graph(x, propagate) + x)
        # nothing reads the virtual nodes after the last graph convolution
        x = self.second(x[..., :keep, :])
        return self.dropout(self.norm(x))


class STGCN(nn.Module):
    r"""Spatio-temporal graph convolutional network with room for virtual nodes.

    Two blocks (temporal gate, graph convolution, temporal gate, normalization) and an
    output block. Virtual nodes enter as zeros and are normalized apart. NaN in the
    features of one node makes the forecasts of all NaN: replace missing readings first,
    by zero if the features are standardized, as :class:`TrafficForecaster` does.

    Parameters
    ----------
    adjacency : SemiAdaptiveAdjacency
        The graph, with or without virtual nodes.
    history, horizon : int
        Steps in and out; ``history`` at least ``4 (kernel - 1) + 1``.
    in_channels : int, default=3
        Value, time of day, day of week.
    channels : tuple of three int, default=(64, 16, 64)
        Widths of a block's first gate, graph convolution and second gate.
    out_channels : int, default=128
        Width of the output block.
    kernel : int, default=3
        Taps of the temporal convolutions.
    order : int, default=3
        Number of supports of the graph convolution (2: first order).
    dropout : float, default=0.5
    laplacian : bool, default=False
        Let P be the scaled Laplacian :math:`2 L / \lambda_{\max} - I` of the
        undirected roads, as published, in place of the normalized adjacency. For graphs
        without virtual nodes only.
    norm : {"graph", "node"}, default="graph"
        Layer normalization over nodes and channels, as published, or over the channels
        of each node. The former lets every node feel every other through the
        statistics; with the latter only the graph connects them.

    References
    ----------
    .. [1] B. Yu, H. Yin, Z. Zhu, "Spatio-temporal graph convolutional networks", IJCAI
       2018.

    Examples
    --------
    >>> adjacency = SemiAdaptiveAdjacency(torch.ones(5, 5), num_virtual=2)
    >>> model = STGCN(adjacency, history=12, horizon=4, channels=(8, 4, 8))
    >>> model(torch.randn(2, 12, 5, 3)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(
        self,
        adjacency: SemiAdaptiveAdjacency,
        history: int,
        horizon: int,
        *,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 16, 64),
        out_channels: int = 128,
        kernel: int = 3,
        order: int = 3,
        dropout: float = 0.5,
        laplacian: bool = False,
        norm: str = "graph",
    ):
        super().__init__()
        last = history - 4 * (kernel - 1)
        if last < 1:
            raise ValueError(
                f"history: STGCN with kernel {kernel} needs at least "
                f"{4 * (kernel - 1) + 1} steps, found {history}"
            )
        if len(channels) != 3:
            raise ValueError(f"channels: expected three numbers, found {channels}")
        self.adjacency = adjacency
        self.laplacian = ScaledLaplacian(adjacency) if laplacian else None
        real, virtual = adjacency.num_real, adjacency.num_virtual
        c2 = channels[2]
        nodes = (real, virtual)
        same = (channels, kernel, order)
        self.block1 = _Block(in_channels, *same, nodes, dropout, norm)
        self.block2 = _Block(c2, *same, (real, 0), dropout, norm)
        self.gate = TemporalGate(c2, out_channels, last)
        self.norm = _norm(norm, real, 0, out_channels)
        self.hidden = nn.Linear(out_channels, out_channels)
        self.dropout = ByteDropout(dropout)
        self.head = nn.Linear(out_channels, horizon)

    def reset_parameters(self) -> None:
        """Draw all weights again, those of the adjacency too."""
        redraw_parts(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map real nodes' features (B, history, N, C) to (B, horizon, N)."""
        propagate: Propagate = (
            self.adjacency.propagation() if self.laplacian is None else self.laplacian
        )
        x = add_virtual_signal(x, self.adjacency.num_virtual)
        x = self.block1(x, propagate, x.shape[-2])
        x = self.block2(x, propagate, self.adjacency.num_real)
        x = self.norm(self.gate(x))
        x = self.dropout(torch.relu(self.hidden(x)))
        return self.head(x)[:, 0].transpose(1, 2)


def _norm(kind: str, real: int, virtual: int, channels: int) -> nn.Module:
    check_choice(kind, ("graph", "node"), "norm")
    if kind == "node":
        return nn.LayerNorm(channels)
    return NodeLayerNorm(real, virtual, channels)


def add_virtual_signal(x: Tensor, num_virtual: int) -> Tensor:
    """Append virtual nodes with a zero signal to features (B, T, N, C).

    >>> add_virtual_signal(torch.ones(1, 2, 3, 1), 4).shape
    torch.Size([1, 2, 7, 1])
    """
    return nn.functional.pad(x, (0, 0, 0, num_virtual)) if num_virtual else x
