"""Matrices of fixed rank as manifolds: laws, derivatives, training, completion."""

import math
import time

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.manifolds import (
    FixedRank,
    PSDFixedRank,
    as_parameter,
    attach,
    check_manifold,
)
from manifoldkit.optim import RiemannianAdam, RiemannianSGD, build_optimizer

CASES = [
    (FixedRank(6, 5, 2), (6, 5)),
    (FixedRank(3, 7, 2), (3, 7)),
    (FixedRank(3, 4, 3), (3, 4)),
    (PSDFixedRank(5, 2), (5, 5)),
    (PSDFixedRank(3, 2), (3, 3)),
    (PSDFixedRank(3, 3), (3, 3)),
]


def randn(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=g)


def point(manifold, *shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return manifold.random(*shape, dtype=dtype, generator=g).data


@pytest.mark.parametrize(("manifold", "shape"), CASES, ids=repr)
def test_laws(manifold, shape):
    report = check_manifold(manifold, *shape)
    assert report, report
    assert report["transport is tangent"].value < 1e-12


def nearest(manifold, t):
    """The metric projection, term by term."""
    if isinstance(manifold, FixedRank):
        p, s, q = torch.linalg.svd(t, full_matrices=False)
        return (p[..., : manifold.r] * s[..., None, : manifold.r]) @ q[
            ..., : manifold.r, :
        ]
    s, p = torch.linalg.eigh((t + t.mT) / 2)
    r, s = manifold.r, s.clamp_min(0)
    return (p[..., -r:] * s[..., None, -r:]) @ p[..., -r:].mT


@pytest.mark.parametrize(("manifold", "shape"), CASES, ids=repr)
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e9])
def test_the_retraction_is_the_nearest_point(manifold, shape, unit):
    x = unit * point(manifold, 4, *shape)
    u = 0.2 * manifold.proju(x, unit * randn(4, *shape, seed=1))
    torch.testing.assert_close(
        manifold.retr(x, u), nearest(manifold, x + u), rtol=0, atol=1e-12 * unit
    )
    z = unit * (x / unit + 0.1 * randn(4, *shape, seed=2))
    torch.testing.assert_close(
        manifold.projx(z), nearest(manifold, z), rtol=0, atol=1e-12 * unit
    )
    assert torch.equal(manifold.projx(x), x)
    assert manifold.check_point_on_manifold(manifold.projx(z))
    assert manifold.check_vector_on_tangent(x, u, atol=1e-13 * unit)


@pytest.mark.parametrize(("manifold", "shape"), CASES, ids=repr)
def test_tangent_vectors_are_velocities(manifold, shape):
    """The difference of two points nearby is tangent to first order."""
    x = point(manifold, *shape)
    v = manifold.proju(x, randn(*shape, seed=1))
    y = nearest(manifold, x + 1e-6 * v)
    torch.testing.assert_close((y - x) / 1e-6, v, rtol=0, atol=1e-4)
    z = randn(*shape, seed=2)
    z = z if isinstance(manifold, FixedRank) else z + z.mT
    normal = z - manifold.proju(x, z)
    assert abs(float((normal * v).sum())) < 1e-12


@pytest.mark.parametrize(("manifold", "shape"), CASES[::3], ids=repr)
def test_derivatives(manifold, shape):
    x = point(manifold, *shape)
    g = 0.1 * randn(*shape, seed=1)
    maps = (
        (lambda g: manifold.retr(x, manifold.proju(x, g)), g),
        (manifold.projx, x + g),
    )
    for f, at in maps:
        assert gradcheck(f, at.clone().requires_grad_(), check_forward_ad=True)
    base, step = x.clone().requires_grad_(), g
    on = lambda z: nearest(manifold, z)  # noqa: E731 (points stay points)
    assert gradcheck(lambda z: manifold.proju(on(z), step), base)


def test_the_derivative_at_equal_singular_values():
    manifold = FixedRank(5, 4, 2)
    x = manifold.origin(5, 4, dtype=torch.float64).data + 0.1 * torch.eye(5, 4).double()
    assert gradcheck(manifold.projx, x.requires_grad_())
    loss = manifold.projx(x).square().sum()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize(("manifold", "shape"), CASES[::3], ids=repr)
def test_company(manifold, shape):
    x = point(manifold, 3, *shape)
    u = manifold.proju(x, 0.1 * randn(3, *shape, seed=1))
    y, z = manifold.retr(x, u), manifold.projx(x + u)
    x[1, 0, 0] = math.nan
    for got, want in ((manifold.retr(x, u), y), (manifold.projx(x + u), z)):
        assert got[1].isnan().any()
        torch.testing.assert_close(got[[0, 2]], want[[0, 2]], rtol=0, atol=1e-14)


