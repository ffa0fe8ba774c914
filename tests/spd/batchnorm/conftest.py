"""Helpers of the tests of GBW batch normalization, as fixtures."""

import pytest
import torch

from manifoldkit.linalg import powm, sqrtm, symmetrize
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.spd import GBWBatchNorm
from manifoldkit.spd.gbw.chart import Chart


@pytest.fixture
def random_layer(make_spd):
    """Make a layer whose parameters are no special points."""

    def make(n=4, **options):
        # in the unit of the input, as the formulas of the tests are written
        options = {"dtype": torch.float64, "relative": False, **options}
        bn = GBWBatchNorm(n, **options)
        with torch.no_grad():
            bn.metric.copy_(make_spd(n=n))
            bn.bias.copy_(make_spd(n=n))
            bn.scale.fill_(0.7)
            bn.running_mean.copy_(make_spd(n=n))
            bn.running_var.fill_(0.3)
        return bn

    return make


@pytest.fixture
def batch_mean():
    """Mean of a layer by plain formulas, in input units."""

    def batch_mean(bn, x):
        theta = bn.power
        y = powm(x, theta)
        factor = cholesky(bn.metric)
        flat = Chart(factor, 1.0).whiten(y)
        g = flat.mean(0)
        for _ in range(bn.mean_iterations):
            root = sqrtm(g)
            inner = torch.linalg.inv(root)
            h = (inner @ sqrtm(root @ flat @ root) @ inner).mean(0)
            g = h @ g @ h
        return powm(factor @ g @ factor.mT, 1 / theta)

    return batch_mean


@pytest.fixture
def arguments():
    """The layer as a function of its input and parameters, and their values."""

    def run(bn, names):
        def forward(x, *values):
            values = {
                k: v if v.ndim < 2 else symmetrize(v)
                for k, v in zip(names, values, strict=True)
            }
            return torch.func.functional_call(bn, values, (symmetrize(x),))

        return forward

    def arguments(bn, x):
        names = [k for k, p in bn.named_parameters() if p.requires_grad]
        values = [bn.get_parameter(k).detach().clone().requires_grad_() for k in names]
        return run(bn, names), (x.clone().requires_grad_(), *values)

    return arguments


@pytest.fixture
def slope():
    """Derivative of f at 0 to the sixth order in h."""

    def slope(f, h):
        with torch.no_grad():
            a = [float(f(h * k)) for k in (-3, -2, -1, 1, 2, 3)]
        return (a[5] - a[0] - 9 * (a[4] - a[1]) + 45 * (a[3] - a[2])) / (60 * h)

    return slope
