"""Frame-averaged networks: PointNet with global and local frames, and FA-GNN."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_counts, check_positive
from manifoldkit.equivariant._clouds import check_mask, check_shape
from manifoldkit.equivariant.frames.averaging import FrameAveraging
from manifoldkit.equivariant.frames.builders import pca_frame, power_of_two, wide
from manifoldkit.equivariant.frames.calls import weighted_sum
from manifoldkit.equivariant.frames.types import (
    Frame,
    ValueType,
    into_frame,
    out_of_frame,
    parse_group,
)
from manifoldkit.linalg.checks import (
    check_finite,
    check_floating,
    compute_dtype,
    known_any,
)

_WIDTHS = (64, 128, 128, 512, 2048)
_VECTOR = ValueType("vector")
_POSITION = ValueType("position")


class PointNetBackbone(nn.Module):
    """PointNet without its spatial transformers: for use inside frames.

    A shared network of widths 64, 128, 128, 512, 2048 and a maximum over points; point
    outputs see all stages and the maximum. The part of the maximum in that first layer
    is computed once a cloud, not once a point (same function).

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    n_in : int, default=3
        Numbers a point.
    n_out : int, default=3
        Outputs, a point or a cloud.
    per_point : bool, default=True
        Outputs for every point, or one for the cloud.
    width : float, default=1.0
        Factor on all widths.

    References
    ----------
    Qi et al., "PointNet", CVPR 2017; Puny et al., ICLR 2022, appendix.

    Examples
    --------
    >>> PointNetBackbone(width=0.1).eval()(torch.randn(2, 30, 3)).shape
    torch.Size([2, 30, 3])
    """

    def __init__(
        self,
        n_in: int = 3,
        n_out: int = 3,
        per_point: bool = True,
        width: float = 1.0,
    ):
        super().__init__()
        check_counts(n_in=n_in, n_out=n_out)
        check_positive(width, "width")
        sizes = [max(int(w * width), 4) for w in _WIDTHS]
        pairs = zip([n_in, *sizes[:-1]], sizes, strict=True)
        self.stages = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in sizes)
        self.per_point, self.n_in = per_point, n_in
        head = [max(int(w * width), 4) for w in (256, 256, 128)]
        first = sum(sizes) if per_point else sizes[-1]
        self.local = nn.Linear(first, head[0])
        self.shared: nn.Module = nn.Identity()
        if per_point:
            self.shared = nn.Linear(sizes[-1], head[0], bias=False)
        self.head_norms = nn.ModuleList(nn.BatchNorm1d(b) for b in head)
        self.middle = nn.ModuleList(
            nn.Linear(a, b) for a, b in itertools.pairwise(head)
        )
        self.out = nn.Linear(head[-1], n_out)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return outputs (B, n, n_out) or (B, n_out) of points (B, n, n_in).

        Points of another dtype than the parameters are converted, and the outputs
        back. NaN and infinity are refused where the mask, if any, is true.
        """
        _check_points("x", x, self.n_in)
        if mask is not None:  # what is masked would spoil running statistics too
            x = torch.where(check_mask(mask, x.shape[:-1])[..., None], x, 0.0)
        _check_values("x", x)
        dtype, x = x.dtype, _as_weights(x, self.out)
        stages, h = [], x
        for linear, norm in zip(self.stages, self.norms, strict=True):
            h = torch.relu(_norm(norm, linear(h)))
            stages.append(h)
        if mask is not None:
            h = torch.where(mask[..., None], h, -torch.inf)
        top = h.amax(1) if h.shape[1] else h.new_zeros(h.shape[0], h.shape[2])
        top = torch.where(top.isfinite(), top, 0.0)
        if self.per_point:
            h = self.local(torch.cat(stages, -1)) + self.shared(top)[:, None]
        else:
            h = self.local(top)
        h = torch.relu(_norm(self.head_norms[0], h))
        for linear, norm in zip(self.middle, self.head_norms[1:], strict=True):
            h = torch.relu(_norm(norm, linear(h)))
        return _back(self.out(h), x, dtype)


