"""The folded convolution against the two convolutions it stands for."""

import copy

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit.spd.layers.filters import SpatioTemporalFilters


def pair(dtype=torch.float64, **options):
    torch.manual_seed(0)
    folded = SpatioTemporalFilters(4, 9, 3, 6, dtype=dtype, **options)
    with torch.no_grad():  # leave the special values of a new batch norm
        for p in folded.parameters():
            p.add_(0.3 * torch.randn_like(p))
    layered = copy.deepcopy(folded)
    layered.folded = False
    return folded, layered


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kernel_size", [1, 5, 6])
def test_folded_is_the_same_function(kernel_size, generator):
    torch.manual_seed(0)
    folded = SpatioTemporalFilters(4, 9, 3, kernel_size, dtype=torch.float64)
    layered = copy.deepcopy(folded)
    layered.folded = False
    options = {"dtype": torch.float64, "generator": generator}
    for _ in range(3):
        x = 5 + 3 * torch.randn(7, 4, 20, **options)
        outputs = [layer(x) for layer in (folded, layered)]
        close(*outputs)
        for y in outputs:
            (y**3).sum().backward()
    for (name, p), q in zip(
        folded.named_parameters(), layered.parameters(), strict=True
    ):
        # biases in front of a normalization have no effect: rounding only
        scale = float(q.grad.abs().max()) + 1.0
        assert (p.grad - q.grad).abs().max() < 1e-9 * scale, name
    for a, b in zip(folded.buffers(), layered.buffers(), strict=True):
        close(a, b)
    x = torch.randn(2, 3, 4, 20, **options)
    close(folded.eval()(x), layered.eval()(x))


def test_gradients(generator):
    folded, _ = pair()
    x = torch.randn(2, 4, 8, dtype=torch.float64, generator=generator)
    folded.eval()
    assert gradcheck(folded, (x.requires_grad_(),))
    folded.train()
    assert gradcheck(folded, (x,))


def test_float32_and_half(generator):
    folded, layered = pair(torch.float32)
    x = torch.randn(5, 4, 20, generator=generator)
    torch.testing.assert_close(folded(x), layered(x), rtol=1e-4, atol=1e-4)
    assert folded(x.bfloat16()).dtype == torch.bfloat16


def test_bad_input():
    layer = SpatioTemporalFilters(4, 9, 3, 6)
    with pytest.raises(ValueError, match=r"shape \(..., 4, n_times\), found \(3, 20\)"):
        layer(torch.zeros(3, 20))
    with pytest.raises(ValueError, match="more than one value a channel"):
        layer(torch.zeros(1, 4, 1))
    with pytest.raises(ValueError, match="n_spatial: expected an integer"):
        SpatioTemporalFilters(4, 0)
