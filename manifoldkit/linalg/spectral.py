"""The spectral functions as scalar functions with stable divided differences.

For a scalar function ``f`` the derivative of ``F(X) = U f(s) U'`` is governed by the
divided differences ``f[a, b]`` and ``f[a, b, c]`` at pairs and triples of eigenvalues
(Daleckii and Krein; Higham, Functions of Matrices, 2008, theorem 3.11). Each class
below gives the three in a form that has no cancellation where eigenvalues meet.
``refine`` says whether the decomposition is corrected by its residual; None: where the
condition number asks for it.
"""

import torch
from torch import Tensor

from manifoldkit.linalg.elementary import safe_divide

_SERIES_TERMS = 16


def _homogeneous_series(a: Tensor, b: Tensor, c: Tensor, coefficients) -> Tensor:
    """Sum ``coefficients[k] h_k(a, b, c)`` for centered a + b + c = 0.

    ``h_k`` is the complete homogeneous symmetric polynomial, by its recurrence
    ``h_k = -e2 h_(k-2) + e3 h_(k-3)`` (``e1 = 0``).
    """
    e2 = a * b + b * c + c * a
    e3 = a * b * c
    h = [torch.ones_like(e2), torch.zeros_like(e2), -e2]
    total = coefficients[0] * h[0] + coefficients[2] * h[2]
    for k in range(3, len(coefficients)):
        h.append(e3 * h[k - 3] - e2 * h[k - 2])
        total = total + coefficients[k] * h[k]
    return total


def _second_from_first(f, a: Tensor, b: Tensor, c: Tensor, series: Tensor, near):
    """Return f[a, b, c] by recurrence over the widest pair, or the series when near."""
    low, middle, high = sort3(a, b, c)
    gap = high - low
    wide = f.first(middle, high) - f.first(low, middle)
    return torch.where(near, series, wide / torch.where(near, 1.0, gap))


def sort3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three tensors in ascending order, entry by entry."""
    low = torch.minimum(torch.minimum(a, b), c)
    high = torch.maximum(torch.maximum(a, b), c)
    middle = torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
    return low, middle, high


def _relative_second(f, a: Tensor, b: Tensor, c: Tensor, coefficients, scale) -> Tensor:
    """f[a, b, c] of a function of positive numbers, series in (x - mean) / mean."""
    m = (a + b + c) / 3
    x, y, z = a / m - 1, b / m - 1, c / m - 1
    near = torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) < 0.1
    x, y, z = (torch.where(near, t, torch.zeros_like(t)) for t in (x, y, z))
    series = _homogeneous_series(x, y, z, coefficients) * scale(m)
    return _second_from_first(f, a, b, c, series, near)


class Sqrt:
    """The square root; eigenvalues that are negative by rounding count as zero."""

    sees_small_eigenvalues = False

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s.sqrt()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b]."""
        return 1 / (a.sqrt() + b.sqrt())

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]."""
        x, y, z = a.sqrt(), b.sqrt(), c.sqrt()
        return -1 / ((x + y) * (y + z) * (z + x))


class InvSqrt:
    """The inverse square root."""

    sees_small_eigenvalues = True

    def __init__(self, refine: bool | None = None):
        self.refine = refine

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s.rsqrt()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b]."""
        x, y = a.sqrt(), b.sqrt()
        return -1 / (x * y * (x + y))

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]."""
        x, y, z = a.sqrt(), b.sqrt(), c.sqrt()
        return (x + y + z) / (x * y * z * (x + y) * (y + z) * (z + x))


class Log:
    """The natural logarithm."""

    sees_small_eigenvalues = True

    def __init__(self, refine: bool | None = None):
        self.refine = refine

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s.log()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b]."""
        # log1p has no cancellation where a meets b, nor a pole where b is far smaller
        d = (a - b).abs()
        return safe_divide(torch.log1p(d / torch.minimum(a, b)), d, 1 / a)

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]."""
        k = range(_SERIES_TERMS)
        coefficients = [(-1.0) ** (i + 1) / (i + 2) for i in k]
        return _relative_second(self, a, b, c, coefficients, lambda m: m**-2)


class Exp:
    """The exponential."""

    sees_small_eigenvalues = False

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s.exp()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b] = e^b expm1(a - b) / (a - b) with a - b <= 0."""
        high = torch.maximum(a, b)
        d = -(a - b).abs()
        return high.exp() * safe_divide(torch.expm1(d), d, torch.ones_like(d))

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]."""
        m = (a + b + c) / 3
        x, y, z = a - m, b - m, c - m
        near = torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) < 0.5
        x, y, z = (torch.where(near, t, torch.zeros_like(t)) for t in (x, y, z))
        coefficients, factorial = [], 1.0
        for k in range(_SERIES_TERMS):
            factorial *= k + 2 if k else 2
            coefficients.append(1 / factorial)
        series = _homogeneous_series(x, y, z, coefficients) * m.exp()
        return _second_from_first(self, a, b, c, series, near)


class Power:
    """The real power ``a^p`` of positive numbers."""

    def __init__(self, p: float, refine: bool | None = None):
        self.p = p
        self.refine = refine
        self.sees_small_eigenvalues = p < 0

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s**self.p

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b] = b^(p-1) expm1(p t) / expm1(t), t = log(a / b) <= 0.

        The larger number is b, so that nothing overflows and a may be zero.
        """
        p = self.p
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        gap = safe_divide(low - high, low + high, torch.zeros_like(high))
        t = 2 * torch.atanh(gap)
        ratio = safe_divide(torch.expm1(p * t), torch.expm1(t), torch.full_like(t, p))
        return high ** (p - 1) * ratio

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]."""
        p = self.p
        coefficients, binomial = [], p
        for k in range(_SERIES_TERMS):
            binomial *= (p - k - 1) / (k + 2)
            coefficients.append(binomial)
        return _relative_second(self, a, b, c, coefficients, lambda m: m ** (p - 2))
