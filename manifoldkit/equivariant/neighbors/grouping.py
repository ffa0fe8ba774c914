"""Gather the features of neighbors, and carry features to other points."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit.equivariant._clouds import binary_scale, check_clouds
from manifoldkit.equivariant.neighbors.search import knn
from manifoldkit.linalg.checks import check_finite, check_floating, check_tensor
from manifoldkit.linalg.transforms import is_vmapped

_INTERPOLATION_EPS = 1e-8


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
    readable = index.device.type == "cpu" and not is_compiling() and not is_vmapped()
    if readable and index.numel():
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
    offset = torch.arange(x.shape[0], device=x.device) * x.shape[1]
    flat = index + offset.view(-1, *[1] * (index.ndim - 1))
    return x.flatten(0, 1).index_select(0, flat.flatten())


def three_interpolate(
    query: Tensor, ref: Tensor, features: Tensor, *, k: int = 3
) -> Tensor:
    r"""Interpolate features by inverse squared distances to the nearest points.

    .. math:: f(p) = \frac{\sum_j w_j f_j}{\sum_j w_j}, \qquad
       w_j = \frac{1}{\|p - x_j\|^2 + 10^{-8} \min(1, r)^2}

    over the three nearest, or all if there are fewer; r is the radius of the reference
    points, so that the unit does not matter.

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
    if not is_compiling():
        check_finite(features, "features", event_ndim=0)
    if features.shape[:-1] != ref.shape[:-1]:
        raise ValueError(
            "features: expected one row a reference point, found shape "
            f"{tuple(features.shape)} beside {tuple(ref.shape)}"
        )
    _, index = knn(query, ref, min(k, ref.shape[-2]))
    scale, bound = _sizes(ref)
    scale, bound = scale.to(query.dtype), bound.to(query.dtype)
    offsets = query[..., None, :] / scale - group(ref / scale[..., 0], index)
    weight = 1 / (offsets.square().sum(-1) + _INTERPOLATION_EPS * bound.square())
    weight = weight / weight.sum(-1, keepdim=True)
    return (weight[..., None] * group(features, index)).sum(-2)


def _sizes(ref: Tensor) -> tuple[Tensor, Tensor]:
    """A power of two near the size of clouds, and 1 or their radius divided by it."""
    points = ref.detach().double()
    points = points if points.ndim == 3 else points[None]
    around = points - points.mean(-2, keepdim=True)
    scale = binary_scale(around)
    radius = (around / scale).square().sum(-1).amax(-1)[:, None, None].sqrt()
    bound = torch.minimum(1 / scale, radius)
    bound = torch.where(radius > 0, bound, 1.0)
    if ref.ndim == 2:
        return scale[0, ..., None], bound[0]
    return scale[..., None], bound
