"""The parts that all matching networks share."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from manifoldkit.graphs.matching.models.packed import GraphBatch, present
from manifoldkit.linalg.transforms import is_transformed


class Sides(NamedTuple):
    """How the rows of a tensor belong to queries (first) and corpus graphs.

    Everything that works row by row runs on both sides at once; each side keeps its
    own padding.
    """

    pairs: int
    query: int
    corpus: int

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows as (pairs, query, ...) and (pairs, corpus, ...)."""
        middle, rest = self.pairs * self.query, rows.shape[1:]
        query = rows[:middle].view(self.pairs, self.query, *rest)
        return query, rows[middle:].view(self.pairs, self.corpus, *rest)


def join(query: Tensor, corpus: Tensor) -> Tensor:
    """Return rows of both sides from (pairs, n, d) and (pairs, m, d)."""
    width = query.shape[2:]
    return torch.cat([query.reshape(-1, *width), corpus.reshape(-1, *width)])


class _GatedUpdate(torch.autograd.Function):
    """The elementwise part of a gated recurrent unit, with few passes over memory.

    The benchmark row "isonetpp-edge, training step" takes 28 % longer without it.

    Columns of ``gates``: reset, update, and the two parts of the candidate.
    """

    @staticmethod
    def forward(ctx: Any, gates, hidden):
        d = hidden.shape[1]
        both = torch.sigmoid(gates[:, : 2 * d])
        reset, update = both[:, :d], both[:, d:]
        new = torch.addcmul(gates[:, 2 * d : 3 * d], reset, gates[:, 3 * d :]).tanh_()
        ctx.save_for_backward(both, new, gates, hidden)
        return torch.lerp(new, hidden, update)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):
        both, new, gates, hidden = ctx.saved_tensors
        d = hidden.shape[1]
        reset, update = both[:, :d], both[:, d:]
        out = torch.empty_like(gates)
        kept = grad * update
        candidate = torch.addcmul(grad - kept, grad - kept, new.square(), value=-1)
        out[:, 2 * d : 3 * d] = candidate
        torch.mul(candidate, reset, out=out[:, 3 * d :])
        slope = both * (1 - both)
        torch.mul(candidate, gates[:, 3 * d :], out=out[:, :d])
        torch.mul(grad, hidden - new, out=out[:, d : 2 * d])
        out[:, : 2 * d] *= slope
        return out, kept


def gated_update(gates: Tensor, hidden: Tensor) -> Tensor:
    """Return the new state of a gated recurrent unit from its preactivations."""
    # a compiler saves the passes itself, and a transform needs what it can see through
    if torch.compiler.is_compiling() or is_transformed():
        reset, update, new, recurrent = gates.chunk(4, 1)
        new = torch.tanh(new + reset.sigmoid() * recurrent)
        return torch.lerp(new, hidden, update.sigmoid())
    result: Any = _GatedUpdate.apply(gates, hidden)
    return result


