"""Orthonormal bases of tangent spaces, and coordinates in them."""

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit.manifolds.points import check_manifold_argument, check_points


@torch.no_grad()
def tangent_basis(manifold: Manifold, x: Tensor) -> Tensor:
    r"""Orthonormal basis of the tangent space at a point.

    Coordinates of a tangent vector u are :math:`c_a = \langle u, B_a\rangle_x`, and
    :math:`u = \sum_a c_a B_a`. On flat space the basis is that of the entries; on
    symmetric matrices at the identity, the matrix units with
    :math:`(e_{ij} + e_{ji})/\sqrt 2`. The basis changes smoothly with x where the
    manifold has a frame (groups and SPD, except Bures-Wasserstein), elsewhere only
    almost everywhere.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Any manifold, of this package or of geoopt.
    x : Tensor, shape (..., *point)
        Points; batch dimensions lead.

    Returns
    -------
    Tensor, shape (..., d, *point)
        :math:`\langle B_a, B_b\rangle_x = \delta_{ab}`, d the dimension of the
        manifold. A constant for autograd.

    Raises
    ------
    TypeError, ValueError
        Not a manifold, or x not points of it.

    Notes
    -----
    Costs :math:`O(D^3)` a point for D entries, without a frame; with one, that of the
    frame.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere, SPD
    >>> tangent_basis(Sphere(), torch.tensor([1., 0., 0.]))
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    >>> tangent_basis(SPD(), torch.eye(4)).shape
    torch.Size([10, 4, 4])
    """
    check_manifold_argument(manifold)
    x = check_points(manifold, x, "x").detach()
    ndim = manifold.ndim
    batch, event = x.shape[: x.ndim - ndim], x.shape[x.ndim - ndim :]
    if batch.numel() == 0:
        d = len(tangent_basis(manifold, _some_point(manifold, event, x)))
        return x.new_empty((*batch, d, *event))
    units = torch.eye(event.numel(), dtype=x.dtype, device=x.device)
    units = units.reshape(-1, *event)
    if hasattr(manifold, "frame_retr"):
        return _framed_basis(manifold, x, units)
    base = x.unsqueeze(x.ndim - ndim).expand(*batch, len(units), *event)
    rows = manifold.proju(base, units.expand_as(base))
    basis = _span(rows.reshape(*batch, len(units), -1))
    basis = basis.reshape(*batch, basis.shape[-2], *event)
    # twice, as rounding of the first pass grows with the condition of the metric
    for _ in range(2):
        basis = _orthonormalize(manifold, x, basis)
    return basis


def _some_point(manifold, event, like: Tensor) -> Tensor:
    point = manifold.origin(*event, dtype=like.dtype, device=like.device)
    return point.as_subclass(Tensor)


def _framed_basis(manifold, x: Tensor, units: Tensor) -> Tensor:
    """Basis of the coordinates, which is that of the origin, in the frame at x."""
    ndim = manifold.ndim
    origin = _some_point(manifold, units.shape[1:], x)
    frame = manifold.frame(origin)
    tangent = manifold.proju(origin, manifold.from_frame(frame, units))
    rows = manifold.to_frame(frame, tangent)
    coordinates = _span(rows.reshape(len(units), -1)).reshape(-1, *units.shape[1:])
    frame = manifold.frame(x)
    return manifold.from_frame(frame.unsqueeze(frame.ndim - ndim), coordinates)


def _span(rows: Tensor) -> Tensor:
    """Orthonormal rows (..., d, D) that span the rows of projections (..., D, D).

    Gram-Schmidt on the longest rows of the orthogonal projection, so that what is
    spanned by few unit vectors keeps them.
    """
    s, vectors = torch.linalg.eigh(rows.mT @ rows)
    # singular values of a projection are zero, or one and more
    kept = s > 0.5
    d = int(kept.sum(-1).max())
    vectors = vectors[..., vectors.shape[-1] - d :]
    rest = vectors @ vectors.mT
    # what is nearly zero is rounding, and would hide that unit vectors do
    tiny = rest.shape[-1] * torch.finfo(rest.dtype).eps
    rest = torch.where(rest.abs() < tiny, 0.0, rest)
    found: list[Tensor] = []
    for _ in range(d):
        size = rest.square().sum(-1)
        # among rows that are equally long the first, whatever the rounding
        longest = size >= size.amax(-1, keepdim=True) * (1 - 1e-5)
        index = longest.to(torch.int8).argmax(-1)[..., None, None]
        v = rest.gather(-2, index.expand(*rest.shape[:-2], 1, rest.shape[-1]))
        for w in found:
            v = v - (v * w).sum(-1, keepdim=True) * w
        v = v / v.norm(dim=-1, keepdim=True)
        found.append(v)
        rest = rest - (rest @ v.mT) @ v
    return torch.cat(found, -2) if found else rest[..., :0, :]


def _orthonormalize(manifold, x: Tensor, basis: Tensor) -> Tensor:
    """Gram-Schmidt in the metric at x: the inverse Cholesky factor of the Gram."""
    axis = x.ndim - manifold.ndim
    base = x.unsqueeze(axis).unsqueeze(axis)
    a, b = torch.broadcast_tensors(basis.unsqueeze(axis + 1), basis.unsqueeze(axis))
    inner = manifold.inner(base.expand_as(a), a, b, keepdim=True)
    d = basis.shape[axis]
    gram = inner.reshape(*x.shape[:axis], d, d)
    factor = torch.linalg.cholesky((gram + gram.mT) / 2)
    flat = basis.reshape(*x.shape[:axis], d, x.shape[axis:].numel())
    flat = torch.linalg.solve_triangular(factor, flat, upper=False)
    return flat.reshape(basis.shape)


def coordinates(manifold: Manifold, x: Tensor, basis: Tensor, u: Tensor) -> Tensor:
    r"""Coordinates :math:`c_a = \langle u, B_a\rangle_x` of tangent vectors at x.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold.
    x : Tensor, shape (*point,)
        One point.
    basis : Tensor, shape (d, *point)
        :func:`tangent_basis` there.
    u : Tensor, shape (..., *point)
        Tangent vectors.

    Returns
    -------
    Tensor, shape (..., d)

    Examples
    --------
    >>> from manifoldkit.manifolds import SPD
    >>> x = torch.eye(2)
    >>> coordinates(SPD(), x, tangent_basis(SPD(), x), torch.ones(2, 2))
    tensor([1.0000, 1.0000, 1.4142])
    """
    # the functional <B_a, .>_x as a vector of entries: one product for all of u
    d, event = len(basis), x.shape
    units = torch.eye(event.numel(), dtype=x.dtype, device=x.device)
    units = units.reshape(1, -1, *event)
    a, b = torch.broadcast_tensors(basis.unsqueeze(1), units)
    inner = manifold.inner(x.expand_as(a), a, b, keepdim=True).reshape(d, -1)
    return u.reshape(*u.shape[: u.ndim - len(event)], -1) @ inner.mT
