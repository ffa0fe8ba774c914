"""The layers of RISurConv."""

import copy

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn
from torch.nn import functional as F

from manifoldkit.equivariant import RISurConvLayer
from manifoldkit.equivariant.risurconv.layers import SurfaceEmbedding


def surfaces(b=4, n=120, seed=0, dtype=torch.float64):
    """Bumpy closed surfaces without symmetry."""
    g = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(b, n, 3, generator=g, dtype=torch.float64), dim=-1)
    stretch = 0.5 + torch.rand(b, 1, 3, generator=g, dtype=torch.float64)
    x = u * stretch * (1 + 0.3 * torch.sin(3 * u[..., :1] + 1) * u[..., 1:2])
    return (x - x.mean(1, keepdim=True)).to(dtype), u.to(dtype)


def rotations(b, dtype=torch.float64):
    return torch.from_numpy(Rotation.random(b, random_state=0).as_matrix()).to(dtype)


@pytest.mark.parametrize("training", [True, False])
def test_embedding_equals_its_two_layers(training):
    x = torch.rand(50, 14, generator=torch.Generator().manual_seed(0)).double()
    x.requires_grad_()
    ours = SurfaceEmbedding().double()
    nn.init.uniform_(ours.norm1.bias)
    nn.init.uniform_(ours.norm2.weight)
    plain = copy.deepcopy(ours)
    for _ in range(2):
        one = ours(x)
        two = F.relu(plain.norm2(plain.second(plain.norm1(plain.first(x)))))
    if not training:
        one = ours.eval()(x)
        plain.eval()
        two = F.relu(plain.norm2(plain.second(plain.norm1(plain.first(x)))))
    torch.testing.assert_close(one, two)
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)).double()
    grads = torch.autograd.grad((one * weight).sum(), [x, *ours.parameters()])
    wants = torch.autograd.grad((two * weight).sum(), [x, *plain.parameters()])
    for a, b in zip(grads, wants, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_layer_alone():
    x, n = surfaces(2, 60, dtype=torch.float32)
    layer = RISurConvLayer(20, 8, 5, 16).eval()
    features = torch.randn(2, 60, 5)
    centers, normals, out = layer(x, n, features)
    assert (centers.shape, normals.shape, out.shape) == (
        (2, 20, 3),
        (2, 20, 3),
        (2, 20, 16),
    )
    r = rotations(2, torch.float32)
    turned = layer(x @ r.mT, n @ r.mT, features)
    torch.testing.assert_close(turned[2], out, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(turned[0], centers @ r.mT)
