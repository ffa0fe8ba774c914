"""Manifolds of every kind, samples on them, and isometries of some."""

import geoopt
import torch

from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    GLPlus,
    Grassmann,
    Oblique,
    PositiveReals,
    Product,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    tangent_basis,
)

M = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.5]]).double()

#: name: manifold, shape of a point
SPACES = {
    "euclidean": (Euclidean(1), (3,)),
    "sphere": (Sphere(), (3,)),
    "sphere of radius 2": (Sphere(2.0), (5,)),
    "oblique": (Oblique(), (3, 2)),
    "stiefel": (Stiefel(), (5, 2)),
    "grassmann": (Grassmann(), (5, 2)),
    "rotations": (SpecialOrthogonal(), (3, 3)),
    "angle": (SpecialOrthogonal(scale="angle"), (4, 4)),
    "airm": (SPD("airm"), (3, 3)),
    "log_euclidean": (SPD("log_euclidean"), (3, 3)),
    "log_cholesky": (SPD("log_cholesky"), (3, 3)),
    "bw": (SPD("bw"), (3, 3)),
    "gbw": (SPD("gbw", M=M), (3, 3)),
    "polar": (GLPlus("polar"), (2, 2)),
    "positive": (PositiveReals(), ()),
    "product": (Product((Sphere(), 3), (SPD(), (2, 2))), (7,)),
    "lorentz": (geoopt.Lorentz().double(), (4,)),
}
#: number of points where logarithms are slow, of any other
FEW = {"stiefel": 4}

#: where maps lose digits (hyperbolic distances near zero), the tolerance of a mean
TOL = {"lorentz": 1e-7}
#: Bures-Wasserstein geodesics end at the boundary, near for small matrices
NEAR = {"bw": 0.3, "gbw": 0.3}


def base_point(name, seed=0):
    manifold, shape = SPACES[name]
    g = torch.Generator().manual_seed(seed)
    if name == "lorentz":
        x = torch.randn(4, dtype=torch.float64, generator=g)
        origin = manifold.origin(4, dtype=torch.float64)
        return plain(manifold.expmap(origin, manifold.proju(origin, 0.5 * x)))
    return plain(manifold.random(*shape, dtype=torch.float64, generator=g))


def plain(x):
    return x.detach().as_subclass(torch.Tensor)


def cloud(name, n=12, spread=0.3, seed=0, base=None):
    """Points exp(c) with normal coordinates c of that deviation."""
    manifold, _ = SPACES[name]
    base = base_point(name, seed) if base is None else base
    basis = tangent_basis(manifold, base)
    g = torch.Generator().manual_seed(seed + 1)
    spread = spread * NEAR.get(name, 1)
    c = spread * torch.randn(n, len(basis), dtype=torch.float64, generator=g)
    u = torch.tensordot(c, basis, 1)
    return plain(manifold.expmap(base.expand_as(u), u))


def rotation(n, seed=3):
    g = torch.Generator().manual_seed(seed)
    return plain(SpecialOrthogonal().random(n, n, dtype=torch.float64, generator=g))


def _congruence(x):
    g = torch.Generator().manual_seed(5)
    a = torch.randn(x.shape[-1], x.shape[-1], dtype=torch.float64, generator=g)
    a = a + 2 * torch.eye(len(a))
    return a @ x @ a.mT


#: name: an isometry
ISOMETRIES = {
    "euclidean": lambda x: x @ rotation(3) + 5,
    "sphere": lambda x: x @ rotation(3),
    "sphere of radius 2": lambda x: x @ rotation(5),
    "oblique": lambda x: rotation(3) @ x,
    "stiefel": lambda x: rotation(5) @ x @ rotation(2),
    "grassmann": lambda x: rotation(5) @ x,
    "rotations": lambda x: rotation(3) @ x @ rotation(3, 4),
    "angle": lambda x: rotation(4) @ x.mT,
    "airm": _congruence,
    "log_euclidean": lambda x: rotation(3) @ x @ rotation(3).mT,
    "bw": lambda x: rotation(3) @ x @ rotation(3).mT,
    "polar": lambda x: rotation(2) @ x @ rotation(2, 4),
    "positive": lambda x: 1 / x,
}
