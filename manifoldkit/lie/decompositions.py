r"""Polar, scale and Iwasawa decompositions; functions of symmetric matrices.

All accept any batch shape (also none and empty), float32 and float64; half precision is
computed in float32 and cast back; NumPy arrays give NumPy arrays. Derivatives of first
and second order are finite where singular values meet, as they do at the identity.

``validate`` says what happens to a value outside the domain, such as a matrix whose
determinant is not positive: ``"raise"`` a ``ValueError`` that names the first one;
``"mask"``: NaN for that matrix alone, and a zero derivative; ``"off"`` (default for
tensors; arrays default to ``"raise"``): no check is paid for, the matrix alone becomes
NaN and so do its derivatives.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie._arrays import accepts_numpy
from manifoldkit.lie._guard import (
    accepts_numpy_checked,
    check_size,
    guard,
    positive_definite,
    positive_determinant,
)
from manifoldkit.lie.closed_forms import two_by_two
from manifoldkit.lie.closed_forms.newton_polar import polar_rotation
from manifoldkit.linalg import Polar, eigh, symmetric
from manifoldkit.linalg.checks import check_floating, compute_dtype
from manifoldkit.linalg.symmetric import full_precision, symmetrize

DET = "a finite matrix with a positive determinant"
SPD = "a finite symmetric positive definite matrix"


class PolarLog(NamedTuple):
    """Logarithm of the stretch, and the rotation, of a left polar decomposition."""

    log_p: Tensor
    r: Tensor


class Iwasawa(NamedTuple):
    """The factors of an Iwasawa decomposition."""

    k: Tensor
    a: Tensor
    n: Tensor


class ScaleSplit(NamedTuple):
    """Scale and unimodular part."""

    s: Tensor
    h: Tensor


def _native(g: Tensor, name: str = "g") -> Tensor:
    check_floating(g, name)
    return check_size(g.to(compute_dtype(g.dtype)), name)


def _symmetric(x: Tensor, closed, spectral, validate: str | None) -> Tensor:
    y = _native(x, "x")
    finish = None
    if validate is not None:
        y, finish = guard(y, positive_definite, SPD, validate, "x")
    out = closed(y) if y.shape[-1] == 2 else spectral(y)
    return (out if finish is None else finish(out)).to(x.dtype)


@accepts_numpy
def sym_exp(x: Tensor) -> Tensor:
    r"""Exponential of symmetric matrices, which is symmetric positive definite.

    Closed form for n = 2,
    :math:`e^m (\cosh r\, I + \tfrac{\sinh r}{r} (X - m I))` with m half the trace and
    :math:`m \pm r` the eigenvalues; :func:`manifoldkit.linalg.expm` otherwise.

    Parameters
    ----------
    x : Tensor or ndarray, shape (..., n, n), n >= 2
        Symmetric matrices (the symmetric part is used).

    Returns
    -------
    Tensor or ndarray, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices.

    Examples
    --------
    >>> sym_exp(torch.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return _symmetric(x, two_by_two.sym_exp, symmetric.expm, None)


def sym_exp_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentials of x and -x for less than twice the cost of one, without checks."""
    if x.shape[-1] == 2:
        return two_by_two.sym_exp_pair(x)
    s, u = eigh(x)
    return symmetric.expm(x, eig=(s, u)), symmetric.expm(-x, eig=(-s, u))


@accepts_numpy_checked
def sym_log(x: Tensor, *, validate: str = "off") -> Tensor:
    """Logarithm of symmetric positive definite matrices.

    Closed form for n = 2, :func:`manifoldkit.linalg.logm` otherwise.

    Parameters
    ----------
    x : Tensor or ndarray, shape (..., n, n), n >= 2
        Symmetric positive definite matrices (the symmetric part is used).
    validate : {"raise", "mask", "off"}
        What to do about other matrices; see the module.

    Returns
    -------
    Tensor or ndarray, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices, or bad values with ``validate="raise"``.

    Examples
    --------
    >>> x = torch.tensor([[2., 1.], [1., 2.]])
    >>> torch.allclose(sym_exp(sym_log(x)), x)
    True
    """
    return _symmetric(x, two_by_two.sym_log, symmetric.logm, validate)


@accepts_numpy_checked
def sym_sqrt(x: Tensor, *, validate: str = "off") -> Tensor:
    r"""Square root of symmetric positive definite matrices.

    For n = 2 :math:`(X + s I) / \sqrt{\mathrm{tr} X + 2 s}, s = \sqrt{\det X}`.
    Parameters, raises: see :func:`sym_log`.

    Examples
    --------
    >>> sym_sqrt(torch.tensor([[5., 4.], [4., 5.]])).round(decimals=4)
    tensor([[2., 1.],
            [1., 2.]])
    """
    return _symmetric(x, two_by_two.sym_sqrt, symmetric.sqrtm, validate)


@accepts_numpy_checked
def sym_inv_sqrt(x: Tensor, *, validate: str = "off") -> Tensor:
    """Inverse square root of symmetric positive definite matrices.

    Parameters, raises: see :func:`sym_log`.

    Examples
    --------
    >>> sym_inv_sqrt(torch.tensor([[5., 4.], [4., 5.]])).round(decimals=4)
    tensor([[ 0.6667, -0.3333],
            [-0.3333,  0.6667]])
    """
    return _symmetric(x, two_by_two.sym_inv_sqrt, symmetric.invsqrtm, validate)


def polar_factors(g: Tensor) -> tuple[Tensor, Tensor]:
    """Left polar factors of matrices in a native dtype, without checks."""
    if g.shape[-1] == 2:
        return two_by_two.polar(g)
    with full_precision(g):
        r = polar_rotation(g)
        return symmetrize(g @ r.mT), r


@accepts_numpy_checked
def polar(g: Tensor, side: str = "left", *, validate: str = "off") -> Polar:
    r"""Polar decomposition of GL+(n): ``g = p r`` (left) or ``g = r p`` (right).

    p is symmetric positive definite, r a rotation. Closed form for n = 2, scaled Newton
    iteration otherwise; :math:`g g'` is never formed, as that would square the
    condition number. For matrices of any determinant or shape see
    :func:`manifoldkit.linalg.polar`.

    Parameters
    ----------
    g : Tensor or ndarray, shape (..., n, n), n >= 2
        Matrices with a positive determinant.
    side : {"left", "right"}
        The side on which the stretch stands.
    validate : {"raise", "mask", "off"}
        What to do about other matrices; see the module.

    Returns
    -------
    Polar
        Named tuple ``(p, r)``.

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices, an unknown option, or bad values with
        ``validate="raise"``.

    References
    ----------
    N. J. Higham, "Functions of Matrices", 2008, chapter 8; M. Mironenco and P. Forre,
    "Lie Group Decompositions for Equivariant Neural Networks", ICLR 2024.

    Examples
    --------
    >>> p, r = polar(torch.tensor([[0., -2.], [1., 0.]]))
    >>> p
    tensor([[2., 0.],
            [0., 1.]])
    >>> r
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """
    check_choice(side, ("left", "right"), "side")
    x, finish = guard(_native(g), positive_determinant, DET, validate)
    p, r = polar_factors(x if side == "left" else x.mT)
    if side == "right":
        r = r.mT
    return Polar(finish(p).to(g.dtype), finish(r).to(g.dtype))


@accepts_numpy_checked
def polar_log(g: Tensor, *, validate: str = "off") -> PolarLog:
    r"""Cartan chart of GL+(n): symmetric y and rotation r with ``g = exp(y) r``.

    Parameters
    ----------
    g : Tensor or ndarray, shape (..., n, n), n >= 2
        Matrices with a positive determinant.
    validate : {"raise", "mask", "off"}
        What to do about other matrices; see the module.

    Returns
    -------
    PolarLog
        Named tuple ``(log_p, r)``.

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices, or bad values with ``validate="raise"``.

    Examples
    --------
    >>> y, r = polar_log(2 * torch.eye(2))
    >>> y
    tensor([[0.6931, 0.0000],
            [0.0000, 0.6931]])
    """
    x, finish = guard(_native(g), positive_determinant, DET, validate)
    if x.shape[-1] == 2:
        a, b, d, cos, sin, _ = two_by_two.polar_log_parts(x)
        y = two_by_two.matrix(a, b, b, d)
        r = two_by_two.matrix(cos, -sin, sin, cos)
    else:
        p, r = polar_factors(x)
        y = symmetric.logm(p)
    return PolarLog(finish(y).to(g.dtype), finish(r).to(g.dtype))


@accepts_numpy_checked
def iwasawa(g: Tensor, *, validate: str = "off") -> Iwasawa:
    """Iwasawa decomposition ``g = k a n`` of GL+(n).

    k is a rotation, a diagonal and positive, n upper triangular with unit diagonal;
    they are the sign-fixed QR decomposition.

    Parameters
    ----------
    g : Tensor or ndarray, shape (..., n, n), n >= 2
        Matrices with a positive determinant.
    validate : {"raise", "mask", "off"}
        What to do about other matrices; see the module.

    Returns
    -------
    Iwasawa
        Named tuple ``(k, a, n)`` of matrices.

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices, or bad values with ``validate="raise"``.

    Examples
    --------
    >>> k, a, n = iwasawa(torch.tensor([[2., 4.], [0., 3.]]))
    >>> a.diagonal(), n
    (tensor([2., 3.]), tensor([[1., 2.],
            [0., 1.]]))
    """
    x, finish = guard(_native(g), positive_determinant, DET, validate)
    with full_precision(x):
        q, r = torch.linalg.qr(x)
        diagonal = r.diagonal(dim1=-2, dim2=-1)
        sign = torch.where(diagonal < 0, -1.0, 1.0).to(x.dtype)
        # det k = -1 tells that g is outside the group
        orientation = torch.linalg.det((q * sign[..., None, :]).detach())
        bad = (orientation < 0) | (diagonal == 0).any(-1)
        bad = bad[..., None, None]
        k = torch.where(bad, torch.nan, q * sign[..., None, :])
        a = torch.diag_embed(torch.where(bad[..., 0], torch.nan, diagonal.abs()))
        n = torch.where(bad, torch.nan, r / diagonal[..., :, None])
    return Iwasawa(*(finish(part).to(g.dtype) for part in (k, a, n)))


def log_det(g: Tensor) -> Tensor:
    """Logarithm of the determinant, NaN where that is not positive."""
    if g.shape[-1] == 2:
        scale = g.detach().abs().amax((-2, -1))
        x = g / scale[..., None, None]
        det = x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0]
        return torch.where(det > 0, det, torch.nan).log() + 2 * scale.log()
    sign, value = torch.linalg.slogdet(g)
    return torch.where(sign > 0, value, torch.nan)


@accepts_numpy_checked
def scale_split(g: Tensor, *, validate: str = "off") -> ScaleSplit:
    r"""Split GL+(n) into scale and SL(n): :math:`g = s h, s = (\det g)^{1/n}`.

    Parameters
    ----------
    g : Tensor or ndarray, shape (..., n, n), n >= 2
        Matrices with a positive determinant.
    validate : {"raise", "mask", "off"}
        What to do about other matrices; see the module.

    Returns
    -------
    ScaleSplit
        Named tuple ``(s, h)`` of shapes (...) and (..., n, n).

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices, or bad values with ``validate="raise"``.

    Examples
    --------
    >>> s, h = scale_split(torch.tensor([[0., -8.], [2., 0.]]))
    >>> s
    tensor(4.)
    >>> torch.linalg.det(h)
    tensor(1.)
    """
    x, finish = guard(_native(g), positive_determinant, DET, validate)
    s = torch.exp(log_det(x) / x.shape[-1])
    h = x / s[..., None, None]
    return ScaleSplit(finish(s, 0).to(g.dtype), finish(h).to(g.dtype))
