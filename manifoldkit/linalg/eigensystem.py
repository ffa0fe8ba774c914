"""Eigenvectors whose derivative stays finite where eigenvalues meet."""

import torch
from torch import Tensor


class _SafeEigh(torch.autograd.Function):
    """Eigendecomposition; pairs of eigenvalues closer than ``tol`` do not mix.

    The derivative of the eigenvectors is ``V (F o V' dC V)`` with
    ``F_ij = g / (g^2 + eps^2)``, ``g = s_j - s_i``, and zero inside a cluster.
    """

    @staticmethod
    def forward(ctx, c: Tensor, tol: float):
        s, v = torch.linalg.eigh(c)
        ctx.save_for_backward(s, v)
        ctx.tol = tol
        return s, v

    @staticmethod
    def backward(ctx, grad_s, grad_v):
        s, v = ctx.saved_tensors
        inner = torch.zeros_like(v)
        if grad_v is not None:
            g = s[..., None, :] - s[..., :, None]
            size = (
                s.abs().amax(-1)[..., None, None].clamp_min(torch.finfo(s.dtype).tiny)
            )
            eps = torch.finfo(s.dtype).eps * size
            f = torch.where(g.abs() > ctx.tol * size, g / (g * g + eps * eps), 0.0)
            inner = f * (v.mT @ grad_v)
        if grad_s is not None:
            inner = inner + torch.diag_embed(grad_s)
        grad = v @ inner @ v.mT
        return (grad + grad.mT) / 2, None


def safe_eigh(c: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """Return ascending eigenvalues and eigenvectors with a finite derivative.

    Parameters
    ----------
    c : Tensor, shape (..., d, d)
        Symmetric matrices.
    tol : float
        Relative distance below which two eigenvalues are one cluster.
    """
    if c.shape[-1] == 1:
        return c[..., 0], torch.ones_like(c)
    return _SafeEigh.apply(c, tol)