class Propagation(nn.Module):
    """Messages along both directions of every edge, and a gated update of the nodes.

    The message net is one linear map of (source, target, edge), so the sum of the
    messages that reach a node is linear in ``A x``, ``deg * x``, ``x`` and the sum of
    its edges; composed with the input map of the gated unit it is one matrix.

    Parameters
    ----------
    dim, message_dim, edge_dim : int
        Sizes of node states, messages and edge features.
    extra : int
        Further inputs of the update beside the messages.
    """

    def __init__(self, dim: int, message_dim: int, edge_dim: int, extra: int = 0):
        super().__init__()
        self.dim, self.extra = dim, extra
        self.message = nn.Linear(2 * dim + edge_dim, message_dim)
        self.update = nn.GRUCell(message_dim + extra, dim)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.message.reset_parameters()
        self.update.reset_parameters()

    def compose(self) -> dict[str, Tensor]:
        """Return the matrices of the composed map, by what they multiply."""
        d, gru = self.dim, self.update
        width = self.message.out_features
        into, bias_in = gru.weight_ih[:, :width], gru.bias_ih
        message = into @ self.message.weight
        nothing = message.new_zeros(d, d)
        recurrent = gru.weight_hh
        # rows: reset, update, candidate from the input, candidate from the state
        hidden = torch.cat([recurrent[: 2 * d], nothing, recurrent[2 * d :]])
        bias = torch.cat(
            [(bias_in + gru.bias_hh)[: 2 * d], bias_in[2 * d :], gru.bias_hh[2 * d :]]
        )

        def rows(block: Tensor) -> Tensor:
            return torch.cat([block, block.new_zeros(d, block.shape[1])])

        state = torch.cat(
            [rows(message[:, :d]), rows(message[:, d : 2 * d]), hidden], 1
        )
        return {
            "state": state.T,  # [A x, deg * x, x]
            "edge": rows(message[:, 2 * d :]).T,
            "degree": rows((into @ self.message.bias)[:, None]).T,
            "extra": rows(gru.weight_ih[:, width:]).T,
            "bias": bias,
        }

    def both_messages(self) -> tuple[Tensor, Tensor]:
        """Return matrix and bias of the sum of an edge's messages in both directions.

        They multiply ``[x_u + x_v, edge]``: the ends enter alike, the edge twice.
        """
        weight, d = self.message.weight, self.dim
        ends = weight[:, :d] + weight[:, d : 2 * d]
        return torch.cat([ends, 2 * weight[:, 2 * d :]], 1).T, 2 * self.message.bias


def perceptron(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Return linear, relu, linear."""
    return nn.Sequential(
        nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out)
    )


class PairInput(NamedTuple):
    """What the networks read of a batch of pairs."""

    query: GraphBatch
    corpus: GraphBatch
    sides: Sides
    degree: Tensor

    def neighbor_sum(self, rows: Tensor) -> Tensor:
        """Return ``A x`` of both sides."""
        query, corpus = self.sides.split(rows)
        return join(
            torch.bmm(self.query.adjacency, query),
            torch.bmm(self.corpus.adjacency, corpus),
        )


def pair_input(query: GraphBatch, corpus: GraphBatch) -> PairInput:
    """Join two batches of equal length."""
    sides = Sides(len(query.x), query.x.shape[1], corpus.x.shape[1])
    degree = join(query.adjacency.sum(-1, True), corpus.adjacency.sum(-1, True))
    return PairInput(query, corpus, sides, degree)


class NodePass:
    """Message passing over the nodes of both sides, a layer a call of :meth:`step`.

    What bias, degrees and the input's edges bring to the gates is the same in all
    layers and computed once.
    """

    def __init__(self, propagation: Propagation, encoder: nn.Module, pair: PairInput):
        self.pair, self.weights = pair, propagation.compose()
        self.start: Tensor = encoder(join(pair.query.x, pair.corpus.x))
        self.constant = torch.addmm(
            self.weights["bias"] + pair.degree * self.weights["degree"],
            join(pair.query.edge_sum, pair.corpus.edge_sum),
            self.weights["edge"],
        )

    def step(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Return the nodes' next states; ``extra`` is a further input of the gates."""
        parts = [self.pair.neighbor_sum(x), self.pair.degree * x, x]
        weight = self.weights["state"]
        if extra is not None:
            parts.append(extra)
            weight = torch.cat([weight, self.weights["extra"]])
        return gated_update(torch.addmm(self.constant, torch.cat(parts, 1), weight), x)


class Readout(nn.Module):
    """Gated sum over nodes, then a linear map (GMN's aggregator)."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, count: Tensor) -> Tensor:
        """Map (B, n, d), of which so many rows are there, to (B, d)."""
        there = present(count, x.shape[1])[..., None]
        gate, value = self.gate(x).chunk(2, -1)
        return self.out((gate.sigmoid() * value * there).sum(1))
