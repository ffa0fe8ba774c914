"""What the classifier and the segmenter of PaRot share: encoder, pooling, losses."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit.equivariant._clouds import check_clouds, check_range
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
    """The encoder, the pooled vector, and the losses; see :class:`PaRotClassifier`.

    A network adds ``scores``, which takes clouds and what the encoder made of them,
    and what else must be known.
    """

    scores: Callable[..., Tensor]

    def __init__(
        self,
        *,
        n_patches: int,
        k_local: int,
        k_global: int,
        k_intra: int,
        directions: str,
        emb_dims: int,
        n_blocks: int,
        loss_weights: dict[str, float] | None,
        smoothing: float,
    ):
        super().__init__()
        self.loss_weights = LOSS_WEIGHTS | dict(loss_weights or {})
        unknown = sorted(set(self.loss_weights) - set(LOSS_WEIGHTS))
        if unknown:
            raise ValueError(
                f"loss_weights: expected among {sorted(LOSS_WEIGHTS)}, found {unknown}"
            )
        feat = self.loss_weights["feat_local"] or self.loss_weights["feat_global"]
        self.encoder = PaRotEncoder(
            n_patches, k_local, k_global, k_intra, directions, n_blocks, bool(feat)
        )
        self.inter_pose = DenseNorm(POSE, 32, 0.2)
        self.inter = nn.Sequential(
            DenseNorm(2 * CODE + 32, 256, 0.2), DenseNorm(256, 512, 0.2)
        )
        self.embed = DenseNorm(512, emb_dims, 0.2)
        self.smoothing = smoothing

    def as_input(self, x: Tensor) -> Tensor:
        """Return clouds (B, N, 3) in the dtype of the weights."""
        dtype = self.embed.linear.weight.dtype
        return check_range(check_clouds(x), dtype).to(dtype)

    def pool(self, encoded: Encoded) -> Tensor:
        """Join both scales and take the maximum over the centers, (B, emb_dims)."""
        pose = self.inter_pose(encoded.pose)
        h = self.inter(torch.cat([encoded.local, encoded.whole, pose], -1))
        return self.embed(h).amax(1)

    def forward(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        **known: Tensor | None,
    ) -> Tensor:
        """Return scores.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3) or (N, 3)
            Centered clouds of radius about 1 (patches are seen in their unit), in any
            floating-point dtype: they are cast to that of the weights.
        generator : torch.Generator, optional
            Source of the random rotations, in training.
        **known : Tensor
            For a segmenter ``category``, int64 of shape (B,): the category of each
            cloud; needed unless ``n_categories`` is 0.

        Returns
        -------
        Tensor, shape (B, n_classes) or (B, N, n_parts)
            Logits.
        """
        return self.scores_and_losses(x, generator, **known)[0]

    def scores_and_losses(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        **known: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores, as the forward pass, and the losses that need no labels."""
        x = self.as_input(x)
        encoded = self.encoder(x, generator)
        return self.scores(x, encoded, **known), encoded.losses

    def losses(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
        **known: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return all terms of the training loss and their weighted sum, "total".

        Parameters
        ----------
        x : Tensor, shape (B, N, 3)
            Centered clouds.
        y : Tensor of int64, shape (B,) or (B, N)
            Classes of the clouds, or parts of the points.
        generator : torch.Generator, optional
            Source of the random rotations.
        **known : Tensor
            For a segmenter ``category``, as in the forward pass.
        """
        scores, losses = self.scores_and_losses(x, generator, **known)
        cls = smoothed_cross_entropy(scores, y, self.smoothing)
        return {"cls": cls, **losses, "total": cls + self.auxiliary(losses)}

    def auxiliary(self, losses: dict[str, Tensor]) -> Tensor | float:
        """Return the weighted sum of the losses that need no labels."""
        weighted = [
            self.loss_weights[name] * value
            for name, value in losses.items()
            if self.loss_weights[name]
        ]
        return sum(weighted) if weighted else 0.0
