"""The networks that the point-cloud estimators know by name, and their geometry."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from manifoldkit._faces.estimator import seeded
from manifoldkit.equivariant.frames.averaging import FrameAveraging
from manifoldkit.equivariant.frames.models import FramePointNet, PointNetBackbone
from manifoldkit.equivariant.parot.classifier import PaRotClassifier
from manifoldkit.equivariant.parot.segmenter import PaRotSegmenter
from manifoldkit.equivariant.risurconv.classifier import RISurConvClassifier
from manifoldkit.equivariant.risurconv.segmenter import RISurConvSegmenter
from manifoldkit.equivariant.risurconv.surface_graph import (
    SurfaceGraph,
    stack_graphs,
)

_BLOCK = 32  # clouds whose geometry is computed together
_ANY_SIGN = {"unsigned_normals": True}  # meshes' normals rarely agree on a side


class FramePartNet(nn.Module):
    """PointNet for parts, alone or averaged over the frames of the cloud."""

    def __init__(self, n_parts: int, frames: bool, width: float = 1.0):
        super().__init__()
        net = PointNetBackbone(3, n_parts, True, width)
        self.net = (
            FrameAveraging(net, "SO(3)", ("position",), "scalar") if frames else net
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return part scores (B, N, n_parts)."""
        return self.net(x)


class PlainPointNet(PointNetBackbone):
    """PointNet for classification: the baseline without any invariance."""

    def __init__(self, n_classes: int, width: float = 1.0):
        super().__init__(3, n_classes, False, width)


def seeded_network(
    random_state: int | np.random.RandomState | None, make: Callable[[], nn.Module]
) -> nn.Module:
    """Build a network with initial weights that follow from ``random_state``."""
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    with seeded(seed, "cpu"):
        return make()


def make_classifier(model: str, n_classes: int, options: dict) -> nn.Module:
    """Build a classification network by name."""
    if model == "risurconv":
        return RISurConvClassifier(n_classes, **{**_ANY_SIGN, **options})
    if model == "parot":
        return PaRotClassifier(n_classes, **options)
    if model == "pointnet-frames":
        options = {"group": "SO(3)", **options}
        return FramePointNet("classification", n_classes, **options)
    return PlainPointNet(n_classes, **options)


def make_segmenter(
    model: str, n_parts: int, n_categories: int, options: dict
) -> nn.Module:
    """Build a segmentation network by name."""
    if model == "risurconv":
        return RISurConvSegmenter(n_parts, n_categories, **{**_ANY_SIGN, **options})
    if model == "parot":
        return PaRotSegmenter(n_parts, n_categories, **options)
    return FramePartNet(n_parts, model == "pointnet-frames", **options)


def geometry(network: nn.Module, x: Tensor, normals: Tensor | None) -> SurfaceGraph:
    """Compute the surface graphs of many clouds, block by block, in single precision.

    Single precision halves the memory; the geometry itself is computed in double.
    """
    dtype = next(network.parameters()).dtype
    parts = []
    for rows in torch.arange(len(x)).split(_BLOCK):
        n = None if normals is None else normals[rows]
        with torch.no_grad():
            parts.append(network.precompute(x[rows], n).to(dtype=dtype))  # type: ignore[operator]
    return stack_graphs(parts)
