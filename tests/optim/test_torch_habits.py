"""What a user of torch.optim tries first works as there, or says why it does not."""

import copy

import geoopt
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel

from manifoldkit.manifolds import SPD, SpecialOrthogonal, Sphere, Stiefel, attach
from manifoldkit.optim import (
    LandingAdam,
    LandingSGD,
    RiemannianAdam,
    RiemannianSGD,
    StiefelMuon,
    karcher_average,
    karcher_mean,
)

BUILD = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: RiemannianAdam(p, lr=0.1),
    "muon": lambda p: StiefelMuon(p, lr=0.1),
    "landing": lambda p: LandingSGD(p, lr=0.1, momentum=0.9),
    "pogo": lambda p: LandingAdam(p, lr=0.1),
}
SCHEDULES = {
    "StepLR": {"step_size": 1},
    "MultiStepLR": {"milestones": [1]},
    "ExponentialLR": {"gamma": 0.5},
    "ConstantLR": {"total_iters": 2},
    "LinearLR": {},
    "PolynomialLR": {},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "LambdaLR": {"lr_lambda": lambda k: 0.5**k},
    "MultiplicativeLR": {"lr_lambda": lambda k: 0.5},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.2, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.2, "total_steps": 8, "cycle_momentum": False},
}


def model(seed=0, dtype=torch.float64):
    """A matrix with orthonormal columns, a direction, and a flat layer."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 6, bias=False, dtype=dtype),
        torch.nn.Linear(6, 2, dtype=dtype),
    )
    attach(net[0], "weight", Stiefel())
    net.direction = geoopt.ManifoldParameter(
        Sphere().random(4, dtype=dtype).data, manifold=Sphere()
    )
    return net


def loss_of(net, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    x = x.to(net.direction.dtype)
    return scale * (net(x).square().mean() + net.direction[0])


def train(net, optimizer, steps=3, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [p.detach().clone() for p in net.parameters()]


def points_are_on_their_manifolds(net, tol=1e-9):
    w, d = net[0].weight.detach(), net.direction.detach()
    gap = (w.mT @ w - torch.eye(3, dtype=w.dtype)).abs().max()
    return bool(gap < tol) and abs(d.norm().item() - 1) < tol


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers_set_the_rate_of_every_step(name):
    """The steps are those of a loop that sets the rates by hand."""
    net, other = model(), model()
    optimizer = BUILD["sgd"](net.parameters())
    scheduler = getattr(lr_scheduler, name)(optimizer, **SCHEDULES[name])
    by_hand = BUILD["sgd"](other.parameters())
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        by_hand.param_groups[0]["lr"] = rates[-1]
        train(other, by_hand, 1)
        train(net, optimizer, 1, scheduler)
    assert len(set(rates)) > 1
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    # and its state goes on where it was
    saved = copy.deepcopy(scheduler.state_dict())
    again = getattr(lr_scheduler, name)(by_hand, **SCHEDULES[name])
    again.load_state_dict(saved)
    assert again.last_epoch == scheduler.last_epoch


def test_schedulers_of_momentum_plateaus_and_sequences():
    net = model()
    optimizer = BUILD["sgd"](net.parameters())
    cycle = lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=8)
    start = optimizer.param_groups[0]["momentum"]
    train(net, optimizer, 2, cycle)
    assert optimizer.param_groups[0]["momentum"] != start
    adam = BUILD["adam"](net.parameters())
    cycle = lr_scheduler.OneCycleLR(adam, max_lr=0.2, total_steps=8)
    betas = adam.param_groups[0]["betas"]
    train(net, adam, 2, cycle)
    assert adam.param_groups[0]["betas"] != betas
    plateau = lr_scheduler.ReduceLROnPlateau(adam, patience=0)
    for _ in range(3):
        plateau.step(1.0)
    assert adam.param_groups[0]["lr"] < 0.2
    optimizer = BUILD["sgd"](net.parameters())
    parts = [
        lr_scheduler.LinearLR(optimizer, total_iters=2),
        lr_scheduler.CosineAnnealingLR(optimizer, 4),
    ]
    train(net, optimizer, 4, lr_scheduler.SequentialLR(optimizer, parts, [2]))
    train(net, optimizer, 2, SWALR(optimizer, swa_lr=0.01, anneal_epochs=2))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert points_are_on_their_manifolds(net)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("foreach", [True, False])
def test_a_state_loads_into_a_new_optimizer_of_any_grouping(name, foreach, tmp_path):
    net = model()
    optimizer = BUILD[name](net.parameters())
    train(net, optimizer)
    # a loaded point is put on its manifold, which those of landing are only near
    optimizer.stabilize()
    torch.save({"m": net.state_dict(), "o": optimizer.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    other = model(seed=5)
    other.load_state_dict(saved["m"])
    resumed = BUILD[name](other.parameters())
    saved["o"]["param_groups"][0]["foreach"] = foreach
    resumed.load_state_dict(saved["o"])
    for p, q in zip(train(net, optimizer), train(other, resumed), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", BUILD)
def test_gradients_add_up_over_parts_of_a_batch(name):
    net, other = model(), model()
    first, second = BUILD[name](net.parameters()), BUILD[name](other.parameters())
    for _ in range(3):
        first.zero_grad()
        loss_of(net).backward()
        first.step()
        second.zero_grad()
        for _ in range(4):
            loss_of(other, 0.25).backward()
        second.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", BUILD)
def test_maximize_is_the_step_of_the_negative_loss(name):
    net, other = model(), model()
    first = BUILD[name](net.parameters())
    second = BUILD[name](other.parameters())
    second.param_groups[0]["maximize"] = True
    loss_of(net).backward()
    loss_of(other, -1.0).backward()
    first.step()
    second.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BUILD)
def test_closures_and_added_groups(name):
    net = model()
    optimizer = BUILD[name]([net[0].weight])
    optimizer.add_param_group({"params": [net.direction], "lr": 0.0})
    before = net.direction.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[-1] < losses[0]
    assert torch.allclose(net.direction, before)


@pytest.mark.parametrize("name", BUILD)
def test_differentiable_steps_are_refused(name):
    cls = type(BUILD[name]([model()[0].weight]))
    with pytest.raises(ValueError, match="differentiable: steps on manifolds"):
        cls(model().parameters(), lr=0.1, differentiable=True)


@pytest.mark.parametrize("name", BUILD)
def test_gradient_scaler_skips_an_overflow(name):
    net = model(dtype=torch.float32)
    optimizer = BUILD[name](net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(loss_of(net)).backward()
        net.direction.grad.mul_(factor)
        before = [p.detach().clone() for p in net.parameters()]
        scaler.step(optimizer)
        scaler.update()
        pairs = zip(net.parameters(), before, strict=True)
        moved = not all(torch.equal(p, q) for p, q in pairs)
        assert moved == (factor == 1.0)
    assert scaler.get_scale() == 2.0**9


# ------------------------------------------------------------ averages of weights


def test_averages_of_torch_leave_the_manifold_and_ours_stay():
    net = model()
    plain = AveragedModel(net)
    ours = AveragedModel(net, multi_avg_fn=karcher_average(net))
    moving = AveragedModel(net, multi_avg_fn=karcher_average(net, 0.8))
    optimizer = BUILD["sgd"](net.parameters())
    for _ in range(5):
        train(net, optimizer, 1)
        for average in (plain, ours, moving):
            average.update_parameters(net)
    assert not points_are_on_their_manifolds(plain.module, 1e-4)
    assert points_are_on_their_manifolds(ours.module)
    assert points_are_on_their_manifolds(moving.module)
    # flat parameters as torch has them
    torch.testing.assert_close(ours.module[1].weight, plain.module[1].weight)


def test_equal_weights_give_the_karcher_mean_of_two():
    torch.manual_seed(0)
    for manifold, shape in ((SpecialOrthogonal(), (3, 3)), (SPD(), (3, 3))):
        net = torch.nn.Module()
        net.x = geoopt.ManifoldParameter(
            manifold.random(*shape, dtype=torch.float64).data, manifold=manifold
        )
        average = AveragedModel(net, multi_avg_fn=karcher_average(net))
        found = []
        for _ in range(2):
            found.append(net.x.detach().clone())
            average.update_parameters(net)
            noise = 0.3 * torch.randn(shape, dtype=torch.float64)
            u = manifold.proju(net.x.detach(), noise)
            net.x.data = manifold.expmap(net.x.detach(), u)
        mean = karcher_mean(manifold, torch.stack(found)).mean
        torch.testing.assert_close(average.module.x.detach(), mean)


def test_average_of_a_model_that_is_not_the_one():
    net = model()
    average = AveragedModel(net, multi_avg_fn=karcher_average(model()))
    average.update_parameters(net)
    with pytest.raises(ValueError, match="model: what is averaged"):
        average.update_parameters(net)
    with pytest.raises(TypeError, match="model: expected"):
        karcher_average(list(net.parameters()))
    with pytest.raises(ValueError, match="decay"):
        karcher_average(net, decay=1.0)
