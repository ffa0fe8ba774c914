"""One form for the graphs a user may give: PyG ``Data``, networkx, or edge arrays."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from manifoldkit._checks import check_choice, check_count
from manifoldkit.exceptions import InvalidValueError
from manifoldkit.graphs.matching.labels import as_features, as_label, is_label

Labels = dict[Hashable, list]


class Details(NamedTuple):
    """What a graph has beyond links between nodes and numeric features.

    Attributes
    ----------
    directed : bool or None
        None where both directions of every edge are listed alike, as PyG lists an
        undirected graph: it is that, or a directed one.
    arcs : ndarray of int64, shape (n_arcs, 2)
        The edges with their directions, loops and parallels; of an undirected graph
        every edge once.
    nodes, arc_labels : dict of str to list
        Labels of the nodes, and of the arcs; None where one has none.
    either : frozenset of str
        Those that are listed as both: of a PyG graph with as many nodes as edges it
        does not show what an attribute belongs to.
    """

    directed: bool | None
    arcs: np.ndarray
    nodes: Labels
    arc_labels: Labels
    either: frozenset = frozenset()


class PlainGraph(NamedTuple):
    """A graph by numbers: which nodes are linked, and what they and the edges carry.

    Attributes
    ----------
    num_nodes : int
        Nodes are 0 to ``num_nodes - 1``.
    edges : ndarray of int64, shape (n_edges, 2)
        Linked pairs of different nodes, in whatever direction, every pair once, in the
        order given.
    x : ndarray, shape (num_nodes, d), optional
        Features of nodes.
    edge_attr : ndarray, shape (n_edges, e), optional
        Features of edges of an undirected simple graph.
    details : Details, optional
        What is not said by these: directions, loops, parallel edges, labels.
    """

    num_nodes: int
    edges: np.ndarray
    x: np.ndarray | None = None
    edge_attr: np.ndarray | None = None
    details: Details | None = None

    @property
    def directed(self) -> bool | None:
        """Whether edges have a direction; None if that is open."""
        return False if self.details is None else self.details.directed

    @property
    def arcs(self) -> np.ndarray:
        """Edges with their directions, loops and parallels."""
        return self.edges if self.details is None else self.details.arcs

    @property
    def node_names(self) -> set[Hashable] | None:
        """Names of the nodes' attributes; None without nodes."""
        if self.num_nodes == 0:
            return None
        named = set() if self.details is None else set(self.details.nodes)
        return named if self.x is None else named | {"x"}

    @property
    def edge_names(self) -> set[Hashable] | None:
        """Names of the edges' attributes; None without edges."""
        if len(self.arcs) == 0:
            return None
        named = set() if self.details is None else set(self.details.arc_labels)
        return named if self.edge_attr is None else named | {"edge_attr"}


def as_graph(
    graph: Any, name: str = "graph", directed: bool | None = None
) -> PlainGraph:
    """Return any accepted graph as a :class:`PlainGraph`.

    Parameters
    ----------
    graph : PyG Data, networkx graph, pair (num_nodes, edges) or PlainGraph
        PyG lists both directions of every edge, unless the graph is directed; a pair
        may list one or both. Edges that are listed again count once; parallel edges are
        those of networkx multigraphs. Attributes of nodes and edges are kept.
    name : str
        What messages call it.
    directed : bool, optional
        Read edges as directed, or insist that they are not; by default as the graph
        says, and pairs are undirected.

    Raises
    ------
    TypeError
        Not a graph; labels that cannot be hashed.
    ValueError
        Node numbers out of range; features of wrong length or not finite; directions
        against what ``directed`` says.

    Examples
    --------
    >>> as_graph((3, [(0, 1), (1, 2), (2, 1)])).edges.tolist()
    [[0, 1], [1, 2]]
    """
    if isinstance(graph, PlainGraph):
        return graph
    if hasattr(graph, "edge_index") and hasattr(graph, "num_nodes"):
        return _from_pyg(graph, name, directed)
    if hasattr(graph, "is_directed") and hasattr(graph, "nodes"):
        return _from_networkx(graph, name, directed)
    if isinstance(graph, tuple) and len(graph) == 2:
        rows = _edge_rows(graph[1], name)
        return _build(_count(graph[0], name), rows, name, bool(directed))
    raise TypeError(
        f"{name}: expected a PyG Data, a networkx graph or a pair (num_nodes, edges), "
        f"found {type(graph).__name__}"
    )


def check_semantics(semantics: str) -> None:
    """Raise ``ValueError`` on an unknown meaning of "contains"."""
    check_choice(semantics, ("induced", "monomorphism"), "semantics")


def check_simple(graph: PlainGraph, name: str) -> None:
    """Raise ``ValueError`` on what the networks do not see: directions, loops, ..."""
    if graph.directed:
        raise ValueError(
            f"{name}: directed edges; the networks are for undirected graphs (see "
            "PyG's to_undirected), directed ones are for exact search (model=None)"
        )
    arcs = graph.arcs
    loops = arcs[arcs[:, 0] == arcs[:, 1]]
    if len(loops):
        raise ValueError(
            f"{name}: self loop at node {loops[0, 0]}; remove self loops for the "
            "networks, exact search (model=None) compares them"
        )
    if len(arcs) != len(graph.edges):
        raise ValueError(
            f"{name}: parallel edges; the networks are for simple graphs, exact search "
            "(model=None) compares them"
        )


