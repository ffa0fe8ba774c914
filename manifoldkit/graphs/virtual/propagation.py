"""Multiplying features of nodes by a normalized adjacency, dense or low-rank."""

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit.graphs.virtual.kernels import inverse


class Road(NamedTuple):
    """A constant sparse road graph, sorted by receiver, without its diagonal."""

    ends: Tensor  # (2, E): receiver, source
    weight: Tensor  # (E,)
    n: int

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the sparse matrix."""
        return torch.sparse_coo_tensor(
            self.ends,
            self.weight.to(dtype),
            (self.n, self.n),
            is_coalesced=True,
            check_invariants=False,
        )

    def sums(self) -> Tensor:
        """Return the sums of the rows."""
        zeros = self.weight.new_zeros(self.n)
        return zeros.index_add(0, self.ends[0], self.weight)

    def transposed(self) -> "Road":
        """Return the graph with its edges turned around, sorted anew."""
        order = torch.argsort(self.ends[1] * self.n + self.ends[0])
        return Road(self.ends.flip(0)[:, order], self.weight[order], self.n)


class Blocks(NamedTuple):
    """An adjacency by its parts: road graph, and real and virtual nodes.

    ``rv[i, k]`` is the weight with which real node i listens to virtual node k.
    """

    road: Tensor | Road
    road_transposed: Tensor | Road
    rv: Tensor
    vr: Tensor
    vv: Tensor

    def reversed(self) -> "Blocks":
        """Return the parts of the transposed adjacency."""
        return Blocks(
            self.road_transposed, self.road, self.vr.mT, self.rv.mT, self.vv.mT
        )


class _SparseProduct(torch.autograd.Function):
    """Constant sparse matrix times dense; the transpose is at hand for backward."""

    @staticmethod
    def forward(ctx, x, road, road_transposed):
        ctx.road, ctx.road_transposed = road, road_transposed
        return torch.sparse.mm(road.matrix(x.dtype), x)

    @staticmethod
    def backward(ctx, grad):
        product = _SparseProduct.apply(grad, ctx.road_transposed, ctx.road)
        return product, None, None


def sparse_product(x: Tensor, road: Road, road_transposed: Road) -> Tensor:
    """Return the product of a constant sparse matrix with features (n, channels)."""
    return _SparseProduct.apply(x, road, road_transposed)


def _weighable(x: Tensor, weight: Tensor) -> Tensor:
    """Return integers and booleans as numbers of the weights' dtype."""
    return x if x.is_floating_point() or x.is_complex() else x.to(weight.dtype)


class DensePropagation:
    """Product with a dense matrix over the nodes' axis, the last but one.

    Parameters
    ----------
    matrix : Tensor, shape (n, n)
        Normalized adjacency.
    """

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product, shape of ``x``: (..., n, channels)."""
        x = _weighable(x, self.matrix)
        front = x.movedim(-2, 0)  # one large product instead of many small ones
        out = self.matrix.to(x.dtype) @ front.flatten(1)
        return out.view(front.shape).movedim(0, -2)


class LowRankPropagation:
    """The same in O(E + N nv): sparse roads, thin blocks for virtual nodes.

    Parameters
    ----------
    blocks : Blocks
        With a sparse road graph.
    normalize : {"row", "sym", "none"}
    self_loops : bool
    gate : Tensor, shape (N,), optional
        Share of the virtual nodes in each real node's average.
    """

    def __init__(
        self,
        blocks: Blocks,
        normalize: str = "row",
        self_loops: bool = True,
        gate: Tensor | None = None,
    ):
        road, turned = blocks.road, blocks.road_transposed
        if isinstance(road, Tensor) or isinstance(turned, Tensor):
            raise TypeError("blocks: expected a sparse road graph, found a dense one")
        self.road: Road = road
        self.transposed: Road = turned
        self.loop = 1.0 if self_loops else 0.0
        road_sums = self.road.sums() + self.loop
        rv, vr, vv = blocks.rv, blocks.vr, blocks.vv
        self.left: Tensor | None = None
        self.right: Tensor | None = None
        if gate is not None:
            share = torch.where(rv.sum(-1) > 0, gate, 0.0)
            self.left = (1 - share) * inverse(road_sums)
            rv = (share * inverse(rv.sum(-1)))[:, None] * rv
        else:
            self.left = _power(road_sums + rv.sum(-1), normalize)
            if self.left is not None:
                rv = self.left[:, None] * rv
        scale = _power(vr.sum(-1) + vv.sum(-1) + self.loop, normalize)
        if scale is None:
            scale = torch.ones_like(vv[:, 0]) if len(vv) else vv.new_zeros(0)
        self.virtual_loop = self.loop * scale
        vr, vv = scale[:, None] * vr, scale[:, None] * vv
        if normalize == "sym":
            self.right = inverse(
                self.transposed.sums() + self.loop + blocks.vr.sum(0)
            ).sqrt()
            columns = inverse(blocks.rv.sum(0) + blocks.vv.sum(0) + self.loop).sqrt()
            rv, vr, vv = rv * columns, vr * self.right, vv * columns
            self.virtual_loop = self.virtual_loop * columns
        self.rv, self.vr, self.vv = rv, vr, vv

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product, shape of ``x``: (..., n, channels)."""
        x = _weighable(x, self.rv)
        front = x.movedim(-2, 0)
        flat = front.flatten(1)
        real, virtual = flat[: self.road.n], flat[self.road.n :]
        scaled = real if self.right is None else self.right.to(x.dtype)[:, None] * real
        local = sparse_product(scaled, self.road, self.transposed)
        local = local + self.loop * scaled
        if self.left is not None:
            local = self.left.to(x.dtype)[:, None] * local
        out = torch.cat(
            [
                local + self.rv.to(x.dtype) @ virtual,
                self.vr.to(x.dtype) @ real
                + self.vv.to(x.dtype) @ virtual
                + self.virtual_loop.to(x.dtype)[:, None] * virtual,
            ]
        )
        return out.view(front.shape).movedim(0, -2)

    def edges(self) -> tuple[Tensor, Tensor]:
        """Return the normalized adjacency as (edge_index, weight), sources first."""
        n, device = self.road.n, self.rv.device
        receiver, source = self.road.ends
        weight = self.road.weight.to(self.rv.dtype)
        loops = torch.arange(n, device=device)
        own = torch.full_like(loops, 1, dtype=weight.dtype) * self.loop
        parts = []
        for i, j, w in ((receiver, source, weight), (loops, loops, own)):
            if self.left is not None:
                w = self.left[i] * w
            if self.right is not None:
                w = w * self.right[j]
            parts.append((i, j, w))
        for block, row, column in ((self.rv, 0, n), (self.vr, n, 0), (self.vv, n, n)):
            i, j = block.nonzero(as_tuple=True)
            parts.append((i + row, j + column, block[i, j]))
        virtual = torch.arange(len(self.virtual_loop), device=device) + n
        parts.append((virtual, virtual, self.virtual_loop))
        target, origin, weights = (torch.cat(p) for p in zip(*parts, strict=True))
        kept = weights != 0
        return torch.stack([origin, target])[:, kept], weights[kept]


def _power(sums: Tensor, normalize: str) -> Tensor | None:
    """Scale of the rows for a normalization."""
    if normalize == "none":
        return None
    return inverse(sums) if normalize == "row" else inverse(sums).sqrt()
