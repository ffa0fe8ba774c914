r"""The two halves of GBW batch normalization, with derivatives written by hand.

In the flat picture (``M = C C'``, :math:`\tilde X_i = C^{-1} Y_i C^{-\top}`) the batch
is centered by the transport maps ``T_i`` from the mean ``G = U diag(g) U'``, carried to
the identity, scaled, and carried to the bias ``B = R diag(d) R'``:

.. math::
    V_i = H_{1/2}(G)[T_i - I], \quad L_i = H_{-1/2}(B)[\kappa V_i], \quad
    Z_i = C (I + L_i) B (I + L_i) C',

:math:`H_p(B)[V]_{ab} = (2 (d_a + d_b))^p V_{ab}` in the eigenbasis of B. With
:math:`W = g^{1/2} U'` and :math:`S_i = (W \tilde X_i W')^{1/2}`, one batched
eigendecomposition gives :math:`(U' T_i U)_{ab} = S_{ab} / \sqrt{g_a g_b}`.

Backward calls no eigendecomposition: the root is differentiated by a Lyapunov equation
in the eigenbasis that is at hand, and H by the divided differences of a power, which
are exact at repeated eigenvalues. The gradient of C needs no work of its own: both
halves are equivariant under ``C -> A C, Y -> A Y A', ...`` for every invertible A, and
the derivative of that identity at ``A = I`` gives ``dC C'`` from the other gradients.
Automatic differentiation of the same form takes 1.2 to 1.4 times as long ("forward +
backward" of benchmarks/batchnorm.py); only the root of the mean's steps is left to it.

Shapes: matrices (c, n, n) and batches (c, N, n, n), where c groups are normalized
separately.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import quick_eigh
from manifoldkit.linalg.symmetric import apply_spectral
from manifoldkit.spd.batchnorm import composed
from manifoldkit.spd.batchnorm.base import BatchAverage
from manifoldkit.spd.batchnorm.roots import (
    Absolute,
    congruence,
    square_roots,
    weighted_sum,
)
from manifoldkit.spd.conditioning import mean_eigenvalue, transformed
from manifoldkit.spd.gbw.metric import gbw_distance

#: Steps of :func:`own_mean` at most, and the relative change that ends them.
_OWN_STEPS, _OWN_TOLERANCE = 100, 1e-10


class Frame(NamedTuple):
    """A factor C of the metric matrix, and its inverse without gradient."""

    factor: Tensor
    inverse: Tensor


def factorize(metric: Tensor) -> Frame:
    """Cholesky factor of the metric matrix; any other root would do as well."""
    factor = torch.linalg.cholesky((metric + metric.mT).mul_(0.5))
    eye = eye_like(metric)
    return Frame(
        factor,
        torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False),
    )


class _Factor(torch.autograd.Function):
    """Cholesky factor of M, for functions that do not depend on the choice of it.

    For these the gradient of M follows from that of the factor without solving for a
    triangle: dM M = dC C' / 2, where dC is taken over all matrices C.
    """

    @staticmethod
    def forward(ctx, metric):
        factor, inverse = factorize(metric)
        ctx.save_for_backward(factor, inverse)
        ctx.mark_non_differentiable(inverse)
        return factor, inverse

    @staticmethod
    def backward(ctx, grad, _):
        factor, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            inverse = torch.linalg.inv(factor)
        half = grad @ inverse
        return (half + half.mT) / 4


def _recorded(*tensors: Tensor) -> bool:
    """Whether a graph is built; a Function that builds none only costs its overhead."""
    if torch.compiler.is_exporting():  # what is exported evaluates
        return False
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def frame_of(metric: Tensor) -> Frame:
    """Factorize the metric matrix."""
    if transformed():
        factor = torch.linalg.cholesky((metric + metric.mT) / 2)
        return Frame(factor, torch.linalg.inv(factor))
    return Frame(*_Factor.apply(metric)) if _recorded(metric) else factorize(metric)


def _sandwich(k: Tensor, x: Tensor) -> Tensor:
    y = k @ x @ k.mT
    return (y + y.mT).mul_(0.5)


def _gram(x: Tensor, y: Tensor) -> Tensor:
    """Sum over the batch of X_i' Y_i."""
    return x.flatten(1, 2).mT @ y.flatten(1, 2)


def _pairs(d: Tensor) -> Tensor:
    """sqrt(2 (d_a + d_b))."""
    return (d[..., :, None] + d[..., None, :]).mul_(2).sqrt_()


