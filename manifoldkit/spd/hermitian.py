"""Checks and real coordinates of Hermitian matrices.

Their real form of twice the size, which keeps logarithms, means and geodesics, is that
of :mod:`manifoldkit.linalg.hermitian`.
"""

import math

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import check_spd, unvech, vech
from manifoldkit.linalg.hermitian import hermitian_to_real


def check_hermitian(x: Tensor, name: str) -> Tensor:
    """Raise unless matrices (..., n, n) are finite, Hermitian and positive definite.

    For real ones this is :func:`~manifoldkit.linalg.check_spd`.
    """
    if not x.is_complex():
        return check_spd(x, name)
    try:
        check_spd(hermitian_to_real(x), name)
    except NotOnManifoldError as error:
        message = str(error).replace("symmetric: max|x - x'|", "Hermitian: max|x - x*|")
        raise NotOnManifoldError(message) from None
    return x


def hermitian_vector(x: Tensor) -> Tensor:
    r"""Return n² real coordinates of Hermitian matrices (..., n, n), isometrically.

    First the half-vectorized real part, then the strict upper triangle of the imaginary
    part, row by row; :math:`\sqrt 2` off the diagonal, so that the length of a vector
    is the Frobenius norm of the matrix.

    Examples
    --------
    >>> hermitian_vector(torch.tensor([[1.0, 3.0j], [-3.0j, 2.0]])) / 2**0.5
    tensor([0.7071, 0.0000, 1.4142, 3.0000])
    """
    row, column = torch.triu_indices(x.shape[-1], x.shape[-1], 1)
    imag = x.imag[..., row, column] * math.sqrt(2)
    return torch.cat([vech(x.real), imag], -1)


def hermitian_matrix(vector: Tensor) -> Tensor:
    """Invert :func:`hermitian_vector`.

    Examples
    --------
    >>> hermitian_matrix(torch.tensor([0.0, 0.0, 0.0, 2**0.5]))
    tensor([[0.+0.j, 0.+1.j],
            [0.-1.j, 0.+0.j]])
    """
    n = math.isqrt(vector.shape[-1])
    half = n * (n + 1) // 2
    real = unvech(vector[..., :half])
    row, column = torch.triu_indices(n, n, 1)
    imag = torch.zeros_like(real)
    imag[..., row, column] = vector[..., half:] / math.sqrt(2)
    return torch.complex(real, imag - imag.mT)
