r"""Quaternions, rotation vectors and their relatives, for every finite input.

Inside, quaternions are scalar first. A zero quaternion or axis counts as the identity.
With :math:`\hat v x = v \times x` and :math:`t = |v|`,

.. math:: \exp \hat v = I + \frac{\sin t}{t} \hat v
          + \frac{1 - \cos t}{t^2} \hat v^2 .
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from manifoldkit.lie._arrays import unit_vector
from manifoldkit.lie.closed_forms.columns import (
    assemble,
    cross,
    dot,
    may_look,
    rows,
    unrows,
)
from manifoldkit.linalg.elementary import safe_sqrt

_TERMS = 8
_NEAR = 0.25  # squared angles below this use power series


def _series(x: Tensor, coefficients: list[float]) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


_SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in range(_TERMS)]
_VERSINE = [(-1) ** k / math.factorial(2 * k + 2) for k in range(_TERMS)]
_THIRD = [(-1) ** k / math.factorial(2 * k + 3) for k in range(_TERMS)]
_ATAN = [(-1) ** k / (2 * k + 1) for k in range(2 * _TERMS)]


def hat(v: Tensor) -> Tensor:
    """Matrix of the cross product with ``v``, (..., 3) to (..., 3, 3)."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return assemble([o, -z, y, z, o, -x, -y, x, o], 3, 3)


def vee(a: Tensor) -> Tensor:
    """Inverse of :func:`hat` on the skew part of ``a``."""
    skew = (a - a.mT) / 2
    return torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)


