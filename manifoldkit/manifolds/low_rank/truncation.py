r"""Bases of matrices of known rank, and the nearest matrix of lower rank.

The metric projection of :math:`T = \sum_k s_k p_k q_k'` keeps the r largest terms. Its
derivative at T is the tangent projection at the result, plus what the terms that were
dropped contribute: for :math:`i \le r < j` and :math:`h_{ij} = p_i' H q_j`

.. math:: \frac{s_j^2 h_{ij} + s_i s_j h_{ji}}{s_i^2 - s_j^2}\, p_i q_j', \quad
   \frac{s_j^2 h_{ji} + s_i s_j h_{ij}}{s_i^2 - s_j^2}\, p_j q_i',

smooth where :math:`s_r > s_{r+1}`, whether or not kept singular values are equal.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.qr import qr_factor


def probe_matrix(rows: int, columns: int) -> Tensor:
    """Return normal numbers that are the same in every call, float64 on the CPU."""
    g = torch.Generator().manual_seed(0)
    shape = (rows, columns)
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=g)


def bases(x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of the columns and the rows of matrices of known rank.

    Products and QR of thin matrices only; ``probe`` (m, r) is any matrix whose columns
    meet the column space. The second and third pass remove its condition number.
    """
    v = qr_factor(x.mT @ probe.to(x))
    u = qr_factor(x @ v)
    return u, qr_factor(x.mT @ u)


def project_tangent(u: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """Tangent part ``uu'h + hvv' - uu'hvv'`` at a matrix with these bases."""
    along = u @ (u.mT @ h)
    return along + (h - along) @ v @ v.mT


def _finite_or(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices with finite entries, others replaced, and which are finite."""
    finite = torch.isfinite(x).all(-1).all(-1)[..., None, None]
    return torch.where(finite, x, start), finite


def thin_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD ``p diag(s) q'`` as constants; NaN for a non-finite matrix alone."""
    x = x.detach()
    start = torch.eye(*x.shape[-2:], dtype=x.dtype, device=x.device)
    safe, finite = _finite_or(x, start)
    p, s, qt = torch.linalg.svd(safe, full_matrices=False)
    return torch.where(finite, p, torch.nan), s, qt.mT


def descending_eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and vectors as constants, NaN as in `thin_svd`."""
    x = x.detach()
    safe, finite = _finite_or((x + x.mT) / 2, eye_like(x))
    s, p = torch.linalg.eigh(safe)
    return s.flip(-1), torch.where(finite, p.flip(-1), torch.nan)


def joined(basis: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return QR factors of ``[basis, other]`` side by side."""
    return torch.linalg.qr(torch.cat([basis, other], -1))


def core(k: Tensor) -> Tensor:
    """Return the block matrix ``[[k, I], [I, 0]]``."""
    eye = eye_like(k).expand_as(k)
    top = torch.cat([k, eye], -1)
    return torch.cat([top, torch.cat([eye, torch.zeros_like(k)], -1)], -2)


def _change(p: Tensor, s: Tensor, q: Tensor, rank: int, h: Tensor) -> Tensor:
    """Derivative of the metric projection; being self-adjoint, its transpose too."""
    one, two = p[..., :rank], q[..., :rank]
    out = project_tangent(one, two, h)
    if s.shape[-1] == rank:
        return out
    rest, other = p[..., rank:], q[..., rank:]
    high, low = s[..., :rank, None], s[..., None, rank:]
    gap = (high - low) * (high + low)
    a, b = one.mT @ h @ other, (rest.mT @ h @ two).mT
    first = (low * low * a + high * low * b) / gap
    second = (low * low * b + high * low * a) / gap
    return out + one @ first @ other.mT + rest @ second.mT @ two.mT


class _TruncatedCompiled(torch.autograd.Function):
    """The nearest matrix of lower rank, given the factors of the matrix."""

    @staticmethod
    def forward(t, p, s, q, rank):
        return (p[..., :rank] * s[..., None, :rank]) @ q[..., :rank].mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, p, s, q, ctx.rank = inputs
        ctx.save_for_backward(p, s, q)
        ctx.save_for_forward(p, s, q)

    @staticmethod
    def backward(ctx, grad):
        p, s, q = ctx.saved_tensors
        return _change(p, s, q, ctx.rank, grad), None, None, None, None


class _Truncated(_TruncatedCompiled):
    """With forward mode and vmap; a second derivative is refused."""

    generate_vmap_rule = True
    backward = once_differentiable(_TruncatedCompiled.backward)

    @staticmethod
    def jvp(ctx, t_t, *_):
        p, s, q = ctx.saved_tensors
        return _change(p, s, q, ctx.rank, t_t)


def truncated(t: Tensor, p: Tensor, s: Tensor, q: Tensor, rank: int) -> Tensor:
    """Return the nearest matrix of rank ``rank`` to ``t = p diag(s) q'``.

    The factors are constants, singular values in descending order (of a symmetric
    matrix eigenvalues, with q = p); what they leave out of ``t`` must be rounding.

    >>> t = torch.diag(torch.tensor([3.0, 2.0]))
    >>> truncated(t, *thin_svd(t), 1)
    tensor([[3., 0.],
            [0., 0.]])
    """
    if torch.compiler.is_compiling():
        return _TruncatedCompiled.apply(t, p, s, q, rank)
    return _Truncated.apply(t, p, s, q, rank)
