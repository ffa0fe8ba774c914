"""Batches, order, layout and bad rows do not change a trajectory."""

import geoopt
import pytest
import torch

from manifoldkit.manifolds import SPD, Product, Sphere, Stiefel, attach
from manifoldkit.optim import LandingSGD, RiemannianAdam, RiemannianSGD, StiefelMuon
from manifoldkit.optim.buckets import Bucket, manifold_key, reduce_to

OPTIMIZERS = {
    "adam": lambda p, **k: RiemannianAdam(p, lr=0.05, **k),
    "amsgrad": lambda p, **k: RiemannianAdam(p, lr=0.05, amsgrad=True, **k),
    "coordinate": lambda p, **k: RiemannianAdam(p, lr=0.05, moment="coordinate", **k),
    "factored": lambda p, **k: RiemannianAdam(p, lr=0.05, moment="factored", **k),
    "sgd": lambda p, **k: RiemannianSGD(p, lr=0.01, momentum=0.9, **k),
    "nesterov": lambda p, **k: RiemannianSGD(
        p, lr=0.01, momentum=0.9, nesterov=True, **k
    ),
    "muon": lambda p, **k: StiefelMuon(p, lr=0.05, **k),
    "landing": lambda p, **k: LandingSGD(p, lr=0.01, momentum=0.9, **k),
}


@pytest.mark.parametrize("kind", ["adam", "nesterov"])
def test_grouped_and_single_steps_agree(any_manifold, kind, problem):
    build = OPTIMIZERS[kind]
    grouped, single = problem(any_manifold, share=True), problem(any_manifold)
    a = grouped.run(build(grouped.params), 15)
    b = single.run(build(single.params, foreach=False), 15)
    # geoopt's Sinkhorn iteration stops by the worst member of the batch
    tol = 1e-5 if any_manifold == "birkhoff" else 1e-9
    for x, y in zip(a, b, strict=True):
        assert torch.isfinite(x).all()
        torch.testing.assert_close(x, y, rtol=tol, atol=tol)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ["stiefel", "so", "spd_airm"])
def test_every_optimizer_steps_groups_like_singles(name, kind, problem):
    build = OPTIMIZERS[kind]
    grouped, single = problem(name), problem(name)
    a = grouped.run(build(grouped.params), 15)
    b = single.run(build(single.params, foreach=False), 15)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert float(grouped.loss().detach()) < float(problem(name).loss().detach())


@pytest.mark.parametrize("name", ["stiefel", "sphere", "spd_airm", "product", "gl"])
def test_order_of_parameters_does_not_matter(name, problem):
    a, b = problem(name), problem(name)
    forward = a.run(RiemannianAdam(a.params, lr=0.05), 15)
    backward = b.run(RiemannianAdam(b.params[::-1], lr=0.05), 15)
    torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["stiefel", "sphere", "spd_airm", "so", "positive"])
def test_one_stacked_parameter_equals_separate_ones(name, problem, cases):
    separate = problem(name, count=4)
    a = separate.run(RiemannianAdam(separate.params, lr=0.05), 15)
    stacked = problem(name, count=4)
    manifold = cases[name][0]()
    one = geoopt.ManifoldParameter(torch.stack(stacked.values()), manifold=manifold)
    optimizer = RiemannianAdam([one], lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        ((one - torch.stack(stacked.targets)) ** 2).sum().backward()
        optimizer.step()
    torch.testing.assert_close(torch.stack(a), one.data, rtol=1e-9, atol=1e-9)


def test_batch_shapes_mix_in_one_bucket():
    manifold = Stiefel()
    x = manifold.random(7, 5, 2, generator=torch.Generator().manual_seed(0)).data
    target = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(1))
    pieces = [x[0], x[1:3], x[3:7].reshape(2, 2, 5, 2)]
    params = [geoopt.ManifoldParameter(p.clone(), manifold=manifold) for p in pieces]
    whole = geoopt.ManifoldParameter(x.clone(), manifold=manifold)
    optimizer, reference = (RiemannianAdam(p, lr=0.1) for p in (params, [whole]))
    for _ in range(5):
        flat = torch.cat([p.reshape(-1, 5, 2) for p in params])
        for loss in ((flat * target).sum(), (whole * target).sum()):
            loss.backward()
        optimizer.step()
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
    flat = torch.cat([p.detach().reshape(-1, 5, 2) for p in params])
    torch.testing.assert_close(flat, whole.data)
    shapes = [tuple(optimizer.state[p]["exp_avg_sq"].shape) for p in params]
    assert shapes == [(1, 1), (2, 1, 1), (2, 2, 1, 1)]


