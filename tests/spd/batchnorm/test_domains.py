"""Statistics of each domain: laws, adaptation, momentum, states, bad input."""

import copy
import pickle

import pytest
import torch

from manifoldkit.spd import DomainBatchNorm, SPDNet, make_batchnorm

DOUBLE = torch.float64
NAMES = ["gbw", "bw", "airm", "airm-mean", "lie", "log_euclidean", "log_cholesky"]
DOMAINS = torch.tensor([3, 5, 9, 3, 5, 9, 3, 5, 9, 3, 5, 5])


def layer(name, n=4, **options):
    return DomainBatchNorm(n, name, **{"dtype": DOUBLE, **options})


def exact(name):
    """A layer whose means have converged."""
    return layer(name, **({} if "log" in name else {"mean_iterations": 40}))


@pytest.mark.parametrize("name", NAMES)
def test_one_domain_is_the_plain_layer(name, make_spd):
    plain, bn = make_batchnorm(name, 4, dtype=DOUBLE), layer(name)
    for k in range(3):
        x = (k + 1) * make_spd(6)
        ours, theirs = bn(x, 7), plain(x)
        assert torch.equal(ours, theirs)
    grads = [torch.autograd.grad(z.sin().sum(), m.parameters()) for z, m in
             ((ours, bn.norm), (theirs, plain))]  # fmt: skip
    torch.testing.assert_close(*grads)
    assert torch.equal(bn.eval()(x, 7), plain.eval()(x))
    torch.testing.assert_close(bn.running_mean[0], plain.running_mean)
    assert bn.num_batches_tracked.tolist() == [3]


