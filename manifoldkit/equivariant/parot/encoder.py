"""The encoder of PaRot: shape codes and directions, told apart by turning patches."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from manifoldkit._checks import check_choice, check_count
from manifoldkit.equivariant._clouds import check_clouds
from manifoldkit.equivariant.batch_norms import (
    channel_norm,
    norm_linear,
    norm_relu_max,
)
from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.neighbors.sampling import farthest_point_sample
from manifoldkit.equivariant.neighbors.search import knn
from manifoldkit.equivariant.parot.directions import EquivariantDirections
from manifoldkit.equivariant.parot.poses import orientation, relative_pose, scale_pose
from manifoldkit.linalg.actions import haar_rotations
from manifoldkit.linalg.elementary import unit

CODE = 128
POSE = 16


class DenseNorm(nn.Module):
    """Linear map without bias, batch normalization, and an activation.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    slope : float, default=0.0
        Slope of the leaky ReLU for negative values; 0 is ReLU.
    """

    def __init__(self, n_in: int, n_out: int, slope: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=False)
        self.norm = nn.BatchNorm1d(n_out)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        if self.linear.in_features <= POSE:  # the product is cheap: norm it inside
            h = norm_linear(self.linear, self.norm, x)
        else:
            h = channel_norm(self.norm, self.linear(x))
        return F.leaky_relu(h, self.slope) if self.slope else F.relu(h)

    def pooled(self, x: Tensor) -> Tensor:
        """Map, then the maximum over the second axis from the end (ReLU only)."""
        return norm_relu_max(self.norm, self.linear(x))


class Disentangle(nn.Module):
    """Small PointNet that gives a shape code and two directions of each patch.

    Parameters
    ----------
    n_blocks : int, default=2
        Number of layers in the head of the code.
    with_directions : bool, default=True
        Leave the heads of the directions out if False.

    Examples
    --------
    >>> code, directions = Disentangle()(torch.randn(6, 32, 3))
    >>> code.shape, directions.shape
    (torch.Size([6, 128]), torch.Size([6, 2, 3]))
    """

    def __init__(self, n_blocks: int = 2, with_directions: bool = True):
        super().__init__()
        self.point1, self.point2 = DenseNorm(3, 64), DenseNorm(64, 128)
        self.point3 = DenseNorm(128, 128)
        self.code = nn.Sequential(*(DenseNorm(128, CODE) for _ in range(n_blocks)))
        self.directions = nn.ModuleList(
            nn.Sequential(
                DenseNorm(128, 64), DenseNorm(64, 32), nn.Linear(32, 3, bias=False)
            )
            for _ in range(2 if with_directions else 0)
        )

    def forward(
        self, patches: Tensor, with_code: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """Encode patches (M, k, 3) as codes (M, 128) and unit vectors (M, 2, 3)."""
        h = self.point3.pooled(self.point2(self.point1(patches)))
        directions = None
        if len(self.directions):
            directions = torch.stack([unit(head(h)) for head in self.directions], -2)
        return (self.code(h) if with_code else None), directions


@dataclass
class Patches:
    """Codes and directions of the patches of one scale, and losses.

    Attributes
    ----------
    code : Tensor, shape (B, S, 128)
    directions : Tensor, shape (B, S, 2, 3)
    losses : dict of Tensor
        "dir", "orth" and "feat"; empty in evaluation.
    """

    code: Tensor
    directions: Tensor
    losses: dict[str, Tensor]


class SiamesePatches(nn.Module):
    """Encode patches; in training two turned copies of each must agree.

    Parameters
    ----------
    directions : {"learned", "equivariant"}
        The published network learns directions that turn with the patch, or they turn
        exactly, by construction.
    n_blocks : int
        Number of layers in the head of the code.
    feat_loss : bool
        Compute the loss on the codes too.
    """

    def __init__(self, directions: str, n_blocks: int, feat_loss: bool):
        super().__init__()
        learned = directions == "learned"
        self.net = Disentangle(n_blocks, with_directions=learned)
        self.exact = None if learned else EquivariantDirections()
        self.feat_loss = feat_loss

    def forward(self, patches: Tensor, generator: torch.Generator | None) -> Patches:
        """Encode patches (B, S, k, 3)."""
        b, s = patches.shape[:2]
        flat = patches.flatten(0, 1)
        if self.training and not is_compiling() and not flat.shape[0]:
            raise ValueError(
                "x: training needs clouds (batch normalization), found an empty batch"
            )
        losses: dict[str, Tensor] = {}
        if self.exact is not None:
            flat, directions = self.exact(flat)
            code, _ = self.net(flat)
            return Patches(
                code.view(b, s, code.shape[-1]), directions.view(b, s, 2, 3), losses
            )
        if not self.training:
            code, directions = self.net(flat)
            return Patches(
                code.view(b, s, code.shape[-1]), directions.view(b, s, 2, 3), losses
            )
        r1, r2 = haar_rotations(2 * flat.shape[0], flat, generator).chunk(2)
        code, d1 = self.net(flat @ r1)
        other, d2 = self.net(flat @ r2, with_code=self.feat_loss)
        losses = {
            "dir": (d1 - d2 @ (r2.mT @ r1)).square().mean(),
            "orth": (d1[:, 0] * d1[:, 1]).sum(-1).square().mean(),
        }
        if other is not None:
            losses["feat"] = (code - other).square().mean()
        directions = d1 @ r1.mT
        return Patches(
            code.view(b, s, code.shape[-1]), directions.view(b, s, 2, 3), losses
        )


@dataclass
class Encoded:
    """What the encoder hands to a head.

    Attributes
    ----------
    centers : Tensor, shape (B, S, 3)
    local, whole : Tensor, shape (B, S, 128)
        Local features after aggregation, and codes of the global patches.
    pose : Tensor, shape (B, S, 16)
        Local against global patch.
    local_axes, whole_axes : Tensor, shape (B, S, 3, 3)
        Orientations.
    losses : dict of Tensor
        "dir_local", "orth_local", ...
    """

    centers: Tensor
    local: Tensor
    whole: Tensor
    pose: Tensor
    local_axes: Tensor
    whole_axes: Tensor
    losses: dict[str, Tensor]


class PaRotEncoder(nn.Module):
    """Patches, their codes and directions, and aggregation over neighboring patches.

    Parameters
    ----------
    n_patches, k_local, k_global, k_intra : int
        Patch centers, points of local and global patches, neighboring centers.
    directions, n_blocks, feat_loss
        Settings of the networks of patches, see :class:`SiamesePatches`.
    """

    def __init__(
        self,
        n_patches: int,
        k_local: int,
        k_global: int,
        k_intra: int,
        directions: str,
        n_blocks: int,
        feat_loss: bool,
    ):
        super().__init__()
        check_choice(directions, ("learned", "equivariant"), "directions")
        self.n_patches = check_count(n_patches, "n_patches")
        self.k_local = check_count(k_local, "k_local")
        self.k_global = check_count(k_global, "k_global")
        self.k_intra = check_count(k_intra, "k_intra")
        self.local = SiamesePatches(directions, n_blocks, feat_loss)
        self.whole = SiamesePatches(directions, n_blocks, feat_loss)
        self.intra_pose = DenseNorm(POSE, 32)
        self.intra1 = DenseNorm(2 * CODE + 32, 128)
        self.intra2, self.intra3 = DenseNorm(128, 128), DenseNorm(128, 128)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoded:
        """Encode clouds (B, N, 3), which must be centered."""
        x = check_clouds(x)
        with torch.no_grad():
            n = x.shape[1]
            s, kg = min(self.n_patches, n), min(self.k_global, n)
            order = farthest_point_sample(x, max(s, kg))
            centers_at, spread_at = order[:, :s], order[:, :kg]
            centers = group(x, centers_at)
            near = knn(centers, x, min(self.k_local, n))[1]
            around = knn(centers, centers, min(self.k_intra, s))[1]
        centers = group(x, centers_at)
        local = self.local(group(x, near) - centers[:, :, None], generator)
        spread = group(x, spread_at)[:, None] - centers[:, :, None]
        whole = self.whole(spread, generator)
        axes = orientation(local.directions)
        h = self._intra(local.code, axes, centers, around)
        local_axes = orientation(local.directions, detach_third=True)
        whole_axes = orientation(whole.directions, detach_third=True)
        losses = {f"{k}_local": v for k, v in local.losses.items()}
        losses |= {f"{k}_global": v for k, v in whole.losses.items()}
        pose = scale_pose(local_axes, whole_axes, centers)
        return Encoded(centers, h, whole.code, pose, local_axes, whole_axes, losses)

    def _intra(
        self, code: Tensor, axes: Tensor, centers: Tensor, around: Tensor
    ) -> Tensor:
        b, s, k = around.shape
        a_i = axes[:, :, None].expand(b, s, k, 3, 3)
        a_j = group(axes.flatten(-2), around).view(b, s, k, 3, 3)
        offset = group(centers, around) - centers[:, :, None]
        pose = self.intra_pose(relative_pose(a_i, a_j, offset))
        # [f_j, f_j - f_i, pose] W = f_j (W1 + W2) - f_i W2 + pose W3: rows a center
        w1, w2, w3 = self.intra1.linear.weight.split([CODE, CODE, 32], 1)
        h = group(F.linear(code, w1 + w2), around) - F.linear(code, w2)[:, :, None]
        h = F.relu(channel_norm(self.intra1.norm, h + F.linear(pose, w3)))
        return self.intra3.pooled(self.intra2(h))