def _hadamard_gradient(root: Tensor, inverse: bool, grad: Tensor, v: Tensor) -> Tensor:
    """Gradient of H_p(B)[V] with respect to B, all in the eigenbasis of B.

    4 sum_b D_abc sum_i g_ab v_cb, D_abc the divided difference of x^p at x_ab and x_cb,
    where ``root`` holds the square roots of x_ab; 1 / (x_ab + x_cb) in terms of the
    roots for p = 1/2. For p = -1/2 it is that of g / root and -v / root.
    """
    if inverse:
        grad, v = grad / root[:, None], v / -root[:, None]
    # all are symmetric: (N, b, a) is read as b matrices (N, a) without a copy
    products = grad.transpose(1, 2).mT @ v.transpose(1, 2)
    difference = root[..., :, :, None] + root[..., :, None, :]
    total = products.div_(difference).sum(1)
    return (total + total.mT).mul_(2)


def _centered(y, factor, center, inverse, method):
    """Tangent vectors V_i at I in the basis U, and what backward needs."""
    g, u = quick_eigh(inverse @ center @ inverse.mT)
    half = g.sqrt()
    k = half[..., None] * (u.mT @ inverse)
    roots = square_roots(k, y, method)
    twice = 2 / g
    weight = (twice[..., :, None] + twice[..., None, :]).sqrt_()[:, None]
    v = roots.root * weight
    v.diagonal(dim1=-2, dim2=-1).sub_(2 * half[:, None])
    return v, u, roots, (g, half, u, k, weight, inverse)


class _Center(torch.autograd.Function):
    """Batch, factor of M and mean to tangent vectors V_i at I, in the basis U."""

    @staticmethod
    def forward(ctx, y, factor, center, inverse, method):
        v, u, ctx.roots, ctx.frame = _centered(y, factor, center, inverse, method)
        ctx.save_for_backward(y, factor, center)
        ctx.mark_non_differentiable(u)
        ctx.set_materialize_grads(False)
        return v, u

    @staticmethod
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 5
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, ctx.frame[2])
            wanted = (*ctx.needs_input_grad[:3], False)
            grads = composed.differentiate(composed.center, inputs, wanted, grad)
            return *grads[:3], None, None
        roots = ctx.roots
        g, half, u, k, weight, inverse = ctx.frame
        grad_s = grad * weight
        grad_a = roots.lyapunov(grad_s)
        grad_y = congruence(k.mT, grad_a) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:3]):
            return grad_y, None, None, None, None
        first, second = _gram(grad_s, roots.root), _gram(grad_a, roots.square)
        outer = half[..., :, None] * half[..., None, :]
        t = roots.root / outer[:, None]
        t.diagonal(dim1=-2, dim2=-1).sub_(1)
        # S A S = grad_s S - A S^2 where A solves the Lyapunov equation
        core = (second - first) / outer
        core = (core + core.mT).mul_(0.5) + _hadamard_gradient(
            _pairs(g), False, grad, t
        )
        basis = inverse.mT @ u
        grad_center = basis @ core @ basis.mT if ctx.needs_input_grad[2] else None
        second = second * (half[..., None] / half[..., None, :])
        grad_factor = -2 * basis @ (second + core * g[..., None, :]) @ u.mT
        return grad_y, grad_factor, grad_center, None, None


def _step(v, inverse, bias, gain, u):
    """I + L in the eigenbasis of the bias, and what it is made of."""
    d, r = quick_eigh(_sandwich(inverse, bias))
    rotation = r.mT @ u
    pairs = _pairs(d)
    change = congruence(rotation, v).div_(pairs[:, None])
    step = gain[:, None, None, None] * change
    step.diagonal(dim1=-2, dim2=-1).add_(1)
    return step, change, pairs, rotation, d, r


def _expanded(v, factor, bias, gain, inverse, u):
    """Matrices around the bias, and what backward needs."""
    step, change, pairs, rotation, d, r = _step(v, inverse, bias, gain, u)
    outward = factor @ r
    half = (step.flatten(1, 2) @ outward.mT).view_as(step)
    z = half.mT @ (d[:, None, :, None] * half)
    return z, (change, step, d, r, rotation, pairs, outward, inverse, u)