def test_equal_manifolds_share_a_bucket_and_others_do_not():
    assert manifold_key(Stiefel()) == manifold_key(Stiefel())
    assert manifold_key(Stiefel()) != manifold_key(Stiefel("canonical"))
    m = torch.nn.Parameter(torch.eye(3))
    learned = SPD("gbw", M=m)
    assert manifold_key(learned) == manifold_key(learned)
    assert manifold_key(learned) != manifold_key(SPD("gbw", M=m))
    assert manifold_key(geoopt.PoincareBall()) != manifold_key(geoopt.PoincareBall())
    values = [(Sphere(), 4)] * 3 + [(Sphere(2.0), 4)]
    params = [geoopt.ManifoldParameter(m.origin(n).data, manifold=m) for m, n in values]
    sizes = [len(b.params) for b in RiemannianAdam(params).plans[0].buckets]
    assert sizes == [3, 1]


def test_missing_gradients_freeze_a_parameter_and_its_clock(any_manifold, problem):
    def drop(i, params):
        params[1].grad = None
        if i % 2:
            params[2].grad = None

    a = problem(any_manifold)
    before = a.values()
    optimizer = RiemannianAdam(a.params, lr=0.02)
    a.run(optimizer, 6, drop)
    torch.testing.assert_close(a.values()[1], before[1], rtol=0, atol=0)
    steps = [float(optimizer.state[p].get("step", 0)) for p in a.params]
    assert steps == [6, 0, 3, 6]
    b = problem(any_manifold)
    alone = RiemannianAdam([b.params[2]], lr=0.02)
    b.run(alone, 3)
    torch.testing.assert_close(a.values()[2], b.values()[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "policy"), [("adam", "propagate"), ("nesterov", "skip")]
)
def test_nan_in_one_gradient_leaves_the_others_to_the_bit(
    any_manifold, kind, policy, problem
):
    def spoil(i, params):
        if i == 2:
            params[1].grad[(0,) * params[1].ndim] = torch.nan

    build = OPTIMIZERS[kind]
    clean, dirty = (problem(any_manifold, dtype=torch.float32) for _ in range(2))
    a = clean.run(build(clean.params, nonfinite=policy), 5)
    optimizer = build(dirty.params, nonfinite=policy)
    b = dirty.run(optimizer, 5, spoil)
    for i in (0, 2, 3):
        assert torch.equal(a[i], b[i]), i
    if policy == "propagate":
        assert not torch.isfinite(b[1]).all()
    else:
        assert torch.isfinite(b[1]).all()
        entries = any_manifold not in ("positive", "poincare", "lorentz", "scaled")
        if entries and any_manifold != "geoopt_product":
            assert float(optimizer.state[dirty.params[1]].get("step", 4)) == 4


def test_skipped_step_leaves_point_and_state(problem):
    a = problem("stiefel", count=2)
    optimizer = RiemannianAdam(a.params, lr=0.1, nonfinite="skip")
    a.run(optimizer, 3)
    x = a.values()[0]
    m = optimizer.state[a.params[0]]["exp_avg"].clone()
    a.params[0].grad.fill_(torch.inf)
    optimizer.step()
    assert torch.equal(a.values()[0], x)
    assert torch.equal(optimizer.state[a.params[0]]["exp_avg"], m)
    assert [float(optimizer.state[p]["step"]) for p in a.params] == [3, 4]


def test_zero_gradient_does_not_move_a_point(our_manifold, problem):
    a = problem(our_manifold)
    before = a.values()
    optimizer = RiemannianAdam(a.params, lr=0.1)
    for p in a.params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(a.values(), before, rtol=1e-14, atol=1e-14)


def test_transposed_and_flattened_weights_match_the_plain_layout():
    torch.manual_seed(0)
    linear = torch.nn.Linear(7, 3, bias=False)
    conv = torch.nn.Conv2d(2, 20, 2, bias=False)
    for layer in (linear, conv):
        attach(layer, "weight", Stiefel())
    plain = [
        geoopt.ManifoldParameter(w.clone(), manifold=Stiefel())
        for w in (linear.weight.data.mT, conv.weight.data.flatten(1))
    ]
    attached = RiemannianAdam([linear.weight, conv.weight], lr=0.05)
    reference = RiemannianAdam(plain, lr=0.05)
    targets = [torch.randn_like(p) for p in plain]
    for _ in range(10):
        weights = linear.weight.mT, conv.weight.flatten(1)
        for w in (weights, plain):
            sum((a * t).sum() for a, t in zip(w, targets, strict=True)).backward()
        attached.step()
        reference.step()
        attached.zero_grad()
        reference.zero_grad()
    torch.testing.assert_close(linear.weight.data.mT, plain[0].data)
    torch.testing.assert_close(conv.weight.data.flatten(1), plain[1].data)
    assert attached.state[linear.weight]["exp_avg"].shape == linear.weight.shape


def test_half_precision_points_stay_near_the_manifold():
    manifold = Stiefel()
    x = manifold.random(8, 4, generator=torch.Generator().manual_seed(0)).data
    p = geoopt.ManifoldParameter(x.bfloat16(), manifold=manifold)
    optimizer = RiemannianAdam([p], lr=0.1)
    target = manifold.origin(8, 4).data
    for _ in range(60):
        optimizer.zero_grad()
        ((p.float() - target) ** 2).sum().backward()
        optimizer.step()
    assert p.dtype == torch.bfloat16
    assert optimizer.state[p]["exp_avg"].dtype == torch.float32
    assert float((p.detach().float() - target).abs().max()) < 0.1


