"""Necessary conditions: cheap tests that never reject a graph that holds the query."""

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed

from manifoldkit._checks import check_count
from manifoldkit.graphs.matching.exact import check_directed
from manifoldkit.graphs.matching.inputs import (
    PlainGraph,
    as_graph,
    as_graphs,
    check_semantics,
)
from manifoldkit.graphs.matching.labels import names_option
from manifoldkit.graphs.matching.retrieval.corpus import blocks
from manifoldkit.graphs.matching.retrieval.label_counts import LabelCounts, label_table
from manifoldkit.graphs.matching.retrieval.motifs import motif_counts
from manifoldkit.graphs.matching.retrieval.records import Kind, kinds_of, named
from manifoldkit.graphs.matching.views import agree, traits_of

_CAP = np.iinfo(np.uint16).max
_WALKS = 8


class CountFilter:
    """Reject graphs of a corpus by counts that a subgraph cannot exceed.

    An injection of the query into a graph maps nodes of degree at least ``d`` to such
    nodes, edges to edges and walks to walks; an induced one also maps every connected
    induced subgraph to one of the same kind. So if the query has more of anything, the
    graph does not contain it. It also needs as many nodes and edges of every label.
    Directions, loops and parallel edges are not counted. Whatever passes may still
    fail.

    Parameters
    ----------
    kind : str
        "degree" (nodes by degree, edges, walks), or "motif" with the largest number of
        nodes of the induced subgraphs that are counted too, such as "motif6".
    semantics : {"induced", "monomorphism"}
        For "monomorphism" induced subgraphs say nothing, and "motif6" does as "degree".
    limit : int
        Graphs with more connected sets of nodes of one size are not counted there.
    node_attr, edge_attr : str or sequence of str, optional
        Attributes that are compared, as for :class:`~manifoldkit.graphs.ExactSolver`.
    directed : bool, optional
        How graphs are read, as there.

    Attributes
    ----------
    counts_ : ndarray of uint16, shape (n_corpus, n_columns)
        Counts, capped at 65535, of the corpus.

    Examples
    --------
    >>> path, star = (4, [(0, 1), (1, 2), (2, 3)]), (4, [(0, 1), (0, 2), (0, 3)])
    >>> CountFilter("motif4").fit([path, star]).admits(path).tolist()
    [True, False]
    """

    counts_: np.ndarray

    def __init__(
        self,
        kind: str = "motif6",
        semantics: str = "induced",
        limit: int = 100_000,
        *,
        node_attr: str | Sequence[str] | None = None,
        edge_attr: str | Sequence[str] | None = None,
        directed: bool | None = None,
    ):
        size = _motif_size(kind)
        check_semantics(semantics)
        check_count(limit, "limit", 0)
        self.node_attr = names_option(node_attr, "node_attr")
        self.edge_attr = names_option(edge_attr, "edge_attr")
        self.directed = check_directed(directed)
        self.kind, self.semantics, self.limit = kind, semantics, limit
        self._size = size if semantics == "induced" else 0

    def fit(self, corpus: Any, n_jobs: int | None = None) -> Self:
        """Count in a list of graphs, or in one on disk.

        Parameters
        ----------
        corpus : sequence of graphs
            Read in blocks.
        n_jobs : int, optional
            Processes (joblib).

        Returns
        -------
        self
        """
        if not isinstance(corpus, Sequence):
            corpus = as_graphs(corpus, "corpus", self.directed)
        tables = list(
            Parallel(n_jobs)(
                delayed(_table)(block, start, self._size, self.limit, self.directed)
                for start, block in blocks(corpus)
            )
        )
        self._join([table[:2] for table in tables], len(corpus))
        self._labels = LabelCounts([labels for *_, labels, _ in tables], len(corpus))
        self._kinds_there = [kind for *_, kinds in tables for kind in kinds]
        return self

    def _join(self, tables: list, length: int) -> None:
        """Put the tables of the blocks under common columns."""
        self._n_basic = max((basic.shape[1] for basic, _ in tables), default=_WALKS + 1)
        motifs = [found for _, found in tables if found is not None]
        self._depth = np.full(length, self._size)
        self._kinds, size = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        if motifs:
            kind = np.concatenate([found.kind for found in motifs])
            self._kinds, first = np.unique(kind, return_index=True)
            size = np.concatenate([found.size for found in motifs])[first]
        columns = np.zeros((self._n_basic + len(self._kinds), length), np.uint16)
        start = 0
        for basic, found in tables:
            stop = start + len(basic)
            columns[: basic.shape[1], start:stop] = basic.T
            if found is not None:
                at = self._n_basic + np.searchsorted(self._kinds, found.kind)
                columns[at, start + found.graph] = np.minimum(found.times, _CAP)
                self._depth[start:stop] = found.depth
            start = stop
        for depth in np.unique(self._depth[self._depth < self._size]):
            # not counted there: unknown, so it admits anything
            graphs, kinds = self._depth == depth, np.flatnonzero(size > depth)
            columns[np.ix_(self._n_basic + kinds, graphs)] = _CAP
        self._columns, self.counts_ = columns, columns.T

    def admits(self, query: Any) -> np.ndarray:
        """Return which graphs of the corpus may contain the query.

        Parameters
        ----------
        query : graph
            Any form that :func:`~manifoldkit.graphs.matching.inputs.as_graph` reads.

        Returns
        -------
        ndarray of bool, shape (n_corpus,)
        """
        return self._passes([as_graph(query, "query", self.directed)])[0]

    def admits_all(self, queries: Any) -> np.ndarray:
        """Return the answers for many queries, which are counted together.

        Returns
        -------
        ndarray of bool, shape (n_queries, n_corpus)
        """
        return self._passes(as_graphs(queries, "queries", self.directed))

    def _passes(self, queries: list[PlainGraph]) -> np.ndarray:
        demand, unseen = self._demands(queries)
        passes = np.ones((len(demand), len(self.counts_)), bool)
        for row, need, size in zip(passes, demand, unseen, strict=True):
            for column in np.flatnonzero(need):  # those that can reject
                row &= self._columns[column] >= need[column]
            if size:  # kinds that the corpus does not have where it was counted
                row &= self._depth < size
        for row, query in zip(passes, queries, strict=True):
            self._compare_labels(row, query)
        return passes

    def _compare_labels(self, row: np.ndarray, query: PlainGraph) -> None:
        kinds = self._kinds_there
        traits = traits_of(query)
        terms = agree(traits, named(kinds), self.node_attr, self.edge_attr)
        # an edge that has both directions is counted once, but stands for two arcs
        open_ = any(kind.traits.directed is None for kind in kinds)
        self._labels.restrict(row, query, terms, not (terms.directed and open_))

    def slack(self, query: Any) -> np.ndarray:
        """Return minus the counts that are missing: a ranking without any training."""
        demand = self._demands([as_graph(query, "query", self.directed)])[0][0]
        needed = np.flatnonzero(demand)
        have = self.counts_[:, needed].astype(np.int64)
        return -np.maximum(demand[needed].astype(np.int64) - have, 0).sum(1)

    def _demands(self, queries: list[PlainGraph]) -> tuple[np.ndarray, np.ndarray]:
        """Return the queries' counts, and the size of a smallest unseen kind or 0."""
        if not hasattr(self, "counts_"):
            raise ValueError("admits: fit the filter on a corpus first")
        demand = np.zeros((len(queries), self.counts_.shape[1]), np.uint16)
        unseen = np.zeros(len(queries), np.int64)
        basic = _basic_counts(queries)
        width = min(basic.shape[1], self._n_basic)
        demand[:, :width] = basic[:, :width]
        # a degree beyond all of the corpus: no graph of it has such nodes
        demand[basic[:, width:].any(1), _WALKS] = _CAP
        if self._size:
            found = motif_counts(queries, self._size, self.limit)
            at = np.searchsorted(self._kinds, found.kind)
            at = np.minimum(at, max(len(self._kinds) - 1, 0))
            known = np.zeros(len(at), bool)
            if len(self._kinds):
                known = self._kinds[at] == found.kind
            count = np.minimum(found.times, _CAP).astype(np.uint16)
            demand[found.graph[known], self._n_basic + at[known]] = count[known]
            for graph, size in zip(
                found.graph[~known], found.size[~known], strict=True
            ):
                unseen[graph] = min(unseen[graph] or size, size)
        return demand, unseen


