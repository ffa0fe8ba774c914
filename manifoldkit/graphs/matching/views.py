"""What of a graph is compared: labels of nodes, and of the edges between two nodes."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from manifoldkit.graphs.matching.inputs import PlainGraph
from manifoldkit.graphs.matching.labels import compared_names, label_rows

#: A multiset: labels with how often each is there. One edge without labels: {((), 1)}.
Bag = frozenset
#: What links two nodes: the edges from the first to the second, and those back.
Relation = tuple[Bag, Bag]
_NONE: Bag = frozenset()


class Terms(NamedTuple):
    """What two graphs are compared by.

    Attributes
    ----------
    directed : bool
        Whether edges have a direction.
    nodes, edges : tuple of str
        Attributes whose values must be equal.
    """

    directed: bool
    nodes: tuple[Hashable, ...] = ()
    edges: tuple[Hashable, ...] = ()


class Traits(NamedTuple):
    """What kinds of things a graph carries; equal for most graphs of a corpus.

    Attributes
    ----------
    directed : bool or None
    nodes, edges : frozenset of str, or None where there are no nodes (no edges)
    either : frozenset of str
        Those that may be of nodes or of edges.
    """

    directed: bool | None
    nodes: frozenset | None
    edges: frozenset | None
    either: frozenset = frozenset()


def traits_of(graph: PlainGraph) -> Traits:
    """Return what a graph carries."""
    nodes, edges = graph.node_names, graph.edge_names
    return Traits(
        graph.directed,
        None if nodes is None else frozenset(nodes),
        None if edges is None else frozenset(edges),
        frozenset() if graph.details is None else graph.details.either,
    )


def agree(
    query: Traits,
    graphs: Iterable[tuple[Traits, str]],
    node_attr: tuple | None,
    edge_attr: tuple | None,
) -> Terms:
    """Return how a query is compared with graphs.

    Parameters
    ----------
    query : Traits
    graphs : iterable of (Traits, str)
        What the graphs carry, and what messages call them.
    node_attr, edge_attr : tuple of str, optional
        What the user chose.

    Raises
    ------
    ValueError
        One has directed edges and the other undirected ones; an attribute would be
        ignored because one side lacks it; an attribute may be of nodes or of edges.
    """
    graphs = list(graphs)
    of_nodes, of_edges = _sides(query, [g for g, _ in graphs], node_attr, edge_attr)
    nodes = None if query.nodes is None else query.nodes - of_edges
    edges = None if query.edges is None else query.edges - of_nodes
    directed = query.directed is True
    terms = Terms(
        directed,
        compared_names(node_attr, nodes, None, "node"),
        compared_names(edge_attr, edges, None, "edge"),
    )
    for graph, name in graphs:
        if {query.directed, graph.directed} == {True, False}:
            which = ("the query", name) if query.directed else (name, "the query")
            raise ValueError(
                f"{which[0]} has directed edges, {which[1]} undirected ones; make both "
                "directed (networkx's to_directed, or directed=True) or both undirected"
            )
        directed = directed or graph.directed is True
        compared_names(terms.nodes, None, graph.nodes, "node", name)
        compared_names(terms.edges, None, graph.edges, "edge", name)
    return terms._replace(directed=directed)


def _sides(
    query: Traits,
    graphs: list[Traits],
    node_attr: tuple | None,
    edge_attr: tuple | None,
) -> tuple[set, set]:
    """Tell apart by the user's choice, or by the graphs, what may be of both."""
    of_nodes, of_edges = set(node_attr or ()), set(edge_attr or ())
    of_nodes &= query.either
    of_edges &= query.either
    for name in query.either - of_nodes - of_edges:
        nodes = any(name in (g.nodes or ()) and name not in g.either for g in graphs)
        edges = any(name in (g.edges or ()) and name not in g.either for g in graphs)
        if nodes is edges is False and node_attr is None and edge_attr is None:
            raise ValueError(
                f"the query has as many nodes as edges, so {name!r} may be of either; "
                "name it in node_attr= or edge_attr=, or compare none with ()"
            )
        (of_edges if edges else of_nodes).add(name)
    return of_nodes, of_edges


def covers(have: Bag, need: Bag, induced: bool) -> bool:
    """Whether edges may stand for others: as many of each label, or at least."""
    if induced or have == need:
        return have == need
    counts = dict(have)
    return all(counts.get(label, 0) >= count for label, count in need)


