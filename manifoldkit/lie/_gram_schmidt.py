r"""Gram-Schmidt: n - 1 vectors to a rotation, for every finite input.

The columns are divided by their largest entries, so that nothing overflows, and the
second one is orthogonalised twice ("twice is enough"). A zero first vector counts as
:math:`e_1`; a second one within rounding of the first is replaced by a fixed normal
[1]_. There the rotation carries no derivative with respect to the lost angle.

References
----------
.. [1] T. Duff et al., "Building an orthonormal basis, revisited", JCGT 6, 2017.
"""

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie._arrays import gradient_floor
from manifoldkit.linalg.checks import first_index


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(0)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product of (3, N) tensors."""
    (a0, a1, a2), (b0, b1, b2) = a, b
    return torch.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0])


def _normal(b: Tensor) -> Tensor:
    """A unit vector orthogonal to the unit vector b, (3, N) (Duff et al.)."""
    x, y, z = b
    sign = torch.copysign(torch.ones_like(z), z)
    a = -1 / (sign + z)
    return torch.stack([1 + sign * x * x * a, sign * x * y * a, -sign * x])


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two vectors, (2, 3, N), over their largest entries m, (2, N)."""
    v = x.reshape(-1, 6).mT.contiguous().view(2, 3, -1)
    m = v.abs().amax(1)
    return v / torch.where(m == 0, 1.0, m)[:, None], m


def _orthonormalize(a1: Tensor, a2: Tensor) -> tuple[Tensor, ...]:
    """Return b1, b2, b3 and where a2 is within rounding of the line of a1."""
    b1 = a1 / _dot(a1, a1).sqrt()
    s = _dot(b1, a2)
    u = a2 - s * b1
    n2 = _dot(u, u).sqrt()
    parallel = n2 <= 16 * torch.finfo(a1.dtype).eps * s.abs()
    b2 = torch.where(parallel, _normal(b1), u / torch.where(parallel, 1.0, n2))
    b2 = b2 - _dot(b1, b2) * b1
    b2 = b2 / _dot(b2, b2).sqrt()
    return b1, b2, _cross(b1, b2), parallel


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    (a1, a2), m = _scaled(x)
    zero = m[0] == 0
    a1 = torch.cat([(a1[0] + zero)[None], a1[1:]])
    b1, b2, b3, parallel = _orthonormalize(a1, a2)
    r = torch.stack([b1, b2, b3], 1).permute(2, 0, 1)
    degenerate = torch.stack([zero, parallel], -1)
    return r.reshape(*x.shape[:-1], 3, 3), degenerate.reshape(*x.shape[:-1], 2)


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
    n1 = _dot(b1, flat[:3] / m1)
    a2 = flat[3:] / m2
    n2 = torch.where(bad[1], 1.0, _dot(b2, a2))
    inverse1 = torch.where(bad[0], 0.0, 1 / (torch.where(bad[0], 1.0, n1) * m1))
    slope = torch.where(bad[1], 0.0, _dot(b1, a2) / n2)
    inverse2 = torch.where(bad[1], 0.0, 1 / n2 / m2)
    return b1, b2, b3, inverse1, slope, inverse2


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
        b1, b2, b3, inverse1, slope, inverse2 = _lengths(x, r, degenerate)
        g1, g2, g3 = grad.reshape(-1, 3, 3).permute(2, 1, 0).unbind(0)
        w12 = _dot(b2, g1) - _dot(b1, g2)
        w13 = _dot(b3, g1) - _dot(b1, g3)
        w23 = _dot(b3, g2) - _dot(b2, g3)
        # slope * inverse1 alone may be huge, the order matters
        d1 = (w12 * inverse1) * b2 + ((w13 - slope * w23) * inverse1) * b3
        d2 = (w23 * inverse2) * b3
        return torch.cat([d1, d2]).mT.reshape(x.shape)


class _SixD(_SixDCompiled):
    """With forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, x_t):
        x, r, degenerate = ctx.saved_tensors
        b1, b2, b3, inverse1, slope, inverse2 = _lengths(x, r, degenerate)
        flat = x_t.reshape(-1, 6).mT
        p12 = _dot(b2, flat[:3]) * inverse1
        p13 = _dot(b3, flat[:3]) * inverse1
        p23 = _dot(b3, flat[3:]) * inverse2 - slope * p13
        columns = [p12 * b2 + p13 * b3, p23 * b3 - p12 * b1, -p13 * b1 - p23 * b2]
        out = torch.stack(columns, 1).permute(2, 0, 1).reshape(r.shape)
        return out, None


def sixd_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations of (..., 6), two columns one after the other, and the masks (..., 2).

    The masks tell where the first vector is zero, and where the second is within
    rounding of its line.
    """
    function = _SixDCompiled if torch.compiler.is_compiling() else _SixD
    return function.apply(x)


def finish(
    r: Tensor, bad: Tensor, dtype: torch.dtype, strict: bool, return_degenerate: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Raise, or return the mask, as the caller asked."""
    if strict and bool(bad.any()):
        raise NotOnManifoldError(
            f"x{list(first_index(bad)) if bad.ndim else ''} is degenerate: it does not "
            "determine a rotation (zero or parallel vectors)"
        )
    r = r.to(dtype)
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
    """Orthonormalise (..., n, p) columns; p = n - 1 is completed to a rotation.

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
