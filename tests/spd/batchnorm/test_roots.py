"""GBW batch normalization where roots are hard: condition, rank, other iterations."""

import copy

import pytest
import torch

from manifoldkit.spd import (
    GBWBatchNorm,
    gbw_distance,
)

DOUBLE = torch.float64


def layer(n=4, **options):
    return GBWBatchNorm(n, **{"dtype": DOUBLE, "relative": False, **options})


@pytest.mark.parametrize(("dtype", "condition"), [(DOUBLE, 1e8), (torch.float32, 1e4)])
@pytest.mark.parametrize("start", [True, False])
def test_ill_conditioned(dtype, condition, start, make_spd, batch_mean):
    x = make_spd(10, n=6, condition=condition, dtype=dtype)
    bn = layer(6, dtype=dtype)
    if start:
        bn.init_from_data(x)
    with torch.no_grad():
        mean = batch_mean(bn, x.double()) if dtype == DOUBLE else None
        if mean is not None:
            var = gbw_distance(mean, x, bn.metric.detach(), squared=True).mean()
            bn.bias.copy_(mean)
            bn.scale.copy_((var + bn.eps).sqrt())
    x.requires_grad_()
    z = bn(x)
    if mean is not None:  # the identity map
        assert (z - x).abs().max() < 3e-6 * x.abs().max()
    z.square().sum().backward()
    assert z.isfinite().all()
    for p in (x, *bn.parameters()):
        assert p.grad.isfinite().all()
    assert bn.running_mean.isfinite().all()
    assert torch.linalg.eigvalsh(bn.running_mean).min() > 0
    if dtype == torch.float32:
        other = copy.deepcopy(bn).double().eval()
        bn.eval()
        error = bn(x).double() - other(x.double())
        assert error.abs().max() < 2e-3 * z.abs().max()


def test_rank_deficient_samples(make_spd):
    x = make_spd(6)
    x[0] = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=DOUBLE))
    x.requires_grad_()
    bn = layer()
    z = bn(x)
    z.sum().backward()
    assert z.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("condition", [1e1, 1e5])
def test_newton_schulz_agrees(condition, make_spd):
    x = make_spd(6, condition=condition).requires_grad_()
    results = []
    for root in ("eigh", "newton-schulz"):
        bn = layer(root=root, stats_grad=True)
        z = bn(x)
        grads = torch.autograd.grad(z.sin().sum(), (x, *bn.parameters()))
        results.append((z, *grads))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_newton_schulz_falls_back(make_spd):
    x = make_spd(6)
    x[0] = 0
    torch.testing.assert_close(layer(root="newton-schulz")(x), layer()(x))


@pytest.mark.parametrize("root", ["eigh", "newton-schulz"])
@pytest.mark.parametrize("c", [1e-12, 1e6])
def test_roots_are_free_of_the_unit(root, c, make_spd):
    x = make_spd(6, condition=1e3)
    options = {"root": root, "relative": True}
    torch.testing.assert_close(layer(**options)(c * x), layer(**options)(x))
