"""Antipodes and other cut loci: a logarithm of the right length, an honest mean."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.manifolds import (
    SPD,
    GLPlus,
    Grassmann,
    Oblique,
    Product,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from manifoldkit.optim import karcher_mean

F64 = torch.float64


def _points(manifold, shape, generator):
    return manifold.random(*shape, dtype=F64, generator=generator).data


@pytest.mark.parametrize("manifold", [Sphere(), Sphere(3.0), Oblique(2.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logarithm_of_the_antipode_ends_there(manifold, dtype, generator):
    x = _points(manifold, (6, 4, 3), generator).to(dtype)
    u = manifold.logmap(x, -x)
    length = manifold.component_inner(x, u).sqrt()
    size = math.pi * manifold.radius
    rtol = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(length, torch.full_like(length, size), rtol=rtol, atol=0)
    close = {"rtol": 0, "atol": rtol * size}
    torch.testing.assert_close(manifold.proju(x, u), u, **close)
    torch.testing.assert_close(manifold.expmap(x, u), -x, **close)
    torch.testing.assert_close(manifold.norm(x, u), manifold.dist(x, -x))
    v = manifold.proju(x, _points(manifold, (6, 4, 3), generator).to(dtype))
    moved = manifold.parallel_transport(x, -x, v)
    torch.testing.assert_close(manifold.proju(-x, moved), moved, **close)
    torch.testing.assert_close(manifold.norm(-x, moved), manifold.norm(x, v))


def test_columns_and_rows_of_a_batch_are_apart(generator):
    x = _points(Oblique(), (5, 3, 4), generator)
    y = _points(Oblique(), (5, 3, 4), generator)
    plain = Oblique().logmap(x, y)
    y[2, :, 1] = -x[2, :, 1]
    u = Oblique().logmap(x, y)
    plain[2, :, 1] = u[2, :, 1]
    torch.testing.assert_close(u, plain, rtol=0, atol=0)
    assert float(u[2, :, 1].norm()) == pytest.approx(math.pi)
    one = torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    many = torch.stack([-one, one, torch.tensor([1.0, 0, 0], dtype=F64)])
    length = Sphere().logmap(one, many).norm(dim=-1)
    torch.testing.assert_close(
        length, torch.tensor([math.pi, 0, math.pi / 2], dtype=F64)
    )
    mapped = torch.func.vmap(lambda t: Sphere().logmap(one, t))(many)
    torch.testing.assert_close(mapped, Sphere().logmap(one, many))


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-9, 1e-13])
def test_beside_the_antipode_digits_are_kept(gap):
    x = torch.tensor([0.6, 0.8, 0.0], dtype=F64)
    d = torch.tensor([-0.8, 0.6, 0.0], dtype=F64)
    y = Sphere().expmap(x, (math.pi - gap) * d)
    u = Sphere().logmap(x, y)
    # y itself is rounded to 1e-16, its direction from -x to 1e-16 / gap
    torch.testing.assert_close(u, (math.pi - gap) * d, rtol=0, atol=4e-15 + 2e-15 / gap)
    torch.testing.assert_close(Sphere().expmap(x, u), y, rtol=0, atol=1e-14)


def test_gradients_at_and_beside_the_antipode():
    x = torch.tensor([0.6, 0.8, 0.0], dtype=F64)
    for y in (-x, x.clone()):
        leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        (Sphere().logmap(*leaves) * torch.arange(3.0)).sum().backward()
        Sphere().dist(*leaves).backward()
        assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)
    y = Sphere().projx(-x + torch.tensor([0, 0, 0.1], dtype=F64)).requires_grad_()
    assert gradcheck(lambda t: Sphere().logmap(x, Sphere().projx(t)), [y])


def _turn(n, *angles):
    r = torch.eye(n, dtype=F64)
    for k, a in enumerate(angles):
        c, s = math.cos(a), math.sin(a)
        r[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = torch.tensor([[c, -s], [s, c]])
    return r


EYE = torch.eye(4, dtype=F64)
PAIRS = [
    (Sphere(), EYE[0], -EYE[0], math.pi),
    (Sphere(5.0), 5 * EYE[0], -5 * EYE[0], 5 * math.pi),
    (Oblique(), EYE[:, :3], -EYE[:, :3], math.pi * 3**0.5),
    (SpecialOrthogonal(), _turn(2, 0), _turn(2, math.pi), math.pi * 2**0.5),
    (SpecialOrthogonal(), _turn(3, 0), _turn(3, math.pi), math.pi * 2**0.5),
    (SpecialOrthogonal(), _turn(4, 0), _turn(4, math.pi, math.pi), 2 * math.pi),
    (Grassmann(), EYE[:, :1], EYE[:, 1:2], math.pi / 2),
    (Grassmann(), EYE[:, :2], EYE[:, 2:], math.pi / 2**0.5),
    (Stiefel("euclidean"), EYE[:, :1], -EYE[:, :1], math.pi),
    (Stiefel("canonical"), EYE[:, :1], -EYE[:, :1], math.pi),
    (GLPlus(metric="polar"), _turn(2, 0), _turn(2, math.pi), math.pi * 2**0.5),
    (
        Product((Sphere(), 4), (SPD(), (2, 2))),
        torch.cat([EYE[0], _turn(2, 0).flatten()]),
        torch.cat([-EYE[0], _turn(2, 0).flatten()]),
        math.pi,
    ),
]


@pytest.mark.parametrize(
    ("manifold", "x", "y", "distance"),
    PAIRS,
    ids=[f"{type(m).__name__}-{tuple(x.shape)}" for m, x, *_ in PAIRS],
)
def test_cut_loci(manifold, x, y, distance):
    u = manifold.logmap(x, y)
    torch.testing.assert_close(float(manifold.norm(x, u)), distance)
    torch.testing.assert_close(float(manifold.dist(x, y)), distance)
    torch.testing.assert_close(
        float(manifold.dist(manifold.expmap(x, u), y)), 0.0, rtol=0, atol=1e-6
    )
    found = karcher_mean(manifold, torch.stack([x, y]))
    assert bool(found.converged)
    assert float(found.variance) == pytest.approx(distance**2 / 4, rel=1e-6)
    both = torch.stack([x, y])
    d = manifold.dist(found.mean.expand_as(both), both)
    assert float((d**2).mean()) == pytest.approx(float(found.variance), rel=1e-6)


def test_a_saddle_is_no_mean():
    """Three points of the equator: each is stationary, the poles are nearer to all."""
    turn = torch.tensor([0, 2 * math.pi / 3, 4 * math.pi / 3], dtype=F64)
    y = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], -1)
    found = karcher_mean(Sphere(), y)
    assert bool(found.converged)
    assert float(found.variance) == pytest.approx(math.pi**2 / 4)
    assert float(found.mean[2].abs()) == pytest.approx(1)
    # company: a problem of near points keeps its answer
    near = Sphere().projx(y + torch.tensor([0, 0, 5.0], dtype=F64))
    both = karcher_mean(Sphere(), torch.stack([near, y]))
    torch.testing.assert_close(both.mean[0], karcher_mean(Sphere(), near).mean)
    torch.testing.assert_close(both.variance[1], found.variance)


class _ShortLogarithm(Sphere):
    """A logarithm that is zero between antipodes, as many libraries have it."""

    def logmap(self, x, y):
        u = super().logmap(x, y)
        return torch.where((u.norm(dim=-1, keepdim=True) > 3.1), 0.0, u)


def test_a_logarithm_that_leads_elsewhere_is_not_converged():
    y = torch.stack([EYE[0], -EYE[0]])
    with pytest.warns(ConvergenceWarning, match="1 of 1 means not converged"):
        found = karcher_mean(_ShortLogarithm(), y, init=EYE[0])
    assert not bool(found.converged)
    assert float(found.variance) == pytest.approx(math.pi**2 / 2)


@pytest.mark.parametrize("metric", ["euclidean", "canonical"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_stiefel_logarithms_of_the_negative(metric, p):
    """The tangent part of y - x vanishes, yet y is far."""
    manifold = Stiefel(metric)
    x = EYE[:, :p]
    u = manifold.logmap(x, -x)
    torch.testing.assert_close(manifold.expmap(x, u), -x, rtol=0, atol=1e-9)
    assert float(manifold.dist(x, -x)) > 3