def test_replaced_and_moved_data_are_read_again(problem):
    a = problem("spd_airm", count=3)
    optimizer = RiemannianAdam(a.params, lr=0.05)
    a.run(optimizer, 2)
    for p in a.params:
        p.data = torch.eye(4, dtype=torch.float32)
    a.targets = [t.float() for t in a.targets]
    optimizer.zero_grad()
    a.loss().backward()
    optimizer.step()
    assert all(p.dtype == torch.float32 for p in a.params)
    assert all(float((p - torch.eye(4)).detach().norm()) < 0.2 for p in a.params)


def test_gradients_are_never_changed(any_manifold, problem):
    a = problem(any_manifold, count=1)
    a.loss().backward()
    before = a.params[0].grad.clone()
    RiemannianAdam(a.params, lr=0.1, maximize=True, grad_clip=0.1).step()
    assert torch.equal(a.params[0].grad, before)


@pytest.mark.parametrize("moment", ["coordinate", "factored"])
def test_second_moments_by_entry_descend_on_every_manifold(
    our_manifold, moment, problem
):
    a = problem(our_manifold)
    start = float(a.loss().detach())
    optimizer = RiemannianAdam(a.params, lr=0.01, moment=moment)
    x = a.run(optimizer, 30)
    assert float(a.loss().detach()) < 0.9 * start
    for p, y in zip(a.params, x, strict=True):
        assert p.manifold.check_point_on_manifold(y)


def test_factored_moments_are_the_product_of_their_sums():
    p = geoopt.ManifoldParameter(torch.eye(4, 2).double(), manifold=Stiefel())
    optimizer = RiemannianAdam([p], lr=0.1, moment="factored")
    p.grad = torch.randn(
        4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    square = Stiefel().egrad2rgrad(p.data, p.grad) ** 2
    optimizer.step()
    state = optimizer.state[p]
    rows, columns = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
    assert (tuple(rows.shape), tuple(columns.shape)) == ((4, 1), (1, 2))
    torch.testing.assert_close(rows, 1e-3 * square.mean(1, keepdim=True))
    torch.testing.assert_close(columns, 1e-3 * square.mean(0, keepdim=True))
    assert "exp_avg_sq" not in state
    with pytest.raises(ValueError, match="amsgrad: not with moment"):
        RiemannianAdam([p], moment="factored", amsgrad=True)


def test_a_learned_metric_is_read_at_every_step():
    m = torch.nn.Parameter(torch.eye(3))
    manifold = SPD("gbw", M=m)
    start = [torch.eye(3), 2 * torch.eye(3)]
    params = [geoopt.ManifoldParameter(x.clone(), manifold=manifold) for x in start]
    optimizer = RiemannianSGD(params, lr=0.1)
    assert len(optimizer.plans[0].buckets) == 1
    gradient = torch.tensor([[1.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 3.0]])
    for metric in (torch.eye(3), torch.diag(torch.tensor([1.0, 2.0, 3.0]))):
        with torch.no_grad():
            m.copy_(metric)
        fixed = SPD("gbw", M=metric)
        for p, x in zip(params, start, strict=True):
            p.data.copy_(x)
            p.grad = gradient.clone()
        optimizer.step()
        for p, x in zip(params, start, strict=True):
            expected = fixed.retr(x, -0.1 * fixed.egrad2rgrad(x, gradient))
            torch.testing.assert_close(p.data, expected)


def test_sparse_gradients_are_refused():
    p = geoopt.ManifoldParameter(torch.eye(4)[:2], manifold=Sphere())
    p.grad = torch.eye(4)[:2].to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients are not supported"):
        RiemannianAdam([p]).step()


def test_bucket_reads_full_size_second_moments():
    assert reduce_to(torch.ones(4, 6, 3), (4, 1, 1)).shape == (4, 1, 1)
    p = geoopt.ManifoldParameter(torch.eye(3, 2), manifold=Stiefel())
    state = {p: {"exp_avg_sq": torch.full((3, 2), 5.0)}}
    geometry = RiemannianAdam([p]).plans[0].buckets[0].geometry
    bucket = Bucket([p], geometry, state, p.manifold)
    torch.testing.assert_close(
        bucket.bind("exp_avg_sq", (1, 1, 1)), torch.full((1, 1, 1), 5.0)
    )


@pytest.mark.parametrize("mode", ["l2", "decoupled"])
def test_decay_leaves_the_compact_factors_of_a_product(mode):
    manifold = Product((Sphere(), 3), (SPD(), (2, 2)))
    start = manifold.pack_point(torch.tensor([0.0, 0.6, 0.8]), 2 * torch.eye(2))
    x = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
    x.grad = torch.zeros_like(x)
    options = {"lr": 0.1, "weight_decay": 1.0, "decay_mode": mode}
    RiemannianSGD([x], **options).step()
    sphere, spd = manifold.unpack_tensor(x.detach())
    torch.testing.assert_close(sphere, start[:3])
    assert spd[0, 0] < 2
