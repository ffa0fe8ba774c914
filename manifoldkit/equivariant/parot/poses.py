"""Orientations of patches, and how patches lie to each other."""

import torch
from torch import Tensor

from manifoldkit.linalg.checks import check_broadcast, check_last
from manifoldkit.linalg.elementary import safe_norm, unit


def _same(a: Tensor, b: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two matrices and a vector of one batch shape and one dtype."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), v.dtype)
    a, b, v = a.to(dtype), b.to(dtype), v.to(dtype)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2], v.shape[:-1])
    return a.expand(*batch, 3, 3), b.expand(*batch, 3, 3), v.expand(*batch, 3)


def orientation(directions: Tensor, detach_third: bool = False) -> Tensor:
    r"""Complete two directions to the rows of a matrix.

    :math:`A = [d_1; d_2; d_1 \times d_2 / |d_1 \times d_2|]`.

    Parameters
    ----------
    directions : Tensor, shape (..., 2, 3)
        Two vectors.
    detach_third : bool, default=False
        No gradient through the third row.

    Examples
    --------
    >>> orientation(torch.eye(3)[:2])
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    d1, d2 = check_last(directions, (2, 3), "directions").unbind(-2)
    third = unit(torch.linalg.cross(d1, d2, dim=-1))
    third = third.detach() if detach_third else third
    return torch.stack([d1, d2, third], -2)


def relative_pose(a_i: Tensor, a_j: Tensor, offset: Tensor) -> Tensor:
    r"""Describe how patch j lies as seen from patch i, by 16 invariants.

    :math:`[A_j A_i^\top, A_i u, A_j u, |r|]` with the offset :math:`r` from i to j
    and :math:`u = r / |r|` (0 for the patch itself).

    Parameters
    ----------
    a_i, a_j : Tensor, shape (..., 3, 3)
        Orientations, rows are axes.
    offset : Tensor, shape (..., 3)
        From center i to center j.

    Returns
    -------
    Tensor, shape (..., 16)

    References
    ----------
    .. [1] D. Zhang, J. Yu, C. Zhang, W. Cai, "PaRot: patch-wise rotation-invariant
       network via feature disentanglement and pose restoration", AAAI 2023.

    Examples
    --------
    >>> eye = torch.eye(3)
    >>> relative_pose(eye, eye, torch.tensor([0.0, 0.0, 2.0]))[-1]
    tensor(2.)
    """
    for name, value in (("a_i", a_i), ("a_j", a_j)):
        check_last(value, (3, 3), name)
    check_last(offset, (3,), "offset")
    check_broadcast(a_i=(a_i, 2), a_j=(a_j, 2), offset=(offset, 1))
    a_i, a_j, offset = _same(a_i, a_j, offset)
    direction = unit(offset)[..., None]
    return torch.cat(
        [
            (a_j @ a_i.mT).flatten(-2),
            (a_i @ direction).squeeze(-1),
            (a_j @ direction).squeeze(-1),
            safe_norm(offset, keepdim=True),
        ],
        -1,
    )


def scale_pose(local: Tensor, whole: Tensor, center: Tensor) -> Tensor:
    r"""Describe the local against the global patch of a center, by 16 invariants.

    :math:`[|c|, L G^\top, L u, G u]` with the center :math:`c` and
    :math:`u = c / |c|`; the cloud must be centered.

    Parameters
    ----------
    local, whole : Tensor, shape (..., 3, 3)
        Orientations L and G, rows are axes.
    center : Tensor, shape (..., 3)
        Centers.

    Returns
    -------
    Tensor, shape (..., 16)

    Examples
    --------
    >>> scale_pose(torch.eye(3), torch.eye(3), torch.tensor([3.0, 0.0, 0.0]))[0]
    tensor(3.)
    """
    for name, value in (("local", local), ("whole", whole)):
        check_last(value, (3, 3), name)
    check_last(center, (3,), "center")
    check_broadcast(local=(local, 2), whole=(whole, 2), center=(center, 1))
    local, whole, center = _same(local, whole, center)
    direction = unit(center)[..., None]
    return torch.cat(
        [
            safe_norm(center, keepdim=True),
            (local @ whole.mT).flatten(-2),
            (local @ direction).squeeze(-1),
            (whole @ direction).squeeze(-1),
        ],
        -1,
    )
