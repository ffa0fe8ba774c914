"""Frames from a network that gives equivariant vectors."""

import torch
from torch import Tensor, nn

from manifoldkit.equivariant.frames.builders import Moments, power_of_two, unit
from manifoldkit.equivariant.frames.types import Frame, GroupSpec


class RadialAxes(nn.Module):
    r"""Equivariant vectors of a cloud, :math:`v_k = \sum_i \phi_k(|z_i|^2) z_i`.

    The small network behind ``frame="learned"``: centered points weighed by a function
    of their distance from the center. The vectors vanish on clouds symmetric about it.

    Parameters
    ----------
    count : int
        Number of vectors.
    hidden : int, default=16
        Width of the function of the distance.

    Examples
    --------
    >>> RadialAxes(2)(torch.randn(5, 10, 3)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(self, count: int, hidden: int = 16):
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, count)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return vectors (B, count, d) of points (B, n, d), in the network's dtype."""
        x = x.to(next(self.parameters()).dtype)
        weight = x.new_ones(x.shape[:-1]) if mask is None else mask.to(x)
        if mask is not None:
            x = torch.where(mask[..., None], x, 0.0)
        total = weight.sum(1).clamp_min(1)[:, None, None]
        z = (x - x.sum(1, keepdim=True) / total) * weight[..., None]
        if z.shape[1]:  # squares of very large or small numbers are none
            size = power_of_two(z.detach().abs().amax((1, 2), keepdim=True))
        else:
            size = z.new_ones(z.shape[0], 1, 1)
        z = z / size
        square = z.square().sum(-1, keepdim=True)
        mean = square.sum(1, keepdim=True) / total
        share = square / torch.where(mean > 0, mean, 1.0)
        return self.weigh(share).mT @ z * size


def gram_schmidt_frame(
    vectors: Tensor, m: Moments, spec: GroupSpec, tol: float, detach: bool
) -> Frame:
    """Return one frame a cloud from equivariant vectors (B, d - 1 or d, d)."""
    d = m.t.shape[-1]
    need = d if spec.mirrors else d - 1
    if vectors.ndim != 3 or vectors.shape[1] < need or vectors.shape[2] != d:
        raise ValueError(
            f"frame network: expected vectors of shape (B, {need}, {d}), "
            f"found {tuple(vectors.shape)}"
        )
    v = (vectors.detach() if detach else vectors).to(m.t)
    axes: list[Tensor] = []
    gap = m.t.new_ones(v.shape[0])
    for k in range(need):
        u = unit(v[:, k])
        size = u.norm(dim=-1)
        for e in axes:
            u = u - (u * e).sum(-1, keepdim=True) * e
        gap = torch.minimum(gap, u.norm(dim=-1) / torch.where(size > 0, size, 1.0))
        axes.append(unit(u))
    if not spec.mirrors:
        axes.append(_last_axis(axes))
    r = torch.stack(axes, -1)[:, None]
    flat = r.new_zeros(r.shape[:2])
    scale = m.scale() if spec.scales else None
    gap = gap.detach()
    return Frame(r, m.t, flat, gap, gap < tol, spec.name, scale)


def _last_axis(axes: list[Tensor]) -> Tensor:
    """Return the unit vector that completes the axes to determinant one: cofactors."""
    a = torch.stack(axes, -1)
    d = a.shape[-2]
    parts = []
    for i in range(d):
        rows = [k for k in range(d) if k != i]
        parts.append((-1) ** (i + d - 1) * torch.linalg.det(a[:, rows]))
    return torch.stack(parts, -1)
