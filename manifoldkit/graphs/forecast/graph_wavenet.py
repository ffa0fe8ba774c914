"""Graph WaveNet: dilated gated convolutions with diffusion over several supports."""

import torch
from torch import Tensor, nn

from manifoldkit.graphs.forecast.norm import NodeBatchNorm
from manifoldkit.graphs.forecast.stgcn import add_virtual_signal
from manifoldkit.graphs.forecast.temporal import ByteDropout, Propagate, TemporalConv
from manifoldkit.graphs.modules import redraw_parts
from manifoldkit.graphs.virtual.adjacency import SemiAdaptiveAdjacency
from manifoldkit.graphs.virtual.propagation import DensePropagation


class _Diffusion(nn.Module):
    """Linear map of x, P x, P^2 x, ... over several supports P."""

    def __init__(self, channels: int, out_channels: int, supports: int, order: int):
        super().__init__()
        self.order = order
        self.linear = nn.Linear((supports * order + 1) * channels, out_channels)

    def forward(self, x: Tensor, supports: list[Propagate]) -> Tensor:
        terms = [x]
        for propagate in supports:
            step = x
            for _ in range(self.order):
                step = propagate(step)
                terms.append(step)
        return self.linear(torch.cat(terms, -1))


class _Layer(nn.Module):
    """Dilated gated convolution, skip, diffusion, residual, normalization."""

    def __init__(
        self, c, skip, kernel, dilation, supports, order, nodes, dropout, last
    ):
        super().__init__()
        self.conv = TemporalConv(c, 2 * c, kernel, dilation)
        self.skip = nn.Linear(c, skip)
        # the last layer is read through its skip alone
        self.diffusion = None if last else _Diffusion(c, c, supports, order)
        self.norm = None if last else NodeBatchNorm(nodes[0], nodes[1], c)
        self.dropout = ByteDropout(dropout)
        self.num_real = nodes[0]

    def forward(self, x, supports):
        p, q = self.conv(x).chunk(2, -1)
        h = torch.tanh(p) * torch.sigmoid(q)
        skip = self.skip(h[:, -1, : self.num_real])  # only the last step is read
        if self.diffusion is None or self.norm is None:
            return h, skip
        h = self.dropout(self.diffusion(h, supports)) + x[:, -h.shape[1] :]
        return self.norm(h), skip


class GraphWaveNet(nn.Module):
    """Graph WaveNet with room for virtual nodes.

    Supports of the diffusion: the normalized adjacency, the transposed one, and
    ``softmax(relu(E1 E2'))`` over embeddings of its own. Virtual nodes enter as zeros
    and are normalized apart. NaN in the features of one node makes the forecasts of all
    NaN: replace missing readings first, by zero if the features are standardized, as
    :class:`TrafficForecaster` does.

    Parameters
    ----------
    adjacency : SemiAdaptiveAdjacency
        The graph, with or without virtual nodes.
    history, horizon : int
        Steps in and out. Histories shorter than the receptive field are padded.
    in_channels : int, default=3
        Value, time of day, day of week.
    blocks, layers : int, default=4, 2
        Each block has so many layers, dilated 1, 2, 4, ...
    channels, skip_channels, end_channels : int, default=32, 256, 512
    kernel : int, default=2
    order : int, default=2
        Steps of diffusion.
    adaptive_dim : int, default=10
        Size of the embeddings of the third support; 0 leaves it out (it is dense).
    dropout : float, default=0.3

    References
    ----------
    .. [1] Z. Wu, S. Pan, G. Long, J. Jiang, C. Zhang, "Graph WaveNet for deep
       spatial-temporal graph modeling", IJCAI 2019.

    Examples
    --------
    >>> adjacency = SemiAdaptiveAdjacency(torch.ones(5, 5), num_virtual=2)
    >>> model = GraphWaveNet(adjacency, 12, 4, channels=4, skip_channels=8,
    ...                      end_channels=8)
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
        blocks: int = 4,
        layers: int = 2,
        channels: int = 32,
        skip_channels: int = 256,
        end_channels: int = 512,
        kernel: int = 2,
        order: int = 2,
        adaptive_dim: int = 10,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.adjacency = adjacency
        dilations = [2**k for _ in range(blocks) for k in range(layers)]
        self.receptive_field = 1 + (kernel - 1) * sum(dilations)
        nodes = (adjacency.num_real, adjacency.num_virtual)
        supports = 2 + (adaptive_dim > 0)
        self.embed: nn.ParameterList | None = None
        if adaptive_dim > 0:
            self.embed = nn.ParameterList(
                torch.randn(adjacency.num_nodes, adaptive_dim) for _ in range(2)
            )
        self.start = nn.Linear(in_channels, channels)
        self.layers = nn.ModuleList(
            _Layer(
                channels,
                skip_channels,
                kernel,
                dilation,
                supports,
                order,
                nodes,
                dropout,
                last=k == len(dilations) - 1,
            )
            for k, dilation in enumerate(dilations)
        )
        self.hidden = nn.Linear(skip_channels, end_channels)
        self.head = nn.Linear(end_channels, horizon)

    def reset_parameters(self) -> None:
        """Draw all weights again, those of the adjacency too."""
        redraw_parts(self)
        for embedding in self.embed or ():
            nn.init.normal_(embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Map real nodes' features (B, history, N, C) to (B, horizon, N)."""
        supports = [self.adjacency.propagation(), self.adjacency.propagation(True)]
        if self.embed is not None:
            left, right = self.embed
            learned = torch.softmax(torch.relu(left @ right.mT), -1)
            supports.append(DensePropagation(learned))
        x = add_virtual_signal(x, self.adjacency.num_virtual)
        missing = max(self.receptive_field - x.shape[1], 0)
        if missing:
            x = nn.functional.pad(x, (0, 0, 0, 0, missing, 0))
        # older steps than the receptive field cannot reach the last one
        stale, x = x[:, : -self.receptive_field], x[:, -self.receptive_field :]
        x = self.start(x)
        total: Tensor | int = 0
        for layer in self.layers:
            x, skip = layer(x, supports)
            total = total + skip
        x = torch.relu(self.hidden(torch.relu(torch.as_tensor(total))))
        out = self.head(x).transpose(1, 2)
        if stale.shape[1]:  # NaN is an answer to NaN wherever it comes in
            real = stale[:, :, : out.shape[2]]
            out = out + (0 * real).sum((1, 3))[:, None]
        return out
