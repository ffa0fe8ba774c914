r"""Barycenters of the generalized Bures-Wasserstein geometry by Newton-CG.

In the flat picture (see :mod:`manifoldkit.spd.gbw.metric`) the barycenter G of matrices
:math:`X_i` with normalized weights solves :math:`\sum_i w_i T_i = I`, where
:math:`T_i G T_i = X_i`. With ``L = chol(G)``, :math:`S_i = (L' X_i L)^{1/2}
= Q_i \operatorname{diag}(r_i) Q_i'` and :math:`\bar S = \sum_i w_i S_i`, a Newton step
:math:`dG = L E L'` solves

.. math::
    \mathcal N[E] = \bar S - L'L, \quad \mathcal N[E] = \sum_i w_i Q_i \Bigl(
        \frac{r_a r_b}{r_a + r_b} \circ (Q_i' E Q_i) \Bigr) Q_i'

by preconditioned conjugate gradients: one batched eigendecomposition and a few
matrix products an iteration. The fixed-point map :math:`G \mapsto HGH`,
:math:`H = \sum_i w_i T_i` (Alvarez-Esteban et al. 2016), which converges from
everywhere, makes the first step and replaces Newton steps that fail.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit.linalg import eigh, sqrtm, symmetrize
from manifoldkit.linalg.checks import maybe_any, tolerance
from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.linalg.factorizations import cholesky, quick_eigh
from manifoldkit.spd.gbw.chart import square_factor

_MAX_CG = 100
#: Where the eigenvalues of a Newton step E are cut, to stay where its model holds.
_BOUNDS = (-3.0, 1.0)
#: Residual above which nothing counts as converged, whatever the condition number.
_WORST_LEVEL = 1e-2


class MeanInfo(NamedTuple):
    r"""How the iteration of :func:`gbw_mean` ended, one entry a mean.

    Attributes
    ----------
    n_iter : Tensor of int
        Steps taken.
    residual : Tensor
        :math:`|\sum_i w_i T_i - I|_F / \sqrt n`.
    converged : Tensor of bool
        The residual is at the tolerance, or at the rounding level above it.
    """

    n_iter: Tensor
    residual: Tensor
    converged: Tensor


class Frame(NamedTuple):
    """Everything at a point G that a step needs; see the module's docstring."""

    factor: Tensor  # L, (b, n, n)
    roots: Tensor  # r, (b, N, n)
    vectors: Tensor  # Q', (b, N, n, n)
    mean_root: Tensor  # S bar, (b, n, n)
    gap: Tensor  # S bar - L'L
    residual: Tensor  # (b,)


def _tall(x: Tensor) -> Tensor:
    """(b, N, n, n) as (b, N n, n): N products with one matrix become one."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


def frame_at(g: Tensor, x: Tensor, w: Tensor, halves: Tensor | None = None) -> Frame:
    """Decompose at g; ``halves``, factors of x, asks for the accurate, slower way."""
    factor = cholesky(g)
    if halves is None:
        half = (_tall(x) @ factor).view(x.shape)
        s, u = quick_eigh((_tall(half.mT) @ factor).view(x.shape))
        roots = torch.where(s > 0, s, s * 0).sqrt()
    else:
        # singular values: no root of a rounding error in the small ones
        product = factor.mT[:, None] @ halves
        finite = product.isfinite().flatten(1).all(1)[:, None, None, None]
        u, roots, _ = torch.linalg.svd(torch.where(finite, product, 0.0))
        roots = torch.where(finite[..., 0], roots, torch.nan)
    vectors = u.mT.contiguous()
    flat = _tall(vectors)
    mean_root = flat.mT @ (flat * (roots * w[..., None]).flatten(1)[..., None])
    gap = mean_root - factor.mT @ factor
    half = torch.linalg.solve_triangular(factor.mT, gap, upper=True)
    change = torch.linalg.solve_triangular(factor.mT, half.mT, upper=True)
    residual = change.square().mean((-2, -1)).sqrt() * math.sqrt(g.shape[-1])
    return Frame(factor, roots, vectors, mean_root, gap, residual)


def _harmonic(r: Tensor) -> Tensor:
    """r_a r_b / (r_a + r_b), and 0 where both are 0."""
    a, b = r[..., :, None], r[..., None, :]
    return a * b / (a + b).clamp_min(torch.finfo(r.dtype).tiny)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1))[:, None, None]


def solve_newton(frame: Frame, w: Tensor, right: Tensor, accuracy: Tensor) -> Tensor:
    """Solve N[E] = right by conjugate gradients to a relative accuracy a problem.

    The preconditioner is the same operator with the single matrix S bar; the norm that
    is watched is the preconditioned one, which sees small eigenvalues as large ones.
    """
    flat, vectors = _tall(frame.vectors), frame.vectors
    weight = w[..., None, None] * _harmonic(frame.roots)

    def operator(e):
        inner = (flat @ e).view(vectors.shape) @ vectors.mT
        return flat.mT @ _tall((inner * weight) @ vectors)

    s, u = quick_eigh(frame.mean_root)
    inverse = (s[..., :, None] + s[..., None, :]) / (
        s[..., :, None] * s[..., None, :]
    ).clamp_min(torch.finfo(s.dtype).tiny)

    def precondition(e):
        return u @ ((u.mT @ e @ u) * inverse) @ u.mT

    accuracy = accuracy[:, None, None] ** 2
    solution, residual = torch.zeros_like(right), right
    z = direction = precondition(residual)
    size = first = _dot(residual, z)
    for _ in range(_MAX_CG):
        running = size > accuracy * first
        if not bool(running.any()):
            break
        image = operator(direction)
        step = torch.where(running, size / _dot(direction, image), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        z = precondition(residual)
        new = _dot(residual, z)
        direction = z + torch.where(running, new / size, 0.0) * direction
        size = torch.where(running, new, size)
    return symmetrize(solution)


def _fixed_point(frame: Frame) -> Tensor:
    """Return H G H, which never raises the cost."""
    half = torch.linalg.solve_triangular(frame.factor.mT, frame.mean_root, upper=True)
    return half @ half.mT


def _newton(frame: Frame, w: Tensor, tol: float) -> Tensor:
    """Return L exp(E) L', with the eigenvalues of E kept between bounds."""
    # no more accurate than the quadratic convergence can use
    accuracy = torch.maximum(frame.residual, 0.1 * tol / frame.residual)
    change = solve_newton(frame, w, frame.gap, accuracy.clamp_max(0.1))
    s, u = quick_eigh(change)
    half = frame.factor @ (u * (s.clamp(*_BOUNDS) / 2).exp()[..., None, :])
    return half @ half.mT