def test_points_of_lower_and_higher_rank():
    manifold = FixedRank(4, 3, 2)
    low = torch.outer(randn(4), randn(3, seed=1))
    for bad, what in ((low, "rank below"), (randn(4, 3), "singular value 3")):
        ok, reason = manifold.check_point_on_manifold(bad, explain=True)
        assert not ok
        assert what in reason
        with pytest.raises(NotOnManifoldError):
            as_parameter(bad, manifold, project=False)
        assert manifold.check_point_on_manifold(as_parameter(bad, manifold).data)
    assert manifold.check_point_on_manifold(manifold.projx(torch.zeros(4, 3)))
    psd = PSDFixedRank(3, 2)
    for bad in (-torch.eye(3), torch.diag(torch.tensor([2.0, 0.0, -1.0]))):
        assert not psd.check_point_on_manifold(bad)
        assert psd.check_point_on_manifold(psd.projx(bad))
    x = psd.origin(3, 3)
    far = psd.retr(x.data, psd.proju(x.data, -5 * torch.eye(3)))
    assert psd.check_point_on_manifold(far)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimizer", [RiemannianSGD, RiemannianAdam])
@pytest.mark.parametrize(("manifold", "shape"), CASES[::3], ids=repr)
def test_our_optimizers_stay_and_arrive(manifold, shape, optimizer, dtype):
    target = point(manifold, *shape, seed=5, dtype=dtype)
    w = as_parameter(target + 0.3 * randn(*shape, seed=6).to(dtype), manifold)
    step = optimizer([w], lr=0.2 if optimizer is RiemannianSGD else 0.03)
    for _ in range(100):
        step.zero_grad()
        (w - target).square().sum().backward()
        step.step()
    atol = 20 * torch.finfo(dtype).eps
    assert manifold.check_point_on_manifold(w.data, atol=atol, rtol=0)
    assert float((w.detach() - target).norm() / target.norm()) < 1e-2


def test_a_layer_and_decay():
    layer = torch.nn.Linear(7, 5)
    attach(layer, "weight", FixedRank(5, 7, 2))
    step = build_optimizer(layer, "adamw", lr=1e-2, weight_decay=0.1)
    for _ in range(20):
        layer(torch.ones(3, 7)).square().sum().backward()
        step.step()
    weight = layer.weight.data
    assert layer.weight.manifold.check_point_on_manifold(weight)
    manifold, x = FixedRank(5, 7, 2), weight.double()
    x = manifold.projx(x)
    torch.testing.assert_close(manifold.decay(x, 0.1), 0.9 * x)
    y = point(manifold, 5, 7)
    pulled = manifold.decay(x, 0.1, y)
    assert manifold.check_point_on_manifold(pulled)
    assert (pulled - y).norm() < (x - y).norm()


@pytest.mark.parametrize("seed", range(3))
def test_completion_of_a_matrix(seed):
    """200 x 200 of rank 5, 30 % of the entries seen, to 1e-6 (the goal: in 5 s)."""
    truth = randn(200, 5, seed=seed) @ randn(5, 200, seed=seed + 10)
    g = torch.Generator().manual_seed(seed + 20)
    seen = torch.rand(200, 200, generator=g) < 0.3
    start = time.process_time()
    x = as_parameter(truth * seen / 0.3, FixedRank(200, 200, 5))
    step = RiemannianSGD([x], lr=0.8, momentum=0.3)
    for _ in range(60):
        step.zero_grad()
        loss = ((x - truth) * seen).square().sum() / (2 * 0.3)
        loss.backward()
        step.step()
    error = float((x.detach() - truth).norm() / truth.norm())
    assert error < 1e-6, error
    assert time.process_time() - start < 5


def test_bad_sizes():
    for call, what in [
        (lambda: FixedRank(3, 4, 4), "r: expected at most min"),
        (lambda: FixedRank(3, 4, 0), "r"),
        (lambda: FixedRank(0, 4, 1), "m"),
        (lambda: PSDFixedRank(3, 4), "r: expected at most n"),
        (lambda: FixedRank(3, 4, 2).random(4, 4), "expected matrices"),
    ]:
        with pytest.raises(ValueError, match=what):
            call()
    x = FixedRank(3, 4, 2).origin(3, 4)
    for method in ("expmap", "logmap", "dist"):
        with pytest.raises(NotImplementedError, match="rank"):
            getattr(x.manifold, method)(x, x)
    assert FixedRank(3, 4, 2) == FixedRank(3, 4, 2) != FixedRank(3, 4, 1)
