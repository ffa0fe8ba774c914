r"""Hermitian matrices as real symmetric ones of twice the size.

.. math::
    A + iB \mapsto \begin{pmatrix} A & -B \\ B & A \end{pmatrix}

keeps sums, products, adjoints and hence every spectral function and factorization-free
formula; each eigenvalue appears twice, so traces and squared lengths double.
"""

import torch
from torch import Tensor


def hermitian_to_real(x: Tensor) -> Tensor:
    """Return the real representation; of a real matrix, with B = 0.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Complex or real matrices.

    Returns
    -------
    Tensor, shape (..., 2 n, 2 n)

    Examples
    --------
    >>> hermitian_to_real(torch.tensor([[1 + 2j]]))
    tensor([[ 1., -2.],
            [ 2.,  1.]])
    """
    a = x.real
    b = x.imag if x.is_complex() else torch.zeros_like(x)
    return torch.cat([torch.cat([a, -b], -1), torch.cat([b, a], -1)], -2)


def real_to_hermitian(y: Tensor) -> Tensor:
    """Invert :func:`hermitian_to_real`; what is not of its form is averaged.

    Examples
    --------
    >>> real_to_hermitian(torch.tensor([[1., -2.], [2., 1.]]))
    tensor([[1.+2.j]])
    """
    n = y.shape[-1] // 2
    a = y[..., :n, :n] + y[..., n:, n:]
    b = y[..., n:, :n] - y[..., :n, n:]
    return torch.complex(a / 2, b / 2)
