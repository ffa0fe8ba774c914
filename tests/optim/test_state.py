"""Saving, loading and the machinery of torch around an optimizer."""

import copy
import io
import pickle

import geoopt
import pytest
import torch

from manifoldkit.manifolds import SPD, SpecialOrthogonal, Sphere, Stiefel
from manifoldkit.optim import (
    LandingSGD,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianSGD,
    StiefelMuon,
    build_optimizer,
)

BUILD = {
    "adam": lambda p: RiemannianAdam(p, lr=0.05, amsgrad=True),
    "adamw": lambda p: RiemannianAdamW(p, lr=0.05, stabilize=4),
    "factored": lambda p: RiemannianAdam(p, lr=0.05, moment="factored"),
    "sgd": lambda p: RiemannianSGD(p, lr=0.01, momentum=0.9),
    "muon": lambda p: StiefelMuon(p, lr=0.05),
    "landing": lambda p: LandingSGD(p, lr=0.01, momentum=0.9),
}


def _saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("name", ["stiefel", "so", "spd_airm", "positive", "product"])
def test_training_continues_from_a_saved_state(name, kind, problem):
    whole, first = problem(name), problem(name)
    expected = whole.run(BUILD[kind](whole.params), 9)
    optimizer = BUILD[kind](first.params)
    first.run(optimizer, 5)
    second = problem(name)
    for p, x in zip(second.params, first.values(), strict=True):
        p.data.copy_(x)
    resumed = BUILD[kind](second.params)
    resumed.load_state_dict(_saved(optimizer.state_dict()))
    assert all(
        torch.equal(a, b) for a, b in zip(second.run(resumed, 4), expected, strict=True)
    )


def test_state_of_groups_loads_into_singles_and_back(problem):
    whole, first = problem("spd_airm"), problem("spd_airm")
    expected = whole.run(RiemannianAdam(whole.params, lr=0.05), 8)
    grouped = RiemannianAdam(first.params, lr=0.05)
    first.run(grouped, 4)
    state = grouped.state_dict()
    for group in state["param_groups"]:
        group["foreach"] = False
    single = RiemannianAdam(first.params, lr=0.05, foreach=False)
    single.load_state_dict(_saved(state))
    assert len(single.plans[0].buckets) == len(first.params)
    torch.testing.assert_close(first.run(single, 4), expected)


def test_state_has_the_shape_of_parameters(problem):
    a = problem("stiefel", count=3)
    optimizer = RiemannianAdam(a.params, lr=0.05)
    a.run(optimizer, 1)
    state = optimizer.state_dict()["state"][1]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes == {"step": (), "exp_avg": (6, 3), "exp_avg_sq": (1, 1)}


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("name", ["geoopt_sphere", "geoopt_stiefel", "poincare"])
def test_geoopt_adam_checkpoint_continues(name, amsgrad, problem):
    whole, first = problem(name), problem(name)
    options = {"lr": 0.05, "amsgrad": amsgrad}
    expected = whole.run(geoopt.optim.RiemannianAdam(whole.params, **options), 12)
    theirs = geoopt.optim.RiemannianAdam(first.params, **options)
    first.run(theirs, 6)
    ours = RiemannianAdam(first.params, lr=0.05)
    ours.load_state_dict(_saved(theirs.state_dict()))
    torch.testing.assert_close(first.run(ours, 6), expected, rtol=1e-8, atol=1e-8)


def test_geoopt_spd_checkpoint_converts_tangents_to_the_frame(problem):
    first = problem("geoopt_spd", count=2)
    theirs = geoopt.optim.RiemannianAdam(first.params, lr=0.05)
    first.run(theirs, 3)
    moment = theirs.state[first.params[0]]["exp_avg"].clone()
    length = SPD().norm(first.values()[0], moment)
    ours = RiemannianAdam(first.params, lr=0.0)
    ours.load_state_dict(theirs.state_dict())
    for group in ours.param_groups:
        group["lr"], group["betas"] = 0.0, (0.999999999, 0.999)
    first.run(ours, 1)
    state = ours.state[first.params[0]]
    assert "exp_avg" not in state
    torch.testing.assert_close(state["exp_avg_frame"].norm(), length, rtol=1e-6, atol=0)


