"""Batch normalization over manifolds: laws, statistics, bad input, processes."""

import copy

import geoopt
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    Grassmann,
    ManifoldBatchNorm,
    PositiveReals,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from manifoldkit.optim import build_optimizer, karcher_mean

DOUBLE = torch.float64
# manifold, shape of a point, distance of the points from a common center
MANIFOLDS = {
    "Grassmann": (Grassmann(), (30, 10), 0.5),
    "SO": (SpecialOrthogonal(), (3, 3), 0.8),
    "Sphere": (Sphere(), (5,), 0.7),
    "Stiefel": (Stiefel(), (6, 2), 0.4),
    "Lorentz": (geoopt.Lorentz(torch.tensor(1.0, dtype=DOUBLE)), (4,), 1.0),
    "SPD": (SPD("airm"), (3, 3), 1.0),
    "PositiveReals": (PositiveReals(), (), 1.0),
    "Euclidean": (Euclidean(ndim=1), (4,), 1.0),
}
NAMES = list(MANIFOLDS)


def far_center(manifold, shape, generator):
    """A point at distance about 1 of the origin."""
    x = torch.as_tensor(manifold.origin(*shape, dtype=DOUBLE)).clone()
    noise = torch.randn(shape, generator=generator, dtype=DOUBLE)
    u = manifold.proju(x, noise)
    return manifold.expmap(x, u / manifold.inner(x, u).sum().sqrt())


def points(name, size=12, seed=0):
    manifold, shape, radius = MANIFOLDS[name]
    generator = torch.Generator().manual_seed(seed)
    center = far_center(manifold, shape, generator).expand(size, *shape)
    noise = torch.randn((size, *shape), generator=generator, dtype=DOUBLE)
    u = manifold.proju(center, noise)
    length = manifold.inner(center, u, keepdim=True).sqrt().reshape(size)
    share = (radius / length * torch.linspace(0.5, 1, size, dtype=DOUBLE)).reshape(
        size, *[1] * len(shape)
    )
    return torch.as_tensor(manifold.expmap(center, share * u)).detach()


def layer(name, **options):
    manifold, shape, _ = MANIFOLDS[name]
    return ManifoldBatchNorm(
        manifold, shape, **{"scale": 0.4, "dtype": DOUBLE, **options}
    )


