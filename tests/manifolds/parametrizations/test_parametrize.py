"""Weights on manifolds under any optimizer: round trips, training, torch's tools."""

import copy
import io

import geoopt
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn.utils import parametrize as torch_parametrize

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import procrustes
from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    FixedRank,
    GLPlus,
    Grassmann,
    Oblique,
    PositiveReals,
    Product,
    PSDFixedRank,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    attach,
    parametrize,
)

PARTS = ((Sphere(), 3), (GLPlus(), (2, 2)), (FixedRank(3, 3, 1), (2, 3, 3)))
CASES = [
    (Euclidean(), (3,)),
    (Sphere(), (4,)),
    (Sphere(2.0), (3, 5)),
    (Oblique(), (4, 3)),
    (Stiefel(), (5, 3)),
    (Stiefel("canonical"), (2, 4, 4)),
    (Grassmann(), (5, 2)),
    (SpecialOrthogonal(), (2, 4, 4)),
    (SPD(), (4, 4)),
    (SPD("log_euclidean"), (2, 4, 4)),
    (PositiveReals(), (4,)),
    (GLPlus(), (4, 4)),
    (GLPlus("polar"), (2, 3, 3)),
    (SpecialLinear(), (4, 4)),
    (FixedRank(6, 5, 2), (6, 5)),
    (PSDFixedRank(5, 2), (2, 5, 5)),
    (Product(*PARTS), (2, 25)),
]
every = pytest.mark.parametrize(("manifold", "shape"), CASES, ids=repr)
DTYPES = [torch.float32, torch.float64]


