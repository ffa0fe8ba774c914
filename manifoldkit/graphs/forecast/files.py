"""The graph of a forecaster as tensors, and back."""

from typing import Any

import torch
from torch import Tensor


def graph_tensors(graph: Tensor) -> dict[str, Tensor]:
    """Return the edges of a dense or sparse graph, and their weights."""
    coo = graph.to_sparse_coo().coalesce()
    return {"graph.index": coo.indices(), "graph.weight": coo.values()}


def stored_graph(tensors: dict[str, Tensor], n: int, sparse: bool) -> Tensor:
    """Return the graph of ``n`` sensors, sparse if it was given so."""
    index, weight = tensors["graph.index"], tensors["graph.weight"]
    graph = torch.sparse_coo_tensor(index, weight, (n, n), check_invariants=True)
    return graph if sparse else graph.to_dense()


def as_tuples(value: Any) -> Any:
    """Make tuples of lists: JSON knows lists only, the parameters were tuples."""
    if isinstance(value, dict):
        return {k: as_tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value
