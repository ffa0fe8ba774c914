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

Shapes: matrices (c, n, n) and batches (c, N, n, n), where c groups are normalized
separately.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import quick_eigh
from manifoldkit.spd.batchnorm import composed
from manifoldkit.spd.batchnorm.roots import congruence, square_roots


class Frame(NamedTuple):
    """A factor C of the metric matrix, and its inverse without gradient."""

    factor: Tensor
    inverse: Tensor


def _factorize(metric: Tensor) -> Frame:
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
        factor, inverse = _factorize(metric)
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


class _Symmetric(torch.autograd.Function):
    """(X + X') / 2 in front of functions whose gradient is symmetric."""

    @staticmethod
    def forward(ctx, x):
        return (x + x.mT).mul_(0.5)

    @staticmethod
    def backward(ctx, grad):
        return grad


def _recorded(*tensors: Tensor) -> bool:
    """Whether a graph is built; a Function that builds none only costs its overhead."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def symmetric_part(x: Tensor) -> Tensor:
    """(X + X') / 2, for use before the functions of this module only."""
    if _recorded(x):
        return _Symmetric.apply(x)
    return (x + x.mT).mul_(0.5)


def frame_of(metric: Tensor) -> Frame:
    """Factorize the metric matrix."""
    return Frame(*_Factor.apply(metric)) if _recorded(metric) else _factorize(metric)


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


class _SumTransport(torch.autograd.Function):
    """Sum of the transport maps from the center to the batch, in the flat picture."""

    @staticmethod
    def forward(ctx, y, factor, center, inverse, method, weights):
        lower = inverse @ torch.linalg.cholesky(center)
        k = lower.mT @ inverse
        roots = square_roots(k, y, method)
        back = torch.linalg.inv(lower)
        total = roots.total(weights)
        ctx.roots, ctx.frame = roots, (lower, back, total, k, inverse, weights)
        ctx.save_for_backward(y, factor, center)
        return _sandwich(back.mT, total)

    @staticmethod
    def backward(ctx, grad):
        lower, back, total, k, inverse, weights = ctx.frame
        if torch.is_grad_enabled():
            wanted = ctx.needs_input_grad[:3]
            function = partial(composed.sum_transport, weights=weights)
            grads = composed.differentiate(function, ctx.saved_tensors, wanted, grad)
            return *grads, None, None, None
        roots = ctx.roots
        grad_s = _sandwich(back, grad)
        each = grad_s[:, None].expand_as(roots.root)
        if weights is not None:
            each = each * weights[:, :, None, None]
        grad_a = roots.lyapunov(each)
        grad_y = congruence(k.mT, grad_a)
        second = _gram(grad_a, roots.square)
        core = _sandwich(back.mT, second - grad_s @ total)
        grad_center = inverse.mT @ core @ inverse
        second = lower @ second @ back
        grad_factor = -2 * inverse.mT @ (second + core @ lower @ lower.mT)
        return grad_y, grad_factor, grad_center, None, None, None


def center_batch(
    y: Tensor, frame: Frame, center: Tensor, method: str
) -> tuple[Tensor, Tensor]:
    """Tangent vectors of the batch at I in a basis, and the basis."""
    arguments = y, frame.factor, center, frame.inverse, method
    if _recorded(y, frame.factor, center):
        return _Center.apply(*arguments)
    return _centered(*arguments)[:2]


def expand(
    v: Tensor, frame: Frame, bias: Tensor, gain: Tensor, basis: Tensor
) -> Tensor:
    """Scaled tangent vectors to matrices around the bias."""
    arguments = v, frame.factor, bias, gain, frame.inverse, basis
    if _recorded(v, frame.factor, bias, gain):
        return _Expand.apply(*arguments)
    return _expanded(*arguments)[0]


def mean_step(
    y: Tensor,
    frame: Frame,
    center: Tensor,
    lower: Tensor,
    average: Callable[[Tensor], Tensor],
    method: str,
    weights: Tensor | None = None,
) -> Tensor:
    """G <- H G H in units of y, H the average transport map from the center.

    ``lower`` is the Cholesky factor of the center; ``average`` turns a weighted sum
    over the batch into a mean.
    """
    c = frame.factor
    if torch.is_grad_enabled():
        h = _SumTransport.apply(y, c, center, frame.inverse, method, weights)
        step = c @ average(h)
        # C H C^-1 takes G in units of y
        step = torch.linalg.solve(c.mT, step.mT).mT
        mean = step @ center @ step.mT
        return (mean + mean.mT) / 2
    k = (frame.inverse @ lower).mT @ frame.inverse
    root = average(square_roots(k, y, method).total(weights))
    half = c @ (c.mT @ torch.linalg.solve_triangular(lower.mT, root, upper=True))
    return half @ half.mT


def geodesic(frame: Frame, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From a (t = 0) to b, without gradient; b is the better conditioned end."""
    lower = torch.linalg.cholesky(b)
    k = (frame.inverse @ lower).mT @ frame.inverse
    root = square_roots(k, a[:, None], "eigh").root[:, 0]
    c = frame.factor
    back = c @ (c.mT @ torch.linalg.solve_triangular(lower.mT, root, upper=True))
    half = torch.lerp(back, lower, t)
    return half @ half.mT


def margin(
    v: Tensor, frame: Frame, bias: Tensor, gain: Tensor, basis: Tensor
) -> Tensor:
    """Smallest eigenvalue of I + V / 2 and of I + L over the batch."""
    step = _step(v, frame.inverse, bias, gain, basis)[0]
    eye = eye_like(v)
    return torch.minimum(*(quick_eigh(m)[0].amin() for m in (eye + v / 2, step)))
