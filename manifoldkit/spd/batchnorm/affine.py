r"""Affine-invariant normalization with derivatives written by hand.

With a root W of the inverse mean and a root R of the bias, a batch becomes

.. math::
    Z_i = R A_i^\kappa R', \quad A_i = W Y_i W' = U_i \operatorname{diag}(e^{l_i}) U_i',

by one batched eigendecomposition; mean and :math:`\kappa`'s variance are constants.
Backward calls none: the power is differentiated by divided differences in the form
:math:`e^{(\kappa - 1)(l_a + l_b)/2} \sinh(\kappa\delta/2) / \sinh(\delta/2)` with
:math:`\delta = l_a - l_b`, exact where eigenvalues meet, and the gradient of R needs no
more than :math:`\sum_i \bar Z_i Z_i`. Shapes as in
:mod:`manifoldkit.spd.batchnorm.kernel`.
"""

import torch
from torch import Tensor

from manifoldkit.linalg import expm, invsqrtm, logm
from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import cholesky, quick_eigh
from manifoldkit.spd.batchnorm import composed
from manifoldkit.spd.batchnorm.base import BatchAverage
from manifoldkit.spd.batchnorm.roots import congruence
from manifoldkit.spd.conditioning import lift


def _is_ill(s: Tensor) -> Tensor:
    """Where the smallest eigenvalue has lost a quarter of its digits."""
    return ~(s[..., 0] > tolerance(s.dtype) ** 0.25 * s[..., -1])


