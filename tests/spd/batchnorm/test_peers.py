"""Batch normalizations in other metrics, against spd_learn's layers."""

import copy
import pickle

import pytest
import torch
from spd_learn.modules import (
    SPDBatchNormLie,
    SPDBatchNormMean,
    SPDBatchNormMeanVar,
)
from torch import nn
from torch.autograd import gradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import invsqrtm, logm, powm, symmetrize
from manifoldkit.spd import BWBatchNorm, GBWBatchNorm, SPDBatchNorm, make_batchnorm

DOUBLE = torch.float64
NAMES = ["airm", "airm-mean", "lie", "log_euclidean", "log_cholesky"]


def layer(name, n=4, **options):
    # in the unit of the input, as the formulas below and spd_learn have it
    options = {"dtype": DOUBLE, "relative": False, **options}
    return make_batchnorm(name, n, **options)


def random_layer(name, make_spd, n=4, **options):
    bn = layer(name, n, **options)
    with torch.no_grad():
        bn.bias.copy_(make_spd(n=n))
        bn.running_mean.copy_(make_spd(n=n))
        bn.running_var.fill_(0.3)
        if isinstance(bn.scale, nn.Parameter):
            bn.scale.fill_(0.7)
    return bn


# -- spd_learn ------------------------------------------------------------------------


def test_equals_spd_learn_mean(make_spd):
    x, ours = make_spd(6), layer("airm-mean")
    theirs = SPDBatchNormMean(4, momentum=0.1, n_iter=1, dtype=DOUBLE)
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean[0])
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("name", "metric", "options"),
    [
        ("lie", "AIM", {}),
        ("airm", "AIM", {"congruence": "eig"}),
        ("log_euclidean", "LEM", {}),
        ("log_cholesky", "LCM", {}),
        ("log_cholesky", "LCM", {"theta": 0.5}),
        ("lie", "AIM", {"theta": 1.5}),
    ],
)
def test_equals_spd_learn_lie(name, metric, options, make_spd):
    x = make_spd(6)
    ours = layer(name, power=options.get("theta", 1.0))
    theirs = SPDBatchNormLie(4, metric=metric, dtype=DOUBLE, **options)
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        ours.running_var, theirs.running_var, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-6, atol=1e-6)


def test_mean_and_variance_against_plain_formulas(make_spd):
    """Kobler et al.: congruence by the mean, power by the dispersion, bias."""
    x, bn = make_spd(6), random_layer("airm", make_spd)
    mean = x.mean(0)
    w = invsqrtm(mean)
    root = torch.linalg.inv(w)
    mean = root @ torch.matrix_exp(logm(w @ x @ w).mean(0)) @ root
    w = invsqrtm(mean)
    centered = w @ x @ w
    var = logm(centered).square().sum((-2, -1)).mean()
    gain = 0.7 / (var + 1e-5).sqrt()
    scaled = torch.stack([powm(symmetrize(c), float(gain)) for c in centered])
    root = powm(bn.bias.detach(), 0.5)
    torch.testing.assert_close(bn(x), root @ scaled @ root)


def test_spd_learn_mean_variance_agrees_in_evaluation(make_spd):
    x, ours = make_spd(6), layer("airm").eval()
    theirs = SPDBatchNormMeanVar(4, dtype=DOUBLE).eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


# -- properties -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_dispersion_around_the_bias(name, make_spd):
    bn, x = random_layer(name, make_spd, mean_iterations=60), make_spd(8)
    z = bn(x).detach()
    again = layer(name, mean_iterations=60, momentum=1.0)
    again(z)
    torch.testing.assert_close(again.running_mean, bn.bias.detach())
    if name != "airm-mean":
        first = layer(name, mean_iterations=60, momentum=1.0)
        first(x)
        var = first.running_var
        torch.testing.assert_close(again.running_var, 0.49 * var / (var + bn.eps))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["eval", "stats_grad", "channels"])
