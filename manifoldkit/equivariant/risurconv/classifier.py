"""RISurConv: rotation-invariant convolutions on local surfaces, and a classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count
from manifoldkit.equivariant._clouds import check_clouds, sorted_batch, split_normals
from manifoldkit.equivariant.risurconv.base import SurfaceNet
from manifoldkit.equivariant.risurconv.layers import SurfaceConv, apply_head, dense
from manifoldkit.equivariant.risurconv.surface_graph import (
    SurfaceGraph,
    SurfaceLevel,
    stack_graphs,
)


class RISurConvClassifier(SurfaceNet):
    """Rotation-invariant point-cloud classifier.

    Four layers of :class:`RISurConvLayer` and one over the whole cloud, residual
    blocks, and a perceptron. Unlike the released code, which attends across the
    samples of a batch and leaves the sign of axes to the eigensolver, the scores of a
    cloud depend on nothing but the cloud, and do not change when it is turned.

    The unit of the coordinates is part of what is learned: give clouds in one unit,
    or divided by their radius, as the scikit-learn faces do by themselves.

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
        What attention weights are normalized over, see :class:`RISurConvLayer`.
    sizes, neighbors, channels : sequence of int, optional
        Centers and neighbors of the four levels, and channels of the five layers.
    dropout : float, default=0.4
        Share of features dropped in the perceptron.

    Notes
    -----
    ``torch.func.grad`` and ``vjp`` work; ``vmap`` does not (the geometry reads values),
    nor does forward mode in training. ``torch.export`` gives plain torch operations for
    any number of clouds.

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
        super().__init__(
            sizes,
            neighbors,
            channels[:-1],
            in_normals=in_normals,
            lra_k=lra_k,
            unsigned_normals=unsigned_normals,
            norm_axis=norm_axis,
        )
        self.n_classes, self.axis = check_count(n_classes, "n_classes"), axis
        width = channels[-1]
        self.whole = SurfaceConv(channels[-2], width)
        self.tokens = nn.Linear(channels[-2], width) if head == "tokens" else None
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, max(width // 64, 1), 4 * width, dropout=0.05, batch_first=True
            )
            for _ in range(n_blocks)
        )
        self.head = nn.Sequential(
            *dense(width, width // 2, dropout),
            *dense(width // 2, width // 4, dropout),
            nn.Linear(width // 4, n_classes),
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
        graph = self.graph_of(x, normals)
        if graph.whole is None:
            raise ValueError("x: expected a graph made by this network's precompute")
        return self._pool(graph.whole, self.levels(graph)[-1])

    def _pool(self, whole: SurfaceLevel, h: Tensor) -> Tensor:
        # each direction of the axis is a cloud of its own
        b, signs = whole.index.shape[:2]
        apart = whole.map(lambda x: x.flatten(0, 1)[:, None])
        pooled = self.whole(apart, h.repeat_interleave(signs, 0))
        pooled = pooled.view(b, signs, pooled.shape[-1]).mean(1)
        tokens = pooled[:, None]
        if self.tokens is not None:
            tokens = torch.cat([tokens, self.tokens(h)], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]

    def _ragged_features(
        self, x: Tensor | SurfaceGraph, normals: Tensor | None, batch: Tensor
    ) -> Tensor:
        """Clouds whose levels have equal sizes go through the network together."""
        if isinstance(x, SurfaceGraph):
            raise TypeError("x: expected points beside batch, found a SurfaceGraph")
        x, normals = split_normals(x, normals)
        check_clouds(x)
        sizes = torch.bincount(sorted_batch(batch, len(x))).tolist()
        directions = [None] * len(sizes) if normals is None else normals.split(sizes)
        graphs = list(map(self.precompute, x.split(sizes), directions))
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
        return apply_head(self.head, self.features(x, normals, batch=batch))
