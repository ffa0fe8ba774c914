"""The pair frame: weighted, continuous, exact on symmetric clouds."""

import math

import pytest
import torch
from frame_cases import CUBE, LINE, Backbone, cloud

from manifoldkit.equivariant import FrameAveraging, pair_frame


@pytest.mark.parametrize("group", ["SE(3)", "E(3)", "SE(2)", "E(2)", "SO(3)", "O(2)"])
def test_pair_frames_are_rotations_with_weights(group):
    d = int(group[-2])
    x = cloud(2, 5, d)
    frame = pair_frame(x, group)
    size = {2: 5, 3: 20}[d] * (2 if group[0] in "EO" else 1)
    assert frame.R.shape == (2, size, d, d)
    eye = torch.eye(d).double().expand(2, size, d, d)
    assert torch.allclose(frame.R @ frame.R.mT, eye)
    assert torch.allclose(frame.log_weights.exp().sum(1), torch.ones(2).double())
    assert not frame.degenerate.any()


def test_pair_frame_is_continuous_at_the_cube():
    net = Backbone().double()
    step = 1e-6 * cloud(8, 3, seed=4)
    smooth = FrameAveraging(net, "SE(3)", out_types="vector", frame="pair")
    jumpy = FrameAveraging(net, "SE(3)", out_types="vector", on_degenerate="ignore")
    assert (smooth(CUBE + step) - smooth(CUBE)).abs().max() < 1e-4
    assert (jumpy(CUBE + step) - jumpy(CUBE)).abs().max() > 1e-3


def test_drawn_pairs_are_right_in_expectation():
    x = cloud(1, 12, 3)
    net = Backbone().double()
    torch.manual_seed(0)
    exact = FrameAveraging(net, out_types="vector", frame="pair")(x)
    some = FrameAveraging(net, out_types="vector", frame="pair", n_pairs=40)
    draws = torch.stack([some(x) for _ in range(200)])
    error = draws.std(0) / math.sqrt(200) + 1e-9
    assert ((draws.mean(0) - exact).abs() / error).max() < 5


def test_collinear_pairs_raise_or_fall_back():
    with pytest.raises(ValueError, match="line"):
        pair_frame(LINE, on_collinear="raise")
    assert pair_frame(LINE).log_weights.isfinite().sum() == 4
