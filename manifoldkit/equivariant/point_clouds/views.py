"""Views of a point cloud: other points of it, with noise, stretched, mirrored."""

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.neighbors.sampling import farthest_point_sample


class View(NamedTuple):
    """Points (B, n, 3), their normals or None, and their rows of further data."""

    points: Tensor
    normals: Tensor | None
    extra: Tensor | None

    def cloud(self, i: int) -> "View":
        """Return the view of one cloud, as a batch of one."""
        points, *rest = (None if t is None else t[i : i + 1] for t in self)
        return View(points, *rest)  # type: ignore[arg-type]


def first_view(
    x: Tensor,
    normals: Tensor | None,
    extra: Tensor | None = None,
    n: int | None = None,
) -> View:
    """Return the n farthest points of each cloud, all of them by default."""
    if n in (None, x.shape[1]):
        return View(x, normals, extra)
    return _take(x, normals, extra, farthest_point_sample(x, n or x.shape[1]))


def training_views(
    x: Tensor,
    normals: Tensor | None,
    extra: Tensor | None,
    n: int | None,
    n_views: int,
    *,
    jitter: float,
    stretch: float,
    mirror: bool,
    generator: torch.Generator,
) -> list[View]:
    """Return the first view and ``n_views - 1`` random ones."""
    views = [first_view(x, normals, extra, n)]
    for _ in range(n_views - 1):
        order = torch.rand(x.shape[:2], generator=generator).argsort(1)
        view = _spread(x, normals, extra, order, n or x.shape[1])
        if stretch or mirror:
            view = _deform(view, stretch, mirror, generator)
        if jitter:
            noise = torch.randn(view.points.shape, generator=generator)
            view = view._replace(points=view.points + jitter * noise)
        views.append(view)
    return views


def join_views(views: list[View]) -> View:
    """Put the clouds of several views one after the other."""
    points, normals, extra = zip(*views, strict=True)
    return View(
        torch.cat(points),
        None if normals[0] is None else torch.cat(normals),
        None if extra[0] is None else torch.cat(extra),
    )


def voting_views(
    x: Tensor, normals: Tensor | None, n: int | None, n_votes: int
) -> list[View]:
    """Return the first view and ``n_votes - 1`` with other points.

    The choice does not depend on other clouds, nor on how the cloud is turned.
    """
    views = [first_view(x, normals, None, n)]
    if n in (None, x.shape[1]):
        return views
    for number in range(1, n_votes):
        generator = torch.Generator().manual_seed(number)
        order = torch.randperm(x.shape[1], generator=generator)
        views.append(_spread(x, normals, None, order.expand(len(x), -1), n))
    return views


def _spread(
    x: Tensor, normals: Tensor | None, extra: Tensor | None, order: Tensor, n: int
) -> View:
    """Take n points far apart from the first of an order, halfway between n and all.

    Points at random have gaps and clumps, which the local surfaces would describe.
    """
    if n == x.shape[1]:
        return _take(x, normals, extra, order)
    among = order[:, : (n + x.shape[1]) // 2]
    keep = among.gather(1, farthest_point_sample(group(x, among), n))
    return _take(x, normals, extra, keep)


def _take(
    x: Tensor, normals: Tensor | None, extra: Tensor | None, keep: Tensor
) -> View:
    return View(
        group(x, keep),
        None if normals is None else group(normals, keep),
        None if extra is None else extra.gather(1, keep),
    )


def _deform(
    view: View, stretch: float, mirror: bool, generator: torch.Generator
) -> View:
    """Stretch along the principal axes, reflect at one, and keep the largest radius.

    The axes turn with the cloud, so the views of a turned cloud are the turned views.
    """
    x = view.points
    b = len(x)
    exponent = 2 * torch.rand(b, 3, generator=generator) - 1
    factor = (1 + stretch) ** exponent.to(x)
    if mirror:
        flip = torch.rand(b, generator=generator) < 0.5
        factor[:, 0] = torch.where(flip, -factor[:, 0], factor[:, 0])
    centered = (x - x.mean(1, keepdim=True)).double()
    _, axes = torch.linalg.eigh(centered.mT @ centered)
    axes = axes.to(x)
    points = ((x @ axes) * factor[:, None]) @ axes.mT
    radius, now = (p.norm(dim=-1).amax(1)[:, None, None] for p in (x, points))
    points = points * (radius / now.clamp_min(torch.finfo(x.dtype).tiny))
    normals = view.normals
    if normals is not None:  # surfaces turn with the inverse transpose
        normals = ((normals @ axes) / factor[:, None]) @ axes.mT
    return View(points, normals, view.extra)
