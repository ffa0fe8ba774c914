"""Local surfaces: the order of neighbors around a normal, and 14 invariants."""

import math

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.equivariant._clouds import binary_scale, check_shape
from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.linalg.checks import check_broadcast, check_floating, check_last

N_FEATURES = 14
_ANGLE_STEP = 1e-6  # radians; below it angles count as equal
_UNIT_EPS = 1e-7  # added to lengths, as in the published features
_SIGNED = (1, 2, 4, 5, 7, 8, 11, 12)  # linear in a normal


# Below, vectors are tuples of their three components, each a tensor of its own: sums
# over a last axis of length 3 are several times slower.
_Vector = tuple[Tensor, Tensor, Tensor]


def _components(x: Tensor) -> _Vector:
    a, b, c = x.movedim(-1, 0).contiguous()
    return a, b, c


def _dot(a: _Vector, b: _Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _minus(a: _Vector, b: _Vector) -> _Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _length(a: _Vector) -> Tensor:
    squared = _dot(a, a)
    tiny = torch.finfo(squared.dtype).tiny
    return squared.clamp_min(tiny).sqrt() * (squared > tiny)


def _unit(a: _Vector, eps: Tensor, length: Tensor | None = None) -> _Vector:
    inverse = 1 / ((_length(a) if length is None else length) + eps)
    return a[0] * inverse, a[1] * inverse, a[2] * inverse


def _roll(a: _Vector, step: int) -> _Vector:
    return a[0].roll(step, -1), a[1].roll(step, -1), a[2].roll(step, -1)


def surface_order(offsets: Tensor, normal: Tensor) -> Tensor:
    r"""Order neighbors clockwise around a normal.

    Offsets are projected on the tangent plane, :math:`t_i = g_i - (g_i \cdot n) n`;
    the longest is the reference :math:`t_r`, and

    .. math:: \theta_i = \operatorname{atan2}\bigl((t_i \times t_r) \cdot n,\;
       t_i \cdot t_r\bigr) \bmod 2\pi,

    with :math:`\theta_i = \pi` where :math:`t_i = 0`. Angles are compared in steps of
    1e-6 rad; equal ones keep their order in the list.

    Parameters
    ----------
    offsets : Tensor, shape (..., K, 3)
        Neighbors minus center.
    normal : Tensor, shape (..., 3)
        Unit normal at the center.

    Returns
    -------
    Tensor of int64, shape (..., K)
        Positions in the list, by ascending angle.

    Raises
    ------
    TypeError, ValueError
        Not floating-point tensors; shapes that do not fit, or no neighbor.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> offsets = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, -1, 0]])
    >>> surface_order(offsets, torch.tensor([0.0, 0.0, 1.0]))
    tensor([0, 2, 1])
    """
    check_last(offsets, ("K", 3), "offsets")
    check_last(normal, (3,), "normal")
    if offsets.shape[-2] == 0:
        raise ValueError(f"offsets: expected neighbors, found {tuple(offsets.shape)}")
    check_broadcast(offsets=(offsets, 2), normal=(normal, 1))
    offsets = offsets / _neighborhood_scale(offsets)
    return surface_angles(offsets, normal).argsort(dim=-1, stable=True)


@torch.no_grad()
def surface_angles(offsets: Tensor, normal: Tensor) -> Tensor:
    """Return the angles of :func:`surface_order`, in [0, 2 pi), in whole steps."""
    n = _components(normal[..., None, :])
    g = _components(offsets)
    along = _dot(g, n)
    flat = (g[0] - along * n[0], g[1] - along * n[1], g[2] - along * n[2])
    squared = _dot(flat, flat)
    longest = squared.argmax(-1, keepdim=True)
    x, y, z = (a.gather(-1, longest) for a in flat)
    # (t x r) . n = t . (r x n): the second product is one a neighborhood
    side = (y * n[2] - z * n[1], z * n[0] - x * n[2], x * n[1] - y * n[0])
    theta = torch.atan2(_dot(flat, side), _dot(flat, (x, y, z)))
    full = round(2 * math.pi / _ANGLE_STEP)
    steps = (theta / _ANGLE_STEP).round().remainder(full)
    # zero up to the rounding of the projection
    bound = (16 * torch.finfo(offsets.dtype).eps) ** 2
    on_axis = squared <= bound * _dot(g, g)
    return steps.masked_fill(on_axis, float(full // 2)) * _ANGLE_STEP


def surface_features(
    center: Tensor,
    neighbors: Tensor,
    center_normal: Tensor,
    neighbor_normals: Tensor,
    *,
    step: int = 1,
    unsigned: bool = False,
    ordered: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Describe a neighborhood by 14 rotation-invariant numbers a neighbor.

    Neighbors are taken in their cyclic order around the normal
    (:func:`surface_order`). With the neighbor :math:`x_i`, its predecessor
    :math:`x_{i-s}` and successor :math:`x_{i+s}` relative to the center,
    :math:`a, m, q` their unit vectors, :math:`e` and :math:`h` the unit vectors from
    predecessor to neighbor and from neighbor to successor, and the normals
    :math:`n_p, n_i, n_m, n_q`, the numbers are

    .. math::
       |x_i|,\; a n_p,\; -a n_i,\; a m,\; m n_p,\; -m n_m,\; -m e,\; -e n_i,\; e n_m,\;
       q a,\; q h,\; h n_q,\; a n_q,\; (q \times a)(m \times a).

    A unit vector is :math:`v / (|v| + \epsilon)`; :math:`\epsilon` is the published
    1e-7, and never more than that share of the farthest neighbor's distance. So the
    first number is a length, and the others have no unit.

    Parameters
    ----------
    center, center_normal : Tensor, shape (..., 3)
        Where the neighborhoods are, and unit normals there.
    neighbors, neighbor_normals : Tensor, shape (..., K, 3)
        Points around, and their unit normals.
    step : int, default=1
        Places s between a neighbor and its predecessor and successor.
    unsigned : bool, default=False
        For normals of unknown sign: absolute values of the numbers linear in a normal,
        averaged over both directions of the cyclic order.
    ordered : bool, default=False
        The neighbors are in cyclic order already.

    Returns
    -------
    features : Tensor, shape (..., K, 14)
        In cyclic order. Neighbors at the center give zeros.
    order : Tensor of int64, shape (..., K)
        Which neighbor each row describes.

    Raises
    ------
    TypeError
        Not floating-point tensors.
    ValueError
        Shapes that do not fit.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> around = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0]])
    >>> up = torch.tensor([0.0, 0.0, 1.0])
    >>> features, order = surface_features(
    ...     torch.zeros(3), around, up, up.expand(3, 3))
    >>> features.shape, order
    (torch.Size([3, 14]), tensor([0, 2, 1]))
    """
    _check_shapes(center, neighbors, center_normal, neighbor_normals)
    check_count(step, "step")
    scale = _neighborhood_scale(neighbors - center[..., None, :])
    g = (neighbors - center[..., None, :]) / scale
    reach = g.detach().square().sum(-1).amax(-1, keepdim=True).sqrt()
    features, order = describe(
        torch.zeros_like(center),
        g,
        center_normal,
        neighbor_normals,
        step=step,
        unsigned=unsigned,
        ordered=ordered,
        eps=bounded_eps(reach, scale[..., 0]),
    )
    features[..., 0].mul_(scale[..., 0])
    return features, order


def _neighborhood_scale(offsets: Tensor) -> Tensor:
    """Powers of two near the sizes of neighborhoods, (..., 1, 1)."""
    scale = binary_scale(offsets.reshape(-1, *offsets.shape[-2:]))
    return scale.to(offsets.dtype).view(*offsets.shape[:-2], 1, 1)


def bounded_eps(reach: Tensor, scale: Tensor) -> Tensor:
    """1e-7, and never more than 1e-7 of a size; both are given divided by a scale."""
    bounded = torch.minimum(_UNIT_EPS * reach, _UNIT_EPS / scale)
    return torch.where(reach > 0, bounded, _UNIT_EPS)


def describe(
    center: Tensor,
    neighbors: Tensor,
    center_normal: Tensor,
    neighbor_normals: Tensor,
    *,
    step: int = 1,
    unsigned: bool = False,
    ordered: bool = False,
    eps: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`surface_features` without checks; ``eps`` (..., 1) is added to lengths."""
    g = neighbors - center[..., None, :]
    normals = neighbor_normals
    if ordered:
        order = torch.arange(g.shape[-2], device=g.device).expand(g.shape[:-1])
    else:
        order = surface_angles(g, center_normal).argsort(dim=-1, stable=True)
        rows = order[..., None].expand_as(g)
        g, normals = g.gather(-2, rows), normals.gather(-2, rows)
    points, directions = _components(g), _components(normals)
    n_p = _components(center_normal[..., None, :])
    length = _length(points)
    a = _unit(points, eps, length)
    common = (points, a, directions, n_p)
    before = _roll(points, step), _roll(a, step), _roll(directions, step)
    after = _roll(points, -step), _roll(a, -step), _roll(directions, -step)
    columns = [length, *_invariants(common, before, after, eps)]
    if unsigned:
        mirrored = [length, *_invariants(common, after, before, eps)]
        columns = [
            (_unsigned(i, one) + _unsigned(i, other)) / 2
            for i, (one, other) in enumerate(zip(columns, mirrored, strict=True))
        ]
    return torch.stack(columns, -1), order


def _check_shapes(
    center: Tensor, neighbors: Tensor, center_normal: Tensor, neighbor_normals: Tensor
) -> None:
    check_last(neighbors, ("K", 3), "neighbors")
    if neighbors.shape[-2] == 0:
        raise ValueError(f"neighbors: expected some, found {tuple(neighbors.shape)}")
    one = (*neighbors.shape[:-2], 3)
    check_shape(check_floating(center, "center"), one, "center")
    check_shape(check_floating(center_normal, "center_normal"), one, "center_normal")
    check_floating(neighbor_normals, "neighbor_normals")
    check_shape(neighbor_normals, neighbors.shape, "neighbor_normals")


def _invariants(
    common: tuple[_Vector, ...],
    before: tuple[_Vector, ...],
    after: tuple[_Vector, ...],
    eps: Tensor,
) -> list[Tensor]:
    """All numbers but the first."""
    g, a, n_i, n_p = common
    (x_m, m, n_m), (x_q, q, n_q) = before, after
    e, h = _unit(_minus(g, x_m), eps), _unit(_minus(x_q, g), eps)
    am, qa = _dot(a, m), _dot(q, a)
    return [
        _dot(a, n_p),
        -_dot(a, n_i),
        am,
        _dot(m, n_p),
        -_dot(m, n_m),
        -_dot(m, e),
        -_dot(e, n_i),
        _dot(e, n_m),
        qa,
        _dot(q, h),
        _dot(h, n_q),
        _dot(a, n_q),
        # Lagrange's identity for the two cross products
        _dot(q, m) * _dot(a, a) - qa * am,
    ]


def _unsigned(column: int, values: Tensor) -> Tensor:
    return values.abs() if column in _SIGNED else values


class SurfaceFeatures(nn.Module):
    """The 14 invariants of the neighborhoods of a cloud, as a layer.

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    step, unsigned
        Settings of the invariants, see :func:`surface_features`.

    Examples
    --------
    >>> x = torch.randn(2, 20, 3)
    >>> index = torch.randint(20, (2, 5, 8))
    >>> features, _ = SurfaceFeatures()(x, x / x.norm(dim=-1, keepdim=True), index)
    >>> features.shape
    torch.Size([2, 5, 8, 14])
    """

    def __init__(self, step: int = 1, unsigned: bool = False):
        super().__init__()
        self.step, self.unsigned = check_count(step, "step"), unsigned

    def forward(
        self,
        x: Tensor,
        normals: Tensor,
        index: Tensor,
        centers: Tensor | None = None,
        center_normals: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return features (B, S, K, 14) and the neighbor lists in cyclic order.

        Parameters
        ----------
        x, normals : Tensor, shape (B, N, 3)
            Points and unit normals.
        index : Tensor of int64, shape (B, S, K)
            Neighbors of each center.
        centers, center_normals : Tensor, shape (B, S, 3), optional
            Both or none; default: the first S points.

        Raises
        ------
        TypeError, ValueError
            Not floating-point tensors; shapes that do not fit; centers without normals.
        """
        if (centers is None) != (center_normals is None):
            raise ValueError("centers, center_normals: expected both or none")
        if centers is None or center_normals is None:
            centers, center_normals = (v[:, : index.shape[1]] for v in (x, normals))
        features, order = surface_features(
            centers,
            group(x, index),
            center_normals,
            group(normals, index),
            step=self.step,
            unsigned=self.unsigned,
        )
        return features, index.gather(-1, order)
