"""PaRot: shape codes and directions of patches, told apart by turning them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.equivariant.parot.encoder import (
    CODE,
    POSE,
    DenseNorm,
    Encoded,
    PaRotEncoder,
)

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
        self.inter_pose = DenseNorm(POSE, 32, 0.2)
        self.inter = nn.Sequential(
            DenseNorm(2 * CODE + 32, 256, 0.2), DenseNorm(256, 512, 0.2)
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
