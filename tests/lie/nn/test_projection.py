"""Projection of feature maps on a group: the formulas, errors."""

import pytest
import torch

from manifoldkit.lie import GLPlus
from manifoldkit.lie.nn import GroupProject2d, LocalBox, SampledGroup
from manifoldkit.lie.nn.kernels import kernel_grid, window_values

DOUBLE = {"dtype": torch.float64}


@pytest.fixture
def samples(generator):
    return SampledGroup(GLPlus(2), 3, LocalBox(1.0, 0.5)).double().sample(3, generator)


def test_learned_projection_is_the_stated_sum(samples, generator):
    f = torch.randn(2, 4, 3, 5, 6, generator=generator, **DOUBLE)
    project = GroupProject2d(4, 2, 3, hidden=8, n_hidden=1, w0=3.0).double()
    out = project(f, samples)
    expected = torch.zeros_like(out)
    for i, g in enumerate(samples.g):
        seen = (torch.linalg.inv(g) @ kernel_grid(3, **DOUBLE).T).T
        k = project.network(seen).unflatten(-1, (2, 4))
        window = window_values(seen, project.window)
        k = k * (window * samples.weight[i] / g.det())[:, None, None]
        for p in range(9):
            row, column = divmod(p, 3)
            patch = f[:, :, i, row : row + 3, column : column + 4]
            expected += torch.einsum("oc,bchw->bohw", k[p], patch)
    torch.testing.assert_close(out, expected + project.bias.view(-1, 1, 1))


def test_mean_and_largest_value(samples, generator):
    f = torch.randn(2, 4, 3, 5, 6, generator=generator, **DOUBLE)
    mean = GroupProject2d(4, mode="mean")(f, samples)
    torch.testing.assert_close(mean, (f * samples.weight.view(-1, 1, 1)).sum(2))
    torch.testing.assert_close(GroupProject2d(4, mode="max")(f, samples), f.amax(2))


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="mode: expected one of"):
        GroupProject2d(4, mode="sum")
    with pytest.raises(ValueError, match="keeps the channels"):
        GroupProject2d(4, 2, mode="mean")
