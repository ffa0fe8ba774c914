"""Clouds and a backbone that the tests of frames share."""

import itertools
import math

import torch
from torch import nn


def cloud(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


class Backbone(nn.Module):
    """Not equivariant to anything but the order of the points."""

    def __init__(self, n_in=3, n_out=3, pool=False, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(n_in, 16), nn.Linear(16, n_out)
        self.pool = pool

    def forward(self, x, *more, mask=None):
        h = torch.tanh(self.first(torch.cat([x, *more], -1)))
        if mask is not None:
            h = h * mask[..., None]
        if self.pool:
            return self.last(h.mean(-2))
        return self.last(h + h.mean(-2, keepdim=True))


CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).double()
TETRAHEDRON = torch.tensor(
    [[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [0, 0, 0]]
).double()
SQUARE = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]).double()
TURN = 2 * math.pi / 3
SPINDLE = torch.tensor(
    [[math.cos(k * TURN), math.sin(k * TURN), 0] for k in range(3)]
    + [[0, 0, 2.0], [0, 0, -2.0]],
    dtype=torch.float64,
)
PLANE = cloud(7, 3, seed=5) * torch.tensor([1.0, 1.0, 0.0])
LINE = cloud(7, 1, seed=6) * torch.tensor([1.0, 2.0, 0.5]).double()
