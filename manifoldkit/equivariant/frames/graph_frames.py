"""Frames of graphs: the orders of their nodes that sort spectral rows."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count, check_positive, optional
from manifoldkit.equivariant.frames.builders import power_of_two
from manifoldkit.linalg.checks import check_finite, check_square

# an irrational shift keeps simple fractions away from the borders of rounding
_SHIFT = 0.3819660112501051


class GraphFrame(NamedTuple):
    """Orders of the nodes of a batch of graphs.

    Attributes
    ----------
    order : Tensor, shape (B, n)
        Nodes in the order of their rows; masked nodes last.
    block : Tensor, shape (B, n)
        Number of the set of equal rows at every place of the order.
    log_size : Tensor, shape (B,)
        Logarithm of the number of orders: the product of factorials of the sizes of
        the sets of equal rows.

    Examples
    --------
    A star: its three leaves share a block, and can be put in 6 orders.

    >>> star = torch.zeros(4, 4)
    >>> star[0, 1:] = star[1:, 0] = 1
    >>> frame = graph_frame(star)
    >>> frame.block.unique(return_counts=True)[1].tolist()
    [1, 3]
    >>> round(float(frame.log_size.exp()))
    6
    """

    order: Tensor
    block: Tensor
    log_size: Tensor


def spectral_rows(
    adjacency: Tensor,
    mask: Tensor | None = None,
    *,
    tol: float = 1e-6,
    decimals: int = 5,
) -> Tensor:
    r"""Return rows :math:`S_{ig} = \sum_{k \in g} U_{ik}^2` of the Laplacian spectrum.

    The eigenvectors of equal eigenvalues enter together, so rows do not depend on the
    choice of eigenvectors, and relabeling the nodes reorders the rows.

    Parameters
    ----------
    adjacency : Tensor, shape (B, n, n)
        Symmetric weights.
    mask : Tensor of bool, shape (B, n), optional
        Nodes that exist.
    tol : float, default=1e-6
        A larger distance of eigenvalues starts a new group.
    decimals : int, default=5
        Digits that are kept.

    Returns
    -------
    Tensor of int64, shape (B, n, n)
        Rows in units of the last digit; unused groups are zero.
    """
    a = adjacency.double()
    if mask is not None:
        both = mask[:, :, None] & mask[:, None, :]
        a = torch.where(both, a, 0.0)
    laplacian = torch.diag_embed(a.sum(-1)) - a
    if mask is not None:  # absent nodes get an eigenvalue beyond all others
        total = a.abs().sum((-1, -2))
        beyond = torch.where(total > 0, 4 * total, 1.0)
        laplacian = laplacian + torch.diag_embed(
            torch.where(mask, 0.0, beyond[:, None])
        )
    s, u = torch.linalg.eigh(laplacian)
    own = s.abs()
    if mask is not None:  # so that padding does not change what counts as equal
        own = torch.where(s < 0.75 * beyond[:, None], own, 0.0)
    size = own.amax(-1, keepdim=True) if s.shape[-1] else s
    step = s.diff(dim=-1) > tol * size
    start = torch.zeros_like(s[:, :1], dtype=torch.long)
    group = torch.cat([start, step.long().cumsum(-1)], -1)[:, : s.shape[-1]]
    rows = torch.zeros_like(u).scatter_add_(
        2, group[:, None, :].expand_as(u), u.square()
    )
    return (rows * 10**decimals + _SHIFT).round().long()


def graph_frame(
    adjacency: Tensor,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    tol: float = 1e-6,
    decimals: int = 5,
    symmetrize: bool = False,
) -> GraphFrame:
    """Return all orders of the nodes that sort their spectral rows.

    It reads values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    adjacency : Tensor, shape (B, n, n) or (n, n)
        Symmetric weights; need not be connected.
    features : Tensor, shape (B, n, c), optional
        Node features, which come after the spectral rows in the comparison.
    mask : Tensor of bool, shape (B, n), optional
        Nodes that exist.
    tol, decimals
        Distance of eigenvalues and digits that count, see :func:`spectral_rows`.
    symmetrize : bool, default=False
        Take the mean of the adjacency and its transpose for directed graphs.

    Returns
    -------
    GraphFrame

    Raises
    ------
    ValueError
        A directed graph, unless ``symmetrize=True``.

    References
    ----------
    Puny et al., "Frame Averaging", ICLR 2022, section 3.2; equal rows are found on
    rounded float64 numbers, not by the equality of float32 eigenvalues.

    Examples
    --------
    A path of three nodes: its ends are alike, so there are two orders.

    >>> path = torch.tensor([[0., 1., 0.], [1., 0., 1.], [0., 1., 0.]])
    >>> frame = graph_frame(path)
    >>> round(float(frame.log_size.exp()))
    2
    """
    check_square(adjacency, "adjacency")
    if adjacency.ndim > 3:
        raise ValueError(
            f"adjacency: expected shape (B, n, n), found {tuple(adjacency.shape)}"
        )
    check_finite(adjacency, "adjacency")
    single = adjacency.ndim == 2
    if single:
        adjacency = adjacency[None]
        features = None if features is None else features[None]
        mask = None if mask is None else mask[None]
    adjacency = _undirected(adjacency, symmetrize)
    b, n = adjacency.shape[:2]
    for name, value in (("features", features), ("mask", mask)):
        if value is not None and tuple(value.shape[:2]) != (b, n):
            raise ValueError(
                f"{name}: expected shape ({b}, {n}, ...), found {tuple(value.shape)}"
            )
    rows = spectral_rows(adjacency, mask, tol=tol, decimals=decimals)
    if features is not None:
        values = features.double()
        if mask is not None:
            values = torch.where(mask[..., None], values, 0.0)
        check_finite(values, "features")
        if n:  # digits count from the largest number of a column on, whatever its unit
            values = values / power_of_two(values.abs().amax(1, keepdim=True))
        scaled = (values * 10**decimals + _SHIFT).round().long()
        rows = torch.cat([rows, scaled], -1)
    if mask is not None:
        rows = torch.where(mask[..., None], rows, 0)
        rows = torch.cat([(~mask).long()[..., None], rows], -1)
    frame = _sorted_frame(rows, mask)
    return GraphFrame(*(v[0] for v in frame)) if single else frame


def _sorted_frame(rows: Tensor, mask: Tensor | None) -> GraphFrame:
    """Sort rows (B, n, c) by all columns, and find the sets of equal ones."""
    b, n = rows.shape[:2]
    order = torch.arange(n, device=rows.device).expand(b, n)
    for column in range(rows.shape[-1] - 1, -1, -1):
        key = rows[..., column].gather(1, order)
        order = order.gather(1, key.argsort(dim=1, stable=True))
    placed = rows.gather(1, order[..., None].expand_as(rows))
    new = (placed[:, 1:] != placed[:, :-1]).any(-1).long()
    block = torch.cat([new.new_zeros(b, 1), new.cumsum(1)], 1)[:, :n]
    counts = torch.zeros(b, max(n, 1), dtype=torch.float64, device=rows.device)
    present = torch.ones(b, n, dtype=torch.bool, device=rows.device)
    if mask is not None:
        present = mask.gather(1, order)
    counts.scatter_add_(1, block, present.double())
    return GraphFrame(order, block, torch.lgamma(counts + 1).sum(1))


def _undirected(adjacency: Tensor, symmetrize: bool) -> Tensor:
    other = adjacency.mT
    if symmetrize:
        return (adjacency + other) / 2
    if not torch.compiler.is_compiling() and not bool((adjacency == other).all()):
        raise ValueError(
            "adjacency: expected a symmetric matrix, found a directed graph; "
            "symmetrize=True takes the mean with its transpose"
        )
    return adjacency


def sample_orders(frame: GraphFrame, count: int = 1) -> Tensor:
    """Return random orders of a frame, shape (B, count, n).

    Parameters
    ----------
    frame : GraphFrame
        Frame of a batch.
    count : int, default=1
        Orders a graph; drawn from torch's generator.
    """
    noise = torch.rand(*frame.block.shape[:1], count, frame.block.shape[1])
    key = frame.block[:, None].double() + noise.to(frame.block.device).double()
    place = key.argsort(-1)
    return frame.order[:, None].expand(-1, count, -1).gather(2, place)


def enumerate_orders(order: Tensor, block: Tensor, absent: int = 0) -> Tensor:
    """Return every order of one graph, shape (size, n).

    Parameters
    ----------
    order, block : Tensor, shape (n,)
        Row of a :class:`GraphFrame`.
    absent : int, default=0
        Masked nodes at the end, which stay where they are.
    """
    nodes = order.tolist()
    blocks = block.tolist()
    last = len(nodes) - absent
    sets: dict[int, list[int]] = {}
    for node, number in zip(nodes[:last], blocks[:last], strict=True):
        sets.setdefault(number, []).append(node)
    choices = (itertools.permutations(members) for members in sets.values())
    found = [
        [node for part in parts for node in part] + nodes[last:]
        for parts in itertools.product(*choices)
    ]
    return torch.tensor(found, dtype=torch.long, device=order.device)


class GraphFrameAveraging(nn.Module):
    """Average a backbone over the orders of nodes that sort spectral rows.

    Parameters
    ----------
    backbone : nn.Module or callable
        ``backbone(adjacency)`` or, with features, ``backbone(adjacency, features)``
        for batches of reordered graphs; may depend on the order of the nodes.
    out_type : {"invariant", "nodes", "edges"}
        The output is one value a graph, a row for every node (dimension 1), or one for
        every pair of nodes (dimensions 1 and 2).
    max_exact : int, default=120
        Frames up to this size are averaged over completely; of larger ones
        ``samples`` orders are drawn, so that invariance holds in expectation.
    samples : int, default=1
        Orders that are drawn.
    individualize : bool, default=False
        Mark one node as root, and average over all roots: tells apart graphs all of
        whose nodes look alike. Costs n frames a graph.
    chunk : int, optional
        Reordered graphs a call of the backbone.
    tol, decimals, symmetrize
        Settings of the spectral rows, see :func:`graph_frame`.

    Notes
    -----
    How many orders a graph has depends on its values, so ``torch.export`` and
    ``torch.func.vmap`` cannot trace this module; ``torch.func.grad`` can.

    References
    ----------
    Puny et al., "Frame Averaging", ICLR 2022.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = GraphFrameAveraging(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    >>> a = torch.tensor([[0., 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]])
    >>> p = torch.tensor([2, 0, 3, 1])
    >>> bool(torch.allclose(net(a[None]), net(a[p][:, p][None])))
    True
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        out_type: str = "invariant",
        *,
        max_exact: int = 120,
        samples: int = 1,
        individualize: bool = False,
        chunk: int | None = None,
        tol: float = 1e-6,
        decimals: int = 5,
        symmetrize: bool = False,
    ):
        super().__init__()
        check_choice(out_type, ("invariant", "nodes", "edges"), "out_type")
        check_count(samples, "samples")
        check_count(max_exact, "max_exact", 0)
        check_positive(tol, "tol")
        check_count(decimals, "decimals", 0)
        optional(check_count)(chunk, "chunk")
        self.backbone, self.out_type = backbone, out_type
        self.max_exact, self.samples = max_exact, samples
        self.individualize, self.chunk = individualize, chunk
        self.tol, self.decimals, self.symmetrize = tol, decimals, symmetrize

    def frame_of(
        self,
        adjacency: Tensor,
        features: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> GraphFrame:
        """Return the frame of a batch of graphs, to be kept and given to forward."""
        return graph_frame(
            adjacency,
            features,
            mask,
            tol=self.tol,
            decimals=self.decimals,
            symmetrize=self.symmetrize,
        )

    def forward(
        self,
        adjacency: Tensor,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        frame: GraphFrame | None = None,
    ) -> Tensor:
        """Return the average over the frame.

        Parameters
        ----------
        adjacency : Tensor, shape (B, n, n)
            Symmetric weights.
        features : Tensor, shape (B, n, c), optional
            Node features.
        mask : Tensor of bool, shape (B, n), optional
            Nodes that exist; absent nodes come last in every order, with zeros in the
            adjacency and the features.
        frame : GraphFrame, optional
            Frame computed before (not with ``individualize``).
        """
        if mask is not None:
            both = mask[:, :, None] & mask[:, None, :]
            adjacency = torch.where(both, adjacency, 0.0)
            if features is not None:
                features = torch.where(mask[..., None], features, 0.0)
        if self.individualize:
            return self._over_roots(adjacency, features, mask)
        if frame is None:
            frame = self.frame_of(adjacency, features, mask)
        owner, orders = self._orders(frame, mask)
        weight = 1.0 / torch.bincount(owner, minlength=len(adjacency)).to(adjacency)
        return self._average(adjacency, features, owner, orders, weight[owner])

    def _over_roots(
        self, adjacency: Tensor, features: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        b, n = adjacency.shape[:2]
        owner = torch.arange(b, device=adjacency.device).repeat_interleave(n)
        root = torch.arange(n, device=adjacency.device).repeat(b)
        marks = nn.functional.one_hot(root, n).to(adjacency)[..., None]
        if mask is not None:
            real = mask[owner, root]
            owner, root, marks = owner[real], root[real], marks[real]
        # a loop on the root enters its spectrum through an extra node, an extra feature
        wide = marks if features is None else torch.cat([features[owner], marks], -1)
        extended = adjacency.new_zeros(len(owner), n + 1, n + 1)
        extended[:, :n, :n] = adjacency[owner]
        # as strong as the strongest edge, whatever the unit of the weights
        peak = adjacency.detach().abs().flatten(1).amax(1) if n else adjacency[:, 0, 0]
        strong = marks[..., 0] * torch.where(peak > 0, peak, 1.0)[owner, None]
        extended[:, :n, n] = extended[:, n, :n] = strong
        seen = torch.ones(len(owner), n + 1, dtype=torch.bool, device=adjacency.device)
        if mask is not None:
            seen[:, :n] = mask[owner]
        above = torch.zeros_like(wide[:, :1])
        above[..., -1] = 2.0
        frame = self.frame_of(extended, torch.cat([wide, above], 1), seen)
        frame = self._without_extra(frame, n)
        own_mask = None if mask is None else mask[owner]
        item, orders = self._orders(frame, own_mask)
        share = 1.0 / torch.bincount(item, minlength=len(owner)).to(adjacency)
        share = share / torch.bincount(owner, minlength=b).to(adjacency)[owner]
        # items are averaged within their root, roots within their graph
        return self._average(adjacency, features, owner[item], orders, share[item])

    @staticmethod
    def _without_extra(frame: GraphFrame, n: int) -> GraphFrame:
        """Drop the node that marked the root from every order."""
        keep = frame.order != n
        shape = (len(frame.order), n)
        return GraphFrame(
            frame.order[keep].reshape(shape),
            frame.block[keep].reshape(shape),
            frame.log_size,
        )

    def _orders(self, frame: GraphFrame, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the graph of every reordering, and the orders."""
        absent = [0] * len(frame.order)
        if mask is not None:
            absent = (~mask).sum(1).tolist()
        limit = math.log(self.max_exact) + 1e-9 if self.max_exact else -1.0
        exact = (frame.log_size <= limit).tolist()
        drawn = sample_orders(frame, self.samples)
        found = [
            enumerate_orders(frame.order[i], frame.block[i], absent[i])
            if exact[i]
            else drawn[i]
            for i in range(len(exact))
        ]
        counts = torch.tensor([len(f) for f in found], dtype=torch.long)
        owner = torch.arange(len(found)).repeat_interleave(counts)
        if not found:
            return owner.to(frame.order.device), frame.order
        return owner.to(frame.order.device), torch.cat(found)

    def _average(
        self,
        adjacency: Tensor,
        features: Tensor | None,
        owner: Tensor,
        orders: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Sum the weighted outputs of reordered graphs at the graphs that own them."""
        totals: list[Tensor] = []  # one: the running sum, of a shape known only then
        step = self.chunk or max(len(owner), 1)
        for start in range(0, max(len(owner), 1), step):
            g, p = owner[start : start + step], orders[start : start + step]
            a = adjacency[g[:, None, None], p[:, :, None], p[:, None, :]]
            args = (a,) if features is None else (a, features[g[:, None], p])
            o = self._back(self.backbone(*args), p)
            w = weight[start : start + step]
            o = o * w.to(o).reshape(-1, *[1] * (o.ndim - 1))
            part = o.new_zeros(len(adjacency), *o.shape[1:]).index_add(0, g, o)
            totals = [part] if not totals else [totals[0] + part]
        return totals[0]

    def _back(self, o: Tensor, p: Tensor) -> Tensor:
        """Give outputs of nodes and edges the original order of the nodes."""
        if not isinstance(o, Tensor) or o.ndim == 0 or len(o) != len(p):
            raise TypeError(
                f"backbone: expected a tensor with {len(p)} items, found "
                f"{tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__}"
            )
        if self.out_type == "invariant":
            return o
        back = p.argsort(-1)
        item = torch.arange(len(p), device=p.device)
        if self.out_type == "nodes":
            return o[item[:, None], back]
        return o[item[:, None, None], back[:, :, None], back[:, None, :]]
