"""Graphs that torch-geometric has batched: agents of all graphs in one axis."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from manifoldkit.equivariant.eqmotion.inputs import check_edges
from manifoldkit.linalg.checks import known_any


def forward_graphs(
    model: nn.Module,
    x: ArrayLike,
    mask: ArrayLike | None,
    category: Tensor | None,
    edge_index: ArrayLike | None,
    batch: ArrayLike,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Agents of several graphs in one axis: pad them, run, and undo it."""
    x = torch.as_tensor(x)
    batch = _check_batch(torch.as_tensor(batch, device=x.device), x)
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
        mask = torch.as_tensor(mask, device=x.device)
        if mask.shape not in (x.shape[:1], x.shape[:2]):
            raise ValueError(
                f"mask: expected shape (N,) or (N, T) for x of shape "
                f"{tuple(x.shape)}, found {tuple(mask.shape)}"
            )
        mask = mask if mask.ndim == 2 else mask[:, None].expand(x.shape[:2])
        steps = valid[..., None].repeat(1, 1, x.shape[1])
        steps[batch, place] = mask
        valid = steps
    if edge_index is not None:
        edge_index = torch.as_tensor(edge_index, device=x.device)
        if edge_index.ndim != 2 or len(edge_index) != 2:
            raise ValueError(
                "edge_index: with batch= expected shape (2, E), which numbers all "
                f"agents, found {tuple(edge_index.shape)}"
            )
        sender, receiver = check_edges(edge_index, 1, len(x), x.device)[1:]
        if known_any(batch[sender] != batch[receiver]):
            raise ValueError("edge_index: an edge joins two graphs of the batch")
        edge_index = torch.stack([batch[sender], place[sender], place[receiver]])
    out = model(padded, valid, category, edge_index)
    pred, h, vectors = (a[batch, place] for a in (out.pred, out.h, out.G))
    return pred, out.category, h, vectors


def _check_batch(batch: Tensor, x: Tensor) -> Tensor:
    """Return the graph of each agent as int64, or raise ``ValueError``."""
    if x.ndim != 3 or batch.shape != x.shape[:1]:
        raise ValueError(
            "batch: expected one graph number an agent for x of shape (N, T, D), "
            f"found shapes {tuple(batch.shape)} and {tuple(x.shape)}"
        )
    whole = not batch.is_floating_point() and batch.dtype != torch.bool
    if not whole or (len(batch) and int(batch.min()) < 0):
        raise ValueError(
            f"batch: expected integers from 0 on, found {batch.dtype}"
            + (f" from {int(batch.min())} on" if whole else "")
        )
    return batch.long()


def _places(batch: Tensor, count: Tensor) -> Tensor:
    """Position of each agent within its graph, in the order given."""
    order = batch.argsort(stable=True)
    start = torch.cumsum(count, 0) - count
    rank = torch.arange(len(batch), device=batch.device) - start[batch[order]]
    return torch.empty_like(rank).scatter_(0, order, rank)