def _as_weights(x: Tensor, layer: nn.Linear) -> Tensor:
    return x.to(layer.weight.dtype)


def _back(out: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Give outputs the dtype of the input, where it was converted."""
    return out if x.dtype == dtype else out.to(dtype)


def _check_values(name: str, x: Tensor) -> None:
    """Raise for NaN and infinity, which running statistics would keep for good."""
    if known_any(~x.detach().isfinite()):
        check_finite(x, name)


def _check_points(name: str, x: Tensor, last: int) -> None:
    check_floating(x, name)
    if x.ndim != 3 or x.shape[-1] != last:
        raise ValueError(
            f"{name}: expected shape (B, n, {last}), found {tuple(x.shape)}"
        )


def _norm(norm: nn.Module, h: Tensor) -> Tensor:
    return norm(h.flatten(0, -2)).reshape(h.shape)


class FramePointNet(nn.Module):
    """PointNet made equivariant by frames of the cloud or of every neighborhood.

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    task : {"normals", "vectors", "classification"}
        Unoriented normals of unit length, vectors a point, or class scores.
    n_classes : int, optional
        Number of classes.
    frames : {"global", "local"}
        With ``"local"``, the k nearest neighbors of each point are first seen in their
        own frames, which gives ``n_vectors`` equivariant vectors a point; the global
        network then sees positions and vectors in one frame of the cloud, so that the
        whole is exactly equivariant.
    group : str, default="E(3)"
        The group.
    frame : str, default="pca"
        Construction of the global frame; see :class:`FrameAveraging`.
    k : int, default=20
        Neighbors, the point itself included.
    n_vectors : int, default=42
        Vectors a point of the local stage.
    width : float, default=1.0
        Factor on the widths of PointNet.
    **options
        More arguments of the global :class:`FrameAveraging`.

    References
    ----------
    Puny et al., "Frame Averaging", ICLR 2022, section 4.

    Examples
    --------
    >>> net = FramePointNet("classification", 5, width=0.1).eval()
    >>> net(torch.randn(2, 30, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        task: str = "normals",
        n_classes: int | None = None,
        frames: str = "global",
        group: str = "E(3)",
        frame: str = "pca",
        k: int = 20,
        n_vectors: int = 42,
        width: float = 1.0,
        **options: Any,
    ):
        super().__init__()
        check_choice(task, ("normals", "vectors", "classification"), "task")
        check_choice(frames, ("global", "local"), "frames")
        check_counts(k=k, n_vectors=n_vectors)
        if (task == "classification") != (n_classes is not None):
            raise ValueError("n_classes: expected with task='classification' and only")
        self.task, self.frames, self.group, self.k = task, frames, group, k
        per_point = task != "classification"
        n_in = 3 + (3 * n_vectors if frames == "local" else 0)
        backbone = PointNetBackbone(n_in, n_classes or 3, per_point, width)
        kinds = {"normals": "normal", "vectors": "vector"}
        self.local = LocalFrames(k, n_vectors) if frames == "local" else None
        net = backbone if self.local is None else _JoinVectors(backbone)
        self.net = FrameAveraging(
            net,
            group,
            ("position",) if self.local is None else ("position", "vector"),
            kinds.get(task, "scalar"),
            frame,
            **options,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return normals or vectors (B, n, 3), or scores (B, n_classes)."""
        _check_points("x", x, 3)
        _check_values("x", x)
        if self.local is None:
            return self.net(x)
        return self.net(x, self.local(x))


class _JoinVectors(nn.Module):
    """Give a backbone positions and the vectors of every point as one row."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        return self.backbone(torch.cat([x, vectors.flatten(-2)], -1))


class LocalFrames(nn.Module):
    """Equivariant vectors of every point from the frames of its neighborhood.

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    k : int, default=20
        Nearest neighbors, the point itself included.
    n_vectors : int, default=42
        Vectors a point.
    hidden : int, default=64
        Width of the network that sees a neighbor.

    Examples
    --------
    >>> LocalFrames(k=8, n_vectors=4)(torch.randn(2, 20, 3)).shape
    torch.Size([2, 20, 4, 3])
    """

    def __init__(self, k: int = 20, n_vectors: int = 42, hidden: int = 64):
        super().__init__()
        check_counts(k=k, n_vectors=n_vectors, hidden=hidden)
        self.k, self.n_vectors = k, n_vectors
        self.net = nn.Sequential(
            nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2 * hidden), nn.ReLU()
        )
        self.out = nn.Linear(2 * hidden, 3 * n_vectors)

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors (B, n, n_vectors, 3) of points (B, n, 3)."""
        _check_points("x", x, 3)
        _check_values("x", x)
        b, n = x.shape[:2]
        k = min(self.k, n)
        y = x.detach().to(wide(x))
        if n:  # squares of very large or small numbers are none
            y = y - y.mean(1, keepdim=True)
            y = y / power_of_two(y.abs().amax((1, 2), keepdim=True))
        y = y.to(compute_dtype(x.dtype))
        near = torch.cdist(y, y).topk(k, largest=False).indices
        item = torch.arange(b, device=x.device)[:, None, None]
        groups = x[item, near].reshape(b * n, k, 3)
        # flat or symmetric neighborhoods are common on surfaces: no warning for each
        frame = pca_frame(groups, "E(3)")
        z = into_frame(groups, _POSITION, frame)
        h = self.net(_as_weights(z, self.out)).amax(2)
        vectors = self.out(h).unflatten(-1, (self.n_vectors, 3))
        vectors = vectors if self.out.weight.dtype == x.dtype else vectors.to(x.dtype)
        back = out_of_frame(vectors, _VECTOR, frame)
        return weighted_sum(back, frame).reshape(b, n, self.n_vectors, 3)


class FrameGNN(nn.Module):
    """FA-GNN: message passing in every frame, with a new frame after each layer.

    Node states are sets of vectors. A layer writes them in the frames of the current
    point set (for the first: the positions; later: the states themselves), passes
    messages in all frames at once, and averages the result back to vectors.

    The unit of the coordinates is part of what is learned: give positions in one unit.

    Parameters
    ----------
    n_out : int, default=1
        Vectors (positions or displacements) that are forecast for every node.
    n_vectors : int, default=20
        Vectors of a node's state; the hidden width is three times as large.
    n_layers : int, default=4
        Layers.
    n_inputs : int, default=2
        Input vectors a node: the position, and others such as the velocity.
    n_edge : int, default=2
        Edge features.
    group : str, default="E(3)"
        The group.
    detach_frame : bool, default=True
        Take frames for constants in differentiation.

    References
    ----------
    Puny et al., "Frame Averaging", ICLR 2022, section 4.3.

    Examples
    --------
    >>> x, v = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    >>> charges = torch.randn(2, 5, 5, 1)
    >>> FrameGNN(n_edge=2)(x, v, edge_features=charges).shape
    torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        n_out: int = 1,
        n_vectors: int = 20,
        n_layers: int = 4,
        n_inputs: int = 2,
        n_edge: int = 2,
        group: str = "E(3)",
        detach_frame: bool = True,
    ):
        super().__init__()
        check_counts(
            n_out=n_out,
            n_vectors=n_vectors,
            n_layers=n_layers,
            n_inputs=n_inputs,
            n_edge=n_edge,
        )
        parse_group(group)
        self.n_out, self.n_vectors, self.group = n_out, n_vectors, group
        self.n_inputs, self.n_edge = n_inputs, n_edge
        self.detach_frame = detach_frame
        width = 3 * n_vectors
        self.embed = nn.Linear(3 * n_inputs, width)
        self.layers = nn.ModuleList(_Messages(width, n_edge) for _ in range(n_layers))
        self.decode = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * n_out)
        )

    def forward(
        self, x: Tensor, *vectors: Tensor, edge_features: Tensor | None = None
    ) -> Tensor:
        """Return positions of the nodes, the centroid of the input added.

        Parameters
        ----------
        x : Tensor, shape (B, n, 3)
            Positions.
        *vectors : Tensor, shape (B, n, 3)
            More input vectors, such as velocities.
        edge_features : Tensor, shape (B, n, n, n_edge - 1), optional
            Invariant features of ordered pairs; squared distances are added.

        Returns
        -------
        Tensor, shape (B, n, 3), or (B, n, n_out, 3) when ``n_out`` is above one

        Raises
        ------
        TypeError, ValueError
            Inputs that are not floating-point, of another shape or number.
        """
        _check_points("x", x, 3)
        if len(vectors) + 1 != self.n_inputs:
            raise ValueError(
                f"vectors: expected {self.n_inputs - 1} (n_inputs - 1), "
                f"found {len(vectors)}"
            )
        for i, v in enumerate(vectors):
            check_shape(v, x.shape, f"vectors[{i}]")
        wanted = None
        if self.n_edge > 1:
            wanted = (*x.shape[:2], x.shape[1], self.n_edge - 1)
        given = None if edge_features is None else tuple(edge_features.shape)
        if given != wanted:
            raise ValueError(
                f"edge_features: expected {wanted} (n_edge - 1 features a pair), "
                f"found {given}"
            )
        dtype = x.dtype
        x = _as_weights(x, self.embed)
        vectors = tuple(_as_weights(v, self.embed) for v in vectors)
        if edge_features is not None:
            edge_features = _as_weights(edge_features, self.embed)
        center = x.mean(1, keepdim=True)
        square = (x[:, :, None] - x[:, None]).square().sum(-1, keepdim=True)
        edges = square
        if edge_features is not None:
            edges = torch.cat([square, edge_features], -1)
        frame = self._frame(x)
        state = torch.stack([x, *vectors], 2)
        state = torch.cat([state[:, :, :1] - center[:, :, None], state[:, :, 1:]], 2)
        h = self.embed(into_frame(state, _VECTOR, frame).flatten(-2))
        for i, layer in enumerate(self.layers):
            h = layer(h, edges[:, None])
            if i + 1 < len(self.layers):
                state = self._average(h, frame)
                middle = state.mean((1, 2), keepdim=True)
                state = state - middle
                frame = self._frame(state.flatten(1, 2))
                h = into_frame(state, _VECTOR, frame).flatten(-2)
        out = self._average(self.decode(h), frame) + center[:, :, None]
        out = _back(out, x, dtype)
        return out.squeeze(2) if self.n_out == 1 else out

    def _frame(self, points: Tensor) -> Frame:
        return pca_frame(points, self.group, detach=self.detach_frame)

    def _average(self, h: Tensor, frame: Frame) -> Tensor:
        back = out_of_frame(h.unflatten(-1, (-1, 3)), _VECTOR, frame)
        return weighted_sum(back, frame)


class _Messages(nn.Module):
    """One step of message passing on all ordered pairs, residual."""

    def __init__(self, width: int, n_edge: int):
        super().__init__()
        # the first layer of the messages, split: pairs see only the edge part
        self.sender = nn.Linear(width, width)
        self.receiver = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(n_edge, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.node = nn.Sequential(
            nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        pairs = self.receiver(h)[..., :, None, :] + self.sender(h)[..., None, :, :]
        m = self.message(pairs + self.edge(edges))
        n = h.shape[-2]
        others = ~torch.eye(n, dtype=torch.bool, device=h.device)
        total = (m * others[..., None]).sum(-2)
        return h + self.node(torch.cat([h, total], -1))
