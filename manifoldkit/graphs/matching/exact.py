"""Exact subgraph isomorphism within a time budget."""

import importlib.util
import json
import queue
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple, Self

import numpy as np

from manifoldkit._checks import check_choice, check_positive
from manifoldkit.exceptions import MissingExtraError
from manifoldkit.graphs.matching import lad_worker
from manifoldkit.graphs.matching.inputs import PlainGraph, as_graph, check_semantics
from manifoldkit.graphs.matching.lad_worker import lad

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


class ExactSolver:
    """Decide whether a graph contains a query, exactly, within a budget a pair.

    igraph's LAD when it is installed; else networkx's VF2 in Python, ten to a hundred
    times slower. LAD cannot be stopped, so with a budget, graphs of more than 24 nodes
    are solved in a process of their own, which is replaced when it takes too long
    (about half a second, which counts to no pair).

    Nodes with features match nodes with equal features, and edges likewise (edges with
    features go to networkx).

    Parameters
    ----------
    semantics : {"induced", "monomorphism"}
        Whether edges of the graph between images of unlinked nodes forbid a match.
    budget_ms : float, optional
        Time for a pair; default without end.
    solver : {"auto", "igraph", "networkx"}

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
        self._worker: _Worker | None = None

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
        plain = as_graph(graph)
        return _Prepared(plain, self._native(plain))

    def solve(self, query: Any, graph: Any) -> Match:
        """Look for the query in a graph.

        Parameters
        ----------
        query, graph : graphs, or what :meth:`prepare` returned

        Returns
        -------
        Match
        """
        pair = [
            g if isinstance(g, _Prepared) else _Prepared(as_graph(g), None)
            for g in (query, graph)
        ]
        large = pair[1].plain.num_nodes > _SMALL
        if self.solver == "igraph" and self.budget is not None and large:
            self._worker = self._worker or _Worker()
            self._worker.await_start()
        start = time.perf_counter()
        mapping, known = self._decide(*pair)
        seconds = time.perf_counter() - start
        if not known:
            return Match("unknown", None, seconds)
        if mapping is None:
            return Match("rejected", None, seconds)
        return Match("verified", np.array(mapping, np.int64), seconds)

    def _native(self, graph: PlainGraph) -> Any:
        if self.solver == "igraph":
            import igraph

            return igraph.Graph(graph.num_nodes, graph.edges.tolist())
        return _networkx_graph(graph)

    def _decide(self, query: "_Prepared", graph: "_Prepared") -> tuple[Any, bool]:
        """Return (mapping or None, whether it was decided)."""
        if query.plain.num_nodes == 0:
            return [], True
        if query.plain.num_nodes > graph.plain.num_nodes or (
            len(query.plain.edges) > len(graph.plain.edges)
        ):
            return None, True
        domains = _domains(query.plain, graph.plain)
        if domains is not None and not all(domains):
            return None, True
        left, right = query.plain, graph.plain
        labeled_edges = left.edge_attr is not None and right.edge_attr is not None
        if self.solver == "networkx" or (labeled_edges and _varied(left, right)):
            return self._networkx(query, graph, domains)
        if self.budget is None or right.num_nodes <= _SMALL:
            small, large = (
                self._native(g.plain) if g.native is None else g.native
                for g in (query, graph)
            )
            return lad(small, large, self.induced, domains), True
        worker: Any = self._worker
        answer = worker.ask(left, right, self.induced, self.budget, domains)
        if answer is None:
            worker.close()
            self._worker = _Worker()  # starts while the next pairs are prepared
            return None, False
        return answer["mapping"], True

    def _networkx(
        self, query: "_Prepared", graph: "_Prepared", domains: list | None
    ) -> tuple[list | None, bool]:
        from networkx.algorithms.isomorphism import GraphMatcher

        allowed = None if domains is None else [set(domain) for domain in domains]
        left, right = _edge_labels(query.plain), _edge_labels(graph.plain)
        limit = None if self.budget is None else time.perf_counter() + self.budget

        class Timed(GraphMatcher):
            def syntactic_feasibility(self, *nodes: Any) -> bool:
                if limit is not None and time.perf_counter() > limit:
                    raise TimeoutError
                return super().syntactic_feasibility(*nodes)

            def semantic_feasibility(self, node: int, asked: int) -> bool:
                if allowed is not None and node not in allowed[asked]:
                    return False
                if left is None or right is None:
                    return True
                return all(
                    left[asked, other] == right[node, self.core_2[other]]
                    for other in self.G2[asked]
                    if other in self.core_2
                )

        natives = [
            g.native if hasattr(g.native, "nodes") else _networkx_graph(g.plain)
            for g in (graph, query)
        ]
        matcher = Timed(*natives)
        find = (
            matcher.subgraph_isomorphisms_iter
            if self.induced
            else matcher.subgraph_monomorphisms_iter
        )
        try:
            found = next(find(), None)
        except TimeoutError:
            return None, False
        if found is None:
            return None, True
        image = {v: u for u, v in found.items()}
        return [image[i] for i in range(len(image))], True


class _Prepared(NamedTuple):
    plain: PlainGraph
    native: Any


def _networkx_graph(graph: PlainGraph) -> Any:
    import networkx

    made = networkx.empty_graph(graph.num_nodes)
    made.add_edges_from(graph.edges.tolist())
    return made


def _domains(query: PlainGraph, graph: PlainGraph) -> list[list[int]] | None:
    """Return where each node of the query may go: to nodes of the same features."""
    if query.x is None or graph.x is None:
        return None
    if query.x.shape[1] != graph.x.shape[1]:
        raise ValueError(
            "query, graph: expected features of one width, found "
            f"{query.x.shape[1]} and {graph.x.shape[1]}"
        )
    same = (query.x[:, None] == graph.x[None]).all(-1)
    return None if same.all() else [np.flatnonzero(row).tolist() for row in same]


def _varied(query: PlainGraph, graph: PlainGraph) -> bool:
    """Whether edge features tell any edges apart."""
    if query.edge_attr is None or graph.edge_attr is None:
        return False
    both = np.concatenate([query.edge_attr, graph.edge_attr])
    return bool((both != both[:1]).any())


def _edge_labels(graph: PlainGraph) -> dict | None:
    if graph.edge_attr is None:
        return None
    rows = zip(graph.edges.tolist(), graph.edge_attr.tolist(), strict=True)
    labels = {(u, v): tuple(row) for (u, v), row in rows}
    return labels | {(v, u): row for (u, v), row in labels.items()}


class _Worker:
    """A process that runs LAD on what it reads, one line of JSON a pair."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, lad_worker.__file__],  # a script: no import of ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready = False

    def await_start(self) -> None:
        """Wait until the process reads its input."""
        if self._ready:
            return
        try:
            self._ready = bool(self._answers.get(timeout=120))
        except queue.Empty:
            self._ready = False
        if not self._ready:
            raise RuntimeError("the solver's process did not start")

    def _read(self) -> None:
        stream: Any = self._process.stdout
        for line in stream:
            self._answers.put(line)
        self._answers.put("")

    def ask(
        self,
        query: PlainGraph,
        graph: PlainGraph,
        induced: bool,
        budget: float,
        domains: list | None,
    ) -> dict | None:
        """Return the answer, or None when it does not come in time."""
        task = [
            [query.num_nodes, query.edges.tolist()],
            [graph.num_nodes, graph.edges.tolist()],
            induced,
            domains,
        ]
        stream: Any = self._process.stdin
        stream.write(json.dumps(task) + "\n")
        stream.flush()
        try:
            line = self._answers.get(timeout=budget)
        except queue.Empty:
            return None
        if not line:
            raise RuntimeError("the solver's process ended unexpectedly")
        return json.loads(line)

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
