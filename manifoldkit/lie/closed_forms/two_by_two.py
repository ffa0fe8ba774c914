r"""Closed forms for 2x2 matrices, smooth where eigenvalues meet.

A real 2x2 matrix acts on the complex plane as :math:`z \mapsto \alpha z + \beta \bar z`
with

.. math:: \alpha = \tfrac12[(a + d) + i (c - b)], \quad
          \beta = \tfrac12[(a - d) + i (c + b)].

Its determinant is :math:`|\alpha|^2 - |\beta|^2`; symmetric means :math:`\alpha` real;
the rotation of the polar decomposition is :math:`\alpha / |\alpha|` and the stretch has
the singular values :math:`|\alpha| \pm |\beta|`. Functions of the stretch depend on
:math:`|\beta|^2` alone, and near zero on its power series, so autograd differentiates
them to any order, conformal matrices included.
"""

import math

import torch
from torch import Tensor

# below these values of their argument the functions of |beta|^2 take their series
_NEAR_EXP = 1e-2
_NEAR_LOG = 1e-3


def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return ``[[a, b], [c, d]]``."""
    return torch.stack([a, b, c, d], -1).unflatten(-1, (2, 2))


def _entries(g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return g[..., 0, 0], g[..., 0, 1], g[..., 1, 0], g[..., 1, 1]


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    total = coefficients[-1] * x + coefficients[-2]
    for c in reversed(coefficients[:-2]):
        total = total * x + c
    return total


def _terms(x: Tensor, double: int, single: int) -> range:
    return range(double if x.dtype == torch.float64 else single)


def _split(q: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where q is small; q for the series; root of q for the closed form.

    Each is clamped to its own side, so that neither branch has an infinite derivative
    where the other is chosen.
    """
    return q < bound, q.clamp(max=bound), q.clamp(min=bound).sqrt()


def _exp_parts(x: Tensor) -> tuple[Tensor, ...]:
    """Mean, and even, delta, b of ``exp(x) = even I + [[delta, b], [b, -delta]]``."""
    a, b, c, d = _entries(x)
    mean, delta, b = 0.5 * (a + d), 0.5 * (a - d), 0.5 * (b + c)
    near, small, r = _split(delta * delta + b * b, _NEAR_EXP)
    terms = _terms(r, 7, 4)
    # two exponentials, not e^m cosh r, which overflows where the result does not
    low, high = torch.exp(mean - r), torch.exp(mean + r)
    base = mean.exp()
    even = base * _polynomial(small, [1 / math.factorial(2 * k) for k in terms])
    odd = base * _polynomial(small, [1 / math.factorial(2 * k + 1) for k in terms])
    even = torch.where(near, even, 0.5 * (high + low))
    odd = torch.where(near, odd, (high - low) / (2 * r))
    return mean, even, odd * delta, odd * b


def sym_exp(x: Tensor) -> Tensor:
    r"""Exponential :math:`e^m (\cosh r\, I + \mathrm{sinhc}\, r\, (X - m I))`."""
    _, even, delta, b = _exp_parts(x)
    return matrix(even + delta, b, b, even - delta)


def sym_exp_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentials of x and of -x, the adjugate over the determinant."""
    mean, even, delta, b = _exp_parts(x)
    p = matrix(even + delta, b, b, even - delta)
    even, delta, b = (torch.exp(-2 * mean) * part for part in (even, delta, b))
    return p, matrix(even - delta, -b, -b, even + delta)


def _artanh_ratio(q: Tensor, det: Tensor) -> Tensor:
    """artanh(x) / x for ``q = x^2`` and ``det = 1 - x^2``, known to more digits."""
    near, small, x = _split(q, _NEAR_LOG)
    series = _polynomial(small, [1 / (2 * k + 1) for k in _terms(q, 7, 4)])
    twice = 2 * x
    ratio = torch.log1p(twice * (1 + x) / torch.where(near, 1.0, det)) / twice
    return torch.where(near, series, ratio)


def sym_log(p: Tensor) -> Tensor:
    """Logarithm of SPD matrices; NaN where p is not positive definite."""
    a, b, c, d = _entries(p)
    mean = 0.5 * (a + d)
    half = 0.5 / mean
    delta, b = (a - d) * half, (b + c) * half
    det = 4 * (a * half) * (d * half) - b * b
    k = _artanh_ratio(delta * delta + b * b, det)
    level = mean.log() + 0.5 * det.log()
    delta, b = k * delta, k * b
    return matrix(level + delta, b, b, level - delta)


def _root(p: Tensor) -> tuple[Tensor, ...]:
    """Mean, scaled entries, and square roots of determinant and of trace + 2 root."""
    a, b, c, d = _entries(p)
    mean = (a + d) / 2
    a, b, d = a / mean, (b + c) / (2 * mean), d / mean
    det = a * d - b * b
    # a singular matrix may round to a determinant just below zero
    rounded = (det < 0) & (det > -8 * torch.finfo(p.dtype).eps)
    s = torch.where(rounded, torch.zeros_like(det), det).sqrt()
    return mean, a, b, d, s, (2 + 2 * s).sqrt()


def sym_sqrt(p: Tensor) -> Tensor:
    r"""Square root :math:`(P + \sqrt{\det P}\, I) / \sqrt{\mathrm{tr} P + 2 s}`."""
    mean, a, b, d, s, t = _root(p)
    f = mean.sqrt() / t
    return matrix(f * (a + s), f * b, f * b, f * (d + s))


def sym_inv_sqrt(p: Tensor) -> Tensor:
    """Inverse square root, the adjugate of the root over its determinant."""
    mean, a, b, d, s, t = _root(p)
    f = 1 / (mean.sqrt() * t * s)
    return matrix(f * (d + s), -f * b, -f * b, f * (a + s))


def _complex(g: Tensor) -> tuple[Tensor, ...]:
    """Scale, alpha, beta, det of ``g / scale``; NaN where det is not positive.

    The scale is a constant to autograd: every function below is independent of how a
    matrix is split into scale and rest.
    """
    scale = g.detach().abs().amax((-2, -1))
    a, b, c, d = _entries(g / scale[..., None, None])
    det = a * d - b * c
    det = torch.where(det > 0, det, torch.full_like(det, torch.nan))
    e, h = (a + d) / 2, (c - b) / 2
    f, k = (a - d) / 2, (c + b) / 2
    # propagate: a rotation of a matrix outside the group is NaN as well
    return scale, e + 0 * det, h, f, k, det


def polar(g: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch and rotation of ``g = p r``."""
    scale, e, h, f, k, _ = _complex(g)
    m = (e * e + h * h).sqrt()
    cos, sin = e / m, h / m
    delta, b = f * cos - k * sin, f * sin + k * cos
    p = matrix(m + delta, b, b, m - delta) * scale[..., None, None]
    return p, matrix(cos, -sin, sin, cos)


