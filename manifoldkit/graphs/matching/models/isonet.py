"""Late interaction and attention: the baselines, from the same parts."""

from typing import Any

import torch
from torch import Tensor

from manifoldkit.graphs.matching.models.alignment import attend
from manifoldkit.graphs.matching.models.base import MatchingNetwork
from manifoldkit.graphs.matching.models.layers import (
    NodePass,
    PairInput,
    Readout,
    join,
    pair_input,
)
from manifoldkit.graphs.matching.models.packed import GraphBatch, no_graphs


class IsoNet(MatchingNetwork):
    """Late interaction: embed both graphs alone, then align nodes or edges once.

    Embeddings are computed once a graph, so a pair costs little more than one
    Sinkhorn. Parameters as for :class:`IsoNetPP`.

    References
    ----------
    Roy, Velugoti, Chakrabarti, De, "Interpretable neural subgraph matching for graph
    retrieval", AAAI 2022.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> path, cycle = (3, [(0, 1), (1, 2)]), (4, [(0, 1), (1, 2), (2, 3), (3, 0)])
    >>> IsoNet("edge").score_matrix([path], [cycle, path]).shape
    torch.Size([1, 2])
    """

    def forward(
        self,
        query: GraphBatch,
        corpus: GraphBatch,
        first: Any = None,
        padded: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return scores (B,) and a list with the one alignment."""
        pair = pair_input(query, corpus)
        both = first
        if both is None or both[0] is None:
            both = self._embed(pair)
        q, c = both
        found = self._align(pair, q, c, padded)
        return self._score(pair, q, c, found), [found.plan]

    def encode(self, graphs: GraphBatch) -> Tensor:
        """Return the embeddings of nodes or edges, (B, n, d)."""
        return self._embed(pair_input(graphs, no_graphs(graphs)))[0]

    def _embed(self, pair: PairInput) -> tuple[Tensor, Tensor]:
        run = NodePass(self.propagation, self.node_encoder, pair)
        x = run.start
        for _ in range(self.layers):
            x = run.step(x)
        query, corpus = pair.sides.split(x)
        if self.kind == "node":
            return query, corpus
        return self._edges(pair.query, query), self._edges(pair.corpus, corpus)

    def _edges(self, graphs: GraphBatch, x: Tensor) -> Tensor:
        both, bias = self.propagation.both_messages()
        rows = torch.cat([graphs.incidence @ x, graphs.edge_attr], -1)
        return torch.nn.functional.linear(rows, both.T, bias)


class GMNMatch(MatchingNetwork):
    """Graph matching network: attention between nodes in every layer, one vector each.

    The score is minus ``sum relu(q - c)`` of the graphs' vectors. Parameters as for
    :class:`IsoNetPP`; there is no alignment to return but the attention.

    References
    ----------
    Li, Gu, Dullien, Vinyals, Kohli, "Graph matching networks for learning the
    similarity of graph structured objects", ICML 2019.

    Examples
    --------
    >>> path, cycle = (3, [(0, 1), (1, 2)]), (4, [(0, 1), (1, 2), (2, 3), (3, 0)])
    >>> GMNMatch().score_matrix([path], [cycle, path]).shape
    torch.Size([1, 2])
    """

    partner_gates = True

    def __init__(
        self,
        kind: str = "node",
        layers: int = 5,
        *,
        node_dim: int = 1,
        edge_dim: int = 1,
        dim: int = 10,
        message_dim: int = 20,
        tau: float = 0.1,
        parity: bool = False,
        padded_size: int | None = None,
    ):
        if kind != "node":
            raise ValueError(f"kind: GMNMatch attends to nodes, found {kind!r}")
        super().__init__(
            kind,
            layers,
            node_dim=node_dim,
            edge_dim=edge_dim,
            dim=dim,
            message_dim=message_dim,
            align_dim=None,
            tau=tau,
            n_iter=1,
            parity=parity,
            padded_size=padded_size,
        )
        self.readout = Readout(dim)

    def forward(
        self,
        query: GraphBatch,
        corpus: GraphBatch,
        first: Any = None,
        padded: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return scores (B,) and the attention (B, n, m) of every layer."""
        pair = pair_input(query, corpus)
        run, plans = NodePass(self.propagation, self.node_encoder, pair), []
        x = run.start
        for _ in range(self.layers):
            q, c = pair.sides.split(x)
            to_corpus, to_query = attend(
                q,
                c,
                query.size,
                corpus.size,
                padded=self.padded_size if padded is None else padded,
                tau=self.tau,
            )
            plans.append(to_corpus)
            partner = join(torch.bmm(to_corpus, c), torch.bmm(to_query, q))
            x = run.step(x, x - partner)
        q, c = pair.sides.split(x)
        q, c = self.readout(q, query.size), self.readout(c, corpus.size)
        return -torch.relu(q - c).sum(-1), plans
