"""Search in stages: sound filter, late scores, early interaction, exact check."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from manifoldkit.graphs.matching.exact import ExactSolver, Match
from manifoldkit.graphs.matching.inputs import PlainGraph
from manifoldkit.graphs.matching.models.base import EncodedGraphs, MatchingNetwork
from manifoldkit.graphs.matching.models.packed import PackedGraphs
from manifoldkit.graphs.matching.retrieval.filters import CountFilter
from manifoldkit.graphs.matching.retrieval.records import kinds_of, named
from manifoldkit.graphs.matching.views import Terms, agree, traits_of

_STATUS = np.array(["rejected", "unverified", "verified"])
_REJECTED, _UNKNOWN, _VERIFIED = range(3)
IN_MEMORY = 20_000  # corpus graphs whose solver form and encoding are kept


class SearchResult(NamedTuple):
    """What was found for one query, best first.

    Attributes
    ----------
    ids : ndarray of int64, shape (k,)
        Places in the corpus.
    scores : ndarray of float64, shape (k,)
        Scores of the last network that looked at the graph; zero without one.
    status : ndarray of str, shape (k,)
        "verified" (an exact solver found the query), "rejected" (it cannot be there)
        or "unverified".
    alignment : list of ndarray of int64, shape (query nodes,)
        Image of every node of the query: exact where verified, else the best assignment
        under the network's alignment (of edges, for networks of kind "edge", as places
        in the edge list); -1 without a partner, and empty without a network.
    seconds : dict
        Time by stage.
    counts : dict
        How many graphs of the corpus were left after each stage.
    """

    ids: np.ndarray
    scores: np.ndarray
    status: np.ndarray
    alignment: list[np.ndarray]
    seconds: dict[str, float]
    counts: dict[str, int]

    @property
    def timing(self) -> dict[str, float]:
        """``seconds`` with their sum as "total"."""
        return self.seconds | {"total": sum(self.seconds.values())}


class Cascade:
    """The stages over an indexed corpus of plain graphs; see `SubgraphRetriever`."""

    def __init__(
        self,
        corpus: Sequence[PlainGraph],
        *,
        filter: CountFilter | None,
        late: MatchingNetwork | None,
        early: MatchingNetwork | None,
        keep: int | None,
        verify: str | None,
        solver: ExactSolver,
    ):
        self.corpus, self.filter = corpus, filter
        self.late, self.early = late, early
        self.keep, self.verify, self.solver = keep, verify, solver
        self._kinds = getattr(corpus, "kinds", None) or kinds_of(corpus)
        self._sizes = _sizes(corpus)
        self._native: dict[int, Any] = {}
        self._encoded: dict[str, EncodedGraphs] = {}
        self.refresh()

    def __getstate__(self) -> dict:
        return vars(self) | {"_native": {}}  # made again where they are needed

    def refresh(self) -> None:
        """Compute again what the networks say about single graphs of the corpus."""
        self._encoded = {}
        for name, model in (("late", self.late), ("early", self.early)):
            if model is not None:
                model._check_weights()
            if model is not None and len(self.corpus) <= IN_MEMORY:
                with torch.no_grad():
                    graphs = model._pack(self.corpus[:], "corpus")
                    self._encoded[name] = EncodedGraphs(model, graphs)

    def rank(self, query: PlainGraph, enough: int | None) -> dict[str, Any]:
        """Return score, tier and mapping of the whole corpus, and what it took.

        Parameters
        ----------
        query : PlainGraph
        enough : int, optional
            Exact checks end when so many graphs are verified; default check all.
        """
        solver = self.solver
        # raises where a label would be ignored, whatever stages there are
        terms = agree(
            traits_of(query), named(self._kinds), solver.node_attr, solver.edge_attr
        )
        seconds, counts = {}, {}
        size = len(self.corpus)
        tier = np.full(size, _UNKNOWN)
        tier[self._sizes < query.num_nodes] = _REJECTED
        score = np.zeros(size)
        clock = time.perf_counter()

        def tick(stage: str, left: int) -> None:
            nonlocal clock
            now = time.perf_counter()
            seconds[stage], counts[stage], clock = now - clock, left, now

        if self.filter is not None:
            tier[~self.filter.admits(query)] = _REJECTED
            tick("filter", int((tier != _REJECTED).sum()))
        alive = np.flatnonzero(tier != _REJECTED)
        level = np.zeros(size, np.int8)  # how many networks looked at it
        if self.late is not None:
            score[alive] = self._scores("late", self.late, query, alive)
            level[alive] = 1
            best = np.argsort(-score[alive], kind="stable")[: self.keep]
            alive = alive[best]
            tick("late", len(alive))
        if self.early is not None:
            score[alive] = self._scores("early", self.early, query, alive)
            level[alive] = 2
            tick("early", len(alive))
        mapping: dict[int, np.ndarray] = {}
        if self.verify is not None:
            # graphs that fell out after the late stage wait at the end of the line
            left = np.flatnonzero(tier != _REJECTED)
            line = left[np.lexsort((left, -score[left], -level[left]))]
            self._check(query, line, tier, mapping, enough, terms)
            tick("exact", int((tier == _VERIFIED).sum()))
        return {
            "score": score,
            "tier": tier,
            "level": level,
            "mapping": mapping,
            "seconds": seconds,
            "counts": counts,
        }

    def search(self, query: PlainGraph, k: int) -> SearchResult:
        """Return the best ``k`` graphs."""
        enough = None if self.verify == "all" else k
        found = self.rank(query, enough)
        keys = (-found["score"], -found["level"], -found["tier"])
        ids = np.lexsort((np.arange(len(self.corpus)), *keys))[:k]
        return SearchResult(
            ids,
            found["score"][ids],
            _STATUS[found["tier"][ids]],
            self._alignments(query, ids, found["mapping"]),
            found["seconds"],
            found["counts"],
        )

    def passed(self, query: PlainGraph) -> dict[str, np.ndarray]:
        """Return which graphs get through the stages before the exact check."""
        found = self.rank(query, 0)
        through = {"filter": found["tier"] != _REJECTED}
        if self.late is not None and self.early is not None:
            through["late"] = found["level"] == 2
        return through

    def relevance(self, query: PlainGraph, k: int) -> np.ndarray:
        """Return one number a graph of the corpus that orders it as a search does."""
        found = self.rank(query, None if self.verify == "all" else k)
        keys = np.stack([found["tier"], found["level"], found["score"]], 1)
        # equal graphs stay equal, so that ties count as ties
        _, place = np.unique(keys, axis=0, return_inverse=True)
        return place.reshape(-1).astype(float)

    def _scores(
        self, name: str, model: MatchingNetwork, query: PlainGraph, ids: np.ndarray
    ) -> np.ndarray:
        packed = model._pack([query], "query")
        parts, size = [np.zeros(0)], 512
        with torch.no_grad():
            asked = EncodedGraphs(model, packed)
            if name in self._encoded:
                order = np.argsort(self._encoded[name].counts[ids], kind="stable")
            else:
                order = np.arange(len(ids))
            for start in range(0, len(ids), size):
                block = ids[order[start : start + size]]
                corpus, at = self._encoded.get(name), block
                if corpus is None:
                    graphs = [self.corpus[int(i)] for i in block]
                    corpus = EncodedGraphs(model, model._pack(graphs, "corpus"))
                    at = np.arange(len(block))
                left = np.zeros(len(at), np.int64)
                first = asked.states(left), corpus.states(at)
                score, _ = model(asked.batch(left), corpus.batch(at), first)
                parts.append(score.double().cpu().numpy())
        out = np.empty(len(ids))
        out[order] = np.concatenate(parts)
        return out

    def _check(
        self,
        query: PlainGraph,
        line: np.ndarray,
        tier: np.ndarray,
        mapping: dict[int, np.ndarray],
        enough: int | None,
        terms: Terms,
    ) -> None:
        """Verify graphs in this order, until enough are."""
        prepared = self.solver.prepare(query)
        verified = 0
        for i in line.tolist():
            if enough is not None and verified >= enough:
                return
            match = self._solve(prepared, i, terms)
            if match.mapping is not None:
                tier[i], mapping[i] = _VERIFIED, match.mapping
                verified += 1
            elif match.status == "rejected":
                tier[i] = _REJECTED

    def _solve(self, prepared: Any, i: int, terms: Terms) -> Match:
        graph = self._native.get(i)
        if graph is None:
            graph = self.solver.prepare(self.corpus[i])
            if len(self.corpus) <= IN_MEMORY:
                self._native[i] = graph
        return self.solver.decide(prepared, graph, terms)

    def _alignments(
        self, query: PlainGraph, ids: np.ndarray, mapping: dict[int, np.ndarray]
    ) -> list[np.ndarray]:
        model = self.early or self.late
        out = [mapping.get(int(i)) for i in ids]
        open_ = [place for place, found in enumerate(out) if found is None]
        if model is not None and open_:
            graphs = PackedGraphs([self.corpus[int(ids[place])] for place in open_])
            pairs = [(0, i) for i in range(len(open_))]
            plans = model.align_pairs([query], graphs, pairs)
            for place, rounds in zip(open_, plans, strict=True):
                out[place] = assignment(rounds[-1])
        nothing = np.zeros(0, np.int64)
        return [nothing if found is None else found for found in out]


def _sizes(corpus: Sequence) -> np.ndarray:
    """Return the numbers of nodes without reading the edges."""
    if hasattr(corpus, "num_nodes"):
        return np.asarray(corpus.num_nodes)
    return np.array([graph.num_nodes for graph in corpus], np.int64)


def assignment(plan: np.ndarray) -> np.ndarray:
    """Return the best injective assignment of rows to columns; -1 without a partner.

    >>> assignment(np.array([[0.1, 0.9], [0.8, 0.2]])).tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    out = np.full(len(plan), -1, np.int64)
    row, column = linear_sum_assignment(plan, maximize=True)
    out[row] = column
    return out
