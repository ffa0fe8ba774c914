"""Virtual nodes kept outside the graph, at O(N) a layer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice
from manifoldkit.graphs.modules import redraw_parts
from manifoldkit.linalg.checks import check_floating


class VirtualNodeState(nn.Module):
    r"""One exchange between the nodes of each graph and its virtual state.

    .. math:: v_g \leftarrow v_g + \mathrm{MLP}\Big(v_g + \sum_{i \in g} h_i\Big),
        \qquad h_i \leftarrow h_i + v_{g(i)},

    in O(N), without any edge. A full connection of rank one: every pair of nodes of a
    graph is two exchanges apart.

    Parameters
    ----------
    channels : int
        Features.
    reduce : {"sum", "mean"}, default="sum"
        "mean" keeps the scale over graphs of different size.
    dropout : float, default=0.0
        Probability with which an output of the MLP is dropped.

    References
    ----------
    .. [1] J. Gilmer et al., "Neural message passing for quantum chemistry", ICML
       2017, section 5.2 (master node).

    Examples
    --------
    >>> layer = VirtualNodeState(4)
    >>> h, v = layer(torch.randn(5, 4), torch.zeros(2, 4),
    ...              torch.tensor([0, 0, 0, 1, 1]))
    >>> h.shape, v.shape
    (torch.Size([5, 4]), torch.Size([2, 4]))
    """

    def __init__(self, channels: int, reduce: str = "sum", dropout: float = 0.0):
        super().__init__()
        check_choice(reduce, ("sum", "mean"), "reduce")
        self.channels, self.reduce = channels, reduce
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.LayerNorm(2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
            nn.Dropout(dropout),
        )

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        redraw_parts(self)

    def forward(self, h: Tensor, v: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return new features and states.

        Parameters
        ----------
        h : Tensor, shape (N, channels)
            Features of the nodes.
        v : Tensor, shape (G, channels)
            States of the graphs.
        batch : Tensor of int64, shape (N,)
            Graph of each node.
        """
        check_floating(h, "h")
        check_floating(v, "v")
        total = torch.zeros_like(v).index_add(0, batch, h.to(v.dtype))
        if self.reduce == "mean":
            count = torch.zeros_like(v[:, :1]).index_add(
                0, batch, torch.ones_like(h[:, :1]).to(v.dtype)
            )
            total = total / count.clamp_min(1)
        v = v + self.mlp(v + total)
        return h + v[batch].to(h.dtype), v


class VirtualNodeMPNN(nn.Module):
    """Message-passing layers with a virtual state between them.

    Parameters
    ----------
    layers : iterable of Module
        PyG convolutions ``conv(x, edge_index, ...)`` that keep the number of channels.
    channels : int
        Features.
    reduce, dropout : str, float
        Settings of every :class:`VirtualNodeState`.

    Examples
    --------
    >>> from torch_geometric.nn import GCNConv
    >>> model = VirtualNodeMPNN([GCNConv(4, 4), GCNConv(4, 4)], channels=4)
    >>> model(torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        channels: int,
        reduce: str = "sum",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.exchanges = nn.ModuleList(
            VirtualNodeState(channels, reduce, dropout) for _ in self.layers[:-1]
        )
        self.start = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Draw all weights again, those of the layers too; states start at zero."""
        redraw_parts(self)
        nn.init.zeros_(self.start)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        *args: Any,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the features (N, channels) after all layers.

        Parameters
        ----------
        x : Tensor, shape (N, channels)
        edge_index : Tensor, shape (2, E)
        batch : Tensor of int64, shape (N,), optional
            Graph of each node; default one graph.
        batch_size : int, optional
            Number of graphs; default what ``batch`` says (which synchronizes on an
            accelerator).
        *args, **kwargs
            Further arguments of the layers.
        """
        if batch is None:
            batch, batch_size = edge_index.new_zeros(len(x)), 1
        if batch_size is None:
            batch_size = int(batch.max()) + 1 if len(batch) else 0
        v = self.start.to(x.dtype).expand(batch_size, -1)
        for k, layer in enumerate(self.layers):
            x = layer(x, edge_index, *args, **kwargs)
            if k < len(self.exchanges):
                x, v = self.exchanges[k](torch.relu(x), v, batch)
        return x
