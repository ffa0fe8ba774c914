"""Parameters that became views of one tensor behave as any others."""

import copy
import gc
import io
import pickle

import geoopt
import pytest
import torch

from manifoldkit.manifolds import SPD, SpecialOrthogonal, Sphere, Stiefel, attach
from manifoldkit.optim import RiemannianAdam, RiemannianSGD, build_optimizer


def _storage(optimizer):
    return optimizer.plans[0].buckets[0].storage


def _shares(params):
    """Whether they lie one after another."""
    pairs = zip(params, params[1:], strict=False)
    return all(p.data_ptr() + p.nbytes == q.data_ptr() for p, q in pairs)


def _adam(params, **options):
    return RiemannianAdam(params, lr=0.05, **options)


@pytest.mark.parametrize("lr", [1e-3, 0.05])
def test_views_and_copies_take_the_same_path_to_the_bit(our_manifold, lr, problem):
    results = []
    for views in (True, False):
        a = problem(our_manifold, dtype=torch.float32)
        results.append(a.run(RiemannianAdam(a.params, lr=lr, views=views), 10))
        assert _shares(a.params) == views
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)


def test_small_steps_of_a_bad_neighbor_change_nothing(problem):
    clean, dirty = (problem("stiefel", dtype=torch.float32) for _ in range(2))

    def spoil(i, params):
        if i == 3:
            params[1].grad[0, 0] = torch.nan

    # steps this short take the path without a factorization
    a = clean.run(RiemannianAdam(clean.params, lr=1e-3), 6)
    b = dirty.run(RiemannianAdam(dirty.params, lr=1e-3), 6, spoil)
    assert all(torch.equal(a[i], b[i]) for i in (0, 2, 3))
    assert not torch.isfinite(b[1]).all()


@pytest.mark.parametrize("kind", ["data", "inplace", "transpose", "load"])
@pytest.mark.parametrize("name", ["sphere", "so"])
def test_values_set_by_the_user_are_stepped_from(name, kind, problem):
    a, b = problem(name), problem(name)
    ours, copies = _adam(a.params), _adam(b.params, views=False)
    a.run(ours, 3)
    b.run(copies, 3)
    for params in (a.params, b.params):
        x = params[2].detach().clone()
        other = params[0].detach().clone()
        if kind == "data":
            params[2].data = other
        elif kind == "inplace":
            params[2].data.copy_(other)
        elif kind == "transpose":
            params[2].data = params[2].data.mT if x.ndim == 2 else x.flip(0)
        else:
            module = torch.nn.ParameterList(params)
            state = {k: v.clone() for k, v in module.state_dict().items()}
            state["2"] = other
            module.load_state_dict(state)
    x, y = a.run(ours, 3), b.run(copies, 3)
    assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True))
    assert _shares(a.params)


def test_a_graph_that_outlived_a_step_is_refused_as_always(problem):
    a = problem("stiefel")
    optimizer = _adam(a.params)
    a.run(optimizer, 2)
    versions = [p._version for p in a.params]
    loss = sum((p @ p.mT).square().sum() for p in a.params)
    loss.backward(retain_graph=True)
    optimizer.step()
    assert all(p._version > v for p, v in zip(a.params, versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_that_others_see_is_left_alone(problem):
    def tied(params):
        return torch.nn.Parameter(params[0].data)

    def alias(params):
        return params[0].data[1:]

    def shared(params):
        for p in params:
            p.share_memory_()

    for look in (tied, alias, shared):
        a, reference = problem("sphere"), problem("sphere")
        held = look(a.params)
        before = [p.data_ptr() for p in a.params]
        optimizer = _adam(a.params)
        x = a.run(optimizer, 4)
        assert [p.data_ptr() for p in a.params] == before
        assert not _storage(optimizer).current
        expected = reference.run(_adam(reference.params), 4)
        assert all(torch.equal(p, q) for p, q in zip(x, expected, strict=True))
        if held is not None:
            assert torch.equal(held.detach(), x[0][-held.numel() :])


def test_pieces_of_a_flat_tensor_are_stepped_where_they_are():
    manifold = Sphere()
    flat = manifold.random(3, 5, generator=torch.Generator().manual_seed(0)).data
    params = [geoopt.ManifoldParameter(row, manifold=manifold) for row in flat]
    address = flat.data_ptr()
    optimizer = _adam(params)
    for p in params:
        p.grad = torch.ones(5)
    optimizer.step()
    assert _storage(optimizer).current
    assert params[0].data_ptr() == address
    assert torch.equal(torch.stack([p.detach() for p in params]), flat)


def test_kernels_with_the_channels_last_stay_so():
    layers = [torch.nn.Conv2d(4, 36, 3, bias=False) for _ in range(2)]
    for layer in layers:
        layer.to(memory_format=torch.channels_last)
        attach(layer, "weight", Stiefel())
        layer.weight.data = layer.weight.data.contiguous(
            memory_format=torch.channels_last
        )
    optimizer = _adam([layer.weight for layer in layers])
    for layer in layers:
        layer.weight.grad = torch.randn_like(layer.weight)
    optimizer.step()
    for layer in layers:
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        w = layer.weight.detach().flatten(1)
        torch.testing.assert_close(w.mT @ w, torch.eye(36), rtol=0, atol=1e-5)


class Directions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for i in range(3):
            x = Sphere().random(4, generator=generator).data
            p = geoopt.ManifoldParameter(x, manifold=Sphere())
            self.register_parameter(f"direction{i}", p)

    def forward(self):
        return sum(p[i] for i, p in enumerate(self.parameters()))


def _step(model, optimizer):
    optimizer.zero_grad()
    model().backward()
    optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "state_dict", "assign"])
