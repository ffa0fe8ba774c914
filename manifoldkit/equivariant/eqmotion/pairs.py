"""Pairs of agents: all of them, or the edges of a graph.

Both classes know the same four operations, so that the layers are written once.
Geometric features have shape (D, B, N, C): with the spatial axis first, squared norms
are sums of D large arrays instead of reductions over two or three neighbors.
"""

from typing import Any

import torch
from torch import Tensor

from manifoldkit._checks import check_count, check_positive, optional
from manifoldkit.equivariant.eqmotion.inputs import lengths_of
from manifoldkit.linalg.checks import check_floating

NORMALIZE = ("sum", "mean", "sqrt")
_COMPACT_UP_TO = 8  # agents; beyond, skipping (i, i) saves less than it costs


class PairDistance(torch.autograd.Function):
    """Distances |x_i - x_j| of all pairs, channel by channel.

    (D, ..., N, C) gives (..., N, N, C). Only the input and the distances are kept for
    the backward pass; where a distance is zero its gradient is zero.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the distances."""
        square = torch.zeros((), dtype=x.dtype, device=x.device)
        for c in x:
            gap = c.unsqueeze(-2) - c.unsqueeze(-3)
            square = square + gap * gap
        return square.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep the points and the distances."""
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def jvp(ctx: Any, of_x: Tensor) -> Tensor:
        """Return the change of the distances, zero where a distance is zero."""
        x, distance = ctx.saved_tensors
        change = torch.zeros_like(distance)
        for c, d in zip(x, of_x, strict=True):
            gap, turn = (a.unsqueeze(-2) - a.unsqueeze(-3) for a in (c, d))
            change = change + gap * turn
        return change / distance.where(distance > 0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of the points."""
        x, distance = ctx.saved_tensors
        apart = distance > 0
        weight = (grad + grad.transpose(-3, -2)) / distance.where(apart, 1.0)
        weight = weight * apart
        return torch.stack(
            [(weight * (c.unsqueeze(-2) - c.unsqueeze(-3))).sum(-2) for c in x]
        )


def neighbor_scale(count: Tensor, normalize: str) -> Tensor | None:
    """Return the factor of a sum over ``count`` neighbors; None for the plain sum."""
    if normalize == "sum":
        return None
    count = count.clamp_min(1.0)
    return 1 / count if normalize == "mean" else count.rsqrt()


class DensePairs:
    """All ordered pairs (i, j) of each sample; features of pairs are (..., B, N, N, F).

    Parameters
    ----------
    n_agents : int
        N.
    mask : Tensor of bool, shape (B, N), or None
        The valid agents; the others are nobody's neighbor.
    normalize : {"sum", "mean", "sqrt"}
        What sums over neighbors are divided by: 1, their number, or its root.
    like : Tensor
        Gives dtype and device.
    """

    def __init__(
        self, n_agents: int, mask: Tensor | None, normalize: str, like: Tensor
    ):
        self.n_agents, self.device = n_agents, like.device
        others = 1 - torch.eye(n_agents, dtype=like.dtype, device=like.device)
        self.valid = None if mask is None else mask[:, None, :, None].to(like.dtype)
        weight = others[..., None]
        weight = weight if self.valid is None else weight * self.valid
        self.weight: Tensor | None = weight  # of messages; None where all are one
        self.scale = neighbor_scale(weight.sum(-2), normalize)
        self.empty = n_agents < 2

    def distance(self, x: Tensor) -> Tensor:
        """|x_i - x_j| of features (D, B, N, C)."""
        return PairDistance.apply(x)

    def senders(self, x: Tensor) -> Tensor:
        """Features (..., N, F) of the senders j of every receiver i."""
        return x.unsqueeze(-3)

    def spread(self, receiver: Tensor, sender: Tensor, pair: Tensor) -> Tensor:
        """Pair + receiver_i + sender_j; ``pair`` is overwritten."""
        return pair.add_(receiver.unsqueeze(-2)).add_(self.senders(sender))

    def sum(self, message: Tensor) -> Tensor:
        """Sum of messages over the neighbors j != i."""
        total = (message if self.weight is None else message * self.weight).sum(-2)
        return total if self.scale is None else total * self.scale

    def pull(self, weight: Tensor, x: Tensor) -> Tensor:
        """sum_j w_ij (x_i - x_j) as (sum_j w_ij) x_i - sum_j w_ij x_j."""
        if self.valid is not None:
            weight = weight * self.valid
        total = weight.sum(-2)
        parts = [total * c - (weight * self.senders(c)).sum(-2) for c in x]
        pulled = torch.stack(parts, -4)
        return pulled if self.scale is None else pulled * self.scale

    def from_dense(self, category: Tensor) -> Tensor:
        """Features of pairs out of (B, N, N, F)."""
        return category

    def without_self(self) -> "DensePairs":
        """The same pairs without (i, i), for small N, where these are a large share."""
        if torch.compiler.is_exporting():  # one graph for any number of agents
            return self
        return OtherPairs(self) if 2 <= self.n_agents <= _COMPACT_UP_TO else self


