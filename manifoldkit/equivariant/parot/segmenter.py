"""PaRot for parts: features and poses are carried from the patches to all points."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.equivariant._clouds import one_hot_category
from manifoldkit.equivariant.batch_norms import channel_norm
from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.neighbors.search import knn
from manifoldkit.equivariant.parot.base import PaRotBase
from manifoldkit.equivariant.parot.encoder import DenseNorm, Encoded
from manifoldkit.linalg.elementary import safe_norm, unit


class PaRotSegmenter(PaRotBase):
    """Patch-wise rotation-invariant segmentation into parts.

    The encoder of :class:`PaRotClassifier`; each point then collects the features of
    its nearest patch centers together with how it lies in the centers' local and
    global orientations (pose-aware propagation).

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    n_parts : int
        Number of part labels over all categories.
    n_categories : int, default=16
        Number of object categories; the category of a cloud is given. 0 for none.
    n_patches, k_local, k_global, k_intra : int, default=256, 64, 64, 16
        Patch centers, points of local and global patches, neighboring centers.
    k_interp : int, default=11
        Centers that each point collects from.
    directions, emb_dims, dropout, n_blocks, loss_weights, smoothing
        Settings of encoder, head and losses, as for :class:`PaRotClassifier`.

    References
    ----------
    .. [1] D. Zhang, J. Yu, C. Zhang, W. Cai, "PaRot: patch-wise rotation-invariant
       network via feature disentanglement and pose restoration", AAAI 2023.

    Examples
    --------
    >>> model = PaRotSegmenter(4, 2, n_patches=16, k_local=8, k_global=8, k_intra=4)
    >>> x, category = torch.randn(2, 64, 3), torch.tensor([0, 1])
    >>> model.eval()(x, category=category).shape
    torch.Size([2, 64, 4])
    """

    def __init__(
        self,
        n_parts: int,
        n_categories: int = 16,
        *,
        n_patches: int = 256,
        k_local: int = 64,
        k_global: int = 64,
        k_intra: int = 16,
        k_interp: int = 11,
        directions: str = "learned",
        emb_dims: int = 1024,
        dropout: float = 0.5,
        n_blocks: int = 2,
        loss_weights: dict[str, float] | None = None,
        smoothing: float = 0.2,
    ):
        super().__init__(
            n_patches=n_patches,
            k_local=k_local,
            k_global=k_global,
            k_intra=k_intra,
            directions=directions,
            emb_dims=emb_dims,
            n_blocks=n_blocks,
            loss_weights=loss_weights,
            smoothing=smoothing,
        )
        self.n_parts = check_count(n_parts, "n_parts")
        self.n_categories = n_categories
        self.k_interp = check_count(k_interp, "k_interp")
        self.coarse_pose = DenseNorm(16, 32, 0.2)
        self.coarse1 = DenseNorm(emb_dims + 256 + 32, 256)
        self.coarse2 = DenseNorm(256, 256)
        self.point_pose = DenseNorm(7, 32, 0.2)
        self.point1 = DenseNorm(256 + 32 + n_categories, 256)
        self.point2, self.point3 = DenseNorm(256, 128), DenseNorm(128, 128)
        self.head = nn.Sequential(
            DenseNorm(128, 128),
            DenseNorm(128, 128),
            nn.Dropout(dropout),
            nn.Linear(128, n_parts),
        )

    def scores(
        self, x: Tensor, encoded: Encoded, category: Tensor | None = None
    ) -> Tensor:
        """Return part scores (B, N, n_parts) of encoded clouds."""
        known = one_hot_category(category, self.n_categories, x.shape[0]).to(x)
        s = encoded.centers.shape[1]
        h = torch.cat(
            [
                self.pool(encoded)[:, None].expand(-1, s, -1),
                encoded.local,
                encoded.whole,
                self.coarse_pose(encoded.pose),
            ],
            -1,
        )
        h = self.coarse2(self.coarse1(h))
        with torch.no_grad():
            near = knn(x, encoded.centers, min(self.k_interp, s))[1]
        pose = self.point_pose(self._pose(x, encoded, near))
        # the wide layer is linear: its parts are mixed before they meet
        w = self.point1.linear.weight.split([256, 32, self.n_categories], 1)
        h = group(F.linear(h, w[0]), near) + F.linear(pose, w[1])
        h = h + F.linear(known, w[2])[:, None, None]
        h = self.point2(F.relu(channel_norm(self.point1.norm, h)))
        return self.head(self.point3(h).sum(-2))

    def _pose(self, x: Tensor, encoded: Encoded, near: Tensor) -> Tensor:
        """How points lie in the orientations of centers, (B, N, k, 7)."""
        offset = x[:, :, None] - group(encoded.centers, near)
        direction = unit(offset)[..., None]
        axes = torch.stack([encoded.local_axes, encoded.whole_axes], 2).flatten(2)
        axes = group(axes, near).view(*near.shape, 6, 3)
        seen = (axes @ direction).squeeze(-1)
        return torch.cat([safe_norm(offset, keepdim=True), seen], -1)