class _Expand(torch.autograd.Function):
    """Tangent vectors at I to matrices around the bias."""

    @staticmethod
    def forward(ctx, v, factor, bias, gain, inverse, u):
        z, ctx.frame = _expanded(v, factor, bias, gain, inverse, u)
        ctx.save_for_backward(v, factor, bias, gain)
        return z

    @staticmethod
    def backward(ctx, grad):
        change, step, d, r, rotation, pairs, outward, inverse, u = ctx.frame
        if torch.is_grad_enabled():
            inputs, wanted = (*ctx.saved_tensors, u), (*ctx.needs_input_grad[:4], False)
            grads = composed.differentiate(composed.expand, inputs, wanted, grad)
            return *grads[:4], None, None
        gain = ctx.saved_tensors[3]
        want_v, want_factor, want_bias, want_gain = ctx.needs_input_grad[:4]
        grad = congruence(outward.mT, (grad + grad.mT).mul_(0.5))
        inner = grad @ step
        right = inner * d[:, None, None, :]
        grad_step = right + right.mT
        grad_v = grad_factor = grad_bias = grad_gain = None
        if want_gain:
            grad_gain = (grad_step * change).sum((1, 2, 3))
        scaled = grad_step * gain[:, None, None, None]
        if want_v:
            grad_v = congruence(rotation.mT, scaled / pairs[:, None])
        if want_bias or want_factor:
            direct = _gram(step, inner)
            v = change * pairs[:, None]
            core = _hadamard_gradient(pairs, True, scaled, v)
            core = core + (direct + direct.mT).mul_(0.5)
            basis = inverse.mT @ r
            grad_bias = basis @ core @ basis.mT
            # sum grad Z, from (grad_step) N = grad N d N + d N grad N
            outer = _gram(grad_step, step) - d[..., None] * direct.mT
            grad_factor = 2 * basis @ (outer - core * d[..., None, :]) @ r.mT
        return grad_v, grad_factor, grad_bias, grad_gain, None, None


class _Root(torch.autograd.Function):
    """Roots of A = K Y K'."""

    @staticmethod
    def forward(ctx, k, y, method):
        ctx.roots = square_roots(k, y, method)
        ctx.save_for_backward(k, y)
        return ctx.roots.root

    @staticmethod
    def backward(ctx, grad):
        k, y = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = ctx.needs_input_grad[:2]
            return *composed.differentiate(composed.root, (k, y), wanted, grad), None
        roots = ctx.roots
        grad = roots.lyapunov((grad + grad.mT) / 2)
        # K Y = A K^-T: the batch is summed before it meets K
        grad_k = 2 * torch.linalg.solve(k, _gram(roots.square, grad)).mT
        return grad_k, congruence(k.mT, grad), None


def _move(c: Tensor, lower: Tensor, root: Tensor, t: Tensor | None = None) -> Tensor:
    """C C' L^-T R as a factor of the moved matrix; with t between it and L."""
    half = c @ (c.mT @ torch.linalg.solve_triangular(lower.mT, root, upper=True))
    half = half if t is None else torch.lerp(half, lower, t)
    return half @ half.mT


def _mean_step(
    y: Tensor,
    frame: Frame,
    center: Tensor,
    lower: Tensor,
    average: BatchAverage,
    method: str,
) -> Tensor:
    """G <- H G H in units of y, H the average transport map from the center.

    ``lower`` is the Cholesky factor of the center, without gradient.
    """
    c, inverse = frame
    if torch.is_grad_enabled():
        lower, inverse = torch.linalg.cholesky(center), torch.linalg.inv(c)
    k = (inverse @ lower).mT @ inverse
    if transformed():
        root = composed.root(k, y)
    elif _recorded(k, y):
        root = _Root.apply(k, y, method)
    else:
        root = square_roots(k, y, method).root
    return _move(c, lower, average.of_sum(weighted_sum(root, average.weights)))


class Settings(NamedTuple):
    """What a layer sets; the names are those of its options."""

    power: float
    eps: float
    mean_iterations: int
    root: str
    dispersion: str
    stats_grad: bool
    fold: bool
    relative: bool


def batch_mean(
    y: Tensor, frame: Frame, average: BatchAverage, settings: Settings
) -> Tensor:
    """Fixed-point steps G <- H G H from the arithmetic mean."""
    mean = average.first(y)
    lower = average.check(mean)
    for k in range(settings.mean_iterations):
        if k:
            lower = average.check(mean)
        mean = _mean_step(y, frame, mean, lower, average, settings.root)
    return mean


def own_mean(
    y: Tensor, metric: Tensor, average: BatchAverage, settings: Settings
) -> Tensor:
    """The metric matrix that is the mean of the batch under itself."""
    norm = torch.linalg.matrix_norm
    mean = batch_mean(y, frame_of(metric), average, settings)
    for _ in range(_OWN_STEPS):
        change = batch_mean(y, frame_of(mean), average, settings) - mean
        # whole steps oscillate where powers make the dispersion large
        mean = mean + change / 2
        if bool((norm(change) <= _OWN_TOLERANCE * norm(mean)).all()):
            break
    return mean


