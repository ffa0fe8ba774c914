"""Many graphs in a few flat arrays, and dense batches cut from them."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manifoldkit.graphs.matching.inputs import PlainGraph, as_graphs, check_simple


class GraphBatch(NamedTuple):
    """Some graphs, padded to the largest of them.

    Attributes
    ----------
    adjacency : Tensor, shape (B, n, n)
    x : Tensor, shape (B, n, d)
        Features of nodes, zero for padding.
    size : Tensor, shape (B,)
        Number of nodes of each graph.
    incidence : Tensor, shape (B, m, n)
        Edges by their two ends; m = 0 unless asked for.
    edge_attr : Tensor, shape (B, m, e)
    edge_sum : Tensor, shape (B, n, e)
        Sum of the features of the edges at a node.
    edge_count : Tensor, shape (B,)
    """

    adjacency: Tensor
    x: Tensor
    size: Tensor
    incidence: Tensor
    edge_attr: Tensor
    edge_sum: Tensor
    edge_count: Tensor


def no_graphs(like: GraphBatch) -> GraphBatch:
    """Return as many graphs as there are, without nodes."""
    matrix, count = like.adjacency[:, :0, :0], torch.zeros_like(like.size)
    x, attr, sums = (t[:, :0] for t in (like.x, like.edge_attr, like.edge_sum))
    return GraphBatch(matrix, x, count, matrix, attr, sums, count)


class PackedGraphs:
    """Graphs stored end to end, from which batches are cut by index.

    Parameters
    ----------
    graphs : iterable of graphs
        See :func:`~manifoldkit.graphs.matching.inputs.as_graph`.
    dtype, device : optional
        Type and place of the batches; default float32 on the CPU.
    name : str
        What messages call them.

    Attributes
    ----------
    num_nodes, num_edges : ndarray of int64, shape (n_graphs,)

    Examples
    --------
    >>> graphs = PackedGraphs([(3, [(0, 1), (1, 2)]), (2, [(0, 1)])])
    >>> graphs.batch([1, 0]).adjacency.sum((1, 2)).tolist()
    [2.0, 4.0]
    """

    def __init__(
        self,
        graphs: Iterable,
        *,
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
        name: str = "graphs",
    ):
        plain = as_graphs(graphs, name)
        for i, graph in enumerate(plain):
            if graph.details is not None:
                check_simple(graph, f"{name}[{i}]")
        _warn_of_labels(plain, name)
        self.num_nodes = np.array([g.num_nodes for g in plain], np.int64)
        self.num_edges = np.array([len(g.edges) for g in plain], np.int64)
        empty = np.zeros((0, 2), np.int64)
        edges = np.concatenate([empty, *(g.edges for g in plain)])
        self._size = torch.from_numpy(self.num_nodes).to(device)
        self._count = torch.from_numpy(self.num_edges).to(device)
        self._node_start = _starts(self.num_nodes).to(device)
        self._edge_start = _starts(self.num_edges).to(device)
        self._edges = torch.from_numpy(edges).to(device)
        options = {"dtype": dtype, "device": device}
        self._x = torch.tensor(_stack(plain, "x", name), **options)
        self._attr = torch.tensor(_stack(plain, "edge_attr", name), **options)

    def __len__(self) -> int:
        return len(self.num_nodes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the batches."""
        return self._x.dtype

    @property
    def node_dim(self) -> int:
        """Number of features of a node."""
        return self._x.shape[1]

    @property
    def edge_dim(self) -> int:
        """Number of features of an edge."""
        return self._attr.shape[1]

    def to(
        self, device: Any = None, dtype: torch.dtype | None = None
    ) -> "PackedGraphs":
        """Return a copy elsewhere or in another type; itself if nothing changes."""
        device = torch.device(device) if device is not None else self._x.device
        dtype = dtype or self._x.dtype
        if device == self._x.device and dtype == self._x.dtype:
            return self
        copy = object.__new__(PackedGraphs)
        for key, value in vars(self).items():
            moved = value.to(device) if isinstance(value, Tensor) else value
            setattr(copy, key, moved)
        copy._x, copy._attr = copy._x.to(dtype), copy._attr.to(dtype)
        return copy

    def edges(self, i: int) -> np.ndarray:
        """Return the edges of graph ``i``, shape (n_edges, 2)."""
        start = int(self._edge_start[i])
        return self._edges[start : start + int(self.num_edges[i])].cpu().numpy()

    def graph(self, i: int) -> PlainGraph:
        """Return graph ``i``, without features."""
        return PlainGraph(int(self.num_nodes[i]), self.edges(i))

    def batch(
        self, index: Sequence[int] | np.ndarray, edges: bool = False
    ) -> GraphBatch:
        """Return the graphs of ``index``, with incidence matrices if asked for."""
        chosen = np.asarray(index, np.int64)
        device = self._x.device
        at = torch.from_numpy(chosen).to(device)
        n = max(int(self.num_nodes[chosen].max(initial=0)), 1)
        m = int(self.num_edges[chosen].max(initial=0))
        size, count = self._size[at], self._count[at]
        x = gather_rows(self._x, self._node_start[at], size, n)
        attr = gather_rows(self._attr, self._edge_start[at], count, m)
        ends = gather_rows(self._edges, self._edge_start[at], count, m)
        ones = present(count, m).to(self.dtype)
        # edges that are not there write a zero at [0, 0], where there never is an edge
        adjacency = self._x.new_zeros(len(chosen), n * n)
        u, v = ends.unbind(-1)
        adjacency.scatter_(1, u * n + v, ones).scatter_(1, v * n + u, ones)
        edge_sum = self._x.new_zeros(len(chosen), n, self.edge_dim)
        for end in (u, v):
            edge_sum.scatter_add_(1, end[..., None].expand(attr.shape), attr)
        incidence = self._x.new_zeros(len(chosen), m if edges else 0, n)
        if edges:
            incidence.scatter_(2, ends, ones[..., None].expand(ends.shape))
        return GraphBatch(
            adjacency.view(-1, n, n), x, size, incidence, attr, edge_sum, count
        )