class OtherPairs(DensePairs):
    """All ordered pairs i != j; features of pairs are (..., B, N, N - 1, F)."""

    def __init__(self, dense: DensePairs):
        n, device = dense.n_agents, dense.device
        self.n_agents, self.empty, self.scale = n, False, dense.scale
        place = torch.arange(n * n, device=device).view(n, n)
        off = ~torch.eye(n, dtype=torch.bool, device=device)
        self.index = place[off]  # of the pairs among all N * N
        self.sender = self.index % n
        self.valid = None
        if dense.valid is not None:
            self.valid = self.senders(dense.valid.squeeze(1))
        self.weight = self.valid

    def senders(self, x: Tensor) -> Tensor:
        """Features (..., N, F) of the senders, (..., N, N - 1, F)."""
        n = self.n_agents
        return x.index_select(-2, self.sender).unflatten(-2, (n, n - 1))

    def distance(self, x: Tensor) -> Tensor:
        """|x_i - x_j| of features (D, B, N, C)."""
        return self.from_dense(super().distance(x))

    def from_dense(self, category: Tensor) -> Tensor:
        """Features of pairs out of (B, N, N, F)."""
        n = self.n_agents
        pairs = category.flatten(-3, -2).index_select(-2, self.index)
        return pairs.unflatten(-2, (n, n - 1))


class EdgePairs:
    """The edges of a graph over the agents of a batch; features are (..., E, F).

    Parameters
    ----------
    edges : Tensor of int, shape (3, E)
        Sample, sender j, receiver i.
    shape : tuple of int
        (B, N).
    mask, normalize, like
        Valid agents, divisor of sums, dtype and device, as for :class:`DensePairs`.
    """

    def __init__(
        self,
        edges: Tensor,
        shape: tuple[int, int],
        mask: Tensor | None,
        normalize: str,
        like: Tensor,
    ):
        sample, sender, receiver = edges
        self.edges, self.shape = edges, shape
        self.sender = sample * shape[1] + sender
        self.receiver = sample * shape[1] + receiver
        weight = self.sender != self.receiver
        if mask is not None:
            weight = weight & mask.reshape(-1)[self.sender]
        self.weight = weight.to(like.dtype)[:, None]
        count = self._gather(self.weight)
        self.scale = neighbor_scale(count, normalize)
        self.empty = edges.shape[1] == 0

    def _gather(self, x: Tensor) -> Tensor:
        """Sum features of edges (..., E, F) at their receivers, (..., B, N, F)."""
        nodes = self.shape[0] * self.shape[1]
        total = x.new_zeros(*x.shape[:-2], nodes, x.shape[-1])
        total = total.index_add(-2, self.receiver, x)
        return total.unflatten(-2, self.shape)

    def distance(self, x: Tensor) -> Tensor:
        """|x_i - x_j| of features (D, B, N, C)."""
        x = x.flatten(-3, -2)
        gap = x[:, self.receiver] - x[:, self.sender]
        return lengths_of(gap)

    def spread(self, receiver: Tensor, sender: Tensor, pair: Tensor) -> Tensor:
        """Pair + receiver_i + sender_j."""
        receiver = receiver.flatten(-3, -2)[..., self.receiver, :]
        sender = sender.flatten(-3, -2)[..., self.sender, :]
        return pair + receiver + sender

    def sum(self, message: Tensor) -> Tensor:
        """Sum of messages over the neighbors j != i."""
        total = self._gather(message * self.weight)
        return total if self.scale is None else total * self.scale

    def pull(self, weight: Tensor, x: Tensor) -> Tensor:
        """sum_j w_ij (x_i - x_j)."""
        weight, x = weight * self.weight, x.flatten(-3, -2)
        gaps = x[:, self.receiver] - x[:, self.sender]
        pulled = torch.stack([self._gather(weight * gap) for gap in gaps], -4)
        return pulled if self.scale is None else pulled * self.scale

    def from_dense(self, category: Tensor) -> Tensor:
        """Features of edges out of (B, N, N, F)."""
        sample, sender, receiver = self.edges
        return category[sample, receiver, sender]

    def without_self(self) -> "EdgePairs":
        """The edges, as they are; edges (i, i) have no effect."""
        return self


