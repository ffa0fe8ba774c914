"""Parameters of GBW batch normalization, on manifolds and as free ones."""

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit.linalg import symmetrize
from manifoldkit.manifolds import SPD, PositiveReals
from manifoldkit.optim import build_optimizer
from manifoldkit.spd import (
    GBWBatchNorm,
    SPDNet,
)

DOUBLE = torch.float64


def layer(n=4, **options):
    return GBWBatchNorm(n, **{"dtype": DOUBLE, **options})


def test_gradcheck_of_free_parameters_per_channel(make_spd):
    bn = layer(3, n_channels=2, parametrization="cholesky", stats_grad=True)
    names = [name for name, _ in bn.named_parameters()]
    assert names == ["free_bias.raw", "free_scale.raw", "free_metric.raw"]
    values = [p.detach().clone().requires_grad_() for p in bn.parameters()]
    x = make_spd(3, 2, n=3, condition=5.0)
    assert gradcheck(run_free(bn, names), (x.requires_grad_(), *values), atol=1e-6)


def run_free(bn, names):
    def forward(x, *values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(bn, state, (symmetrize(x),))

    return forward


@pytest.mark.parametrize("parametrization", ["manifold", "cholesky"])
def test_state(parametrization, make_spd):
    x = make_spd(6)
    bn = layer(parametrization=parametrization)
    torch.testing.assert_close(bn.metric.detach(), torch.eye(4, dtype=DOUBLE))
    expected = layer()(x)
    torch.testing.assert_close(bn(x), expected)
    bn.init_from_data(x)
    bn(x)
    for other in (copy.deepcopy(bn), pickle.loads(pickle.dumps(bn))):
        torch.testing.assert_close(other.eval()(x), bn.eval()(x))
    fresh = layer(parametrization=parametrization)
    fresh.load_state_dict(bn.state_dict())
    torch.testing.assert_close(fresh.eval()(x), bn.eval()(x))
    assert "running_mean" in bn.state_dict()
    bn.reset_parameters()
    torch.testing.assert_close(bn.train()(x), expected)
    assert bn.num_batches_tracked == 1


@pytest.mark.parametrize("parametrization", ["manifold", "cholesky"])
def test_training_stays_in_the_cone(parametrization, make_spd):
    bn = layer(parametrization=parametrization)
    x, target = make_spd(12), make_spd(12)
    if parametrization == "manifold":
        assert isinstance(bn.metric.manifold, SPD)
        assert isinstance(bn.scale.manifold, PositiveReals)
        optimizer = build_optimizer(bn, "adam", lr=0.05, manifold_lr=0.05)
    else:
        optimizer = torch.optim.Adam(bn.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (bn(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for value in (bn.metric, bn.bias):
        assert torch.linalg.eigvalsh(value.detach()).min() > 0
    assert bn.scale > 0


@pytest.mark.parametrize("parametrization", ["manifold", "cholesky"])
def test_weight_decay_spares_the_parameters(parametrization):
    options = {"parametrization": parametrization}
    net = SPDNet(5, (4,), 2, batchnorm_options=options)
    optimizer = build_optimizer(net, "adamw", weight_decay=0.1)
    decay = {
        id(p): group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(decay) == len(list(net.parameters()))
    assert {decay[id(p)] for p in net.layers[1].parameters()} == {0.0}
    assert decay[id(net.head.weight)] == 0.1
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    spared = {"manifold": "manifold, no decay", "cholesky": "euclidean, no decay"}
    kinds = {"euclidean", "compact", spared[parametrization]}
    assert set(rates) == kinds
    assert len(set(rates.values())) == 2
