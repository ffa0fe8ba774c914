r"""The two halves of GBW batch normalisation, with derivatives written by hand.

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

Shapes: matrices (c, n, n) and batches (c, N, n, n), where c groups are normalised
separately.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manifoldkit.linalg import eigh
from manifoldkit.spd._gbw_batchnorm_roots import square_roots


class Frame(NamedTuple):
    """Cholesky factor of the metric matrix, and its inverse without gradient."""

    factor: Tensor
    inverse: Tensor


def _sandwich(k: Tensor, x: Tensor) -> Tensor:
    y = k @ x @ k.mT
    return (y + y.mT) / 2


def _tall(x: Tensor) -> Tensor:
    """Stack the matrices of each group: (c, N n, n)."""
    return x.flatten(1, 2)


def congruence(k: Tensor, x: Tensor) -> Tensor:
    """K X K' of symmetric X, as two tall products with one matrix."""
    half = (_tall(x) @ k.mT).view_as(x)
    return (_tall(half.mT.contiguous()) @ k.mT).view_as(x)


def _gram(x: Tensor, y: Tensor) -> Tensor:
    """Sum over the batch of X_i' Y_i."""
    return _tall(x).mT @ _tall(y)


def _hadamard_gradient(d: Tensor, power: float, grad: Tensor, v: Tensor) -> Tensor:
    """Gradient of H_p(B)[V] with respect to B, all in the eigenbasis of B.

    4 sum_b D_abc sum_i g_ab v_cb with the divided differences D of x^p at
    x_ab = 2 (d_a + d_b).
    """
    root = (2 * (d[..., :, None] + d[..., None, :])).sqrt()
    # both are symmetric: (N, b, a) is read as b matrices (N, a) without a copy
    products = grad.transpose(1, 2).mT @ v.transpose(1, 2)
    x, y = root[..., :, :, None], root[..., :, None, :]
    difference = 1 / (x + y) if power > 0 else -1 / (x * y * (x + y))
    total = 4 * (difference * products).sum(1)
    return (total + total.mT) / 2


class _Center(torch.autograd.Function):
    """Batch, factor of M and mean to tangent vectors V_i at I, in the basis U."""

    @staticmethod
    def forward(ctx, y, factor, center, inverse, method):
        flat = _sandwich(inverse, center)
        g, u = eigh(flat)
        half = g.sqrt()
        k = half[..., None] * (u.mT @ inverse)
        roots = square_roots(k, y, congruence(k, y), method)
        weight = (2 * (1 / g[..., :, None] + 1 / g[..., None, :])).sqrt()
        v = roots.root * weight[:, None]
        v.diagonal(dim1=-2, dim2=-1).sub_(2 * half[:, None])
        ctx.roots, ctx.frame = roots, (g, u, k, weight, inverse)
        ctx.mark_non_differentiable(u)
        ctx.set_materialize_grads(False)
        return v, u

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 5
        roots = ctx.roots
        g, u, k, weight, inverse = ctx.frame
        grad_s = grad * weight[:, None]
        grad_a = roots.lyapunov(grad_s)
        grad_y = congruence(k.mT, grad_a) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:3]):
            return grad_y, None, None, None, None
        half = g.sqrt()
        outer = half[..., :, None] * half[..., None, :]
        first, second = _gram(grad_s, roots.root), _gram(grad_a, roots.square())
        t = roots.root / outer[:, None]
        t.diagonal(dim1=-2, dim2=-1).sub_(1)
        # S A S = grad_s S - A S^2 where A solves the Lyapunov equation
        core = (second - first) / outer
        core = (core + core.mT) / 2 + _hadamard_gradient(g, 0.5, grad, t)
        basis = inverse.mT @ u
        grad_center = basis @ core @ basis.mT
        second = half[..., None] * second / half[..., None, :]
        grad_factor = -2 * basis @ (second + core * g[..., None, :]) @ u.mT
        return grad_y, grad_factor, grad_center, None, None


def _step(v, inverse, bias, gain, u):
    """I + L in the eigenbasis of the bias, and what it is made of."""
    d, r = eigh(_sandwich(inverse, bias))
    rotation = r.mT @ u
    weight = 1 / (2 * (d[..., :, None] + d[..., None, :])).sqrt()
    change = congruence(rotation, v).mul_(weight[:, None])
    step = gain[:, None, None, None] * change
    step.diagonal(dim1=-2, dim2=-1).add_(1)
    return step, change, weight, rotation, d, r


