"""Search for neighbors in point clouds: nearest ones, or those within a radius.

Clouds are dense, ``(B, N, 3)`` or ``(N, 3)``, with an optional ``mask`` of the points
that exist, or ragged, ``(N, 3)`` with a ``batch`` vector of sorted cloud numbers. On
the CPU searches go through SciPy's KD-tree, elsewhere and in ``torch.export`` through
plain torch. Distances
are taken between float64 coordinates, never as ``|a|^2 - 2 ab + |b|^2``, and equal
distances are ordered by index, so results do not depend on the path taken.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit._checks import check_count, check_positive
from manifoldkit.equivariant._clouds import binary_scale, has_memory, is_exporting
from manifoldkit.equivariant.neighbors.ragged import as_clouds

_CHUNK = 1 << 22  # entries of one block of distances


def knn(
    query: Tensor,
    ref: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    query_batch: Tensor | None = None,
    ref_batch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest reference points of each query point.

    Parameters
    ----------
    query : Tensor, shape (B, Q, 3) or (Q, 3)
        Points to search from.
    ref : Tensor, shape (B, N, 3) or (N, 3)
        Points to search among.
    k : int
        Number of neighbors.
    mask : Tensor of bool, shape (B, N), optional
        Reference points that exist.
    query_batch, ref_batch : Tensor of int, optional
        Clouds of the points, sorted, for ragged clouds.

    Returns
    -------
    dist : Tensor, shape (B, Q, k) or (Q, k)
        Euclidean distances, ascending, in the dtype of ``query``; no gradient.
    index : Tensor of int64, same shape
        Equal distances are ordered by index.

    Raises
    ------
    ValueError
        Wrong shapes, values that are not finite, fewer than ``k`` reference points.

    Examples
    --------
    >>> ref = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    >>> knn(torch.tensor([[0.9, 0.0, 0.0]]), ref, 2)
    (tensor([[0.1000, 0.9000]]), tensor([[1, 0]]))
    """
    if (query_batch is None) != (ref_batch is None):
        raise ValueError("query_batch, ref_batch: expected both or none")
    check_count(k, "k")
    exporting = is_exporting()
    refs, mask, ref_offsets = as_clouds(ref, mask, ref_batch, "ref")
    places, shown = _queries(query, query_batch, refs)
    available = refs.shape[1]
    if mask is not None and mask.shape[0]:
        available = int(mask.sum(1).min())
    if k > available:
        raise ValueError(
            f"k: expected at most {available}, the size of the smallest reference "
            f"cloud, found {k}"
        )
    places, refs = places.detach().double(), refs.detach().double()
    scale = torch.maximum(binary_scale(places), binary_scale(refs))
    tree = refs.device.type == "cpu" and not exporting
    tree = tree and (is_compiling() or (has_memory(places) and has_memory(refs)))
    search = knn_tree if tree else knn_dense
    dist, index = search(places / scale, refs / scale, k, mask)
    dist = (dist * scale).to(query.dtype)
    if ref_offsets is not None:
        return dist[shown], (index + ref_offsets[:, None, None])[shown]
    return (dist, index) if query.ndim == 3 else (dist[0], index[0])


