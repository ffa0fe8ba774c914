"""Local surfaces of a cloud, given by the numbers of its points.

What :mod:`manifoldkit.equivariant.risurconv.surfaces` does with coordinates, for
centers and neighbors that are rows of one cloud, in two steps: order, then
features.
"""

from torch import Tensor

from manifoldkit.equivariant._clouds import binary_scale, check_clouds
from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.risurconv import surfaces as local_surfaces


def order_neighbors(
    xyz: Tensor, normals: Tensor, center_index: Tensor, neighbor_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Order the neighbors of every center clockwise around its normal.

    Parameters
    ----------
    xyz, normals : Tensor, shape (B, N, 3)
        Points and unit normals.
    center_index : Tensor of int64, shape (B, S)
        Which points are centers.
    neighbor_index : Tensor of int64, shape (B, S, K)
        Neighbors of each center.

    Returns
    -------
    index : Tensor of int64, shape (B, S, K)
        The neighbors by ascending angle.
    angle : Tensor, shape (B, S, K)
        Their angles in [0, 2 pi), see
        :func:`~manifoldkit.equivariant.surface_order`; no gradient.

    Raises
    ------
    TypeError, ValueError
        Points that are not finite, shapes that do not fit, numbers of no point.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> import torch
    >>> xyz = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, -1, 0]]])
    >>> up = torch.tensor([0.0, 0.0, 1.0]).expand_as(xyz)
    >>> center, neighbors = torch.tensor([[0]]), torch.tensor([[[1, 2, 3]]])
    >>> order_neighbors(xyz, up, center, neighbors)[0]
    tensor([[[1, 3, 2]]])
    """
    _check(xyz, normals, center_index, neighbor_index)
    offsets = group(xyz, neighbor_index) - group(xyz, center_index)[:, :, None]
    offsets = offsets / binary_scale(xyz)[..., None].to(xyz.dtype)
    angle = local_surfaces.surface_angles(offsets, group(normals, center_index))
    angle, order = angle.sort(dim=-1, stable=True)
    return neighbor_index.gather(-1, order), angle


def surface_features(
    xyz: Tensor,
    normals: Tensor,
    center_index: Tensor,
    neighbor_index: Tensor,
    shift: int = 1,
) -> Tensor:
    """Describe neighborhoods by 14 invariants, neighbors in the order given.

    Parameters
    ----------
    xyz, normals : Tensor, shape (B, N, 3)
        Points and unit normals; gradients flow to both.
    center_index : Tensor of int64, shape (B, S)
        Which points are centers.
    neighbor_index : Tensor of int64, shape (B, S, K)
        Neighbors in cyclic order (:func:`order_neighbors`).
    shift : int, default=1
        Places between a neighbor and its predecessor and successor.

    Returns
    -------
    Tensor, shape (B, S, K, 14)
        See :func:`manifoldkit.equivariant.surface_features`, which takes coordinates.

    Raises
    ------
    TypeError, ValueError
        Points that are not finite, shapes that do not fit, numbers of no point.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> import torch
    >>> xyz, index = torch.randn(2, 20, 3), torch.randint(20, (2, 5, 8))
    >>> normals = torch.nn.functional.normalize(xyz, dim=-1)
    >>> center = torch.arange(5).expand(2, 5)
    >>> index, _ = order_neighbors(xyz, normals, center, index)
    >>> surface_features(xyz, normals, center, index).shape
    torch.Size([2, 5, 8, 14])
    """
    _check(xyz, normals, center_index, neighbor_index)
    features, _ = local_surfaces.surface_features(
        group(xyz, center_index),
        group(xyz, neighbor_index),
        group(normals, center_index),
        group(normals, neighbor_index),
        step=shift,
        ordered=True,
    )
    return features


def _check(
    xyz: Tensor, normals: Tensor, center_index: Tensor, neighbor_index: Tensor
) -> None:
    if check_clouds(xyz, "xyz").shape != xyz.shape or xyz.shape != normals.shape:
        raise ValueError(
            "xyz, normals: expected equal shapes (B, N, 3), found "
            f"{tuple(xyz.shape)} and {tuple(normals.shape)}"
        )
    if center_index.ndim != 2 or neighbor_index.shape[:-1] != center_index.shape:
        raise ValueError(
            "center_index, neighbor_index: expected shapes (B, S) and (B, S, K), found "
            f"{tuple(center_index.shape)} and {tuple(neighbor_index.shape)}"
        )
