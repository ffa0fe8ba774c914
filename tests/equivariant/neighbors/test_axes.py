"""Estimated axes."""

import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant.neighbors import estimate_axes


def cloud(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rotation(seed=0):
    return torch.from_numpy(Rotation.random(random_state=seed).as_matrix())


def test_axes_are_normals_and_turn_with_the_cloud():
    u = cloud(1, 300, 3)
    u = u / u.norm(dim=-1, keepdim=True)
    x = u * torch.tensor([1.0, 0.8, 0.6])
    axes, gap = estimate_axes(x, 24)
    normal = u / torch.tensor([1.0, 0.8, 0.6])
    normal = normal / normal.norm(dim=-1, keepdim=True)
    assert (axes * normal).sum(-1).median() > 0.97  # outward as well
    assert bool((gap > 0.05).double().mean() > 0.95)
    r = rotation(3)
    turned, _ = estimate_axes(x @ r.T, 24)
    torch.testing.assert_close(turned, axes @ r.T, rtol=0, atol=1e-9)
    unsigned, _ = estimate_axes(x, 24, orient="none")
    torch.testing.assert_close(
        (unsigned * axes).sum(-1).abs(), torch.ones(1, 300).double()
    )


def test_axes_of_degenerate_clouds_are_finite():
    axes, gap = estimate_axes(torch.zeros(5, 3))
    assert torch.equal(axes, torch.tensor([0.0, 0.0, 1.0]).expand(5, 3))
    line = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    axes, gap = estimate_axes(line, 5)
    assert bool(axes.isfinite().all())
    assert bool((gap.abs() < 1e-6).all())
    assert bool(estimate_axes(torch.ones(1, 3))[0].isfinite().all())
