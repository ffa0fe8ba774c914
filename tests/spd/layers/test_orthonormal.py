"""BiMap weights that any optimizer may step, and the warning of those it must not."""

import copy
import pickle
import warnings

import pytest
import torch

from manifoldkit.optim import LandingSGD, build_optimizer
from manifoldkit.spd import BiMap, SPDNet
from manifoldkit.spd.layers.orthonormal import Reflections

DOUBLE = torch.float64


def off(weight):
    gram = weight.mT @ weight
    return float((gram - torch.eye(gram.shape[-1], dtype=gram.dtype)).abs().max())


def train(layer, optimizer, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(8, layer.n_in, 12, generator=g)
    x = x @ x.mT / 12
    target = torch.randn(layer.n_out, layer.n_out, generator=g)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) * target).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(4, 2), (5, 5), (2, 3, 6, 2), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_reflections_take_any_orthonormal_columns(shape, dtype):
    g = torch.Generator().manual_seed(0)
    value = torch.linalg.qr(torch.randn(*shape, generator=g, dtype=dtype))[0]
    value = value * torch.where(torch.rand(shape[-1], generator=g) < 0.5, -1.0, 1.0)
    point = Reflections(value.to(dtype))
    torch.testing.assert_close(point().detach(), value.to(dtype))
    with torch.no_grad():
        point.raw.normal_(std=1e3, generator=g)
    assert off(point().detach()) < 20 * torch.finfo(dtype).eps
    with torch.no_grad():
        point.raw.zero_()
    assert off(point().detach()) == 0


def test_derivative_of_reflections():
    g = torch.Generator().manual_seed(0)
    point = Reflections(torch.linalg.qr(torch.randn(2, 5, 3, generator=g).double())[0])

    def f(raw):
        return torch.func.functional_call(point, {"raw": raw}, ())

    raw = point.raw.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(f, raw)
    # all tangent directions are reached
    jacobian = torch.autograd.functional.jacobian(f, raw.detach())
    jacobian = jacobian[0, :, :, 0].reshape(15, 15)
    assert int(torch.linalg.matrix_rank(jacobian)) == 5 * 3 - 6


@pytest.mark.parametrize(
    ("make", "steps"), [(torch.optim.AdamW, 1000), (torch.optim.SGD, 200)]
)
def test_plain_optimizers_keep_parametrized_weights_orthonormal(make, steps):
    g = torch.Generator().manual_seed(3)
    layer = BiMap(6, 3, parametrized=True, generator=g)
    plain = BiMap(6, 3, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(layer.weight, plain.weight)
    start = layer.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = make(layer.parameters(), lr=1e-2, weight_decay=1.0)
        train(layer, optimizer, steps)
    assert off(layer.weight.detach()) <= 1e-5
    assert not torch.allclose(layer.weight, start, atol=0.1)


def test_a_plain_optimizer_is_told_once():
    layer = BiMap(6, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1.0)
    with pytest.warns(UserWarning, match="left the Stiefel manifold") as found:
        train(layer, optimizer, 400)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["adam", "sgd", "landing"])
def test_optimizers_that_know_the_manifold_are_not(name):
    layer = BiMap(6, 3, generator=torch.Generator().manual_seed(0))
    if name == "landing":
        optimizer = LandingSGD(layer.parameters(), lr=0.05)
    else:
        optimizer = build_optimizer(layer, name, lr=0.05, manifold_lr=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(layer, optimizer, 60)


def test_copies_states_and_channels():
    layer = BiMap(5, 3, 2, 4, parametrized=True, dtype=DOUBLE)
    assert "parametrized=True" in repr(layer)
    x = torch.randn(3, 2, 5, 9, dtype=DOUBLE)
    x = x @ x.mT
    twin = BiMap(5, 3, 2, 4, parametrized=True, dtype=DOUBLE)
    twin.load_state_dict(layer.state_dict())
    for other in (twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
    layer.reset_parameters(torch.Generator().manual_seed(0))
    assert not torch.allclose(twin(x), layer(x))


def test_networks_of_free_numbers(make_spd):
    net = SPDNet(5, (4, 3), 2, batchnorm="airm", parametrized=True, dtype=DOUBLE)
    assert not any(hasattr(p, "manifold") for p in net.parameters())
    x, y = make_spd(20, n=5), torch.arange(20) % 2
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(
        off(m.weight.detach()) < 1e-12 for m in net.layers if hasattr(m, "n_out")
    )
    with pytest.raises(ValueError, match="parametrized: expected False with residual"):
        SPDNet(5, (4,), 2, parametrized=True, n_residual=1)
