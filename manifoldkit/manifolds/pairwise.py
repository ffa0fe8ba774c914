"""Geodesic distances of all pairs."""

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.linalg.checks import check_broadcast
from manifoldkit.manifolds.base import Manifold as OurManifold
from manifoldkit.manifolds.euclidean import Euclidean
from manifoldkit.manifolds.points import check_manifold_argument, check_points

#: Numbers of the pairs that are worked on at a time.
_PART = 1 << 20


def pairwise_distance(
    manifold: Manifold,
    x: Tensor,
    y: Tensor | None = None,
    *,
    chunk: int | None = None,
) -> Tensor:
    r"""Geodesic distance of every point of x to every point of y.

    What scikit-learn calls a precomputed metric: multidimensional scaling, neighbors,
    DBSCAN and spectral clustering become Riemannian by it.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Manifold with ``dist``.
    x : Tensor, shape (..., n, *point)
        Points; batch dimensions lead.
    y : Tensor, shape (..., m, *point), optional
        Other points; default x itself, of which every pair is computed once, and the
        result is symmetric with zero diagonal.
    chunk : int, optional
        Pairs to work on at a time, which bounds the memory; default about a million
        numbers.

    Returns
    -------
    Tensor, shape (..., n, m)
        Distances, with gradient.

    Raises
    ------
    TypeError, ValueError
        Points that do not fit, are not finite, or not on the manifold.
    NotImplementedError
        The manifold has no distance.

    Notes
    -----
    A pair costs well below a microsecond on spheres and a few for small SPD matrices;
    a logarithm of Stiefel takes about 7 ms, 500 points then a quarter of an hour.

    Examples
    --------
    >>> from manifoldkit.manifolds import PositiveReals
    >>> pairwise_distance(PositiveReals(), torch.tensor([1., 1., torch.e]))
    tensor([[0., 0., 1.],
            [0., 0., 1.],
            [1., 1., 0.]])
    """
    check_manifold_argument(manifold)
    if chunk is not None:
        check_count(chunk, "chunk")
    x = check_points(manifold, x, "x", "n")
    ndim = manifold.ndim
    if y is None:
        return distances(manifold, x, None, chunk)
    y = check_points(manifold, y, "y", "m")
    if x.shape[x.ndim - ndim :] != y.shape[y.ndim - ndim :]:
        raise ValueError(
            f"y: expected points like those of x, of shape "
            f"{tuple(x.shape[x.ndim - ndim :])}, found shape {tuple(y.shape)}"
        )
    check_broadcast(x=(x, ndim + 1), y=(y, ndim + 1))
    return distances(manifold, x, y, chunk)


def distances(
    manifold: Manifold, x: Tensor, y: Tensor | None, chunk: int | None = None
) -> Tensor:
    """:func:`pairwise_distance` without its checks."""
    axis = -1 - manifold.ndim
    other = x if y is None else y
    n, m = x.shape[axis], other.shape[axis]
    event = x.shape[x.ndim - manifold.ndim :]
    batch = torch.broadcast_shapes(x.shape[:axis], other.shape[:axis])
    if chunk is None:
        chunk = max(1, _PART // max(1, event.numel()))
    size = max(1, chunk // max(1, m * batch.numel()))
    if y is None:  # short blocks, of which the part above the diagonal is computed
        size = min(size, max(16, n // 8))
    rows = []
    for start in range(0, n, size):
        part = x.narrow(axis, start, min(size, n - start))
        first = start if y is None else 0
        block = _block(manifold, part, other.narrow(axis, first, m - first), batch)
        rows.append(torch.nn.functional.pad(block, (first, 0)))
    if not rows:
        return x.new_zeros((*batch, n, m))
    out = torch.cat(rows, -2)
    if y is None:
        upper = out.triu(1)
        out = upper + upper.mT
    return out


def _block(manifold, x: Tensor, y: Tensor, batch: torch.Size) -> Tensor:
    ndim = manifold.ndim
    n, m = x.shape[-1 - ndim], y.shape[-1 - ndim]
    constant = not (x.requires_grad or y.requires_grad)
    if isinstance(manifold, Euclidean) and ndim and constant:
        x, y = x.flatten(x.ndim - ndim), y.flatten(y.ndim - ndim)
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    x, y = x.unsqueeze(-1 - ndim), y.unsqueeze(-2 - ndim)
    if not isinstance(manifold, OurManifold):  # whose maps may not broadcast
        x, y = torch.broadcast_tensors(x, y)
    # keepdim: without it geoopt's hyperbolic models broadcast the batch with itself
    distance = manifold.dist(x, y, keepdim=True)
    return distance.reshape(*batch, n, m)