@pytest.mark.parametrize("name", NAMES)
def test_mean_at_the_bias_and_dispersion_of_the_scale(name):
    manifold, _, _ = MANIFOLDS[name]
    bn = layer(name)
    z = bn(points(name)).detach()
    found = karcher_mean(manifold, z, tol=1e-8)
    bias = bn.bias.detach()
    assert float(manifold.dist(bias, found.mean).max()) < 1e-6
    logs = manifold.logmap(bias.expand_as(z), z)
    square = manifold.inner(bias.expand_as(z), logs, keepdim=True).mean()
    assert float(square) == pytest.approx(0.16, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_reach_all(name):
    bn = layer(name)
    x = points(name).requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    (bn(x) * weight).sum().backward()
    for tensor in (x, *filter(lambda p: p.requires_grad, bn.parameters())):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert bool((tensor.grad != 0).any())


def test_equals_torch_on_flat_space():
    bn = layer("Euclidean", scale=1.0)
    x = points("Euclidean").requires_grad_()
    z = bn(x)
    total = x.shape[1] ** 0.5  # standard deviation of the whole vector
    centered = x - x.mean(0)
    expected = centered / (centered.square().sum(1).mean().sqrt())
    assert total > 0
    assert torch.allclose(z, expected, atol=1e-12)
    weight = torch.arange(x.numel(), dtype=DOUBLE).view_as(x)
    (ours,) = torch.autograd.grad((z * weight).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_unit_of_the_data_does_not_matter(unit):
    for name in ("Euclidean", "PositiveReals"):
        x = points(name)
        assert torch.allclose(layer(name)(x), layer(name)(unit * x), rtol=1e-6)


@pytest.mark.parametrize("name", ["Grassmann", "SO", "Sphere", "SPD"])
def test_batch_shapes_and_channels(name):
    x = points(name)
    event = x.shape[1:]
    flat = layer(name)(x)
    assert torch.allclose(
        layer(name)(x.reshape(3, 4, *event)), flat.reshape(3, 4, *event)
    )
    other = points(name, seed=3)
    both = layer(name, n_channels=2)(
        torch.stack([x, other], 1).reshape(3, 4, 2, *event)
    )
    assert both.shape == (3, 4, 2, *event)
    both = both.reshape(12, 2, *event)
    assert torch.allclose(both[:, 0], flat, atol=1e-9)
    assert torch.allclose(both[:, 1], layer(name)(other), atol=1e-9)


def test_single_precision_keeps_its_dtype():
    bn = ManifoldBatchNorm(SpecialOrthogonal(), (3, 3), scale=0.4)
    x = points("SO")
    z = bn(x.float())
    assert z.dtype == torch.float32
    assert torch.allclose(z.double(), layer("SO")(x), atol=1e-4)


@pytest.mark.parametrize("name", ["Sphere", "SPD", "Lorentz"])
def test_running_statistics(name):
    manifold, _, _ = MANIFOLDS[name]
    bn = layer(name, momentum=0.25)
    first, second = points(name), points(name, seed=5)
    bn(first)
    start = karcher_mean(manifold, first, tol=1e-8)
    assert torch.allclose(bn.running_mean, start.mean, atol=1e-7)
    assert torch.allclose(bn.running_var, start.variance, rtol=1e-2)
    bn(second)
    to = karcher_mean(manifold, second, tol=1e-8).mean
    expected = manifold.expmap(start.mean, 0.25 * manifold.logmap(start.mean, to))
    assert torch.allclose(bn.running_mean, expected, atol=1e-7)
    # evaluation takes one point alone, and leaves the statistics
    state = copy.deepcopy(bn.state_dict())
    alone = bn.eval()(first[:1])
    assert torch.allclose(alone, bn(first)[:1])
    assert all(torch.equal(state[k], v) for k, v in bn.state_dict().items())


def test_evaluation_of_one_batch_equals_training():
    bn = layer("SO")
    x = points("SO")
    trained = bn(x)
    assert torch.allclose(bn.eval()(x), trained, atol=1e-8)


def test_state_dict_and_reset():
    bn, other = layer("Sphere"), layer("Sphere")
    bn(points("Sphere"))
    other.load_state_dict(bn.state_dict())
    x = points("Sphere", seed=2)
    assert torch.equal(bn.eval()(x), other.eval()(x))
    bn.reset_running_stats()
    assert int(bn.num_batches_tracked) == 0
    assert torch.equal(bn.running_mean, layer("Sphere").running_mean)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_point_is_refused_and_spoils_nothing(bad):
    bn = layer("Sphere")
    bn(points("Sphere"))
    before = copy.deepcopy(bn.state_dict())
    x = points("Sphere")
    x[3, 1] = bad
    with pytest.raises(ValueError, match=r"x.*\[3"):
        bn(x)
    assert all(torch.equal(before[k], v) for k, v in bn.state_dict().items())


def test_points_that_are_alike_have_no_dispersion():
    x = points("SPD")[:1].expand(4, 3, 3).clone().requires_grad_()
    bn = layer("SPD")
    z = bn(x)
    z.sum().backward()
    assert torch.allclose(z, bn.bias.expand_as(z), atol=1e-3)
    assert bool(x.grad.isfinite().all())


def test_trains_with_our_optimizers():
    bn = layer("Sphere")
    optimizer = build_optimizer(bn, "adamw", manifold_lr=0.1, weight_decay=0.1)
    target = points("Sphere", seed=4)[0]
    x = points("Sphere")
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (bn(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert float((bn.bias.detach().norm() - 1).abs()) < 1e-9


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"momentum": 2.0}, "momentum"),
        ({"scale": 0.0}, "scale"),
        ({"n_channels": 0}, "n_channels"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_settings(options, error):
    with pytest.raises(ValueError, match=error):
        layer("Sphere", **options)


def test_bad_inputs():
    with pytest.raises(TypeError, match="manifold"):
        ManifoldBatchNorm("sphere", 3)
    with pytest.raises(ValueError, match="shape: expected 1 sizes"):
        ManifoldBatchNorm(Sphere(), (3, 3))
    bn = layer("Sphere", validate=True)
    with pytest.raises(ValueError, match="more than 1 point"):
        bn(points("Sphere")[:1])
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 5\)"):
        bn(torch.ones(4, 3))
    with pytest.raises(ValueError, match="not points of"):
        bn(2 * points("Sphere"))


SHARES = (slice(0, 4), slice(4, 12))


def _work(rank, address, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        out = {}
        for name in ("Sphere", "SPD"):
            bn = layer(name, synchronized=True)
            x = points(name)[SHARES[rank]].requires_grad_()
            z = bn(x)
            (z**3).sum().backward()
            out[name] = (z.detach(), x.grad, bn.bias.grad, bn.state_dict())
        x = points("Sphere")[SHARES[rank]]
        if rank:
            x[0, 0] = torch.nan
        try:
            layer("Sphere", synchronized=True)(x)
        except ValueError as error:
            out["refused"] = str(error)
        torch.save(out, f"{path}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    address = f"file://{tmp_path}/store"
    mp.spawn(_work, (address, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert "x[0]" in found[1]["refused"]
    assert "another process" in found[0]["refused"]
    for name in ("Sphere", "SPD"):
        bn, x = layer(name), points(name).requires_grad_()
        z = bn(x)
        (z**3).sum().backward()
        for rank, part in enumerate(SHARES):
            ours, grad, _, state = found[rank][name]
            assert torch.allclose(ours, z.detach()[part], atol=1e-8)
            assert torch.allclose(grad, x.grad[part], atol=1e-6)
            for key, value in bn.state_dict().items():
                assert torch.allclose(state[key], value, atol=1e-8)
        total = found[0][name][2] + found[1][name][2]
        assert torch.allclose(total, bn.bias.grad, atol=1e-6)
