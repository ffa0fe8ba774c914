"""Exact subgraph isomorphism within a time budget."""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Self

import numpy as np

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.exceptions import InvalidValueError, MissingExtraError
from manifoldkit.graphs.matching.backtracking import embeddings
from manifoldkit.graphs.matching.inputs import PlainGraph, as_graph, check_semantics
from manifoldkit.graphs.matching.labels import names_option
from manifoldkit.graphs.matching.lad_worker import lad
from manifoldkit.graphs.matching.views import (
    Terms,
    Traits,
    View,
    agree,
    candidates,
    covers,
    traits_of,
)
from manifoldkit.graphs.matching.worker import Worker

_SOLVERS = ("auto", "igraph", "networkx")
# up to here igraph answers in well under a millisecond, faster than a process is asked
_SMALL = 24


class Match(NamedTuple):
    """The answer of an exact solver.

    Attributes
    ----------
    status : {"verified", "rejected", "unknown"}
        Contained, not contained, or not decided within the budget.
    mapping : ndarray of int64, shape (query nodes,), or None
        The image of every node of the query, if contained.
    seconds : float
        Time that it took.
    """

    status: str
    mapping: np.ndarray | None
    seconds: float


class Matches(NamedTuple):
    """All places at which a graph contains a query, or as many as were asked for.

    Attributes
    ----------
    status : {"verified", "rejected", "unknown"}
        Contained, not contained, or not decided within the budget.
    mappings : ndarray of int64, shape (n_matches, query nodes)
        The image of every node of the query, one row a match. Matches that differ by a
        symmetry of the query are different rows.
    complete : bool
        Whether the search went through; else ``limit`` or the budget ended it.
    seconds : float
        Time that it took.
    """

    status: str
    mappings: np.ndarray
    complete: bool
    seconds: float


