"""PaRot: shape codes and directions of patches, told apart by turning them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit.equivariant._batch_norms import (
    channel_norm,
    norm_linear,
    norm_relu_max,
)
from manifoldkit.equivariant._clouds import check_clouds
from manifoldkit.equivariant._parot_directions import EquivariantDirections
from manifoldkit.equivariant.neighbors import farthest_point_sample, group, knn
from manifoldkit.equivariant.patch_poses import (
    orientation,
    relative_pose,
    scale_pose,
    unit,
)
from manifoldkit.linalg.checks import check_choice, check_count

_CODE = 128
_POSE = 16


class DenseNorm(nn.Module):
    """Linear map without bias, batch normalization, and an activation.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    slope : float, default=0.0
        Of the leaky ReLU for negative values; 0 is ReLU.
    """

    def __init__(self, n_in: int, n_out: int, slope: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=False)
        self.norm = nn.BatchNorm1d(n_out)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        if self.linear.in_features <= _POSE:  # the product is cheap: norm it inside
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
        Layers of the code's head.
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
        self.code = nn.Sequential(*(DenseNorm(128, _CODE) for _ in range(n_blocks)))
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


def haar_rotations(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniformly distributed rotations (n, 3, 3), from normalized quaternions."""
    device = like.device if generator is None else generator.device
    q = torch.randn(n, 4, generator=generator, dtype=like.dtype, device=device)
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).to(like.device).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


class SiamesePatches(nn.Module):
    """Encode patches; in training two turned copies of each must agree.

    Parameters
    ----------
    directions : {"learned", "equivariant"}
        The published network learns directions that turn with the patch, or they turn
        exactly, by construction.
    n_blocks : int
        Layers of the code's head.
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
        losses: dict[str, Tensor] = {}
        if self.exact is not None:
            flat, directions = self.exact(flat)
            code, _ = self.net(flat)
            return Patches(code.view(b, s, -1), directions.view(b, s, 2, 3), losses)
        if not self.training:
            code, directions = self.net(flat)
            return Patches(code.view(b, s, -1), directions.view(b, s, 2, 3), losses)
        r1, r2 = haar_rotations(2 * len(flat), flat, generator).chunk(2)
        code, d1 = self.net(flat @ r1)
        other, d2 = self.net(flat @ r2, with_code=self.feat_loss)
        losses = {
            "dir": (d1 - d2 @ (r2.mT @ r1)).square().mean(),
            "orth": (d1[:, 0] * d1[:, 1]).sum(-1).square().mean(),
        }
        if other is not None:
            losses["feat"] = (code - other).square().mean()
        directions = d1 @ r1.mT
        return Patches(code.view(b, s, -1), directions.view(b, s, 2, 3), losses)


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
        As in :class:`PaRotClassifier`.
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
        self.intra_pose = DenseNorm(_POSE, 32)
        self.intra1 = DenseNorm(2 * _CODE + 32, 128)
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

    def _intra(self, code, axes, centers, around) -> Tensor:
        b, s, k = around.shape
        a_i = axes[:, :, None].expand(b, s, k, 3, 3)
        a_j = group(axes.flatten(-2), around).view(b, s, k, 3, 3)
        offset = group(centers, around) - centers[:, :, None]
        pose = self.intra_pose(relative_pose(a_i, a_j, offset))
        # [f_j, f_j - f_i, pose] W = f_j (W1 + W2) - f_i W2 + pose W3: rows a center
        w1, w2, w3 = self.intra1.linear.weight.split([_CODE, _CODE, 32], 1)
        h = group(F.linear(code, w1 + w2), around) - F.linear(code, w2)[:, :, None]
        h = F.relu(channel_norm(self.intra1.norm, h + F.linear(pose, w3)))
        return self.intra3.pooled(self.intra2(h))


LOSS_WEIGHTS = {
    "dir_local": 1.0,
    "dir_global": 1.0,
    "orth_local": 0.2,
    "orth_global": 0.1,
    "feat_local": 0.0,
    "feat_global": 0.0,
}


def smoothed_cross_entropy(scores: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Cross entropy that spreads ``smoothing`` over the other classes.

    With C classes it is torch's with ``label_smoothing = smoothing C / (C - 1)``.
    """
    n = scores.shape[-1]
    share = smoothing * n / max(n - 1, 1)
    return F.cross_entropy(scores.flatten(0, -2), y.flatten(), label_smoothing=share)


