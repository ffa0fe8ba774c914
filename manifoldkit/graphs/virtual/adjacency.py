"""The adjacency with learned virtual nodes as a module."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_settings,
    count,
    interval,
    one_of,
    optional,
)
from manifoldkit.graphs.virtual.kernels import (
    MODES,
    antisymmetric_weights,
    check_adjacency,
    check_normalization,
    cut,
    inverse,
    normalized,
)
from manifoldkit.graphs.virtual.propagation import (
    Blocks,
    DensePropagation,
    LowRankPropagation,
    Road,
)
from manifoldkit.linalg.checks import check_floating

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SETTINGS = {
    "mode": one_of(*MODES),
    "normalize": lambda value, _: check_normalization(value),
    "num_virtual": count(0),
    "embed_dim": count(),
    "threshold": interval(0),
    "sparse_topk": optional(count()),
}


@dataclass(frozen=True, eq=False)
class VirtualNodeWeights:
    """Who reads from and who writes to the virtual nodes.

    Attributes
    ----------
    reads : Tensor, shape (N, nv)
        Weight with which each real node listens to each virtual node.
    writes : Tensor, shape (N, nv)
        Weight with which each virtual node listens to each real node.
    total : Tensor, shape (nv,)
        Sum of both over the real nodes.
    top : Tensor of int64, shape (nv, k)
        The real nodes with the largest weights (both directions together), first the
        largest.
    """

    reads: Tensor
    writes: Tensor
    total: Tensor
    top: Tensor


class SemiAdaptiveAdjacency(nn.Module):
    r"""A road graph with virtual nodes whose links are learned.

    See :func:`~manifoldkit.graphs.semi_adaptive_adjacency` for the weights; they are
    normalized with self loops. Rows receive: ``A[i, j]`` is the weight with which
    node i listens to node j. Real nodes come first.

    Parameters
    ----------
    a_dist : Tensor, shape (N, N)
        Road graph, dense or ``torch.sparse``. A sparse one is never made dense: see
        :meth:`propagation`. With self loops its own diagonal is dropped, so that
        every node listens to itself with weight 1 before normalization.
    num_virtual : int, default=10
        Number of virtual nodes; 0 gives the plain road graph.
    embed_dim : int, default=10
        Size d of the two embeddings, drawn from N(0, 1/d).
    threshold : float, default=0.0
        Learned weights below it become zero.
    mode : {"semi", "adaptive", "all_ones", "distance"}
        "semi" keeps the road graph and learns the links of the virtual nodes;
        "adaptive" learns everything; "all_ones" links every virtual node to all real
        ones with weight 1; "distance" has no virtual nodes.
    normalize : {"row", "sym", "none"}
        See :func:`~manifoldkit.graphs.normalize_adjacency`.
    self_loops : bool, default=True
        Add the identity.
    gate : bool, default=False
        Normalize the roads and the virtual links of a real node i separately and mix
        them, ``(1 - g_i) A_road + g_i A_virtual`` with a learned
        ``g = sigmoid(...)`` that starts at sigmoid(-2) = 0.12. Without it every
        virtual node dilutes the weight of the roads. Needs ``normalize="row"``.
    bidirectional : bool, default=False
        Learn reading and writing independently, ``relu(E1 E2')`` and
        ``relu(F2 F1')``, so that one virtual node connects all pairs. These
        embeddings start positive: a dead link would have no gradient to revive it.
    sparse_topk : int, optional
        Keep this many of the largest learned links of every node.
    direction : {"receiver", "sender"}
        Whether the rows of ``a_dist`` listen or send (as in the files of DCRNN).
    generator : torch.Generator, optional
        Source of the initial embeddings.

    Raises
    ------
    TypeError
        A road graph that is not a tensor of floating-point numbers.
    ValueError
        A road graph that is not square, finite and non-negative; settings that do not
        fit together.

    References
    ----------
    .. [1] X. Cao, D. Zhuang, J. Zhao, S. Wang, "Virtual nodes improve long-term
       traffic prediction", arXiv 2501.10048.

    Examples
    --------
    >>> adjacency = SemiAdaptiveAdjacency(torch.eye(5), num_virtual=2)
    >>> a = adjacency()
    >>> a.shape, bool(torch.allclose(a.sum(1), torch.ones(7)))
    (torch.Size([7, 7]), True)
    >>> adjacency.propagation()(torch.randn(3, 7, 4)).shape
    torch.Size([3, 7, 4])
    """

    def __init__(
        self,
        a_dist: Tensor,
        num_virtual: int = 10,
        embed_dim: int = 10,
        threshold: float = 0.0,
        mode: str = "semi",
        normalize: str = "row",
        self_loops: bool = True,
        gate: bool = False,
        bidirectional: bool = False,
        sparse_topk: int | None = None,
        direction: str = "receiver",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.mode, self.normalize, self.self_loops = mode, normalize, self_loops
        self.num_virtual, self.embed_dim = num_virtual, embed_dim
        self.threshold, self.sparse_topk = threshold, sparse_topk
        self.bidirectional = bidirectional
        check_settings(self, _SETTINGS)
        check_choice(direction, ("receiver", "sender"), "direction")
        if gate and normalize != "row":
            raise ValueError(f"gate: needs normalize='row', found {normalize!r}")
        if mode == "distance":
            self.num_virtual = 0
        check_floating(a_dist, "a_dist")
        self.is_sparse = a_dist.layout != torch.strided
        if self.is_sparse and mode == "adaptive":
            raise ValueError(
                "mode: 'adaptive' learns all N x N weights and needs a dense a_dist; "
                "use mode='semi' with a sparse road graph"
            )
        self._store_road(a_dist, direction)
        n = self.num_real + self.num_virtual
        dtype = self._road_weight.dtype
        learned = mode == "adaptive" or (mode == "semi" and self.num_virtual > 0)
        rows = n if learned else 0
        both = rows if bidirectional and self.num_virtual else 0
        self.e1, self.e2, self.f1, self.f2 = (
            nn.Parameter(torch.empty(k, embed_dim, dtype=dtype))
            for k in (rows, rows, both, both)
        )
        self.gate = (
            nn.Parameter(torch.empty(self.num_real, dtype=dtype)) if gate else None
        )
        self.reset_parameters(generator)
        self._warn_without_links()

    _road_index: Tensor
    _road_weight: Tensor
    _turned_index: Tensor
    _turned_weight: Tensor
    gate: nn.Parameter | None

    def _store_road(self, a_dist: Tensor, direction: str) -> None:
        if self.is_sparse:
            coo = a_dist.to_sparse_coo().coalesce()
            if coo.ndim != 2 or coo.shape[0] != coo.shape[1]:
                raise ValueError(
                    f"a_dist: expected a square matrix, found {tuple(coo.shape)}"
                )
            index, weight, n = coo.indices(), coo.values(), len(coo)
            if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
                raise ValueError("a_dist: expected finite weights, none negative")
            if self.self_loops:
                off = index[0] != index[1]
                index, weight = index[:, off], weight[off]
            road = Road(index, weight, n)
            turned = road.transposed()
            if direction == "sender":
                road, turned = turned, road
            self.num_real = n
            for name, part in (("road", road), ("turned", turned)):
                self.register_buffer(f"_{name}_index", part.ends)
                self.register_buffer(f"_{name}_weight", part.weight)
            return
        check_adjacency(a_dist)
        dense = a_dist.detach().clone()
        if direction == "sender":
            dense = dense.mT.contiguous()
        if self.self_loops:
            dense.fill_diagonal_(0)
        self.num_real = len(dense)
        self.register_buffer("_road_weight", dense)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the embeddings and close the gate anew."""
        std = self.embed_dim**-0.5
        with torch.no_grad():
            for e in (self.e1, self.e2, self.f1, self.f2):
                e.normal_(0, std, generator=generator)
                if self.bidirectional:
                    e.abs_()
            if self.gate is not None:
                self.gate.fill_(-2.0)

    def _warn_without_links(self) -> None:
        if not self.num_virtual:
            return
        with torch.no_grad():
            blocks = self._blocks()
        if not bool((blocks.rv > 0).any() or (blocks.vr > 0).any()):
            warnings.warn(
                f"no virtual node has a link: threshold {self.threshold} is above all "
                "weights; lower it",
                stacklevel=3,
            )

    @property
    def num_nodes(self) -> int:
        """Number of real and virtual nodes."""
        return self.num_real + self.num_virtual

    def _road(self) -> tuple:
        """Return the road graph as it is kept, and transposed."""
        if not self.is_sparse:
            return self._road_weight, self._road_weight.mT
        return (
            Road(self._road_index, self._road_weight, self.num_real),
            Road(self._turned_index, self._turned_weight, self.num_real),
        )

    def _blocks(self) -> Blocks:
        """Return the parts before normalization (mode "adaptive": roads included)."""
        n = self.num_real
        road, turned = self._road()
        if self.mode == "all_ones" or not self.num_virtual:
            rv = self._road_weight.new_ones(n, self.num_virtual)
            vv = rv.new_zeros(self.num_virtual, self.num_virtual)
            vr = rv.mT
        else:
            e1, e2, r = self.e1, self.e2, self.threshold
            vv = antisymmetric_weights(e1[n:], e2[n:], e1[n:], e2[n:], r)
            if self.bidirectional:
                rv = cut(torch.relu(e1[:n] @ e2[n:].mT), r)
                vr = cut(torch.relu(self.f2[n:] @ self.f1[:n].mT), r)
            else:
                rv = antisymmetric_weights(e1[:n], e2[:n], e1[n:], e2[n:], r)
                vr = antisymmetric_weights(e1[n:], e2[n:], e1[:n], e2[:n], r)
        if self.mode == "adaptive":
            road = antisymmetric_weights(
                self.e1[:n], self.e2[:n], self.e1[:n], self.e2[:n], self.threshold
            )
            turned = road.mT
        if self.sparse_topk is None:
            return Blocks(road, turned, rv, vr, vv)
        if self.mode == "adaptive":
            rows = self._largest(torch.cat([road, rv], 1))
            road, rv = rows[:, :n], rows[:, n:]
            turned = road.mT
        else:
            rv = self._largest(rv)
        rows = self._largest(torch.cat([vr, vv], 1))
        return Blocks(road, turned, rv, rows[:, :n], rows[:, n:])

    def _largest(self, rows: Tensor) -> Tensor:
        """Keep the largest entries of each row."""
        k = min(self.sparse_topk or 0, rows.shape[1])
        kept = torch.zeros_like(rows, dtype=torch.bool)
        return torch.where(kept.scatter(1, rows.topk(k, 1).indices, True), rows, 0.0)

    def _dense(self, blocks: Blocks) -> Tensor:
        road, rv, vr, vv = blocks.road, blocks.rv, blocks.vr, blocks.vv
        if not isinstance(road, Tensor):
            raise TypeError("blocks: expected a dense road graph, found a sparse one")
        rest = torch.cat([vr, vv], 1)
        if self.gate is None:
            whole = torch.cat([torch.cat([road, rv], 1), rest])
            return normalized(whole, self.normalize, self.self_loops)
        links = rv.sum(1)
        share = torch.where(links > 0, torch.sigmoid(self.gate), 0.0)
        road = normalized(road, "row", self.self_loops)
        real = torch.cat(
            [(1 - share)[:, None] * road, (share * inverse(links))[:, None] * rv], 1
        )
        if self.self_loops:
            eye = torch.eye(len(vv), dtype=vv.dtype, device=vv.device)
            rest = torch.cat([vr, vv + eye], 1)
        return torch.cat([real, inverse(rest.sum(1))[:, None] * rest])

    def forward(self) -> Tensor | tuple[Tensor, Tensor]:
        """Return the normalized adjacency.

        Returns
        -------
        Tensor, shape (n, n)
            With n = N + nv; or, if the road graph is sparse or ``sparse_topk`` is set,
            ``(edge_index, weight)`` with sources in the first row of ``edge_index``
            and receivers in the second.
        """
        if self.is_sparse:
            return self._low_rank(self._blocks()).edges()
        matrix = self._dense(self._blocks())
        if self.sparse_topk is None:
            return matrix
        target, source = matrix.nonzero(as_tuple=True)
        return torch.stack([source, target]), matrix[target, source]

    def _low_rank(self, blocks: Blocks) -> LowRankPropagation:
        gate = None if self.gate is None else torch.sigmoid(self.gate)
        return LowRankPropagation(blocks, self.normalize, self.self_loops, gate)

    def propagation(self, reverse: bool = False) -> Callable[[Tensor], Tensor]:
        """Return the product with the normalized adjacency as a function.

        The weights are computed once; call it anew in every forward pass. With a
        sparse road graph of E edges the product costs O(E + N nv) instead of O(n^2).

        Parameters
        ----------
        reverse : bool, default=False
            Use the transposed adjacency, normalized in its turn.

        Returns
        -------
        callable
            Maps features (..., n, channels) to the same shape.
        """
        blocks = self._blocks()
        if reverse:
            blocks = blocks.reversed()
        if self.is_sparse:
            return self._low_rank(blocks)
        return DensePropagation(self._dense(blocks))

    def explain(self, k: int = 5) -> VirtualNodeWeights:
        """Return the links of the virtual nodes before normalization.

        Parameters
        ----------
        k : int, default=5
            Number of real nodes to name for each virtual node.

        Raises
        ------
        ValueError
            ``k`` is negative.
        """
        check_count(k, "k", 0)
        with torch.no_grad():
            blocks = self._blocks()
        reads, writes = blocks.rv.detach(), blocks.vr.mT.detach()
        both = reads + writes
        top = both.topk(min(k, self.num_real), dim=0).indices.mT
        return VirtualNodeWeights(reads, writes, both.sum(0), top)

    def plot(
        self,
        lat: ArrayLike,
        lon: ArrayLike,
        node: int | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Draw the links of one virtual node where the sensors are, over the roads.

        Parameters
        ----------
        lat, lon : array-like, shape (N,)
            Degrees.
        node : int, optional
            Virtual node; default the one with the largest total weight.
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            There are no virtual nodes, or not this one; places of another number.
        """
        from manifoldkit.graphs.virtual.map import draw_weights

        if not self.num_virtual:
            raise ValueError("plot: there are no virtual nodes")
        weights = self.explain()
        node = int(weights.total.argmax()) if node is None else node
        if not 0 <= node < self.num_virtual:
            raise ValueError(
                f"node: expected 0 to {self.num_virtual - 1}, found {node}"
            )
        roads = self._road_index if self.is_sparse else self._road_weight.nonzero().mT
        links = weights.reads[:, node].cpu(), weights.writes[:, node].cpu()
        return draw_weights(lat, lon, *links, node, ax, roads.cpu())

    def extra_repr(self) -> str:
        """Sizes and mode."""
        return (
            f"{self.num_real} + {self.num_virtual} nodes, mode={self.mode!r}, "
            f"normalize={self.normalize!r}"
        )