def test_geoopt_sgd_checkpoint_continues(problem):
    first, reference = problem("geoopt_sphere"), problem("geoopt_sphere")
    theirs = geoopt.optim.RiemannianSGD(first.params, lr=0.01, momentum=0.9)
    first.run(theirs, 5)
    geo = geoopt.optim.RiemannianSGD(reference.params, lr=0.01, momentum=0.9)
    reference.run(geo, 5)
    ours = RiemannianSGD(first.params, lr=0.01, momentum=0.9)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(first.run(ours, 5), reference.run(geo, 5))


@pytest.mark.parametrize("ours", [RiemannianAdam, RiemannianAdamW])
def test_torch_checkpoint_of_flat_parameters_continues(ours):
    theirs = {RiemannianAdam: torch.optim.Adam, RiemannianAdamW: torch.optim.AdamW}

    def step(p, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            (p**4).sum().backward()
            optimizer.step()

    p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    reference = theirs[ours]([q], lr=0.1, weight_decay=0.1)
    step(q, reference, 3)
    optimizer = ours([p], lr=0.1)
    p.data.copy_(q.data)
    optimizer.load_state_dict(_saved(reference.state_dict()))
    step(q, reference, 3)
    step(p, optimizer, 3)
    assert torch.equal(p.data, q.data)


def test_optimizer_is_copied_and_pickled(problem):
    a = problem("so")
    optimizer = RiemannianAdam(a.params, lr=0.05, grad_clip=3.0)
    a.run(optimizer, 2)
    for clone in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert clone.grad_clip == 3.0
        params = clone.param_groups[0]["params"]
        for p, q in zip(params, a.params, strict=True):
            p.grad = q.grad.clone()
        clone.step()
        name = "exp_avg_frame"
        assert float(clone.state[params[0]]["step"]) == 3
        assert clone.state[params[0]][name].shape == (4, 4)
    assert float(optimizer.state[a.params[0]]["step"]) == 2


def test_half_precision_moments_survive_a_round_trip():
    p = geoopt.ManifoldParameter(torch.eye(3, 2).bfloat16(), manifold=Stiefel())
    p.grad = torch.randn(3, 2).bfloat16()
    optimizer = RiemannianAdam([p], lr=0.1)
    optimizer.step()
    moment = optimizer.state[p]["exp_avg"].clone()
    resumed = RiemannianAdam([p], lr=0.1)
    resumed.load_state_dict(_saved(optimizer.state_dict()))
    assert torch.equal(resumed.state[p]["exp_avg"], moment)
    resumed.step()
    assert resumed.state[p]["exp_avg"].dtype == torch.float32


def test_schedulers_change_the_step(problem):
    a = problem("sphere", count=2)
    optimizer = RiemannianSGD(a.params, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    a.run(optimizer, 1)
    x = a.values()
    schedule.step()
    a.run(optimizer, 1)
    torch.testing.assert_close(a.values(), x)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        RiemannianAdam(a.params, lr=0.1), max_lr=0.1, total_steps=4
    )
    a.run(cycle.optimizer, 1)
    cycle.step()


def test_tensor_learning_rate_is_read_at_every_step(problem):
    a, b = problem("stiefel"), problem("stiefel")
    lr = torch.tensor(0.05, dtype=torch.float64)
    x = a.run(RiemannianAdam(a.params, lr=lr), 5)
    y = b.run(RiemannianAdam(b.params, lr=0.05), 5)
    torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    lr.zero_()
    optimizer = RiemannianAdam(a.params, lr=lr)
    torch.testing.assert_close(a.run(optimizer, 2), x, rtol=1e-12, atol=1e-12)


def test_gradient_scaler_unscales_and_skips_overflow(problem):
    a, b = problem("stiefel"), problem("stiefel")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = RiemannianAdam(a.params, lr=0.05)
    expected = b.run(RiemannianAdam(b.params, lr=0.05), 3)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(a.loss()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(a.values(), expected, rtol=1e-9, atol=1e-9)
    optimizer.zero_grad()
    scaler.scale(a.loss()).backward()
    a.params[0].grad.fill_(torch.inf)
    before = a.values()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(a.values(), before, rtol=0, atol=0)


def test_groups_can_be_added_and_parameters_frozen(problem):
    a = problem("stiefel")
    optimizer = RiemannianAdam(a.params[:2], lr=0.05)
    a.run(optimizer, 2)
    optimizer.add_param_group({"params": a.params[2:], "lr": 0.0})
    before = a.values()
    a.params[0].requires_grad_(False)
    a.run(optimizer, 2)
    after = a.values()
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])
    torch.testing.assert_close(after[2:], before[2:], rtol=1e-12, atol=1e-12)
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, 2]


