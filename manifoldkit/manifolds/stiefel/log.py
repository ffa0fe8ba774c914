r"""Logarithm of orthonormal matrices: shooting, then Gauss-Newton where it misses.

Shooting corrects u by the miss :math:`y - \exp_x u` carried back to x. That is cheap
and converges for near points, slowly or not at all from a distance of 1.5 on. The
shortest geodesic runs within the span of x and y, so that the problem has at most
:math:`p^2 + p(p-1)/2` unknowns; Gauss-Newton steps with Levenberg's damping solve it
from the projected chord.
"""

import warnings

import torch
from torch import Tensor

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg.checks import maybe_any, tolerance

_STEPS = 40
# unknowns up to which a dense Jacobian pays
_UNKNOWNS = 400
# part of y - x below which its tangent part says nothing
_LOST = 1e-3
# numbers in the Jacobians that are held at a time
_ROOM = 4_000_000


def stiefel_log(manifold, x: Tensor, y: Tensor, max_iter: int) -> Tensor:
    """Solve ``expmap(x, u) = y`` for u, every matrix of the batch on its own."""
    x, y = torch.broadcast_tensors(x, y)
    n, p = x.shape[-2:]
    track = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    # the derivative needs the directions that lead out of the span, too
    k = n if track else min(n, 2 * p)
    unknowns = k * p - p * (p + 1) // 2
    newton = unknowns <= _UNKNOWNS
    u = _push(manifold, x, y)
    # a Newton step costs 2 exponentials an unknown, and few are needed
    shots = min(max_iter, max(30, 5 * unknowns)) if newton else max_iter
    u, gap = _shoot(manifold, x, y, u, shots)
    target = tolerance(y.dtype, 8 * p)
    missed = (gap > target) & torch.isfinite(gap)
    if newton and bool(missed.any()):
        rows = missed.flatten().nonzero()[:, 0]
        some = max(1, _ROOM // (unknowns * k * p))
        pairs = zip(
            *(a.reshape(-1, n, p)[rows].split(some) for a in (x, y)), strict=True
        )
        solved = torch.cat([_newton(manifold, a, b, k, track) for a, b in pairs])
        u = u.reshape(-1, n, p).index_copy(0, rows, solved).view(u.shape)
        miss = (y - manifold.expmap(x, u)).detach()
        gap = torch.where(missed, miss.abs().amax((-2, -1)), gap)
    if bool((gap > 1e3 * target).any()):
        warnings.warn(
            f"{manifold}.logmap missed its target by {float(gap.max()):.1e}: "
            "the points may be too far apart",
            ConvergenceWarning,
            stacklevel=3,
        )
    return u


def _push(manifold, x, y) -> Tensor:
    """Tangent part of y - x, or any direction where that vanishes, as for y = -x."""
    u = manifold.proju(x, y - x)
    length = torch.linalg.matrix_norm(u.detach(), keepdim=True)
    away = torch.linalg.matrix_norm((y - x).detach(), keepdim=True)
    lost = length < _LOST * away
    if not maybe_any(lost):
        return u
    n, p = x.shape[-2:]
    # entries without symmetry of their own
    e = torch.arange(1, n * p + 1, dtype=x.dtype, device=x.device).sin().view(n, p)
    return torch.where(lost, away * manifold.proju(x, e.expand_as(x)) / 2, u)


def _shoot(manifold, x, y, u, shots: int) -> tuple[Tensor, Tensor]:
    """Correct u by the miss; return it and the largest entry of the last miss."""
    target = tolerance(y.dtype, 8 * x.shape[-1])
    tiny = torch.finfo(x.dtype).tiny
    for _ in range(shots):
        z = manifold.expmap(x, u)
        miss = y - z
        gap = miss.detach().abs().amax((-2, -1))
        done = gap <= target
        if bool(done.all()):
            break
        step = manifold.proju(z, miss)
        length = torch.linalg.matrix_norm(step, keepdim=True)
        back = manifold.proju(x, step)
        size = torch.linalg.matrix_norm(back, keepdim=True).clamp_min(tiny)
        u = torch.where(done[..., None, None], u, u + back * (length / size))
    return u, gap


def _tangent_basis(k: int, p: int, like: Tensor) -> Tensor:
    """Orthonormal basis of the tangent space at the first p unit vectors, (d, k, p)."""
    rows, columns = torch.tril_indices(k, p, -1, device=like.device)
    basis = like.new_zeros(len(rows), k, p)
    index = torch.arange(len(rows), device=like.device)
    basis[index, rows, columns] = 1
    upper = rows < p
    basis[index[upper], columns[upper], rows[upper]] = -1
    return basis / torch.linalg.matrix_norm(basis, keepdim=True)


def _newton(manifold, x: Tensor, y: Tensor, k: int, track: bool) -> Tensor:
    """Solve for matrices (m, n, p) in float64; differentiable by the implicit rule."""
    dtype, (n, p) = x.dtype, x.shape[-2:]
    x, y = x.double(), y.double()
    with torch.no_grad():
        rest = torch.cat([x, y - x @ (x.mT @ y)], -1)
        if k > 2 * p:
            eye = torch.eye(n, dtype=x.dtype, device=x.device)
            rest = torch.cat([rest, eye.expand(len(x), n, n)], -1)
        frame = torch.linalg.qr(rest[..., : max(k, p)])[0]
        frame = torch.cat([x, frame[..., p:k]], -1)
        basis = _tangent_basis(k, p, x)
        enough = tolerance(dtype, p) ** 2
        c, jacobian = _levenberg(manifold, basis, frame.mT @ y, enough)
        u = frame @ torch.einsum("bd,dij->bij", c, basis)
    if not track:
        return u.to(dtype)
    miss = y - manifold.expmap(x, manifold.proju(x, u))
    c = torch.linalg.lstsq(jacobian, (frame.mT @ miss).flatten(1)[..., None]).solution
    correction = frame @ torch.einsum("bd,dij->bij", c[..., 0], basis)
    return manifold.proju(x, u + correction).to(dtype)


def _levenberg(manifold, basis, y, enough: float) -> tuple[Tensor, Tensor]:
    """Coordinates c of the logarithm of y, and the Jacobian of ``expmap`` there."""
    d, k, p = basis.shape
    start = torch.eye(k, p, dtype=y.dtype, device=y.device)
    eye = torch.eye(d, dtype=y.dtype, device=y.device)
    h = 6e-6  # cube root of the rounding unit: central differences

    def end(c):
        return manifold.expmap(start, torch.einsum("...d,dij->...ij", c, basis))

    def jacobian(c):
        ahead, behind = (end(c[:, None] + s * eye) for s in (h, -h))
        return ((ahead - behind) / (2 * h)).flatten(2).mT

    def residual(c, rows):
        return (y[rows] - end(c)).flatten(1)

    c = torch.einsum("dij,bij->bd", basis, _push(manifold, start.expand_as(y), y))
    r = residual(c, slice(None))
    damping = torch.full_like(c[:, 0], 1e-2)
    for _ in range(_STEPS):
        cost = r.square().sum(-1)
        rows = ((cost > enough) & (damping < 1e3)).nonzero()[:, 0]
        if not len(rows):
            break
        j = jacobian(c[rows])
        normal = j.mT @ j + damping[rows, None, None] * eye
        step = torch.linalg.solve_ex(normal, (j.mT @ r[rows][..., None])[..., 0])[0]
        trial = c[rows] + step
        new = residual(trial, rows)
        better = new.square().sum(-1) < cost[rows]
        c[rows] = torch.where(better[:, None], trial, c[rows])
        r[rows] = torch.where(better[:, None], new, r[rows])
        factor = torch.where(better, 0.1, 5.0).to(damping)
        damping[rows] = (damping[rows] * factor).clamp(1e-15, 1e3)
    return c, jacobian(c)
