"""Linear matrix equations with a symmetric coefficient."""

import torch
from torch import Tensor

from manifoldkit.linalg.checks import (
    check_broadcast,
    check_spd,
    check_square,
    compute_dtype,
)
from manifoldkit.linalg.elementary import hermitian_part
from manifoldkit.linalg.factorizations import Eig, decompose
from manifoldkit.linalg.frechet import full_precision
from manifoldkit.linalg.transforms import change, is_transformed, traced_order


class _LyapunovCompiled(torch.autograd.Function):
    """X of a X + X a = q; the form that torch.compile can trace."""

    @staticmethod
    def forward(a, q, s, u):
        with full_precision(q):
            y = (u.mH @ q @ u) / (s[..., :, None] + s[..., None, :])
            return u @ y @ u.mH

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, _, s, u = inputs
        ctx.save_for_backward(a, s, u, output)
        ctx.save_for_forward(a, s, u, output)

    @staticmethod
    def _grads(solve, ctx, grad):
        a, s, u, x = ctx.saved_tensors
        z = solve(a, grad, s, u)
        grad_a = -(z @ x.mH + x.mH @ z) if ctx.needs_input_grad[0] else None
        return grad_a, z, None, None

    @staticmethod
    def backward(ctx, grad):
        return _LyapunovCompiled._grads(_LyapunovCompiled.apply, ctx, grad)


class _Lyapunov(_LyapunovCompiled):
    """With forward mode, vmap and derivatives of every order."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, grad):
        return _LyapunovCompiled._grads(_Lyapunov.apply, ctx, grad)

    @staticmethod
    def jvp(ctx, a_t, q_t, s_t, u_t):
        a, s, u, x = ctx.saved_tensors
        right = torch.zeros_like(x)
        if q_t is not None:
            right = right + q_t
        if a_t is not None:
            right = right - a_t @ x - x @ a_t
        return _Lyapunov.apply(a, right, s, u)


def _lyapunov_series(a: Tensor, q: Tensor, s: Tensor, u: Tensor, order: int) -> Tensor:
    """X with ``order`` right derivatives: a X + X a = q - (da X + X da), a constant."""
    da = change(a)
    a = a.detach()
    x = _LyapunovCompiled.forward(a, q, s, u)
    for _ in range(order):
        x = _LyapunovCompiled.forward(a, q - da @ x - x @ da, s, u)
    return x


def solve_lyapunov(
    a: Tensor, q: Tensor, *, eig: Eig | None = None, validate: bool = False
) -> Tensor:
    r"""Solve :math:`a X + X a = q` for symmetric ``a``.

    In the eigenbasis of ``a = U diag(s) U'`` the solution is
    :math:`(U' X U)_{ij} = (U' q U)_{ij} / (s_i + s_j)`: one eigendecomposition, which
    the derivatives reuse. Exact at repeated eigenvalues, any order of derivative.

    Parameters
    ----------
    a : Tensor, shape (..., n, n)
        Symmetric or complex Hermitian matrices with :math:`s_i + s_j \ne 0`, such as
        positive definite ones.
    q : Tensor, shape (..., n, n)
        Right-hand sides, symmetric or not; batch dimensions broadcast.
    eig : tuple of Tensor, optional
        ``eigh(a)``, if it is known already.
    validate : bool, default=False
        Raise where ``a`` is not SPD.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices of one size, or batches that do not
        broadcast; with ``validate``, the first matrix of ``a`` that is not SPD.

    Notes
    -----
    With NaN in a matrix of ``a``, or with :math:`s_i + s_j = 0`, the solution of that
    matrix alone is not finite.

    Examples
    --------
    >>> a = torch.tensor([[2., 1.], [1., 2.]])
    >>> x = solve_lyapunov(a, torch.eye(2))
    >>> torch.allclose(a @ x + x @ a, torch.eye(2), atol=1e-6)
    True
    """
    check_square(a, "a", hermitian=True)
    check_square(q, "q", a.shape[-1], hermitian=True)
    if validate:
        check_spd(a, "a", hermitian=True)
    check_broadcast(a=(a, 2), q=(q, 2))
    dtype = torch.promote_types(a.dtype, q.dtype)
    work = compute_dtype(dtype)
    y = hermitian_part(a.to(work))
    s, u = decompose(y) if eig is None else eig
    s, u = s.to(work.to_real() if work.is_complex else work), u.to(work)
    q = q.to(work)
    batch = torch.broadcast_shapes(y.shape[:-2], q.shape[:-2])
    y, q, u = (t.expand(*batch, *t.shape[-2:]) for t in (y, q, u))
    s = s.expand(*batch, s.shape[-1])
    if not torch.compiler.is_compiling():
        needs = torch.is_grad_enabled() and (y.requires_grad or q.requires_grad)
        if not (needs or is_transformed()):
            return _Lyapunov.forward(y, q, s, u).to(dtype)
        return _Lyapunov.apply(y, q, s, u).to(dtype)
    if order := traced_order():
        return _lyapunov_series(y, q, s, u, order).to(dtype)
    return _LyapunovCompiled.apply(y, q, s, u).to(dtype)
