r"""Principal logarithm of rotation matrices, for any size and with exact derivatives.

For a rotation R with angles :math:`\theta` put :math:`S = (R + R')/2` (eigenvalues
:math:`\cos\theta`) and :math:`K = (R - R')/2`; they commute and

.. math:: \log R = g(S) K, \qquad g(\cos\theta) = \theta / \sin\theta,

where g is analytic at repeated and at zero angles. With :math:`w = (1 - \cos\theta)/2`
it is a power series that converges like :math:`w^k`; one square root of R, the polar
factor of :math:`I + R`, brings every angle to :math:`w \le 1/2`.
"""

import torch
from torch import Tensor

from manifoldkit.linalg.checks import (
    check_square,
    compute_dtype,
    maybe_any,
    must_not_look,
)
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.orthogonal import polar

_BLOCK = 7  # powers kept by the Paterson-Stockmeyer scheme


def _coefficients(terms: int) -> list[float]:
    """arcsin(z) / (z sqrt(1 - z^2)) = sum 4^k (k!)^2 / (2k + 1)! z^(2k)."""
    values = [1.0]
    for k in range(1, terms):
        values.append(values[-1] * 2 * k / (2 * k + 1))
    return values


def angle_over_sine(cosine: Tensor) -> Tensor:
    r"""Matrix function :math:`\theta / \sin\theta` of a symmetric matrix of cosines.

    Parameters
    ----------
    cosine : Tensor, shape (..., n, n)
        Symmetric, with eigenvalues in [0, 1]: :math:`\cos\theta` of angles up to
        :math:`\pi / 2`.

    Returns
    -------
    Tensor, shape (..., n, n)
        By products only; derivatives of every order, also at repeated angles.

    Examples
    --------
    >>> angle_over_sine(torch.diag(torch.tensor([1., 0.])))
    tensor([[1.0000, 0.0000],
            [0.0000, 1.5708]])
    """
    check_square(cosine, "cosine")
    n = cosine.shape[-1]
    eye = torch.eye(n, dtype=cosine.dtype, device=cosine.device)
    w = (eye - cosine) / 2
    terms = 56 if cosine.dtype == torch.float64 else 28
    coefficients = _coefficients(terms)
    powers = [eye.expand_as(w), w]
    for _ in range(2, _BLOCK + 1):
        powers.append(powers[-1] @ w)
    total = torch.zeros_like(w)
    for start in range(terms - _BLOCK, -1, -_BLOCK):
        block = sum(coefficients[start + i] * powers[i] for i in range(_BLOCK))
        total = total @ powers[_BLOCK] + block
    return total


def _rotation_sqrt(r: Tensor) -> Tensor:
    """Principal square root; half turns get one of their two planes of rotation."""
    eye = eye_like(r)
    middle = eye + r
    s, u = torch.linalg.eigh(torch.nan_to_num((r + r.mT).detach()) / 2)
    half_turn = s < -1 + 1e3 * torch.finfo(r.dtype).eps
    if must_not_look(r) or maybe_any(half_turn):
        # in the eigenspace of -1 (of even dimension) pair vectors: a quarter turn each
        pairs = torch.zeros_like(eye)
        index = torch.arange(0, r.shape[-1] - 1, 2, device=r.device)
        pairs[index, index + 1], pairs[index + 1, index] = -1.0, 1.0
        kept = u * half_turn[..., None, :]
        middle = middle + kept @ pairs @ kept.mT
    return polar(middle, side="right").r


def logm_rotation(r: Tensor) -> Tensor:
    r"""Principal logarithm of rotations: the skew A of least norm with exp(A) = r.

    Parameters
    ----------
    r : Tensor, shape (..., n, n)
        Rotation matrices (orthogonal, determinant +1).

    Returns
    -------
    Tensor, shape (..., n, n)
        Skew-symmetric. At half turns, where two logarithms are equally short, one of
        them, and the derivative does not exist.

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices.

    Examples
    --------
    >>> a = torch.tensor([[0., -1.], [1., 0.]])
    >>> r = torch.linalg.matrix_exp(2 * a)
    >>> torch.allclose(logm_rotation(r), 2 * a, atol=1e-6)
    True
    """
    check_square(r, "r")
    if r.numel() == 0:
        return r
    half = _rotation_sqrt(r.to(compute_dtype(r.dtype)))
    skew = half - half.mT
    a = angle_over_sine((half + half.mT) / 2) @ skew
    return ((a - a.mT) / 2).to(r.dtype)
