"""The squared Bures-Wasserstein distance, whose derivative needs no eigenvalue's."""

import math

import torch
from torch import Tensor

from manifoldkit.linalg import eigh, invsqrtm, procrustes, sqrtm, symmetrize
from manifoldkit.linalg.checks import maybe_any, semidefinite_floor, tolerance
from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.linalg.factorizations import eigvalsh
from manifoldkit.spd.gbw.chart import Chart, square_factor

#: Where d^2 is below this part of the traces the trace formula has lost its digits.
_CANCELLATION = {torch.float64: 1e-4, torch.float32: 1e-2}


def unit_size(x: Tensor) -> Tensor:
    """Return r, a power of 2 for each matrix, such that x / r^2 has entries near one.

    A constant for differentiation: whoever divides by it multiplies by it again.
    """
    size = x.detach().abs().amax((-2, -1))
    good = size.isfinite() & (size > 0)
    return torch.exp2((torch.where(good, size, 1.0).log2() / 2).round())


def scale_by(x: Tensor, r: Tensor) -> Tensor:
    """Return x / r^2, where r^2 alone might leave the range of the dtype."""
    r = r[..., None, None]
    return x / r / r


def flatten_to_unit(chart: Chart, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return Y and r such that Y r^2 is x in the flat picture and Y is near one."""
    r = unit_size(x)
    y = chart.to_flat(scale_by(x, r))
    if chart.factor is None and chart.power == 1:
        return y, r
    more = unit_size(y)
    return scale_by(y, more), r**chart.power * more


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


def _value(a: Tensor, b: Tensor, ra: Tensor, rb: Tensor) -> Tensor:
    """Trace formula; entries that lose digits to cancellation are computed again."""
    factor, _ = square_factor(a)
    other, regular = square_factor(b)
    traces = ra**2 * trace(a) + rb**2 * trace(b)
    s = eigvalsh(_congruence(factor, b)).clamp_min(0)
    squared = traces - 2 * ra * rb * s.sqrt().sum(-1)
    if not regular:  # rounding hides an indefinite b from the eigenvalues above
        outside = other.isnan().flatten(-2).any(-1)
        squared = torch.where(outside, torch.nan, squared)
    close = squared < _CANCELLATION[a.dtype] * traces
    if bool(close.any()):
        batch = squared.shape
        left, right = (
            x.expand(*batch, *x.shape[-2:])[close]
            * r.expand(batch)[close][:, None, None]
            for r, x in ((ra, factor), (rb, other))
        )
        gap = (right - left @ procrustes(left, right)).square().sum((-2, -1))
        squared[close] = gap
    return squared


def _factor(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return K with K K' = x, its Moore-Penrose inverse, and where x is singular."""
    factor, info = torch.linalg.cholesky_ex(x)
    bad = info != 0
    inverse = torch.linalg.solve_triangular(factor, eye_like(x), upper=False)
    if maybe_any(bad):
        s, u = eigh(x)
        floor = -semidefinite_floor(s)
        # below the floor: rounding of zero, or no such matrix (NaN)
        root = torch.where(s < -floor, torch.nan, s.clamp_min(0)).sqrt()
        pseudo = torch.where(s.abs() <= floor, 0.0, 1 / root)
        where = bad[..., None, None]
        factor = torch.where(where, u * root[..., None, :], factor)
        inverse = torch.where(where, pseudo[..., None] * u.mT, inverse)
    return factor, inverse, bad


def _accurate_transports(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T with T a T = b and its inverse, from factors alone: any condition number.

    Where a matrix is singular, the derivative with respect to it is infinite across
    its range; the pseudo-inverse gives the one along the range.
    """
    left, left_inverse, _ = _factor(a)
    right, right_inverse, _ = _factor(b)
    turn = procrustes(left, right)
    return right @ turn.mT @ left_inverse, left @ turn @ right_inverse


def _transports(a: Tensor, b: Tensor, squared: Tensor, traces: Tensor, want):
    """T with T a T = b and its inverse: by an eigendecomposition where that will do."""
    factor, info = torch.linalg.cholesky_ex(a)
    close = squared.detach() < _CANCELLATION[a.dtype] * traces.detach()
    if maybe_any(close) or maybe_any(info):
        return _accurate_transports(a, b)
    w = factor.mT @ b @ factor
    s, u = eigh(w)
    if maybe_any(s[..., 0] <= tolerance(s.dtype) ** 0.5 * s[..., -1]):
        return _accurate_transports(a, b)
    forth = back = None
    if want[0]:
        half = sqrtm(w, eig=(s, u))
        half = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        forth = torch.linalg.solve_triangular(factor.mT, half.mT, upper=True)
    if want[1]:
        back = factor @ invsqrtm(w, eig=(s, u)) @ factor.mT
    return forth, back


def _gradients(a, b, ra, rb, squared, want) -> list[Tensor | None]:
    """Derivatives ``ra^2 I - ra rb T`` and ``rb^2 I - ra rb T^-1``, one a pair."""
    traces = ra**2 * trace(a) + rb**2 * trace(b)
    transports = _transports(a, b, squared, traces, want)
    eye = eye_like(a)
    ra, rb = ra[..., None, None], rb[..., None, None]
    return [
        own * (own * eye - other * symmetrize(t)) if wanted else None
        for own, other, t, wanted in zip(
            (ra, rb), (rb, ra), transports, want, strict=True
        )
    ]


class _SquaredDistanceCompiled(torch.autograd.Function):
    """Squared distance of ra^2 a and rb^2 b; the form that torch.compile can trace."""

    @staticmethod
    def forward(a, b, ra, rb):
        return _value(a, b, ra, rb)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx, grad):
        a, b, ra, rb, squared = ctx.saved_tensors
        grads = _gradients(a, b, ra, rb, squared, ctx.needs_input_grad[:2])
        return (
            *(
                None if g is None else (grad[..., None, None] * g).sum_to_size(x.shape)
                for g, x in zip(grads, (a, b), strict=True)
            ),
            None,
            None,
        )


class _SquaredDistance(_SquaredDistanceCompiled):
    """With forward mode and vmap."""

    @staticmethod
    def jvp(ctx, a_t, b_t, ra_t, rb_t):
        a, b, ra, rb, squared = ctx.saved_tensors
        want = [t is not None for t in (a_t, b_t)]
        grads = _gradients(a, b, ra, rb, squared, want)
        return sum(
            (grad * tangent).sum((-2, -1))
            for grad, tangent in zip(grads, (a_t, b_t), strict=True)
            if tangent is not None
        )

    @staticmethod
    def vmap(info, in_dims, a, b, ra, rb):
        """Batch dimensions broadcast, so that the mapped one is one more of them."""
        depth = max(
            x.ndim - (dim is not None) - event
            for x, dim, event in zip((a, b), in_dims, (2, 2), strict=False)
        )
        lifted = []
        for x, dim, event in zip((a, b, ra, rb), in_dims, (2, 2, 0, 0), strict=True):
            if dim is not None:
                x = x.movedim(dim, 0)
                x = x[(slice(None), *(None,) * (depth + event + 1 - x.ndim))]
            lifted.append(x)
        return _SquaredDistance.apply(*lifted), 0


def squared_distance(a: Tensor, b: Tensor, ra: Tensor, rb: Tensor) -> Tensor:
    """Squared distance of ``ra^2 a`` and ``rb^2 b``.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        Matrices near unit size, in the flat picture.
    ra, rb : Tensor, shape (...)
        Sizes; constants, which broadcast with the matrices of both.
    """
    swap = a.numel() > b.numel()
    if swap:
        a, b, ra, rb = b, a, rb, ra
    compiling = torch.compiler.is_compiling()
    function = _SquaredDistanceCompiled if compiling else _SquaredDistance
    return function.apply(a, b, ra, rb)
