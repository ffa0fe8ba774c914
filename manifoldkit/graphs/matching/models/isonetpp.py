"""IsoNet++: early interaction, guided by an alignment that is refined in rounds."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manifoldkit._checks import check_count
from manifoldkit.graphs.matching.models.base import MatchingNetwork
from manifoldkit.graphs.matching.models.layers import (
    NodePass,
    PairInput,
    Sides,
    gated_update,
    join,
    pair_input,
    perceptron,
)
from manifoldkit.graphs.matching.models.packed import GraphBatch, no_graphs


class IsoNetPP(MatchingNetwork):
    r"""Early-interaction subgraph matching with iteratively refined alignments.

    In every round the whole message passing runs again from the start, while each node
    (or edge) sees what its partner in the other graph looked like at the same layer of
    the previous round; the partner is the mean under the alignment :math:`P` of that
    round,

    .. math::

        P = \mathrm{Sinkhorn}(\phi(X_K^q)\,\phi(X_K^c)^\top), \qquad
        Y_k^q = P X_k^c, \quad Y_k^c = P^\top X_k^q .

    The score is :math:`-\sum \mathrm{relu}(X_K^q - P X_K^c)`: how much of the query
    stays uncovered.

    Parameters
    ----------
    kind : {"node", "edge"}
        Partners of nodes, or of edges (node pairs). "edge" costs half as much again
        and ranks better.
    rounds, layers : int
        Alignments, and message passing steps in each.
    node_dim, edge_dim : int
        Features of nodes and edges of the input; 1 for graphs without any.
    dim, message_dim, align_dim : int
        Sizes of node states, of messages and of the vectors that are aligned.
    tau, n_iter : float, int
        Temperature and iterations of Sinkhorn.
    noise : float
        Factor of Gumbel noise in training; the published configuration has none.
    semantics : {"monomorphism", "induced"}
        "monomorphism" is the published score, to which further edges of the corpus
        graph do not matter. "induced" adds, with two learned weights, the edges that
        the aligned image of the query lacks and those it has too many.
    parity : bool
        Let padding take part as in the published code: pads to ``padded_size`` absorb
        mass and enter the score. By default the score of a pair depends on that pair
        alone.
    padded_size : int, optional
        Size that ``parity`` pads to; default as published 20 nodes, or the largest
        number of edges of all graphs scored together. Larger graphs enlarge it.
    generator : torch.Generator, optional
        Source of the noise.

    Notes
    -----
    The message net is linear, so messages are summed before they are mapped
    (``models.layers.Propagation``); padding is one row of Sinkhorn, not many; round 1
    knows no partner and is shared by all pairs of a graph in :meth:`score_matrix`. Time
    of a pair
    :math:`O(TK(n d^2 + n^2 d) + T\, n_{iter}\, n^2)`, with edges for nodes if
    ``kind="edge"``.

    References
    ----------
    Ramachandran, Raj, Roy, Chakrabarti, De, "Iteratively refined early interaction
    alignment for subgraph matching based graph retrieval", NeurIPS 2024.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> path, cycle = (3, [(0, 1), (1, 2)]), (4, [(0, 1), (1, 2), (2, 3), (3, 0)])
    >>> IsoNetPP("node").score_pairs([path, path], [cycle, path]).shape
    torch.Size([2])
    """

    early_edges = True

    def __init__(
        self,
        kind: str = "node",
        rounds: int = 3,
        layers: int = 5,
        *,
        node_dim: int = 1,
        edge_dim: int = 1,
        dim: int = 10,
        message_dim: int = 20,
        align_dim: int = 16,
        tau: float = 0.1,
        n_iter: int = 20,
        noise: float = 0.0,
        semantics: str = "monomorphism",
        parity: bool = False,
        padded_size: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__(
            kind,
            layers,
            node_dim=node_dim,
            edge_dim=edge_dim,
            dim=dim,
            message_dim=message_dim,
            align_dim=align_dim,
            tau=tau,
            n_iter=n_iter,
            noise=noise,
            semantics=semantics,
            parity=parity,
            padded_size=padded_size,
            generator=generator,
        )
        check_count(rounds, "rounds")
        self.rounds = rounds
        d = self.state_dim
        self.interaction = perceptron(2 * d, 2 * d, d)

    def forward(
        self,
        query: GraphBatch,
        corpus: GraphBatch,
        first: tuple[Tensor | None, Tensor | None] | None = None,
        padded: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Score pairs of graphs.

        Parameters
        ----------
        query, corpus : GraphBatch
            Two batches of equal length.
        first : pair of Tensor, optional
            :meth:`encode` of both; computed when missing.
        padded : int, optional
            Padding in place of ``padded_size``.

        Returns
        -------
        scores : Tensor, shape (B,)
        plans : list of Tensor, shape (B, n, m)
            Alignment after every round.
        """
        pair = pair_input(query, corpus)
        run = self._rounds(pair)
        partners, plans = None, []
        known = first is not None and first[0] is not None
        for t in range(self.rounds):
            both: Any = first  # (B, n, K * d) each
            if t or not known:
                both = run.sides.split(torch.cat(run.states(partners), 1))
            q, c = (side[..., -self.state_dim :] for side in both)
            found = self._align(pair, q, c, padded)
            plans.append(found.plan)
            if t + 1 < self.rounds:
                partners = self._partners(found.plan, *both)
        return self._score(pair, q, c, found), plans

    def encode(self, graphs: GraphBatch) -> Tensor:
        """Return the states of round 1, (B, n, layers * d), for one set of graphs."""
        pair = pair_input(graphs, no_graphs(graphs))
        run = self._rounds(pair)
        return run.sides.split(torch.cat(run.states(None), 1))[0]

    def _rounds(self, pair: PairInput) -> "_NodeRounds | _EdgeRounds":
        return (_NodeRounds if self.kind == "node" else _EdgeRounds)(self, pair)

    def _partners(self, plan: Tensor, query: Tensor, corpus: Tensor) -> Tensor | None:
        """Return what the partners add before the interaction's relu, by layer.

        The last layer of a round is not looked at in the next one, so of a single layer
        nothing is.
        """
        d, kept = self.state_dim, self.layers - 1
        if kept == 0:
            return None
        rows = join(
            torch.bmm(plan, corpus[..., : kept * d]),
            torch.bmm(plan.mT, query[..., : kept * d]),
        )
        first: Any = self.interaction[0]
        rows = rows.view(-1, kept, d).transpose(0, 1).reshape(-1, d)
        out = F.linear(rows, first.weight[:, d:], first.bias)
        return out.view(kept, -1, 2 * d)

    def _interact(self, rows: Tensor, partners: Tensor | None, k: int) -> Tensor:
        """Mix states before layer k with what the partners were after the one before.

        ``partners`` are given after the first linear map, see :meth:`_partners`.
        """
        first: Any = self.interaction[0]
        add = first.bias if partners is None or k == 0 else partners[k - 1]
        mixed = torch.addmm(add, rows, first.weight[:, : self.state_dim].T)
        return self.interaction[2](mixed.relu_())


