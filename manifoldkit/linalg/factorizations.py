"""Factorizations of symmetric matrices in which a bad matrix spoils itself alone.

LAPACK raises for the whole batch where one matrix is not finite, or not positive
definite. Here its own result is NaN, and the others are what they are without it.
"""

import cmath

import torch
from torch import Tensor

from manifoldkit.linalg.checks import (
    check_square,
    compute_dtype,
    maybe_any,
    must_not_look,
)
from manifoldkit.linalg.elementary import eye_like, hermitian_part

Eig = tuple[Tensor, Tensor]


def _closed_form_pays(x: Tensor) -> bool:
    """2x2 matrices: twice as fast as LAPACK from about a thousand, always on a GPU."""
    few = x.shape[-1] == 2 and not x.is_complex()
    return few and (x.is_cuda or x.numel() >= 4000)


def _eigh_2x2(x: Tensor) -> Eig:
    """Closed form: one rotation by half the angle of (a - c, 2 b)."""
    a, b, c = x[..., 0, 0], x[..., 1, 0], x[..., 1, 1]
    radius = torch.hypot((a - c) / 2, b)
    mean = (a + c) / 2
    large = mean + torch.where(mean >= 0, radius, -radius)
    scale = x.abs().amax((-2, -1))
    unit = torch.where(scale > 0, scale, torch.ones_like(scale))
    det = (a / unit) * (c / unit) - (b / unit) ** 2
    # det / large has no cancellation of its own where the mean dominates
    divisor = torch.where(large == 0, unit, large) / unit
    small = torch.where(radius < mean.abs(), det / divisor * unit, 2 * mean - large)
    angle = torch.atan2(b, (a - c) / 2) / 2
    cos, sin = angle.cos(), angle.sin()
    first, last = torch.minimum(small, large), torch.maximum(small, large)
    u = torch.stack([torch.stack([-sin, cos], -1), torch.stack([cos, sin], -1)], -2)
    return torch.stack([first, last], -1), u


def eigh(x: Tensor) -> Eig:
    """Return ascending eigenvalues and eigenvectors; NaN for a non-finite matrix alone.

    A constant for automatic differentiation: it feeds the ``eig=`` argument of the
    matrix functions, whose derivatives do not pass through it. Large batches
    of 2x2 matrices take a closed form.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric or complex Hermitian matrices (that part of them is used).

    Returns
    -------
    s : Tensor, shape (..., n)
        Eigenvalues in ascending order, real.
    u : Tensor, shape (..., n, n)
        Eigenvectors in columns.

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices.

    Examples
    --------
    >>> s, u = eigh(torch.tensor([[2., 1.], [1., 2.]]))
    >>> s
    tensor([1., 3.])
    """
    check_square(x, hermitian=True)
    with torch.no_grad():
        return decompose(hermitian_part(x.detach().to(compute_dtype(x.dtype))))


@torch.no_grad()
def decompose(x: Tensor) -> Eig:
    """Decompose as :func:`eigh` does matrices that are symmetric already.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric or Hermitian matrices in a dtype to compute in.
    """
    x = x.detach()
    if not must_not_look(x) and _surely_finite(x):
        return _decompose_finite(x)
    finite = torch.isfinite(x).all(-1).all(-1)[..., None]
    eye = eye_like(x)
    s, u = _decompose_finite(torch.where(finite[..., None], x, eye))
    u = torch.where(finite[..., None], u, torch.nan)
    return torch.where(finite, s, torch.nan), u


def _surely_finite(x: Tensor) -> bool:
    """Whether the sum over all entries is finite, and can be read."""
    try:
        return cmath.isfinite(x.sum().item())
    except RuntimeError:  # under torch.func.vmap
        return False


def _decompose_finite(x: Tensor) -> Eig:
    return _eigh_2x2(x) if _closed_form_pays(x) else torch.linalg.eigh(x)


def eigvalsh(x: Tensor) -> Tensor:
    """Return ascending eigenvalues; NaN for a non-finite matrix alone.

    Differentiable, unlike :func:`eigh`.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric matrices (the lower triangle is read).

    Returns
    -------
    Tensor, shape (..., n)

    Examples
    --------
    >>> eigvalsh(torch.tensor([[2., 1.], [1., 2.]]))
    tensor([1., 3.])
    """
    if not must_not_look(x) and not maybe_any(~x.detach().sum().isfinite()):
        return torch.linalg.eigvalsh(x)
    finite = torch.isfinite(x).all(-1).all(-1)[..., None]
    eye = eye_like(x)
    s = torch.linalg.eigvalsh(torch.where(finite[..., None], x, eye))
    return torch.where(finite, s, torch.nan)


def quick_eigh(x: Tensor) -> Eig:
    """Decompose as :func:`eigh` does, without its checks: the lower triangle is read.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric matrices in a dtype to compute in.
    """
    try:
        return torch.linalg.eigh(x)
    except torch.linalg.LinAlgError:
        return eigh(x)


def cholesky(x: Tensor) -> Tensor:
    """Return the lower Cholesky factor; NaN where a matrix is not positive definite.

    Differentiable. The lower triangle is read.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        SPD matrices.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> cholesky(torch.stack([4 * torch.eye(1), -torch.eye(1)])).flatten()
    tensor([2., nan])
    """
    factor, info = torch.linalg.cholesky_ex(x)
    if not must_not_look(x) and not maybe_any(info):
        return factor
    return torch.where((info == 0)[..., None, None], factor, torch.nan)
