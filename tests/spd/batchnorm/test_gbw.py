"""GBW batch normalization: the statements of its definition, and the released code."""

import copy
import warnings

import pytest
import torch

from manifoldkit.linalg import powm
from manifoldkit.spd import (
    BWBatchNorm,
    GBWBatchNorm,
    gbw_distance,
    gbw_exp,
    gbw_geodesic,
    gbw_log,
    gbw_mean,
)
from manifoldkit.spd.gbw.tangent import from_tangent_vector, tangent_vector

DOUBLE = torch.float64
POWERS = [0.5, 1.0, 1.5, 2.0, -1.0]


def layer(n=4, **options):
    # in the unit of the input, as the formulas below are written
    return GBWBatchNorm(n, **{"dtype": DOUBLE, "relative": False, **options})


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_definition(power, training, make_spd, random_layer, batch_mean):
    bn = random_layer(power=power).train(training)
    with torch.no_grad():
        bn.scale.fill_(0.1)  # inside the domain, which the functions insist on
    x, M = make_spd(6), bn.metric.detach()
    mean = (batch_mean(bn, x) if training else bn.running_mean).detach().clone()
    distance = gbw_distance(mean, x, M, power, squared=True)
    var = distance.mean() if training else bn.running_var.clone()
    gain = bn.scale.item() / (var + bn.eps).sqrt()
    # coordinates of the logarithm carried to I, there and back at the bias
    tangent = tangent_vector(mean, x, M, power)
    expected = from_tangent_vector(bn.bias.detach(), gain * tangent, M, power)
    torch.testing.assert_close(bn(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", POWERS)
def test_running_statistics(power, make_spd, random_layer, batch_mean):
    bn = random_layer(power=power)
    x, old = make_spd(6), bn.running_mean.clone()
    mean = batch_mean(bn, x).detach()
    bn(x)
    M = bn.metric.detach()
    expected = gbw_geodesic(old, mean, 0.1, M, power)
    torch.testing.assert_close(bn.running_mean, expected, rtol=1e-9, atol=1e-9)
    var = gbw_distance(mean, x, M, power, squared=True).mean()
    torch.testing.assert_close(bn.running_var, 0.9 * 0.3 + 0.1 * var)
    assert bn.num_batches_tracked == 1
    assert not bn.running_mean.requires_grad


def test_cumulative_average(make_spd, batch_mean):
    bn = layer(momentum=None, mean_iterations=3)
    x = make_spd(6)
    for _ in range(3):
        bn(x)
    torch.testing.assert_close(bn.running_mean, batch_mean(bn, x).detach())
    var = gbw_distance(bn.running_mean, x, squared=True).mean()
    torch.testing.assert_close(bn.running_var, var)
    for momentum, moved in ((0.0, False), (1.0, True)):
        bn = layer(momentum=momentum)
        bn(x)
        eye = torch.eye(4, dtype=DOUBLE)
        assert torch.allclose(bn.running_mean, eye) is not moved


@pytest.mark.parametrize("power", POWERS)
def test_bias_at_the_mean_and_scale_at_the_deviation_is_the_identity(
    power, make_spd, random_layer, batch_mean
):
    bn = random_layer(power=power)
    x = make_spd(6)
    mean = batch_mean(bn, x).detach()
    var = gbw_distance(mean, x, bn.metric.detach(), power, squared=True).mean()
    with torch.no_grad():
        bn.bias.copy_(mean)
        bn.scale.copy_((var + bn.eps).sqrt())
    torch.testing.assert_close(bn(x), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", POWERS)
def test_dispersion_and_mean_of_the_output(power, make_spd, random_layer, batch_mean):
    bn = random_layer(power=power, mean_iterations=60)
    with torch.no_grad():
        bn.scale.fill_(0.1)  # inside the domain, where the exponential is injective
    x = make_spd(8, condition=3.0)
    assert bn.domain_margin(x) > 0
    z, M, bias = bn(x).detach(), bn.metric.detach(), bn.bias.detach()
    mean = batch_mean(bn, x).detach()
    var = gbw_distance(mean, x, M, power, squared=True).mean()
    out = gbw_distance(bias, z, M, power, squared=True).mean()
    torch.testing.assert_close(out, 0.01 * var / (var + bn.eps), rtol=1e-8, atol=0)
    torch.testing.assert_close(
        gbw_log(bias, z, M, power).mean(0), torch.zeros_like(bias), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("relative", [True, False])
def test_equivariances(power, relative, make_spd, generator, random_layer):
    options = {"power": power, "relative": relative, "eps": 0.1}
    bn, x = random_layer(**options), make_spd(6)
    z = bn(x)
    q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=DOUBLE, generator=generator))

    def moved(metric, bias):
        other = layer(**options)
        with torch.no_grad():
            other.metric.copy_(metric)
            other.bias.copy_(bias)
            other.scale.copy_(bn.scale)
        return other

    close = {"rtol": 1e-9, "atol": 1e-9}
    rotated = moved(q @ bn.metric @ q.mT, q @ bn.bias @ q.mT)(q @ x @ q.mT)
    torch.testing.assert_close(rotated, q @ z @ q.mT, **close)
    c = 1e3
    scaled = moved(c**power * bn.metric, c * bn.bias)(c * x)
    torch.testing.assert_close(scaled, c * z, **close)
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(bn(x[order]), z[order], **close)
    if power == 1:  # any congruence, when nothing is deformed
        a = q @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE))
        z2 = moved(a @ bn.metric @ a.mT, a @ bn.bias @ a.mT)(a @ x @ a.mT)
        torch.testing.assert_close(z2, a @ z @ a.mT, **close)


