r"""Means of the affine-invariant metric by Newton's method, many at a time.

At :math:`G = LL'` let :math:`L^{-1} X_i L^{-T} = Q_i e^{\lambda_i} Q_i'`. The step
:math:`G \leftarrow L e^E L'` solves

.. math::
    \mathcal H[E] = \sum_i w_i Q_i \lambda_i Q_i', \quad
    \mathcal H[E] = \sum_i w_i Q_i \Bigl( h(\lambda_{ia} - \lambda_{ib}) \circ
        (Q_i' E Q_i) \Bigr) Q_i', \quad h(u) = \tfrac u2 \coth \tfrac u2 \ge 1,

by conjugate gradients in float32, which is enough for a step; what is measured is
float64, for float32 matrices too. The start is the geometric mean of the arithmetic
and the harmonic mean: like the result it goes along with every congruence and inverse.
Matrices are visited in chunks that fit the cache, and of each only its eigenvectors in
float32 and as many weights are kept.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit.linalg import eigh
from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import cholesky, quick_eigh

_MAX_CG = 60
#: Numbers of a chunk: 2 MB in float64. A GPU wants more at a time.
_CHUNK, _CHUNK_CUDA = 1 << 18, 1 << 24
#: Part of the length unit that rounding may cost while a mean counts as converged.
_WORST = 1e-6
#: Inverse condition number below which eigenvalues are squared singular values.
_ROUGH = 1e-8


class _Frame(NamedTuple):
    """What a step needs to know at a point; chunks are tuples over the matrices."""

    gradient: Tensor  # sum w_i Q_i lambda_i Q_i', (b, n, n)
    square: Tensor  # weighted mean of the squared distances, (b,)
    noise: Tensor  # what rounding leaves of the gradient, (b,)
    chunks: list[tuple[Tensor, ...]]  # Q' (b, k, n, n), lambda, w in float32


def _chunks(x: Tensor, w: Tensor):
    room = _CHUNK_CUDA if x.is_cuda else _CHUNK
    size = max(1, room // (x.shape[0] * x.shape[-1] ** 2))
    return zip(x.split(size, 1), w.split(size, 1), strict=True)


def _congruence(left: Tensor, x: Tensor) -> Tensor:
    """L X L' of (b, k, n, n) by tall products: one large product beats k small ones."""
    b, k, n, _ = x.shape
    half = (x.reshape(b, k * n, n) @ left.mT).view(x.shape)
    return (half.mT.reshape(b, k * n, n) @ left.mT).view(x.shape)


