r"""Generalized Bures-Wasserstein (GBW) geometry of SPD matrices.

With a metric matrix M (SPD) and a power :math:`\theta \ne 0`

.. math::
    d_\theta(X, Y) = d_M(X^\theta, Y^\theta) / |\theta|, \quad
    d_M(X, Y)^2 = \operatorname{tr} M^{-1}X + \operatorname{tr} M^{-1}Y
        - 2 \operatorname{tr} (M^{-1} X M^{-1} Y)^{1/2},

the pullback of the Bures-Wasserstein (BW) metric
:math:`\langle U, V \rangle_P = \tfrac12 \operatorname{tr}(\mathcal L_P(U) V)`, where
:math:`L = \mathcal L_P(U)` solves ``P L + L P = U``, by
:math:`X \mapsto C^{-1} X^\theta C^{-\top}` with the Cholesky factor ``M = C C'`` (any
factor gives the same geometry). Everything is computed in that flat picture from the
transport map ``T``, the SPD solution of ``T G T = X``:

.. math::
    \log_G X = TG + GT - 2G, \quad \exp_G V = (I + L) G (I + L), \quad
    \gamma(t) = S_t G S_t,\ S_t = (1 - t) I + t T.

Shared conventions: tensors of shape (..., n, n) whose batch dimensions broadcast, also
empty; float32 and float64 are kept and half precision is computed in float32; inputs
are symmetrized; gradients are exact in every tensor argument, M included. Without
``validate=True`` values are not looked at, and a matrix outside the domain gives NaN
for itself alone.

References
----------
A. Han, B. Mishra, P. Jawanpuria, J. Gao, "Learning with symmetric positive definite
matrices via generalized Bures-Wasserstein geometry", GSI 2023.
R. Bhatia, T. Jain, Y. Lim, "On the Bures-Wasserstein distance between positive
definite matrices", Expositiones Mathematicae 37, 2019.
"""

import math

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import (
    polar,
    procrustes,
    solve_lyapunov,
    sqrtm,
    symmetrize,
)
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_floating,
    first_index,
    maybe_any,
    must_not_look,
    tolerance,
)
from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.linalg.factorizations import cholesky, eigvalsh
from manifoldkit.spd.conditioning import seems_clear
from manifoldkit.spd.gbw.chart import prepare, square_factor

#: Where d^2 is below this part of the traces the trace formula has lost its digits.
_CANCELLATION = {torch.float64: 1e-4, torch.float32: 1e-2}


def transport(base: Tensor, point: Tensor, accurate: bool = True) -> Tensor:
    """Return T with T G T = X and the Cholesky factor of G is used once.

    The accurate route takes the polar factor of ``chol(G)' chol(X)`` and keeps the
    small eigenvalues, which squaring loses; the fast one the root of ``L' X L``.
    """
    factor = cholesky(base)
    half = torch.linalg.solve_triangular(
        factor.mT, root_in_frame(factor, point, accurate), upper=True
    )
    return symmetrize(torch.linalg.solve_triangular(factor.mT, half.mT, upper=True))


def root_in_frame(factor: Tensor, point: Tensor, accurate: bool) -> Tensor:
    """(L' X L)^(1/2)."""
    if not accurate:
        return sqrtm(factor.mT @ point @ factor)
    second, info = torch.linalg.cholesky_ex(point)
    good = (info == 0)[..., None, None]
    if not must_not_look(point) and not maybe_any(~good):
        return polar(factor.mT @ second).p
    eye = eye_like(point)
    regular = polar(factor.mT @ torch.where(good, second, eye)).p
    singular = sqrtm(factor.mT @ torch.where(good, eye, point) @ factor)
    return torch.where(good, regular, singular)


def _congruence(factor: Tensor, x: Tensor) -> Tensor:
    """L' X L without gradient; for all pairs of two sets, two tall products per L.

    A batched product of many small matrices runs at a third of that speed on a CPU:
    without it "distances, 100 matrices 64 x 64, 4 centers" of benchmarks/gbw.py takes
    1.2 times as long.
    """
    batch = torch.broadcast_shapes(factor.shape[:-2], x.shape[:-2])
    n, d = x.shape[-1], len(batch)
    outer = (1,) * (d + 2 - factor.ndim) + factor.shape[:-2]
    inner = (1,) * (d + 2 - x.ndim) + x.shape[:-2]
    if x.is_cuda or any(k > 1 and m > 1 for k, m in zip(outer, inner, strict=True)):
        return factor.mT @ x @ factor
    out = x.new_empty(math.prod(outer), math.prod(inner), n, n)
    flat = x.reshape(-1, n)
    for product, single in zip(out, factor.reshape(-1, n, n), strict=True):
        half = (flat @ single).view(-1, n, n)
        torch.mm(half.mT.reshape(-1, n), single, out=product.view(-1, n))
    # (outer, inner) of d dimensions each, one of every two being 1, to the batch
    pairs = [i for j in range(d) for i in (j, d + j)]
    return out.view(*outer, *inner, n, n).permute(*pairs, -2, -1).reshape(*batch, n, n)


