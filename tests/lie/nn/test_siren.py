"""Sine networks: initialization, smoothness, errors."""

import copy
import pickle

import pytest
import torch

from manifoldkit.lie.nn import Siren


def test_first_weights_have_the_stated_bounds():
    torch.manual_seed(0)
    net = Siren(4, 60, 200, n_hidden=2, w0=10.0, out_scale=0.05)
    first, *middle, last = net.layers
    assert len(middle) == 2
    assert 0.22 < first.weight.abs().max() <= 1 / 4
    for layer in middle:
        bound = (6 / 60) ** 0.5 / 10
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert 0.049 < last.weight.abs().max() <= 0.05
    assert all((layer.bias == 0).all() for layer in net.layers)


def test_output_variance_is_one_over_the_fan_in():
    """Sines of spread phases have variance 1/2, so a = sqrt(6 / hidden / fan)."""
    torch.manual_seed(0)
    net = Siren(6, 256, 500, w0=30.0, out_scale=(6 / 256 / 25) ** 0.5)
    values = net(2 * torch.rand(400, 6) - 1)
    assert values.var().item() == pytest.approx(1 / 25, rel=0.25)


def test_derivatives_of_second_order():
    torch.manual_seed(0)
    net = Siren(2, 5, 2, n_hidden=1, w0=3.0).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, x)
    assert torch.autograd.gradgradcheck(net, x)


def test_any_batch_shape_copies_and_reset():
    net = Siren(3, 8, 2)
    for shape in ((), (0,), (4,), (2, 5)):
        assert net(torch.zeros(*shape, 3)).shape == (*shape, 2)
    x = torch.randn(7, 3)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(x), net(x))
    before = net(x)
    net.reset_parameters()
    assert not torch.equal(net(x), before)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((0, 8, 2), {}, "in_features: .* found 0"),
        ((2, 8.0, 2), {}, "hidden"),
        ((2, 8, True), {}, "out_features"),
        ((2, 8, 2), {"n_hidden": -1}, "n_hidden"),
        ((2, 8, 2), {"w0": 0.0}, "w0"),
    ],
)
def test_bad_input(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Siren(*args, **kwargs)