def test_output_is_positive_semidefinite_and_symmetric(make_spd):
    # eigenvalues far above 1: tangent vectors outside the domain of the exponential
    bn, x = layer(), 1e4 * make_spd(8, condition=1e3)
    z = bn(x)
    assert torch.linalg.eigvalsh(z).min() >= -1e-12 * z.abs().max()
    torch.testing.assert_close(z, z.mT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("power", POWERS)
def test_init_from_data(power, make_spd, batch_mean):
    x = 100 * make_spd(8, condition=50.0)
    bn = layer(power=power)
    assert bn.init_from_data(x) is bn
    mean = batch_mean(bn, x).detach()
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(powm(bn.metric.detach(), 1 / power), mean, **close)
    torch.testing.assert_close(bn.bias.detach(), mean, **close)
    torch.testing.assert_close(bn.running_mean, mean, **close)
    var = gbw_distance(mean, x, bn.metric.detach(), power, squared=True).mean()
    torch.testing.assert_close(bn.running_var, var, **close)
    assert bn.num_batches_tracked == 0
    # in that frame I + V / 2 is the transport map, which is positive
    with torch.no_grad():
        bn.scale.copy_((var + bn.eps).sqrt())
    assert bn.domain_margin(x) > 0
    train = bn(x)
    torch.testing.assert_close(bn.eval()(x), train, rtol=1e-6, atol=1e-6)


def test_init_from_data_of_bw_keeps_the_metric(make_spd, batch_mean):
    x = make_spd(8)
    bn = BWBatchNorm(4, dtype=DOUBLE).init_from_data(x)
    assert torch.equal(bn.metric, torch.eye(4, dtype=DOUBLE))
    assert "metric" not in dict(bn.named_parameters())
    torch.testing.assert_close(bn.bias.detach(), batch_mean(bn, x))


def test_domain_margin_and_warning(make_spd):
    x = 1e4 * make_spd(8, condition=100.0)
    bn = layer(check_domain=True)
    before = copy.deepcopy(bn.state_dict())
    margin = bn.domain_margin(x)
    assert margin < 0
    for name, value in bn.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.warns(UserWarning, match="leaves the injectivity domain"):
        bn(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bn(x)  # once
        bn.eval()(x)
        layer(check_domain=True)(make_spd(8, condition=1.5) * 0.01)
    assert layer().init_from_data(x).domain_margin(x) > margin


def test_identical_matrices_become_the_bias(make_spd, random_layer):
    bn = random_layer()
    x = make_spd(n=4).expand(5, 4, 4)
    torch.testing.assert_close(bn(x), bn.bias.detach().expand(5, 4, 4))


def test_mean_iterations_converge_to_the_barycenter(make_spd):
    x = make_spd(8)
    bn = layer(mean_iterations=100, momentum=1.0)
    with torch.no_grad():
        bn.metric.copy_(make_spd(n=4))
    bn(x)
    torch.testing.assert_close(
        bn.running_mean, gbw_mean(x, M=bn.metric.detach()), rtol=1e-8, atol=1e-8
    )
    bn = layer(mean_iterations=0, momentum=1.0)
    bn(x)
    torch.testing.assert_close(bn.running_mean, x.mean(0))


def test_starts_at_the_identity():
    bn = layer(3)
    eye = torch.eye(3, dtype=DOUBLE)
    for value in (bn.metric, bn.bias, bn.running_mean):
        assert torch.equal(value, eye)
    assert bn.scale == bn.running_var == 1
    assert bn.num_batches_tracked == 0
    assert (bn.momentum, bn.eps, bn.power, bn.mean_iterations) == (0.1, 1e-5, 1.0, 1)
    assert (bn.stats_grad, bn.fold, bn.check_domain) == (False, False, False)
    assert (bn.dispersion, bn.root, bn.parametrization) == ("mean", "eigh", "manifold")


def test_deformed_output_is_the_power(make_spd, random_layer):
    bn, x = random_layer(power=1.5), make_spd(6)
    torch.testing.assert_close(bn(x, deformed=True), powm(bn(x), 1.5))


@pytest.mark.gpu
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_agrees_on_a_gpu(power, make_spd, random_layer):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, results = make_spd(6), []
    here = random_layer(power=power, stats_grad=True)
    for bn, leaf in ((here, x.clone()), (copy.deepcopy(here).cuda(), x.cuda())):
        z = bn(leaf.requires_grad_())
        grads = torch.autograd.grad(z.sin().sum(), (leaf, *bn.parameters()))
        results.append([t.cpu() for t in (z, *grads, *bn.buffers())])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def released_forward(x, metric, bias, shift, power, eps=1e-5):
    """The released layer in training, as its formulas are written."""

    def spectral(a, f):
        u, s, _ = torch.linalg.svd(a)
        return (u * f(s)[..., None, :]) @ u.mT

    def root(a):
        return spectral(a, torch.sqrt)

    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    w = spectral(metric, torch.rsqrt)
    x = w @ spectral(x, lambda s: s**power) @ w
    b = w @ spectral(bias, lambda s: s**power) @ w
    g = x.mean(0)
    g_root, g_inverse = root(g), torch.linalg.inv(root(g))
    h = root(g_root @ x @ g_root).mean(0)
    g = g_inverse @ h @ h @ g_inverse
    trace = x.diagonal(dim1=-2, dim2=-1).sum(-1) + x.shape[-1]
    trace = trace - 2 * root(x).diagonal(dim1=-2, dim2=-1).sum(-1)
    var = trace.mean() / power**2
    # logarithm at the mean, transport to I, exponential at I
    g_root, g_inverse = root(g), torch.linalg.inv(root(g))
    c = g_root @ root(g_root @ x @ g_root) @ g_inverse
    s, u = torch.linalg.eigh(g)
    weight = (2 / (s[:, None] + s[None, :])).sqrt()
    v = u @ (weight * (u.mT @ (c + c.mT - 2 * g) @ u)) @ u.mT
    y = eye + v + v @ v / 4
    # scaling and biasing by logarithms at I
    v = shift / (var + eps).sqrt() * (2 * root(y) - 2 * eye)
    y = eye + v + v @ v / 4
    v = 2 * root(y) - 2 * eye
    d, r = torch.linalg.eigh(b)
    total = d[:, None] + d[None, :]
    v = r @ ((total / 2).sqrt() * (r.mT @ v @ r)) @ r.mT
    lyapunov = r @ ((r.mT @ v @ r) / total) @ r.mT
    y = b + v + lyapunov @ b @ lyapunov
    w = root(metric)
    return spectral(w @ y @ w, lambda s: s ** (1 / power))


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_parity_with_the_released_layer(power, scale, make_spd, random_layer):
    x = scale * make_spd(8, condition=20.0)  # the larger one is folded
    bn = random_layer(power=power, dispersion="identity", fold=True)
    plain = random_layer(power=power, dispersion="identity")
    with torch.no_grad():
        for name, p in plain.named_parameters():
            p.copy_(bn.get_parameter(name))
    args = bn.metric.detach(), bn.bias.detach(), bn.scale.item(), power
    expected = released_forward(x, *args)
    size = expected.abs().max()
    assert (bn(x) - expected).abs().max() <= 1e-11 * size
    inside = plain.domain_margin(x) > 0
    assert ((plain(x) - expected).abs().max() <= 1e-11 * size) == inside


def test_exponential_reaches_the_output(make_spd):
    """In the domain the layer is exp at the bias of the carried logarithm."""
    bn = layer().init_from_data(make_spd(8))
    x = make_spd(8)
    z = bn(x).detach()
    M, bias = bn.metric.detach(), bn.bias.detach()
    back = gbw_exp(bias, gbw_log(bias, z, M), M)
    torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-9)
