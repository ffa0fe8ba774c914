"""Graphs that torch-geometric has batched: agents of all graphs in one axis."""

import torch
from torch import Tensor


def forward_graphs(model, x, mask, category, edge_index, batch: Tensor) -> tuple:
    """Agents of several graphs in one axis: pad them, run, and undo it."""
    x = torch.as_tensor(x)
    if x.ndim != 3 or batch.shape != x.shape[:1]:
        raise ValueError(
            "batch: expected one graph number an agent for x of shape (N, T, D), "
            f"found shapes {tuple(batch.shape)} and "
            f"{tuple(x.shape)}"
        )
    if category is not None and (category.ndim != 2 or edge_index is None):
        raise ValueError("category: with batch= expected shape (E, K) and a graph")
    count = torch.bincount(batch)
    place = _places(batch, count)
    b, n = len(count), int(count.max()) if len(count) else 0
    padded = x.new_zeros(b, n, *x.shape[1:])
    padded = padded.index_put((batch, place), x)
    valid = torch.zeros(b, n, dtype=torch.bool, device=x.device)
    valid[batch, place] = True
    if mask is not None:
        mask = mask if mask.ndim == 2 else mask[:, None].expand(x.shape[:2])
        steps = valid[..., None].repeat(1, 1, x.shape[1])
        steps[batch, place] = mask
        valid = steps
    if edge_index is not None:
        edge_index = torch.as_tensor(edge_index, device=x.device)
        sender, receiver = edge_index
        if bool((batch[sender] != batch[receiver]).any()):
            raise ValueError("edge_index: an edge joins two graphs of the batch")
        edge_index = torch.stack([batch[sender], place[sender], place[receiver]])
    out = model(padded, valid, category, edge_index)
    pred, h, vectors = (a[batch, place] for a in (out.pred, out.h, out.G))
    return pred, out.category, h, vectors


def _places(batch: Tensor, count: Tensor) -> Tensor:
    """Position of each agent within its graph, in the order given."""
    order = batch.argsort(stable=True)
    start = torch.cumsum(count, 0) - count
    rank = torch.arange(len(batch), device=batch.device) - start[batch[order]]
    return torch.empty_like(rank).scatter_(0, order, rank)