class _SquaredDistance(torch.autograd.Function):
    """BW distance squared; its gradient needs no derivative of an eigenvalue."""

    @staticmethod
    def forward(ctx, a, b):
        factor, regular = square_factor(a)
        traces = trace(a) + trace(b)
        s = eigvalsh(_congruence(factor, b))
        s = torch.where(s < 0, torch.zeros_like(s), s)
        squared = traces - 2 * s.sqrt().sum(-1)
        close = squared < _CANCELLATION[a.dtype] * traces
        ctx.close = bool(close.any())
        if ctx.close:
            batch = squared.shape
            left = factor.expand(*batch, *a.shape[-2:])[close]
            right, _ = square_factor(b.expand(*batch, *b.shape[-2:])[close])
            gap = (right - left @ procrustes(left, right)).square().sum((-2, -1))
            squared[close] = gap
        ctx.regular = regular
        ctx.save_for_backward(a, b)
        return squared

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        want = ctx.needs_input_grad[:2]
        if not ctx.regular:
            (a, b), want = (b, a), want[::-1]
        eye = eye_like(a)
        grad = grad[..., None, None]
        factor = cholesky(a)
        root = root_in_frame(factor, b, ctx.close)
        out = [None, None]
        if want[0]:
            half = torch.linalg.solve_triangular(factor.mT, root, upper=True)
            t = torch.linalg.solve_triangular(factor.mT, half.mT, upper=True)
            out[0] = (grad * (eye - symmetrize(t))).sum_to_size(a.shape)
        if want[1]:
            t = factor @ torch.linalg.solve(root, factor.mT)
            out[1] = (grad * (eye - symmetrize(t))).sum_to_size(b.shape)
        return tuple(out if ctx.regular else out[::-1])


def gbw_distance(
    a: Tensor,
    b: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    squared: bool = False,
    validate: bool = False,
) -> Tensor:
    r"""Distance :math:`d_\theta(a, b)` of the generalized Bures-Wasserstein geometry.

    Costs one Cholesky factorization and the eigenvalues of ``L' X L`` for a pair;
    entries that lose digits to cancellation are computed again as
    :math:`\min_Q |K_a - K_b Q|` over orthogonal Q, so that the absolute error stays
    near 1e-15 in float64 for nearly equal matrices of unit scale.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        SPD matrices; singular positive semidefinite ones are allowed with
        ``power > 0``. For all pairs of two sets give shapes (N, 1, n, n) and (K, n, n).
    M : Tensor, shape (..., n, n), optional
        SPD metric matrix, default the identity (Bures-Wasserstein). ``M = a`` makes
        the metric at ``a`` a quarter of the affine-invariant one.
    power : float, default=1
        Deformation; towards 0 (with M = I) half the log-Euclidean distance.
    squared : bool, default=False
        Return the squared distance, whose gradient is smooth everywhere.
    validate : bool, default=False
        Raise for a matrix that is not SPD.

    Returns
    -------
    Tensor, shape (...)
        The gradient of the distance where ``a == b`` is 0.

    Raises
    ------
    TypeError
        Not floating-point tensors.
    ValueError
        Shapes that do not fit, a power near 0; with ``validate``, the first bad matrix.

    References
    ----------
    Han et al. 2023, eq. 3; Bhatia et al. 2019, theorem 1.

    Examples
    --------
    >>> gbw_distance(torch.diag(torch.tensor([4., 1.])), torch.eye(2))
    tensor(1.)
    """
    (a, b), chart, dtype = prepare(
        {"a": (a, "psd"), "b": (b, "psd")}, M, power, validate
    )
    # whiten before broadcasting: one solve a matrix, not one a pair
    a, b = chart.to_flat(a), chart.to_flat(b)
    swap = a.numel() > b.numel()
    result = _SquaredDistance.apply(*((b, a) if swap else (a, b))) / power**2
    if squared:
        return result.to(dtype)
    traces = (trace(a) + trace(b)).detach() / power**2
    # nearer than rounding the direction of the gradient is noise
    zero = result <= tolerance(a.dtype, 32) ** 2 * traces
    root = torch.where(zero, torch.ones_like(result), result).sqrt()
    return torch.where(zero, result.detach().sqrt(), root).to(dtype)


