"""Residual of an eigendecomposition in about one and a half times working precision.

A backward stable eigensolver leaves an error of eps * max(s) in every eigenvalue, so
a function that looks at the small ones (logarithm, inverse root) loses as many digits
as the condition number has. The residual ``Y = X U - U diag(s)``, computed without
that error, gives ``X = U (diag(s) + U^-1 Y) U^-1``, and one Daleckii-Krein term at
``U'Y`` restores the digits: the remaining error is of second order. The product is
made exact by splitting both factors so that the leading parts multiply without
rounding (Ozaki et al., Numerical Algorithms 59, 2012).
"""

import math

import torch
from torch import Tensor


def _split(x: Tensor, dim: int, shift: float) -> tuple[Tensor, Tensor]:
    """Split x into few leading bits, on one grid along ``dim``, and the rest."""
    sigma = x.abs().amax(dim, keepdim=True) * shift
    if x.is_complex():  # both parts are split
        sigma = torch.complex(sigma, sigma)
    high = (x + sigma).sub_(sigma)
    return high, x - high


def eigen_residual(x: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Return ``U* (X U - U diag(s))`` accurate far below the rounding of X U.

    In-place sums: at this size the cost of fresh memory rivals that of arithmetic.
    """
    n = x.shape[-1] * (2 if x.is_complex() else 1)  # summands of a product
    digits = 1 - math.log2(torch.finfo(x.dtype).eps)
    shift = 2.0 ** (math.ceil((digits + math.log2(n)) / 2) + 1)
    s = s[..., None, :]
    x1, x2 = _split(x, -1, shift)
    u1, u2 = _split(u, -2, shift)
    s1, s2 = _split(s, -1, shift)
    rest = (x1 @ u2).add_(x2 @ u)
    rest = rest.sub_(u2 * s).sub_(u1 * s2)
    leading = (x1 @ u1).sub_(u1 * s1)
    return u.mH @ leading.add_(rest)
