"""PaRot for parts."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant import PaRotSegmenter

SMALL = {"n_patches": 16, "k_local": 10, "k_global": 12, "k_intra": 5}


def clouds(b=4, n=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, 3, generator=g, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


def rotations(*shape):
    count = int(torch.tensor(shape).prod())
    r = torch.from_numpy(Rotation.random(count, random_state=0).as_matrix())
    return r.view(*shape, 3, 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("directions", ["learned", "equivariant"])
def test_segmenter(directions):
    x, kind = clouds(3), torch.tensor([0, 1, 1])
    model = PaRotSegmenter(6, 2, directions=directions, **SMALL).double()
    parts = torch.randint(6, (3, 80), generator=seeded())
    losses = model.losses(x, parts, seeded(), category=kind)
    losses["total"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    want = model(x, category=kind)
    assert want.shape == (3, 80, 6)
    alone = model(x[1:2], category=kind[1:2])
    torch.testing.assert_close(alone, want[1:2], rtol=0, atol=1e-9)
    order = torch.randperm(80, generator=seeded())
    shuffled = model(x[:, order], category=kind)
    torch.testing.assert_close(shuffled, want[:, order], rtol=0, atol=1e-9)
    if directions == "equivariant":
        turned = model(x @ rotations(3).mT, category=kind)
        torch.testing.assert_close(turned, want, rtol=0, atol=1e-9)