def test_empty_groups_closures_and_swa(problem):
    a = problem("so", count=2)
    optimizer = RiemannianAdam([{"params": []}, {"params": a.params}], lr=0.05)

    def closure():
        optimizer.zero_grad()
        loss = a.loss()
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [float(optimizer.step(closure)) for _ in range(30)]
    assert losses[-1] < losses[0]
    optimizer.zero_grad(set_to_none=False)
    assert not a.params[0].grad.any()
    optimizer.zero_grad()
    optimizer.step()
    net = torch.nn.Linear(2, 2)
    torch.optim.swa_utils.AveragedModel(net).update_parameters(net)
    torch.optim.swa_utils.SWALR(RiemannianSGD(net.parameters(), lr=0.1), swa_lr=0.05)


def test_stabilize_projects_points_and_momentum():
    manifold = Stiefel()
    x = manifold.random(6, 3, generator=torch.Generator().manual_seed(0)).data
    p = geoopt.ManifoldParameter(x * 1.0001, manifold=manifold)
    optimizer = RiemannianAdam([p], lr=1e-6, retraction="exp")
    p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.state[p]["exp_avg"].add_(p.data)
    optimizer.stabilize()
    assert float((p.data.mT @ p.data - torch.eye(3)).abs().max()) < 1e-6
    m = optimizer.state[p]["exp_avg"]
    assert float((m.mT @ p.data + p.data.mT @ m).abs().max()) < 1e-6
    with pytest.raises(
        ValueError, match="stabilize: expected an integer >= 1, found 0"
    ):
        RiemannianAdam([p], stabilize=0)


def test_build_optimizer_splits_by_geometry():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            spd, so = SPD(), SpecialOrthogonal()
            self.spd = geoopt.ManifoldParameter(torch.eye(2), manifold=spd)
            self.so = geoopt.ManifoldParameter(torch.eye(2), manifold=so)
            self.frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    model = Model()
    optimizer = build_optimizer(
        model, "adamw", lr=1e-3, manifold_lr=0.1, weight_decay=0.5
    )
    assert isinstance(optimizer, RiemannianAdamW)
    found = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        "euclidean": (1e-3, 0.5),
        "manifold": (0.1, 0.5),
        "compact": (0.1, 0.0),
    }
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 4
    for name in ("sgd", "adam", "muon", "landing"):
        build_optimizer(model.parameters(), name)
    with pytest.raises(ValueError, match="name: expected one of"):
        build_optimizer(model, "lion")
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        build_optimizer([])
    with pytest.raises(TypeError):
        build_optimizer(model, "adam", color="red")


def test_sphere_state_is_small():
    p = geoopt.ManifoldParameter(torch.eye(6)[:4], manifold=Sphere())
    p.grad = torch.randn(4, 6)
    optimizer = RiemannianAdam([p], lr=0.1)
    optimizer.step()
    assert optimizer.state[p]["exp_avg_sq"].shape == (4, 1)
