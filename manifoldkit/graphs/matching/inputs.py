"""One form for the graphs a user may give: PyG ``Data``, networkx, or edge arrays."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from manifoldkit._checks import check_choice, check_count


class PlainGraph(NamedTuple):
    """An undirected graph without loops, every edge once.

    Attributes
    ----------
    num_nodes : int
        Nodes are 0 to ``num_nodes - 1``.
    edges : ndarray of int64, shape (n_edges, 2)
        In the order given.
    x : ndarray, shape (num_nodes, d), optional
        Features of nodes.
    edge_attr : ndarray, shape (n_edges, e), optional
        Features of edges.
    """

    num_nodes: int
    edges: np.ndarray
    x: np.ndarray | None = None
    edge_attr: np.ndarray | None = None


def as_graph(graph: Any, name: str = "graph") -> PlainGraph:
    """Return any accepted graph as a :class:`PlainGraph`.

    Parameters
    ----------
    graph : PyG Data, networkx Graph, pair (num_nodes, edges) or PlainGraph
        An undirected simple graph. PyG lists both directions of every edge; a pair
        may list one or both, and repeated edges count once. The features ``x`` and
        ``edge_attr`` of a PyG graph are kept.
    name : str
        What messages call it.

    Raises
    ------
    TypeError
        Not a graph.
    ValueError
        Directed edges, self loops, node numbers out of range, features of wrong length
        or not finite.

    Examples
    --------
    >>> as_graph((3, [(0, 1), (1, 2), (2, 1)])).edges.tolist()
    [[0, 1], [1, 2]]
    """
    if isinstance(graph, PlainGraph):
        return graph
    if hasattr(graph, "edge_index") and hasattr(graph, "num_nodes"):
        return _from_pyg(graph, name)
    if hasattr(graph, "is_directed") and hasattr(graph, "nodes"):
        return _from_networkx(graph, name)
    if isinstance(graph, tuple) and len(graph) == 2:
        return _checked(_count(graph[0], name), _edge_rows(graph[1], name), name)
    raise TypeError(
        f"{name}: expected a PyG Data, a networkx graph or a pair (num_nodes, edges), "
        f"found {type(graph).__name__}"
    )


def check_semantics(semantics: str) -> None:
    """Raise ``ValueError`` on an unknown meaning of "contains"."""
    check_choice(semantics, ("induced", "monomorphism"), "semantics")


def as_graphs(graphs: Iterable, name: str) -> list[PlainGraph]:
    """Return a list of graphs, naming the one that is not acceptable."""
    single = isinstance(graphs, PlainGraph) or hasattr(graphs, "num_nodes")
    if single or hasattr(graphs, "is_directed") or not isinstance(graphs, Iterable):
        raise TypeError(f"{name}: expected a list of graphs, found one {graphs!r}")
    return [as_graph(graph, f"{name}[{i}]") for i, graph in enumerate(graphs)]


def _count(value: Any, name: str) -> int:
    return check_count(value, f"{name}: number of nodes", 0)


def _edge_rows(edges: Any, name: str) -> np.ndarray:
    rows = np.asarray(edges.cpu() if hasattr(edges, "cpu") else edges)
    if rows.size == 0:
        return np.zeros((0, 2), np.int64)
    if rows.ndim == 2 and rows.shape[0] == 2 and rows.shape[1] != 2:
        raise ValueError(
            f"{name}: expected edges as rows (n_edges, 2), found {rows.shape}; "
            "transpose an edge_index"
        )
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected integer edges of shape (n_edges, 2), found "
            f"{rows.dtype} of shape {rows.shape}"
        )
    return rows.astype(np.int64)


def _checked(
    num_nodes: int,
    edges: np.ndarray,
    name: str,
    x: np.ndarray | None = None,
    attr: np.ndarray | None = None,
) -> PlainGraph:
    if len(edges):
        if edges.min() < 0 or edges.max() >= num_nodes:
            raise ValueError(
                f"{name}: edges name nodes {edges.min()} to {edges.max()}, but there "
                f"are nodes 0 to {num_nodes - 1}"
            )
        if (edges[:, 0] == edges[:, 1]).any():
            loop = int(edges[edges[:, 0] == edges[:, 1]][0, 0])
            raise ValueError(f"{name}: self loop at node {loop}; remove self loops")
        key = edges.min(1) * num_nodes + edges.max(1)
        _, place, again = np.unique(key, return_index=True, return_inverse=True)
        _refuse_unequal(edges, attr, place[again.reshape(-1)], name)
        first = np.sort(place)
        edges = edges[first]
        attr = None if attr is None else attr[first]
    for label, values, length in (("x", x, num_nodes), ("edge_attr", attr, len(edges))):
        if values is not None and len(values) != length:
            raise ValueError(
                f"{name}: expected {label} with {length} rows, found {len(values)}"
            )
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name}: {label} is not finite")
    return PlainGraph(num_nodes, edges, x, attr)


def _refuse_unequal(
    edges: np.ndarray, attr: np.ndarray | None, first: np.ndarray, name: str
) -> None:
    """An undirected edge has one feature, in whichever direction it is listed."""
    if attr is None or len(attr) != len(edges):
        return
    other = np.flatnonzero((attr != attr[first]).any(1) & np.isfinite(attr).all(1))
    if len(other):
        u, v = edges[other[0]].tolist()
        raise ValueError(
            f"{name}: edge_attr differs between listings of the edge ({u}, {v}); "
            "subgraph matching is for undirected graphs"
        )


def _from_pyg(graph: Any, name: str) -> PlainGraph:
    count = _count(graph.num_nodes, name)
    index = graph.edge_index
    edges = _edge_rows(index.T if index is not None else (), name)
    attr = _features(graph, "edge_attr")
    _refuse_one_way(edges, count, name)
    if attr is not None and len(attr) != len(edges):
        raise ValueError(
            f"{name}: expected edge_attr with {len(edges)} rows, found {len(attr)}"
        )
    return _checked(count, edges, name, _features(graph, "x"), attr)


def _refuse_one_way(edges: np.ndarray, count: int, name: str) -> None:
    forward = np.unique(edges[:, 0] * count + edges[:, 1])
    backward = np.unique(edges[:, 1] * count + edges[:, 0])
    if not np.array_equal(forward, backward):
        raise ValueError(
            f"{name}: directed edges; subgraph matching is for undirected graphs, "
            "whose edge_index holds both directions (see PyG's to_undirected)"
        )


def _features(graph: Any, key: str) -> np.ndarray | None:
    values = getattr(graph, key, None)
    if values is None:
        return None
    values = np.asarray(values.detach().cpu(), dtype=float)
    return values[:, None] if values.ndim == 1 else values


def _from_networkx(graph: Any, name: str) -> PlainGraph:
    if graph.is_directed():
        raise ValueError(
            f"{name}: directed graph; subgraph matching is for undirected graphs"
        )
    place = {node: i for i, node in enumerate(graph.nodes)}
    edges = [(place[u], place[v]) for u, v in graph.edges()]
    return _checked(len(place), _edge_rows(edges, name), name)