def _iterate(x, w, g, tol: float, max_iter: int, fixed_first: bool, halves=None):
    """Iterate all problems at once, keeping only those that still run.

    x (b, N, n, n), w (b, N) normalized, g (b, n, n) the start, halves factors of x.
    """
    count = x.shape[0]
    result = torch.full_like(g, torch.nan)
    best = x.new_full((count,), math.inf)
    n_iter = torch.zeros(count, dtype=torch.long, device=x.device)
    converged = torch.zeros(count, dtype=torch.bool, device=x.device)
    active = torch.arange(count, device=x.device)
    cost, safe = x.new_full((count,), math.inf), g
    sure = torch.ones_like(converged)
    # an eigenvalue's rounding error grows to its root before it reaches the cost
    eps = tolerance(x.dtype)
    relative_noise = math.sqrt(eps) if halves is None else 100 * eps
    for iteration in range(max_iter + 1):
        frame = frame_at(g, x, w, halves)
        residual, previous = frame.residual, best[active]
        better = residual < previous
        result[active[better]], best[active[better]] = g[better], residual[better]
        n_iter[active] = iteration
        new_cost = trace(g) - 2 * trace(frame.mean_root)
        noise = relative_noise * trace(g)
        stalled = (residual > 0.5 * previous) & ((new_cost - cost).abs() <= noise)
        good = residual <= tol
        if bool(stalled.any()):
            good |= stalled & (best[active] <= _rounding_level(frame))
        converged[active] = good
        lost = residual.isnan() & sure
        keep = ~(good | stalled | lost)
        if iteration == max_iter or not bool(keep.any()):
            break
        fixed = _fixed_point(frame)
        proposal = fixed if fixed_first and iteration == 0 else _newton(frame, w, tol)
        # back to the step that is sure, where the last one raised the cost or failed
        sure = ~((new_cost <= cost) | better)
        back = sure[:, None, None]
        g, safe = torch.where(back, safe, proposal), torch.where(back, safe, fixed)
        cost = torch.where(new_cost < cost, new_cost, cost)
        if not bool(keep.all()):
            active, g, x, w = active[keep], g[keep], x[keep], w[keep]
            cost, safe, sure = cost[keep], safe[keep], sure[keep]
            halves = None if halves is None else halves[keep]
    return result, MeanInfo(n_iter, best, converged)


def solve(
    x: Tensor, w: Tensor, g: Tensor, tol: float, max_iter: int, warm: bool
) -> tuple[Tensor, MeanInfo]:
    """Iterate with eigendecompositions, then where rounding stops those with SVDs.

    Parameters
    ----------
    x : Tensor, shape (b, N, n, n)
        Matrices of b problems, in the flat picture.
    w : Tensor, shape (b, N)
        Weights of sum one.
    g : Tensor, shape (b, n, n)
        Starts.
    tol, max_iter
        The options of :func:`~manifoldkit.spd.gbw_mean`.
    warm : bool
        The start is near the mean: no fixed-point step first.
    """
    result, info = _iterate(x, w, g, tol, max_iter, not warm)
    rest = ~info.converged & info.residual.isfinite() & (info.n_iter < max_iter)
    if bool(rest.any()):
        halves, _ = square_factor(x[rest])
        steps = max_iter - int(info.n_iter[rest].max())
        again = _iterate(x[rest], w[rest], result[rest], tol, steps, False, halves)
        result[rest] = again[0]
        for old, new in zip(info, again[1], strict=True):
            old[rest] = new + old[rest] if old is info.n_iter else new
    return result, info


def _rounding_level(frame: Frame) -> Tensor:
    """Residual that rounding may leave, some eps times the condition number."""
    s, _ = eigh(frame.mean_root)
    smallest = s[..., 0].clamp_min(torch.finfo(s.dtype).tiny)
    level = tolerance(s.dtype, 10) * s[..., -1] / smallest
    return level.clamp_max(_WORST_LEVEL)


def unrolled(
    x: Tensor, w: Tensor, g: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, MeanInfo]:
    """Fixed-point steps that automatic differentiation records; see :func:`solve`."""
    for n_iter in range(max_iter + 1):
        factor = cholesky(g)
        roots = sqrtm(factor.mT[:, None] @ x @ factor[:, None])
        mean_root = (w[..., None, None] * roots).sum(1)
        half = torch.linalg.solve_triangular(factor.mT, mean_root, upper=True)
        total = torch.linalg.solve_triangular(factor.mT, half.mT, upper=True)
        eye = eye_like(g)
        residual = (total - eye).detach().square().sum((-2, -1)).sqrt()
        residual = residual / math.sqrt(g.shape[-1])
        converged = residual <= tol
        if n_iter == max_iter or not maybe_any(~converged):
            break
        g = half @ half.mT
    steps = torch.full_like(residual, n_iter, dtype=torch.long)
    return g, MeanInfo(steps, residual, converged)
