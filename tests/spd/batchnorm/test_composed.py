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