def polar_log_parts(g: Tensor) -> tuple[Tensor, ...]:
    """Entries 00, 01, 11 of log p, and cos, sin and angle of r, for ``g = p r``."""
    scale, e, h, f, k, det = _complex(g)
    square = e * e + h * h
    m = square.sqrt()
    cos, sin = e / m, h / m
    ratio = _artanh_ratio((f * f + k * k) / square, det / square) / m
    level = scale.log() + det.log() / 2
    delta, b = ratio * (f * cos - k * sin), ratio * (f * sin + k * cos)
    return level + delta, b, level - delta, cos, sin, angle(cos, sin)


def angle(cos: Tensor, sin: Tensor) -> Tensor:
    """Angle in (-pi, pi]; -pi within rounding counts as +pi."""
    theta = torch.atan2(sin, cos)
    edge = -math.pi * (1 - 4 * torch.finfo(theta.dtype).eps)
    return torch.where(theta < edge, theta + 2 * math.pi, theta)


def rotation(theta: Tensor) -> Tensor:
    """Rotation by an angle."""
    cos, sin = theta.cos(), theta.sin()
    return matrix(cos, -sin, sin, cos)


def general_log(g: Tensor) -> Tensor:
    r"""Real logarithm of 2x2 matrices, NaN where there is none.

    With :math:`g = m I + D`, :math:`D^2 = q I`: the logarithm is
    :math:`\tfrac12 \log\det g\, I + k D`, k the inverse of sinhc or sinc. It exists
    unless eigenvalues are negative and g is not a multiple of the identity.
    """
    scale = g.detach().abs().amax((-2, -1))
    a, b, c, d = _entries(g / scale[..., None, None])
    m, delta = (a + d) / 2, (a - d) / 2
    det = a * d - b * c
    q = delta * delta + b * c
    positive = det > 0
    one = torch.ones_like(q)
    near = positive & (m > 0) & (q.abs() < _NEAR_LOG * m * m)
    real = positive & (m > 0) & ~near & (q > 0)
    turn = positive & ~near & (q < 0)
    half = positive & (m < 0) & (delta == 0) & (b == 0) & (c == 0)
    safe_m = torch.where(near | real, m, one)
    ratio = torch.where(near, q / (safe_m * safe_m), torch.zeros_like(q))
    series = _polynomial(ratio, [1 / (2 * k + 1) for k in _terms(q, 7, 4)])
    r = torch.where(real, q, one / 4).sqrt()
    # artanh(r / m) with (m - r)(m + r) = det
    safe_det = torch.where(real, det, one)
    hyperbolic = torch.log1p(2 * r * (safe_m + r) / safe_det) / (2 * r)
    w = torch.where(turn, -q, one).sqrt()
    circular = torch.atan2(w, torch.where(turn, m, one)) / w
    k = torch.where(real, hyperbolic, torch.where(turn, circular, series / safe_m))
    exists = near | real | turn | half
    nan = torch.full_like(q, torch.nan)
    level = torch.where(
        exists, scale.log() + torch.where(exists, det, one).log() / 2, nan
    )
    k = torch.where(exists, k, nan)
    half_turn = torch.where(half, torch.full_like(q, math.pi), torch.zeros_like(q))
    return matrix(
        level + k * delta, k * b - half_turn, k * c + half_turn, level - k * delta
    )
