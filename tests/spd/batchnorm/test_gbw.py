"""GBW batch normalization: the statements of its definition, gradients, bad input."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import powm, sqrtm, symmetrize
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.manifolds import SPD, PositiveReals
from manifoldkit.optim import build_optimizer
from manifoldkit.spd import (
    BWBatchNorm,
    GBWBatchNorm,
    SPDNet,
    gbw_distance,
    gbw_exp,
    gbw_geodesic,
    gbw_log,
    gbw_mean,
    make_batchnorm,
)
from manifoldkit.spd.batchnorm import kernel
from manifoldkit.spd.gbw.chart import Chart
from manifoldkit.spd.gbw.tangent import from_tangent_vector, tangent_vector

DOUBLE = torch.float64
POWERS = [0.5, 1.0, 1.5, 2.0, -1.0]


def layer(n=4, **options):
    return GBWBatchNorm(n, **{"dtype": DOUBLE, **options})


def random_layer(make_spd, n=4, **options):
    """A layer whose parameters are no special points."""
    bn = layer(n, **options)
    with torch.no_grad():
        bn.metric.copy_(make_spd(n=n))
        bn.bias.copy_(make_spd(n=n))
        bn.scale.fill_(0.7)
        bn.running_mean.copy_(make_spd(n=n))
        bn.running_var.fill_(0.3)
    return bn


def batch_mean(bn, x):
    """Mean of the layer by plain formulas, in input units."""
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


# -- the definition ---------------------------------------------------------------


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_definition(power, training, make_spd):
    bn = random_layer(make_spd, power=power).train(training)
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
def test_running_statistics(power, make_spd):
    bn = random_layer(make_spd, power=power)
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


def test_cumulative_average(make_spd):
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
def test_bias_at_the_mean_and_scale_at_the_deviation_is_the_identity(power, make_spd):
    bn = random_layer(make_spd, power=power)
    x = make_spd(6)
    mean = batch_mean(bn, x).detach()
    var = gbw_distance(mean, x, bn.metric.detach(), power, squared=True).mean()
    with torch.no_grad():
        bn.bias.copy_(mean)
        bn.scale.copy_((var + bn.eps).sqrt())
    torch.testing.assert_close(bn(x), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", POWERS)
def test_dispersion_and_mean_of_the_output(power, make_spd):
    bn = random_layer(make_spd, power=power, mean_iterations=60)
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
def test_equivariances(power, make_spd, generator):
    bn, x = random_layer(make_spd, power=power), make_spd(6)
    z = bn(x)
    q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=DOUBLE, generator=generator))

    def moved(metric, bias):
        other = layer(power=power)
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


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_any_root_of_the_metric_gives_the_same_output(power, make_spd, monkeypatch):
    """The symmetric root in place of the Cholesky factor, gradients included."""
    bn = random_layer(make_spd, power=power, stats_grad=True)
    x, results = make_spd(6).requires_grad_(), []
    for symmetric in (False, True):
        if symmetric:

            def factorize(metric):
                root = sqrtm(metric)
                return kernel.Frame(root, torch.linalg.inv(root))

            monkeypatch.setattr(kernel, "_factorize", factorize)
        z = bn(x)
        grads = torch.autograd.grad(z.sin().sum(), (x, *bn.parameters()))
        results.append((z, *grads))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_output_is_positive_semidefinite_and_symmetric(make_spd):
    # eigenvalues far above 1: tangent vectors outside the domain of the exponential
    bn, x = layer(), 1e4 * make_spd(8, condition=1e3)
    z = bn(x)
    assert torch.linalg.eigvalsh(z).min() >= -1e-12 * z.abs().max()
    torch.testing.assert_close(z, z.mT, rtol=1e-12, atol=1e-12)


# -- starting from data, domain -----------------------------------------------------


@pytest.mark.parametrize("power", POWERS)
def test_init_from_data(power, make_spd):
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


def test_init_from_data_of_bw_keeps_the_metric(make_spd):
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


# -- gradients ----------------------------------------------------------------------


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


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("mode", ["eval", "stats_grad", "channels"])
def test_gradcheck(power, special, mode, make_spd):
    options = {"power": power, "stats_grad": mode != "eval"}
    x = make_spd(4, n=3, condition=5.0)
    if mode == "channels":
        options["n_channels"] = 2
        x = make_spd(3, 2, n=3, condition=5.0)
    bn = layer(3, **options)
    if special:  # repeated eigenvalues, M = bias = I
        x[0], x[1] = torch.eye(3), x[2]
    else:
        with torch.no_grad():
            bn.metric.copy_(make_spd(n=3))
            bn.bias.copy_(make_spd(n=3))
    bn.train(mode != "eval")
    if mode == "eval":
        bn.running_mean.copy_(torch.eye(3) if special else make_spd(n=3))
        bn.running_var.fill_(0.3)
    function, inputs = arguments(bn, x)
    assert gradcheck(function, inputs, rtol=1e-6, atol=1e-6)


def slope(f, h):
    """Derivative of f at 0 to the sixth order in h."""
    with torch.no_grad():
        a = [float(f(h * k)) for k in (-3, -2, -1, 1, 2, 3)]
    return (a[5] - a[0] - 9 * (a[4] - a[1]) + 45 * (a[3] - a[2])) / (60 * h)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("start", ["identity", "general"])
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_gradients_to_eight_digits(power, start, mode, make_spd, generator):
    """One argument after the other, at repeated eigenvalues and M = bias = I."""
    bn = random_layer(make_spd, power=power, stats_grad=True)
    x = make_spd(5, n=4, condition=5.0)
    if start == "identity":
        bn.reset_parameters()
        x[0], x[1] = torch.eye(4), x[2]
        x[3] = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0]))
    bn.train(mode == "batch")
    function, inputs = arguments(bn, x)
    weight = torch.randn(5, 4, 4, dtype=DOUBLE, generator=generator)

    def loss(*values):
        return (function(*values) * weight).sum()

    grads = torch.autograd.grad(loss(*inputs), inputs)
    assert len(grads) == 4  # x, bias, scale, M
    for k, value in enumerate(inputs):
        d = torch.randn(value.shape, dtype=DOUBLE, generator=generator)
        d = symmetrize(d) if d.ndim else d
        d = d / d.norm()

        def along(t, k=k, d=d):
            return loss(*[v + t * d if i == k else v for i, v in enumerate(inputs)])

        ours = (grads[k] * d).sum().item()
        assert math.isclose(ours, slope(along, 1e-4), rel_tol=1e-8, abs_tol=1e-8)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_gradients_with_constant_statistics(power, make_spd):
    """stats_grad=False: mean and variance are constants in input coordinates."""
    bn = random_layer(make_spd, stats_grad=False, power=power)
    x = make_spd(5)
    mean = batch_mean(bn, x).detach()
    var = gbw_distance(mean, x, bn.metric.detach(), power, squared=True).mean()
    function, inputs = arguments(bn, x)
    grads = torch.autograd.grad(function(*inputs).sin().sum(), inputs)
    bn.eval()
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(var)
    function, inputs = arguments(bn, x)
    expected = torch.autograd.grad(function(*inputs).sin().sum(), inputs)
    torch.testing.assert_close(grads, expected, rtol=1e-8, atol=1e-8)


def test_gradcheck_where_everything_is_the_identity():
    """All eigenvalues equal; the variance is zero, its eps keeps it finite."""
    bn = layer(3, stats_grad=True, eps=0.1)
    function, inputs = arguments(bn, torch.eye(3, dtype=DOUBLE).repeat(3, 1, 1))
    assert gradcheck(function, inputs, rtol=1e-6, atol=1e-6)


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


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("start", [True, False])
def test_gradients_of_ill_conditioned_matrices(power, start, make_spd, generator):
    """Condition 1e8, along a change relative to each matrix; and float32 at 1e4."""
    x = make_spd(8, n=6, condition=1e8)
    bn = layer(6, power=power, stats_grad=True, momentum=0.0)
    if start:
        bn.init_from_data(x)
    weight = torch.randn(8, 6, 6, dtype=DOUBLE, generator=generator)
    change = symmetrize(torch.randn(8, 6, 6, dtype=DOUBLE, generator=generator))
    root, eye = sqrtm(x), torch.eye(6, dtype=DOUBLE)

    def along(t):
        return (bn(symmetrize(root @ (eye + t * change) @ root)) * weight).sum()

    t = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    ours = torch.autograd.grad(along(t), t)[0].item()
    assert math.isclose(ours, slope(along, 1e-3), rel_tol=1e-6)

    x = make_spd(8, n=6, condition=1e4, dtype=torch.float32)
    narrow = layer(6, power=power, stats_grad=True, dtype=torch.float32)
    if start:
        narrow.init_from_data(x)
    wide = copy.deepcopy(narrow).double()
    results = []
    for bn in (narrow, wide):
        leaf = x.to(bn.bias.dtype, copy=True).requires_grad_()
        z = bn(leaf)
        total = (z * weight.to(z)).sum()
        results.append((z, *torch.autograd.grad(total, (leaf, *bn.parameters()))))
    for a, b in zip(*results, strict=True):
        assert (a.double() - b).norm() < 5e-3 * b.norm()


@pytest.mark.parametrize("options", [{"dispersion": "identity"}, {"fold": True}])
def test_gradcheck_of_parity_options(options, make_spd):
    bn = random_layer(make_spd, 3, stats_grad=True, **options)
    function, inputs = arguments(bn, make_spd(4, n=3, condition=3.0))
    assert gradcheck(function, inputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("special", [True, False])
def test_gradgradcheck(special, make_spd):
    bn = layer(2, stats_grad=True) if special else random_layer(make_spd, 2)
    x = make_spd(2, n=2, condition=3.0)
    if special:
        x = torch.eye(2, dtype=DOUBLE).expand(2, 2, 2).clone()
    bn.train(special)
    function, inputs = arguments(bn, x)
    # around repeated eigenvalues the variance is zero: its eps keeps it finite
    bn.eps = 0.1
    assert gradgradcheck(function, inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("power", "training", "evaluation"), [(1.0, 2, 1), (0.5, 3, 2), (1.5, 4, 3)]
)
def test_counts_of_batched_decompositions(
    power, training, evaluation, make_spd, monkeypatch
):
    """k + 1 in training and 1 in evaluation; a power into and out of its root more."""
    calls, eigh = [], torch.linalg.eigh

    def count(x):
        calls.append(x.shape[:-2].numel())
        return eigh(x)

    monkeypatch.setattr(torch.linalg, "eigh", count)
    for k in (1, 3):
        bn, x = random_layer(make_spd, power=power, mean_iterations=k), make_spd(20)
        for expected in (training + k - 1, evaluation):
            calls.clear()
            bn(x)
            assert sum(n == 20 for n in calls) == expected
            bn.eval()


def test_backward_calls_no_eigendecomposition(make_spd, monkeypatch):
    bn, x = random_layer(make_spd), make_spd(5).requires_grad_()
    z = bn(x).sum()

    def refuse(*_):
        raise AssertionError("a decomposition in backward")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    monkeypatch.setattr(torch.linalg, "svd", refuse)
    z.backward()
    assert all(p.grad is not None for p in bn.parameters())


# -- numerical range ------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "condition"), [(DOUBLE, 1e8), (torch.float32, 1e4)])
@pytest.mark.parametrize("start", [True, False])
def test_ill_conditioned(dtype, condition, start, make_spd):
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


def test_identical_matrices_become_the_bias(make_spd):
    bn = random_layer(make_spd)
    x = make_spd(n=4).expand(5, 4, 4)
    torch.testing.assert_close(bn(x), bn.bias.detach().expand(5, 4, 4))


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


# -- shapes, options, state -------------------------------------------------------


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
def test_weights_are_repetitions(power, options, root, make_spd):
    """Values, gradients and running statistics; weight 0 is not counted at all."""
    bn = random_layer(
        make_spd, power=power, stats_grad=True, mean_iterations=2, root=root, **options
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


def test_weighted_second_derivatives(make_spd):
    bn = random_layer(make_spd, 2, stats_grad=True, eps=0.1)
    function, inputs = arguments(bn, make_spd(3, n=2, condition=3.0))
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=DOUBLE)
    forward = bn.forward
    bn.forward = lambda x: forward(x, weights)
    assert gradcheck(function, inputs, rtol=1e-6, atol=1e-6)
    assert gradgradcheck(function, inputs, rtol=1e-4, atol=1e-5)


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


def test_deformed_output_is_the_power(make_spd):
    bn, x = random_layer(make_spd, power=1.5), make_spd(6)
    torch.testing.assert_close(bn(x, deformed=True), powm(bn(x), 1.5))


@pytest.mark.gpu
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_agrees_on_a_gpu(power, make_spd):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, results = make_spd(6), []
    here = random_layer(make_spd, power=power, stats_grad=True)
    for bn, leaf in ((here, x.clone()), (copy.deepcopy(here).cuda(), x.cuda())):
        z = bn(leaf.requires_grad_())
        grads = torch.autograd.grad(z.sin().sum(), (leaf, *bn.parameters()))
        results.append([t.cpu() for t in (z, *grads, *bn.buffers())])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_repr():
    assert repr(layer(3, power=0.5)) == "GBWBatchNorm(3, power=0.5)"


# -- the released code -----------------------------------------------------------------


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
def test_parity_with_the_released_layer(power, scale, make_spd):
    x = scale * make_spd(8, condition=20.0)  # the larger one is folded
    bn = random_layer(make_spd, power=power, dispersion="identity", fold=True)
    plain = random_layer(make_spd, power=power, dispersion="identity")
    with torch.no_grad():
        for name, p in plain.named_parameters():
            p.copy_(bn.get_parameter(name))
    args = bn.metric.detach(), bn.bias.detach(), bn.scale.item(), power
    expected = released_forward(x, *args)
    size = expected.abs().max()
    assert (bn(x) - expected).abs().max() <= 1e-11 * size
    inside = plain.domain_margin(x) > 0
    assert ((plain(x) - expected).abs().max() <= 1e-11 * size) == inside


# -- bad input --------------------------------------------------------------------


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


def test_evaluation_takes_any_number(make_spd):
    bn, x = random_layer(make_spd).eval(), make_spd(5)
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


def test_exponential_reaches_the_output(make_spd):
    """In the domain the layer is exp at the bias of the carried logarithm."""
    bn = layer().init_from_data(make_spd(8))
    x = make_spd(8)
    z = bn(x).detach()
    M, bias = bn.metric.detach(), bn.bias.detach()
    back = gbw_exp(bias, gbw_log(bias, z, M), M)
    torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-9)