def _warn_of_labels(graphs: list[PlainGraph], name: str) -> None:
    """Say which labels the networks do not see."""
    unread = {
        str(key)
        for graph in graphs
        if graph.details is not None
        for key in (*graph.details.nodes, *graph.details.arc_labels)
    }
    if unread:
        warnings.warn(
            f"{name}: the networks read x and edge_attr if they are numbers, and "
            f"nothing of {sorted(unread)}; their scores compare the rest",
            UserWarning,
            stacklevel=3,
        )


def pack(
    graphs: Any, name: str, dtype: torch.dtype = torch.float32, device: Any = "cpu"
) -> PackedGraphs:
    """Return graphs as :class:`PackedGraphs` of a type, on a device."""
    if isinstance(graphs, PackedGraphs):
        return graphs.to(device, dtype)
    return PackedGraphs(graphs, dtype=dtype, device=device, name=name)


def _starts(counts: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], counts.cumsum()[:-1]])[: len(counts)])


def present(count: Tensor, length: int) -> Tensor:
    """Return which of ``length`` places are filled, (B, length), given how many are."""
    return torch.arange(length, device=count.device) < count[:, None]


def gather_rows(rows: Tensor, start: Tensor, count: Tensor, length: int) -> Tensor:
    """Cut ``count`` rows from every ``start``, padded with zeros to ``length``."""
    if not len(rows):
        return rows.new_zeros(len(start), length, rows.shape[1])
    there = present(count, length)
    offset = torch.arange(length, device=rows.device)
    place = torch.where(there, start[:, None] + offset, 0)
    return rows[place] * there[..., None].to(rows.dtype)


def _stack(graphs: list[PlainGraph], key: str, name: str) -> np.ndarray:
    """Join features; a graph without any has the single feature 1."""
    widths = {
        1 if getattr(g, key) is None else getattr(g, key).shape[1] for g in graphs
    } or {1}
    if len(widths) > 1:
        raise ValueError(
            f"{name}: expected {key} of one width in all graphs, found {sorted(widths)}"
        )
    length = {"x": lambda g: g.num_nodes, "edge_attr": lambda g: len(g.edges)}[key]
    parts = [
        np.ones((length(g), 1)) if getattr(g, key) is None else getattr(g, key)
        for g in graphs
    ]
    return np.concatenate([np.zeros((0, widths.pop())), *parts])