def log_spectrum(a: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the eigenvalues, and eigenvectors, each matrix by itself.

    Where the matrix is ill-conditioned they are those of its corrected logarithm, in
    which eigenvalues that are lost to rounding are at its level.
    """
    s, u = quick_eigh(a)
    ill = _is_ill(s)
    logs = s.log()
    if bool(ill.any()):
        bad, eig = lift((a[ill] + a[ill].mT) / 2)
        logs[ill], u[ill] = quick_eigh(logm(bad, eig=eig))
    return logs, u


def inverse_root(x: Tensor, by_cholesky: bool) -> Tensor:
    """Root of the inverse of a few matrices: symmetric, or lower triangular."""
    if by_cholesky:
        eye = eye_like(x).expand_as(x)
        return torch.linalg.solve_triangular(cholesky(x), eye, upper=False)
    s, u = quick_eigh(x)
    if bool(_is_ill(s).any()):
        return invsqrtm(x)
    half = u * s.pow(-0.25)[..., None, :]
    return half @ half.mT


def karcher_step(y: Tensor, mean: Tensor, average: BatchAverage) -> Tensor:
    """One step towards the affine-invariant mean of a batch, without gradient."""
    lower = cholesky(mean)
    inverse = torch.linalg.solve_triangular(
        lower, eye_like(lower).expand_as(lower), upper=False
    )
    logs, u = log_spectrum(congruence(inverse, y))
    if average.weights is not None:
        logs = logs * average.weights[..., None]
    # the matrices side by side: their sum is one product
    wide = u.transpose(1, 2).flatten(2)
    total = (u * logs[..., None, :]).transpose(1, 2).flatten(2) @ wide.mT
    s, q = quick_eigh(average.of_sum(total))
    half = lower @ (q * (s / 2).exp_()[..., None, :])
    return half @ half.mT


def geodesic(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From a (t = 0) to b, without gradient."""
    lower = cholesky(a)
    left = torch.linalg.solve_triangular(lower, b, upper=False)
    inner = torch.linalg.solve_triangular(lower, left.mT, upper=False)
    logs, u = log_spectrum((inner + inner.mT) / 2)
    half = lower @ (u * (logs * (t / 2)).exp_()[..., None, :])
    return half @ half.mT


class _SquareRoot(torch.autograd.Function):
    """Symmetric root of a few matrices."""

    @staticmethod
    def forward(ctx, x):
        s, u = quick_eigh(x)
        r = s.sqrt()
        ctx.save_for_backward(x, r, u)
        return (u * r[..., None, :]) @ u.mT

    @staticmethod
    def backward(ctx, grad):
        x, r, u = ctx.saved_tensors
        if torch.is_grad_enabled():
            return composed.differentiate(composed.sqrtm, (x,), (True,), grad)[0]
        core = u.mT @ (grad + grad.mT) @ u
        return u @ (core / (2 * (r[..., :, None] + r[..., None, :]))) @ u.mT


def root(x: Tensor, by_cholesky: bool) -> Tensor:
    """Root R R' = X of a few matrices."""
    return cholesky(x) if by_cholesky else _SquareRoot.apply(x)


def _powers(y: Tensor, r: Tensor, gain: Tensor, w: Tensor) -> Tensor:
    """The plain form of :class:`_Powers`."""
    w, r = w[:, None], r[:, None]
    logs = logm(w @ y @ w.mT)
    return r @ expm(gain[:, None, None, None] * logs) @ r.mT


def _root_gradient(grad: Tensor, z: Tensor, r: Tensor) -> Tensor:
    """Gradient of R in Z_i = R A_i R', for symmetric grad: 2 sum grad_i Z_i R^-T."""
    total = grad.flatten(1, 2).mT @ z.flatten(1, 2)
    return 2 * torch.linalg.solve(r, total.mT).mT


class _Powers(torch.autograd.Function):
    """R A^kappa R', given the spectrum of A = W Y W'."""

    @staticmethod
    def forward(ctx, y, r, gain, w, logs, u):
        side = r[:, None] @ u
        power = logs * gain[:, None, None]
        half = side * (power / 2).exp_()[..., None, :]
        z = half @ half.mT
        ctx.save_for_backward(y, r, gain, w, logs, u, side, z)
        return z

    @staticmethod
    def backward(ctx, grad):
        y, r, gain, w, logs, u, side, z = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = (*ctx.needs_input_grad[:3], False)
            grads = composed.differentiate(_powers, (y, r, gain, w), wanted, grad)
            return *grads[:3], None, None, None
        want_y, want_r, want_gain = ctx.needs_input_grad[:3]
        grad = (grad + grad.mT).mul_(0.5)
        grad_y = grad_r = grad_gain = None
        if want_y or want_gain:
            core = side.mT @ grad @ side
        if want_gain:
            power = logs * (logs * gain[:, None, None]).exp_()
            grad_gain = (core.diagonal(dim1=-2, dim2=-1) * power).sum((1, 2))
        if want_y:
            k = gain[:, None, None, None]
            gap = (logs[..., :, None] - logs[..., None, :]) / 2
            ratio = (k * gap).sinh_().div_(gap.sinh())
            ratio = torch.where(gap == 0, k, ratio)
            edge = (logs * ((gain[:, None, None] - 1) / 2)).exp_()
            core = core.mul_(ratio).mul_(edge[..., :, None]).mul_(edge[..., None, :])
            back = w.mT[:, None] @ u
            grad_y = back @ core @ back.mT
        if want_r:
            grad_r = _root_gradient(grad, z, r)
        return grad_y, grad_r, grad_gain, None, None, None


def powers(
    y: Tensor, r: Tensor, gain: Tensor, w: Tensor, spectrum: tuple[Tensor, Tensor]
) -> Tensor:
    """R (W Y W')^gain R', differentiable in y, r and gain."""
    return _Powers.apply(y, r, gain, w, *spectrum)


class _Linear(torch.autograd.Function):
    """R W Y W' R'."""

    @staticmethod
    def forward(ctx, y, r, w):
        k = r @ w
        z = congruence(k, y)
        z = (z + z.mT).mul_(0.5)
        ctx.save_for_backward(y, r, w, k, z)
        return z

    @staticmethod
    def backward(ctx, grad):
        y, r, w, k, z = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = (*ctx.needs_input_grad[:2], False)
            return *composed.differentiate(_linear, (y, r, w), wanted, grad)[:2], None
        grad = (grad + grad.mT).mul_(0.5)
        grad_y = congruence(k.mT, grad) if ctx.needs_input_grad[0] else None
        grad_r = _root_gradient(grad, z, r) if ctx.needs_input_grad[1] else None
        return grad_y, grad_r, None


def _linear(y: Tensor, r: Tensor, w: Tensor) -> Tensor:
    """The plain form of :class:`_Linear`."""
    k = (r @ w)[:, None]
    z = k @ y @ k.mT
    return (z + z.mT) / 2


def linear(y: Tensor, r: Tensor, w: Tensor) -> Tensor:
    """R W Y W' R', differentiable in y and r."""
    return _Linear.apply(y, r, w)