def as_graphs(
    graphs: Iterable, name: str, directed: bool | None = None
) -> list[PlainGraph]:
    """Return a list of graphs, naming the one that is not acceptable."""
    single = isinstance(graphs, PlainGraph) or hasattr(graphs, "num_nodes")
    if single or hasattr(graphs, "is_directed") or not isinstance(graphs, Iterable):
        raise TypeError(f"{name}: expected a list of graphs, found one {graphs!r}")
    return [as_graph(graph, f"{name}[{i}]", directed) for i, graph in enumerate(graphs)]


def _count(value: Any, name: str) -> int:
    return check_count(value, f"{name}: number of nodes", 0)


def _edge_rows(edges: Any, name: str) -> np.ndarray:
    try:
        rows = np.asarray(edges.cpu() if hasattr(edges, "cpu") else edges)
    except ValueError:
        raise ValueError(
            f"{name}: expected integer edges of shape (n_edges, 2), found rows of "
            "different lengths"
        ) from None
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


def _build(
    num_nodes: int,
    arcs: np.ndarray,
    name: str,
    directed: bool | None,
    *,
    x: np.ndarray | None = None,
    attr: np.ndarray | None = None,
    nodes: Labels | None = None,
    arc_labels: Labels | None = None,
    parallel: bool = False,
    either: frozenset = frozenset(),
) -> PlainGraph:
    """Check and join the parts; ``parallel``: an edge listed again is a further one."""
    nodes, arc_labels = nodes or {}, arc_labels or {}
    if len(arcs) and (arcs.min() < 0 or arcs.max() >= num_nodes):
        raise ValueError(
            f"{name}: edges name nodes {arcs.min()} to {arcs.max()}, but there "
            f"are nodes 0 to {num_nodes - 1}"
        )
    for label, values, length in (("x", x, num_nodes), ("edge_attr", attr, len(arcs))):
        if values is not None and len(values) != length:
            raise ValueError(
                f"{name}: expected {label} with {length} rows, found {len(values)}"
            )
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name}: {label} is not finite")
    pair = arcs.min(1) * num_nodes + arcs.max(1)
    if len(arcs) and not parallel:
        key = arcs[:, 0] * num_nodes + arcs[:, 1] if directed else pair
        _, place, again = np.unique(key, return_index=True, return_inverse=True)
        if len(place) < len(arcs):
            _refuse_unequal(arcs, attr, arc_labels, place[again.reshape(-1)], name)
        kept = np.sort(place)
        arcs, pair = arcs[kept], pair[kept]
        attr = None if attr is None else attr[kept]
        arc_labels = {k: [v[i] for i in kept] for k, v in arc_labels.items()}
    edges = arcs
    if directed or parallel or (arcs[:, 0] == arcs[:, 1]).any():
        _, place = np.unique(pair, return_index=True)
        edges = arcs[np.sort(place)]
        edges = edges[edges[:, 0] != edges[:, 1]]
    simple = not directed and len(edges) == len(arcs)
    if attr is not None and not simple:
        arc_labels, attr = {"edge_attr": _label_list(attr, name)} | arc_labels, None
    details = None
    if directed is not False or not simple or nodes or arc_labels:
        listed = edges if simple else arcs
        details = Details(directed, listed, nodes, arc_labels, either)
    return PlainGraph(num_nodes, edges, x, attr, details)


def _label_list(values: Any, name: str) -> list:
    rows = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return [as_label(row, name) for row in rows]


def _refuse_unequal(
    arcs: np.ndarray,
    attr: np.ndarray | None,
    arc_labels: Labels,
    first: np.ndarray,
    name: str,
) -> None:
    """An edge that is listed twice has one feature."""
    odd: list[tuple[Hashable, int]] = []
    if attr is not None and len(attr) == len(arcs):
        differs = (attr != attr[first]).any(1)
        odd += [("edge_attr", int(i)) for i in np.flatnonzero(differs)[:1]]
    for key, values in arc_labels.items():
        pairs = zip(values, first.tolist(), strict=True)
        odd += [(key, i) for i, (v, at) in enumerate(pairs) if v != values[at]][:1]
    if odd:
        key, at = odd[0]
        u, v = arcs[at].tolist()
        raise ValueError(
            f"{name}: {key} differs between listings of the edge ({u}, {v}); an "
            "undirected edge has one, and directed=True reads both directions"
        )


