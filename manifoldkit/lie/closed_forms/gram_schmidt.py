r"""Gram-Schmidt: n - 1 vectors to a rotation, for every finite input.

The columns are divided by their largest entries, so that nothing overflows, and the
second one is orthogonalized twice ("twice is enough"). A zero first vector counts as
:math:`e_1`; a second one within rounding of the first is replaced by a fixed normal
[1]_. There the rotation carries no derivative with respect to the lost angle.

References
----------
.. [1] T. Duff et al., "Building an orthonormal basis, revisited", JCGT 6, 2017.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie._arrays import gradient_floor
from manifoldkit.lie.closed_forms.columns import (
    columns,
    cross,
    dot,
    may_look,
    rows,
    unrows,
    within,
)
from manifoldkit.linalg.checks import first_index

Vector = list[Tensor]  # three numbers per batch element


def _inner(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _times(a: Vector, c: Tensor) -> Vector:
    return [entry * c for entry in a]


def _without(a: Vector, b: Vector) -> tuple[Vector, Tensor]:
    """Return a less its part along the unit vector b, and the size of that part."""
    s = _inner(a, b)
    return [x - s * y for x, y in zip(a, b, strict=True)], s


def normal(b: Sequence[Tensor]) -> Vector:
    """A unit vector orthogonal to the unit vector b (Duff et al.)."""
    x, y, z = b
    sign = torch.copysign(torch.ones_like(z), z)
    a = -1 / (sign + z)
    return [1 + sign * x * x * a, sign * x * y * a, -sign * x]


def _scaled(a: Vector) -> tuple[Vector, Tensor]:
    """Bring the largest entry between 1e-8 and 100; return where it is zero."""
    m = torch.maximum(torch.maximum(a[0].abs(), a[1].abs()), a[2].abs())
    limit = 0.02 * torch.finfo(m.dtype).max  # the inverse is not subnormal
    return _times(a, 1 / m.clamp(1 / limit, limit)), m == 0


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations and masks, by entries: the compiler makes one loop of it."""
    entries = columns(x)
    a1, zero = _scaled(list(entries[:3]))
    a1[0] = torch.where(zero, 1.0, a1[0])
    a2, _ = _scaled(list(entries[3:]))
    b1 = _times(a1, _inner(a1, a1).rsqrt())
    u, s = _without(a2, b1)
    square, bound = _inner(u, u), 16 * torch.finfo(x.dtype).eps * s.abs()
    parallel = square <= bound * bound
    u = _times(u, torch.where(parallel, 1.0, square).rsqrt())
    pairs = zip(normal(b1), u, strict=True)
    b2, _ = _without([torch.where(parallel, n, v) for n, v in pairs], b1)
    b2 = _times(b2, _inner(b2, b2).rsqrt())
    (p0, p1, p2), (q0, q1, q2) = b1, b2
    b3 = [p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0]
    table = zip(b1, b2, b3, strict=True)
    r = torch.stack([entry for row in table for entry in row])
    degenerate = torch.stack([zero, parallel]).movedim(0, -1)
    return r.movedim(0, -1).unflatten(-1, (3, 3)), degenerate


def _lengths(x: Tensor, r: Tensor, degenerate: Tensor) -> tuple[Tensor, ...]:
    """Return b1, b2, b3 (3, N), 1/|a1|, (b1.a2)/|u|, 1/|u|; zero where degenerate.

    As functions of x and r, so that they can be differentiated again; the scales m
    cancel and are constants.
    """
    b = r.reshape(-1, 3, 3).permute(2, 1, 0)
    b1, b2, b3 = b.unbind(0)
    flat = x.reshape(-1, 6).mT
    m = flat.detach().reshape(2, 3, -1).abs().amax(1)
    small = m < gradient_floor(x.dtype)
    bad = small.clone() | degenerate.reshape(-1, 2).mT
    m1, m2 = torch.where(bad, 1.0, m)
    n1 = dot(b1, flat[:3] / m1)
    a2 = flat[3:] / m2
    n2 = torch.where(bad[1], 1.0, dot(b2, a2))
    inverse1 = torch.where(bad[0], 0.0, 1 / (torch.where(bad[0], 1.0, n1) * m1))
    slope = torch.where(bad[1], 0.0, dot(b1, a2) / n2)
    inverse2 = torch.where(bad[1], 0.0, 1 / n2 / m2)
    return b1, b2, b3, inverse1, slope, inverse2