@pytest.mark.parametrize("name", NAMES)
def test_each_domain_is_moved_to_the_bias(name, make_spd):
    bn, x = exact(name), make_spd(12)
    if name not in ("gbw", "bw"):  # their exponential has a domain about the bias
        with torch.no_grad():
            bn.norm.bias.copy_(make_spd())
    z = bn(x, DOMAINS)
    for domain in (3, 5, 9):
        mean, _ = bn.norm.estimate(z[domain == DOMAINS], None, 40)
        torch.testing.assert_close(mean[0], bn.norm.bias.detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_domains_do_not_touch_each_other(name, make_spd):
    x = make_spd(12)
    bn, other = layer(name), layer(name)
    changed = torch.where((DOMAINS == 5)[:, None, None], 100 * make_spd(12), x)
    rest = DOMAINS != 5
    for mode in ("train", "eval"):
        a, b = (m.train(mode == "train") for m in (bn, other))
        assert torch.equal(a(x, DOMAINS)[rest], b(changed, DOMAINS)[rest])
    alone = layer(name)(x[DOMAINS == 9], 9)
    torch.testing.assert_close(layer(name)(x, DOMAINS)[DOMAINS == 9], alone)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    again = layer(name)(x[order], DOMAINS[order])
    torch.testing.assert_close(again, layer(name)(x, DOMAINS)[order])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("c", [1e-9, 1e9])
def test_unit_of_a_domain(name, c, make_spd):
    """A domain in another unit gives the same output, where the metric has no unit."""
    if name in ("gbw", "bw"):
        pytest.skip("their scale has the unit of the mean")
    x, bn, other = make_spd(12), layer(name), layer(name)
    y = torch.where((DOMAINS == 5)[:, None, None], c * x, x)
    for mode in (True, False):
        found, expected = other.train(mode)(y, DOMAINS), bn.train(mode)(x, DOMAINS)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_congruence_of_a_whole_domain(make_spd):
    x = make_spd(12)
    a = torch.randn(4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    mixed = DOMAINS == 5
    z = exact("airm")(x, DOMAINS)
    y = x.clone()
    y[mixed] = a @ x[mixed] @ a.mT
    w = exact("airm")(y, DOMAINS)
    assert torch.equal(w[~mixed], z[~mixed])
    found, expected = torch.linalg.eigvalsh(w), torch.linalg.eigvalsh(z)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    # one rotation for all matrices of the domain
    products = [torch.einsum("iab,jab->ij", m[mixed], m[mixed]) for m in (w, z)]
    torch.testing.assert_close(*products, rtol=1e-7, atol=1e-7)
    lower = a.tril(-1) + 2 * torch.eye(4, dtype=DOUBLE)
    y[mixed] = lower @ x[mixed] @ lower.mT
    torch.testing.assert_close(
        exact("lie")(y, DOMAINS), exact("lie")(x, DOMAINS), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_train_momentum(name, make_spd):
    """Training takes moved statistics: at equal rates those of evaluation."""
    x, y = make_spd(6), make_spd(6)
    moving = layer(name, train_momentum=0.3, momentum=0.3)
    moving(x, 1)
    z = moving(y, 1)
    torch.testing.assert_close(moving.train_mean, moving.running_mean)
    if name == "airm-mean" or "log" in name:
        again = copy.deepcopy(moving)
        again.running_var.copy_(again.train_var)
        torch.testing.assert_close(again.eval()(y, 1), z)
    full = layer(name, train_momentum=1.0)
    full(x, 1)
    assert not torch.allclose(full(y, 1), z)
    still = layer(name, train_momentum=0.0)
    still(x, 1)
    mean = still.train_mean.clone()
    still(y, 1)
    torch.testing.assert_close(still.train_mean, mean)


def test_schedule_of_the_momentum():
    bn = layer("airm")
    found = []
    for epoch in (1, 5, 9, 20):
        bn.schedule_momentum(epoch, 9, 0.5)
        found.append(bn.train_momentum)
    torch.testing.assert_close(found, [1.0, 1.5 - 0.5**0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="batch_share"):
        bn.schedule_momentum(1, 9, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_adapt(name, make_spd):
    x, bn = make_spd(8), layer(name)
    bn(make_spd(12), DOMAINS)
    before = copy.deepcopy(bn.state_dict())
    bn.eval().adapt(x, 40)
    assert bn.domains == [3, 5, 9, 40]
    mean, _ = bn.norm.estimate(bn(x, 40), None, 40)
    if "gbw" not in name and name != "bw":
        torch.testing.assert_close(mean[0], bn.norm.bias, rtol=1e-6, atol=1e-6)
    for key, old in before.items():
        now = bn.state_dict()[key]
        assert torch.equal(
            now[: len(old)] if now.ndim and "norm" not in key else now, old
        )
    unseen = layer(name, unseen="adapt")
    unseen.load_state_dict(before)
    assert torch.equal(unseen.eval()(x, 40), bn(x, 40))
    assert unseen.domains == [3, 5, 9]  # nothing is kept
    weights = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0], dtype=DOUBLE)
    one, two = layer(name).adapt(x, 0, weights), layer(name).adapt(x[:4], 0)
    torch.testing.assert_close(one.state_dict(), two.state_dict())


def test_states_with_any_number_of_domains(make_spd):
    bn, x = layer("airm", train_momentum=0.5), make_spd(12)
    bn(x, DOMAINS)
    for twin in (layer("airm"), layer("airm", domains=range(50))):
        twin.load_state_dict(bn.state_dict())
        assert torch.equal(twin.eval()(x, DOMAINS), bn.eval()(x, DOMAINS))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(bn)))
    assert torch.equal(twin(x, DOMAINS), bn(x, DOMAINS))
    assert bn.float().running_mean.dtype == torch.float32
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer("airm", 3).load_state_dict(bn.state_dict())
    bn.reset_parameters()
    assert bn.domains == [3, 5, 9]
    assert not bn.num_batches_tracked.any()


@pytest.mark.parametrize("name", ["gbw", "airm"])
def test_channels_weights_and_shapes(name, make_spd):
    x = make_spd(6, 2)
    domains = torch.tensor([0, 0, 0, 1, 1, 1])
    bn = layer(name, n_channels=2)
    z = bn(x, domains)
    single = layer(name)
    torch.testing.assert_close(z[:, 1], single(x[:, 1], domains))
    torch.testing.assert_close(bn.running_mean[:, 1], single.running_mean)
    pooled = layer(name)(x, domains[:, None])
    flat = layer(name)(x.flatten(0, 1), domains.repeat_interleave(2))
    torch.testing.assert_close(pooled.flatten(0, 1), flat)
    w = torch.rand(6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    w[1] = 0
    kept = [0, 2, 3, 4, 5]
    torch.testing.assert_close(
        layer(name)(x[:, 0], domains, w)[kept],
        layer(name)(x[kept, 0], domains[kept], w[kept]),
    )
    assert bn.eval()(x[:0], domains[:0]).shape == (0, 2, 4, 4)


def test_gradients(make_spd):
    """Of both modes, for a batch of two domains."""
    domains = torch.tensor([0, 0, 1, 1])
    x = make_spd(4, n=3)
    for name in ("airm", "gbw"):
        bn = layer(name, 3, stats_grad=True)
        bn(x, domains)
        for mode in (True, False):
            bn.train(mode)

            def f(x, bn=bn):
                return copy.deepcopy(bn)((x + x.mT) / 2, domains)

            leaf = x.clone().requires_grad_()
            assert torch.autograd.gradcheck(f, leaf, fast_mode=True)


def test_bad_input(make_spd):
    x, bn = make_spd(4), layer("airm", domains=[1])
    for domains, error, message in (
        ([0, 0, 1, 2], ValueError, r"more than 1 matrix.*\(domain 1\)"),
        ([0, 1], ValueError, r"domains: expected shape \(4,\).* found \(2,\)"),
        (torch.ones(4), TypeError, "domains: expected integers, found torch.float32"),
        (torch.ones(4, dtype=torch.bool), TypeError, "domains: expected integers"),
    ):
        with pytest.raises(error, match=message):
            bn(x, domains)
    with pytest.raises(ValueError, match=r"found 8; call adapt\(x, 8\)"):
        bn.eval()(x, 8)
    with pytest.raises(ValueError, match="found 1; call"):  # named, without statistics
        bn(x, 1)
    with pytest.raises(ValueError, match=r"more than 1 matrix.*\(domain 2\)"):
        bn.adapt(x[:1], 2)
    with pytest.raises(TypeError, match="domain: expected an integer, found 'a'"):
        bn.adapt(x, "a")
    with pytest.raises(ValueError, match="expected matrices to train with"):
        bn.train()(x[:0], 1)
    for options, message in (
        ({"geometry": "none"}, "geometry: expected"),
        ({"track_running_stats": False}, "track_running_stats: expected True"),
        ({"train_momentum": 2.0}, "train_momentum"),
        ({"train_momentum": 0.5, "stats_grad": True}, "stats_grad: expected False"),
        ({"unseen": "guess"}, "unseen"),
    ):
        with pytest.raises(ValueError, match=message):
            DomainBatchNorm(3, **options)
    bad = x.clone()
    bad[2, 0, 0] = torch.nan
    fresh = layer("airm")
    with pytest.raises(ValueError, match=r"x\[2\] is not finite.*domain 0"):
        fresh(bad, 0)
    assert not fresh.num_batches_tracked.any()  # nothing was stored


def test_networks_take_domains(make_spd):
    x = make_spd(12, n=5)
    options = {"domain_batchnorm": True, "dtype": DOUBLE, "batchnorm": "airm"}
    net = SPDNet(5, (4, 3), 2, **options).init_from_data(x, DOMAINS)
    assert net(x, DOMAINS).shape == (12, 2)
    other = SPDNet(5, (4, 3), 2, **options)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(x, DOMAINS), net.eval()(x, DOMAINS))
    torch.testing.assert_close(
        net.adapt(5 * x, 77).features(5 * x, 77),
        net.adapt(x, 78).features(x, 78),
    )
    channels = SPDNet(5, (4,), 2, channels=(2, 3), **options)
    assert channels(torch.stack([x, x], 1), DOMAINS).shape == (12, 2)
    with pytest.raises(ValueError, match="domains: expected one a matrix"):
        net(x)
    with pytest.raises(ValueError, match="domains: expected None"):
        SPDNet(5, (4,), 2)(x, DOMAINS)
    with pytest.raises(ValueError, match="expected a batchnorm beside it"):
        SPDNet(5, (4,), 2, batchnorm=None, domain_batchnorm=True)
    with pytest.raises(ValueError, match="adapt: expected a network with"):
        SPDNet(5, (4,), 2).adapt(x, 1)
