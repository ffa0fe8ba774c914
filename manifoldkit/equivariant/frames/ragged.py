"""Graphs of torch-geometric as frame averaging needs them: clouds, and copies."""

from typing import Any

import torch
from torch import Tensor

from manifoldkit.equivariant._clouds import sorted_batch
from manifoldkit.equivariant.frames.calls import Arguments, repack, unpack
from manifoldkit.equivariant.frames.types import Frame, into_frame


class GraphCopies:
    """Graphs as masked clouds, which define the frames, and as copies, one a frame.

    Parameters
    ----------
    data : torch_geometric.data.Data or Batch
        Graphs; ``batch`` tells which nodes belong together.
    types : dict, tuple or type
        Types of attributes of the data, as ``in_types`` of :class:`FrameAveraging`;
        without names, those of ``pos`` and ``x``.

    Attributes
    ----------
    arguments : Arguments
        The typed attributes, those of nodes as (graphs, most nodes, ...).
    mask : Tensor of bool, shape (graphs, most nodes)
        Where there is a node.

    Raises
    ------
    ValueError
        An attribute that the graphs lack, types that are not told apart, or nodes
        that are not sorted by graph.
    """

    def __init__(self, data: Any, types: Any):
        from torch_geometric.utils import to_dense_batch

        if not isinstance(types, dict):
            names = types if isinstance(types, (tuple, list)) else (types,)
            if len(names) > 2:
                raise ValueError(
                    f"in_types: name the attributes in a dict, found {names}"
                )
            types = dict(zip(("pos", "x"), names, strict=False))
        missing = [k for k in types if getattr(data, k, None) is None]
        if missing:
            raise ValueError(f"in_types: the graph has no attribute {missing}")
        self.data, self.nodes = data, data.num_nodes
        batch = getattr(data, "batch", None)
        if batch is None:
            batch = torch.zeros(
                self.nodes, dtype=torch.long, device=data[next(iter(types))].device
            )
        self.batch = sorted_batch(batch, self.nodes)
        graphs = getattr(data, "num_graphs", None)
        if graphs is None:  # a plain Data, with or without a batch vector
            graphs = int(batch[-1]) + 1 if self.nodes else 1
        self.graphs = graphs
        dense, mask = {}, None
        for k in types:
            dense[k] = value = data[k]
            if isinstance(value, Tensor) and len(value) == self.nodes:
                dense[k], mask = to_dense_batch(value, batch, batch_size=graphs)
        if mask is None:
            raise ValueError(
                f"in_types: expected an attribute of the nodes, found {types}"
            )
        self.arguments, self.mask = Arguments((dense,), types), mask

    def copies(self, frame: Frame) -> Any:
        """Return the graphs once for every frame, as one batch."""
        data, batch, kinds = self.data, self.batch, self.arguments.types
        count, nodes = frame.R.shape[1], self.nodes
        per_node = frame.rows(batch)
        copy = data.__class__() if not hasattr(data, "_slice_dict") else _plain(data)
        for k, v in data.to_dict().items():
            if k in ("batch", "ptr"):
                continue
            if not isinstance(v, Tensor):
                copy[k] = v
            elif k in kinds:
                own = per_node if len(v) == nodes else frame
                copy[k] = into_frame(v, kinds[k], own).transpose(0, 1).flatten(0, 1)
            elif "index" in k or k == "face":
                offset = nodes * torch.arange(count, device=v.device)
                offset = offset.repeat_interleave(v.shape[-1])
                copy[k] = v.repeat(*[1] * (v.ndim - 1), count) + offset
            elif v.ndim and (
                data.is_node_attr(k) or data.is_edge_attr(k) or len(v) == self.graphs
            ):
                copy[k] = v.repeat(count, *[1] * (v.ndim - 1))
            else:
                copy[k] = v
        shift = torch.arange(count, device=batch.device).repeat_interleave(nodes)
        copy.batch = batch.repeat(count) + shift * self.graphs
        copy.num_nodes = nodes * count
        return copy

    def by_item(self, output: Any, frame: Frame) -> Any:
        """Order outputs of copies by node or graph, as averages want, not by frame."""
        count = frame.R.shape[1]

        def turned(o: Any) -> Any:
            if not isinstance(o, Tensor) or not o.ndim or len(o) % count:
                return o
            if len(o) // count not in (self.nodes, self.graphs):
                return o
            return (
                o.unflatten(0, (count, len(o) // count)).transpose(0, 1).flatten(0, 1)
            )

        named = unpack(output)
        if named is None:
            return turned(output)
        return repack(output, {k: turned(o) for k, o in named.items()})

    def rows(self, o: Any, frame: Frame) -> Frame:
        """Return the frames of the items of an output: those of nodes, or of graphs."""
        of_nodes = isinstance(o, Tensor) and o.ndim
        if of_nodes and len(o) == self.nodes * frame.R.shape[1]:
            return frame.rows(self.batch)
        return frame


def _plain(data):
    """Return an empty Data: copies are not the list that a Batch remembers."""
    from torch_geometric.data import Data

    return Data()
