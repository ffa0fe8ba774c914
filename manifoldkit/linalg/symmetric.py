r"""Matrix functions of symmetric and SPD batches with exact, stable derivatives.

Every function costs one eigendecomposition ``X = U diag(s) U'``, which also serves the
derivatives (Daleckii-Krein)

.. math::
    DF(X)[H] = U (f[s_a, s_b] \circ (U' H U)) U', \quad
    D^2F(X)[H, K]_{ac} = \sum_b f[s_a, s_b, s_c] (H_{ab} K_{bc} + K_{ab} H_{bc}),

so that first and second derivatives are finite and exact at repeated eigenvalues.
The logarithm and negative powers correct the eigendecomposition by its residual: full
relative accuracy up to condition 1e8 (float64), where the plain eigensolver, SciPy
included, is left with 8 digits; the square root has 1e-12 at condition 1e8. A matrix
of condition up to 64 needs no correction and gets none, unless ``refine=True``;
``refine=False`` leaves it out everywhere.
Reverse and forward mode, ``torch.func`` (``vmap``, ``jvp``, ``hessian``) and
``torch.compile(fullgraph=True)`` work, one inside the other too; a third derivative
raises, or leaves the compiled graph where transforms alone ask for it.

Shared conventions: any leading batch shape, also empty; float32 and float64 are kept,
half precision is computed in float32 and cast back; inputs are symmetrized; a matrix
that holds NaN or lies outside a function's domain gives NaN for itself alone, unless
``validate=True``, which raises an error naming it. ``eig=(s, u)`` takes a
decomposition from :func:`eigh` and saves computing it again. Complex Hermitian matrices
are taken as symmetric ones are, with the adjoint for the transpose and gradients in
real and imaginary part.
"""

import math

import torch
from torch import Tensor

from manifoldkit._checks import check_numbers
from manifoldkit.linalg import spectral
from manifoldkit.linalg.checks import (
    check_finite,
    check_spd,
    check_square,
    check_symmetric,
    check_tensor,
)
from manifoldkit.linalg.elementary import hermitian_part
from manifoldkit.linalg.factorizations import Eig
from manifoldkit.linalg.frechet import apply_spectral as apply_spectral
from manifoldkit.linalg.frechet import full_precision as full_precision


def symmetrize(x: Tensor) -> Tensor:
    """Return the symmetric part ``(x + x') / 2``, of complex matrices with the adjoint.

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
    check_square(x, hermitian=True)
    return hermitian_part(x)


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
    check_square(x, hermitian=True)
    if validate:
        check_spd(x, semidefinite=True, hermitian=True)
    return apply_spectral(x, spectral.Sqrt(), eig, semidefinite=True)


def invsqrtm(
    x: Tensor,
    *,
    eig: Eig | None = None,
    validate: bool = False,
    refine: bool | None = None,
) -> Tensor:
    r"""Inverse square root of SPD matrices, :math:`X^{-1/2}`.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        SPD matrices.
    eig : tuple of Tensor, optional
        ``eigh(x)``, if it is known already.
    validate : bool, default=False
        Raise for a matrix that is not positive definite, rather than give NaN.
    refine : bool, optional
        Correct the eigendecomposition by its residual: default where the condition
        number is above 64, matrix by matrix (wherever values cannot be looked at, on
        a GPU for one: always).

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> invsqrtm(torch.diag(torch.tensor([4., 1.])))
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    check_square(x, hermitian=True)
    if validate:
        check_spd(x, hermitian=True)
    return apply_spectral(x, spectral.InvSqrt(refine), eig)


def logm(
    x: Tensor,
    *,
    eig: Eig | None = None,
    validate: bool = False,
    refine: bool | None = None,
) -> Tensor:
    r"""Principal logarithm of SPD matrices, :math:`U \log(s)\, U'`.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        SPD matrices.
    eig : tuple of Tensor, optional
        ``eigh(x)``, if it is known already.
    validate : bool, default=False
        Raise for a matrix that is not positive definite, rather than give NaN.
    refine : bool, optional
        Correct the eigendecomposition by its residual: default where the condition
        number is above 64, matrix by matrix (wherever values cannot be looked at, on
        a GPU for one: always).

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> x = torch.tensor([[2., 1.], [1., 2.]])
    >>> torch.allclose(expm(logm(x)), x)
    True
    """
    check_square(x, hermitian=True)
    if validate:
        check_spd(x, hermitian=True)
    return apply_spectral(x, spectral.Log(refine), eig)


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
    check_square(x, hermitian=True)
    if validate:
        check_symmetric(check_finite(x, "x"), "x", hermitian=True)
    return apply_spectral(x, spectral.Exp(), eig)


def powm(
    x: Tensor,
    power: float,
    *,
    eig: Eig | None = None,
    validate: bool = False,
    refine: bool | None = None,
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
    refine : bool, optional
        For negative powers, see :func:`logm`.

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
    check_square(x, hermitian=True)
    check_numbers(power=power)
    if validate:
        check_spd(x, semidefinite=power > 0, hermitian=True)
    if power == 1:
        return symmetrize(x)
    if power == 0.5:
        return sqrtm(x, eig=eig)
    if power == -0.5:
        return invsqrtm(x, eig=eig, refine=refine)
    f = spectral.Power(float(power), refine)
    return apply_spectral(x, f, eig, semidefinite=power > 0)


def vech(x: Tensor, *, isometric: bool = True) -> Tensor:
    r"""Half-vectorize symmetric matrices: the upper triangle, row by row.

    Of complex Hermitian matrices the vector is complex. With ``isometric`` the
    off-diagonal entries are multiplied by :math:`\sqrt 2`, so that Euclidean products
    of vectors are Frobenius products of matrices.

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
    check_square(x, hermitian=True)
    n = x.shape[-1]
    rows, columns = torch.triu_indices(n, n, device=x.device)
    v = x[..., rows, columns]
    return torch.where(rows == columns, v, v * math.sqrt(2)) if isometric else v


def unvech(v: Tensor, *, isometric: bool = True) -> Tensor:
    """Rebuild symmetric matrices from :func:`vech`, or Hermitian ones from complex.

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
    x = v[..., index]
    if not x.is_complex():
        return x
    return torch.complex(x.real, x.imag.triu(1) - x.imag.tril(-1))
