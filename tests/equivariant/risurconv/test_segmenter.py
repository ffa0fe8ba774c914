"""RISurConv for parts."""

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from manifoldkit.equivariant import RISurConvSegmenter


def surfaces(b=4, n=120, seed=0, dtype=torch.float64):
    """Bumpy closed surfaces without symmetry."""
    g = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(b, n, 3, generator=g, dtype=torch.float64), dim=-1)
    stretch = 0.5 + torch.rand(b, 1, 3, generator=g, dtype=torch.float64)
    x = u * stretch * (1 + 0.3 * torch.sin(3 * u[..., :1] + 1) * u[..., 1:2])
    return (x - x.mean(1, keepdim=True)).to(dtype), u.to(dtype)


def rotations(b, dtype=torch.float64):
    return torch.from_numpy(Rotation.random(b, random_state=0).as_matrix()).to(dtype)


def trained_statistics(model, *data, **known):
    """Two passes in training mode, so that running statistics are not the initial."""
    model.train()
    for _ in range(2):
        model(*data, **known)
    return model.eval()


def test_segmenter_is_invariant_and_takes_a_category():
    x, n = surfaces(3, 80)
    model = RISurConvSegmenter(6, 2, sizes=(40, 24, 16, 8), neighbors=(6, 6, 8, 8))
    model, category = model.double(), torch.tensor([0, 1, 1])
    trained_statistics(model, x, n, category=category)
    want, r = model(x, n, category=category), rotations(3)
    assert want.shape == (3, 80, 6)
    turned = model(x @ r.mT - 1, n @ r.mT, category=category)
    torch.testing.assert_close(turned, want, rtol=0, atol=1e-9)
    alone = model(x[:1], n[:1], category=category[:1])
    torch.testing.assert_close(alone, want[:1], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="category: expected 3 numbers, found none"):
        model(x, n)
    with pytest.raises(ValueError, match="category: expected integers from 0 to 1"):
        model(x, n, category=torch.tensor([0, 1, 2]))
