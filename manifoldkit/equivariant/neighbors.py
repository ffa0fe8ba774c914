"""Neighborhoods in point clouds: sampling, search, grouping and interpolation.

Clouds are dense, ``(B, N, 3)`` or ``(N, 3)``, with an optional ``mask`` of the points
that exist, or ragged, ``(N, 3)`` with a ``batch`` vector of sorted cloud numbers. On
the CPU searches go through SciPy's KD-tree, elsewhere through plain torch. Distances
are taken between float64 coordinates, never as ``|a|^2 - 2 ab + |b|^2``, and equal
distances are ordered by index, so results do not depend on the path taken.
"""

import importlib.util

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit.equivariant._clouds import (
    as_clouds,
    check_clouds,
    pad_clouds,
)
from manifoldkit.equivariant.axes import estimate_axes
from manifoldkit.linalg.checks import (
    check_choice,
    check_count,
    check_floating,
    check_tensor,
)

__all__ = [
    "ball_query",
    "estimate_axes",
    "farthest_point_sample",
    "group",
    "knn",
    "pad_clouds",
    "three_interpolate",
]

_CHUNK = 1 << 22  # entries of one block of distances
_INTERPOLATION_EPS = 1e-8


def farthest_point_sample(
    x: Tensor,
    m: int,
    start: str | int = "farthest",
    *,
    mask: Tensor | None = None,
    batch: Tensor | None = None,
    pad: str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Choose ``m`` points, each the farthest from those before it.

    .. math:: i_{t+1} = \arg\max_i \min_{s \le t} \|x_i - x_{i_s}\|,

    ties to the lowest index. No index comes twice, so duplicates are taken only when
    no distinct point is left. The optional package ``torch-quickfps`` (extra
    ``points``) makes it about ten times faster on the CPU, with the same result.

    Parameters
    ----------
    x : Tensor, shape (B, N, 3), (N, 3)
        Points.
    m : int
        How many to choose from each cloud.
    start : {"farthest", "random"} or int
        First point: the one farthest from the centroid, which does not depend on pose
        or order, a random one, or the one of this index in its cloud.
    mask : Tensor of bool, shape (B, N), optional
        Points that exist.
    batch : Tensor of int, shape (N,), optional
        Cloud of each point, sorted, for ragged clouds.
    pad : {None, "repeat"}
        Where a cloud has fewer than ``m`` points: raise, or start over again (a cloud
        without any point always raises).
    generator : torch.Generator, optional
        For ``start="random"``.

    Returns
    -------
    Tensor of int64, shape (B, m), (m,), or (n_clouds, m) for ragged clouds
        Indices; into all points for ragged clouds.

    Raises
    ------
    ValueError
        Wrong shapes, points that are not finite, more points asked for than exist, or
        a first point that a cloud does not have.

    References
    ----------
    .. [1] Y. Eldar et al., "The farthest point strategy for progressive image
       sampling", IEEE TIP 6, 1997.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [4, 0, 0], [3.9, 0, 0]])
    >>> farthest_point_sample(x, 3)
    tensor([0, 2, 1])
    """
    check_choice(pad, (None, "repeat"), "pad")
    clouds, mask, offsets = as_clouds(x, mask, batch)
    check_count(m, "m")
    sizes = mask.sum(1) if mask is not None else None
    smallest = clouds.shape[1]
    if sizes is not None and len(sizes):
        smallest = int(sizes.min())
    if smallest == 0:
        raise ValueError("x: expected points in every cloud, found one without any")
    if m > smallest and pad is None:
        raise ValueError(
            f"m: expected at most {smallest} points, the size of the smallest cloud, "
            f"found {m}; pad='repeat' repeats points"
        )
    points = clouds.detach().double()
    first = _first_points(points, mask, start, generator)
    count = min(m, clouds.shape[1])
    index = _sample(points, mask, first, count)
    if m > smallest:
        size = torch.full((len(index),), smallest) if sizes is None else sizes
        turn = (
            torch.arange(m, device=x.device)
            % size.to(x.device).clamp(1, count)[:, None]
        )
        index = index.gather(1, turn)
    if offsets is not None:
        return index + offsets[:, None]
    return index if x.ndim == 3 else index[0]


def _first_points(points, mask, start, generator) -> Tensor:
    n_clouds, n = points.shape[:2]
    if isinstance(start, str):
        if start == "farthest":
            weight = points.new_ones(n_clouds, n) if mask is None else mask.to(points)
            weight = weight / weight.sum(1, keepdim=True).clamp_min(1)
            centroid = torch.einsum("bn,bnd->bd", weight, points)
            far = (points - centroid[:, None]).square().sum(-1)
            far = far.masked_fill(~mask, -1.0) if mask is not None else far
            # equal up to rounding counts as equal: the lowest index
            top = far.amax(1, keepdim=True) * (1 - 1e-12)
            return (far >= top).to(torch.uint8).argmax(1)
        if start == "random":
            chance = torch.rand(n_clouds, n, generator=generator, device=points.device)
            return (chance if mask is None else chance * mask).argmax(1)
        raise ValueError(
            f"start: expected 'farthest', 'random' or an index, found {start!r}"
        )
    whole = isinstance(start, int | np.integer) and not isinstance(start, bool)
    if not whole or not 0 <= start < n:
        raise ValueError(f"start: expected an index from 0 to {n - 1}, found {start!r}")
    if mask is not None and not bool(mask[:, start].all()):
        raise ValueError(
            f"start: expected a point that every cloud has, found {start}, which is "
            "not there in all of them"
        )
    return torch.full((n_clouds,), start, dtype=torch.int64, device=points.device)


def _sample(points, mask, first, m) -> Tensor:
    enough = mask is None or int(mask.sum(1).min()) >= m
    fast = points.device.type == "cpu" and importlib.util.find_spec("torch_quickfps")
    if enough and fast:
        index = _sample_fast(points, mask, first, m)
        ordered = index.sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(again.any()):  # duplicates of points: only the loop keeps them apart
            rest = None if mask is None else mask[again]
            index[again] = _sample_loop(points[again], rest, first[again], m)
        return index
    return _sample_loop(points, mask, first, m)


def _sample_fast(points, mask, first, m) -> Tensor:
    """A copy of each cloud's first point goes in front, which sets where to start."""
    import torch_quickfps

    row = torch.arange(len(points))
    joined = torch.cat([points[row, first][:, None], points], 1)
    if mask is not None:
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
    index = torch_quickfps.sample_idx(joined, m, start_idx=0, mask=mask) - 1
    index[:, 0] = first
    return index


def _sample_loop(points, mask, first, m) -> Tensor:
    planes = points.movedim(-1, 0).contiguous()  # one axis a plane: no strided sums
    nearest = points.new_full(points.shape[:2], float("inf"))
    if mask is not None:
        nearest = nearest.masked_fill(~mask, -2.0)
    chosen = [first[:, None]]
    for _ in range(m - 1):
        last = chosen[-1]
        distance = torch.zeros_like(nearest)
        for plane in planes:
            offset = plane - plane.gather(1, last)
            distance.addcmul_(offset, offset)
        nearest = torch.minimum(nearest, distance).scatter_(1, last, -1.0)
        chosen.append(nearest.argmax(1, keepdim=True))
    return torch.cat(chosen, 1)


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
    refs, mask, ref_offsets = as_clouds(ref, mask, ref_batch, "ref")
    places, shown, _ = as_clouds(query, None, query_batch, "query", len(refs))
    if len(places) != len(refs):
        raise ValueError(
            "query: expected as many clouds as ref, "
            f"found {len(places)} and {len(refs)}"
        )
    available = refs.shape[1] if mask is None else int(mask.sum(1).min())
    if k > available:
        raise ValueError(
            f"k: expected at most {available}, the size of the smallest reference "
            f"cloud, found {k}"
        )
    if refs.device.type == "cpu":
        dist, index = _knn_tree(places.detach(), refs.detach(), k, mask)
    else:
        dist, index = _knn_dense(places.detach(), refs.detach(), k, mask)
    dist = dist.to(query.dtype)
    if ref_offsets is not None:
        return dist[shown], (index + ref_offsets[:, None, None])[shown]
    return (dist, index) if query.ndim == 3 else (dist[0], index[0])


def _knn_tree(query, ref, k, mask) -> tuple[Tensor, Tensor]:
    dist = np.empty((*query.shape[:2], k))
    index = np.empty((*query.shape[:2], k), dtype=np.int64)
    queries, refs = query.double().numpy(), ref.double().numpy()
    for b in range(len(refs)):
        keep = None if mask is None else np.flatnonzero(mask[b].numpy())
        points = refs[b] if keep is None else refs[b][keep]
        d, i = _query(points, queries[b], k)
        dist[b], index[b] = d, i if keep is None else keep[i]
    return torch.from_numpy(dist), torch.from_numpy(index)


def _query(points, queries, k) -> tuple[np.ndarray, np.ndarray]:
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


def _knn_dense(query, ref, k, mask) -> tuple[Tensor, Tensor]:
    query, ref = query.double(), ref.double()
    step = max(1, _CHUNK // max(1, ref.shape[0] * ref.shape[1]))
    parts = []
    for part in query.split(step, 1):
        squared = _squared_distances(part, ref, mask)
        near, order = squared.sort(dim=-1, stable=True)
        parts.append((near[..., :k].sqrt(), order[..., :k]))
    return torch.cat([d for d, _ in parts], 1), torch.cat([i for _, i in parts], 1)


def _squared_distances(query, ref, mask) -> Tensor:
    squared = query.new_zeros(*query.shape[:2], ref.shape[1])
    for axis in range(ref.shape[-1]):
        squared += (query[..., axis, None] - ref[:, None, :, axis]).square()
    return squared if mask is None else squared.masked_fill(~mask[:, None], torch.inf)


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
    if not isinstance(radius, int | float | np.number) or not radius > 0:
        raise ValueError(f"radius: expected a positive number, found {radius!r}")
    refs, mask, _ = as_clouds(ref, mask, None, "ref")
    if mask is not None and not bool(mask.any(1).all()):
        raise ValueError("mask: expected reference points in every cloud")
    places, _, _ = as_clouds(query, None, None, "query")
    if len(places) != len(refs):
        raise ValueError(
            "query: expected as many clouds as ref, "
            f"found {len(places)} and {len(refs)}"
        )
    step = max(1, _CHUNK // max(1, refs.shape[0] * refs.shape[1]))
    parts = []
    for part in places.detach().double().split(step, 1):
        squared = _squared_distances(part, refs.detach().double(), mask)
        inside = squared < radius * radius
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


def group(x: Tensor, index: Tensor) -> Tensor:
    """Gather points or features by neighbor lists.

    Parameters
    ----------
    x : Tensor, shape (B, N, C) or (N, C)
        Values; gradients flow to them.
    index : Tensor of int64, shape (B, S, K), (B, S), or without the B
        Which ones.

    Returns
    -------
    Tensor, shape ``(*index.shape, C)``

    Raises
    ------
    TypeError
        Indices that are not integers.
    ValueError
        Shapes that do not fit; on the CPU, numbers that name no row.

    Examples
    --------
    >>> group(torch.eye(3), torch.tensor([[0, 2]])).shape
    torch.Size([1, 2, 3])
    """
    return group_rows(x, index).view(*index.shape, x.shape[-1])


def group_rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather as :func:`group`, into one row an index: (index.numel(), C).

    The result is no view, so that adding to it in place costs nothing.
    """
    check_tensor(x, "x")
    check_tensor(index, "index")
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"index: expected int64, found {index.dtype}")
    rows = x.shape[-2] if x.ndim > 1 else 0
    # elsewhere than on the CPU reading a value waits for the device
    if index.device.type == "cpu" and index.numel() and not is_compiling():
        low, high = (int(v) for v in torch.aminmax(index))
        if low < 0 or high >= rows:
            raise ValueError(
                f"x, index: expected numbers below the {rows} rows of x, "
                f"found {low} to {high}"
            )
    if x.ndim == 2:
        return x.index_select(0, index.flatten())
    if x.ndim != 3 or index.ndim < 2 or index.shape[0] != x.shape[0]:
        raise ValueError(
            "x, index: expected shapes (B, N, C) and (B, ...), "
            f"found {tuple(x.shape)} and {tuple(index.shape)}"
        )
    offset = torch.arange(len(x), device=x.device) * x.shape[1]
    flat = index + offset.view(-1, *[1] * (index.ndim - 1))
    return x.flatten(0, 1).index_select(0, flat.flatten())


def three_interpolate(
    query: Tensor, ref: Tensor, features: Tensor, *, k: int = 3
) -> Tensor:
    r"""Interpolate features by inverse squared distances to the nearest points.

    .. math:: f(p) = \frac{\sum_j w_j f_j}{\sum_j w_j}, \qquad
       w_j = \frac{1}{\|p - x_j\|^2 + 10^{-8}}

    over the three nearest, or all if there are fewer.

    Parameters
    ----------
    query : Tensor, shape (B, Q, 3) or (Q, 3)
        Where to interpolate; gradients flow through the distances.
    ref : Tensor, shape (B, N, 3) or (N, 3)
        Where the features are.
    features : Tensor, shape (B, N, C) or (N, C)
        Features; gradients flow to them.
    k : int, default=3
        How many points to use.

    Returns
    -------
    Tensor, shape (B, Q, C) or (Q, C)

    Raises
    ------
    TypeError, ValueError
        Wrong shapes, values that are not finite, ``k`` below 1.

    References
    ----------
    .. [1] C. R. Qi et al., "PointNet++: deep hierarchical feature learning on point
       sets in a metric space", NeurIPS 2017.

    Examples
    --------
    >>> ref = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    >>> three_interpolate(torch.tensor([[0.5, 0, 0]]), ref, torch.tensor([[0.0], [4]]))
    tensor([[2.]])
    """
    check_clouds(ref, "ref")
    check_floating(features, "features")
    if features.shape[:-1] != ref.shape[:-1]:
        raise ValueError(
            "features: expected one row a reference point, found shape "
            f"{tuple(features.shape)} beside {tuple(ref.shape)}"
        )
    _, index = knn(query, ref, min(k, ref.shape[-2]))
    squared = (query[..., None, :] - group(ref, index)).square().sum(-1)
    weight = 1 / (squared + _INTERPOLATION_EPS)
    weight = weight / weight.sum(-1, keepdim=True)
    return (weight[..., None] * group(features, index)).sum(-2)
