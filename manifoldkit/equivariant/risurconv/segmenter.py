"""RISurConv for parts: features are carried back from the centers to all points."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.equivariant._clouds import one_hot_category
from manifoldkit.equivariant.batch_norms import channel_norm
from manifoldkit.equivariant.risurconv.base import SurfaceNet
from manifoldkit.equivariant.risurconv.layers import SurfaceConv
from manifoldkit.equivariant.risurconv.surface_graph import SurfaceGraph, SurfaceLevel


class SurfacePropagation(nn.Module):
    """Carry features from centers to points, by the convolution on local surfaces.

    Each point looks at its nearest centers as :class:`RISurConvLayer` looks at
    neighbors; the result is joined with the point's own features.

    Parameters
    ----------
    in_channels, out_channels : int
        Features a center, and after the convolution.
    skip_channels : int
        Own features of the points.
    channels : int or None
        Features after the joint layer; None leaves it out.

    Examples
    --------
    >>> level = SurfaceLevel(torch.rand(2, 30, 4, 14), torch.randint(9, (2, 30, 4)))
    >>> up = SurfacePropagation(16, 8, 3, 12)
    >>> up(level, torch.randn(2, 9, 16), torch.randn(2, 30, 3)).shape
    torch.Size([2, 30, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: int,
        channels: int | None,
    ):
        super().__init__()
        self.conv = SurfaceConv(in_channels, out_channels)
        self.n_out = channels or out_channels + skip_channels
        self.joint = self.norm = None
        if channels is not None:
            self.joint = nn.Linear(out_channels + skip_channels, channels)
            self.norm = nn.BatchNorm1d(channels)

    def forward(self, level: SurfaceLevel, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return features (B, N, channels) of the points."""
        h = torch.cat([self.conv(level, coarse), skip], -1)
        if self.joint is None or self.norm is None:
            return h
        return F.relu(channel_norm(self.norm, self.joint(h)))


class RISurConvSegmenter(SurfaceNet):
    """Rotation-invariant segmentation of point clouds into parts.

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    n_parts : int
        Number of part labels over all categories.
    n_categories : int, default=16
        Number of object categories; the category of a cloud is given. 0 for none.
    in_normals, lra_k, unsigned_normals
        Use of normals, as for :class:`RISurConvClassifier`.
    sizes, neighbors, channels : sequence of int, optional
        Centers, neighbors and channels of the levels.
    up_neighbors : sequence of int
        Centers that each point looks at on the way back, coarse to fine.
    dropout : float, default=0.4
        Share of features dropped in the head.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> model = RISurConvSegmenter(4, 2, sizes=(32, 16, 8, 8)).eval()
    >>> x, category = torch.randn(2, 64, 3), torch.tensor([0, 1])
    >>> model(x, category=category).shape
    torch.Size([2, 64, 4])
    """

    def __init__(
        self,
        n_parts: int,
        n_categories: int = 16,
        *,
        in_normals: bool = True,
        lra_k: int = 32,
        unsigned_normals: bool = False,
        sizes: Sequence[int] = (512, 256, 128, 64),
        neighbors: Sequence[int] = (8, 16, 32, 64),
        channels: Sequence[int] = (64, 128, 256, 512),
        up_neighbors: Sequence[int] = (64, 32, 32, 32),
        dropout: float = 0.4,
    ):
        if not len(sizes) == len(neighbors) == len(channels) == len(up_neighbors):
            raise ValueError(
                "sizes, neighbors, channels, up_neighbors: expected equal lengths, "
                f"found {len(sizes)}, {len(neighbors)}, {len(channels)} and "
                f"{len(up_neighbors)}"
            )
        super().__init__(
            sizes,
            neighbors,
            channels,
            in_normals=in_normals,
            lra_k=lra_k,
            unsigned_normals=unsigned_normals,
        )
        self.n_parts = check_count(n_parts, "n_parts")
        self.n_categories, self.up_neighbors = n_categories, tuple(up_neighbors)
        # widths of the way back: 512, 512, 256, 128 for the published channels
        width, ups = channels[-1], []
        for i, skip in enumerate((*channels[-2::-1], None)):
            out = channels[-1] if i == 0 else width
            if skip is None:
                ups.append(SurfacePropagation(width, out, n_categories, None))
            else:
                ups.append(SurfacePropagation(width, out, skip, 2 * skip))
            width = ups[-1].n_out
        self.ups = nn.ModuleList(ups)
        middle = 2 * channels[0]
        self.head = nn.Linear(width, middle)
        self.head_norm = nn.BatchNorm1d(middle)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(middle, n_parts)

    def forward(
        self,
        x: Tensor | SurfaceGraph,
        normals: Tensor | None = None,
        *,
        category: Tensor | None = None,
    ) -> Tensor:
        """Return part scores.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3), (B, N, 6) with normals, or SurfaceGraph
            Clouds, or what :meth:`precompute` returned for them.
        normals : Tensor, shape (B, N, 3), optional
            Default: estimated axes.
        category : Tensor of int64, shape (B,)
            Category of each cloud; needed unless ``n_categories`` is 0.

        Returns
        -------
        Tensor, shape (B, N, n_parts)
            Logits.
        """
        graph = self.graph_of(x, normals)
        levels = self.levels(graph)
        h = levels[-1]
        known = one_hot_category(category, self.n_categories, h.shape[0]).to(h)
        n_points = graph.up[-1].index.shape[1]
        skips = [*levels[-2::-1], known[:, None].expand(-1, n_points, -1)]
        for up, level, skip in zip(self.ups, graph.up, skips, strict=True):
            h = up(level, h, skip)
        h = F.relu(channel_norm(self.head_norm, self.head(h)))
        return self.score(self.dropout(h))
