"""The encoder of PaRot: random rotations and what they teach."""

import torch
from torch.nn import functional as F

from manifoldkit.equivariant.parot.encoder import SiamesePatches
from manifoldkit.linalg.actions import haar_rotations


def clouds(b=4, n=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, 3, generator=g, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rotations_are_uniform():
    r = haar_rotations(20_000, torch.zeros(1, dtype=torch.float64), seeded())
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(r @ r.mT, eye.expand_as(r), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(20_000).double())
    # moments of Haar measure: E R = 0, E R_ij^2 = 1/3, E tr(R)^2 = 1
    assert r.mean(0).abs().max() < 0.02
    assert (r.square().mean(0) - 1 / 3).abs().max() < 0.01
    trace = r.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.square().mean()) - 1) < 0.04


def test_losses_of_exactly_equivariant_directions_vanish():
    """The direction loss moves branch two into the frame of branch one."""

    class Exact(torch.nn.Module):
        def forward(self, patches, with_code=True):
            d = F.normalize(patches[:, :2], dim=-1)
            return patches.norm(dim=-1)[:, :4], d

    siamese = SiamesePatches("learned", 2, True)
    siamese.net = Exact()
    patches = clouds(1, 60)[0].view(2, 5, 6, 3)
    out = siamese(patches, seeded())
    assert out.losses["dir"] < 1e-25
    assert out.losses["feat"] < 1e-25
    d = F.normalize(patches[:, :, :2], dim=-1)
    torch.testing.assert_close(out.directions, d, rtol=0, atol=1e-12)
    want = (d[..., 0, :] * d[..., 1, :]).sum(-1).square().mean()
    torch.testing.assert_close(out.losses["orth"], want)
