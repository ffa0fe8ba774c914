"""Soft alignments of two sets, and what they say about containment."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from manifoldkit.graphs.matching.models.packed import present
from manifoldkit.linalg import sinkhorn


class Alignment(NamedTuple):
    """A soft injection of the query's set into the corpus graph's set.

    Attributes
    ----------
    plan : Tensor, shape (B, n, m)
        Shares; zero in rows and columns that are not there.
    pad : Tensor, shape (B, m)
        What one row of padding takes of each column.
    n_pads : Tensor, shape (B,)
        Number of such rows.
    """

    plan: Tensor
    pad: Tensor
    n_pads: Tensor


def align(
    query: Tensor,
    corpus: Tensor,
    query_count: Tensor,
    corpus_count: Tensor,
    *,
    padded: int | None = None,
    tau: float = 0.1,
    n_iter: int = 20,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Alignment:
    """Align by Sinkhorn; what is left of the larger set goes to padding.

    Padding has logits of zero. All of it is one row and one column, whose masses are
    what is missing up to the size of the square problem: the larger of the two counts,
    or ``padded`` if that is more.

    Parameters
    ----------
    query, corpus : Tensor, shape (B, n, d) and (B, m, d)
        Vectors whose products are the logits.
    query_count, corpus_count : Tensor, shape (B,)
        How many of the n and m are there.
    padded : int, optional
        Size that the published code pads to.
    tau, n_iter, noise, generator
        See :func:`sinkhorn`.
    """
    n, m = query.shape[1], corpus.shape[1]
    size = torch.maximum(query_count, corpus_count)
    if padded is not None:
        size = size.clamp_min(padded)
    logits = F.pad(torch.bmm(query, corpus.mT), (0, 1, 0, 1))
    options = {"dtype": logits.dtype, "device": logits.device}
    rows = _mass(query_count, n, size, options)
    columns = _mass(corpus_count, m, size, options)
    plan = sinkhorn(
        logits,
        tau,
        n_iter,
        row_mass=rows,
        column_mass=columns,
        noise=noise,
        generator=generator,
    )
    pads = rows[:, -1]
    pad = plan[:, -1, :-1] / pads.clamp_min(1.0)[:, None]
    return Alignment(plan[:, :-1, :-1], pad, pads)


def _mass(count: Tensor, length: int, size: Tensor, options: dict) -> Tensor:
    return torch.cat([present(count, length), (size - count)[:, None]], 1).to(**options)


def attend(
    query: Tensor,
    corpus: Tensor,
    query_count: Tensor,
    corpus_count: Tensor,
    *,
    padded: int | None = None,
    tau: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention in both directions, (B, n, m) and (B, m, n).

    ``padded`` keeps the padding of the published code, whose logits are zero and which
    takes part in every softmax; by default there is none.
    """
    logits = torch.bmm(query, corpus.mT) / tau
    one = logits.new_full((), -torch.inf if padded is None else 0.0)

    def direction(scores: Tensor, count: Tensor) -> Tensor:
        there = present(count, scores.shape[2])
        scores = scores.masked_fill(~there[:, None], -torch.inf)
        weight = (max(padded or 0, 0) - count).clamp_min(0).to(scores.dtype)
        rest = (one + weight.log())[:, None, None].expand(-1, scores.shape[1], 1)
        # a floor that no real logit reaches keeps an empty row from dividing by zero
        floor = rest.new_full((), torch.finfo(rest.dtype).min / 2)
        full = torch.cat([scores, torch.maximum(rest, floor)], 2)
        return full.softmax(-1)[..., :-1]

    return direction(logits, corpus_count), direction(logits.mT, query_count)


def coverage(query: Tensor, corpus: Tensor, found: Alignment, count: Tensor) -> Tensor:
    """Return ``sum relu(query - plan @ corpus)`` over the rows that are there."""
    short = torch.relu(query - torch.bmm(found.plan, corpus)).sum(-1)
    return (short * present(count, query.shape[1])).sum(-1)


def pad_coverage(corpus: Tensor, found: Alignment) -> Tensor:
    """Return what rows of padding add to the published score."""
    taken = torch.bmm(found.pad[:, None], corpus)[:, 0]
    return found.n_pads * torch.relu(-taken).sum(-1)


def node_structure(
    plan: Tensor, query: Tensor, corpus: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how many edges the aligned image lacks, and how many it has too many.

    With the expected image ``plan @ corpus @ plan.T`` of the adjacency: the sums of
    ``relu(query - image)`` and ``relu(image - query)`` over pairs of different nodes.
    """
    image = torch.bmm(torch.bmm(plan, corpus), plan.mT)
    gap = image - query
    gap = gap - torch.diag_embed(gap.diagonal(dim1=-2, dim2=-1))
    extra = torch.relu(gap).sum((-1, -2)) / 2
    return extra - gap.sum((-1, -2)) / 2, extra


def edge_structure(
    plan: Tensor, query: Tensor, corpus: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the same two figures from an alignment of edges.

    Missing: meetings of query edges whose images do not meet. Too many: corpus edges
    without partner between nodes that aligned edges cover, ``relu(c_u + c_v - 1 - p)``.

    Parameters
    ----------
    plan : Tensor, shape (B, n_edges, m_edges)
    query, corpus : Tensor, shape (B, n_edges, n) and (B, m_edges, m)
        Incidence matrices.
    """
    meet_q, meet_c = query @ query.mT, corpus @ corpus.mT
    for meet in (meet_q, meet_c):
        meet.diagonal(dim1=-2, dim2=-1).zero_()
    image = torch.bmm(torch.bmm(plan, meet_c), plan.mT)
    gap = torch.relu(meet_q - image)
    missing = (gap.sum((-1, -2)) - gap.diagonal(dim1=-2, dim2=-1).sum(-1)) / 2
    partner = plan.sum(1)
    covered = torch.bmm(partner[:, None], corpus).clamp_max(1.0)
    ends = torch.bmm(covered, corpus.mT)[:, 0]
    edge = corpus.sum(-1) > 0
    extra = (torch.relu(ends - 1 - partner) * edge).sum(-1)
    return missing, extra