class ExactSolver:
    """Decide whether a graph contains a query, exactly, within a budget a pair.

    igraph's LAD when it is installed; else networkx's VF2 in Python, ten to a hundred
    times slower. LAD cannot be stopped, so with a budget, graphs of more than 24 nodes
    are solved in a process of their own, which is replaced when it takes too long
    (about half a second, which counts to no pair). Where edges have labels or are
    parallel, which LAD does not know, and for all matches, a search of our own in
    Python takes its place.

    Nodes match nodes with equal attributes, and edges likewise: those that the query
    carries, or those named. A query without attributes matches whatever the nodes are;
    one with attributes that the graph lacks is refused, as is a directed query in an
    undirected graph. Loops match loops; parallel edges match as many of equal labels
    (at least as many, for "monomorphism").

    Parameters
    ----------
    semantics : {"induced", "monomorphism"}
        Whether edges of the graph between images of unlinked nodes forbid a match.
    budget_ms : float, optional
        Time for a pair; default without end.
    solver : {"auto", "igraph", "networkx"}
    node_attr, edge_attr : str or sequence of str, optional
        Attributes that must be equal, such as "atom" of networkx nodes or "x" and
        "edge_attr" of PyG; default all that the query carries (but "pos", "y" and
        masks), ``()`` none. Numbers are compared in single precision.
    directed : bool, optional
        Read pairs (num_nodes, edges), and PyG graphs that list both directions, as
        directed, or refuse directed graphs; by default as the graphs say.

    Examples
    --------
    >>> path, triangle = (3, [(0, 1), (1, 2)]), (3, [(0, 1), (1, 2), (0, 2)])
    >>> with ExactSolver("induced") as solver:
    ...     solver.solve(path, triangle).status
    'rejected'
    >>> with ExactSolver("monomorphism") as solver:
    ...     solver.solve(path, triangle).status
    'verified'
    """

    def __init__(
        self,
        semantics: str = "induced",
        budget_ms: float | None = None,
        solver: str = "auto",
        *,
        node_attr: str | Sequence[str] | None = None,
        edge_attr: str | Sequence[str] | None = None,
        directed: bool | None = None,
    ):
        check_semantics(semantics)
        if budget_ms is not None:
            check_positive(budget_ms, "budget_ms")
        check_choice(solver, _SOLVERS, "solver")
        if solver == "auto":
            have = importlib.util.find_spec("igraph") is not None
            solver = "igraph" if have else "networkx"
        for package in {"igraph", "networkx"} & {solver}:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError("exact matching", package, "graphs")
        self.solver, self.induced = solver, semantics == "induced"
        self.budget = None if budget_ms is None else budget_ms / 1e3
        self.node_attr = names_option(node_attr, "node_attr")
        self.edge_attr = names_option(edge_attr, "edge_attr")
        self.directed = check_directed(directed)
        self._worker: Worker | None = None
        self._agreed: dict[tuple[Traits, Traits], Terms] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return vars(self) | {"_worker": None}

    def close(self) -> None:
        """End the helper process, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def prepare(self, graph: Any) -> Any:
        """Return the graph in the solver's own form, to be given instead of it."""
        return self._prepared(graph, "graph")

    def solve(self, query: Any, graph: Any) -> Match:
        """Look for the query in a graph.

        Parameters
        ----------
        query, graph : graphs, or what :meth:`prepare` returned

        Returns
        -------
        Match

        Raises
        ------
        TypeError, ValueError
            Not graphs; attributes that one of them lacks; a directed and an undirected
            graph.
        """
        left, right = self._prepared(query, "query"), self._prepared(graph, "graph")
        return self.decide(left, right, self._agree(left, right))

    def decide(self, query: Any, graph: Any, terms: Terms) -> Match:
        """Answer as :meth:`solve` does, on prepared graphs and agreed terms."""
        left, right = query, graph
        _check_widths(left.plain, right.plain, terms)
        large = right.plain.num_nodes > _SMALL
        if self.solver == "igraph" and self.budget is not None and large:
            self._worker = self._worker or Worker()
            self._worker.await_start()
        start = time.perf_counter()
        try:
            mapping = self._mapping(left, right, terms)
        except TimeoutError:
            return Match("unknown", None, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        if mapping is None:
            return Match("rejected", None, seconds)
        return Match("verified", np.array(mapping, np.int64), seconds)

    def iter_matches(self, query: Any, graph: Any) -> Iterator[np.ndarray]:
        """Go through all matches of a query in a graph, found as they are asked for.

        Parameters
        ----------
        query, graph : graphs, or what :meth:`prepare` returned

        Yields
        ------
        ndarray of int64, shape (query nodes,)
            The image of every node of the query. Matches that differ by a symmetry of
            the query come one by one; the empty query has one match.

        Raises
        ------
        TypeError, ValueError
            As :meth:`solve` does, at once.
        TimeoutError
            The budget, for the whole search, is spent.

        Examples
        --------
        >>> triangle = (3, [(0, 1), (1, 2), (0, 2)])
        >>> [image.tolist() for image in ExactSolver().iter_matches((1, []), triangle)]
        [[0], [1], [2]]
        """
        left, right = self._prepared(query, "query"), self._prepared(graph, "graph")
        return self._each(left, right, self._agree(left, right))

    def solve_all(self, query: Any, graph: Any, limit: int | None = None) -> Matches:
        """Return all matches of a query in a graph.

        Parameters
        ----------
        query, graph : graphs, or what :meth:`prepare` returned
        limit : int, optional
            End after so many.

        Returns
        -------
        Matches

        Raises
        ------
        TypeError, ValueError
            As :meth:`solve` does; ``limit`` below 1.

        Examples
        --------
        >>> path, square = (3, [(0, 1), (1, 2)]), (4, [(0, 1), (1, 2), (2, 3), (0, 3)])
        >>> found = ExactSolver().solve_all(path, square)
        >>> found.status, len(found.mappings), found.complete
        ('verified', 8, True)
        """
        if limit is not None:
            check_count(limit, "limit")
        left, right = self._prepared(query, "query"), self._prepared(graph, "graph")
        found, begin = self.iter_matches(left, right), time.perf_counter()
        rows: list[np.ndarray] = []
        try:
            for image in islice(found, limit):
                rows.append(image)  # what was found before a time-out stays
            complete = limit is None or len(rows) < limit
        except TimeoutError:
            complete = False
        seconds = time.perf_counter() - begin
        status = "verified" if rows else "rejected" if complete else "unknown"
        mappings = np.array(rows, np.int64).reshape(len(rows), left.plain.num_nodes)
        return Matches(status, mappings, complete, seconds)

    def _prepared(self, graph: Any, name: str) -> "_Prepared":
        if isinstance(graph, _Prepared):
            return graph
        return _Prepared(as_graph(graph, name, self.directed))

    def _agree(self, query: "_Prepared", graph: "_Prepared") -> Terms:
        key = query.traits, graph.traits
        if key not in self._agreed:
            names = self.node_attr, self.edge_attr
            self._agreed[key] = agree(key[0], [(key[1], "graph")], *names)
        return self._agreed[key]

    def _mapping(self, query: "_Prepared", graph: "_Prepared", terms: Terms) -> Any:
        """Return a mapping or None; raise TimeoutError where it is not decided."""
        left, right = query.view(terms), graph.view(terms)
        if left.graph.num_nodes == 0:
            return []
        if not _fits(left, right):
            return None
        if self.solver == "networkx" or not (left.uniform and right.uniform):
            return next(self._each(query, graph, terms), None)
        linked = len(left.graph.edges) > 0
        if linked and not covers(right.one_link, left.one_link, self.induced):
            return None
        domains = candidates(left, right, self.induced)
        if domains is not None and not all(domains):
            return None
        if self.budget is None or right.graph.num_nodes <= _SMALL:
            return lad(query.igraph(terms), graph.igraph(terms), self.induced, domains)
        worker: Any = self._worker
        answer = worker.ask(left, right, self.induced, self.budget, domains)
        if answer is None:
            worker.close()
            self._worker = Worker()  # starts while the next pairs are prepared
            raise TimeoutError
        return answer["mapping"]

    def _each(
        self, query: "_Prepared", graph: "_Prepared", terms: Terms
    ) -> Iterator[np.ndarray]:
        """Yield all matches, by networkx or by our own search."""
        left, right = query.view(terms), graph.view(terms)
        _check_widths(query.plain, graph.plain, terms)
        if not _fits(left, right):
            return
        limit = np.inf if self.budget is None else time.perf_counter() + self.budget

        def check() -> None:
            if time.perf_counter() > limit:
                raise TimeoutError("the budget of the search is spent")

        find = embeddings if self.solver == "igraph" else _networkx
        for image in find(left, right, self.induced, check):
            yield np.array(image, np.int64)


def check_directed(directed: Any) -> bool | None:
    """Return ``directed`` if it is a boolean or None, else raise."""
    if directed is not None and not isinstance(directed, bool | np.bool_):
        raise InvalidValueError(
            f"directed: expected True, False or None, found {directed!r}"
        )
    return None if directed is None else bool(directed)


class _Prepared:
    """A graph, and what was made of it for earlier pairs."""

    def __init__(self, plain: PlainGraph):
        self.plain, self.traits = plain, traits_of(plain)
        self._views: dict[Terms, View] = {}
        self._igraph: dict[bool, Any] = {}

    def view(self, terms: Terms) -> View:
        """Return it as it is compared under these terms."""
        if terms not in self._views:
            self._views[terms] = View(self.plain, terms)
        return self._views[terms]

    def igraph(self, terms: Terms) -> Any:
        """Return its links as an igraph graph."""
        if terms.directed not in self._igraph:
            import igraph

            self._igraph[terms.directed] = igraph.Graph(
                self.plain.num_nodes,
                self.view(terms).links.tolist(),
                directed=terms.directed,
            )
        return self._igraph[terms.directed]


def _check_widths(query: PlainGraph, graph: PlainGraph, terms: Terms) -> None:
    compared = {"x", "edge_attr"}.intersection(terms.nodes + terms.edges)
    for name in compared:
        pair = [getattr(g, name) for g in (query, graph)]
        widths = [v.shape[1] for v in pair if v is not None and len(v)]
        if len(set(widths)) > 1:
            raise ValueError(
                f"query, graph: expected features {name} of one width, found "
                f"{widths[0]} and {widths[1]}"
            )


def _fits(query: View, graph: View) -> bool:
    """Whether there are nodes and links enough."""
    left, right = query.graph, graph.graph
    enough = left.num_nodes <= right.num_nodes
    return enough and len(left.edges) <= len(right.edges)


def _networkx(
    query: View, graph: View, induced: bool, check: Any
) -> Iterator[list[int]]:
    """Yield what :func:`embeddings` does, by networkx's VF2."""
    from networkx.algorithms.isomorphism import GraphMatcher

    if query.graph.num_nodes == 0:
        yield []
        return
    rows = candidates(query, graph, induced)
    allowed = None if rows is None else [set(row) for row in rows]
    plain = query.uniform and graph.uniform and not query.terms.directed
    plain = plain and covers(graph.one_link, query.one_link, induced)

    class Timed(GraphMatcher):
        def syntactic_feasibility(self, *nodes: Any) -> bool:
            check()
            return super().syntactic_feasibility(*nodes)

        def semantic_feasibility(self, node: int, asked: int) -> bool:
            if allowed is not None and node not in allowed[asked]:
                return False
            if plain:
                return True
            have = graph.relations[node]
            return all(
                covers(have[self.core_2[other]][way], need[way], induced)
                for other, need in query.relations[asked].items()
                if other in self.core_2
                for way in (0, 1)
            )

    matcher = Timed(_networkx_graph(graph.graph), _networkx_graph(query.graph))
    find = (
        matcher.subgraph_isomorphisms_iter
        if induced
        else matcher.subgraph_monomorphisms_iter
    )
    for found in find():
        image = {v: u for u, v in found.items()}
        yield [image[i] for i in range(len(image))]


def _networkx_graph(graph: PlainGraph) -> Any:
    import networkx

    made = networkx.empty_graph(graph.num_nodes)
    made.add_edges_from(graph.edges.tolist())
    return made
