"""Frame averaging of torch-geometric graphs: one frame a graph, copies in one batch."""

from typing import Any

import torch
from torch import Tensor

from manifoldkit.equivariant._clouds import sorted_batch
from manifoldkit.equivariant.frames.calls import Arguments
from manifoldkit.equivariant.frames.types import Frame, into_frame


def average_graphs(wrapper, data: Any, extra: dict) -> Any:
    """Average the backbone of a :class:`FrameAveraging` over copies of the graphs.

    Parameters
    ----------
    wrapper : FrameAveraging
        Its ``in_types`` name attributes of the data.
    data : torch_geometric.data.Data or Batch
        Graphs; ``batch`` tells which nodes belong together.
    extra : dict
        Keyword arguments of the backbone.

    Returns
    -------
    Tensor or tuple of Tensor
        What the backbone returns, averaged.

    Raises
    ------
    ValueError
        An attribute that the graphs lack, types that are not told apart, or nodes
        that are not sorted by graph.
    """
    types = wrapper.in_types
    if not isinstance(types, dict):
        names = types if isinstance(types, (tuple, list)) else (types,)
        if len(names) > 2:
            raise ValueError(f"in_types: name the attributes in a dict, found {names}")
        types = dict(zip(("pos", "x"), names, strict=False))
    missing = [k for k in types if getattr(data, k, None) is None]
    if missing:
        raise ValueError(f"in_types: the graph has no attribute {missing}")
    nodes = data.num_nodes
    batch = getattr(data, "batch", None)
    if batch is None:
        batch = torch.zeros(
            nodes, dtype=torch.long, device=data[next(iter(types))].device
        )
    sorted_batch(batch, nodes)
    graphs = getattr(data, "num_graphs", None)
    if graphs is None:  # a plain Data, with or without a batch vector
        graphs = int(batch[-1]) + 1 if nodes else 1
    frame = _frames(wrapper, data, types, batch, graphs)
    kinds = Arguments((dict.fromkeys(types),), types).types

    def run(part: Frame):
        return wrapper.backbone(_copies(data, kinds, batch, graphs, part), **extra)

    def rows(o: Any, part: Frame) -> Frame:
        count = part.R.shape[1]
        if isinstance(o, Tensor) and o.ndim and len(o) == nodes * count:
            return part.rows(batch)
        return part

    return _Reordered(wrapper, nodes, graphs).average(run, frame, rows)


class _Reordered:
    """Copies are stored frame by frame; averages want the frames second."""

    def __init__(self, wrapper, nodes: int, graphs: int):
        self.wrapper, self.nodes, self.graphs = wrapper, nodes, graphs

    def average(self, run, frame: Frame, rows):
        def turned(part: Frame):
            count = part.R.shape[1]
            return _map(run(part), lambda o: self._frames_second(o, count))

        return self.wrapper.average(turned, frame, rows).result()

    def _frames_second(self, o: Any, count: int) -> Any:
        if not isinstance(o, Tensor) or not o.ndim or len(o) % count:
            return o
        items = len(o) // count
        if items not in (self.nodes, self.graphs):
            return o
        return o.reshape(count, items, *o.shape[1:]).transpose(0, 1).flatten(0, 1)


def _map(output: Any, change) -> Any:
    if isinstance(output, dict):
        return {k: change(v) for k, v in output.items()}
    if hasattr(output, "_make"):
        return output._make(map(change, output))
    if isinstance(output, (tuple, list)):
        return type(output)(map(change, output))
    return change(output)


def _frames(wrapper, data, types: dict, batch: Tensor, graphs: int) -> Frame:
    """Return one frame a graph, from its nodes as a masked cloud."""
    from torch_geometric.utils import to_dense_batch

    dense, mask = {}, None
    for k in types:
        value = data[k]
        if isinstance(value, Tensor) and len(value) == len(batch):
            dense[k], mask = to_dense_batch(value, batch, batch_size=graphs)
        else:
            dense[k] = value
    if mask is None:
        raise ValueError(f"in_types: expected an attribute of the nodes, found {types}")
    return wrapper.frames_of(Arguments((dense,), types), mask)


def _copies(data, kinds: dict, batch: Tensor, graphs: int, frame: Frame):
    """Return the graphs once for every frame, as one batch."""
    count, nodes = frame.R.shape[1], len(batch)
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
            offset = torch.arange(count, device=v.device).repeat_interleave(v.shape[-1])
            copy[k] = v.repeat(*[1] * (v.ndim - 1), count) + offset * nodes
        elif v.ndim and (
            data.is_node_attr(k) or data.is_edge_attr(k) or len(v) == graphs
        ):
            copy[k] = v.repeat(count, *[1] * (v.ndim - 1))
        else:
            copy[k] = v
    shift = torch.arange(count, device=batch.device).repeat_interleave(nodes)
    copy.batch = batch.repeat(count) + shift * graphs
    copy.num_nodes = nodes * count
    return copy


def _plain(data):
    """Return an empty Data: copies are not the list that a Batch remembers."""
    from torch_geometric.data import Data

    return Data()
