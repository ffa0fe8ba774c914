"""What RISurConv computes once a cloud."""

import pytest
import torch
from torch.nn import functional as F

from manifoldkit.equivariant import RISurConvClassifier
from manifoldkit.equivariant.risurconv.surface_graph import (
    prepare_normals,
    surface_hierarchy,
)

SMALL = {"sizes": (40, 24, 16, 8), "neighbors": (6, 6, 8, 8), "n_blocks": 1}


def surfaces(b=4, n=120, seed=0, dtype=torch.float64):
    """Bumpy closed surfaces without symmetry."""
    g = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(b, n, 3, generator=g, dtype=torch.float64), dim=-1)
    stretch = 0.5 + torch.rand(b, 1, 3, generator=g, dtype=torch.float64)
    x = u * stretch * (1 + 0.3 * torch.sin(3 * u[..., :1] + 1) * u[..., 1:2])
    return (x - x.mean(1, keepdim=True)).to(dtype), u.to(dtype)


def trained_statistics(model, *data, **known):
    """Two passes in training mode, so that running statistics are not the initial."""
    model.train()
    for _ in range(2):
        model(*data, **known)
    return model.eval()


def test_first_points_of_an_order_serve_every_level():
    from manifoldkit.equivariant.neighbors.grouping import group
    from manifoldkit.equivariant.neighbors.sampling import farthest_point_sample

    x, _ = surfaces(3, 50)
    order = surface_hierarchy(x, [50, 30, 12])
    assert torch.equal(order.sort(1).values, torch.arange(50).expand(3, 50))
    assert torch.equal(order[:, :30], farthest_point_sample(x, 30))
    within = farthest_point_sample(group(x, order[:, :30]), 12, start=0)
    assert torch.equal(within, torch.arange(12).expand(3, 12))


def test_graphs_are_computed_once_and_scaled():
    x, n = surfaces(3)
    model = trained_statistics(RISurConvClassifier(5, **SMALL).double(), x, n)
    graph = model.precompute(x, n)
    assert torch.equal(model(graph), model(x, n))
    torch.testing.assert_close(model(graph[1:]), model(graph)[1:])
    factor = torch.tensor([0.5, 1.0, 2.0]).double()
    want = model(x * factor[:, None, None], n)
    torch.testing.assert_close(model(graph.scaled(factor)), want)


def test_normals_are_normalized_and_replaced():
    x, n = surfaces(2, 60)
    torch.testing.assert_close(prepare_normals(x, 3 * n), n)
    n[0, 5], n[1, 7] = 0.0, torch.nan
    with pytest.warns(UserWarning, match="2 of 120 are zero or not finite"):
        mended = prepare_normals(x, n)
    torch.testing.assert_close(mended.norm(dim=-1), torch.ones(2, 60).double())
    assert torch.equal(mended[0, 5], prepare_normals(x, None)[0, 5])
