"""RISurConv: rotation-invariant convolutions on local surfaces, and a classifier."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit.equivariant._batch_norms import (
    eval_affine,
    norm_relu_max,
    normalized_weight,
)
from manifoldkit.equivariant._clouds import (
    check_clouds,
    sorted_batch,
    split_normals,
)
from manifoldkit.equivariant._offset_attention import OffsetAttention
from manifoldkit.equivariant.indexed_surfaces import (
    order_neighbors,
    surface_features,
)
from manifoldkit.equivariant.local_surfaces import N_FEATURES
from manifoldkit.equivariant.neighbors import group, group_rows
from manifoldkit.equivariant.surface_graph import (
    SurfaceGraph,
    SurfaceLevel,
    build_surface_graph,
    prepare_normals,
    stack_graphs,
    surface_hierarchy,
    surface_level,
)
from manifoldkit.linalg.checks import check_choice, check_count

__all__ = [
    "RISurConvClassifier",
    "RISurConvLayer",
    "SurfaceConv",
    "SurfaceEmbedding",
    "order_neighbors",
    "surface_features",
]

_EMBED = (32, 64)


class SurfaceEmbedding(nn.Module):
    """Two linear maps with batch normalization after each, then ReLU.

    Nothing non-linear stands between the maps, so the statistics of both follow from
    the mean and covariance of the input, and one map is evaluated instead of two.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(N_FEATURES, _EMBED[0], bias=False)
        self.norm1 = nn.BatchNorm1d(_EMBED[0])
        self.second = nn.Linear(*_EMBED, bias=False)
        self.norm2 = nn.BatchNorm1d(_EMBED[1])

    def forward(self, x: Tensor) -> Tensor:
        """Embed features (..., 14) as (..., 64)."""
        if not self.training:
            scale1, offset1 = eval_affine(self.norm1)
            scale2, offset2 = eval_affine(self.norm2)
            second = scale2[:, None] * self.second.weight
            weight = second @ (scale1[:, None] * self.first.weight)
            return F.relu(F.linear(x, weight, second @ offset1 + offset2))
        rows = x.reshape(-1, x.shape[-1])
        mean = rows.mean(0)
        centered = rows - mean
        cov = centered.T @ centered / len(rows)
        first, second, n = self.first.weight, self.second.weight, len(rows)
        weight = second @ normalized_weight(first, cov, first @ mean, self.norm1, n)
        middle = second @ self.norm1.bias
        weight = normalized_weight(weight, cov, middle, self.norm2, n)
        # the first offset is normalized away; its gradient is zero, not absent
        out = F.linear(centered, weight, self.norm2.bias + 0.0 * middle)
        return F.relu_(out).view(*x.shape[:-1], -1)


