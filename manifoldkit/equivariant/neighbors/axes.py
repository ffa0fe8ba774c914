"""Local axes of point clouds: normals by weighted covariances, with a fixed sign."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count
from manifoldkit.equivariant._clouds import binary_scale, check_clouds
from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.neighbors.search import knn

_GAP_EPS = 1e-30
_SIGN_TOL = 1e-5  # of the typical offset: below it a moment has no sign


def estimate_axes(
    x: Tensor, k: int = 32, *, weighted: bool = True, orient: str = "outward"
) -> tuple[Tensor, Tensor]:
    r"""Estimate the normal axis at each point from its neighbors.

    The axis is the eigenvector of the smallest eigenvalue of

    .. math:: M = \sum_i w_i g_i g_i^\top, \qquad
       w_i = \frac{d_{max} - d_i}{\sum_j (d_{max} - d_j)},

    with the offsets :math:`g_i` of the ``k`` nearest points (the point included) from
    the point itself, at distances :math:`d_i`.

    An eigenvector has no sign. With ``orient="outward"`` it is chosen such that
    :math:`\sum_i w_i\, g_i \cdot a \le 0` (outward where the surface is convex); where
    that moment vanishes (flat places) such that the axis points away from the
    centroid. Both rules turn with the cloud. Where both vanish no rule can, and the
    largest component becomes positive.

    Parameters
    ----------
    x : Tensor, shape (B, N, 3) or (N, 3)
        Points.
    k : int, default=32
        Neighbors, at most the number of points.
    weighted : bool, default=True
        Weights as above, else equal ones.
    orient : {"outward", "none"}
        Choose the sign, or leave it to the eigensolver.

    Returns
    -------
    axes : Tensor, shape (B, N, 3) or (N, 3)
        Unit vectors, whatever the unit of the points; (0, 0, 1) where all neighbors
        coincide. No gradient.
    gap : Tensor, shape (B, N) or (N,)
        :math:`(\lambda_2 - \lambda_1) / \lambda_3`: near 0 the axis is not determined
        (a line, or points spread evenly in all directions).

    Raises
    ------
    ValueError
        Wrong shapes, values that are not finite, unknown ``orient``.

    References
    ----------
    .. [1] F. Tombari, S. Salti, L. Di Stefano, "Unique signatures of histograms for
       local surface description", ECCV 2010.

    Examples
    --------
    >>> plane = torch.rand(50, 3) * torch.tensor([1.0, 1.0, 0.0])
    >>> axes, gap = estimate_axes(plane, 8)
    >>> axes[0].abs(), bool(gap[0] > 0.1)
    (tensor([0., 0., 1.]), True)
    """
    check_choice(orient, ("outward", "none"), "orient")
    check_count(k, "k")
    clouds = check_clouds(x).detach().double()
    clouds = clouds / binary_scale(clouds)
    dist, index = knn(clouds, clouds, min(k, clouds.shape[1]))
    offsets = group(clouds, index) - clouds[:, :, None]
    weights = distance_weights(dist) if weighted else torch.ones_like(dist)
    axes, gap = smallest_axis(offsets, weights)
    if orient == "outward":
        around = clouds - clouds.mean(1, keepdim=True)
        axes = orient_outward(axes, offsets, weights, around)
    axes, gap = axes.to(x.dtype), gap.to(x.dtype)
    return (axes, gap) if x.ndim == 3 else (axes[0], gap[0])


def distance_weights(dist: Tensor) -> Tensor:
    """Weights that fall linearly to 0 at the farthest neighbor; equal if all are."""
    weights = dist.amax(-1, keepdim=True) - dist
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(1e-300), 1.0)


def smallest_axis(offsets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvector of the smallest eigenvalue of the weighted covariance, and gap."""
    matrix = (weights[..., None] * offsets).mT @ offsets
    scale = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    matrix = matrix / scale.clamp_min(_GAP_EPS)[..., None, None]
    values, vectors = torch.linalg.eigh(matrix)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=offsets.dtype, device=offsets.device)
    axes = torch.where((scale > _GAP_EPS)[..., None], vectors[..., 0], up)
    gap = (values[..., 1] - values[..., 0]) / (values[..., 2] + _GAP_EPS)
    return axes, gap


def orient_outward(
    axes: Tensor, offsets: Tensor, weights: Tensor, around: Tensor
) -> Tensor:
    """Choose signs by the first moment, else by the direction from the centroid."""
    along = torch.einsum("...ki,...i->...k", offsets, axes)
    moment = -(weights * along).sum(-1)
    typical = (weights * offsets.norm(dim=-1)).sum(-1)
    radial = (around * axes).sum(-1)
    largest = axes.gather(-1, axes.abs().argmax(-1, keepdim=True))[..., 0]
    sign = torch.where(radial.abs() > _SIGN_TOL * around.norm(dim=-1), radial, largest)
    sign = torch.where(moment.abs() > _SIGN_TOL * typical, moment, sign)
    return torch.where((sign < 0)[..., None], -axes, axes)
