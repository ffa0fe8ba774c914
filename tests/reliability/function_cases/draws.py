"""Random arguments for the public functions, all from one generator."""

import torch

from manifoldkit import linalg
from manifoldkit.lie import rotation

G = torch.Generator()


def randn(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def rand(*shape):
    return torch.rand(*shape, generator=G, dtype=torch.float64)


def sym(b, n):
    return linalg.symmetrize(randn(*b, n, n))


def spd_(b, n):
    x = randn(*b, n, 2 * n)
    return x @ x.mT / (2 * n) + 0.1 * torch.eye(n, dtype=torch.float64)


def gl(b, n):
    g = torch.eye(n, dtype=torch.float64) + 0.2 * randn(*b, n, n) / n
    return g


def rot(b, n=3):
    return rotation.random_rotation(*b, n=n, generator=G, dtype=torch.float64)


def unit(*shape):
    return torch.nn.functional.normalize(randn(*shape), dim=-1)


def adjacency(n):
    a = (rand(n, n) < 0.5).double()
    return ((a + a.T) > 0).double().fill_diagonal_(0)


def relu(x):
    return x.relu()


def plus(a, b):
    return a + b


def points(b, n=6):
    return randn(*b, n, 3)


def skew(b, n):
    x = randn(*b, n, n)
    return x - x.mT