def test_gradcheck(name, mode, make_spd):
    options = {"stats_grad": mode != "eval"}
    x = make_spd(4, n=3, condition=5.0)
    if mode == "channels":
        options["n_channels"] = 2
        x = make_spd(3, 2, n=3, condition=5.0)
    bn = random_layer(name, make_spd, 3, **options).train(mode != "eval")
    names = [k for k, _ in bn.named_parameters()]

    def run(x, *values):
        values = {
            k: symmetrize(v) if v.shape[-1:] == (3,) and v.ndim > 1 else v
            for k, v in zip(names, values, strict=True)
        }
        return torch.func.functional_call(bn, values, (symmetrize(x),))

    values = [p.detach().clone().requires_grad_() for p in bn.parameters()]
    inputs = (x.requires_grad_(), *values)
    assert gradcheck(run, inputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_repetitions(name, make_spd):
    bn, x = random_layer(name, make_spd), make_spd(4)
    twin, index = copy.deepcopy(bn), torch.tensor([0, 1, 1, 3, 3, 3])
    z = bn(x, torch.tensor([1.0, 2.0, 0.0, 3.0]))
    torch.testing.assert_close(z[index], twin(x[index]))
    torch.testing.assert_close(list(bn.buffers()), list(twin.buffers()))


@pytest.mark.parametrize("name", NAMES)
def test_init_from_data_centers_the_batch(name, make_spd):
    x = 100 * make_spd(8)
    bn = layer(name).init_from_data(x)
    torch.testing.assert_close(bn.bias.detach(), bn.running_mean)
    train = bn(x)
    torch.testing.assert_close(bn.eval()(x), train)


@pytest.mark.parametrize("name", NAMES)
def test_state_and_input(name, make_spd):
    x = make_spd(5)
    bn = random_layer(name, make_spd)
    bn(x)
    for other in (copy.deepcopy(bn), pickle.loads(pickle.dumps(bn))):
        torch.testing.assert_close(other.eval()(x), bn.eval()(x))
    assert bn(x[0]).shape == (4, 4)
    assert bn(x[:0]).shape == (0, 4, 4)
    bn.train()
    with pytest.raises(ValueError, match="more than 1 matrix"):
        bn(x[:1])
    with pytest.raises(ValueError, match=r"x: expected matrices of shape"):
        bn(make_spd(5, n=3))
    bad = x.clone()
    bad[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        bn(bad)
    half = layer(name, dtype=torch.float32)(x.half())
    assert half.dtype == torch.float16
    bn.reset_parameters()
    torch.testing.assert_close(bn(x), layer(name)(x))


def test_first_indefinite_matrix_is_named(make_spd):
    x = make_spd(5)
    x[3] = -100 * x[3]
    for name in ("airm-mean", "log_euclidean"):
        with pytest.raises(NotOnManifoldError, match=r"x\[3\] is not pos|mean of x"):
            layer(name)(x)


def test_factory():
    assert isinstance(make_batchnorm("gbw", 3), GBWBatchNorm)
    assert isinstance(make_batchnorm("bw", 3), BWBatchNorm)
    for name in (None, "none"):
        assert isinstance(make_batchnorm(name, 3), nn.Identity)
    assert make_batchnorm("airm-mean", 3).dispersion is False
    assert make_batchnorm("airm", 3, momentum=0.3).momentum == 0.3
    with pytest.raises(ValueError, match=r"metric: expected one of.*make_batchnorm"):
        SPDBatchNorm(3, "gbw")
    with pytest.raises(ValueError, match="metric: expected one of"):
        SPDBatchNorm(3, "stein")
    with pytest.raises(ValueError, match="congruence: expected one of"):
        SPDBatchNorm(3, congruence="qr")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("c", [1e-12, 1e6])
def test_the_default_is_free_of_the_unit(name, c, make_spd):
    here, there = (make_batchnorm(name, 4, dtype=DOUBLE) for _ in range(2))
    for x in (make_spd(6), make_spd(6)):
        torch.testing.assert_close(there(c * x), here(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(there.running_mean / c, here.running_mean)
    torch.testing.assert_close(there.eval()(c * x), here.eval()(x))