class SurfaceConv(nn.Module):
    """Embedding, attention in the neighborhood, joining features, and pooling.

    Parameters
    ----------
    in_channels, out_channels : int
        Features a point before (0 for none) and after.
    norm_axis : {"neighbors", "points"}
        Of the attention in the neighborhood.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_axis="neighbors"):
        super().__init__()
        self.embed = SurfaceEmbedding()
        self.around = OffsetAttention(_EMBED[1], norm_axis)
        self.mix = nn.Linear(_EMBED[1] + in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)
        self.between = OffsetAttention(out_channels)

    def forward(self, level: SurfaceLevel, features: Tensor | None = None) -> Tensor:
        """Return features (B, S, out_channels) of the centers."""
        h = self.around(self.embed(level.features))
        surface, rest = self.mix.weight.split([_EMBED[1], self.mix.in_features - 64], 1)
        tokens = h.reshape(-1, _EMBED[1])
        if features is None:
            rows = tokens @ surface.T
        else:  # mixed before they are gathered: fewer rows
            before = F.linear(features, rest)
            rows = group_rows(before, level.index)
            rows = rows.addmm_(tokens.to(rows.dtype), surface.T.to(rows.dtype))
        mixed = rows.view(*h.shape[:-1], -1)
        return self.between(norm_relu_max(self.norm, mixed, self.mix.bias))


class RISurConvLayer(nn.Module):
    r"""Rotation-invariant convolution on local surfaces.

    Centers are sampled by farthest points, the neighbors of each are ordered around
    its normal and described by 14 invariants (:func:`surface_features`). These are
    embedded, refined by attention inside the neighborhood, joined with the features
    of the neighbors, max-pooled, and refined by attention among the centers.

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
            Points.
        normals : Tensor, shape (B, N, 3), optional
            Default: estimated axes.
        features : Tensor, shape (B, N, in_channels), optional
            Features of the points.

        Returns
        -------
        tuple of Tensor
            Centers and their normals, (B, S, 3), and features (B, S, out_channels).
        """
        points = check_clouds(x).double()
        directions = None if normals is None else normals.double()
        directions = prepare_normals(points, directions)
        order = surface_hierarchy(points, [min(self.n_centers, points.shape[1])])
        centers, center_normals = group(points, order), group(directions, order)
        level = surface_level(
            points, directions, centers, center_normals, self.k, self.unsigned_normals
        )
        dtype = self.conv.mix.weight.dtype
        level = level.map(lambda t: t.to(dtype) if t.is_floating_point() else t)
        out = self.conv(level, None if features is None else features.to(dtype))
        return centers.to(x.dtype), center_normals.to(x.dtype), out


class RISurConvClassifier(nn.Module):
    """Rotation-invariant point-cloud classifier.

    Four layers of :class:`RISurConvLayer` and one over the whole cloud, residual
    blocks, and a perceptron. Unlike the released code, which attends across the
    samples of a batch and leaves the sign of axes to the eigensolver, the scores of a
    cloud depend on nothing but the cloud, and do not change when it is turned.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    scale : {1, 2}
        512, 256, 128, 64 centers, or twice as many.
    in_normals : bool, default=True
        Whether given normals are used; False takes estimated axes in any case.
    head : {"mlp", "tokens"}
        The residual blocks see the pooled vector alone, where their attention is
        trivial, or also the centers of the last level.
    n_blocks : int, default=3
        Residual (transformer) blocks; the published network has three.
    lra_k : int, default=32
        Neighbors of the axes that stand in for missing normals.
    unsigned_normals : bool, default=False
        Use features that do not depend on the signs of normals.
    axis : {"both", "moment"}
        How the sign of the whole cloud's axis is dealt with: average over both, or
        the sign of the third moment.
    norm_axis : {"neighbors", "points"}
        As in :class:`RISurConvLayer`.
    sizes, neighbors, channels : sequence of int, optional
        Centers and neighbors of the four levels, and channels of the five layers.
    dropout : float, default=0.4
        In the perceptron.

    References
    ----------
    .. [1] Z. Zhang, L. Yang, Z. Xiang, "RISurConv: rotation invariant surface
       attention-augmented convolutions for 3D point cloud classification and
       segmentation", ECCV 2024.

    Examples
    --------
    >>> model = RISurConvClassifier(5, sizes=(32, 16, 8, 8)).eval()
    >>> x = torch.randn(2, 64, 3)
    >>> turned = x @ torch.linalg.qr(torch.randn(3, 3))[0].T
    >>> graph = model.precompute(x)  # once a cloud
    >>> model(graph).shape, torch.equal(model(graph), model(x))
    (torch.Size([2, 5]), True)
    """

    def __init__(
        self,
        n_classes: int,
        scale: int = 1,
        *,
        in_normals: bool = True,
        head: str = "mlp",
        n_blocks: int = 3,
        lra_k: int = 32,
        unsigned_normals: bool = False,
        axis: str = "both",
        norm_axis: str = "neighbors",
        sizes: Sequence[int] | None = None,
        neighbors: Sequence[int] = (8, 16, 32, 64),
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        dropout: float = 0.4,
    ):
        super().__init__()
        check_choice(head, ("mlp", "tokens"), "head")
        check_choice(axis, ("both", "moment"), "axis")
        check_choice(scale, (1, 2), "scale")
        if sizes is None:
            sizes = [n * scale for n in (512, 256, 128, 64)]
        if not len(sizes) == len(neighbors) == len(channels) - 1:
            raise ValueError(
                "sizes, neighbors, channels: expected n, n and n + 1 numbers, found "
                f"{len(sizes)}, {len(neighbors)} and {len(channels)}"
            )
        check_count(n_classes, "n_classes")
        self.n_classes, self.lra_k = n_classes, check_count(lra_k, "lra_k")
        self.in_normals = bool(in_normals)
        self.unsigned_normals, self.axis = unsigned_normals, axis
        self.sizes, self.neighbors = tuple(sizes), tuple(neighbors)
        before = (0, *channels)
        self.layers = nn.ModuleList(
            SurfaceConv(n_in, n_out, norm_axis)
            for n_in, n_out in zip(before[:-2], channels[:-1], strict=True)
        )
        self.whole = SurfaceConv(channels[-2], channels[-1])
        width = channels[-1]
        self.tokens = nn.Linear(channels[-2], width) if head == "tokens" else None
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, max(width // 64, 1), 4 * width, dropout=0.05, batch_first=True
            )
            for _ in range(n_blocks)
        )
        self.head = nn.Sequential(
            *_dense(width, width // 2, dropout),
            *_dense(width // 2, width // 4, dropout),
            nn.Linear(width // 4, n_classes),
        )

    def precompute(self, x: Tensor, normals: Tensor | None = None) -> SurfaceGraph:
        """Compute what depends on the clouds alone.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3) or (N, 3)
            Clouds of equal size; with six numbers a point, the last are its normal.
        normals : Tensor, same shape, optional
            Normals of any length; zeros and NaN are replaced by estimated axes.

        Returns
        -------
        SurfaceGraph
            Pass it to the network as often as needed.
        """
        return build_surface_graph(
            x,
            normals,
            self.sizes,
            self.neighbors,
            axis=self.axis,
            unsigned=self.unsigned_normals,
            in_normals=self.in_normals,
            axis_neighbors=self.lra_k,
        )

    def features(
        self,
        x: Tensor | SurfaceGraph,
        normals: Tensor | None = None,
        *,
        batch: Tensor | None = None,
    ) -> Tensor:
        """Return the invariant vector of each cloud, (B, channels[-1])."""
        if batch is not None:
            return self._ragged_features(x, normals, batch)
        graph = x if isinstance(x, SurfaceGraph) else self.precompute(x, normals)
        if graph.whole is None:
            raise ValueError("x: expected a graph made by this network's precompute")
        like = self.whole.mix.weight
        graph = graph.to(like.device, like.dtype)
        h: Tensor | None = None
        for layer, level in zip(self.layers, graph.down, strict=True):
            h = layer(level, h)
        return self._pool(graph.whole, h)

    def _pool(self, whole, h) -> Tensor:
        # each direction of the axis is a cloud of its own
        b, signs = whole.index.shape[:2]
        apart = whole.map(lambda x: x.flatten(0, 1)[:, None])
        pooled = self.whole(apart, h.repeat_interleave(signs, 0))
        pooled = pooled.view(b, signs, -1).mean(1)
        tokens = pooled[:, None]
        if self.tokens is not None:
            tokens = torch.cat([tokens, self.tokens(h)], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]

    def _ragged_features(self, x, normals, batch) -> Tensor:
        """Clouds whose levels have equal sizes go through the network together."""
        x, normals = split_normals(x, normals)
        check_clouds(x)
        sizes = torch.bincount(sorted_batch(batch, len(x))).tolist()
        clouds = x.split(sizes)
        directions = [None] * len(sizes) if normals is None else normals.split(sizes)
        graphs = [
            self.precompute(*cloud) for cloud in zip(clouds, directions, strict=True)
        ]
        alike: dict[tuple, list[int]] = {}
        for i, graph in enumerate(graphs):
            shapes = tuple(t.shape for t in graph.tensors())
            alike.setdefault(shapes, []).append(i)
        parts = [
            self.features(stack_graphs([graphs[i] for i in rows]))
            for rows in alike.values()
        ]
        order = torch.tensor([i for rows in alike.values() for i in rows])
        return torch.cat(parts)[order.argsort().to(parts[0].device)]

    def forward(
        self,
        x: Tensor | SurfaceGraph,
        normals: Tensor | None = None,
        *,
        batch: Tensor | None = None,
    ) -> Tensor:
        """Return class scores.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3), (B, N, 6) or (N, 3), or SurfaceGraph
            Clouds (six numbers: points with normals), or what :meth:`precompute`
            returned for them.
        normals : Tensor, same shape, optional
            Default: estimated axes.
        batch : Tensor of int, shape (N,), optional
            Cloud of each point, sorted, for clouds of different sizes.

        Returns
        -------
        Tensor, shape (B, n_classes)
            Logits.
        """
        return _head(self.head, self.features(x, normals, batch=batch))


def _dense(n_in: int, n_out: int, dropout: float) -> list[nn.Module]:
    return [
        nn.Linear(n_in, n_out),
        nn.BatchNorm1d(n_out),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]


def _head(head: nn.Sequential, x: Tensor) -> Tensor:
    if head.training and len(x) < 2:
        raise ValueError(
            "x: training needs batches of at least 2 clouds (batch normalization in "
            f"the head), found {len(x)}"
        )
    return head(x)
