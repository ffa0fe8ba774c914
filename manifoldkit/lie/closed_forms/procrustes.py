r"""Nearest rotation to any matrix, with bounded derivatives.

With M = U S V', R = U diag(1, .., 1, det(UV')) V'. For H = R'M symmetric, a change h:

.. math:: dR = R\,\Omega, \qquad H\Omega + \Omega H = R'h - h'R .

For n = 3 the skew :math:`\Omega = \hat\omega` solves
:math:`(\operatorname{tr} H\, I - H)\,\omega = \operatorname{vee}(R'h - h'R)`; the
eigenvalues of this matrix are the sums :math:`s_i + s_j`. Where the smallest nearly
vanishes (the nearest rotation is not unique) the inverse x becomes x / (x^2 + eps^2).
"""

import torch
from torch import Tensor

from manifoldkit.lie._arrays import without_dust
from manifoldkit.lie.closed_forms.columns import may_look, rows, unrows
from manifoldkit.lie.closed_forms.gram_schmidt import normal
from manifoldkit.lie.closed_forms.horn import pull_back, quick_nearest
from manifoldkit.lie.closed_forms.so3 import exp_so3, hat, vee
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.orthogonal import procrustes

_EPS = 1e-5  # relative damping, as in roma


def nearest_rotation(m: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotations (..., n, n) and the mask of matrices without a unique one."""
    if m.shape[-1] == 3 and may_look(m):
        return _mostly_quick(m)
    return _careful(m)


def _mostly_quick(m: Tensor) -> tuple[Tensor, Tensor]:
    """Ordinary matrices in rows of entries, the few others with care."""
    flat = m.reshape(-1, 3, 3)
    r, y, inverse, good = quick_nearest(flat.detach())
    ill = torch.zeros_like(good)
    if bool(good.all()):
        return _Known.apply(flat, (r, y, inverse)).view_as(m), ill.view(m.shape[:-2])
    rest = (~good).nonzero()[:, 0]
    careful, ill[rest] = _careful(flat[rest])
    if len(rest) == len(flat):
        return careful.view_as(m), ill.view(m.shape[:-2])
    eye = torch.eye(3, dtype=m.dtype)
    r[..., rest] = y[..., rest] = eye[..., None]
    inverse[rest] = 0.0
    flat = torch.where(good[:, None, None], flat, eye)
    out = _Known.apply(flat, (r, y, inverse)).index_copy(0, rest, careful)
    return out.view_as(m), ill.view(m.shape[:-2])


class _Known(torch.autograd.Function):
    """The nearest rotations of matrices (N, 3, 3), computed beforehand."""

    @staticmethod
    def forward(ctx, m, known):
        ctx.quick = known
        r = unrows(known[0], m.shape).contiguous()
        ctx.save_for_backward(m, r)
        return r

    @staticmethod
    def backward(ctx, grad):
        m, r = ctx.saved_tensors
        known, y, inverse = ctx.quick
        if torch.is_grad_enabled() or not may_look(grad):
            scale = torch.where(inverse == 0, 1.0, inverse)[:, None, None]
            return _change(m * scale, r, grad) * scale, None
        return unrows(pull_back(known, y, inverse, rows(grad, 3, 3)), m.shape), None


def _careful(m: Tensor) -> tuple[Tensor, Tensor]:
    """Any matrices, by one sequence of operations for the whole batch."""
    scale = m.detach().abs().amax((-2, -1), keepdim=True)
    finite = torch.isfinite(scale)
    usable = finite & (scale > 0)
    eye = eye_like(m)
    y = torch.where(usable, m, eye) / torch.where(usable, scale, 1.0)
    y = torch.where(scale < 1e-30, y.detach(), y)
    y = without_dust(y)
    if m.shape[-1] == 3:
        compiling = torch.compiler.is_compiling()
        r, bad = (_NearestCompiled if compiling else _Nearest).apply(y)
    else:
        r, bad = _general(y)
    r = torch.where(finite, r, torch.nan)
    return r, (bad | ~usable[..., 0, 0]) & finite[..., 0, 0]


def _general(y: Tensor) -> tuple[Tensor, Tensor]:
    """Any size; where the rotation is not unique it carries no derivative."""
    s = torch.linalg.svdvals(y.detach())
    sign = torch.where(torch.linalg.det(y.detach()) < 0, -1.0, 1.0).to(s.dtype)
    gap = s[..., -2] + sign * s[..., -1] if y.shape[-1] > 1 else s[..., -1]
    bad = gap <= _EPS * s[..., 0]
    y = torch.where(bad[..., None, None], y.detach(), y)
    eye = eye_like(y).expand_as(y)
    if y.shape[-1] == 2:
        return _plane(y), bad
    return procrustes(eye, y, special=True), bad


def _plane(y: Tensor) -> Tensor:
    """Closed form for n = 2: normalize (a + d, c - b)."""
    c, s = y[..., 0, 0] + y[..., 1, 1], y[..., 1, 0] - y[..., 0, 1]
    square = c * c + s * s
    zero = square == 0
    length = torch.where(zero, 1.0, square).sqrt()
    c, s = torch.where(zero, 1.0, c) / length, torch.where(zero, 0.0, s) / length
    return torch.stack([c, -s, s, c], -1).unflatten(-1, (2, 2))


def _rotation(y: Tensor) -> tuple[Tensor, Tensor]:
    """Start from the eigenvectors of y'y, which cost half an SVD; polish by Newton."""
    square, v = torch.linalg.eigh(y.mT @ y)
    first, second = v[..., 2], v[..., 1]
    third = torch.linalg.cross(first, second)
    a, b = ((y @ x[..., None])[..., 0] for x in (first, second))
    length = (a * a).sum(-1, keepdim=True).sqrt()  # at least 1: y has an entry of 1
    a = a / length
    b = b - (a * b).sum(-1, keepdim=True) * a
    size = (b * b).sum(-1, keepdim=True).sqrt()
    flat = size <= 16 * torch.finfo(y.dtype).eps * length
    b = torch.where(
        flat, torch.stack(normal(a.unbind(-1)), -1), b / torch.where(flat, 1.0, size)
    )
    b = b - (a * b).sum(-1, keepdim=True) * a
    b = b / (b * b).sum(-1, keepdim=True).sqrt()
    c = torch.linalg.cross(a, b)
    r = torch.stack([a, b, c], -1) @ torch.stack([first, second, third], -2)
    for _ in range(2):
        h = r.mT @ y
        omega = _solve(h, 2 * vee(h))
        r = r @ exp_so3(omega.clamp(-0.1, 0.1))
    r = (3 * r - r @ (r.mT @ r)) / 2  # products leave the group by rounding
    return r, _gap(y, r) <= _EPS * square[..., 2].clamp_min(0).sqrt()


def _system(h: Tensor) -> Tensor:
    """The matrix tr(H) I - H of the symmetric part of h."""
    h = (h + h.mT) / 2
    trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return trace * torch.eye(3, dtype=h.dtype, device=h.device) - h


def _gap(y: Tensor, r: Tensor) -> Tensor:
    """The smallest s_i + s_j, by det / (largest possible cofactor): a lower bound."""
    b = _system(r.mT @ y)
    (p, q, u), (_, s, t), (_, _, w) = (row.unbind(-1) for row in b.unbind(-2))
    det = p * (s * w - t * t) - q * (q * w - t * u) + u * (q * t - s * u)
    cofactors = (s * w - t * t) + (p * w - u * u) + (p * s - q * q)
    return det / torch.where(cofactors == 0, 1.0, cofactors)


def _adjugate_solve(b: Tensor, x: Tensor) -> Tensor:
    """Solve with symmetric 3 x 3 matrices by cofactors."""
    (p, q, u), (_, s, t), (_, _, w) = (row.unbind(-1) for row in b.unbind(-2))
    c00, c01, c02 = s * w - t * t, t * u - q * w, q * t - s * u
    c11, c12, c22 = p * w - u * u, q * u - p * t, p * s - q * q
    det = p * c00 + q * c01 + u * c02
    det = torch.where(det == 0, 1.0, det)
    x0, x1, x2 = x.unbind(-1)
    parts = [
        c00 * x0 + c01 * x1 + c02 * x2,
        c01 * x0 + c11 * x1 + c12 * x2,
        c02 * x0 + c12 * x1 + c22 * x2,
    ]
    return torch.stack(parts, -1) / det[..., None]


def _solve(h: Tensor, x: Tensor) -> Tensor:
    """Solve (tr H I - H) omega = x, damped where the matrix is nearly singular."""
    b = _system(h)
    size = b.detach().abs().amax((-2, -1), keepdim=True).clamp_min(1e-30)
    det = torch.linalg.det(b.detach() / size)
    damped = (det.abs() < _EPS)[..., None, None]
    eye = torch.eye(3, dtype=h.dtype, device=h.device)
    normal = b @ b + (_EPS * size) ** 2 * eye
    matrix = torch.where(damped, normal / size, b)
    right = torch.where(damped[..., 0], (b @ x[..., None])[..., 0] / size[..., 0], x)
    return _adjugate_solve(matrix, right)


def _change(y: Tensor, r: Tensor, h: Tensor) -> Tensor:
    """Derivative of R in direction h and, being self-adjoint, its transpose."""
    with torch.autocast(y.device.type, enabled=False):
        w = r.mT @ h
        return r @ hat(_solve(r.mT @ y, 2 * vee(w)))


class _NearestCompiled(torch.autograd.Function):
    """The rotation and the mask of 3 x 3 matrices whose largest entry is 1."""

    @staticmethod
    def forward(y):
        return _rotation(y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[0])
        ctx.save_for_forward(inputs[0], output[0])

    @staticmethod
    def backward(ctx, grad, _):
        y, r = ctx.saved_tensors
        return _change(y, r, grad)


class _Nearest(_NearestCompiled):
    """With forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, y_t):
        y, r = ctx.saved_tensors
        return _change(y, r, y_t), None
