"""What GBW batch normalization shares: shapes, weights, statistics, bad input."""

import copy

import pytest
import torch

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.spd import (
    GBWBatchNorm,
    make_batchnorm,
)

DOUBLE = torch.float64


def layer(n=4, **options):
    return GBWBatchNorm(n, **{"dtype": DOUBLE, **options})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, make_spd):
    bn = layer(dtype=torch.float32)
    x = make_spd(5, dtype=dtype).requires_grad_()
    z = bn(x)
    assert z.dtype == dtype
    z.sum().backward()
    assert x.grad.dtype == dtype
    torch.testing.assert_close(
        z.float(), layer(dtype=torch.float32)(x.float()), rtol=2e-2, atol=2e-2
    )
    assert layer(dtype=torch.float32)(make_spd(5)).dtype == DOUBLE


def test_channels_are_pooled_unless_asked(make_spd):
    x = make_spd(3, 2)
    pooled, flat = layer(), layer()
    torch.testing.assert_close(pooled(x).flatten(0, 1), flat(x.flatten(0, 1)))
    apart = layer(n_channels=2)
    assert apart.bias.shape == (2, 4, 4)
    assert apart.scale.shape == (2,)
    z = apart(x)
    for c in range(2):
        single = layer()
        torch.testing.assert_close(z[:, c], single(x[:, c]))
        torch.testing.assert_close(apart.running_mean[c], single.running_mean)
        torch.testing.assert_close(apart.running_var[c], single.running_var)
    apart.init_from_data(x)
    torch.testing.assert_close(
        apart.metric[1].detach(), layer().init_from_data(x[:, 1]).metric.detach()
    )


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"dispersion": "identity"}])
@pytest.mark.parametrize("root", ["eigh", "newton-schulz"])
def test_weights_are_repetitions(power, options, root, make_spd, random_layer):
    """Values, gradients and running statistics; weight 0 is not counted at all."""
    bn = random_layer(
        power=power, stats_grad=True, mean_iterations=2, root=root, **options
    )
    x, weights = make_spd(5), torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0], dtype=DOUBLE)
    index = torch.tensor([0, 1, 1, 3, 3, 3, 4])
    twin, results = copy.deepcopy(bn), []
    for layer_, batch, w in ((bn, x, weights), (twin, x[index], None)):
        leaf = batch.clone().requires_grad_()
        z = layer_(leaf, None if w is None else 0.5 * w)  # their scale has no effect
        loss = z.sin() if w is None else w[:, None, None] * z.sin()
        grads = torch.autograd.grad(loss.sum(), (leaf, *layer_.parameters()))
        results.append((z, *grads))
    (z, grad, *ours), (z2, grad2, *theirs) = results
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(z[index], z2, **close)
    summed = torch.zeros_like(grad).index_add(0, index, grad2)
    torch.testing.assert_close(grad, summed, **close)
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(list(bn.buffers()), list(twin.buffers()), **close)
    assert z[2].isfinite().all()  # normalized all the same
    bn.eval()
    assert torch.equal(bn(x, weights), bn(x))