def _motif_size(kind: str) -> int:
    if kind == "degree":
        return 0
    match = re.fullmatch(r"motif([1-9])", kind) if isinstance(kind, str) else None
    if match is None:
        raise ValueError(
            f"kind: expected 'degree' or 'motif1' to 'motif9', found {kind!r}"
        )
    return int(match[1])


def _table(
    graphs: Any, start: int, size: int, limit: int, directed: bool | None
) -> tuple:
    """Count in one block of the corpus."""
    plain = [
        as_graph(g, f"corpus[{start + i}]", directed) for i, g in enumerate(graphs)
    ]
    kinds = [Kind(traits, start + first) for traits, first in kinds_of(plain)]
    motifs = motif_counts(plain, size, limit) if size else None
    return _basic_counts(plain), motifs, label_table(plain, start), kinds


def _basic_counts(graphs: list[PlainGraph]) -> np.ndarray:
    """Return edges, walks by length, and nodes of degree at least 0, 1, 2, ..."""
    rows, degrees = [], []
    for graph in graphs:
        u, v = graph.edges.T
        degree = np.bincount(np.concatenate([u, v]), minlength=graph.num_nodes)
        walks, ends = [], degree.astype(float)
        for _ in range(_WALKS - 1):  # walks of 2, 3, ... edges; capped, so monotone
            ends = np.bincount(
                np.concatenate([u, v]),
                np.concatenate([ends[v], ends[u]]),
                graph.num_nodes,
            )
            walks.append(min(ends.sum(), _CAP))
        degrees.append(degree)
        rows.append([min(len(graph.edges), _CAP), *walks])
    top = max((int(d.max(initial=0)) for d in degrees), default=0) + 1
    at_least = np.zeros((len(graphs), top), np.int64)
    for i, degree in enumerate(degrees):
        at_least[i] = np.bincount(degree, minlength=top)[::-1].cumsum()[::-1]
    basic = np.array(rows, float).reshape(len(graphs), _WALKS)
    return np.minimum(np.concatenate([basic, at_least], 1), _CAP).astype(np.uint16)
