"""The layers of RISurConv: embedding of surface features, and convolution."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from manifoldkit._checks import check_count
from manifoldkit.equivariant._clouds import binary_scale, check_clouds, check_range
from manifoldkit.equivariant.batch_norms import (
    check_rows,
    norm_relu_max,
    normalized_weight,
)
from manifoldkit.equivariant.neighbors.grouping import group, group_rows
from manifoldkit.equivariant.risurconv.offset_attention import OffsetAttention
from manifoldkit.equivariant.risurconv.surface_graph import (
    SurfaceLevel,
    cloud_eps,
    prepare_normals,
    surface_hierarchy,
    surface_level,
)
from manifoldkit.equivariant.risurconv.surfaces import N_FEATURES
from manifoldkit.linalg.checks import check_finite, check_floating

EMBED = (32, 64)


class SurfaceEmbedding(nn.Module):
    """Two linear maps with batch normalization after each, then ReLU.

    Nothing non-linear stands between the maps, so in training the statistics of both
    follow from the mean and covariance of the input, and one map is evaluated.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(N_FEATURES, EMBED[0], bias=False)
        self.norm1 = nn.BatchNorm1d(EMBED[0])
        self.second = nn.Linear(*EMBED, bias=False)
        self.norm2 = nn.BatchNorm1d(EMBED[1])

    def forward(self, x: Tensor) -> Tensor:
        """Embed features (..., 14) as (..., 64)."""
        rows = x.reshape(-1, x.shape[-1])
        if not self.training:
            h = self.norm2(self.second(self.norm1(self.first(rows))))
            return F.relu(h).view(*x.shape[:-1], EMBED[1])
        check_rows(self.norm1, x)
        mean = rows.mean(0)
        centered = rows - mean
        cov = centered.T @ centered / len(rows)
        first, second, n = self.first.weight, self.second.weight, len(rows)
        weight = second @ normalized_weight(first, cov, first @ mean, self.norm1, n)
        middle = second @ self.norm1.bias
        weight = normalized_weight(weight, cov, middle, self.norm2, n)
        # the first offset is normalized away; its gradient is zero, not absent
        out = F.linear(centered, weight, self.norm2.bias + 0.0 * middle)
        return F.relu_(out).view(*x.shape[:-1], EMBED[1])


class SurfaceConv(nn.Module):
    """Embedding, attention in the neighborhood, joining features, and pooling.

    Parameters
    ----------
    in_channels, out_channels : int
        Features a point before (0 for none) and after.
    norm_axis : {"neighbors", "points"}
        What attention weights in the neighborhood are normalized over.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm_axis: str = "neighbors"
    ):
        super().__init__()
        self.embed = SurfaceEmbedding()
        self.around = OffsetAttention(EMBED[1], norm_axis)
        self.mix = nn.Linear(EMBED[1] + in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)
        self.between = OffsetAttention(out_channels)

    def forward(self, level: SurfaceLevel, features: Tensor | None = None) -> Tensor:
        """Return features (B, S, out_channels) of the centers."""
        h = self.around(self.embed(level.features))
        surface, rest = self.mix.weight.split([EMBED[1], self.mix.in_features - 64], 1)
        tokens = h.reshape(-1, EMBED[1])
        if features is None:
            rows = tokens @ surface.T
        else:  # mixed before they are gathered: fewer rows
            before = F.linear(features, rest)
            rows = group_rows(before, level.index)
            rows = rows.addmm_(tokens.to(rows.dtype), surface.T.to(rows.dtype))
        mixed = rows.view(*h.shape[:-1], self.mix.out_features)
        return self.between(norm_relu_max(self.norm, mixed, self.mix.bias))


class RISurConvLayer(nn.Module):
    r"""Rotation-invariant convolution on local surfaces.

    Centers are sampled by farthest points, the neighbors of each are ordered around
    its normal and described by 14 invariants (:func:`surface_features`). These are
    embedded, refined by attention inside the neighborhood, joined with the features
    of the neighbors, max-pooled, and refined by attention among the centers.

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

    Parameters
    ----------
    n_centers : int
        Number of centers; all points if there are fewer.
    k : int
        Number of neighbors; all points if there are fewer.
    in_channels, out_channels : int
        Features a point before (0 for none) and after.
    norm_axis : {"neighbors", "points"}
        What the attention weights inside neighborhoods are normalized over. "points"
        is the released code's axis, kept for its weights: it lets neighborhoods leak
        into one another.
    unsigned_normals : bool, default=False
        Use features that do not depend on the signs of normals.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> import torch
    >>> layer = RISurConvLayer(16, 8, 0, 32).eval()
    >>> x = torch.randn(2, 64, 3)
    >>> centers, normals, features = layer(x)
    >>> features.shape
    torch.Size([2, 16, 32])
    """

    def __init__(
        self,
        n_centers: int,
        k: int,
        in_channels: int,
        out_channels: int,
        *,
        norm_axis: str = "neighbors",
        unsigned_normals: bool = False,
    ):
        super().__init__()
        self.n_centers = check_count(n_centers, "n_centers")
        self.k = check_count(k, "k")
        self.unsigned_normals = unsigned_normals
        self.conv = SurfaceConv(in_channels, out_channels, norm_axis)

    def forward(
        self, x: Tensor, normals: Tensor | None = None, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Convolve.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3)
            Points, in a unit in which clouds are of size about 1: the first of the
            invariants is a length.
        normals : Tensor, shape (B, N, 3), optional
            Default: estimated axes.
        features : Tensor, shape (B, N, in_channels), optional
            Features of the points.

        Returns
        -------
        tuple of Tensor
            Centers and their normals, (B, S, 3), and features (B, S, out_channels).
        """
        dtype = self.conv.mix.weight.dtype
        points = check_range(check_clouds(x), dtype).double()
        scale = binary_scale(points)
        points = points / scale
        directions = None if normals is None else normals.double()
        directions = prepare_normals(points, directions)
        order = surface_hierarchy(points, [min(self.n_centers, points.shape[1])])
        centers, center_normals = group(points, order), group(directions, order)
        level = surface_level(
            points,
            directions,
            centers,
            center_normals,
            self.k,
            self.unsigned_normals,
            cloud_eps(points, scale),
        )
        level.features[..., 0].mul_(scale)
        level = level.map(lambda t: t.to(dtype) if t.is_floating_point() else t)
        if features is not None and not is_compiling():
            check_finite(check_floating(features, "features"), "features")
        out = self.conv(level, None if features is None else features.to(dtype))
        return (centers * scale).to(x.dtype), center_normals.to(x.dtype), out


def dense(n_in: int, n_out: int, dropout: float) -> list[nn.Module]:
    """Linear map, batch normalization, ReLU and dropout of a perceptron."""
    return [
        nn.Linear(n_in, n_out),
        nn.BatchNorm1d(n_out),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]


def apply_head(head: nn.Sequential, x: Tensor) -> Tensor:
    """Apply a perceptron with batch normalization; it cannot train on one cloud."""
    if head.training and len(x) < 2:
        raise ValueError(
            "x: training needs batches of at least 2 clouds (batch normalization in "
            f"the head), found {len(x)}"
        )
    return head(x)