class _NodeRounds(NodePass):
    """One round of message passing whose interaction is between nodes."""

    def __init__(self, model: IsoNetPP, pair: PairInput):
        super().__init__(model.propagation, model.node_encoder, pair)
        self.model, self.sides = model, pair.sides

    def states(self, partners: Tensor | None) -> list[Tensor]:
        x, kept = self.start, []
        for k in range(self.model.layers):
            x = self.step(self.model._interact(x, partners, k))
            kept.append(x)
        return kept


class _EdgeRounds:
    """One round of message passing whose interaction is between edges."""

    def __init__(self, model: IsoNetPP, pair: PairInput):
        self.model, self.pair = model, pair
        query, corpus = pair.query.incidence, pair.corpus.incidence
        self.sides = Sides(len(query), query.shape[1], corpus.shape[1])
        self.weights = weights = model.propagation.compose()
        self.start = model.node_encoder(join(pair.query.x, pair.corpus.x))
        encoder: Any = model.edge_encoder
        self.edges = encoder(join(pair.query.edge_attr, pair.corpus.edge_attr))
        self.constant = weights["bias"] + pair.degree * weights["degree"]
        self.both, self.bias = model.propagation.both_messages()
        self.gather = torch.cat([weights["state"], weights["edge"]])

    def states(self, partners: Tensor | None) -> list[Tensor]:
        x, e, kept = self.start, self.edges, []
        incidence = self.pair.query.incidence, self.pair.corpus.incidence
        for k in range(self.model.layers):
            e = self.model._interact(e, partners, k)
            query, corpus = self.sides.split(e)
            at_nodes = join(
                torch.bmm(incidence[0].mT, query), torch.bmm(incidence[1].mT, corpus)
            )
            sums = self.pair.neighbor_sum(x)
            features = torch.cat([sums, self.pair.degree * x, x, at_nodes], 1)
            x = gated_update(torch.addmm(self.constant, features, self.gather), x)
            query, corpus = self.pair.sides.split(x)
            ends = join(torch.bmm(incidence[0], query), torch.bmm(incidence[1], corpus))
            e = torch.addmm(self.bias, torch.cat([ends, e], 1), self.both)
            kept.append(e)
        return kept
