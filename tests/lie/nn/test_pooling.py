"""Pooling over space and samples."""

import pytest
import torch

from manifoldkit.lie import GLPlus
from manifoldkit.lie.nn import GroupPool, SampledGroup


@pytest.mark.parametrize("space", ["max", "mean", "none"])
@pytest.mark.parametrize("group", ["max", "mean", "none"])
def test_against_plain_reductions(space, group):
    samples = SampledGroup(GLPlus(2), 5)()
    f = torch.randn(2, 3, 5, 4, 6)
    expected = f
    if group == "mean":
        expected = (expected * samples.weight.view(-1, 1, 1)).sum(2, keepdim=True)
    if space == "none" and group == "max":
        expected = f.amax(2, keepdim=True)
    if space == "mean":
        expected = expected.mean((-2, -1), keepdim=True)
    if space == "max":
        f_max = f.amax((-2, -1), keepdim=True)
        expected = f_max
        if group == "mean":
            expected = (f_max * samples.weight.view(-1, 1, 1)).sum(2, keepdim=True)
    if group == "max":
        expected = expected.amax(2, keepdim=True)
    out = GroupPool(space, group)(f, samples)
    shape = (
        2,
        3,
        *([5] if group == "none" else []),
        *([4, 6] if space == "none" else []),
    )
    torch.testing.assert_close(out, expected.reshape(shape))


def test_order_of_samples_does_not_matter():
    samples = SampledGroup(GLPlus(2), 5)()
    order = torch.randperm(5)
    moved = type(samples)(
        samples.group, samples.g[order], samples.g_inv[order], samples.weight[order]
    )
    f = torch.randn(2, 3, 5, 4, 6)
    for group in ("max", "mean"):
        pool = GroupPool("max", group)
        torch.testing.assert_close(pool(f[:, :, order], moved), pool(f, samples))


def test_bad_input():
    with pytest.raises(ValueError, match="space"):
        GroupPool("sum")
    with pytest.raises(ValueError, match="group"):
        GroupPool("max", "sum")
    with pytest.raises(ValueError, match="samples"):
        GroupPool("max", "mean")(torch.zeros(1, 2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"f: .*\(B, C, N, H, W\)"):
        GroupPool()(torch.zeros(1, 2, 3, 4))
