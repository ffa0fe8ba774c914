"""What all matching networks share: construction, scoring of many pairs, weights."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_counts,
    check_interval,
    check_positive,
)
from manifoldkit.graphs.matching.inputs import check_semantics
from manifoldkit.graphs.matching.models.alignment import (
    Alignment,
    align,
    coverage,
    edge_structure,
    node_structure,
    pad_coverage,
)
from manifoldkit.graphs.matching.models.layers import (
    PairInput,
    Propagation,
    perceptron,
)
from manifoldkit.graphs.matching.models.packed import (
    GraphBatch,
    PackedGraphs,
    gather_rows,
    pack,
    present,
)
from manifoldkit.graphs.matching.models.upstream import (
    load_upstream,
    upstream_sizes,
)

# structure means nothing before the alignment is sharp: softplus(-3) = 0.05
_FAINT = -3.0


class MatchingNetwork(nn.Module):
    """Base of the networks that score how well a graph contains another.

    Subclasses implement ``forward(query, corpus)`` on two
    :class:`~manifoldkit.graphs.matching.models.packed.GraphBatch` of equal length. The
    parameters are described by :class:`~manifoldkit.graphs.IsoNetPP`.
    """

    #: Edges have states of their own from the first layer on, where ``kind="edge"``.
    early_edges: ClassVar[bool] = False
    #: The update of a node also reads how it differs from its partner.
    partner_gates: ClassVar[bool] = False

    def __init__(
        self,
        kind: str = "edge",
        layers: int = 5,
        *,
        node_dim: int = 1,
        edge_dim: int = 1,
        dim: int = 10,
        message_dim: int = 20,
        align_dim: int | None = 16,
        tau: float = 0.1,
        n_iter: int = 20,
        noise: float = 0.0,
        semantics: str = "monomorphism",
        parity: bool = False,
        padded_size: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_choice(kind, ("node", "edge"), "kind")
        check_semantics(semantics)
        check_counts(layers=layers, node_dim=node_dim, edge_dim=edge_dim, dim=dim)
        check_counts(message_dim=message_dim, n_iter=n_iter)
        for name, size in (("align_dim", align_dim), ("padded_size", padded_size)):
            if size is not None:
                check_count(size, name)
        check_positive(tau, "tau")
        check_interval(noise, "noise", 0)
        if parity and semantics == "induced":
            raise ValueError(
                "parity, semantics: the published score knows coverage only; use "
                "parity=False with semantics='induced'"
            )
        if padded_size is None and kind == "node":
            padded_size = 20
        self.kind, self.layers, self.semantics = kind, layers, semantics
        self.tau, self.n_iter, self.noise = tau, n_iter, noise
        self.parity, self.padded_size = parity, padded_size if parity else None
        self.generator = generator
        self.node_encoder = nn.Linear(node_dim, dim)
        early = self.early_edges and kind == "edge"
        self.edge_encoder = nn.Linear(edge_dim, message_dim) if early else None
        self.propagation = Propagation(
            dim,
            message_dim,
            message_dim if early else edge_dim,
            dim if self.partner_gates else 0,
        )
        state = dim if kind == "node" else message_dim
        self.align_net = (
            None if align_dim is None else perceptron(state, align_dim, align_dim)
        )
        self.structure_weight = (
            nn.Parameter(torch.full((2,), _FAINT)) if semantics == "induced" else None
        )
        self.state_dim = state

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        for module in self.modules():
            if module is not self and isinstance(module, nn.Linear | nn.GRUCell):
                module.reset_parameters()
        if self.structure_weight is not None:
            nn.init.constant_(self.structure_weight, _FAINT)

    def _counts(self, pair: PairInput) -> tuple[Tensor, Tensor]:
        if self.kind == "node":
            return pair.query.size, pair.corpus.size
        return pair.query.edge_count, pair.corpus.edge_count

    def _align(
        self, pair: PairInput, query: Tensor, corpus: Tensor, padded: int | None
    ) -> Alignment:
        """Align the sets by their vectors after the alignment net."""
        if self.align_net is None:
            raise ValueError("this network was built without an alignment net")
        if padded is None:
            padded = self.padded_size
        if padded is None and self.parity:
            padded = max(query.shape[1], corpus.shape[1])
        n = len(query) * query.shape[1]
        rows = torch.cat([side.reshape(-1, side.shape[2]) for side in (query, corpus)])
        rows = self.align_net(rows)
        return align(
            rows[:n].view(*query.shape[:2], rows.shape[1]),
            rows[n:].view(*corpus.shape[:2], rows.shape[1]),
            *self._counts(pair),
            padded=padded,
            tau=self.tau,
            n_iter=self.n_iter,
            noise=self.noise if self.training else 0.0,
            generator=self.generator,
        )

    def _score(
        self, pair: PairInput, query: Tensor, corpus: Tensor, found: Alignment
    ) -> Tensor:
        """Return minus the uncovered part of the query, and structure if induced."""
        short = coverage(query, corpus, found, self._counts(pair)[0])
        if self.parity:
            short = short + pad_coverage(corpus, found)
        if self.structure_weight is not None:
            if self.kind == "node":
                sides = pair.query.adjacency, pair.corpus.adjacency
                missing, extra = node_structure(found.plan, *sides)
            else:
                sides = pair.query.incidence, pair.corpus.incidence
                missing, extra = edge_structure(found.plan, *sides)
            weight = nn.functional.softplus(self.structure_weight)
            short = short + weight[0] * missing + weight[1] * extra
        return -short

    def forward(
        self,
        query: GraphBatch,
        corpus: GraphBatch,
        first: Any = None,
        padded: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return scores (B,) and the alignments (B, n, m), one for every round."""
        raise NotImplementedError

    def encode(self, graphs: GraphBatch) -> Tensor | None:
        """Return what of the computation depends on one graph only, or None."""
        return None

    def _pack(self, graphs: Any, name: str) -> PackedGraphs:
        weight = self.node_encoder.weight
        packed = pack(graphs, name, weight.dtype, weight.device)
        expected, found = self.input_dims, (packed.node_dim, packed.edge_dim)
        if len(packed) and found != expected:
            raise ValueError(
                f"{name}: expected {expected[0]} features a node and {expected[1]} an "
                f"edge, found {found[0]} and {found[1]}"
            )
        return packed

    @property
    def input_dims(self) -> tuple[int, int]:
        """Number of features of a node and of an edge of the input."""
        nodes = self.node_encoder.in_features
        if self.edge_encoder is not None:
            return nodes, self.edge_encoder.in_features
        message = self.propagation.message.in_features
        return nodes, message - 2 * self.propagation.dim

    def score_pairs(
        self,
        queries: Any,
        corpus: Any,
        pairs: Any = None,
        *,
        batch_size: int = 256,
        grad: bool | None = None,
    ) -> Tensor:
        """Score pairs of graphs; higher means better contained.

        Parameters
        ----------
        queries, corpus : list of graphs or PackedGraphs
            A graph is a PyG Data, a networkx graph or a pair (num_nodes, edges).
        pairs : array-like of int, shape (P, 2), optional
            Which query and which corpus graph; default one after the other, which needs
            lists of equal length.
        batch_size : int
            Pairs at once; they are ordered by size first, to pad little.
        grad : bool, optional
            Keep the graph of the computation; by default in training mode, where torch
            has not been told to do without.

        Returns
        -------
        Tensor, shape (P,)

        Raises
        ------
        ValueError
            Lists of different length without ``pairs``, indices out of range, features
            of another width, weights that are not finite, a batch size below 1.
        """
        check_count(batch_size, "batch_size")
        if grad is None:
            grad = self.training and torch.is_grad_enabled()
        return self._run(queries, corpus, pairs, batch_size, grad)[0]

    def align_pairs(
        self, queries: Any, corpus: Any, pairs: Any = None
    ) -> list[list[np.ndarray]]:
        """Return, for every pair, its alignments by round, of the graphs' own sizes."""
        return self._run(queries, corpus, pairs, 256, False, plans=True)[1]

    def _run(
        self,
        queries: Any,
        corpus: Any,
        pairs: Any,
        batch_size: int,
        grad: bool,
        plans: bool = False,
    ) -> tuple[Tensor, list]:
        queries, corpus, padded = self._both(queries, corpus)
        pairs = _check_pairs(pairs, len(queries), len(corpus))
        sizes = corpus.num_nodes[pairs[:, 1]] * 4096 + queries.num_nodes[pairs[:, 0]]
        order = np.argsort(sizes, kind="stable")
        scores, kept = [], [None] * len(pairs)
        with torch.set_grad_enabled(grad):
            for start in range(0, len(order), batch_size):
                at = order[start : start + batch_size]
                query = queries.batch(pairs[at, 0], self.kind == "edge")
                graphs = corpus.batch(pairs[at, 1], self.kind == "edge")
                score, found = self(query, graphs, padded=padded)
                scores.append(score)
                if plans:
                    count = queries.num_nodes, corpus.num_nodes
                    if self.kind == "edge":
                        count = queries.num_edges, corpus.num_edges
                    for row, i in enumerate(at):
                        n, m = count[0][pairs[i, 0]], count[1][pairs[i, 1]]
                        kept[i] = [p[row, :n, :m].cpu().numpy() for p in found]
        if not scores:
            return self.node_encoder.weight.new_zeros(0), kept
        back = torch.from_numpy(np.argsort(order)).to(scores[0].device)
        return torch.cat(scores)[back], kept

    def score_matrix(
        self, queries: Any, corpus: Any, *, batch_size: int = 512, callback: Any = None
    ) -> Tensor:
        """Score every query against every corpus graph, without gradients.

        What depends on one graph only is computed once per graph.

        Parameters
        ----------
        queries, corpus : list of graphs or PackedGraphs
        batch_size : int
            Pairs at once.
        callback : callable, optional
            Called with the number of pairs done since the last call.

        Returns
        -------
        Tensor, shape (n_queries, n_corpus)
        """
        check_count(batch_size, "batch_size")
        queries, corpus, padded = self._both(queries, corpus)
        with torch.no_grad():
            first = EncodedGraphs(self, queries), EncodedGraphs(self, corpus)
            out = self.node_encoder.weight.new_zeros(len(queries), len(corpus))
            order = np.argsort(corpus.num_nodes, kind="stable")
            rows = np.argsort(queries.num_nodes, kind="stable")
            width = max(1, min(len(order), batch_size))
            height = max(1, batch_size // width)
            for low in range(0, len(rows), height):
                for start in range(0, len(order), width):
                    i, j = rows[low : low + height], order[start : start + width]
                    left, right = np.repeat(i, len(j)), np.tile(j, len(i))
                    score, _ = self(
                        first[0].batch(left),
                        first[1].batch(right),
                        (first[0].states(left), first[1].states(right)),
                        padded,
                    )
                    out[torch.from_numpy(left), torch.from_numpy(right)] = score
                    if callback is not None:
                        callback(len(left))
        return out

    def _both(
        self, queries: Any, corpus: Any
    ) -> tuple[PackedGraphs, PackedGraphs, int | None]:
        """Pack and check both sides; say how far edges are padded as published."""
        queries, corpus = self._pack(queries, "queries"), self._pack(corpus, "corpus")
        self._check_weights()
        count = int(((queries.num_nodes > 1) & (queries.num_edges == 0)).sum())
        if self.kind == "edge" and count:
            warnings.warn(
                f"queries: {count} of several nodes without any edge, whose score is 0 "
                "everywhere in a network of kind 'edge'; kind='node' tells them apart",
                UserWarning,
                stacklevel=3,
            )
        if not self.parity or self.padded_size is not None:
            return queries, corpus, None
        # the published padding of edges: the most that any graph here has
        most = max(int(side.num_edges.max(initial=0)) for side in (queries, corpus))
        return queries, corpus, most

    def _check_weights(self) -> None:
        for name, value in self.named_parameters():
            if not bool(value.isfinite().all()):
                raise ValueError(f"weights: {name} is not finite")

    @classmethod
    def from_upstream_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        kind: str = "node",
        parity: bool = True,
        **options: Any,
    ) -> Self:
        """Build the network from weights of the authors' code, in evaluation mode.

        Parameters
        ----------
        state : mapping of str to Tensor or ndarray
            ``state_dict()`` of the authors' model.
        kind : {"node", "edge"}
            Which interaction it is of.
        parity : bool
            Keep what padding does in that code, so that scores agree.
        **options
            Arguments of the constructor, such as ``rounds`` or ``padded_size``.

        Raises
        ------
        ValueError
            Weights that are missing, unknown or of another shape.
        """
        state = {key: torch.as_tensor(value) for key, value in state.items()}
        sizes: dict[str, Any] = upstream_sizes(state)
        network = cls(kind=kind, parity=parity, **sizes, **options)
        return load_upstream(network, state).eval()