def _pull_back(x: Tensor, r: Tensor, degenerate: Tensor, grad: Tensor) -> Tensor:
    """Transpose of the derivative."""
    b1, b2, b3, inverse1, slope, inverse2 = _lengths(x, r, degenerate)
    g1, g2, g3 = grad.reshape(-1, 3, 3).permute(2, 1, 0).unbind(0)
    w12 = dot(b2, g1) - dot(b1, g2)
    w13 = dot(b3, g1) - dot(b1, g3)
    w23 = dot(b3, g2) - dot(b2, g3)
    # slope * inverse1 alone may be huge, the order matters
    d1 = (w12 * inverse1) * b2 + ((w13 - slope * w23) * inverse1) * b3
    d2 = (w23 * inverse2) * b3
    return torch.cat([d1, d2]).mT.reshape(x.shape)


def _push_forward(x: Tensor, r: Tensor, degenerate: Tensor, x_t: Tensor) -> Tensor:
    """Directional derivative."""
    b1, b2, b3, inverse1, slope, inverse2 = _lengths(x, r, degenerate)
    flat = x_t.reshape(-1, 6).mT
    p12 = dot(b2, flat[:3]) * inverse1
    p13 = dot(b3, flat[:3]) * inverse1
    p23 = dot(b3, flat[3:]) * inverse2 - slope * p13
    columns = [p12 * b2 + p13 * b3, p23 * b3 - p12 * b1, -p13 * b1 - p23 * b2]
    return torch.stack(columns, 1).permute(2, 0, 1).reshape(r.shape)


class _SixDCompiled(torch.autograd.Function):
    """(..., 6) to rotations and masks; the form that torch.compile can trace."""

    @staticmethod
    def forward(x):
        return _forward(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], *output)
        ctx.save_for_forward(inputs[0], *output)

    @staticmethod
    def backward(ctx, grad, _):
        x, r, degenerate = ctx.saved_tensors
        return _pull_back(x, r, degenerate, grad)


class _SixD(_SixDCompiled):
    """With forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, x_t):
        x, r, degenerate = ctx.saved_tensors
        return _push_forward(x, r, degenerate, x_t), None


def _quick(x: Tensor) -> tuple[Tensor, ...] | None:
    """Rotations, their entries and lengths, (3, N), of a batch of ordinary vectors.

    None if there are any that are huge, tiny, almost parallel or not finite.
    """
    a = rows(x, 2, 3)
    square = (a * a).sum(1)
    limit = torch.finfo(x.dtype).max ** 0.6
    if not within(square, 1 / limit, limit):
        return None
    a1, a2 = a
    b = x.new_empty(3, 3, square.shape[-1])  # entry, column, element
    lengths = torch.empty_like(a1)
    inverse1, slope, inverse2 = lengths
    torch.rsqrt(square[0], out=inverse1)
    b1 = torch.mul(a1, inverse1, out=b[:, 0])
    s = dot(b1, a2)
    u = torch.addcmul(a2, b1, s, value=-1)
    u.addcmul_(b1, dot(b1, u), value=-1)
    rest = dot(u, u)
    if not float((rest / square[1]).min()) > 1e-8:
        return None
    torch.rsqrt(rest, out=inverse2)
    torch.mul(s, inverse2, out=slope)
    b2 = torch.mul(u, inverse2, out=b[:, 1])
    cross(b1, b2, out=b[:, 2])
    return unrows(b, (*x.shape[:-1], 3, 3)), b, lengths


class _SixDKnown(torch.autograd.Function):
    """The rotations of an ordinary batch, computed beforehand."""

    @staticmethod
    def forward(ctx, x, known):
        r, *ctx.quick = known
        ctx.save_for_backward(x, r)
        return r

    @staticmethod
    def backward(ctx, grad):
        x, r = ctx.saved_tensors
        if torch.is_grad_enabled() or not may_look(grad):
            return _pull_back(x, r, _no_mask(x), grad), None
        b, (inverse1, slope, inverse2) = ctx.quick
        g = rows(grad, 3, 3)
        b1, b2, b3 = b.unbind(1)
        g1, g2, g3 = g.unbind(1)
        w12 = (b2 * g1).addcmul_(b1, g2, value=-1).sum(0)
        w13 = (b3 * g1).addcmul_(b1, g3, value=-1).sum(0)
        w23 = (b3 * g2).addcmul_(b2, g3, value=-1).sum(0)
        w13.addcmul_(slope, w23, value=-1).mul_(inverse1)
        d = torch.empty_like(b[:2])
        torch.mul(b2, w12.mul_(inverse1), out=d[0]).addcmul_(b3, w13)
        torch.mul(b3, w23.mul_(inverse2), out=d[1])
        return unrows(d, x.shape), None


def _no_mask(x: Tensor) -> Tensor:
    return torch.zeros(*x.shape[:-1], 2, dtype=torch.bool, device=x.device)


def sixd_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations of (..., 6), two columns one after the other, and the masks (..., 2).

    The masks tell where the first vector is zero, and where the second is within
    rounding of its line.
    """
    if may_look(x):
        known = _quick(x.detach())
        if known is not None:
            return _SixDKnown.apply(x, known), _no_mask(x)
    function = _SixDCompiled if torch.compiler.is_compiling() else _SixD
    return function.apply(x)


