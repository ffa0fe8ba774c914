"""Landing, POGO and spectral steps: feasibility, agreement with the formulas."""

import geoopt
import pytest
import torch

from manifoldkit.manifolds import Stiefel
from manifoldkit.optim import LandingAdam, LandingSGD, StiefelMuon


def problems(batch=50, n=32, p=8, dtype=torch.float32):
    torch.manual_seed(0)
    a = torch.randn(batch, n, 2 * n, dtype=dtype)
    a = a @ a.mT / (2 * n)
    best = torch.linalg.eigvalsh(a)[:, -p:].sum(-1)
    x = torch.linalg.qr(torch.randn(batch, n, p, dtype=dtype))[0]
    return a, best, geoopt.ManifoldParameter(x, manifold=Stiefel())


def departure(x):
    return float((x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype)).abs().max())


def test_pogo_finds_components_and_stays_near_the_manifold():
    """A gap of 1e-4 on all of 50 problems within 130 steps, 1e-2 off at most."""
    a, best, x = problems()
    optimizer = LandingSGD([x], lr=0.8, momentum=0.9, normal_step="pogo")
    gap, worst, steps = 1.0, 0.0, 0
    while gap > 1e-4 and steps < 130:
        x.grad = -2 * (a @ x.detach())
        optimizer.step()
        steps += 1
        y = x.detach()
        worst = max(worst, departure(y))
        gap = float(((best - (y * (a @ y)).sum((-2, -1))) / best).max())
    assert gap <= 1e-4
    assert worst <= 1e-2


@pytest.mark.parametrize("lr", [1.0, 1e3, 1e8])
@pytest.mark.parametrize("make", [LandingSGD, LandingAdam])
@pytest.mark.parametrize("normal_step", ["pogo", "attraction"])
def test_no_rate_leaves_the_safe_region(lr, make, normal_step):
    a, _, x = problems(5)
    optimizer = make([x], lr=lr, normal_step=normal_step)
    safe = {"pogo": 1e-2, "attraction": 0.5}[normal_step]
    for _ in range(10):
        x.grad = -2 * (a @ x.detach())
        optimizer.step()
        y = x.detach()
        gram = y.mT @ y - torch.eye(8)
        assert float(torch.linalg.matrix_norm(gram).max()) <= 1.001 * safe


def test_pogo_without_momentum_is_the_published_step():
    """x - lr psi, then one Newton-Schulz step; psi of the gradient."""
    a, _, x = problems(3, dtype=torch.float64)
    optimizer = LandingSGD([x], lr=0.01, normal_step="pogo")
    y = x.detach().clone()
    for _ in range(20):
        x.grad = -2 * (a @ x.detach())
        optimizer.step()
        g = -2 * (a @ y)
        psi = (g @ y.mT - y @ g.mT) @ y / 2
        z = y - 0.01 * psi
        y = z + z @ (torch.eye(8, dtype=z.dtype) - z.mT @ z) / 2
    torch.testing.assert_close(x.detach(), y, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["pogo", "attraction"])
def test_a_point_does_not_depend_on_its_company(kind):
    a, _, together = problems(4, dtype=torch.float64)
    alone = geoopt.ManifoldParameter(together.data[1:2].clone(), manifold=Stiefel())
    optimizers = [LandingAdam([x], lr=0.3, normal_step=kind) for x in (together, alone)]
    for _ in range(5):
        together.grad = -2 * (a @ together.detach())
        together.grad[0] *= 1e6
        together.grad[3] = torch.nan
        alone.grad = -2 * (a[1:2] @ alone.detach())
        for optimizer in optimizers:
            optimizer.step()
        together.data[3] = together.data[1]
    torch.testing.assert_close(together.detach()[1:2], alone.detach())


def test_unknown_normal_step():
    with pytest.raises(ValueError, match="normal_step: expected one of"):
        LandingSGD([problems(1)[2]], normal_step="none")
    with pytest.raises(ValueError, match="retraction: LandingAdam has none"):
        LandingAdam([problems(1)[2]], retraction="qr")


# ------------------------------------------------------------ StiefelMuon


def best_decrease(x, g):
    """Least sum of singular values of g + x L over symmetric L: the dual optimum."""
    s = x.mT @ g
    rest = g - x @ s
    c, m = rest.mT @ rest, (s - s.mT) / 2
    for _ in range(200):
        w, v = torch.linalg.eigh(m.mT @ m + c)
        q = w.clamp_min(1e-14 * w[..., -1:]).sqrt()
        t = (m @ v / q[..., None, :]).mT @ v
        t = (t + t.mT) / 2
        a, b = q[..., :, None], q[..., None, :]
        m = m - v @ (2 * a * b / (a + b) * t) @ v.mT
    return torch.linalg.svdvals(rest + x @ m).sum(-1)


@pytest.mark.parametrize(
    ("n", "p", "unit"),
    [(64, 16, 1.0), (32, 16, 1.0), (128, 32, 1.0), (32, 16, 1e-9), (32, 16, 1e9)],
)
@pytest.mark.parametrize(("lmo", "share"), [("dual", 0.97), ("project", 0.88)])
def test_spectral_norm_and_decrease_of_a_step(n, p, lmo, share, unit):
    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(4, n, p))[0]
    g = torch.randn(4, n, p)
    point = geoopt.ManifoldParameter(x.clone(), manifold=Stiefel())
    lr = 1e-3
    optimizer = StiefelMuon([point], lr, momentum=0.0, nesterov=False, lmo=lmo)
    point.grad = unit * g
    optimizer.step()
    # to first order the step is tangent; the rest is the way back
    moved = point.detach().double() - x.double()
    u = moved - x.double() @ (lambda s: (s + s.mT) / 2)(x.double().mT @ moved)
    norm = torch.linalg.matrix_norm(u, 2)
    assert float(norm.max()) <= 1.01 * lr
    decrease = -(u * g.double()).sum((-2, -1)) / norm
    assert bool((decrease >= share * best_decrease(x.double(), g.double())).all())


@pytest.mark.parametrize("lmo", ["dual", "project"])
def test_muon_with_no_or_bad_gradient(lmo):
    x = torch.linalg.qr(torch.randn(3, 6, 3, dtype=torch.float64))[0]
    point = geoopt.ManifoldParameter(x.clone(), manifold=Stiefel())
    optimizer = StiefelMuon([point], 0.1, lmo=lmo)
    point.grad = torch.zeros_like(x)
    point.grad[1, 0, 0] = torch.nan
    point.grad[2] = torch.randn(6, 3)
    optimizer.step()
    torch.testing.assert_close(point.detach()[0], x[0])
    assert bool(point[1].isnan().any())
    assert departure(point.detach()[2]) < 1e-12