def test_weights_of_channels(make_spd):
    x = make_spd(6, 2)
    weights = torch.rand(6, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    z = layer(n_channels=2)(x, weights)
    for c in range(2):
        torch.testing.assert_close(z[:, c], layer()(x[:, c], weights[:, c]))
    # a weight a sample, for all channels; pooled
    torch.testing.assert_close(
        layer(n_channels=2)(x, weights[:, :1])[:, 1], layer()(x[:, 1], weights[:, 0])
    )
    flat = layer()(x.flatten(0, 1), weights.flatten())
    torch.testing.assert_close(layer()(x, weights).flatten(0, 1), flat)


def test_without_affine_statistics_or_metric(make_spd):
    x = make_spd(6)
    bn = layer(affine=False, learn_metric=False, track_running_stats=False)
    assert not list(bn.parameters())
    assert bn.running_mean is None
    torch.testing.assert_close(bn(x), layer()(x))
    torch.testing.assert_close(bn.eval()(x), layer()(x))
    bn.reset_running_stats()
    bn.init_from_data(x)
    assert not torch.equal(bn.metric, torch.eye(4, dtype=DOUBLE))


def test_repr():
    assert repr(layer(3, power=0.5)) == "GBWBatchNorm(3, power=0.5)"


def test_bad_settings():
    for options, message in (
        ({"power": 0}, "power: expected"),
        ({"power": 1e-4}, "power: expected"),
        ({"momentum": 1.5}, r"momentum: expected a number in \[0, 1\], found 1.5"),
        ({"momentum": -0.1}, "momentum"),
        ({"eps": -1.0}, "eps: expected"),
        ({"mean_iterations": -1}, "mean_iterations: expected an integer >= 0"),
        ({"dispersion": "median"}, r"dispersion: expected one of \('mean'"),
        ({"root": "svd"}, "root: expected one of"),
        ({"parametrization": "log"}, "parametrization: expected one of"),
        ({"n_channels": 0}, "n_channels: expected an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(**options)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, found 0"):
        GBWBatchNorm(0)
    with pytest.raises(ValueError, match="batchnorm: expected one of"):
        make_batchnorm("layer", 3)


def test_bad_input(make_spd):
    bn, x = layer(), make_spd(5)
    for value, message in (
        (make_spd(5, n=3), r"x: expected matrices of shape \(..., 4, 4\), found"),
        (x[..., :3], "x: expected square matrices"),
        (x[0, 0], "x: expected square matrices"),
        (x[:1], "more than 1 matrix"),
        (x[0], "more than 1 matrix"),
        (x[:0], "more than 1 matrix"),
    ):
        with pytest.raises(ValueError, match=message):
            bn(value)
    for value in (x.long(), x > 0, x.to(torch.complex128)):
        with pytest.raises(TypeError, match="x: "):
            bn(value)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 3, 4, 4\)"):
        layer(n_channels=3)(x)
    bad = x.clone()
    bad[3, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"x\[\d.*is not finite"):
        bn(bad)
    with pytest.raises(NotOnManifoldError, match=r"mean of x.*not positive definite"):
        bn(-x)
    checked = layer(validate=True)
    bad = x.clone()
    bad[2] = -torch.eye(4)
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not positive definite"):
        checked(bad)
    bad[2] = torch.eye(4)
    bad[2, 0, 1] = 0.1
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not symmetric"):
        checked(bad)
    for name, value in bn.state_dict().items():
        assert value.isfinite().all(), name


def test_evaluation_takes_any_number(make_spd, random_layer):
    bn, x = random_layer().eval(), make_spd(5)
    z = bn(x)
    torch.testing.assert_close(bn(x[0]), z[0])
    torch.testing.assert_close(bn(x[:1]), z[:1])
    assert bn(x[:0]).shape == (0, 4, 4)
    bad = x.clone()
    bad[1] = torch.nan
    out = bn(bad)
    assert out[1].isnan().all()
    torch.testing.assert_close(out[2:], z[2:])


def test_asymmetry_below_tolerance_is_removed(make_spd):
    x = make_spd(5)
    y = x.clone()
    y[..., 0, 1] += 1e-9
    y[..., 1, 0] -= 1e-9
    torch.testing.assert_close(layer()(y), layer()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"power": 0.5}, {"fold": True}], ids=str)
@pytest.mark.parametrize("c", [1e-12, 1e6])
def test_the_unit_is_in_the_statistics_alone(options, c, make_spd):
    here, there = layer(**options), layer(**options)
    close = {"rtol": 1e-7, "atol": 1e-9}
    for batch in (make_spd(6), make_spd(6)):
        torch.testing.assert_close(there(c * batch), here(batch), **close)
    torch.testing.assert_close(there.running_mean / c, here.running_mean, **close)
    unit = c ** options.get("power", 1.0)
    torch.testing.assert_close(there.running_var / unit, here.running_var, **close)
    x = make_spd(3)
    torch.testing.assert_close(there.eval()(c * x), here.eval()(x), **close)
    absolute = layer(relative=False, **options)(c * x)
    assert not torch.allclose(absolute, layer(**options)(c * x), rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_first_batch_takes_the_place_of_the_identity(momentum, make_spd):
    x, y = make_spd(6), 5 * make_spd(6)
    bn, alone = layer(momentum=momentum), layer(momentum=1.0)
    for each in (bn, alone):
        each(x)
    torch.testing.assert_close(bn.running_mean, alone.running_mean)
    bn(y)
    assert not torch.allclose(bn.running_mean, alone.running_mean)
    bn.init_from_data(x)
    start = bn.running_mean.clone()
    bn(y)
    alone(y)
    assert not torch.allclose(bn.running_mean, alone.running_mean)
    assert not torch.allclose(bn.running_mean, start)
