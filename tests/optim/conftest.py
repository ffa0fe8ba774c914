import geoopt
import pytest
import torch

from manifoldkit.manifolds import (
    SPD,
    GLPlus,
    Grassmann,
    Oblique,
    PositiveReals,
    Product,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)

#: name -> (manifold, shape of a parameter)
OURS = {
    "positive": (PositiveReals, (5,)),
    "sphere": (Sphere, (6,)),
    "sphere_radius": (lambda: Sphere(2.0), (6,)),
    "oblique": (Oblique, (6, 3)),
    "stiefel": (Stiefel, (6, 3)),
    "stiefel_canonical": (lambda: Stiefel("canonical"), (6, 3)),
    "stiefel_polar": (lambda: Stiefel(retraction="polar"), (6, 3)),
    "grassmann": (Grassmann, (6, 3)),
    "so": (SpecialOrthogonal, (4, 4)),
    "spd_airm": (lambda: SPD("airm"), (4, 4)),
    "spd_log_euclidean": (lambda: SPD("log_euclidean"), (4, 4)),
    "spd_log_cholesky": (lambda: SPD("log_cholesky"), (4, 4)),
    "spd_bw": (lambda: SPD("bw"), (4, 4)),
    "gl": (GLPlus, (4, 4)),
    "gl_polar": (lambda: GLPlus("polar"), (4, 4)),
    "sl": (SpecialLinear, (4, 4)),
    "product": (lambda: Product((Sphere(), 4), (SPD(), (3, 3))), (13,)),
}
THEIRS = {
    "geoopt_sphere": (geoopt.Sphere, (6,)),
    "geoopt_sphere_exact": (geoopt.SphereExact, (6,)),
    "geoopt_stiefel": (geoopt.EuclideanStiefel, (6, 3)),
    "geoopt_canonical": (geoopt.CanonicalStiefel, (6, 3)),
    "geoopt_exact": (geoopt.EuclideanStiefelExact, (6, 3)),
    "geoopt_spd": (geoopt.SymmetricPositiveDefinite, (4, 4)),
    "poincare": (geoopt.PoincareBall, (3, 5)),
    "lorentz": (geoopt.Lorentz, (3, 5)),
    "geoopt_product": (
        lambda: geoopt.ProductManifold(
            (geoopt.Sphere(), 4), (geoopt.EuclideanStiefel(), (4, 2))
        ),
        (2, 12),
    ),
    "scaled": (lambda: geoopt.Scaled(geoopt.Sphere(), 2.0), (3, 4)),
    "birkhoff": (geoopt.BirkhoffPolytope, (4, 4)),
}
ALL = {**OURS, **THEIRS}


def start(name, count, dtype=torch.float64, seed=0):
    """Return ``count`` points of a manifold."""
    factory, shape = ALL[name]
    manifold = factory().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    points = []
    for _ in range(count):
        if name == "lorentz":
            u = torch.randn(shape, dtype=dtype, generator=generator)
            x = manifold.projx(u)
        elif name.startswith("poincare"):
            x = 0.2 * torch.randn(shape, dtype=dtype, generator=generator)
        elif name in THEIRS:
            torch.manual_seed(seed + len(points))
            x = manifold.random(*shape, dtype=dtype)
        else:
            x = manifold.random(*shape, dtype=dtype, generator=generator)
        points.append(x.detach().as_subclass(torch.Tensor).clone())
    return points


class Problem:
    """Parameters pulled to other points of the manifold by a quadratic loss."""

    def __init__(self, name, count=4, dtype=torch.float64, share=False, seed=0):
        factory, _ = ALL[name]
        shared = factory().to(dtype)
        self.params = [
            geoopt.ManifoldParameter(
                x, manifold=shared if share else factory().to(dtype)
            )
            for x in start(name, count, dtype, seed)
        ]
        self.targets = start(name, count, dtype, seed + 100)

    def loss(self):
        pairs = zip(self.params, self.targets, strict=True)
        return sum(((p - t) ** 2).sum() for p, t in pairs)

    def run(self, optimizer, steps, hook=None):
        for i in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            if hook is not None:
                hook(i, self.params)
            optimizer.step()
        return self.values()

    def values(self):
        return [p.detach().as_subclass(torch.Tensor).clone() for p in self.params]


@pytest.fixture
def problem():
    return Problem


@pytest.fixture
def cases():
    return ALL


def pytest_generate_tests(metafunc):
    names = {"any_manifold": ALL, "our_manifold": OURS, "their_manifold": THEIRS}
    for argument, table in names.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, list(table))