def _direction(v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return squared length (small ones), length, unit vector and where it is small."""
    scale = v.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
    u = v / scale
    square = (u * u).sum(-1, keepdim=True)
    near = (scale == 1) & (square < _NEAR)
    length = torch.where(near, 1.0, square).sqrt()
    t = (length * scale).clamp_max(torch.finfo(v.dtype).max)
    # beyond 1 / eps the angle is only rounding: no derivative, which would overflow
    t = torch.where(scale > 1 / torch.finfo(v.dtype).eps, t.detach(), t)
    return torch.where(near, square, 0.0), t, u / length, near


def exp_so3(v: Tensor) -> Tensor:
    """Rotation matrices of rotation vectors (..., 3)."""
    if may_look(v):
        known = _quick_exp(v.detach())
        if known is not None:
            return _ExpKnown.apply(v, known)
    return _exp(v)


def _exp(v: Tensor) -> Tensor:
    """The same by differentiable operations, for every finite vector."""
    square, t, axis, near = _direction(v)
    u = torch.where(near, v, axis)
    a = torch.where(near, _series(square, _SINC), t.sin())
    b = torch.where(near, _series(square, _VERSINE), 1 - t.cos())
    x, y, z = u.unbind(-1)
    ax, ay, az = (a * u).unbind(-1)
    bx, by, bz = (b * u).unbind(-1)
    xx, yy, zz = bx * x, by * y, bz * z
    xy, xz, yz = bx * y, bx * z, by * z
    entries = [
        1 - yy - zz, xy - az, xz + ay,
        xy + az, 1 - xx - zz, yz - ax,
        xz - ay, yz + ax, 1 - xx - yy,
    ]  # fmt: skip
    return assemble(entries, 3, 3)


def _quick_exp(v: Tensor) -> tuple[Tensor, ...] | None:
    """Matrices and what their derivative needs; None if an angle is enormous.

    With h = t/2, sinc t = sinc h cos h and (1 - cos t)/t^2 = (sinc h)^2 / 2 need no
    series: nothing cancels.
    """
    x = rows(v, 3)
    square = dot(x, x)
    if not float(square.max()) < torch.finfo(v.dtype).eps ** -2:
        return None
    half = square.clamp_min_(torch.finfo(v.dtype).tiny).sqrt().mul_(0.5)
    s = half.sin().div_(half)
    a = half.cos().mul_(s)
    b = s.mul_(s).mul_(0.5)
    r = v.new_empty(3, 3, square.shape[-1])
    bx, ax = x * b, x * a
    # r_ij = b x_i x_j - a eps_ijk x_k, and a for cos: 1 - b t^2 on the diagonal
    torch.mul(bx[:, None], x, out=r)
    cosine = 1 - b * square
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        r[i, i] += cosine
        r[i, j] -= ax[k]
        r[j, i] += ax[k]
    return unrows(r, (*v.shape, 3)), x, square, a, b, r


class _ExpKnown(torch.autograd.Function):
    """The matrices of ordinary vectors, computed beforehand."""

    @staticmethod
    def forward(ctx, v, known):
        r, *ctx.quick = known
        ctx.save_for_backward(v)
        return r

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not may_look(grad):
            return torch.func.vjp(_exp, v)[1](grad)[0], None
        # dR = hat(J dv) R, so J' w for the axial vector w of GR' - RG'
        x, square, a, b, r = ctx.quick
        g = rows(grad, 3, 3)
        w = sum_of_crosses(r, g)
        c = dot(x, w).div_(square).mul_(1 - a)
        out = (a * w).addcmul_(x, c)
        return unrows(out.addcmul_(cross(x, w), b, value=-1), v.shape), None


def sum_of_crosses(r: Tensor, g: Tensor) -> Tensor:
    """Axial vector of GR' - RG', (3, 3, N): the sum of r_k x g_k over columns."""
    return cross(r, g).sum(1)


def quaternion_matrix(q: Tensor) -> Tensor:
    """Rotation matrices of quaternions of any length."""
    return unit_quaternion_matrix(unit_vector(q)[0].unbind(-1))


def unit_quaternion_matrix(q: Sequence[Tensor]) -> Tensor:
    """Rotation matrices of the four entries of unit quaternions."""
    w, x, y, z = q
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return assemble(entries, 3, 3)


def matrix_quaternion(r: Tensor) -> Tensor:
    """Unit quaternions, first non-zero entry positive.

    Of the four ways to write 4 q_k q the one with the largest q_k is taken: no
    cancellation, and no small divisor in any derivative.
    """
    m = r.movedim((-2, -1), (0, 1)).contiguous()
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(0) for row in m.unbind(0))
    wx, wy, wz, xy, xz, yz = h - f, c - g, d - b, b + d, c + g, f + h
    ww, xx, yy, zz = 1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i
    pair, size = larger((ww, wx, wy, wz), ww, (wx, xx, xy, xz), xx)
    other, bound = larger((wy, xy, yy, yz), yy, (wz, xz, yz, zz), zz)
    best, _ = larger(pair, size, other, bound)
    q = torch.stack(best)
    return _first_positive(q * dot(q, q).rsqrt()).movedim(0, -1).contiguous()


Four = tuple[Tensor, Tensor, Tensor, Tensor]


def larger(a: Four, d: Tensor, b: Four, e: Tensor) -> tuple[Four, Tensor]:
    """Of two multiples of a quaternion the one with the larger factor."""
    first = d >= e
    w, x, y, z = (torch.where(first, p, q) for p, q in zip(a, b, strict=True))
    return (w, x, y, z), torch.maximum(d, e)


def canonical(q: Tensor) -> Tensor:
    """Choose between q and -q: the first non-zero entry becomes positive."""
    return _first_positive(q.movedim(-1, 0)).movedim(0, -1)


def _first_positive(q: Tensor) -> Tensor:
    """The same for (4, ...)."""
    w, x, y, z = q.detach().unbind(0)
    lead = torch.where(w != 0, w, torch.where(x != 0, x, torch.where(y != 0, y, z)))
    return q * torch.copysign(torch.ones_like(lead), lead)


def quaternion_vector(q: Tensor) -> Tensor:
    """Rotation vectors of canonical unit quaternions: 2 atan2(|v|, w) v / |v|."""
    w, *v = q.unbind(-1)
    square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
    near = square < 0.04 * w * w
    safe = torch.where(near, w, 1.0)
    ratio = torch.where(near, square, 0.0) / (safe * safe)
    length = torch.where(near, 1.0, square).sqrt()
    far = torch.atan2(length, torch.where(near, 1.0, w)) / length
    return (
        q[..., 1:]
        * (2 * torch.where(near, _series(ratio, _ATAN) / safe, far))[..., None]
    )


def log_so3(r: Tensor) -> Tensor:
    """Rotation vectors of length at most pi."""
    return quaternion_vector(matrix_quaternion(r))


def left_jacobian(v: Tensor) -> Tensor:
    """I + B hat(v) + C hat(v)^2, B = (1 - cos t)/t^2, C = (t - sin t)/t^3."""
    square, t, axis, near = _direction(v)
    u = torch.where(near, v, axis)
    b = torch.where(near, _series(square, _VERSINE), (1 - t.cos()) / t)[..., None]
    c = torch.where(near, _series(square, _THIRD), 1 - t.sin() / t)[..., None]
    k = hat(u)
    return torch.eye(3, dtype=v.dtype, device=v.device) + b * k + c * (k @ k)


def left_jacobian_inverse(v: Tensor) -> Tensor:
    """I - hat(v)/2 + (1/t^2 - cot(t/2)/(2t)) hat(v)^2, defined for t < 2 pi."""
    square, t, axis, near = _direction(v)
    # x = t/2: 1 - x cot x = x^2/3 + x^4/45 + ..., as 1 - cos x / sinc x
    x2 = square / 4
    cosine = _series(x2, [(-1) ** k / math.factorial(2 * k) for k in range(_TERMS)])
    # (sinc x - cos x) / x^2 = sum (-1)^k (2k + 2) / (2k + 3)! x^(2k)
    gap = [(-1) ** k * (2 * k + 2) / math.factorial(2 * k + 3) for k in range(_TERMS)]
    small = _series(x2, gap) / (cosine * 0 + _series(x2, _SINC)) / 4
    half = t / 2
    far = 1 - half * half.cos() / torch.where(near, 1.0, half.sin())
    c = torch.where(near, small, far)[..., None]
    k, unit = hat(v), hat(torch.where(near, v, axis))
    return torch.eye(3, dtype=v.dtype, device=v.device) - k / 2 + c * (unit @ unit)


def gibbs_quaternion(g: Tensor) -> Tensor:
    """Quaternion of Rodrigues' vector tan(t/2) axis."""
    return torch.cat([torch.ones_like(g[..., :1]), g], -1)


def mrp_quaternion(p: Tensor) -> Tensor:
    """Unit quaternion of modified Rodrigues parameters tan(t/4) axis."""
    scale = p.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
    u = p / scale
    square, one = (u * u).sum(-1, keepdim=True), 1 / scale
    return torch.cat([one * one - square, 2 * one * u], -1) / (one * one + square)


def hopf_quaternion(x: Tensor) -> Tensor:
    """Quaternion of Hopf coordinates (theta, phi, psi), radians."""
    bound = torch.finfo(x.dtype).max / 4
    theta, phi, psi = x.clamp(-bound, bound).unbind(-1)
    c, s, half = (theta / 2).cos(), (theta / 2).sin(), psi / 2
    parts = [
        c * half.cos(),
        c * half.sin(),
        s * (phi + half).cos(),
        s * (phi + half).sin(),
    ]
    return torch.stack(parts, -1)


def quaternion_hopf(q: Tensor) -> Tensor:
    """Hopf coordinates, theta in [0, pi], the others in (-2 pi, 2 pi)."""
    w, x, y, z = q.unbind(-1)
    first, second = safe_norm(q[..., :2]), safe_norm(q[..., 2:])
    half = safe_atan2(x, w)
    return torch.stack(
        [2 * safe_atan2(second, first), safe_atan2(z, y) - half, 2 * half], -1
    )


def safe_norm(v: Tensor) -> Tensor:
    """Length, with derivative zero at zero."""
    return safe_sqrt((v * v).sum(-1))


def safe_atan2(y: Tensor, x: Tensor) -> Tensor:
    """Angle, with value and derivative zero at the origin."""
    origin = (x == 0) & (y == 0)
    return torch.where(origin, 0.0, torch.atan2(y, torch.where(origin, 1.0, x)))