class PaRotBase(nn.Module):
    """The encoder, the pooled vector, and the loss of both networks."""

    def __init__(self, encoder: PaRotEncoder, emb_dims: int, loss_weights, smoothing):
        super().__init__()
        self.encoder = encoder
        self.inter_pose = DenseNorm(_POSE, 32, 0.2)
        self.inter = nn.Sequential(
            DenseNorm(2 * _CODE + 32, 256, 0.2), DenseNorm(256, 512, 0.2)
        )
        self.embed = DenseNorm(512, emb_dims, 0.2)
        unknown = set(loss_weights or {}) - set(LOSS_WEIGHTS)
        if unknown:
            raise ValueError(
                f"loss_weights: expected among {sorted(LOSS_WEIGHTS)}, "
                f"found {sorted(unknown)}"
            )
        self.loss_weights = LOSS_WEIGHTS | dict(loss_weights or {})
        self.smoothing = smoothing

    def pool(self, encoded: Encoded) -> Tensor:
        """Join both scales and take the maximum over the centers, (B, emb_dims)."""
        pose = self.inter_pose(encoded.pose)
        h = self.inter(torch.cat([encoded.local, encoded.whole, pose], -1))
        return self.embed(h).amax(1)

    def total(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the weighted sum to the losses, as "total"."""
        return losses | {"total": losses["cls"] + self.auxiliary(losses)}

    def auxiliary(self, losses: dict[str, Tensor]) -> Tensor | float:
        """Return the weighted sum of the losses that need no labels."""
        weighted = [
            self.loss_weights[name] * value
            for name, value in losses.items()
            if self.loss_weights.get(name)
        ]
        return sum(weighted) if weighted else 0.0


class PaRotClassifier(PaRotBase):
    r"""Patch-wise rotation-invariant classifier.

    The cloud is cut into local patches and, for each patch center, one global patch. A
    small network gives every patch a shape code and two unit vectors; in training two
    randomly turned copies of each patch teach the vectors to turn with it. From the
    vectors follow the poses of patches relative to their neighbors and of local to
    global patches, which do not change when the cloud is turned.

    The published network is invariant only as far as it has learned to be. With
    ``directions="equivariant"`` the vectors are weighted sums of the patch's points
    with invariant weights, and shape codes are computed in the frame that they span:
    then it is invariant up to rounding, and needs no turned copies.

    Evaluation is deterministic: one branch, no rotations, sampling that starts at the
    point farthest from the centroid.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    n_patches, k_local, k_global, k_intra : int, default=256, 64, 32, 32
        Patch centers, points of local and global patches, neighboring centers.
    directions : {"learned", "equivariant"}, default="learned"
        See above.
    emb_dims : int, default=1024
        Size of the pooled vector.
    dropout : float, default=0.5
        In the head.
    n_blocks : int, default=2
        Layers of the shape code's head.
    loss_weights : dict, optional
        Weights of "dir_local", "dir_global", "orth_local", "orth_global",
        "feat_local", "feat_global" beside the classification loss; default
        1, 1, 0.2, 0.1, 0, 0.
    smoothing : float, default=0.2
        Label smoothing, spread over the other classes.

    References
    ----------
    .. [1] D. Zhang, J. Yu, C. Zhang, W. Cai, "PaRot: patch-wise rotation-invariant
       network via feature disentanglement and pose restoration", AAAI 2023.

    Examples
    --------
    >>> model = PaRotClassifier(5, n_patches=16, k_local=8, k_global=8, k_intra=4)
    >>> x, y = torch.randn(4, 64, 3), torch.tensor([0, 1, 2, 3])
    >>> losses = model.losses(x, y, generator=torch.Generator().manual_seed(0))
    >>> sorted(losses)
    ['cls', 'dir_global', 'dir_local', 'orth_global', 'orth_local', 'total']
    >>> model.eval()(x).shape
    torch.Size([4, 5])
    """

    def __init__(
        self,
        n_classes: int,
        *,
        n_patches: int = 256,
        k_local: int = 64,
        k_global: int = 32,
        k_intra: int = 32,
        directions: str = "learned",
        emb_dims: int = 1024,
        dropout: float = 0.5,
        n_blocks: int = 2,
        loss_weights: dict[str, float] | None = None,
        smoothing: float = 0.2,
    ):
        feat = any((loss_weights or {}).get(f"feat_{s}") for s in ("local", "global"))
        encoder = PaRotEncoder(
            n_patches, k_local, k_global, k_intra, directions, n_blocks, feat
        )
        super().__init__(encoder, emb_dims, loss_weights, smoothing)
        self.n_classes = check_count(n_classes, "n_classes")
        self.head = nn.Sequential(
            *_drop(emb_dims, 512, dropout),
            *_drop(512, 256, dropout),
            nn.Linear(256, n_classes),
        )

    def features(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the pooled vector of each cloud, (B, emb_dims)."""
        return self.pool(self.encoder(x, generator))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return class scores.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3) or (N, 3)
            Centered clouds.
        generator : torch.Generator, optional
            Of the random rotations, in training.

        Returns
        -------
        Tensor, shape (B, n_classes)
            Logits.
        """
        return self.head(self.features(x, generator))

    def scores_and_losses(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return class scores and the losses that need no labels."""
        encoded = self.encoder(x, generator)
        return self.head(self.pool(encoded)), encoded.losses

    def losses(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return all terms of the training loss and their weighted sum, "total".

        Parameters
        ----------
        x : Tensor, shape (B, N, 3)
            Centered clouds.
        y : Tensor of int64, shape (B,)
            Classes.
        generator : torch.Generator, optional
            Of the random rotations.
        """
        scores, losses = self.scores_and_losses(x, generator)
        cls = smoothed_cross_entropy(scores, y, self.smoothing)
        return self.total({"cls": cls, **losses})


def _drop(n_in: int, n_out: int, dropout: float) -> Sequence[nn.Module]:
    return DenseNorm(n_in, n_out, 0.2), nn.Dropout(dropout)