Pairs = DensePairs | EdgePairs


def neighbor_graph(
    x: Tensor,
    k: int | None = None,
    radius: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Connect every agent to its nearest ones at the last observed step.

    It reads values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    x : Tensor, shape (B, N, T, D) or (N, T, D)
        Observed positions.
    k : int, optional
        Largest number of neighbors.
    radius : float, optional
        Largest distance of a neighbor.
    mask : Tensor of bool, shape (B, N) or (N,), optional
        The valid agents.

    Returns
    -------
    Tensor of int, shape (3, E)
        Sample, sender and receiver of each edge: what
        :class:`~manifoldkit.equivariant.EqMotion` takes as ``edge_index``.

    Raises
    ------
    ValueError
        Neither ``k`` nor ``radius``, or not positive; ``x`` or ``mask`` of another
        shape.
    TypeError
        Not numbers; not floating-point positions.

    Examples
    --------
    >>> x = torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1)
    >>> neighbor_graph(x, radius=2.0).tolist()
    [[0, 0], [1, 0], [0, 1]]
    """
    check_floating(x, "x")
    if k is None and radius is None:
        raise ValueError("neighbor_graph: expected k, radius or both, found neither")
    optional(check_count)(k, "k")
    optional(check_positive)(radius, "radius")
    if x.ndim not in (3, 4) or x.shape[-2] == 0:
        raise ValueError(
            f"x: expected shape (B, N, T, D) or (N, T, D), found {tuple(x.shape)}"
        )
    last = (x if x.ndim == 4 else x[None])[:, :, -1]
    n = last.shape[1]
    gap = torch.linalg.vector_norm(last[:, :, None] - last[:, None], dim=-1)
    off = torch.eye(n, dtype=torch.bool, device=x.device)
    if mask is not None:
        mask = torch.as_tensor(mask, device=x.device)
        if mask.dtype != torch.bool or mask.shape != x.shape[:-2]:
            raise ValueError(
                f"mask: expected booleans of shape {tuple(x.shape[:-2])}, found "
                f"{mask.dtype} {tuple(mask.shape)}"
            )
        mask = mask.reshape(last.shape[:2])
        off = off | ~(mask[:, :, None] & mask[:, None])
    gap = gap.masked_fill(off, torch.inf)
    near = gap < torch.inf if radius is None else gap <= radius
    if k is not None and k < n - 1:
        chosen = gap.topk(k, dim=-1, largest=False).indices
        near = near & torch.zeros_like(near).scatter_(-1, chosen, True)
    sample, receiver, sender = near.nonzero(as_tuple=True)
    return torch.stack([sample, sender, receiver])
