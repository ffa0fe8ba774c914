"""Offset attention against its formula."""

import copy

import pytest
import torch
from torch.nn import functional as F

from manifoldkit.equivariant.risurconv import offset_attention
from manifoldkit.equivariant.risurconv.offset_attention import OffsetAttention


def test_published_axis_of_the_normalizer_mixes_neighborhoods():
    """Why ``norm_axis="points"`` is not the default."""
    h = torch.randn(1, 6, 5, 16, generator=torch.Generator().manual_seed(0)).double()
    for axis, leaks in (("points", True), ("neighbors", False)):
        block = OffsetAttention(16, axis).double().eval()
        other = h.clone()
        other[:, 3:] = 0
        moved = (block(h) - block(other))[:, :3].abs().max() > 1e-6
        assert bool(moved) == leaks


def literal_attention(block, h):
    q, k, v = block.query(h), block.key(h), block.value(h)
    p = (q @ k.mT).softmax(-1)
    p = p / (1e-9 + p.sum(-2, keepdim=True))
    out = block.transform(h - p.mT @ v)
    flat = block.norm(out.reshape(-1, out.shape[-1])).view(out.shape)
    return h + F.relu(flat)


@pytest.mark.parametrize("training", [True, False])
def test_attention_equals_its_formula(training, monkeypatch):
    monkeypatch.setattr(offset_attention, "ROWS", 4)  # several blocks of rows
    h = torch.randn(3, 11, 8, generator=torch.Generator().manual_seed(0)).double()
    block = OffsetAttention(8).double().train(training)
    twin = copy.deepcopy(block)
    torch.testing.assert_close(block(h), literal_attention(twin, h))
    torch.testing.assert_close(block.norm.running_var, twin.norm.running_var)