def points(manifold, shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return manifold.random(*shape, dtype=dtype, generator=g).data


class Holder(nn.Module):
    """A weight and nothing else."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(value.clone())

    def forward(self):
        return self.weight.square().sum()


def holder(manifold, value, **options):
    return parametrize(Holder(value), "weight", manifold, layout="as_is", **options)


def original(module):
    return module.parametrizations.weight.original


def train(module, target, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        (module.weight - target).square().sum().backward()
        optimizer.step()


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_point_comes_back(manifold, shape, dtype):
    x, y = (points(manifold, shape, seed, dtype) for seed in (0, 1))
    module = holder(manifold, x)
    bound = 50 * torch.finfo(dtype).eps * float(1 + x.abs().max())
    torch.testing.assert_close(module.weight.detach(), x, rtol=0, atol=bound)
    module.weight = y
    bound = 50 * torch.finfo(dtype).eps * float(1 + y.abs().max())
    torch.testing.assert_close(module.weight.detach(), y, rtol=0, atol=bound)
    assert module.weight.dtype == dtype


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_every_raw_value_is_a_point(manifold, shape, seed):
    module = holder(manifold, points(manifold, shape))
    g = torch.Generator().manual_seed(seed)
    raw = original(module)
    raw.data = torch.randn(raw.shape, dtype=raw.dtype, generator=g)
    assert manifold.check_point_on_manifold(module.weight.data, atol=1e-12, rtol=0)


HALF = torch.diag(torch.tensor([-1.0, -1.0, 1.0])).double()
HARD = [
    (SpecialOrthogonal(), -torch.eye(4)),
    (SpecialOrthogonal(), HALF),
    (SpecialOrthogonal(), torch.eye(3).flip(0) * torch.tensor([[1.0], [-1.0], [1.0]])),
    (SpecialOrthogonal(), torch.block_diag(-torch.eye(2), torch.eye(3))),
    (Stiefel(), -torch.eye(4, 2)),
    (Stiefel(), torch.diag(torch.tensor([1.0, 1.0, -1.0]))),
    (Sphere(), torch.tensor([-1.0, 0.0, 0.0])),
    (GLPlus(), torch.diag(torch.tensor([-3.0, -1e-3, 2.0]))),
    (SpecialLinear(), torch.diag(torch.tensor([-4.0, -0.25]))),
    (SPD(), torch.diag(torch.tensor([1e6, 1.0, 1e-6]))),
    (SPD("log_euclidean"), torch.eye(3)),
    (FixedRank(3, 4, 2), 1e-9 * torch.diag(torch.tensor([-1.0, 1e-4, 0.0, 0]))[:3]),
    (PSDFixedRank(3, 3), torch.eye(3)),
]


@pytest.mark.parametrize(("manifold", "x"), HARD, ids=repr)
def test_hard_points_are_reached_with_gradients(manifold, x):
    """Half turns, reflections, antipodes of the origin, equal and far values."""
    x = x.double()
    module = holder(manifold, x, project=False)
    error = (module.weight.detach() - x).abs().max() / x.abs().max()
    assert error < 1e-14
    (module.weight * torch.arange(x.numel()).reshape(x.shape)).sum().backward()
    assert original(module).grad.isfinite().all()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_passes_half_turns(seed):
    """From the identity to rotations by almost 180 degrees and -I: to the optimum."""
    turn = points(SpecialOrthogonal(), (4, 4), seed)
    for target in (turn @ torch.diag(-torch.ones(4)).double() @ turn.mT, -turn):
        module = holder(SpecialOrthogonal(), torch.eye(4).double())
        noise = torch.Generator().manual_seed(seed)
        start = torch.randn(4, 4, generator=noise).double()
        original(module).data += 0.1 * start
        train(module, target, torch.optim.Adam(module.parameters(), 0.05), 200)
        best = procrustes(torch.eye(4).double(), target, special=True)
        found = (module.weight - target).norm(), (best - target).norm()
        assert found[0] <= found[1] + 1e-3


@every
def test_derivatives(manifold, shape):
    module = holder(manifold, points(manifold, shape))
    step = module.parametrizations.weight[0]
    assert gradcheck(step, original(module).detach().clone().requires_grad_())


@every
@pytest.mark.parametrize("steps", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_on_the_manifold_after_steps_of_adamw(manifold, shape, steps):
    module = holder(manifold, points(manifold, shape, dtype=torch.float32))
    target = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    step = torch.optim.AdamW(module.parameters(), lr=0.02, weight_decay=0.1)
    first = (module.weight.data - target).norm()
    train(module, target, step, steps)
    assert (module.weight.data - target).norm() < first
    assert manifold.check_point_on_manifold(module.weight.data)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.02),
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=1e-3),
    "LBFGS": lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("manifold", "shape"), [CASES[i] for i in (1, 4, 8, 11, 14)], ids=repr
)
def test_other_optimizers_find_the_target(manifold, shape, name):
    target = points(manifold, shape, seed=1)
    start = manifold.origin(*shape, dtype=torch.float64).data
    module = holder(manifold, start)
    step = OPTIMIZERS[name](module.parameters())

    def closure():
        step.zero_grad()
        loss = (module.weight - target).square().sum()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(10 if name == "LBFGS" else 100):
        step.step(closure)
    assert closure().item() < (1e-6 if name == "LBFGS" else 0.2) * first
    assert manifold.check_point_on_manifold(module.weight.data)


def test_only_decay_leaves_a_rotation_where_it_is():
    x = points(SpecialOrthogonal(), (3, 3), dtype=torch.float32)
    module = holder(SpecialOrthogonal(), x)
    step = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(500):
        original(module).grad = torch.zeros(3, 3)
        step.step()
    assert original(module).abs().max() < 1e-20
    torch.testing.assert_close(module.weight.data, x)
    module().backward()
    assert original(module).grad.isfinite().all()


def test_projectors():
    layer = nn.Linear(5, 5, bias=False).double()
    parametrize(layer, "weight", Grassmann(), projector_rank=2)
    step = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.1)
    q = points(Grassmann(), (5, 2), seed=4)
    train(layer, q @ q.mT, step, 120)
    p = layer.weight.detach()
    torch.testing.assert_close(p @ p, p)
    assert torch.equal(p, p.mT)
    torch.testing.assert_close(p.trace(), torch.tensor(2.0).double())
    assert (p - q @ q.mT).norm() < 0.05
    layer.weight = q @ q.mT
    torch.testing.assert_close(layer.weight.detach(), q @ q.mT)
    with pytest.raises(ValueError, match="projector_rank"):
        parametrize(nn.Linear(3, 3), "weight", Stiefel(), projector_rank=1)
    with pytest.raises(ValueError, match="projectors"):
        parametrize(nn.Linear(3, 4), "weight", Grassmann(), projector_rank=1)
    with pytest.raises(NotOnManifoldError, match="not a projector"):
        parametrize(
            nn.Linear(3, 3), "weight", Grassmann(), projector_rank=1, project=False
        )


def test_layouts_and_submodules():
    net = nn.Sequential(nn.Linear(5, 3), nn.Conv2d(2, 4, 3))
    assert parametrize(net, "0.weight", Stiefel()) is net
    parametrize(net, "1.weight", Stiefel())
    rows = net[0].weight, net[1].weight.flatten(1)
    for w in rows:
        torch.testing.assert_close(w @ w.mT, torch.eye(len(w)))
    assert net[1].weight.shape == (4, 2, 3, 3)


def test_state_dict_copy_and_removal():
    manifold = FixedRank(4, 3, 2)
    first, second = (holder(manifold, points(manifold, (4, 3), i)) for i in (0, 1))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert list(state) == ["parametrizations.weight.original"]
    second.load_state_dict(state)
    assert torch.equal(second.weight, first.weight)
    twin = copy.deepcopy(first)
    train(twin, torch.zeros(4, 3), torch.optim.SGD(twin.parameters(), 0.1), 3)
    assert not torch.equal(twin.weight, first.weight)
    assert torch.equal(second.weight, first.weight)
    before = first.weight.detach().clone()
    torch_parametrize.remove_parametrizations(first, "weight")
    assert type(first.weight) is nn.Parameter
    assert torch.equal(first.weight, before)


def test_half_precision():
    layer = parametrize(nn.Linear(8, 4), "weight", Stiefel())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w = layer.weight
        assert layer(torch.ones(2, 8)).dtype == torch.bfloat16
    assert w.dtype == torch.float32
    torch.testing.assert_close(w @ w.mT, torch.eye(4), rtol=0, atol=1e-6)
    layer = layer.bfloat16()
    w = layer.weight.float()
    assert layer.weight.dtype == torch.bfloat16
    torch.testing.assert_close(w @ w.mT, torch.eye(4), rtol=0, atol=2e-2)


@pytest.mark.compile
@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        CASES[9],
        pytest.param(*CASES[7], marks=pytest.mark.slow),
        pytest.param(*CASES[14], marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_a_compiled_step_is_the_plain_one(manifold, shape):
    torch._dynamo.reset()
    x, target = (points(manifold, shape, seed) for seed in (0, 1))
    plain, traced = holder(manifold, x), holder(manifold, x)

    def loss(module):
        return (module.weight - target).square().sum()

    compiled = torch.compile(loss, backend="aot_eager")
    for _ in range(2):
        for module, f in ((plain, loss), (traced, compiled)):
            module.zero_grad()
            f(module).backward()
            original(module).data -= 0.01 * original(module).grad
    torch.testing.assert_close(traced.weight, plain.weight)


def test_bad_input():
    layer = nn.Linear(4, 4)
    with pytest.raises(AttributeError, match="no parameter 'wieght'"):
        parametrize(layer, "wieght", Stiefel())
    with pytest.raises(TypeError, match="manifold"):
        parametrize(layer, "weight", "stiefel")
    with pytest.raises(ValueError, match="layout"):
        parametrize(layer, "weight", Stiefel(), layout="rows")
    with pytest.raises(ValueError, match="expected matrices"):
        parametrize(layer, "weight", FixedRank(3, 4, 2))
    with pytest.raises(NotOnManifoldError, match="project=True"):
        parametrize(layer, "weight", Stiefel(), project=False)
    layer.weight.data = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(NotOnManifoldError, match="det x"):
        parametrize(layer, "weight", GLPlus())
    assert not torch_parametrize.is_parametrized(layer)
    parametrize(layer, "weight", Stiefel())
    with pytest.raises(ValueError, match="NaN"):
        layer.weight = torch.full((4, 4), float("nan"))
    attached = nn.Linear(4, 4)
    attach(attached, "weight", Stiefel())
    with pytest.raises(ValueError, match="attached to Stiefel"):
        parametrize(attached, "weight", Stiefel())
    own = type("Own", (Euclidean,), {})
    assert parametrize(nn.Linear(2, 2), "weight", own())
    with pytest.raises(TypeError, match="SpecialOrthogonal"):
        parametrize(nn.Linear(2, 2), "weight", geoopt.Lorentz())