def _whitened_eigh(inverse: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose L^-1 X L^-T; by singular values where the small eigenvalues drown.

    The last tensor bounds the error of the logarithms in units of rounding.
    """
    s, u = quick_eigh(_congruence(inverse, x))
    rough = ~(s[..., 0] > _ROUGH * s[..., -1])
    # |X_ij| <= sqrt(x_ii x_jj), so that no entry of the product is rounded by more
    size = (x.diagonal(dim1=-2, dim2=-1).sqrt() @ inverse.abs().mT).square().sum(-1)
    if bool(rough.any()):
        frame = inverse[:, None].expand_as(x)[rough]
        half = frame @ cholesky(x[rough])
        finite = half.isfinite().flatten(-2).all(-1)[:, None]
        half = torch.where(finite[..., None], half, 0.0)
        vectors, singular, _ = torch.linalg.svd(half)
        s[rough] = torch.where(finite, singular**2, torch.nan)
        u[rough] = vectors
    error = size / s.amin(-1)
    return s, u, torch.where(rough, error.sqrt(), error)


def _curvature(logs: Tensor) -> Tensor:
    """Return u / 2 coth(u / 2) for the differences u of logarithms."""
    half = (logs[..., :, None] - logs[..., None, :]) / 2
    return torch.where(half.abs() < 1e-3, 1.0, half / half.tanh())


def _frame(inverse: Tensor, x: Tensor, w: Tensor) -> _Frame:
    """Whiten by the inverse Cholesky factor and decompose, chunk by chunk."""
    gradient, square, noise, chunks = 0, 0, 0, []
    for part, weight in _chunks(x, w):
        s, u, error = _whitened_eigh(inverse, part.double())
        logs = s.log()
        rows = u.mT.flatten(1, 2)
        gradient = gradient + rows.mT @ (
            rows * (logs * weight[..., None]).flatten(1, 2)[..., None]
        )
        square = square + (weight * logs.square().sum(-1)).sum(-1)
        noise = noise + (weight * error).square().sum(-1)
        chunks.append((u.mT.float(), logs.float(), weight.float()))
    # bounds are met by a tenth, in what many have seen
    noise = tolerance(torch.float64, 0.1) * noise.sqrt()
    return _Frame(gradient, square, noise, chunks)


def _hessian(chunks: list[tuple[Tensor, Tensor]], e: Tensor) -> Tensor:
    out = torch.zeros_like(e)
    for vectors, weight in chunks:
        rows = vectors.flatten(1, 2)
        inner = (rows @ e).view(vectors.shape) @ vectors.mT
        out += rows.mT @ ((inner * weight) @ vectors).flatten(1, 2)
    return out


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1))[:, None, None]


def _newton_step(frame: _Frame, accuracy: float) -> Tensor:
    """Solve H[E] = gradient to a relative accuracy; H is never far from one."""
    tiny = torch.finfo(torch.float32).tiny
    # float32 has the range for a gradient of any size once its length is one
    size = torch.linalg.matrix_norm(frame.gradient, keepdim=True)
    residual = direction = (frame.gradient / size.clamp_min(tiny)).float()
    chunks = [
        (vectors, _curvature(logs) * weight[..., None, None])
        for vectors, logs, weight in frame.chunks
    ]
    solution = torch.zeros_like(residual)
    square = _dot(residual, residual)
    for _ in range(_MAX_CG):
        if not float(square.amax()) > accuracy**2:
            break
        image = _hessian(chunks, direction)
        step = square / (_dot(direction, image) + tiny)
        solution = solution.addcmul(step, direction)
        residual = residual.addcmul(step, image, value=-1)
        square, old = _dot(residual, residual), square
        direction = torch.addcmul(residual, square / (old + tiny), direction)
    return (solution + solution.mT).double() * (size / 2)


def _start(x: Tensor, w: Tensor) -> Tensor:
    """Geometric mean A # H of the arithmetic mean A and the harmonic mean H."""
    first, inverse = 0, 0
    for part, weight in _chunks(x, w):
        part, weight = part.double(), weight[..., None, None]
        first = first + (weight * part).sum(1)
        factor = torch.linalg.cholesky_ex(part)[0]
        inverse = inverse + (weight * torch.cholesky_inverse(factor)).sum(1)
    factor = cholesky(first)
    s, u = eigh(factor.mT @ inverse @ factor)
    root = s.clamp_min(torch.finfo(s.dtype).tiny) ** -0.25
    half = factor @ (u * root[..., None, :])
    mean = half @ half.mT
    good = (mean.isfinite() & (s[..., :1] > 0)[..., None]).flatten(1).all(1)
    return torch.where(good[:, None, None], mean, first)


def _solve(x: Tensor, w: Tensor, g: Tensor, tol: float, max_iter: int):
    """Newton's method for the problems of one block; see :func:`affine_mean`."""
    mean, eye = g, eye_like(g)
    norm = square = w.new_full(w.shape[:1], torch.inf)
    base = step = torch.zeros_like(g)
    t = torch.ones_like(norm)
    for iteration in range(max_iter + 1):
        factor = cholesky(g)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        frame = _frame(inverse, x, w)
        size = torch.linalg.matrix_norm(frame.gradient)
        length = x.shape[-1] ** 0.5 + frame.square.sqrt()
        floor = torch.minimum(frame.noise, _WORST * length)
        # a much smaller gradient, or a lower cost: one of them is always to be had
        slack = 4 * tolerance(w.dtype) * frame.square + floor * size
        better = (size <= 0.5 * norm) | (frame.square < square - slack)
        lost = ~(better | ((t > 1e-3) & (size > 10 * floor)))
        done = size <= torch.maximum(tol * length, torch.where(lost, 10.0, 1.0) * floor)
        better |= done & (size < norm)
        mask = better[:, None, None]
        mean = torch.where(mask, g, mean)
        norm, square = (
            torch.where(better, new, old)
            for new, old in ((size, norm), (frame.square, square))
        )
        if iteration == max_iter or bool((done | lost).all()):
            break
        # no more accurate than the quadratic convergence can use
        new = _newton_step(frame, min(0.1, max(1e-6, 0.1 * float(size.amin()))))
        base, step = torch.where(mask, factor, base), torch.where(mask, new, step)
        t = torch.where(better, 1.0, t / 4)
        s, u = quick_eigh(t[:, None, None] * step)
        half = base @ (u * (s / 2).exp()[..., None, :])
        g = half @ half.mT
    return mean, norm, square, done, iteration


def affine_mean(
    x: Tensor, w: Tensor, init: Tensor | None, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    r"""Weighted means of SPD matrices.

    Parameters
    ----------
    x : Tensor, shape (..., m, n, n)
        SPD matrices.
    w : Tensor, shape (..., m)
        Weights of sum one.
    init : Tensor, shape (..., n, n), optional
        Starts.
    tol : float
        Bound of the length of the gradient in units of :math:`\sqrt n` plus the root of
        the variance.
    max_iter : int
        Most steps.

    Returns
    -------
    tuple
        Means (..., n, n); length of the gradient, variance, and whether it converged,
        of shape (...); and the number of steps.
    """
    batch, (m, n) = x.shape[:-3], x.shape[-3:-1]
    x, w = x.reshape(-1, m, n, n), w.reshape(-1, m).double()
    g = None if init is None else init.reshape(-1, n, n).double()
    room = _CHUNK_CUDA if x.is_cuda else _CHUNK
    block = max(1, room // (m * n * n))
    parts = []
    for i in range(0, len(x), block):
        rows = slice(i, i + block)
        start = _start(x[rows], w[rows]) if g is None else g[rows]
        parts.append(_solve(x[rows], w[rows], start, tol, max_iter))
    if not parts:
        empty = x.new_zeros(batch)
        return x.new_zeros(*batch, n, n), empty, empty, empty > 0, 0
    *tensors, steps = zip(*parts, strict=True)
    mean, norm, square, converged = (torch.cat(part) for part in tensors)
    return (
        mean.to(x.dtype).view(*batch, n, n),
        norm.to(x.dtype).view(batch),
        square.to(x.dtype).view(batch),
        converged.view(batch),
        max(steps),
    )