def _queries(
    query: Tensor, batch: Tensor | None, refs: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Clouds of queries, as many as those of references, and their mask."""
    n_clouds = None if batch is None else len(refs)
    places, shown, _ = as_clouds(query, None, batch, "query", n_clouds)
    if places.shape[0] != refs.shape[0]:
        raise ValueError(
            "query: expected as many clouds as ref, "
            f"found {len(places)} and {len(refs)}"
        )
    return places, shown


@torch.compiler.disable  # the tree is not torch's, and its loop would be unrolled
def knn_tree(
    query: Tensor, ref: Tensor, k: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Nearest neighbors by SciPy's tree, cloud by cloud."""
    dist = np.empty((*query.shape[:2], k))
    index = np.empty((*query.shape[:2], k), dtype=np.int64)
    queries, refs = query.double().numpy(), ref.double().numpy()
    for b in range(len(refs)):
        keep = None if mask is None else np.flatnonzero(mask[b].numpy())
        points = refs[b] if keep is None else refs[b][keep]
        d, i = _query(points, queries[b], k)
        dist[b], index[b] = d, i if keep is None else keep[i]
    return torch.from_numpy(dist), torch.from_numpy(index)


def _query(
    points: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tree search with equal distances ordered by index, also at the last place."""
    more = min(k + 1, len(points))
    d, i = cKDTree(points).query(queries, k=list(range(1, more + 1)))
    tied = (d[:, 1:] == d[:, :-1]).any(1)
    for row in np.flatnonzero(tied):
        exact = np.sqrt(np.square(points - queries[row]).sum(1))
        reach = np.flatnonzero(exact <= d[row, k - 1] * (1 + 1e-15))
        best = reach[np.argsort(exact[reach], kind="stable")][:k]
        d[row, :k], i[row, :k] = exact[best], best
    return d[:, :k], i[:, :k]


def knn_dense(
    query: Tensor, ref: Tensor, k: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Nearest neighbors by all distances, in blocks."""
    parts = []
    for squared in _squared_distances(query, ref, mask):
        near, order = squared.sort(dim=-1, stable=True)
        parts.append((near[..., :k].sqrt(), order[..., :k]))
    return torch.cat([d for d, _ in parts], 1), torch.cat([i for _, i in parts], 1)


def _squared_distances(
    query: Tensor, ref: Tensor, mask: Tensor | None
) -> Iterator[Tensor]:
    """Squared distances (B, q, N) of blocks of queries, infinite where masked."""
    query, ref = query.double(), ref.double()
    step = query.shape[1]
    if not is_exporting():  # sizes are symbols there
        step = max(1, _CHUNK // max(1, ref.shape[0] * ref.shape[1]))
    for part in query.split(step, 1):
        squared = part.new_zeros(*part.shape[:2], ref.shape[1])
        for axis in range(ref.shape[-1]):
            squared += (part[..., axis, None] - ref[:, None, :, axis]).square()
        yield (
            squared if mask is None else squared.masked_fill(~mask[:, None], torch.inf)
        )


def ball_query(
    query: Tensor, ref: Tensor, radius: float, k: int, *, mask: Tensor | None = None
) -> Tensor:
    """Find up to ``k`` reference points within a radius, by PointNet++'s rule.

    The first ``k`` points in index order nearer than ``radius``; places that stay free
    repeat the first hit, and without a hit the nearest point.

    Parameters
    ----------
    query, ref : Tensor, shape (B, Q, 3) and (B, N, 3), or (Q, 3) and (N, 3)
        Points.
    radius : float
        Positive.
    k : int
        Number of places.
    mask : Tensor of bool, shape (B, N), optional
        Reference points that exist.

    Returns
    -------
    Tensor of int64, shape (B, Q, k) or (Q, k)

    Raises
    ------
    ValueError
        Wrong shapes, values that are not finite, a radius that is not positive, a
        cloud without reference points.

    References
    ----------
    .. [1] C. R. Qi et al., "PointNet++: deep hierarchical feature learning on point
       sets in a metric space", NeurIPS 2017.

    Examples
    --------
    >>> ref = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    >>> ball_query(torch.zeros(1, 3), ref, 1.5, 3)
    tensor([[0, 1, 0]])
    """
    check_count(k, "k")
    check_positive(radius, "radius")
    refs, mask, _ = as_clouds(ref, mask, None, "ref")
    if mask is not None and not bool(mask.any(1).all()):
        raise ValueError("mask: expected reference points in every cloud")
    places, _ = _queries(query, None, refs)
    places, refs = places.detach().double(), refs.detach().double()
    scale = torch.maximum(binary_scale(places), binary_scale(refs))
    reach = radius / scale
    parts = []
    for squared in _squared_distances(places / scale, refs / scale, mask):
        inside = squared < reach * reach
        n = inside.shape[-1]
        place = torch.arange(n, device=inside.device)
        index = torch.where(inside, place, n).sort(-1).values[..., :k]
        if index.shape[-1] < k:
            index = torch.nn.functional.pad(index, (0, k - index.shape[-1]), value=n)
        nearest = squared.argmin(-1, keepdim=True)
        first = torch.where(index[..., :1] < n, index[..., :1], nearest)
        parts.append(torch.where(index < n, index, first))
    index = torch.cat(parts, 1)
    return index if query.ndim == 3 else index[0]
