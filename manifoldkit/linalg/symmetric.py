r"""Matrix functions of symmetric and SPD batches with exact, stable derivatives.

Every function costs one eigendecomposition ``X = U diag(s) U'``, which also serves the
derivatives (Daleckii-Krein)

.. math::
    DF(X)[H] = U (f[s_a, s_b] \circ (U' H U)) U', \quad
    D^2F(X)[H, K]_{ac} = \sum_b f[s_a, s_b, s_c] (H_{ab} K_{bc} + K_{ab} H_{bc}),

so that first and second derivatives are finite and exact at repeated eigenvalues.
The logarithm and negative powers correct the eigendecomposition by its residual: full
relative accuracy up to condition 1e8 (float64), where the plain eigensolver, SciPy
included, is left with 8 digits; the square root has 1e-12 at condition 1e8.
Reverse and forward mode, ``torch.func`` (``vmap``, ``jvp``, ``hessian``) and
``torch.compile(fullgraph=True)`` work; a third derivative raises.

Shared conventions: any leading batch shape, also empty; float32 and float64 are kept,
half precision is computed in float32 and cast back; inputs are symmetrized; a matrix
that holds NaN or lies outside a function's domain gives NaN for itself alone, unless
``validate=True``, which raises an error naming it. ``eig=(s, u)`` takes a
decomposition from :func:`eigh` and saves computing it again.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from manifoldkit._checks import check_numbers
from manifoldkit.linalg import spectral
from manifoldkit.linalg._refine import eigen_residual
from manifoldkit.linalg.checks import (
    check_finite,
    check_spd,
    check_square,
    check_symmetric,
    check_tensor,
    compute_dtype,
    semidefinite_floor,
)
from manifoldkit.linalg.factorizations import Eig, eigh


def symmetrize(x: Tensor) -> Tensor:
    """Return the symmetric part ``(x + x') / 2``.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Square matrices.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices.

    Examples
    --------
    >>> symmetrize(torch.tensor([[1., 2.], [0., 1.]]))
    tensor([[1., 1.],
            [1., 1.]])
    """
    check_square(x)
    return (x + x.mT) / 2


def full_precision(x: Tensor):
    """Keep autocast from rounding the products of a decomposition."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _frechet(f, s: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """DF(X)[h]: two products into the eigenbasis, two back."""
    with full_precision(h):
        difference = f.first(s[..., :, None], s[..., None, :])
        return u @ (difference * (u.mT @ h @ u)) @ u.mT


def _frechet2(f, s: Tensor, u: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """D^2F(X)[h, k]."""
    with full_precision(h):
        a, b = s[..., :, None, None], s[..., None, :, None]
        d = f.second(a, b, s[..., None, None, :])
        h, k = u.mT @ h @ u, u.mT @ k @ u
        core = (d * h[..., None]).mul(k[..., None, :, :]).sum(-2)
        core = core + (d * k[..., None]).mul(h[..., None, :, :]).sum(-2)
        return u @ core @ u.mT


class _NoThirdDerivative(torch.autograd.Function):
    """Identity that refuses to be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("third derivatives of matrix functions are not available")


class _Derivative(torch.autograd.Function):
    """DF(X)[h] as a function of X and h (s, u decompose X and are constants)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, h, s, u, f):
        return _frechet(f, s, u, h)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, h, s, u, f = inputs
        ctx.f = f
        ctx.save_for_backward(x, h, s, u)
        ctx.save_for_forward(x, h, s, u)

    @staticmethod
    def backward(ctx, grad):
        x, h, s, u = ctx.saved_tensors
        grad_x = grad_h = None
        if ctx.needs_input_grad[0]:
            grad_x = _NoThirdDerivative.apply(_frechet2(ctx.f, s, u, h.mT, grad))
        if ctx.needs_input_grad[1]:
            grad_h = _Derivative.apply(x, grad, s, u, ctx.f)
        return grad_x, grad_h, None, None, None

    @staticmethod
    def jvp(ctx, x_t, h_t, s_t, u_t, f):
        _, h, s, u = ctx.saved_tensors
        out = torch.zeros_like(h)
        if x_t is not None:
            out = out + _frechet2(ctx.f, s, u, h, x_t)
        if h_t is not None:
            out = out + _frechet(ctx.f, s, u, h_t)
        return out


class _SpectralCompiled(torch.autograd.Function):
    """F(X); the form that torch.compile can trace (no forward-mode rule)."""

    @staticmethod
    def forward(x, s, u, f):
        with full_precision(x):
            if not f.sees_small_eigenvalues:
                return (u * f.value(s)[..., None, :]) @ u.mT
            core = f.first(s[..., :, None], s[..., None, :]) * eigen_residual(x, s, u)
            core.diagonal(dim1=-2, dim2=-1).add_(f.value(s))
            return u @ core @ u.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, s, u, f = inputs
        ctx.f = f
        ctx.save_for_backward(x, s, u)
        ctx.save_for_forward(x, s, u)

    @staticmethod
    def backward(ctx, grad):
        _, s, u = ctx.saved_tensors
        return _frechet(ctx.f, s, u, grad), None, None, None


class _Spectral(_SpectralCompiled):
    """F(X) with second derivatives, forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, grad):
        x, s, u = ctx.saved_tensors
        return _Derivative.apply(x, grad, s, u, ctx.f), None, None, None

    @staticmethod
    def jvp(ctx, x_t, s_t, u_t, f):
        x, s, u = ctx.saved_tensors
        return _Derivative.apply(x, x_t, s, u, ctx.f)


