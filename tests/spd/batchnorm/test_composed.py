"""Second derivatives of GBW batch normalization."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.spd import (
    GBWBatchNorm,
)

DOUBLE = torch.float64


def layer(n=4, **options):
    return GBWBatchNorm(n, **{"dtype": DOUBLE, **options})


@pytest.mark.parametrize("special", [True, False])
def test_gradgradcheck(special, make_spd, random_layer, arguments):
    bn = layer(2, stats_grad=True) if special else random_layer(2)
    x = make_spd(2, n=2, condition=3.0)
    if special:
        x = torch.eye(2, dtype=DOUBLE).expand(2, 2, 2).clone()
    bn.train(special)
    function, inputs = arguments(bn, x)
    # around repeated eigenvalues the variance is zero: its eps keeps it finite
    bn.eps = 0.1
    assert gradgradcheck(function, inputs, rtol=1e-4, atol=1e-5)


def test_weighted_second_derivatives(make_spd, random_layer, arguments):
    bn = random_layer(2, stats_grad=True, eps=0.1)
    function, inputs = arguments(bn, make_spd(3, n=2, condition=3.0))
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=DOUBLE)
    forward = bn.forward
    bn.forward = lambda x: forward(x, weights)
    assert gradcheck(function, inputs, rtol=1e-6, atol=1e-6)
    assert gradgradcheck(function, inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize(
    "options",
    [
        {"stats_grad": True, "mean_iterations": 2},
        {"stats_grad": True, "relative": True, "fold": True},
        {"stats_grad": False},
        {"n_channels": 2, "dispersion": "identity"},
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_with_a_graph_are_those_without(
    power, options, training, make_spd, random_layer
):
    """gradgradcheck sees no fault of the first derivatives that a graph is built of."""
    bn = random_layer(3, power=power, **options).train(training)
    x = make_spd(4, 2, n=3, condition=5.0)
    weight = torch.randn(
        x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)
    )
    grads = []
    for create_graph in (False, True):
        leaf = x.clone().requires_grad_()
        loss = (bn(leaf) * weight).sum()
        inputs = (leaf, *bn.parameters())
        found = torch.autograd.grad(loss, inputs, create_graph=create_graph)
        # matrices are symmetric: so is what a gradient means
        grads.append([g + g.mT if g.ndim > 1 else g for g in found])
    assert all(g.requires_grad for g in grads[1])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)
