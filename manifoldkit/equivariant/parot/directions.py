"""Directions of patches that turn with them exactly."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit.equivariant._clouds import binary_scale
from manifoldkit.linalg.elementary import safe_norm

_TINY = 1e-12


class EquivariantDirections(nn.Module):
    r"""Two orthonormal vectors of each patch, as weighted sums of its points.

    .. math:: v_c = \sum_j w_c(s_j)\, p_j, \qquad
       s_j = \left(|p_j|,\; p_j \cdot \hat\mu,\; |\mu|,\;
       p_j \cdot \hat\nu,\; |\nu|\right)

    with the mean :math:`\mu` of the points and their mean :math:`\nu` weighted by
    squared length. The scalars do not change under rotations, so the vectors turn with
    the patch. Gram-Schmidt makes them orthonormal.

    Parameters
    ----------
    width : int, default=32
        Width of the hidden layer.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.hidden = nn.Linear(5, width)
        self.weights = nn.Linear(width, 2)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (M, k, 3) in their own frames, and directions (M, 2, 3)."""
        scale = binary_scale(patches).to(patches.dtype)
        length = safe_norm(patches / scale, keepdim=True)
        size = length.mean(-2, keepdim=True).clamp_min(_TINY)
        p, r = patches / scale / size, length / size
        scalars = [r]
        for center in (p.mean(-2, keepdim=True), (r**2 * p).mean(-2, keepdim=True)):
            reach = safe_norm(center, keepdim=True)
            along = (p * (center / reach.clamp_min(_TINY))).sum(-1, keepdim=True)
            scalars += [along, reach.expand_as(r)]
        weights = self.weights(F.silu(self.hidden(torch.cat(scalars, -1))))
        v1, v2 = (weights.mT @ p / p.shape[-2]).unbind(-2)
        d1 = v1 / safe_norm(v1, keepdim=True).clamp_min(_TINY)
        v2 = v2 - (v2 * d1).sum(-1, keepdim=True) * d1
        d2 = v2 / safe_norm(v2, keepdim=True).clamp_min(_TINY)
        frame = torch.stack([d1, d2, torch.linalg.cross(d1, d2, dim=-1)], -2)
        return patches @ frame.mT, torch.stack([d1, d2], -2)
