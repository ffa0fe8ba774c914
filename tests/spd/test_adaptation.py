"""Information maximization: where class shares of a domain differ from training."""

import warnings

import pytest
import torch
from torch import nn

from manifoldkit.optim import build_optimizer
from manifoldkit.spd import SPDNet, information_maximization

DOUBLE = torch.float64


def trials(n, share, mixing, generator):
    """Covariances of two classes behind a mixing, with a share of the second one."""
    y = (torch.arange(n) >= round(n * (1 - share))).long()
    s = torch.randn(n, 4, 80, generator=generator, dtype=DOUBLE)
    s[:, 0] *= torch.where(y == 1, 1.6, 1.0)[:, None]
    s[:, 1] *= torch.where(y == 1, 1.0, 1.6)[:, None]
    noise = torch.randn(n, 4, 1, generator=generator, dtype=DOUBLE)
    s = mixing @ (s * (0.15 * noise).exp())
    return s @ s.mT / 80, y


def mixing(generator):
    a = torch.randn(4, 4, generator=generator, dtype=DOUBLE)
    return torch.eye(4, dtype=DOUBLE) + 0.2 * a


def trained(seed):
    """A network of four domains with equal classes, and the generator."""
    g = torch.Generator().manual_seed(seed)
    parts = [trials(60, 0.5, mixing(g), g) for _ in range(4)]
    x, y = (torch.cat(p) for p in zip(*parts, strict=True))
    domains = torch.arange(4).repeat_interleave(60)
    net = SPDNet(4, (4,), 2, batchnorm="airm", domain_batchnorm=True, generator=g,
                 dtype=DOUBLE).init_from_data(x, domains)  # fmt: skip
    optimizer = build_optimizer(net, "adam", lr=2e-2, manifold_lr=1e-2)
    for _ in range(8):
        for index in torch.randperm(240, generator=g).split(60):
            optimizer.zero_grad()
            scores = net(x[index], domains[index])
            nn.functional.cross_entropy(scores, y[index]).backward()
            optimizer.step()
    return net.eval(), g


@pytest.mark.parametrize("seeds", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_shares_of_the_target_classes(seeds):
    """Above no adaptation and recentering at 80:20, equal to recentering at 50:50."""
    rows = {0.5: [], 0.8: []}
    for seed in range(seeds):
        net, g = trained(seed)
        for share, found in rows.items():
            x, y = trials(60, share, mixing(g), g)

            def accuracy(domain, net=net, x=x, y=y):
                with torch.no_grad():
                    return float((net(x, domain).argmax(-1) == y).double().mean())

            none = accuracy(0)
            net.adapt(x, 9)
            recentered = accuracy(9)
            losses = information_maximization(net, x, 9, steps=40)
            assert min(losses) < losses[0]
            found.append((none, recentered, accuracy(9)))
    even, uneven = (torch.tensor(rows[share]) for share in (0.5, 0.8))
    assert (uneven[:, 2] >= uneven[:, 1]).all()
    none, recentered, informed = uneven.mean(0)
    assert informed >= max(none, recentered + 0.05)
    assert abs(even[:, 2] - even[:, 1]).mean() < 0.03


def test_only_the_domain_changes():
    g = torch.Generator().manual_seed(0)
    net = SPDNet(4, (4, 3), 2, batchnorm="gbw", domain_batchnorm=True, dtype=DOUBLE)
    x, _ = trials(20, 0.5, mixing(g), g)
    net(x, torch.arange(20) % 2)
    net.adapt(x, 7)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    information_maximization(net, x, 7, steps=5)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    for key, now in net.state_dict().items():
        if "running_mean" in key:
            assert torch.equal(now[:2], before[key][:2])
            assert not torch.equal(now[2], before[key][2])
            assert bool((torch.linalg.eigvalsh(now) > 0).all())
        else:
            assert torch.equal(now, before[key])


@pytest.mark.parametrize("c", [1e-9, 1e9])
def test_unit(c):
    results = []
    for scale in (1.0, c):
        g = torch.Generator().manual_seed(0)
        options = {"batchnorm": "airm", "domain_batchnorm": True, "dtype": DOUBLE}
        net = SPDNet(4, (3,), 2, generator=g, **options)
        x, _ = trials(20, 0.8, mixing(g), g)
        net.adapt(scale * x, 9)
        losses = information_maximization(net, scale * x, 9, steps=10)
        results.append(torch.tensor(losses))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_bad_input():
    net = SPDNet(4, (3,), 2, batchnorm="airm", domain_batchnorm=True)
    x = torch.eye(4).expand(6, 4, 4) * torch.linspace(1, 2, 6)[:, None, None]
    with pytest.raises(ValueError, match="network: expected a DomainBatchNorm"):
        information_maximization(SPDNet(4, (3,), 2), x, 0)
    with pytest.raises(ValueError, match=r"found 3; call adapt\(x, 3\)"):
        information_maximization(net, x, 3)
    net.adapt(x, 3)
    for name in ("steps", "lr", "marginal"):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            information_maximization(net, x, 3, **{name: -1})
    mean = net.layers[1].running_mean.clone()
    with pytest.raises(ValueError, match="not finite"), warnings.catch_warnings():
        information_maximization(net, x * torch.nan, 3)
    assert torch.equal(net.layers[1].running_mean, mean)
