"""Orthonormal bases of symmetric and skew matrices for ``tr X'Y``, in float64."""

import torch
from torch import Tensor


def _unit(n: int, i: int, j: int) -> Tensor:
    e = torch.zeros(n, n, dtype=torch.float64)
    e[i, j] = 1
    return e


def _off_diagonal(n: int, i: int, j: int) -> Tensor:
    return (_unit(n, i, j) + _unit(n, j, i)) / 2**0.5


def symmetric_basis(n: int, trace_free: bool = False) -> list[Tensor]:
    """Upper triangle row by row; trace-free: Helmert's diagonals, then the rest."""
    if not trace_free:
        return [
            _unit(n, i, i) if i == j else _off_diagonal(n, i, j)
            for i in range(n)
            for j in range(i, n)
        ]
    basis = []
    for k in range(1, n):
        diagonal = torch.zeros(n, dtype=torch.float64)
        diagonal[:k], diagonal[k] = 1, -k
        basis.append(torch.diag(diagonal) / (k * (k + 1)) ** 0.5)
    return basis + [_off_diagonal(n, i, j) for i in range(n) for j in range(i + 1, n)]


def skew_basis(n: int) -> list[Tensor]:
    """Entries below the diagonal row by row; for n = 3 the axes of rotation."""
    pairs = [(i, j) for i in range(n) for j in range(i)]
    if n == 3:
        pairs = [(2, 1), (0, 2), (1, 0)]
    return [(_unit(n, i, j) - _unit(n, j, i)) / 2**0.5 for i, j in pairs]
