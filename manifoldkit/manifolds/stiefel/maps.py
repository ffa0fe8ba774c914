r"""Maps of orthonormal matrices: low-rank rotations and geodesics.

A tangent vector u at x generates the rotation of the whole space by the skew matrix

.. math:: W = P u x' - x u' P = A B', \quad P = I - xx'/2, \quad
   A = [Pu, x],\ B = [x, -Pu],

with :math:`Wx = u`. W has rank 2p, so functions of it cost matrices of size 2p.
"""

import torch
from torch import Tensor


def _eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def orthonormality_gap(x: Tensor) -> Tensor:
    """``max|x'x - I|`` of each matrix."""
    return (x.mT @ x - _eye(x.shape[-1], x)).abs().amax((-2, -1))


def polish(y: Tensor) -> Tensor:
    """One Newton-Schulz step: squares a small departure from orthonormality."""
    return 1.5 * y - 0.5 * (y @ (y.mT @ y))


def _generator(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The factors A, B of W = A B'."""
    x, u = torch.broadcast_tensors(x, u)
    pu = u - x @ (x.mT @ u) / 2
    return torch.cat([pu, x], -1), torch.cat([x, -pu], -1)


def cayley_rotate(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Apply ``(I - W/2)^-1 (I + W/2)`` to v; Woodbury when 2p <= n/2."""
    n, p = x.shape[-2:]
    a, b = _generator(x, u)
    if 4 * p <= n:
        core = _eye(2 * p, x) - b.mT @ a / 2
        return v + a @ torch.linalg.solve_ex(core, b.mT @ v)[0]
    half = a @ b.mT / 2
    eye = _eye(n, x)
    return torch.linalg.solve_ex(eye - half, v + half @ v)[0]


def canonical_exp(x: Tensor, u: Tensor) -> Tensor:
    """Geodesic of the canonical metric, ``expm(W) x``.

    ``expm(A B') x = x + A phi(B'A) B'x`` with ``phi(z) = (e^z - 1) / z``, read off the
    exponential of ``[[B'A, B'x], [0, 0]]``: smooth also where u is rank-deficient.
    """
    n, p = x.shape[-2:]
    a, b = _generator(x, u)
    if n <= 3 * p:
        return polish(torch.linalg.matrix_exp(a @ b.mT) @ x)
    core = torch.cat([b.mT @ a, b.mT @ x], -1)
    block = torch.nn.functional.pad(core, (0, 0, 0, p))
    phi = torch.linalg.matrix_exp(block)[..., : 2 * p, 2 * p :]
    return polish(x + a @ phi)


def euclidean_exp(x: Tensor, u: Tensor) -> Tensor:
    """Geodesic of the Euclidean metric.

    ``[x u] expm([[A, -S], [I, A]]) [expm(-A); 0]`` with ``A = x'u, S = u'u``.
    """
    p = x.shape[-1]
    x, u = torch.broadcast_tensors(x, u)
    a, s = x.mT @ u, u.mT @ u
    a = (a - a.mT) / 2
    eye = _eye(p, x).expand_as(a)
    block = torch.cat([torch.cat([a, -s], -1), torch.cat([eye, a], -1)], -2)
    w = torch.linalg.matrix_exp(block)[..., :p]
    return polish(torch.cat([x, u], -1) @ w @ torch.linalg.matrix_exp(-a))