class EncodedGraphs:
    """Graphs with what :meth:`MatchingNetwork.encode` says of each, stored ragged."""

    def __init__(self, model: MatchingNetwork, graphs: PackedGraphs, block: int = 512):
        self.graphs, self.edges = graphs, model.kind == "edge"
        self.counts = graphs.num_edges if self.edges else graphs.num_nodes
        self._at = np.concatenate([[0], self.counts.cumsum()])
        parts = []
        for start in range(0, len(graphs), block):
            index = np.arange(start, min(start + block, len(graphs)))
            states = model.encode(graphs.batch(index, self.edges))
            if states is None:
                break
            count = torch.from_numpy(self.counts[index]).to(states.device)
            parts.append(states[present(count, states.shape[1])])
        self.rows = torch.cat(parts) if parts else None

    def batch(self, index: Sequence[int] | np.ndarray) -> GraphBatch:
        """Return the graphs of ``index``."""
        return self.graphs.batch(index, self.edges)

    def states(self, index: np.ndarray) -> Tensor | None:
        """Return their states, padded to the largest of them."""
        if self.rows is None:
            return None
        device = self.rows.device
        length = int(self.counts[index].max(initial=0))
        if not self.edges:
            length = max(length, 1)
        start = torch.from_numpy(self._at[index]).to(device)
        count = torch.from_numpy(self.counts[index]).to(device)
        return gather_rows(self.rows, start, count, length)


def _check_pairs(pairs: Any, n_queries: int, n_corpus: int) -> np.ndarray:
    if pairs is None:
        if n_queries != n_corpus:
            raise ValueError(
                f"queries, corpus: expected lists of equal length or pairs=, found "
                f"{n_queries} and {n_corpus} graphs"
            )
        return np.stack([np.arange(n_queries)] * 2, 1)
    pairs = np.asarray(pairs.cpu() if hasattr(pairs, "cpu") else pairs)
    if pairs.size == 0:
        return np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"pairs: expected integers of shape (P, 2), found {pairs.dtype} of shape "
            f"{pairs.shape}"
        )
    for column, size, name in ((0, n_queries, "queries"), (1, n_corpus, "corpus")):
        low, high = pairs[:, column].min(), pairs[:, column].max()
        if low < 0 or high >= size:
            raise ValueError(
                f"pairs: indices {low} to {high} of {name}, of which there are {size}"
            )
    return pairs.astype(np.int64)
