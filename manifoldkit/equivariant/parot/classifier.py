"""PaRot: shape codes and directions of patches, told apart by turning them."""

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.equivariant.parot.base import PaRotBase
from manifoldkit.equivariant.parot.encoder import DenseNorm, Encoded


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

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    n_patches, k_local, k_global, k_intra : int, default=256, 64, 32, 32
        Patch centers, points of local and global patches, neighboring centers.
    directions : {"learned", "equivariant"}, default="learned"
        How the vectors turn with the patch: as far as learned, or exactly.
    emb_dims : int, default=1024
        Size of the pooled vector.
    dropout : float, default=0.5
        Share of features dropped in the head.
    n_blocks : int, default=2
        Number of layers in the head of the shape code.
    loss_weights : dict, optional
        Weights of "dir_local", "dir_global", "orth_local", "orth_global",
        "feat_local", "feat_global" beside the classification loss; default
        1, 1, 0.2, 0.1, 0, 0.
    smoothing : float, default=0.2
        Label smoothing, spread over the other classes.

    Notes
    -----
    ``torch.func.grad`` and ``vjp`` work; ``vmap`` does not (the geometry reads values),
    nor does forward mode in training. ``torch.export`` gives plain torch operations for
    any number of clouds.

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
        self.n_classes = check_count(n_classes, "n_classes")
        self.head = nn.Sequential(
            DenseNorm(emb_dims, 512, 0.2),
            nn.Dropout(dropout),
            DenseNorm(512, 256, 0.2),
            nn.Dropout(dropout),
            nn.Linear(256, n_classes),
        )

    def features(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the pooled vector of each cloud, (B, emb_dims)."""
        return self.pool(self.encoder(self.as_input(x), generator))

    def scores(self, x: Tensor, encoded: Encoded) -> Tensor:
        """Return class scores (B, n_classes) of encoded clouds."""
        return self.head(self.pool(encoded))
