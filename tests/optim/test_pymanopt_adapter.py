import sys

import pytest
import torch

from manifoldkit.exceptions import MissingExtraError
from manifoldkit.manifolds import (
    SPD,
    GLPlus,
    Oblique,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from manifoldkit.optim import karcher_mean, to_pymanopt


def _randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymanopt", None)
    with pytest.raises(MissingExtraError, match="to_pymanopt needs pymanopt"):
        to_pymanopt(Stiefel(), torch.sum, (3, 2))


def _solve(name, problem, start, **options):
    optimizers = pytest.importorskip("pymanopt.optimizers")
    solver = getattr(optimizers, name)(verbosity=0, **options)
    return solver.run(problem, initial_point=start.numpy())


@pytest.mark.parametrize(
    ("name", "most"), [("TrustRegions", 20), ("ConjugateGradient", 60)]
)
def test_eigenspace(name, most):
    pytest.importorskip("pymanopt")
    a = _randn(50, 50)
    a = a @ a.mT / 50
    problem = to_pymanopt(
        Stiefel("euclidean", "polar"), lambda x: -(x * (a @ x)).sum(), (50, 5), dim=235
    )
    start = torch.linalg.qr(_randn(50, 5, seed=1))[0]
    options = {"min_gradient_norm": 1e-6, "max_iterations": 100}
    result = _solve(name, problem, start, **options)
    best = -float(torch.linalg.eigvalsh(a)[-5:].sum())
    assert result.cost == pytest.approx(best, rel=1e-12)
    assert result.iterations <= most


@pytest.mark.parametrize("name", ["TrustRegions", "ConjugateGradient"])
def test_spd_mean(name):
    pytest.importorskip("pymanopt")
    y = _randn(12, 5, 10)
    y = y @ y.mT / 10
    manifold = SPD()
    problem = to_pymanopt(
        manifold, lambda x: (manifold.dist(x.expand_as(y), y) ** 2).mean(), (5, 5)
    )
    result = _solve(name, problem, y[0], min_gradient_norm=1e-7)
    found = torch.as_tensor(result.point)
    torch.testing.assert_close(
        found, karcher_mean(manifold, y).mean, rtol=1e-6, atol=1e-6
    )
    assert result.iterations <= 30


@pytest.mark.parametrize(
    ("name", "most"),
    [("SteepestDescent", 60), ("ConjugateGradient", 25), ("TrustRegions", 6)],
)
def test_solvers_take_the_steps_they_take_on_their_own_manifold(name, most):
    """25 conjugate gradients are the solver's own: its line search shrinks evenly."""
    pymanopt = pytest.importorskip("pymanopt")
    y = _randn(12, 5, 10)
    y = y @ y.mT / 10
    manifold = SPD()

    def cost(x):
        return (manifold.dist(x.expand_as(y), y) ** 2).mean()

    ours = to_pymanopt(manifold, cost, (5, 5), dim=15)
    theirs = pymanopt.manifolds.SymmetricPositiveDefinite(5)

    @pymanopt.function.numpy(theirs)
    def value(x):
        return float(cost(torch.as_tensor(x)))

    @pymanopt.function.numpy(theirs)
    def gradient(x):
        x = torch.as_tensor(x).requires_grad_()
        return torch.autograd.grad(cost(x), x)[0].numpy()

    result = _solve(name, ours, y[0], min_gradient_norm=1e-7)
    assert result.iterations <= most
    if name != "TrustRegions":  # theirs has no Hessian of an opaque function
        peer = pymanopt.Problem(theirs, value, euclidean_gradient=gradient)
        assert (
            result.iterations
            <= _solve(name, peer, y[0], min_gradient_norm=1e-7).iterations + 1
        )


@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (Sphere(), (4,)),
        (Oblique(), (4, 3)),
        (Stiefel("euclidean"), (4, 2)),
        (Stiefel("canonical"), (4, 2)),
        (SpecialOrthogonal("qr", "angle"), (2, 3, 3)),
        *((SPD(m), (3, 3)) for m in ("airm", "log_euclidean", "log_cholesky", "bw")),
        (SPD("gbw", M=torch.diag(torch.tensor([1.0, 2.0, 3.0]))), (3, 3)),
        (GLPlus(), (3, 3)),
        (GLPlus("polar"), (3, 3)),
        (SpecialLinear(), (3, 3)),
    ],
    ids=str,
)
def test_hessian_is_symmetric_and_that_of_the_geodesics(manifold, shape):
    """The second derivative of the cost along the geodesic of u is <u, Hess u>."""
    pytest.importorskip("pymanopt")
    a, b = _randn(shape[-2] if len(shape) > 1 else 4, 4, seed=1), _randn(*shape, seed=2)
    a = a[:, : shape[-2] if len(shape) > 1 else 4]
    problem = to_pymanopt(manifold, lambda x: ((a @ x - b) ** 2).sum(), shape)
    space = problem.manifold
    generator = torch.Generator().manual_seed(0)
    x = manifold.random(*shape, dtype=torch.float64, generator=generator)
    x = x.detach().as_subclass(torch.Tensor).numpy()
    u, v = (space.projection(x, _randn(*shape, seed=s).numpy()) for s in (3, 4))
    u, v = u / space.norm(x, u), v / space.norm(x, v)
    hu, hv = problem.riemannian_hessian(x, u), problem.riemannian_hessian(x, v)
    size = space.norm(x, hu) + space.norm(x, hv)
    assert space.inner_product(x, u, hv) == pytest.approx(
        space.inner_product(x, hu, v), abs=1e-7 * size
    )
    t = 1e-3
    values = [problem.cost(space.exp(x, s * t * u)) for s in (1, 0, -1)]
    bend = (values[0] - 2 * values[1] + values[2]) / t**2
    assert space.inner_product(x, u, hu) == pytest.approx(bend, abs=1e-4 * size)