def _round_up_to_zero(s: Tensor) -> Tensor:
    """Set eigenvalues that are negative by rounding only to zero."""
    return torch.where((s < 0) & (s >= semidefinite_floor(s)), torch.zeros_like(s), s)


def apply_spectral(x: Tensor, f, eig: Eig | None, semidefinite: bool = False) -> Tensor:
    """Evaluate F on the symmetric part of x."""
    y = symmetrize(x.to(compute_dtype(x.dtype)))
    s, u = eigh(y) if eig is None else (eig[0].to(y.dtype), eig[1].to(y.dtype))
    if semidefinite:
        s = _round_up_to_zero(s)
    function = _SpectralCompiled if torch.compiler.is_compiling() else _Spectral
    return function.apply(y, s, u, f).to(x.dtype)


def sqrtm(x: Tensor, *, eig: Eig | None = None, validate: bool = False) -> Tensor:
    r"""Square root of SPD matrices, :math:`X^{1/2} = U \sqrt{s}\, U'`.

    Singular positive semidefinite matrices are allowed; their derivative is infinite
    along the null space.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        SPD matrices.
    eig : tuple of Tensor, optional
        ``eigh(x)``, if it is known already.
    validate : bool, default=False
        Raise for a matrix that is not positive semidefinite, rather than give NaN.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices; with ``validate``, the first bad matrix.

    Examples
    --------
    >>> sqrtm(torch.tensor([[5., 4.], [4., 5.]])).round(decimals=4)
    tensor([[2., 1.],
            [1., 2.]])
    """
    check_square(x)
    if validate:
        check_spd(x, semidefinite=True)
    return apply_spectral(x, spectral.Sqrt(), eig, semidefinite=True)


