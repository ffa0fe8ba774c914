"""The hand-written derivatives of GBW batch normalization, and what they cost."""

import copy
import math

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit.linalg import sqrtm, symmetrize
from manifoldkit.spd import (
    GBWBatchNorm,
    gbw_distance,
)
from manifoldkit.spd.batchnorm import kernel

DOUBLE = torch.float64
POWERS = [0.5, 1.0, 1.5, 2.0, -1.0]


def layer(n=4, **options):
    return GBWBatchNorm(n, **{"dtype": DOUBLE, **options})


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_any_root_of_the_metric_gives_the_same_output(
    power, make_spd, monkeypatch, random_layer
):
    """The symmetric root in place of the Cholesky factor, gradients included."""
    bn = random_layer(power=power, stats_grad=True)
    x, results = make_spd(6).requires_grad_(), []
    for symmetric in (False, True):
        if symmetric:

            def factorize(metric):
                root = sqrtm(metric)
                return kernel.Frame(root, torch.linalg.inv(root))

            monkeypatch.setattr(kernel, "factorize", factorize)
        z = bn(x)
        grads = torch.autograd.grad(z.sin().sum(), (x, *bn.parameters()))
        results.append((z, *grads))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "power",
    [p if p in (1.0, 1.5) else pytest.param(p, marks=pytest.mark.slow) for p in POWERS],
)
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("mode", ["eval", "stats_grad", "channels"])
def test_gradcheck(power, special, mode, make_spd, arguments):
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


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("start", ["identity", "general"])
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_gradients_to_eight_digits(
    power, start, mode, make_spd, generator, random_layer, arguments, slope
):
    """One argument after the other, at repeated eigenvalues and M = bias = I."""
    bn = random_layer(power=power, stats_grad=True)
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
def test_gradients_with_constant_statistics(
    power, make_spd, random_layer, batch_mean, arguments
):
    """stats_grad=False: mean and variance are constants in input coordinates."""
    bn = random_layer(stats_grad=False, power=power)
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


def test_gradcheck_where_everything_is_the_identity(arguments):
    """All eigenvalues equal; the variance is zero, its eps keeps it finite."""
    bn = layer(3, stats_grad=True, eps=0.1)
    function, inputs = arguments(bn, torch.eye(3, dtype=DOUBLE).repeat(3, 1, 1))
    assert gradcheck(function, inputs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("start", [True, False])
def test_gradients_of_ill_conditioned_matrices(
    power, start, make_spd, generator, slope
):
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
def test_gradcheck_of_parity_options(options, make_spd, random_layer, arguments):
    bn = random_layer(3, stats_grad=True, **options)
    function, inputs = arguments(bn, make_spd(4, n=3, condition=3.0))
    assert gradcheck(function, inputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("power", "training", "evaluation"), [(1.0, 2, 1), (0.5, 3, 2), (1.5, 4, 3)]
)
def test_counts_of_batched_decompositions(
    power, training, evaluation, make_spd, monkeypatch, random_layer
):
    """k + 1 in training and 1 in evaluation; a power into and out of its root more."""
    calls, eigh = [], torch.linalg.eigh

    def count(x):
        calls.append(x.shape[:-2].numel())
        return eigh(x)

    monkeypatch.setattr(torch.linalg, "eigh", count)
    for k in (1, 3):
        bn, x = random_layer(power=power, mean_iterations=k), make_spd(20)
        for expected in (training + k - 1, evaluation):
            calls.clear()
            bn(x)
            assert sum(n == 20 for n in calls) == expected
            bn.eval()


def test_backward_calls_no_eigendecomposition(make_spd, monkeypatch, random_layer):
    bn, x = random_layer(), make_spd(5).requires_grad_()
    z = bn(x).sum()

    def refuse(*_):
        raise AssertionError("a decomposition in backward")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    monkeypatch.setattr(torch.linalg, "svd", refuse)
    z.backward()
    assert all(p.grad is not None for p in bn.parameters())