def gbw_log(
    base: Tensor,
    point: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    validate: bool = False,
) -> Tensor:
    r"""Riemannian logarithm :math:`\log_G X`, a symmetric matrix in units of X.

    Parameters
    ----------
    base : Tensor, shape (..., n, n)
        SPD matrices G.
    point : Tensor, shape (..., n, n)
        SPD matrices X; singular positive semidefinite ones are allowed with
        ``power > 0`` (the gradient with respect to them is then infinite).
    M, power, validate
        See :func:`gbw_distance`.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        As :func:`gbw_distance`.

    Examples
    --------
    >>> gbw_log(torch.eye(2), torch.diag(torch.tensor([4., 1.])))
    tensor([[2., 0.],
            [0., 0.]])
    """
    (base, point), chart, dtype = prepare(
        {"base": (base, "spd"), "point": (point, "psd")}, M, power, validate
    )
    flat = chart.to_flat(base)
    t = transport(flat, chart.to_flat(point))
    eye = eye_like(t)
    return chart.pull(base, symmetrize(2 * (t - eye) @ flat)).to(dtype)


def gbw_exp(
    base: Tensor,
    tangent: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    check_domain: bool = False,
    validate: bool = False,
) -> Tensor:
    r"""Riemannian exponential :math:`\exp_G V = (I + L) G (I + L)`.

    In the flat picture :math:`L = \mathcal L_G(V)`. SPD matrices are not geodesically
    complete in this geometry: the map is injective, with inverse :func:`gbw_log`, only
    where ``I + L`` is positive definite. Elsewhere the formula still gives a positive
    semidefinite matrix, at which the geodesic has met the boundary and come back.

    Parameters
    ----------
    base : Tensor, shape (..., n, n)
        SPD matrices G.
    tangent : Tensor, shape (..., n, n)
        Symmetric matrices V.
    M, power
        See :func:`gbw_distance`.
    check_domain : bool, default=False
        Raise where ``I + L`` is not positive definite.
    validate : bool, default=False
        Raise for a base that is not SPD or a tangent that is not finite.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    NotOnManifoldError
        With ``check_domain``, the first tangent outside the domain.

    Examples
    --------
    >>> gbw_exp(torch.eye(2), torch.diag(torch.tensor([2., 0.])))
    tensor([[4., 0.],
            [0., 1.]])
    """
    (base, tangent), chart, dtype = prepare(
        {"base": (base, "spd"), "tangent": (tangent, "symmetric")}, M, power, validate
    )
    flat = chart.to_flat(base)
    change = solve_lyapunov(flat, chart.push(base, tangent))
    result = stretch(flat, change, check_domain, "tangent")
    return chart.from_flat(result).to(dtype)


def stretch(flat: Tensor, change: Tensor, check_domain: bool, name: str) -> Tensor:
    """(I + L) G (I + L), positive semidefinite by construction."""
    eye = eye_like(flat)
    step = eye + symmetrize(change)
    if check_domain:
        s = eigvalsh(step.detach())[..., 0]
        bad = ~(s > 0)
        if not seems_clear(bad):
            index = first_index(bad) if bad.ndim else ()
            where = f"[{', '.join(map(str, index))}]" if index else ""
            raise NotOnManifoldError(
                f"{name}{where} is outside the injectivity domain of the exponential: "
                f"I + L has smallest eigenvalue {float(s[index]):.1e}, expected > 0"
            )
    half = step @ cholesky(flat)
    return half @ half.mT


def gbw_geodesic(
    a: Tensor,
    b: Tensor,
    t: float | Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    validate: bool = False,
) -> Tensor:
    r"""Point :math:`\gamma(t)` of the geodesic with ``gamma(0) = a``, ``gamma(1) = b``.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        SPD matrices; b may be singular with ``power > 0``.
    t : float or Tensor, shape (...)
        Positions, broadcast with the batch dimensions of a and b. All of [0, 1] is
        valid; outside, the geodesic may meet the boundary (see :func:`gbw_exp`).
    M, power, validate
        See :func:`gbw_distance`.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        As :func:`gbw_distance`; positions that do not broadcast.

    Examples
    --------
    >>> gbw_geodesic(torch.eye(2), torch.diag(torch.tensor([9., 1.])), 0.5)
    tensor([[4., 0.],
            [0., 1.]])
    """
    (a, b), chart, dtype = prepare(
        {"a": (a, "spd"), "b": (b, "psd")}, M, power, validate
    )
    if isinstance(t, Tensor):
        check_floating(t, "t")
    if not isinstance(t, Tensor | float | int):
        raise TypeError(f"t: expected a number or a tensor, found {t!r}")
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    flat = chart.to_flat(a)
    change = transport(flat, chart.to_flat(b))
    change = change - eye_like(a)
    check_broadcast(a=(change, 2), t=(t, 0))
    result = stretch(flat, t[..., None, None] * change, False, "t")
    return chart.from_flat(result).to(dtype)
