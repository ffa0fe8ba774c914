"""torch.func, torch.compile and torch.export give what eager evaluation gives."""

import pytest
import torch

from manifoldkit.spd import (
    LogEig,
    ReEig,
    SPDNet,
    SPDResidual,
    gbw_exp,
    gbw_geodesic,
    gbw_log,
    make_batchnorm,
)
from manifoldkit.spd.gbw.tangent import from_tangent_vector, tangent_vector

DOUBLE = torch.float64


def matrices(seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(5, 3, 9, generator=generator, dtype=DOUBLE)
    return (a @ a.mT / 9).to(dtype)


X, Y = matrices(0), matrices(1)
COORDINATES = 0.1 * tangent_vector(X[0], Y)


def started(layer):
    return layer.init_from_data(X).eval()


def net(**options):
    generator = torch.Generator().manual_seed(0)
    return started(SPDNet(3, (2,), 2, dtype=DOUBLE, generator=generator, **options))


def norm(name, **options):
    return make_batchnorm(name, 3, dtype=DOUBLE, **options)


FUNCTIONS = {
    **{f"log {p}": lambda x, p=p: gbw_log(x, Y, power=p) for p in (1.0, 0.3, -1.0)},
    **{f"exp {p}": lambda x, p=p: gbw_exp(x, Y / 9, power=p) for p in (1.0, 0.3)},
    "geodesic": lambda x: gbw_geodesic(x, Y, 0.3, M=Y[0]),
    "coordinates": lambda x: tangent_vector(x, Y),
    "point": lambda x: from_tangent_vector(x, COORDINATES),
    "clipped": lambda x: from_tangent_vector(x, 30 * COORDINATES, outside="clip"),
    **{name: started(norm(name)) for name in ("gbw", "airm", "lie", "log_cholesky")},
    "gbw power": started(norm("gbw", power=0.3)),
    "gbw batch": norm("gbw", track_running_stats=False, stats_grad=True),
    "log_euclidean batch": norm("log_euclidean", track_running_stats=False),
    "net": net(),
    "net residual": net(power=0.5, n_residual=1),
    "residual": SPDResidual(3, dtype=DOUBLE).eval(),
    "reeig": ReEig(),
    "logeig": LogEig(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms(name):
    def f(x):
        return FUNCTIONS[name]((x + x.mT) / 2)

    def loss(x):
        return f(x).sin().sum()

    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(loss(x), x)[0]
    found = torch.func.grad(loss)(X)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    # forward mode is the transpose of reverse mode, statistics constants in both
    direction = Y - X
    along = torch.func.jvp(loss, (X,), (direction,))[1]
    torch.testing.assert_close(along, (expected * direction).sum(), rtol=1e-7, atol=0)
    pair = torch.stack([X, X + 0.1 * Y])
    torch.testing.assert_close(
        torch.func.vmap(f)(pair), torch.stack([f(z) for z in pair])
    )
    twice = torch.func.vmap(torch.func.grad(loss))(pair)[0]
    torch.testing.assert_close(twice, expected, rtol=1e-7, atol=1e-9)


def test_second_derivatives_of_coordinates_are_refused():
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(
        tangent_vector(x, Y).sin().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="second derivatives of tangent vectors"):
        torch.autograd.grad(grad.sum(), x)


def test_clipped_vectors_have_the_derivative_of_the_clip():
    def f(v):
        return from_tangent_vector(X[0], v, outside="clip")

    assert torch.autograd.gradcheck(f, (30 * COORDINATES.clone().requires_grad_(),))
    # the geodesic ends before the boundary: the point is regular, and the shortened
    # vector is inside the domain
    point = f(-300 * COORDINATES)
    inside = tangent_vector(X[0], point)
    again = from_tangent_vector(X[0], inside)
    torch.testing.assert_close(again, point, rtol=1e-6, atol=1e-9)
    flat = torch.eye(3, dtype=DOUBLE)
    vector = torch.tensor([-8.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=DOUBLE)
    edge = from_tangent_vector(flat, vector, outside="clip")
    torch.testing.assert_close(edge[0, 0], torch.tensor(1e-6, dtype=DOUBLE))


@pytest.mark.compile
@pytest.mark.parametrize("name", ["log 0.3", "exp 0.3"])
def test_compiled_equals_eager(name):
    f = FUNCTIONS[name]
    torch._dynamo.reset()
    compiled = torch.compile(f, backend="aot_eager")
    torch.testing.assert_close(compiled(X), f(X))


@pytest.mark.compile
@pytest.mark.parametrize("name", ["gbw", "log_cholesky", "net", "residual"])
def test_exported_equals_eager(name):
    module = FUNCTIONS[name]
    program = torch.export.export(module, (X,), strict=False).module()
    torch.testing.assert_close(program(X), module(X).detach())
