"""Directions of steepest descent under the spectral norm."""

import torch
from torch import Tensor, bmm
from torch.linalg import vector_norm

from manifoldkit.linalg import symmetrize
from manifoldkit.linalg.elementary import bring_to_unit, eye_like

# odd quintics, each the best for the range that the one before leaves of [3e-3, 1],
# scaled to a largest value of 1: after five, [0.99, 1]
_SIGN = (
    (4.2452217, -12.5406568, 9.2954351),
    (4.2063534, -12.2178312, 9.0114777),
    (4.041974, -10.914208, 7.8722341),
    (3.4215524, -6.8320818, 4.4105293),
    (2.2866513, -2.219913, 0.9332618),
)
# converges from there
_LAST = (1.875, -1.25, 0.375)

#: Length of the dual steps, in those of the majorizer; it overshoots up to 2.
_RELAXED = 1.5

#: Rounds in which singular values above 1 are cut.
_ROUNDS = 2

#: Squarings that bound a spectral norm: of rank r, by r^(1/256) too large.
_SQUARINGS = 6


def converging_sign(x: Tensor, steps: int) -> Tensor:
    r"""Matrix sign :math:`U V'` of :math:`x = U S V'`, by products.

    Singular values never exceed 1; after five steps those above 3e-3 of the Frobenius
    norm are within 1 % of it.

    Parameters
    ----------
    x : Tensor, shape (B, m, n)
        Any matrices; zero stays zero.
    steps : int
        Number of quintic steps.
    """
    wide = x.shape[-1] > x.shape[-2]
    y = bring_to_unit(x if wide else x.mT)
    size = vector_norm(y, dim=(-2, -1), keepdim=True)
    y = y / torch.where(size == 0, 1.0, size)
    for a, b, c in (_SIGN + (_LAST,) * max(0, steps - len(_SIGN)))[:steps]:
        gram = bmm(y, y.mT)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, poly, y, beta=a)
    return y if wide else y.mT


def within_unit(u: Tensor) -> Tensor:
    """Divide matrices (B, n, p) of spectral norm above 1, and below 2, by their norm.

    The norm is bounded from above by the Frobenius norm of a high power of ``u'u``.
    """
    power = bmm(u.mT, u)
    for _ in range(_SQUARINGS):
        power = bmm(power, power)
    size = vector_norm(power, dim=(-2, -1), keepdim=True)
    return u / size.pow_(0.5**_SQUARINGS / 2).clamp_min_(1)


def steepest_tangent(x: Tensor, g: Tensor, steps: int) -> Tensor:
    r"""Tangent matrix of spectral norm 1 with the largest product with g, nearly.

    With :math:`g = xS + R`, :math:`x'R = 0`, the largest product is the least sum of
    singular values of :math:`x(S + L) + R` over symmetric L, and reached by the tangent
    part of its matrix sign. With :math:`Q^2 = (S + L)'(S + L) + R'R` the sum is below
    :math:`\tfrac12 \operatorname{tr}(M Q^{-1} M' + Q)` for every Q; a step minimizes
    that over L, which takes the eigenvectors of Q. Singular values above 1 of what is
    found are cut, and the tangent part taken again.

    Parameters
    ----------
    x : Tensor, shape (B, n, p)
        Orthonormal columns.
    g : Tensor, shape (B, n, p)
        Gradients.
    steps : int
        Steps in L.
    """
    finite = torch.isfinite(g).flatten(1).all(1)[:, None, None]
    g = bring_to_unit(torch.where(finite, g, 0.0))
    inside = bmm(x.mT, g)
    outside = torch.baddbmm(g, x, inside, alpha=-1)
    m, rest = _skew(inside), bmm(outside.mT, outside)
    for _ in range(steps):
        q, v = _roots(m, rest)
        pull = bmm(v.mT, bmm(m, v)) / q[:, None, :]  # x' sign, in the eigenvectors
        a, b = q[:, :, None], q[:, None, :]
        change = (pull + pull.mT) * (a * b / (a + b))
        m = m - _RELAXED * bmm(v, bmm(change, v.mT))
    q, v = _roots(m, rest)
    factor = bmm(v / q[:, None, :], v.mT)
    w = _skew(bmm(m, factor))
    for _ in range(_ROUNDS):
        values, v = torch.linalg.eigh(_gram(w, factor, rest))
        cut = bmm(v * values.clamp_min(1).rsqrt()[:, None, :], v.mT)
        w, factor = _skew(bmm(w, cut)), bmm(factor, cut)
    largest = torch.linalg.eigvalsh(_gram(w, factor, rest))[:, -1:, None]
    u = torch.baddbmm(bmm(outside, factor), x, w) / largest.clamp_min(1).sqrt()
    return torch.where(finite, u, torch.nan)


def _skew(a: Tensor) -> Tensor:
    return (a - a.mT) / 2


def _gram(w: Tensor, factor: Tensor, rest: Tensor) -> Tensor:
    """``u'u`` of ``u = x w + R factor``, of which ``R'R`` is ``rest``."""
    return symmetrize(bmm(w.mT, w) + bmm(factor.mT, bmm(rest, factor)))


def _roots(m: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Square roots of the eigenvalues, and eigenvectors, of ``m'm + rest``."""
    values, v = torch.linalg.eigh(_gram(m, eye_like(m).expand_as(m), rest))
    info = torch.finfo(values.dtype)
    least = (info.eps * values[:, -1:]).clamp_min(info.tiny)
    return torch.maximum(values, least).sqrt(), v
