"""The part of RISurConv that depends on the cloud alone, computed once."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit.equivariant._clouds import (
    binary_scale,
    check_clouds,
    check_shape,
    split_normals,
)
from manifoldkit.equivariant.neighbors.axes import (
    distance_weights,
    estimate_axes,
    smallest_axis,
)
from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.neighbors.sampling import farthest_point_sample
from manifoldkit.equivariant.neighbors.search import knn
from manifoldkit.equivariant.risurconv.surfaces import bounded_eps, describe
from manifoldkit.linalg.checks import check_finite
from manifoldkit.linalg.elementary import safe_norm

_WIDE = 1024  # centers from which on neighbors two places away are compared
_NORMAL_MIN = 1e-8
_AXIS_NEIGHBORS = 32


@dataclass(frozen=True)
class SurfaceLevel:
    """Neighborhoods of one layer.

    Attributes
    ----------
    features : Tensor, shape (B, S, K, 14)
        Invariants of the neighbors, in cyclic order.
    index : Tensor of int64, shape (B, S, K)
        The neighbors among the points of the level before.
    """

    features: Tensor
    index: Tensor

    def map(self, fn: Callable[[Tensor], Tensor]) -> "SurfaceLevel":
        """Apply a function to both tensors."""
        return SurfaceLevel(fn(self.features), fn(self.index))


@dataclass(frozen=True)
class SurfaceGraph:
    """Neighborhoods and their invariants on all levels of a network.

    They do not depend on weights: compute them once a cloud with the network's
    ``precompute``, keep them, and pass them instead of the cloud. Indexing picks
    clouds.

    Attributes
    ----------
    down : tuple of SurfaceLevel
        From fine to coarse.
    whole : SurfaceLevel or None
        All points of the coarsest level, seen along one or two directions of its axis.
    up : tuple of SurfaceLevel
        From coarse to fine, for segmentation.
    """

    down: tuple[SurfaceLevel, ...]
    whole: SurfaceLevel | None = None
    up: tuple[SurfaceLevel, ...] = ()

    def map(self, fn: Callable[[Tensor], Tensor]) -> "SurfaceGraph":
        """Apply a function to all tensors."""
        return self._each(lambda level: level.map(fn))

    def _each(self, fn: Callable[[SurfaceLevel], SurfaceLevel]) -> "SurfaceGraph":
        return SurfaceGraph(
            tuple(map(fn, self.down)),
            None if self.whole is None else fn(self.whole),
            tuple(map(fn, self.up)),
        )

    def __len__(self) -> int:
        return len(self.down[0].index)

    def __getitem__(self, clouds: Any) -> "SurfaceGraph":
        return self.map(lambda x: x[clouds])

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "SurfaceGraph":
        """Move to a device, and cast the features to a dtype."""
        return self.map(
            lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype)
        )

    def levels(self) -> list[SurfaceLevel]:
        """Return all levels in a fixed order."""
        return [*self.down, *([self.whole] if self.whole else []), *self.up]

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order, see :meth:`from_tensors`."""
        return [x for level in self.levels() for x in (level.features, level.index)]

    def from_tensors(self, tensors: Sequence[Tensor]) -> "SurfaceGraph":
        """Build a graph of the same structure of other tensors."""
        rest = iter(tensors)
        return self.map(lambda _: next(rest))

    def check_finite(self, name: str = "x") -> None:
        """Raise ``ValueError`` naming the first cloud with features not finite."""
        if is_compiling():
            return
        for level in self.levels():
            check_finite(level.features, name, event_ndim=3)

    def scaled(self, factor: Tensor) -> "SurfaceGraph":
        """Return the graph of the clouds scaled by factors (B,).

        Only the first feature, a distance, depends on the size.
        """

        def scale(level: SurfaceLevel) -> SurfaceLevel:
            features = level.features.clone()
            features[..., 0] *= factor.to(features)[:, None, None]
            return replace(level, features=features)

        return self._each(scale)


def stack_graphs(graphs: Sequence[SurfaceGraph]) -> SurfaceGraph:
    """Join graphs of equal shapes along the clouds."""
    rows = zip(*(graph.tensors() for graph in graphs), strict=True)
    return graphs[0].from_tensors([torch.cat(row) for row in rows])


def prepare_normals(
    x: Tensor, normals: Tensor | None, k: int = _AXIS_NEIGHBORS
) -> Tensor:
    """Return unit normals; missing ones (None, zero, NaN) are estimated axes.

    Parameters
    ----------
    x : Tensor, shape (B, N, 3)
        Points.
    normals : Tensor, shape (B, N, 3), optional
        Normals of any length.
    k : int
        Neighbors of the axes.

    Raises
    ------
    ValueError
        Shapes that differ.
    """
    if normals is None:
        return estimate_axes(x, k)[0]
    check_shape(normals, x.shape, "normals")
    length = safe_norm(normals, keepdim=True)
    good = (length > _NORMAL_MIN) & length.isfinite()
    unit = normals / length.where(good, 1.0)
    if is_compiling():
        return torch.where(good, unit, estimate_axes(x, k)[0].to(unit.dtype))
    if bool(good.all()):
        return unit
    warnings.warn(
        f"normals: {int((~good).sum())} of {good.numel()} are zero or not finite; "
        "estimated axes take their places",
        UserWarning,
        stacklevel=2,
    )
    return torch.where(good, unit, estimate_axes(x, k)[0].to(unit.dtype))


