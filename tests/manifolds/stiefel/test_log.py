"""The logarithm of far points, where shooting fails."""

import warnings

import pytest
import torch

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.manifolds import Stiefel


def _pair(manifold, shape, distance, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = manifold.random(*shape, dtype=torch.float64, generator=generator).data
    u = torch.randn(shape, dtype=torch.float64, generator=generator)
    u = manifold.proju(x, u)
    u = u * (distance / manifold.norm(x, u, keepdim=True))
    return x.to(dtype), u.to(dtype), manifold.expmap(x, u).to(dtype)


@pytest.mark.parametrize("metric", ["euclidean", "canonical"])
@pytest.mark.parametrize(
    "shape", [(2, 5, 5, 3), (10, 10, 2), (4, 4), (7, 1), (2, 9, 5)]
)
@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_are_reached_on_the_shortest_way(metric, shape, distance, dtype):
    manifold = Stiefel(metric)
    x, _, y = _pair(manifold, shape, distance, dtype)
    v = manifold.logmap(x, y)
    assert v.dtype == dtype
    tol = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(manifold.expmap(x, v), y, rtol=0, atol=tol)
    assert manifold.check_vector_on_tangent(x, v)
    assert float(manifold.norm(x, v).max()) <= distance + 1e-3


@pytest.mark.parametrize("metric", ["euclidean", "canonical"])
@pytest.mark.parametrize("shape", [(5, 2), (3, 3)])
def test_derivatives_where_newton_steps_solve(metric, shape):
    manifold = Stiefel(metric)
    x, _, y = _pair(manifold, shape, 2.2)

    def log(dx, dy):
        return manifold.logmap(manifold.projx(x + dx), manifold.projx(y + dy))

    zeros = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for _ in "xy"]
    assert torch.autograd.gradcheck(log, zeros, atol=1e-5, fast_mode=True)


def test_one_pair_that_is_missed_leaves_the_others():
    manifold = Stiefel("canonical")
    x, _, y = _pair(manifold, (3, 6, 3), 2.2)
    alone = manifold.logmap(x, y)
    bad = y.clone()
    bad[1] = 3 * bad[1]  # not on the manifold: out of reach
    with pytest.warns(ConvergenceWarning, match="missed its target"):
        v = manifold.logmap(x, bad)
    torch.testing.assert_close(v[[0, 2]], alone[[0, 2]], rtol=0, atol=1e-10)
    assert torch.isfinite(v).all()
    bad[1] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        v = manifold.logmap(x, bad)
    torch.testing.assert_close(v[[0, 2]], alone[[0, 2]], rtol=0, atol=1e-10)
