r"""Nearest rotations of 3 x 3 matrices without an eigensolver, by rows of entries.

The unit quaternion of the rotation that maximizes :math:`\operatorname{tr} R'M` is the
top eigenvector of a symmetric 4 x 4 matrix N(M) [1]_. Its eigenvalue is
:math:`s_1 + s_2 + \operatorname{sign}(\det M) s_3`: the largest root of a cubic gives
:math:`s_1`, and :math:`s_2 s_3`, :math:`s_2^2 + s_3^2` give the rest. The vector is a
column of the adjugate of :math:`N - \lambda I`, polished by two Newton steps on the
rotations. Rows that this does not determine to rounding are told, not returned.

References
----------
.. [1] B. K. P. Horn, "Closed-form solution of absolute orientation using unit
   quaternions", JOSA A 4, 1987.
"""

import torch
from torch import Tensor

from manifoldkit.lie.closed_forms.columns import dot, product, rows
from manifoldkit.lie.closed_forms.so3 import larger

_GAP = 1e-3  # least (s_2 +- s_3) / |M| that is left to this method


def quick_nearest(m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return R and M / |M|, both (3, 3, N), 1 / |M| and which of them are good."""
    y = rows(m, 3, 3)
    square = (y * y).sum((0, 1))
    limit = torch.finfo(m.dtype).max ** 0.6
    good = (square > 1 / limit) & (square < limit)
    inverse = square.rsqrt()
    y = y * inverse  # not in place: of one matrix, rows are a view
    q = _top_vector(y, _top_value(y))
    for _ in range(2):
        h = product(rotation(q).transpose(0, 1), y)
        omega, gap = solve(h, axial(h))
        q = _turn(q, omega)
    good &= gap > _GAP
    good &= dot(omega, omega) < torch.finfo(m.dtype).eps * gap
    return rotation(q), y, inverse, good


def pull_back(r: Tensor, y: Tensor, inverse: Tensor, g: Tensor) -> Tensor:
    """Apply the derivative of R at y / inverse, which is its own transpose."""
    t = r.transpose(0, 1)
    z, _ = solve(product(t, y), axial(product(t, g)))
    z.mul_(inverse)
    return torch.stack(
        [
            r[:, 1] * z[2] - r[:, 2] * z[1],
            r[:, 2] * z[0] - r[:, 0] * z[2],
            r[:, 0] * z[1] - r[:, 1] * z[0],
        ],
        1,
    )


def axial(a: Tensor) -> Tensor:
    """The vector of a - a'."""
    return torch.stack([a[2, 1] - a[1, 2], a[0, 2] - a[2, 0], a[1, 0] - a[0, 1]])


def solve(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (tr(H) I - H) z = x with the symmetric part H of h.

    Also returns a lower bound of the least eigenvalue, det / (sum of the principal
    cofactors), if the matrix is positive definite, and else something not positive.
    """
    p, s, w = h[1, 1] + h[2, 2], h[0, 0] + h[2, 2], h[0, 0] + h[1, 1]
    q, u, t = ((h[i, j] + h[j, i]).mul_(-0.5) for i, j in ((0, 1), (0, 2), (1, 2)))
    c00, c11, c22 = s * w - t * t, p * w - u * u, p * s - q * q
    c01, c02, c12 = t * u - q * w, q * t - s * u, q * u - p * t
    det = p * c00 + q * c01 + u * c02
    z = torch.stack(
        [
            c00 * x[0] + c01 * x[1] + c02 * x[2],
            c01 * x[0] + c11 * x[1] + c12 * x[2],
            c02 * x[0] + c12 * x[1] + c22 * x[2],
        ]
    )
    definite = torch.minimum(torch.minimum(p, c22), c00 + c11 + c22)
    return z.div_(det), torch.minimum(det / (c00 + c11 + c22), definite)


def rotation(q: Tensor) -> Tensor:
    """Rotations (3, 3, N) of unit quaternions (4, N), scalar first."""
    w, x, y, z = q
    double = q + q
    _, x2, y2, z2 = double
    xx, yy, zz = x * x2, y * y2, z * z2
    xy, xz, yz = x * y2, x * z2, y * z2
    wx, wy, wz = w * x2, w * y2, w * z2
    entries = [
        1 - yy - zz, xy - wz, xz + wy,
        xy + wz, 1 - xx - zz, yz - wx,
        xz - wy, yz + wx, 1 - xx - yy,
    ]  # fmt: skip
    return torch.stack(entries).view(3, 3, -1)


def _turn(q: Tensor, omega: Tensor) -> Tensor:
    """Follow the rotations q by the small ones of vectors omega, to second order."""
    w, x, y, z = q
    a, b, c = omega * 0.5
    out = torch.stack(
        [
            w - x * a - y * b - z * c,
            x + w * a + y * c - z * b,
            y + w * b + z * a - x * c,
            z + w * c + x * b - y * a,
        ]
    )
    return out.mul_(dot(out, out).rsqrt())


def _top_value(y: Tensor) -> Tensor:
    """s_1 + s_2 + sign(det) s_3 where |y| = 1, by the trigonometric cubic."""
    s = product(y.transpose(0, 1), y)
    p = ((s * s).sum((0, 1)) - 1 / 3).clamp_min_(1e-30).div_(6)
    k = s.clone()
    for i in range(3):
        k[i, i] -= 1 / 3
    root = p.sqrt()
    angle = (_det(k) / (2 * p * root)).clamp_(-1, 1).acos().div_(3)
    s1 = (2 * root * angle.cos()).add_(1 / 3).sqrt()
    rest = _det(y) / s1  # s_2 s_3 with the sign of the determinant
    squares = torch.maximum(1 - s1 * s1, 2 * rest.abs())
    return s1 + squares.add_(rest, alpha=2).sqrt()


def _det(a: Tensor) -> Tensor:
    (a, b, c), (d, e, f), (g, h, i) = a
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


def _top_vector(y: Tensor, value: Tensor) -> Tensor:
    """Unit quaternions: the largest column of the adjugate of N(y) - value I."""
    (a, b, c), (d, e, f), (g, h, i) = y
    a00, a11 = a + e + i - value, a - e - i - value
    a22, a33 = e - a - i - value, i - a - e - value
    a01, a02, a03 = h - f, c - g, d - b
    a12, a13, a23 = b + d, c + g, f + h
    # minors of the upper and of the lower two rows
    s0, s1, s2 = a00 * a11 - a01 * a01, a00 * a12 - a01 * a02, a00 * a13 - a01 * a03
    s3, s4, s5 = a01 * a12 - a11 * a02, a01 * a13 - a11 * a03, a02 * a13 - a12 * a03
    c5, c4, c3 = a22 * a33 - a23 * a23, a12 * a33 - a13 * a23, a12 * a23 - a13 * a22
    c2, c1 = a02 * a33 - a03 * a23, a02 * a23 - a03 * a22
    b00 = a11 * c5 - a12 * c4 + a13 * c3
    b01 = a02 * c4 - a01 * c5 - a03 * c3
    b02 = a13 * s5 - a23 * s4 + a33 * s3
    b03 = a22 * s4 - a12 * s5 - a23 * s3
    b11 = a00 * c5 - a02 * c2 + a03 * c1
    b12 = a23 * s2 - a03 * s5 - a33 * s1
    b13 = a02 * s5 - a22 * s2 + a23 * s1
    b22 = a03 * s4 - a13 * s2 + a33 * s0
    b23 = a12 * s2 - a02 * s4 - a23 * s0
    b33 = a02 * s3 - a12 * s1 + a22 * s0
    # no diagonal entry of the adjugate is positive
    pair, size = larger((b00, b01, b02, b03), -b00, (b01, b11, b12, b13), -b11)
    other, bound = larger((b02, b12, b22, b23), -b22, (b03, b13, b23, b33), -b33)
    best, _ = larger(pair, size, other, bound)
    q = torch.stack(best)
    return q.mul_(dot(q, q).rsqrt_())
