"""Directional derivatives, and every function inside a traced transform."""

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit import linalg
from manifoldkit.linalg import frechet_derivative, symmetrize
from manifoldkit.linalg.draws import generator_option

POWERS = {"sqrtm": None, "invsqrtm": None, "logm": None, "expm": None, "powm": 0.3}


def function_of(name):
    power = POWERS[name]
    function = getattr(linalg, name)
    return function if power is None else lambda x: function(x, power)


def data(*batch, n=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, h = torch.randn(2, *batch, n, n, dtype=torch.float64, generator=g)
    return x @ x.mT + torch.eye(n, dtype=x.dtype), symmetrize(h).contiguous()


@pytest.mark.parametrize("name", POWERS)
def test_is_the_derivative_and_broadcasts(name):
    x, h = data(4)
    x[0] = 2 * torch.eye(3)  # equal eigenvalues
    f, power = function_of(name), POWERS[name]
    found = frechet_derivative(x, h, name, power=power)
    torch.testing.assert_close(found, torch.func.jvp(f, (x,), (h,))[1])
    t = 1e-5
    slope = (f(x + t * h) - f(x - t * h)) / (2 * t)
    torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-8)
    one = frechet_derivative(x[0], h, name, power=power)
    torch.testing.assert_close(
        one[1], frechet_derivative(x[0], h[1], name, power=power)
    )
    back = frechet_derivative(x, h[0], name, power=power)
    torch.testing.assert_close(
        back[2], frechet_derivative(x[2], h[0], name, power=power)
    )
    eig = linalg.eigh(x)
    torch.testing.assert_close(
        frechet_derivative(x, h, name, power=power, eig=eig), found
    )
    inputs = (x[:2].requires_grad_(), h[:2].requires_grad_())
    assert gradcheck(
        lambda x, h: frechet_derivative(x, h, name, power=power),
        inputs,
        check_forward_ad=True,
    )


def test_bad_items_stay_alone_and_bad_arguments_are_named():
    x, h = data(3)
    clean = frechet_derivative(x, h, "logm")
    x[1, 0, 0] = torch.nan
    found = frechet_derivative(x, h, "logm")
    assert torch.equal(found[[0, 2]], clean[[0, 2]])
    assert found[1].isnan().all()
    for arguments, match in (
        ((x, h[..., :2, :2], "logm"), "direction: expected matrices"),
        ((x, h, "sinm"), "function: expected one of"),
        ((x, h, "powm"), "needs power"),
        ((x, torch.zeros(2, 3, 3), "logm"), "broadcast"),
    ):
        with pytest.raises(ValueError, match=match):
            frechet_derivative(*arguments)
    with pytest.raises(ValueError, match="takes no power"):
        frechet_derivative(x, h, "logm", power=2)


def test_non_finite_matrices_have_no_eigenvectors():
    x, _ = data(3)
    clean = linalg.eigh(x)
    x[1] = torch.nan
    s, u = linalg.eigh(x)
    assert s[1].isnan().all()
    assert u[1].isnan().all()
    assert torch.equal(s[[0, 2]], clean[0][[0, 2]])
    assert torch.equal(u[[0, 2]], clean[1][[0, 2]])


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_draws_are_those_of_torch(generator):
    state = torch.get_rng_state() if generator is None else generator.get_state()
    found = torch.randn(5, **generator_option(generator))
    if generator is None:
        torch.set_rng_state(state)
    else:
        generator.set_state(state)
    assert torch.equal(found, torch.randn(5, generator=generator))


# ------------------------------------------------------------------ compiled

SLOW = pytest.mark.slow


def named_functions():
    """Every function with derivative rules of its own."""
    x, h = data(seed=1)
    found = {name: function_of(name) for name in POWERS}
    found["frechet in x"] = lambda z: frechet_derivative(z, h, "logm")
    found["frechet in h"] = lambda z: frechet_derivative(x, z, "powm", power=-0.4)
    found["lyapunov in a"] = lambda z: linalg.solve_lyapunov(z, h)
    found["lyapunov in q"] = lambda z: linalg.solve_lyapunov(x, z)
    found["polar"] = lambda z: linalg.polar(z).r
    found["wide polar"] = lambda z: linalg.polar(z[..., :2, :]).p
    found["procrustes"] = lambda z: linalg.procrustes(z, h, special=True)
    return found


FUNCTIONS = named_functions()


def values(x, h):
    return {name: f(x) for name, f in FUNCTIONS.items()}


def forward(x, h):
    return {n: torch.func.jvp(f, (x,), (h,))[1] for n, f in FUNCTIONS.items()}


def weighted(f, h):
    return lambda z: (f(z) * h[..., : f(z).shape[-2], : f(z).shape[-1]]).sum()


def reverse(x, h):
    return {n: torch.func.grad(weighted(f, h))(x) for n, f in FUNCTIONS.items()}


def per_item(x, h):
    return {
        n: torch.func.vmap(torch.func.grad(weighted(f, h[0])))(x)
        for n, f in FUNCTIONS.items()
    }


def second(x, h):
    return {
        n: torch.func.jvp(torch.func.grad(weighted(f, h)), (x,), (h,))[1]
        for n, f in FUNCTIONS.items()
        if not n.startswith("frechet")
    }


@pytest.mark.compile
@pytest.mark.parametrize(
    "transform",
    [pytest.param(f, marks=SLOW) for f in (forward, values, reverse, per_item, second)],
)
def test_compiled_transforms_equal_eager(transform):
    x, h = data(2)
    x[0] = 2 * torch.eye(3)
    torch._dynamo.reset()
    compiled = torch.compile(transform, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, h), transform(x, h), rtol=1e-9, atol=1e-9)


@pytest.mark.compile
def test_a_singular_matrix_keeps_its_value_inside_a_compiled_transform():
    x = torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64))

    def f(x):
        return torch.func.vjp(linalg.sqrtm, x)[0]

    torch.testing.assert_close(torch.compile(f, backend="aot_eager")(x), f(x))