def finish(
    r: Tensor, bad: Tensor, strict: bool, return_degenerate: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Raise, or return the mask, as the caller asked."""
    if strict and bool(bad.any()):
        raise NotOnManifoldError(
            f"x{list(first_index(bad)) if bad.ndim else ''} is degenerate: it does not "
            "determine a rotation (zero or parallel vectors)"
        )
    return (r, bad) if return_degenerate else r


def _scale_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    m = x.detach().abs().amax(-2, keepdim=True)
    y = x / torch.where(m == 0, 1.0, m)
    small = (m < gradient_floor(x.dtype)).any(-1, keepdim=True)
    return torch.where(small, y.detach(), y), m


def _signed_qr(x: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(x, mode=mode)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype)
    k = diagonal.shape[-1]
    q = torch.cat([q[..., :k] * sign[..., None, :], q[..., k:]], -1)
    return q, (diagonal * sign)


def gram_schmidt(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormalize (..., n, p) columns; p = n - 1 is completed to a rotation.

    Returns the matrices (..., n, n) and the mask of inputs without full rank, which
    get a fixed orthogonal matrix without derivative.
    """
    n, p = x.shape[-2:]
    finite = torch.isfinite(x).flatten(-2).all(-1)[..., None, None]
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    y, _ = _scale_columns(torch.where(finite, x, eye[:, :p]))
    constant = y.detach()
    full, diagonal = _signed_qr(constant, "complete")
    length = (constant * constant).sum(-2).sqrt()
    eps = torch.finfo(x.dtype).eps
    bad = (diagonal <= 16 * eps * length).any(-1)
    y = torch.where(bad[..., None, None], full[..., :p], y)
    q, _ = _signed_qr(y)
    if p < n:
        sign = torch.linalg.det(torch.cat([q.detach(), full[..., p:]], -1)).sign()
        last = full[..., p:] * sign[..., None, None]
        # the unit normal of the columns, with derivatives of every order
        last = last - q @ (q.mT @ last)
        last = last / (last * last).sum(-2, keepdim=True).sqrt()
        q = torch.cat([q, last], -1)
    return torch.where(finite, q, torch.nan), bad & finite[..., 0, 0]


def stereographic_encode(v: Tensor) -> Tensor:
    """Project from the first axis: v[1:] / (|v| - v[0])."""
    length = (v * v).sum(-1, keepdim=True).sqrt()
    return v[..., 1:] / (length - v[..., :1])


def stereographic_decode(u: Tensor) -> Tensor:
    r"""Inverse up to scale, :math:`((|u|^2 - 1)/2, u) / |u|`; u = 0 gives a zero.

    Divided by the largest entry of u beforehand; where u is so large or so small that
    the first entry would overflow, that entry is capped and carries no derivative.
    """
    m = u.detach().abs().amax(-1, keepdim=True)
    zero = m == 0
    v = torch.where(zero, 1.0, u) / torch.where(zero, 1.0, m)
    v = torch.where(m < gradient_floor(u.dtype), v.detach(), v)
    length = (v * v).sum(-1, keepdim=True).sqrt()
    m = torch.where(zero, 1.0, m)
    # |u|/2 - 1/(2|u|), held where it would overflow
    bound = torch.finfo(u.dtype).max / 8
    floor = gradient_floor(u.dtype) ** 0.5  # the derivative of 1 / |u| is its square
    inner = (m >= floor) & (m <= bound)
    size = torch.where(inner, m, 1.0) * length
    first = (size - 1 / size) / 2
    low, high = torch.full_like(m, -1 / floor), torch.full_like(m, bound)
    first = torch.where(inner, first, torch.where(m < 1, low, high))
    out = torch.cat([first, v / length], -1)
    nothing = torch.zeros_like(out)
    return torch.where(zero, nothing, out)
