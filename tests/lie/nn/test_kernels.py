"""Where kernels are evaluated, windows, and the other kernel networks."""

import pytest
import torch

from manifoldkit.lie.nn import FourierKernel, GaussianKernel
from manifoldkit.lie.nn.kernels import kernel_grid, kernel_network, window_values

FORM = {"fan_in": 9.0, "hidden": 16, "n_hidden": 1, "w0": 5.0}


def test_grid_runs_along_columns_first():
    x, y = kernel_grid(3, dtype=torch.float64).T.unflatten(1, (3, 3))
    line = torch.tensor([-2 / 3, 0, 2 / 3], dtype=torch.float64)
    torch.testing.assert_close(x, line.expand(3, 3))
    torch.testing.assert_close(y, line[:, None].expand(3, 3))
    assert kernel_grid(3, n=3).shape == (27, 3)
    assert kernel_grid(1).tolist() == [[0.0, 0.0]]


def test_windows():
    points = torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.8, 0.8]])
    assert window_values(points, "hard").tolist() == [1, 1, 0]
    assert window_values(points, "none").tolist() == [1, 1, 1]
    smooth = window_values(points, "smooth")
    torch.testing.assert_close(smooth[:2], torch.sigmoid(torch.tensor([2.0, 0.0])))
    assert smooth[2] < smooth[1]


@pytest.mark.parametrize("kind", ["siren", "fourier", "gaussian"])
def test_kernel_networks_are_smooth_and_scaled(kind):
    torch.manual_seed(0)
    net = kernel_network(kind, 6, 300, **FORM)
    x = 2 * torch.rand(200, 6) - 1
    assert net(x).shape == (200, 300)
    # of the order of 1 / fan_in; bumps overlap little in six dimensions
    assert 1e-4 < net(x).var().item() < 0.4
    net = net.double()
    z = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: net(z)[..., :3], z)


def test_a_kernel_of_ones_own():
    made = {}

    def factory(n_in, n_out, scale):
        made.update(n_in=n_in, n_out=n_out, scale=scale)
        return torch.nn.Linear(n_in, n_out)

    assert isinstance(kernel_network(factory, 6, 8, **FORM), torch.nn.Linear)
    assert made == {"n_in": 6, "n_out": 8, "scale": (6 / 16) ** 0.5 / 3}


def test_bad_input():
    with pytest.raises(ValueError, match=r"kernel: .*'wavelet'"):
        kernel_network("wavelet", 6, 8, **FORM)
    with pytest.raises(ValueError, match="hidden: expected an even"):
        FourierKernel(2, 7, 3)
    with pytest.raises(ValueError, match="out_features"):
        GaussianKernel(2, 7, 0)