class Normalization:
    """A batch centered at its mean, with what carries it to the bias.

    Parameters
    ----------
    y : Tensor, shape (c, N, n, n)
        The batch.
    metric, bias : Tensor, shape (c, n, n)
        M and B.
    scale : Tensor, shape (c,)
        Learned deviation.
    average : BatchAverage
        Means over the batch.
    settings : Settings
        Those of the layer.
    statistics : tuple of Tensor, shapes (c, n, n) and (c,), optional
        Mean and variance to use; default those of the batch.
    earlier : tuple of Tensor, shapes (c, n, n), (c,) and (), optional
        Mean and variance from which those of the batch are moved by a share, constants.

    Attributes
    ----------
    mean, var : Tensor
        The statistics in use.
    found : tuple of Tensor
        Mean of the batch, and its variance about the mean in use.
    """

    def __init__(
        self,
        y: Tensor,
        metric: Tensor,
        bias: Tensor,
        scale: Tensor,
        average: BatchAverage,
        settings: Settings,
        statistics: tuple[Tensor, Tensor] | None = None,
        earlier: tuple[Tensor, Tensor, Tensor] | None = None,
    ):
        self.frame = frame = frame_of(metric)
        graph = torch.is_grad_enabled() and settings.stats_grad
        if statistics is None:
            with torch.set_grad_enabled(graph):
                # without a graph constants, in forward mode too
                fixed = frame if graph else Frame(*(t.detach() for t in frame))
                mean = batch_mean(y if graph else y.detach(), fixed, average, settings)
        else:
            mean = statistics[0]
        center = mean
        if earlier is not None:
            with torch.no_grad():
                mean = _geodesic(frame, mean, earlier[0], earlier[2])
        arguments = y, frame.factor, mean, frame.inverse, settings.root
        v: Tensor
        if transformed():
            self.basis = eye_like(metric).expand_as(metric)
            v = composed.center(y, frame.factor, mean, self.basis)
        elif _recorded(y, frame.factor, mean):
            v, self.basis = _Center.apply(*arguments)
        else:
            v, self.basis = _centered(*arguments)[:2]
        if statistics is None:
            with torch.set_grad_enabled(graph):
                parts = (v, y, metric)
                if not graph:
                    parts = (v.detach(), y.detach(), metric.detach())
                var = _variance(*parts, average, settings)
        else:
            var = statistics[1]
        self.found = center, var
        if earlier is not None:
            var = torch.lerp(earlier[1], var, earlier[2])
        self.mean, self.var, self.bias = mean, var, bias
        level = _level(mean, metric) if settings.relative else None
        floor = settings.eps if level is None else settings.eps * level
        gain = scale * (var + floor).rsqrt()
        if settings.fold and level is not None:
            root = level.sqrt()
            v, gain = v / root[:, None, None, None], gain * root
        self.v, self.gain = _folded(v, gain) if settings.fold else (v, gain)

    def matrices(self) -> Tensor:
        """Scaled tangent vectors to matrices around the bias."""
        c, inverse = self.frame
        if transformed():
            return composed.expand(self.v, c, self.bias, self.gain, self.basis)
        arguments = self.v, c, self.bias, self.gain, inverse, self.basis
        if _recorded(*arguments[:4]):
            return _Expand.apply(*arguments)
        return _expanded(*arguments)[0]

    def margin(self) -> Tensor:
        """Smallest eigenvalue of I + V / 2 and of I + L over the batch."""
        v, inverse = self.v, self.frame.inverse
        step = _step(v, inverse, self.bias, self.gain, self.basis)[0]
        return torch.minimum(
            *(quick_eigh(m)[0].amin() for m in (eye_like(v) + v / 2, step))
        )

    def mean_from(self, old: Tensor, t: Tensor) -> Tensor:
        """From old (t = 0) to the mean of the batch, without gradient."""
        return _geodesic(self.frame, self.found[0], old, t)


def _geodesic(frame: Frame, mean: Tensor, old: Tensor, t: Tensor) -> Tensor:
    """From old (t = 0) to the mean, which is the better conditioned end."""
    lower = torch.linalg.cholesky(mean)
    k = (frame.inverse @ lower).mT @ frame.inverse
    root = square_roots(k, old[:, None], "eigh").root[:, 0]
    return _move(frame.factor, lower, root, t)


def _level(mean: Tensor, metric: Tensor) -> Tensor:
    """Mean eigenvalue of the whitened mean, tr(M^-1 G) / n; shape (c,)."""
    return mean_eigenvalue(torch.linalg.solve(metric, mean)).flatten()


def _variance(
    v: Tensor, y: Tensor, metric: Tensor, average: BatchAverage, settings: Settings
) -> Tensor:
    if settings.dispersion == "mean":
        squares = v.square().sum((2, 3)) / 4
    else:
        metric = metric[:, None]
        squares = gbw_distance(y, metric, metric, squared=True)
    return average(squares) / settings.power**2


def _folded(v: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """2 |I + k (|I + V/2| - I)| - 2 I: exponential and logarithm at I by real roots."""
    eye = eye_like(v)
    v = apply_spectral(eye + v / 2, Absolute(), None) - eye
    v = apply_spectral(eye + gain[:, None, None, None] * v, Absolute(), None) - eye
    return 2 * v, torch.ones_like(gain)
