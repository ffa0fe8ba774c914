"""Nearest orthogonal matrices: polar decomposition and the Procrustes problem."""

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_floating,
    check_weights,
    compute_dtype,
)
from manifoldkit.linalg.elementary import bring_to_unit
from manifoldkit.linalg.solvers import solve_lyapunov
from manifoldkit.linalg.transforms import traced_order, with_value


class Polar(NamedTuple):
    """The factors of a polar decomposition."""

    p: Tensor
    r: Tensor


def _svd(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD as constants; a non-finite matrix gives NaN for itself alone."""
    g = g.detach()
    finite = torch.isfinite(g).all(-1).all(-1)[..., None, None]
    safe = torch.where(
        finite, g, torch.eye(*g.shape[-2:], dtype=g.dtype, device=g.device)
    )
    u, s, vt = torch.linalg.svd(safe, full_matrices=False)
    return torch.where(finite, u, torch.nan), s, vt


class _OrthogonalCompiled(torch.autograd.Function):
    """The orthonormal factor R = U diag(d) V' of g (m >= n), given U, d, V."""

    @staticmethod
    def forward(g, u, s, d, vt):
        return (u * d[..., None, :]) @ vt

    @staticmethod
    def setup_context(ctx, inputs, output):
        g, _, s, d, vt = inputs
        ctx.save_for_backward(g, s * d, vt, output)
        ctx.save_for_forward(g, s * d, vt, output)

    @staticmethod
    def backward(ctx, grad):
        g, s, vt, r = ctx.saved_tensors
        return _factor_change(g, s, vt, r, grad), None, None, None, None


class _Orthogonal(_OrthogonalCompiled):
    """With forward mode, vmap and derivatives of every order."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, g_t, u_t, s_t, d_t, vt_t):
        g, s, vt, r = ctx.saved_tensors
        return _factor_change(g, s, vt, r, g_t)


def _factor_change(g: Tensor, s: Tensor, vt: Tensor, r: Tensor, h: Tensor) -> Tensor:
    """Derivative of R in direction h, and, being self-adjoint, its transpose.

    With H = R'g symmetric: dR = R Omega + (I - R R') h H^-1, where the skew Omega
    solves H Omega + Omega H = R'h - h'R.
    """
    w = r.mT @ h
    stretch = r.mT @ g
    # of a matrix with s_n = 0 alone the rotation is unique, and Omega is skew: the
    # quotient 0 / (s_n + s_n) plays no part
    floor = torch.finfo(s.dtype).eps * s[..., :1]
    s = torch.where(s.abs() < floor, floor, s)
    omega = solve_lyapunov(stretch, w - w.mT, eig=(s, vt.mT))
    out = r @ ((omega - omega.mT) / 2)
    if g.shape[-2] > g.shape[-1]:
        out = out + torch.linalg.solve(stretch, h - r @ w, left=False)
    return out


def _factor_series(g: Tensor, s: Tensor, vt: Tensor, r: Tensor, order: int) -> Tensor:
    """R with ``order`` right derivatives, by Newton steps whose matrix is constant.

    ``g - R sym(R'g)`` vanishes at the orthonormal factor alone; every step makes one
    more derivative right, and keeps the columns orthonormal.
    """
    z, start = g.detach(), r
    for _ in range(order):
        stretch = r.mT @ g
        rest = g - r @ (stretch + stretch.mT) / 2
        r = r + _factor_change(z, s, vt, start, rest)
        r = 1.5 * r - r @ (r.mT @ r) / 2
    return with_value(start, r)


def _orthogonal_factor(g: Tensor, special: bool = False) -> Tensor:
    u, s, vt = _svd(g)
    d = torch.ones_like(s)
    if special:
        sign = torch.linalg.det(u @ vt).sign()
        d = torch.cat([d[..., :-1], sign[..., None]], -1)
    if not torch.compiler.is_compiling():
        return _Orthogonal.apply(g, u, s, d, vt)
    if order := traced_order():
        r = _OrthogonalCompiled.forward(g, u, s, d, vt)
        return _factor_series(g, s * d, vt, r, order)
    return _OrthogonalCompiled.apply(g, u, s, d, vt)


def polar(g: Tensor, side: str = "left") -> Polar:
    r"""Polar decomposition, ``g = p r`` (left) or ``g = r p`` (right).

    ``r`` is the nearest matrix with orthonormal rows (left) or columns (right) and
    ``p`` the symmetric positive semidefinite stretch, :math:`p = (g g')^{1/2}` or
    :math:`(g' g)^{1/2}`, both from one SVD (no squared condition number). Derivatives
    are exact also at repeated singular values; they exist where g has full rank.

    Parameters
    ----------
    g : Tensor, shape (..., m, n)
        Matrices; m <= n for ``side="left"``, m >= n for ``side="right"``.
    side : {"left", "right"}
        The side on which the stretch stands.

    Returns
    -------
    Polar
        Named tuple ``(p, r)``.

    Raises
    ------
    TypeError, ValueError
        Not a floating-point matrix, or a shape or side that does not fit.

    Examples
    --------
    >>> p, r = polar(torch.tensor([[0., -2.], [1., 0.]]))
    >>> p
    tensor([[2., 0.],
            [0., 1.]])
    >>> r
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """
    check_floating(g, "g")
    check_choice(side, ("left", "right"), "side")
    if g.ndim < 2 or 0 in g.shape[-2:]:
        raise ValueError(
            f"g: expected matrices of shape (..., m, n), found {tuple(g.shape)}"
        )
    m, n = g.shape[-2:]
    if m != n and (m > n) == (side == "left"):
        need = "m <= n" if side == "left" else "m >= n"
        raise ValueError(
            f'g: side="{side}" needs matrices (..., m, n) with {need}, '
            f"found shape {tuple(g.shape)}"
        )
    x = g.to(compute_dtype(g.dtype))
    if side == "left":
        r = _orthogonal_factor(x.mT).mT
        p = x @ r.mT
    else:
        r = _orthogonal_factor(x)
        p = r.mT @ x
    return Polar(((p + p.mT) / 2).to(g.dtype), r.to(g.dtype))


def procrustes(
    a: Tensor, b: Tensor, weights: Tensor | None = None, *, special: bool = False
) -> Tensor:
    r"""Orthogonal matrix that best maps the rows of ``a`` to the rows of ``b``.

    Minimizes :math:`\sum_i w_i |a_i R - b_i|^2` over orthogonal R (the convention of
    :func:`scipy.linalg.orthogonal_procrustes`); the solution is the orthogonal polar
    factor of :math:`a' \operatorname{diag}(w)\, b`. Nothing is centered or scaled.

    Parameters
    ----------
    a, b : Tensor, shape (..., m, n)
        Points in rows; batch dimensions broadcast.
    weights : Tensor, shape (..., m), optional
        Non-negative weights of the points.
    special : bool, default=False
        Restrict R to rotations, det R = +1 (Kabsch).

    Returns
    -------
    Tensor, shape (..., n, n)
        R, so that ``a @ R`` is close to ``b``; it acts on row vectors, ``R.mT`` on
        columns. Differentiable in a, b and weights where the solution is unique.

    Raises
    ------
    TypeError, ValueError
        Not floating-point, shapes that do not match, or bad weights.

    Examples
    --------
    >>> a = torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
    >>> procrustes(a, a @ torch.tensor([[0., 1.], [-1., 0.]])).round().abs()
    tensor([[0., 1.],
            [1., 0.]])
    """
    check_floating(a, "a")
    check_floating(b, "b")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-2:] != b.shape[-2:]:
        raise ValueError(
            "a and b: expected equal trailing shapes (..., m, n), "
            f"found {tuple(a.shape)} and {tuple(b.shape)}"
        )
    batches = {"a": (a, 2), "b": (b, 2)}
    if weights is not None:
        check_weights(weights, a.shape[-2])
        batches["weights"] = (weights, 1)
    check_broadcast(**batches)
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(compute_dtype(dtype)), b.to(compute_dtype(dtype))
    if a.numel() and b.numel():
        a, b = bring_to_unit(a), bring_to_unit(b)  # R does not depend on their scales
    if weights is not None:
        a = a * weights.to(a.dtype)[..., None]
    return _orthogonal_factor(a.mT @ b, special).to(dtype)