def invsqrtm(x: Tensor, *, eig: Eig | None = None, validate: bool = False) -> Tensor:
    r"""Inverse square root of SPD matrices, :math:`X^{-1/2}`.

    Parameters, raises: see :func:`sqrtm`; the matrices must be positive definite.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> invsqrtm(torch.diag(torch.tensor([4., 1.])))
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    check_square(x)
    if validate:
        check_spd(x)
    return apply_spectral(x, spectral.InvSqrt(), eig)


def logm(x: Tensor, *, eig: Eig | None = None, validate: bool = False) -> Tensor:
    r"""Principal logarithm of SPD matrices, :math:`U \log(s)\, U'`.

    Parameters, raises: see :func:`sqrtm`; the matrices must be positive definite.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> x = torch.tensor([[2., 1.], [1., 2.]])
    >>> torch.allclose(expm(logm(x)), x)
    True
    """
    check_square(x)
    if validate:
        check_spd(x)
    return apply_spectral(x, spectral.Log(), eig)


def expm(x: Tensor, *, eig: Eig | None = None, validate: bool = False) -> Tensor:
    r"""Exponential of symmetric matrices, :math:`U e^{s} U'`, which is SPD.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric matrices. For general matrices use ``torch.linalg.matrix_exp``.
    eig : tuple of Tensor, optional
        ``eigh(x)``, if it is known already.
    validate : bool, default=False
        Raise for a matrix that is not finite or not symmetric.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices; with ``validate``, the first bad matrix.

    Examples
    --------
    >>> expm(torch.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_square(x)
    if validate:
        check_symmetric(check_finite(x, "x"), "x")
    return apply_spectral(x, spectral.Exp(), eig)


def powm(
    x: Tensor, power: float, *, eig: Eig | None = None, validate: bool = False
) -> Tensor:
    r"""Real power of SPD matrices, :math:`X^p = U s^p U'`.

    Powers 1, 1/2 and -1/2 take the cheaper special forms.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        SPD matrices; singular positive semidefinite ones too if the power is positive.
    power : float
        The exponent, a finite number; not differentiated.
    eig : tuple of Tensor, optional
        ``eigh(x)``, if it is known already.
    validate : bool, default=False
        Raise for a matrix that has no such power, rather than give NaN.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices, or a power that is no finite number; with
        ``validate``, the first bad matrix.

    Examples
    --------
    >>> powm(torch.diag(torch.tensor([2., 3.])), 2)
    tensor([[4., 0.],
            [0., 9.]])
    """
    check_square(x)
    check_numbers(power=power)
    if validate:
        check_spd(x, semidefinite=power > 0)
    if power == 1:
        return symmetrize(x)
    if power == 0.5:
        return sqrtm(x, eig=eig)
    if power == -0.5:
        return invsqrtm(x, eig=eig)
    return apply_spectral(x, spectral.Power(float(power)), eig, semidefinite=power > 0)


def vech(x: Tensor, *, isometric: bool = True) -> Tensor:
    r"""Half-vectorize symmetric matrices: the upper triangle, row by row.

    With ``isometric`` the off-diagonal entries are multiplied by :math:`\sqrt 2`, so
    that Euclidean products of vectors are Frobenius products of matrices.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric matrices (the upper triangle is read).
    isometric : bool, default=True
        Scale the off-diagonal entries.

    Returns
    -------
    Tensor, shape (..., n (n + 1) / 2)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices.

    Examples
    --------
    >>> vech(torch.tensor([[1., 2.], [2., 3.]]), isometric=False)
    tensor([1., 2., 3.])
    """
    check_square(x)
    n = x.shape[-1]
    rows, columns = torch.triu_indices(n, n, device=x.device)
    v = x[..., rows, columns]
    return torch.where(rows == columns, v, v * math.sqrt(2)) if isometric else v


def unvech(v: Tensor, *, isometric: bool = True) -> Tensor:
    """Rebuild symmetric matrices from :func:`vech` vectors.

    Parameters
    ----------
    v : Tensor, shape (..., n (n + 1) / 2)
        Half-vectorized matrices.
    isometric : bool, default=True
        The off-diagonal entries carry the factor sqrt(2).

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    ValueError
        The length is not a triangular number.

    Examples
    --------
    >>> unvech(torch.tensor([1., 2., 3.]), isometric=False)
    tensor([[1., 2.],
            [2., 3.]])
    """
    check_tensor(v, "v")
    length = v.shape[-1] if v.ndim else 0
    n = (math.isqrt(8 * length + 1) - 1) // 2
    if n * (n + 1) // 2 != length or n == 0:
        raise ValueError(
            "v: expected the last dimension to be n (n + 1) / 2 for an n >= 1, "
            f"found shape {tuple(v.shape)}"
        )
    rows, columns = torch.triu_indices(n, n, device=v.device)
    if isometric:
        v = torch.where(rows == columns, v, v / math.sqrt(2))
    index = torch.empty(n, n, dtype=torch.long, device=v.device)
    index[rows, columns] = index[columns, rows] = torch.arange(length, device=v.device)
    return v[..., index]