def _from_pyg(graph: Any, name: str, directed: bool | None) -> PlainGraph:
    count = _count(graph.num_nodes, name)
    index = graph.edge_index
    arcs = _edge_rows(index.T if index is not None else (), name)
    one_way = _is_one_way(arcs, count)
    if one_way and directed is False:
        raise ValueError(
            f"{name}: directed edges, expected undirected ones, whose edge_index holds "
            "both directions (see PyG's to_undirected)"
        )
    nodes = _pyg_labels(graph, "node_attrs", ("x",), count, name)
    links = _pyg_labels(graph, "edge_attrs", ("edge_index",), len(arcs), name)
    either: frozenset = frozenset()
    if count == len(arcs):
        either = frozenset(key for key in nodes if "edge" not in str(key))
        links |= {key: nodes[key] for key in either}
    attr = _features(graph, "edge_attr", name, links)
    x = _features(graph, "x", name, nodes)
    for label, values, size in (("x", x, count), ("edge_attr", attr, len(arcs))):
        if values is not None and len(values) != size:
            raise ValueError(
                f"{name}: expected {label} with {size} rows, found {len(values)}"
            )
    kind = True if directed or one_way else directed
    if either and not kind:
        # what differs between the two listings of an edge is not of edges
        either = frozenset(key for key in either if _agrees(arcs, links[key], count))
        links = {k: v for k, v in links.items() if k not in nodes or k in either}
    return _build(
        count,
        arcs,
        name,
        kind,
        x=x,
        attr=attr,
        nodes=nodes,
        arc_labels=links,
        either=either,
    )


def _agrees(arcs: np.ndarray, values: list, count: int) -> bool:
    """Whether edges that are listed twice have equal values."""
    first: dict[int, Any] = {}
    keys = (arcs.min(1) * count + arcs.max(1)).tolist()
    pairs = zip(keys, values, strict=True)
    return all(first.setdefault(key, value) == value for key, value in pairs)


def _is_one_way(arcs: np.ndarray, count: int) -> bool:
    forward = np.unique(arcs[:, 0] * count + arcs[:, 1])
    backward = np.unique(arcs[:, 1] * count + arcs[:, 0])
    return not np.array_equal(forward, backward)


def _pyg_labels(
    graph: Any, which: str, others: Sequence[str], length: int, name: str
) -> Labels:
    """Return the further attributes of nodes or edges that PyG knows as such."""
    known: Callable[[], list[str]] = getattr(graph, which, list)
    found: Labels = {}
    for key in known():
        if key not in (*others, "edge_attr") and is_label(key):
            values = _label_list(graph[key], f"{name}: {key}")
            if len(values) == length:
                found[key] = values
    return found


def _features(
    graph: Any, key: str, name: str, labels: Labels | None = None
) -> np.ndarray | None:
    """Return ``x`` or ``edge_attr`` as rows of numbers; labels go to the others."""
    values = getattr(graph, key, None)
    if values is None:
        return None
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    values = np.asarray(values) if not isinstance(values, list | tuple) else values
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        values = values.astype(float)
        if values.ndim == 0 or values.ndim > 2:
            raise ValueError(
                f"{name}: expected {key} with a row for each, found an array of shape "
                f"{values.shape}"
            )
        return values[:, None] if values.ndim == 1 else values
    if isinstance(values, np.ndarray) and values.dtype.kind == "c":
        raise TypeError(f"{name}: expected real numbers in {key}, found complex ones")
    found = [as_label(value, f"{name}: {key}") for value in values]
    numbers = as_features(found)
    if numbers is None and labels is not None:
        labels[key] = found
    return numbers


def _from_networkx(graph: Any, name: str, directed: bool | None) -> PlainGraph:
    if graph.is_directed() and directed is False:
        raise ValueError(f"{name}: directed graph, expected undirected edges")
    if directed and not graph.is_directed():
        graph = graph.to_directed()
    place = {node: i for i, node in enumerate(graph.nodes)}
    rows = list(graph.edges(data=True))
    arcs = _edge_rows([(place[u], place[v]) for u, v, _ in rows], name)
    nodes = _columns([data for _, data in graph.nodes(data=True)], name)
    links = _columns([data for *_, data in rows], name)
    return _build(
        len(place),
        arcs,
        name,
        graph.is_directed(),
        x=_numbers(nodes, "x"),
        attr=_numbers(links, "edge_attr"),
        nodes=nodes,
        arc_labels=links,
        parallel=graph.is_multigraph(),
    )


def _columns(rows: list[dict], name: str) -> Labels:
    """Return attributes by name; None where a node or an edge lacks one."""
    names = dict.fromkeys(key for row in rows for key in row)
    return {
        key: [as_label(row.get(key), f"{name}: {key}") for row in rows] for key in names
    }


def _numbers(labels: Labels, key: str) -> np.ndarray | None:
    """Take features out of the labels, if there are such."""
    numbers = as_features(labels.get(key, []))
    if numbers is not None:
        del labels[key]
    return numbers


def check_attributes(graph: PlainGraph, name: str) -> None:
    """Raise ``ValueError`` unless the names of attributes are strings."""
    for key in (graph.node_names or set()) | (graph.edge_names or set()):
        if not isinstance(key, str):
            raise InvalidValueError(
                f"{name}: expected names of attributes that are strings, found {key!r}"
            )