def test_copies_of_a_model_are_independent(copied):
    model = Directions()
    optimizer = _adam(model.parameters())
    x = _step(model, optimizer)
    if copied == "deepcopy":
        twin = copy.deepcopy(model)
    elif copied == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        twin = Directions()
        twin.load_state_dict(torch.load(file), assign=copied == "assign")
        for p in twin.parameters():
            p.manifold = Sphere()
    other = _adam(twin.parameters())
    y = _step(twin, other)
    now = [p.detach() for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(now, x, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(now, y, strict=True))


def test_gradients_and_conversions_go_on(problem):
    model = Directions()
    optimizer = _adam(model.parameters())
    _step(model, optimizer)
    model.double()
    assert all(p.dtype == torch.float64 for p in model.parameters())
    _step(model, optimizer)
    assert _shares(list(model.parameters()))
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in model.parameters())
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    now = [p.detach() for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


def test_a_second_optimizer_and_a_loaded_state_keep_the_views(problem):
    a = problem("so")
    first = _adam(a.params)
    a.run(first, 2)
    address = a.params[0].data_ptr()
    first.load_state_dict(copy.deepcopy(first.state_dict()))
    a.run(first, 2)
    second = RiemannianSGD(a.params, lr=0.01)
    a.run(second, 2)
    assert a.params[0].data_ptr() == address
    assert all(_storage(optimizer).current for optimizer in (first, second))
    # another order: not neighbors any more, so copies
    third = _adam(a.params[::-1])
    a.run(third, 1)
    assert not _storage(third).current


def test_parameters_that_changed_shape_are_grouped_anew(problem):
    a = problem("sphere", count=3)
    optimizer = RiemannianSGD(a.params, lr=0.05)
    a.run(optimizer, 1)
    a.params[1].data = Sphere().origin(9, dtype=torch.float64).data
    a.targets[1] = torch.ones(9, dtype=torch.float64)
    a.run(optimizer, 2)
    sizes = sorted(len(b.params) for b in optimizer.plans[0].buckets)
    assert sizes == [1, 2]
    assert all(float(p.detach().norm()) == pytest.approx(1) for p in a.params)


def test_half_precision_with_master_points_follows_single_precision():
    manifold = SpecialOrthogonal()
    generator = torch.Generator().manual_seed(0)
    x = [manifold.random(4, 4, generator=generator).data.bfloat16() for _ in range(2)]
    target = manifold.random(4, 4, generator=generator).data

    def run(points, steps, **options):
        params = [
            geoopt.ManifoldParameter(p.clone(), manifold=manifold) for p in points
        ]
        optimizer = RiemannianSGD(params, lr=1e-3, **options)
        for _ in range(steps):
            optimizer.zero_grad()
            sum(((p.float() - target) ** 2).sum() for p in params).backward()
            optimizer.step()
        return params, optimizer

    wide, _ = run([manifold.projx(p.float()) for p in x], 200)
    plain, _ = run(x, 200)
    master, optimizer = run(x, 200, master_points=True)
    gap = {}
    for name, params in (("plain", plain), ("master", master)):
        assert params[0].dtype == torch.bfloat16
        gap[name] = max(
            float((p.float() - w).detach().abs().max())
            for p, w in zip(params, wide, strict=True)
        )
    assert gap["master"] < 0.01 < gap["plain"]
    state = optimizer.state[master[0]]
    assert state["master"].dtype == torch.float32
    assert manifold.check_point_on_manifold(state["master"])
    assert torch.equal(state["master"].bfloat16(), master[0].detach())
    # a value that the user sets wins over the master
    master[0].data.copy_(torch.eye(4))
    master[0].grad = torch.zeros(4, 4, dtype=torch.bfloat16)
    master[1].grad = None
    optimizer.step()
    assert torch.equal(master[0].detach().float(), torch.eye(4))
    assert float(state["master"].sub(torch.eye(4)).abs().max()) < 1e-6


def test_master_points_survive_a_round_trip():
    p = geoopt.ManifoldParameter(torch.eye(3, 2).bfloat16(), manifold=Stiefel())
    p.grad = torch.full((3, 2), 0.3).bfloat16()
    optimizer = RiemannianSGD([p], lr=1e-3, master_points=True)
    optimizer.step()
    resumed = RiemannianSGD([p], lr=1e-3)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    master = optimizer.state[p]["master"].clone()
    assert torch.equal(resumed.state[p]["master"], master)
    resumed.step()
    assert not torch.equal(resumed.state[p]["master"], master)


def test_long_steps_on_spd_matrices_are_shortened():
    p = geoopt.ManifoldParameter(torch.eye(3), manifold=SPD())
    p.grad = torch.diag(torch.tensor([10.0, 0.0, -1.0]))
    RiemannianSGD([p], lr=1.0).step()
    d = torch.tensor([-0.9, 0.0, 0.09])
    torch.testing.assert_close(p.data, torch.diag(1 + d + d**2 / 2))


@pytest.mark.compile
@pytest.mark.parametrize(
    "name", ["sphere", "stiefel", "stiefel_polar", "so", "spd_airm"]
)
def test_whole_steps_compile_without_graph_breaks(name, problem):
    a, b = (problem(name, dtype=torch.float32) for _ in range(2))
    compiled, plain = _adam(a.params), _adam(b.params)
    for x, optimizer in ((a, compiled), (b, plain)):
        x.run(optimizer, 1)
    torch.compiler.reset()
    step = torch.compile(compiled.step, backend="eager", fullgraph=True)
    for _ in range(4):
        for x, go in ((a, step), (b, plain.step)):
            x.loss().backward()
            go()
            for p in x.params:
                p.grad.zero_()
    torch.testing.assert_close(a.values(), b.values(), rtol=0, atol=1e-6)
    a.params[0].data.copy_(b.targets[0])  # set from outside, then stepped eagerly
    x = a.run(compiled, 1)
    assert float((x[0] - b.targets[0]).abs().max()) < 0.2


@pytest.mark.parametrize("views", [True, False])
def test_every_parameter_has_a_storage_of_its_own(problem, views):
    """What ``safetensors`` and ``torch.save`` ask of a parameter."""
    a = problem("stiefel")
    a.run(_adam(a.params, views=views), 2)
    storages = [p.untyped_storage() for p in a.params]
    assert len({s.data_ptr() for s in storages}) == len(storages)
    for p, s in zip(a.params, storages, strict=True):
        assert (p.data_ptr(), p.nbytes) == (s.data_ptr(), s.nbytes())
    buffer = io.BytesIO()
    torch.save(a.params[0].detach(), buffer)
    assert len(buffer.getvalue()) < 2000 + a.params[0].nbytes


def test_a_stepped_model_is_saved_by_safetensors(tmp_path):
    saver = pytest.importorskip("safetensors.torch")
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    for layer in model:
        attach(layer, "weight", Stiefel())
    optimizer = build_optimizer(model, "adam")
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    assert _shares([layer.weight for layer in model])
    saver.save_model(model, tmp_path / "model.safetensors")
    loaded = saver.load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_memory_outlives_optimizer_and_neighbors(problem):
    a = problem("stiefel")
    a.run(_adam(a.params), 2)
    kept, value = a.params[1], a.params[1].detach().clone()
    del a.params[:]
    del a
    gc.collect()
    torch.randn(1000, 10)
    assert torch.equal(kept.detach(), value)
