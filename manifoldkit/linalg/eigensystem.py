"""Eigenvectors whose derivative stays finite where eigenvalues meet."""

from typing import Any

import torch
from torch import Tensor


class _SafeEigh(torch.autograd.Function):
    """Eigendecomposition; pairs of eigenvalues closer than ``tol`` do not mix.

    The derivative of the eigenvectors is ``V (F o V' dC V)`` with
    ``F_ij = g / (g^2 + eps^2)``, ``g = s_j - s_i``, and zero inside a cluster.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor, tol: float) -> tuple[Tensor, Tensor]:
        s, v = torch.linalg.eigh(c)
        return s, v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.tol = inputs[1]

    @staticmethod
    def jvp(ctx: Any, of_c: Tensor, _: None) -> tuple[Tensor, Tensor]:
        s, v = ctx.saved_tensors
        inner = v.mT @ ((of_c + of_c.mT) / 2) @ v
        return inner.diagonal(dim1=-2, dim2=-1).clone(), v @ (
            _mixing(s, ctx.tol) * inner
        )

    @staticmethod
    def backward(
        ctx: Any, grad_s: Tensor | None, grad_v: Tensor | None
    ) -> tuple[Tensor, None]:
        s, v = ctx.saved_tensors
        inner = torch.zeros_like(v)
        if grad_v is not None:
            inner = _mixing(s, ctx.tol) * (v.mT @ grad_v)
        if grad_s is not None:
            inner = inner + torch.diag_embed(grad_s)
        grad = v @ inner @ v.mT
        return (grad + grad.mT) / 2, None


def _mixing(s: Tensor, tol: float) -> Tensor:
    """F_ij, how much of the eigenvector i is mixed into j."""
    g = s[..., None, :] - s[..., :, None]
    size = s.abs().amax(-1)[..., None, None].clamp_min(torch.finfo(s.dtype).tiny)
    eps = torch.finfo(s.dtype).eps * size
    apart = g.abs() > tol * size
    g = g.where(apart, 1.0)
    # divided by the size first: squares of small gaps vanish
    g, eps = g / size, eps / size
    return (g / (g * g + eps * eps) / size).where(apart, 0.0)


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
