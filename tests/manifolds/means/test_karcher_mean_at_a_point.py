"""A mean that is one of the points, and metrics whose cost is rough."""

import pytest
import torch

from manifoldkit.manifolds import SPD, SpecialOrthogonal, Sphere, tangent_basis
from manifoldkit.optim import karcher_mean


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_may_be_one_of_the_points(dtype):
    t = torch.linspace(0, 1, 9, dtype=dtype)
    y = torch.stack([t.cos(), t.sin(), 0 * t], -1)
    found = karcher_mean(Sphere(), y)
    assert bool(found.converged)
    torch.testing.assert_close(found.mean, y[4])
    a = torch.zeros(9, 3, 3, dtype=dtype)
    a[:, 0, 1], a[:, 1, 0] = -t, t
    r = torch.linalg.matrix_exp(a)
    torch.testing.assert_close(karcher_mean(SpecialOrthogonal(), r).mean, r[4])


@pytest.mark.filterwarnings("error")
def test_bures_wasserstein_means_of_close_points_converge():
    g = torch.Generator().manual_seed(0)
    manifold = SPD("bw")
    for _ in range(4):
        x = manifold.random(3, 3, dtype=torch.float64, generator=g)
        basis = tangent_basis(manifold, x)
        c = 0.05 * torch.randn(8, 6, dtype=torch.float64, generator=g)
        u = torch.tensordot(c, basis, 1)
        y = manifold.expmap(x.expand_as(u), u).as_subclass(torch.Tensor)
        assert bool(karcher_mean(manifold, y).converged)