class _Expand(torch.autograd.Function):
    """Tangent vectors at I to matrices around the bias."""

    @staticmethod
    def forward(ctx, v, factor, bias, gain, inverse, u):
        step, change, weight, rotation, d, r = _step(v, inverse, bias, gain, u)
        outward = factor @ r
        half = (_tall(step) @ outward.mT).view_as(step)
        ctx.save_for_backward(change, step, gain)
        ctx.frame = (d, r, rotation, weight, outward, inverse)
        return half.mT @ (d[:, None, :, None] * half)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        change, step, gain = ctx.saved_tensors
        d, r, rotation, weight, outward, inverse = ctx.frame
        want_v, want_factor, want_bias, want_gain = ctx.needs_input_grad[:4]
        grad = congruence(outward.mT, (grad + grad.mT) / 2)
        inner = grad @ step
        right = inner * d[:, None, None, :]
        grad_step = right + right.mT
        grad_v = grad_factor = grad_bias = grad_gain = None
        if want_gain:
            grad_gain = (grad_step * change).sum((1, 2, 3))
        scaled = grad_step * gain[:, None, None, None]
        if want_v:
            grad_v = congruence(rotation.mT, scaled * weight[:, None])
        if want_bias or want_factor:
            direct = _gram(step, inner)
            core = (direct + direct.mT) / 2
            core = core + _hadamard_gradient(d, -0.5, scaled, change / weight[:, None])
            basis = inverse.mT @ r
            grad_bias = basis @ core @ basis.mT
            # sum grad Z, from (grad_step) N = grad N d N + d N grad N
            outer = _gram(grad_step, step) - d[..., None] * direct.mT
            grad_factor = 2 * basis @ (outer - core * d[..., None, :]) @ r.mT
        return grad_v, grad_factor, grad_bias, grad_gain, None, None


class _SumTransport(torch.autograd.Function):
    """Sum of the transport maps from the center to the batch, in the flat picture."""

    @staticmethod
    def forward(ctx, y, factor, center, inverse, method):
        lower = inverse @ torch.linalg.cholesky(center)
        k = lower.mT @ inverse
        roots = square_roots(k, y, congruence(k, y), method)
        back = torch.linalg.inv(lower)
        total = back.mT @ roots.total() @ back
        ctx.roots, ctx.frame = roots, (lower, back, k, inverse)
        return (total + total.mT) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        roots = ctx.roots
        lower, back, k, inverse = ctx.frame
        grad_s = _sandwich(back, grad)
        grad_a = roots.lyapunov(grad_s[:, None].expand_as(roots.root))
        grad_y = congruence(k.mT, grad_a)
        second = _gram(grad_a, roots.square())
        core = second - grad_s @ roots.total()
        core = _sandwich(back.mT, core)
        grad_center = inverse.mT @ core @ inverse
        second = lower @ second @ back
        flat = lower @ lower.mT
        grad_factor = -2 * inverse.mT @ (second + core @ flat)
        return grad_y, grad_factor, grad_center, None, None


def center_batch(
    y: Tensor, frame: Frame, center: Tensor, method: str
) -> tuple[Tensor, Tensor]:
    """Tangent vectors of the batch at I in a basis, and the basis."""
    return _Center.apply(y, frame.factor, center, frame.inverse, method)


def expand(
    v: Tensor, frame: Frame, bias: Tensor, gain: Tensor, basis: Tensor
) -> Tensor:
    """Scaled tangent vectors to matrices around the bias."""
    return _Expand.apply(v, frame.factor, bias, gain, frame.inverse, basis)


def sum_transports(y: Tensor, frame: Frame, center: Tensor, method: str) -> Tensor:
    """Sum over the batch of the transport maps from the center, flat."""
    return _SumTransport.apply(y, frame.factor, center, frame.inverse, method)


def margin(
    v: Tensor, frame: Frame, bias: Tensor, gain: Tensor, basis: Tensor
) -> Tensor:
    """Smallest eigenvalue of I + V / 2 and of I + L over the batch."""
    step = _step(v, frame.inverse, bias, gain, basis)[0]
    eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    return torch.minimum(*(eigh(m)[0].amin() for m in (eye + v / 2, step)))
