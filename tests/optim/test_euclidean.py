"""Flat parameters are stepped exactly as by torch's own optimizers."""

import geoopt
import pytest
import torch

from manifoldkit.manifolds import Euclidean, Sphere
from manifoldkit.optim import (
    LandingSGD,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianSGD,
    StiefelMuon,
)

ADAM = [
    {},
    {"amsgrad": True},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"betas": (0.5, 0.9), "eps": 1e-3},
    {"foreach": True},
    {"foreach": False, "weight_decay": 0.1, "amsgrad": True},
    {"fused": True},
    {"lr": torch.tensor(0.02)},
]
SGD = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "foreach": True},
    {"fused": True, "momentum": 0.9},
]
PAIRS = (
    [(RiemannianAdam, torch.optim.Adam, k) for k in ADAM]
    + [(RiemannianAdamW, torch.optim.AdamW, {"weight_decay": 0.0, **k}) for k in ADAM]
    + [(StiefelMuon, torch.optim.AdamW, {"weight_decay": 0.1, "eps": 1e-6})]
    + [(RiemannianSGD, torch.optim.SGD, k) for k in SGD]
    + [(LandingSGD, torch.optim.SGD, k) for k in SGD]
)


def _model(curved=False):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)
    )
    if curved:
        net.direction = geoopt.ManifoldParameter(torch.eye(5)[0], manifold=Sphere())
    return net


def _train(net, optimizer, steps=12):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 5, generator=generator)
        optimizer.zero_grad()
        (net(x) ** 2).sum().backward()
        if hasattr(net, "direction"):
            (x @ net.direction).sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS)
@pytest.mark.parametrize("curved", [False, True])
def test_flat_parameters_equal_torch(ours, theirs, options, curved):
    options = {"lr": 0.01, **options}
    net, reference = _model(curved), _model()
    groups = [{"params": [p for p in net.parameters() if not hasattr(p, "manifold")]}]
    if curved:
        groups.append({"params": [net.direction], "weight_decay": 0.0})
    a = _train(net, ours(groups, **options))
    b = _train(reference, theirs(reference.parameters(), **options))
    flat = [x for x, p in zip(a, net.parameters(), strict=True) if p.ndim > 1]
    flat_b = [x for x, p in zip(b, reference.parameters(), strict=True) if p.ndim > 1]
    for x, y in zip(flat, flat_b, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("manifold", [Euclidean(), Euclidean(1), geoopt.Euclidean(2)])
def test_euclidean_manifold_parameters_equal_torch(manifold):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    a = geoopt.ManifoldParameter(x.clone(), manifold=manifold)
    b = torch.nn.Parameter(x.clone())
    optimizers = RiemannianAdam([a], lr=0.1), torch.optim.Adam([b], lr=0.1)
    for _ in range(5):
        for p, optimizer in zip((a, b), optimizers, strict=True):
            optimizer.zero_grad()
            (p**4).sum().backward()
            optimizer.step()
    assert torch.equal(a.data, b.data)


def test_decoupled_decay_of_sgd_shrinks_before_the_step():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    RiemannianSGD([p], lr=0.1, weight_decay=0.5, decay_mode="decoupled").step()
    torch.testing.assert_close(p.data, torch.full((2,), 1 - 0.05 - 0.1))


def test_no_decay_mode_ignores_weight_decay():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.zeros(2)
    RiemannianSGD([p], lr=0.1, weight_decay=0.5, decay_mode="none").step()
    torch.testing.assert_close(p.data, torch.ones(2))


def test_clipping_in_the_step_leaves_the_gradient(problem):
    p = torch.nn.Parameter(torch.zeros(2))
    x = geoopt.ManifoldParameter(torch.tensor([1.0, 0.0]), manifold=Sphere())
    p.grad = torch.tensor([3.0, 0.0])
    x.grad = torch.tensor([7.0, 4.0])
    optimizer = RiemannianSGD([p, x], lr=1.0, grad_clip=1.0)
    optimizer.step()
    torch.testing.assert_close(p.data, torch.tensor([-0.6, 0.0]))
    torch.testing.assert_close(
        x.data, torch.nn.functional.normalize(torch.tensor([1.0, -0.8]), dim=0)
    )
    torch.testing.assert_close(p.grad, torch.tensor([3.0, 0.0]))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_nonfinite_policies_of_flat_parameters(name):
    cls = {"sgd": RiemannianSGD, "adam": RiemannianAdam}[name]

    def pair():
        a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        a.grad, b.grad = torch.tensor([torch.nan, 1.0]), torch.ones(2)
        return a, b

    a, b = pair()
    cls([a, b], lr=0.1, nonfinite="skip").step()
    torch.testing.assert_close(a.data, torch.ones(2))
    assert float(b[0].detach()) < 1
    a, b = pair()
    with pytest.raises(RuntimeError, match=r"params\[0\] of group 0 .*not finite"):
        cls([a, b], lr=0.1, nonfinite="raise").step()
    torch.testing.assert_close(b.data, torch.ones(2))
