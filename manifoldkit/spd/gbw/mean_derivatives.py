r"""The solved barycenter as a function; derivatives by the implicit function theorem.

With the operator N of :mod:`manifoldkit.spd.gbw.mean_solver`, the mean ``G = L L'``
moves by ``dG = L E L'`` where

.. math::
    \mathcal N[E] = \sum_i w_i Q_i \Bigl(\frac{Q_i' L' dX_i L Q_i}{r_a + r_b}\Bigr) Q_i'
        + \sum_i dw_i \, S_i.
"""

import warnings

import torch
from torch import Tensor

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg import symmetrize
from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.elementary import safe_divide
from manifoldkit.spd.gbw.chart import square_factor
from manifoldkit.spd.gbw.mean_solver import (
    Frame,
    MeanInfo,
    frame_at,
    solve,
    solve_newton,
)


def _merge(info, in_dims, *tensors: Tensor) -> list[Tensor]:
    """Put the mapped dimension into that of the problems, which leads."""
    merged = []
    for x, dim in zip(tensors, in_dims, strict=False):
        lead = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        merged.append(lead.flatten(0, 1))
    return merged


def _part(info, outputs) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Undo :func:`_merge`."""
    size = info.batch_size
    parts = tuple(x.view(size, x.shape[0] // size, *x.shape[1:]) for x in outputs)
    return parts, (0,) * len(parts)


def _frame(g: Tensor, x: Tensor, w: Tensor) -> Frame:
    """Decompose at the mean; with singular values where eigenvalues lose the roots."""
    frame = frame_at(g, x, w)
    smallest, largest = frame.roots.amin(-1), frame.roots.amax(-1)
    bound = 30 * tolerance(x.dtype) ** 0.5
    rough = ((smallest <= bound * largest) & (w > 0)).any(-1)
    if bool(rough.any()):
        halves, _ = square_factor(x[rough])
        accurate = frame_at(g[rough], x[rough], w[rough], halves)
        frame = Frame(*(part.clone() for part in frame))
        for part, better in zip(frame, accurate, strict=True):
            part[rough] = better
    return frame


def _accuracy(frame: Frame) -> Tensor:
    return torch.full_like(frame.residual, tolerance(frame.residual.dtype, 100))


def _root_derivative(frame: Frame, core: Tensor, w: Tensor) -> Tensor:
    """Divide by r_a + r_b; 0 across the common null space, and without weight."""
    total = frame.roots[..., :, None] + frame.roots[..., None, :]
    quotient = safe_divide(core, total, torch.zeros_like(core))
    return torch.where((w > 0)[..., None, None], quotient, 0.0)


class _Adjoint(torch.autograd.Function):
    """From the derivative with respect to the mean to those of matrices and weights."""

    @staticmethod
    def forward(x, w, g, grad):
        frame = _frame(g, x, w)
        factor = frame.factor
        right = factor.mT @ symmetrize(grad) @ factor
        adjoint = solve_newton(frame, w, right, _accuracy(frame))
        rotated = frame.vectors @ adjoint[:, None] @ frame.vectors.mT
        core = _root_derivative(frame, w[..., None, None] * rotated, w)
        left = factor[:, None] @ frame.vectors.mT
        grad_w = (rotated.diagonal(dim1=-2, dim2=-1) * frame.roots).sum(-1)
        return left @ core @ left.mT, grad_w

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            'gbw_mean: second derivatives are available with grad="unrolled" only'
        )

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _part(info, _Adjoint.apply(*_merge(info, in_dims, *inputs)))


class _Tangent(torch.autograd.Function):
    """From changes of matrices and weights to the change of the mean."""

    @staticmethod
    def forward(x, w, g, x_t, w_t):
        frame = _frame(g, x, w)
        left = frame.vectors @ frame.factor.mT[:, None]
        core = _root_derivative(frame, left @ symmetrize(x_t) @ left.mT, w)
        core = w[..., None, None] * core + (w_t[..., None] * frame.roots).diag_embed()
        right = (frame.vectors.mT @ core @ frame.vectors).sum(1)
        change = solve_newton(frame, w, right, _accuracy(frame))
        return frame.factor @ change @ frame.factor.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, *inputs):
        (out,), dims = _part(info, [_Tangent.apply(*_merge(info, in_dims, *inputs))])
        return out, dims[0]


def _spoil_indefinite(x: Tensor, w: Tensor) -> Tensor:
    """Put NaN for matrices outside the domain, which the iteration does not notice."""
    factor, regular = square_factor(x)
    if regular:
        return x
    outside = factor.isnan().flatten(-2).any(-1) & (w > 0)
    return torch.where(outside[..., None, None], torch.nan, x)


class _Barycenter(torch.autograd.Function):
    """The mean and how the iteration ended."""

    @staticmethod
    def forward(x, w, start, tol, max_iter, warm):
        mean, info = solve(_spoil_indefinite(x, w), w, start, tol, max_iter, warm)
        _warn(info, tol, max_iter)
        return mean, *info

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, *_ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, w, output[0])
        ctx.save_for_forward(x, w, output[0])

    @staticmethod
    def backward(ctx, grad, *_):
        grad_x, grad_w = _Adjoint.apply(*ctx.saved_tensors, grad)
        return grad_x, grad_w, None, None, None, None

    @staticmethod
    def jvp(ctx, x_t, w_t, *_):
        x, w, g = ctx.saved_tensors
        x_t = torch.zeros_like(x) if x_t is None else x_t
        w_t = torch.zeros_like(w) if w_t is None else w_t
        return _Tangent.apply(x, w, g, x_t, w_t), None, None, None

    @staticmethod
    def vmap(info, in_dims, x, w, start, *options):
        merged = _merge(info, in_dims, x, w, start)
        return _part(info, _Barycenter.apply(*merged, *options))


def barycenter(
    x: Tensor, w: Tensor, start: Tensor, tol: float, max_iter: int, warm: bool
) -> tuple[Tensor, MeanInfo]:
    """Solve for the means; differentiable once, in every mode of differentiation.

    Parameters
    ----------
    x, w, start, tol, max_iter, warm
        See :func:`~manifoldkit.spd.gbw.mean_solver.solve`.
    """
    mean, *info = _Barycenter.apply(x, w, start.detach(), tol, max_iter, warm)
    return mean, MeanInfo(*info)


def _warn(info: MeanInfo, tol: float, max_iter: int) -> None:
    bad = ~info.converged & info.residual.isfinite()
    if bool(bad.any()):
        warnings.warn(
            f"gbw_mean: {int(bad.sum())} of {bad.numel()} means not converged after "
            f"{max_iter} steps: residual {float(info.residual[bad].max()):.1e}, "
            f"tol {tol:.1e}; raise max_iter or tol",
            ConvergenceWarning,
            stacklevel=6,
        )