def surface_hierarchy(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Order points so that the centers of each level are the first ones.

    Farthest point sampling of the first m points of a farthest-point order returns
    these points again, so one run serves all levels.

    Parameters
    ----------
    x : Tensor, shape (B, N, 3)
        Points.
    sizes : sequence of int
        Centers of the levels, none above N.

    Returns
    -------
    Tensor of int64, shape (B, max(sizes))
    """
    n = x.shape[1]
    smaller = [size for size in sizes if size < n]
    if not smaller:
        return torch.arange(n, device=x.device).expand(x.shape[0], n)
    order = farthest_point_sample(x, max(smaller))
    if max(sizes) < n:
        return order
    rank = torch.full((x.shape[0], n), n, device=x.device)
    rank.scatter_(
        1, order, torch.arange(order.shape[1], device=x.device).expand_as(order)
    )
    return rank.argsort(dim=1, stable=True)


def cloud_eps(points: Tensor, scale: Tensor) -> Tensor:
    """What :func:`describe` adds to lengths in clouds divided by a scale: (B, 1, 1).

    The published 1e-7, and never more than that share of the cloud's radius: then the
    unit of the points does not matter.
    """
    points = points.detach()
    around = points - points.mean(1, keepdim=True)
    radius = around.square().sum(-1).amax(-1).sqrt()[:, None, None]
    return bounded_eps(radius, scale)


def surface_level(
    points: Tensor,
    normals: Tensor,
    centers: Tensor,
    center_normals: Tensor,
    k: int,
    unsigned: bool,
    eps: Tensor,
) -> SurfaceLevel:
    """Find the k nearest points of each center and describe them."""
    _, index = knn(centers, points, min(k, points.shape[1]))
    features, order = describe(
        centers,
        group(points, index),
        center_normals,
        group(normals, index),
        step=2 if centers.shape[1] >= _WIDE else 1,
        unsigned=unsigned,
        eps=eps,
    )
    return SurfaceLevel(features, index.gather(-1, order))


def whole_level(
    points: Tensor, normals: Tensor, axis: str, unsigned: bool, eps: Tensor
) -> SurfaceLevel:
    """One neighborhood of all points, around the centroid.

    The axis of least extent has no sign: "both" directions are described (their
    results are averaged later), or the one with positive third "moment".
    """
    center = points.mean(1, keepdim=True)
    offsets = points - center
    with torch.no_grad():
        direction, _ = smallest_axis(offsets, distance_weights(safe_norm(offsets)))
        if axis == "moment":
            skew = torch.einsum("bni,bi->bn", offsets, direction).pow(3).sum(1)
            direction = direction * torch.where(skew < 0, -1.0, 1.0)[:, None]
            directions = direction[:, None]
        else:
            directions = torch.stack([direction, -direction], 1)
    shape = (points.shape[0], directions.shape[1], *points.shape[1:])
    features, order = describe(
        center.expand_as(directions),
        points[:, None].expand(shape),
        directions,
        normals[:, None].expand(shape),
        unsigned=unsigned,
        eps=eps,
    )
    return SurfaceLevel(features, order)


def build_surface_graph(
    x: Tensor,
    normals: Tensor | None,
    sizes: Sequence[int],
    neighbors: Sequence[int],
    *,
    axis: str | None = "both",
    up_neighbors: Sequence[int] = (),
    unsigned: bool = False,
    in_normals: bool = True,
    axis_neighbors: int = _AXIS_NEIGHBORS,
) -> SurfaceGraph:
    """Compute all levels of clouds of equal size, in float64.

    Parameters
    ----------
    x : Tensor, shape (B, N, 3), or (B, N, 6) with normals
        Points.
    normals : Tensor, shape (B, N, 3), optional
        Default: estimated axes.
    sizes, neighbors : sequence of int
        Centers and neighbors of each level; as many as there are, if fewer.
    axis : {"both", "moment"} or None
        Add the level of the whole cloud.
    up_neighbors : sequence of int
        Neighbors of the levels back to all points.
    unsigned : bool
        Normals have no sign.
    in_normals : bool
        Whether given normals are looked at.
    axis_neighbors : int
        Neighbors of each point for estimated axes.

    Returns
    -------
    SurfaceGraph
        In float64, on the device of ``x``. Gradients flow to points and normals.
    """
    x, normals = split_normals(x, normals)
    points = check_clouds(x).double()
    scale = binary_scale(points)  # exact: features but the first have no unit
    points = points / scale
    eps = cloud_eps(points, scale)
    directions = normals.double() if in_normals and normals is not None else None
    if directions is not None and directions.ndim == 2:
        directions = directions[None]
    directions = prepare_normals(points, directions, axis_neighbors)
    sizes = [min(size, points.shape[1]) for size in sizes]
    order = surface_hierarchy(points, sizes)
    places = [(points, directions)]
    places += [
        (group(points, order[:, :size]), group(directions, order[:, :size]))
        for size in sizes
    ]
    down = tuple(
        surface_level(*fine, *coarse, k, unsigned, eps)
        for fine, coarse, k in zip(places[:-1], places[1:], neighbors, strict=True)
    )
    whole = None if axis is None else whole_level(*places[-1], axis, unsigned, eps)
    up = tuple(
        surface_level(*coarse, *fine, k, unsigned, eps)
        for coarse, fine, k in zip(
            places[:0:-1], places[-2::-1], up_neighbors, strict=False
        )
    )
    graph = SurfaceGraph(down, whole, up)
    for level in graph.levels():
        level.features[..., 0].mul_(scale)
    return graph