class View:
    """A graph as it is compared under some terms.

    Parameters
    ----------
    graph : PlainGraph
    terms : Terms
    """

    def __init__(self, graph: PlainGraph, terms: Terms):
        self.graph, self.terms = graph, terms

    @cached_property
    def values(self) -> list[Hashable] | None:
        """What is compared of each node, beside its loops; None if nothing is."""
        if not self.terms.nodes or not self.graph.num_nodes:
            return None
        columns = [self._column(name, nodes=True) for name in self.terms.nodes]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    @cached_property
    def edge_values(self) -> list[Hashable]:
        """What is compared of each edge."""
        columns = [self._column(name, nodes=False) for name in self.terms.edges]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    @cached_property
    def places(self) -> dict[Hashable, list[int]]:
        """Nodes by what is compared of them."""
        found = defaultdict(list)
        for i, value in enumerate(self.values or [None] * self.graph.num_nodes):
            found[value].append(i)
        return dict(found)

    @cached_property
    def loops(self) -> dict[int, Bag]:
        """Loops at the nodes that have any."""
        arcs = self.graph.arcs
        if self.graph.details is None or not (arcs[:, 0] == arcs[:, 1]).any():
            return {}
        return {u: bag for (u, v), bag in self._bags.items() if u == v}

    @cached_property
    def uniform(self) -> bool:
        """Whether nothing tells two links apart but their directions."""
        if len(self.graph.edges) == 0:
            return True
        if self.terms.edges:
            return bool(self.one_link)
        if self.graph.details is None:
            return True
        arcs = self.graph.arcs
        arcs = arcs[arcs[:, 0] != arcs[:, 1]]
        if not self.terms.directed:
            return len(arcs) == len(self.graph.edges)
        return len(np.unique(arcs, axis=0)) == len(arcs)

    @cached_property
    def one_link(self) -> Bag:
        """Return what all links are alike, a single edge each; empty if not so."""
        if not self.terms.edges or not len(self.graph.edges):
            return frozenset({((), 1)})
        bags = {bag for (u, v), bag in self._bags.items() if u != v}
        bag = bags.pop() if len(bags) == 1 else _NONE
        return bag if [count for _, count in bag] == [1] else _NONE

    @cached_property
    def links(self) -> np.ndarray:
        """The links as rows, every directed one in its direction."""
        if not self.terms.directed:
            return self.graph.edges
        rows = np.array([pair for pair in self._bags if pair[0] != pair[1]], np.int64)
        return rows.reshape(-1, 2)

    @cached_property
    def relations(self) -> list[dict[int, Relation]]:
        """What links each node to its neighbors."""
        found: list[dict[int, Relation]] = [{} for _ in range(self.graph.num_nodes)]
        bags = self._bags
        for u, v in self.graph.edges.tolist():
            there, back = bags.get((u, v), _NONE), bags.get((v, u), _NONE)
            found[u][v], found[v][u] = (there, back), (back, there)
        return found

    @cached_property
    def neighbors(self) -> list[int]:
        """The neighbors of each node as bits."""
        masks = [0] * self.graph.num_nodes
        for u, v in self.graph.edges.tolist():
            masks[u] |= 1 << v
            masks[v] |= 1 << u
        return masks

    @cached_property
    def by_relation(self) -> dict[Relation, list[int]]:
        """For every relation: of each node, those that it so relates to, as bits."""
        size = self.graph.num_nodes
        found: dict[Relation, list[int]] = {}
        for u, row in enumerate(self.relations):
            for v, relation in row.items():
                if relation not in found:
                    found[relation] = [0] * size
                found[relation][u] |= 1 << v
        return found

    @cached_property
    def _bags(self) -> dict[tuple[int, int], Bag]:
        """The edges from one node to another; both ways if they have no direction."""
        graph, arcs = self.graph, self.graph.arcs.tolist()
        names = self.terms.edges if arcs else ()
        columns = [self._column(name, nodes=False) for name in names]
        labels = list(zip(*columns, strict=True)) if columns else [()] * len(arcs)
        counted: dict[tuple[int, int], Counter] = defaultdict(Counter)
        both = not self.terms.directed or not graph.directed
        for (u, v), label in zip(arcs, labels, strict=True):
            counted[u, v][label] += 1
            if both and u != v:
                counted[v, u][label] += 1
        return {pair: frozenset(counts.items()) for pair, counts in counted.items()}

    def _column(self, name: Hashable, nodes: bool) -> list[Hashable]:
        details, graph = self.graph.details, self.graph
        features = graph.x if nodes else graph.edge_attr
        if features is not None and name == ("x" if nodes else "edge_attr"):
            return label_rows(features)
        if details is None:  # cannot be: the terms were agreed on
            raise ValueError(f"the graph has no attribute {name!r}")
        return (details.nodes if nodes else details.arc_labels)[name]


def candidates(query: View, graph: View, induced: bool) -> list[list[int]] | None:
    """Return where nodes of the query may go by labels and loops; None: anywhere."""
    loops = bool(query.loops or (induced and graph.loops))
    alike = query.values is None or (
        len(graph.places) == 1 and graph.places.keys() == query.places.keys()
    )
    if alike and not loops:
        return None
    rows = [list(range(graph.graph.num_nodes))] * query.graph.num_nodes
    if query.values is not None and not alike:
        rows = [graph.places.get(value, []) for value in query.values]
    if not loops:
        return rows
    fits: Callable[[int, int], bool] = lambda a, t: covers(  # noqa: E731
        graph.loops.get(t, _NONE), query.loops.get(a, _NONE), induced
    )
    return [[t for t in row if fits(a, t)] for a, row in enumerate(rows)]
