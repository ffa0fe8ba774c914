"""Frames from a network."""

import torch
from frame_cases import cloud

from manifoldkit.equivariant import FrameAveraging


def test_learned_axes_of_half_precision_points():
    net = FrameAveraging(
        lambda x: x, out_types="position", frame="learned", on_degenerate="ignore"
    )
    x = cloud(2, 6, 3).bfloat16()
    assert net(x).dtype == torch.bfloat16
    assert torch.allclose(net(x), x, atol=0.05)
