"""Nearest orthogonal matrices: polar decomposition, Procrustes and rigid motions."""

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_floating,
    check_weights,
    compute_dtype,
    first_index,
    known_any,
    subscript,
    tolerance,
)
from manifoldkit.linalg.elementary import bring_to_unit, unit_size
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


def _check_pairs(weights: Tensor | None, **clouds: Tensor) -> None:
    """Raise unless two clouds hold equally many points in rows, and weights fit."""
    for name, points in clouds.items():
        check_floating(points, name)
    (first, a), (second, b) = clouds.items()
    if a.ndim < 2 or b.ndim < 2 or a.shape[-2:] != b.shape[-2:]:
        raise ValueError(
            f"{first} and {second}: expected equal trailing shapes (..., m, n), "
            f"found {tuple(a.shape)} and {tuple(b.shape)}"
        )
    batches = {first: (a, 2), second: (b, 2)}
    if weights is not None:
        check_weights(weights, a.shape[-2])
        batches["weights"] = (weights, 1)
    check_broadcast(**batches)


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
    _check_pairs(weights, a=a, b=b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(compute_dtype(dtype)), b.to(compute_dtype(dtype))
    if a.numel() and b.numel():
        a, b = bring_to_unit(a), bring_to_unit(b)  # R does not depend on their scales
    if weights is not None:
        a = a * weights.to(a.dtype)[..., None]
    return _orthogonal_factor(a.mT @ b, special).to(dtype)


class RigidFit(NamedTuple):
    """A rigid motion; it takes points in rows to ``x @ r.mT + t``.

    Attributes
    ----------
    r : Tensor, shape (..., n, n)
        Rotation, acting on column vectors.
    t : Tensor, shape (..., n)
        Translation.
    """

    r: Tensor
    t: Tensor


class SimilarityFit(NamedTuple):
    """A rigid motion with a scale; it takes points in rows to ``s x @ r.mT + t``.

    Attributes
    ----------
    r : Tensor, shape (..., n, n)
        Rotation, acting on column vectors.
    t : Tensor, shape (..., n)
        Translation.
    scale : Tensor, shape (...)
        The factor s.
    """

    r: Tensor
    t: Tensor
    scale: Tensor


@overload
def rigid_fit(
    source: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: Literal[False] = False,
    reflections: bool = False,
) -> RigidFit: ...
@overload
def rigid_fit(
    source: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: Literal[True],
    reflections: bool = False,
) -> SimilarityFit: ...
def rigid_fit(
    source: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: bool = False,
    reflections: bool = False,
) -> RigidFit | SimilarityFit:
    r"""Rigid motion that best maps the points of a cloud to those of another.

    Minimizes :math:`\sum_i w_i |s R x_i + t - y_i|^2`. With weighted means
    :math:`\bar x, \bar y` and :math:`H = \sum_i w_i (y_i - \bar y)(x_i - \bar x)'`,
    R is the rotation nearest to H, :math:`s = \operatorname{tr}(R'H) / \sum_i w_i
    |x_i - \bar x|^2` and :math:`t = \bar y - s R \bar x`.

    Parameters
    ----------
    source, target : Tensor, shape (..., m, n)
        Corresponding points in rows; batch dimensions broadcast.
    weights : Tensor, shape (..., m), optional
        Non-negative weights of the pairs; only their ratios matter. Points of weight
        zero are not looked at.
    scale : bool, default=False
        Fit a scale too.
    reflections : bool, default=False
        Let R be any orthogonal matrix; otherwise its determinant is +1.

    Returns
    -------
    RigidFit or SimilarityFit
        Named tuple ``(r, t)``, with ``scale=True`` ``(r, t, scale)``.

    Raises
    ------
    TypeError, ValueError
        Not floating-point, shapes that do not match, no points, bad weights, or a
        scale that is asked of a source whose points coincide.

    Notes
    -----
    Points whose differences span fewer than n - 1 dimensions leave R open; one of the
    best motions is returned. Elsewhere everything is differentiable in points and
    weights. A cloud with an entry that is not finite gives NaN for itself alone.

    References
    ----------
    .. [1] S. Umeyama, "Least-squares estimation of transformation parameters between
       two point patterns", IEEE TPAMI 13, 1991.

    Examples
    --------
    >>> x = torch.tensor([[0., 0.], [1., 0.], [0., 2.]])
    >>> quarter = torch.tensor([[0., -1.], [1., 0.]])
    >>> r, t, scale = rigid_fit(x, 3 * x @ quarter.mT + 1, scale=True)
    >>> torch.allclose(r, quarter, atol=1e-6), t, scale
    (True, tensor([1.0000, 1.0000]), tensor(3.0000))
    """
    _check_pairs(weights, source=source, target=target)
    if 0 in source.shape[-2:]:
        raise ValueError(
            f"source: expected at least one point, found shape {tuple(source.shape)}"
        )
    dtype = torch.promote_types(source.dtype, target.dtype)
    x, y = source.to(compute_dtype(dtype)), target.to(compute_dtype(dtype))
    w = x.new_ones(x.shape[-2], 1) if weights is None else weights.to(x)[..., None]
    if weights is not None:
        w = w / w.detach().amax(-2, keepdim=True)
        x, y = torch.where(w > 0, x, 0.0), torch.where(w > 0, y, 0.0)
    w = w / w.sum(-2, keepdim=True)
    x_mean, y_mean = (w * x).sum(-2, keepdim=True), (w * y).sum(-2, keepdim=True)
    a, b = torch.where(w > 0, x - x_mean, 0.0), torch.where(w > 0, y - y_mean, 0.0)
    x_size, y_size = unit_size(a), unit_size(b)
    a, b = a / x_size, b / y_size
    r = _orthogonal_factor(b.mT @ (w * a), special=not reflections)
    turned = a @ r.mT
    if not scale:
        t = y_mean - x_mean @ r.mT
        return RigidFit(r.to(dtype), t[..., 0, :].to(dtype))
    spread = (w * a * a).sum((-2, -1), keepdim=True)
    _check_spread(spread.sqrt() * x_size, x)
    s = (w * b * turned).sum((-2, -1), keepdim=True) / spread * (y_size / x_size)
    t = y_mean - s * (x_mean @ r.mT)
    return SimilarityFit(r.to(dtype), t[..., 0, :].to(dtype), s[..., 0, 0].to(dtype))


def _check_spread(spread: Tensor, x: Tensor) -> None:
    """Raise where the points of a cloud are the same but for rounding."""
    top = x.detach().abs().amax((-2, -1), keepdim=True)
    same = (spread.detach() <= tolerance(x.dtype, 4) * top)[..., 0, 0]
    if known_any(same):
        raise ValueError(
            f"source{subscript(first_index(same))}: all points of positive weight "
            "coincide, which leaves the scale open"
        )
