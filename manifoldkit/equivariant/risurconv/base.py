"""What the classifier and the segmenter of RISurConv share: geometry and layers."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.equivariant._clouds import check_clouds, check_range, split_normals
from manifoldkit.equivariant.risurconv.layers import SurfaceConv
from manifoldkit.equivariant.risurconv.surface_graph import (
    SurfaceGraph,
    build_surface_graph,
)


class SurfaceNet(nn.Module):
    """The layers from points to the coarsest centers; see :class:`RISurConvClassifier`.

    ``axis`` and ``up_neighbors`` say what else of the geometry a network needs: the
    whole cloud along its axis, or the way back to all points.
    """

    axis: str | None = None
    up_neighbors: tuple[int, ...] = ()

    def __init__(
        self,
        sizes: Sequence[int],
        neighbors: Sequence[int],
        channels: Sequence[int],
        *,
        in_normals: bool,
        lra_k: int,
        unsigned_normals: bool,
        norm_axis: str = "neighbors",
    ):
        super().__init__()
        self.in_normals, self.unsigned_normals = bool(in_normals), unsigned_normals
        self.lra_k = check_count(lra_k, "lra_k")
        self.sizes, self.neighbors = tuple(sizes), tuple(neighbors)
        self.layers = nn.ModuleList(
            SurfaceConv(n_in, n_out, norm_axis)
            for n_in, n_out in itertools.pairwise((0, *channels))
        )

    def precompute(self, x: Tensor, normals: Tensor | None = None) -> SurfaceGraph:
        """Compute what depends on the clouds alone.

        Parameters
        ----------
        x : Tensor, shape (B, N, 3) or (N, 3)
            Clouds of equal size, about 1 in their unit (the first of the invariants is
            a length, the others have no unit); with six numbers a point, the last are
            its normal.
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
            up_neighbors=self.up_neighbors,
            unsigned=self.unsigned_normals,
            in_normals=self.in_normals,
            axis_neighbors=self.lra_k,
        )

    def graph_of(
        self, x: Tensor | SurfaceGraph, normals: Tensor | None
    ) -> SurfaceGraph:
        """Return the geometry, computed now or before, in the weights' dtype."""
        like = next(self.parameters())
        if isinstance(x, SurfaceGraph):
            graph = x.to(like.device, like.dtype)
            if self.training:  # running statistics would keep what is not finite
                graph.check_finite()
            return graph
        check_range(check_clouds(split_normals(x, None)[0]), like.dtype)
        return self.precompute(x, normals).to(like.device, like.dtype)

    def levels(self, graph: SurfaceGraph) -> list[Tensor]:
        """Return the features of the centers of each level, from fine to coarse."""
        found: list[Tensor] = []
        for layer, level in zip(self.layers, graph.down, strict=True):
            found.append(layer(level, found[-1] if found else None))
        return found
