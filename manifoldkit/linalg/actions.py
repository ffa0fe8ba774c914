"""How grids and values of irreducible types turn under orthogonal maps."""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from manifoldkit.linalg.draws import generator_option
from manifoldkit.linalg.qr import qr_factor

_IRREPS = re.compile(r"\s*(\d+\s*x\s*)?\d+[eo](\s*\+\s*(\d+\s*x\s*)?\d+[eo])*\s*")


def names_irreps(text: str) -> bool:
    """Tell whether a string names irreducible types, such as ``"2x0e + 1o"``.

    >>> names_irreps("2x0e + 1o"), names_irreps("vector")
    (True, False)
    """
    return _IRREPS.fullmatch(text) is not None


def wigner_matrices(r: Tensor, degree: int, coupling: Callable[..., Tensor]) -> list:
    r"""Return the Wigner matrices of degrees 0 to ``degree`` of rotations.

    Degree by degree, without angles (so smooth everywhere):
    :math:`D^{l} = (2 l + 1)\, C^T (D^{l-1} \otimes R)\, C` with the coupling
    coefficients :math:`C` of degrees ``l - 1`` and 1 to ``l``.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
        Rotations; the basis of degree 1 is x, y, z.
    degree : int
        Largest degree.
    coupling : callable
        ``coupling(l1, l2, l3, dtype=, device=)`` returns the real coupling
        coefficients of Frobenius norm one (``e3nn.o3.wigner_3j``).

    Returns
    -------
    list of Tensor, shapes (..., 2 l + 1, 2 l + 1)
    """
    found = [torch.ones_like(r[..., :1, :1]), r]
    for l in range(2, degree + 1):  # noqa: E741
        c = coupling(l - 1, 1, l, dtype=r.dtype, device=r.device)
        half = torch.einsum("abm,...ac->...mbc", c, found[-1])
        half = torch.einsum("...mbc,...bd->...mcd", half, r)
        found.append((2 * l + 1) * torch.einsum("...mcd,cdn->...mn", half, c))
    return found[: degree + 1]


def act_on_irreps(
    x: Tensor, irreps: Iterable[Any], r: Tensor, coupling: Callable[..., Tensor]
) -> Tensor:
    """Return values of irreducible types after an orthogonal map.

    Parameters
    ----------
    x : Tensor, shape (..., dim)
        Values.
    irreps : iterable of (multiplicity, (degree, parity))
        Their type, such as ``e3nn.o3.Irreps("2x0e+1x1o")``.
    r : Tensor, shape (..., 3, 3)
        Orthogonal matrices; leading dimensions broadcast with those of ``x``.
    coupling : callable
        See :func:`wigner_matrices`.

    Raises
    ------
    ValueError
        The last dimension of ``x`` is not that of the type.
    """
    irreps = [(mul, ir[0], ir[1]) for mul, ir in irreps]
    dim = sum(mul * (2 * degree + 1) for mul, degree, _ in irreps)
    if x.shape[-1] != dim:
        raise ValueError(
            f"x: expected {dim} components for these irreps, found {x.shape[-1]}"
        )
    det = torch.linalg.det(r).sign()
    rotation = r * det[..., None, None]
    degree = max((degree for _, degree, _ in irreps), default=0)
    matrices = wigner_matrices(rotation, degree, coupling)
    parts, start = [], 0
    for mul, degree, parity in irreps:
        size = mul * (2 * degree + 1)
        block = x[..., start : start + size].unflatten(-1, (mul, 2 * degree + 1))
        block = (block @ matrices[degree].mT).flatten(-2)
        parts.append(block * det[..., None] if parity < 0 else block)
        start += size
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, -1) for part in parts], -1)


def signed_permutations(d: int, mirrors: bool = True) -> Tensor:
    """Return the symmetries of the square (d = 2) or cube (d = 3), float64.

    Parameters
    ----------
    d : int
        Dimension.
    mirrors : bool, default=True
        With reflections; otherwise rotations only.

    Returns
    -------
    Tensor, shape (m, d, d)
        The identity first.
    """
    found = []
    for order in itertools.permutations(range(d)):
        for signs in itertools.product((1.0, -1.0), repeat=d):
            a = torch.zeros(d, d, dtype=torch.float64)
            a[list(order), list(range(d))] = torch.tensor(signs, dtype=torch.float64)
            if mirrors or float(torch.linalg.det(a)) > 0:
                found.append(a)
    return torch.stack(found)


def turn_grid(x: Tensor, a: Tensor) -> Tensor:
    """Turn the last axes of a grid by a signed permutation matrix.

    Parameters
    ----------
    x : Tensor, shape (..., s, ..., s)
        Grids with as many equal last axes as ``a`` has rows.
    a : Tensor, shape (d, d)
        A matrix of :func:`signed_permutations`.
    """
    d = len(a)
    target = a.abs().argmax(0).tolist()  # old axis j goes to axis target[j]
    lead = x.ndim - d
    x = x.flip([lead + j for j in range(d) if a[target[j], j] < 0])
    source = [target.index(i) for i in range(d)]
    return x.permute(*range(lead), *(lead + j for j in source))


def haar_orthogonal(
    shape: tuple[int, ...],
    d: int,
    special: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return Haar-distributed orthogonal matrices (rotations if ``special``), float64.

    Parameters
    ----------
    shape : tuple of int
        Batch shape.
    d : int
        Dimension.
    special : bool, default=False
        Determinant one.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    Tensor, shape (*shape, d, d)
    """
    option = generator_option(generator)
    g = torch.randn(*shape, d, d, dtype=torch.float64, **option)
    q = qr_factor(g)
    if special:
        flip = torch.ones_like(q[..., 0, :])
        flip[..., 0] = torch.linalg.det(q).sign()
        q = q * flip[..., None, :]
    return q


def haar_rotations(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniformly distributed rotations (n, 3, 3), from normalized quaternions."""
    device = like.device if generator is None else generator.device
    option = generator_option(generator)
    q = torch.randn(n, 4, dtype=like.dtype, device=device, **option)
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).to(like.device).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
