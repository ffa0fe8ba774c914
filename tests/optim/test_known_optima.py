"""Problems with a known optimum, in no more steps than geoopt at the same rate."""

import geoopt
import pytest
import torch

from manifoldkit.linalg import invsqrtm, procrustes, sqrtm
from manifoldkit.manifolds import (
    SPD,
    Grassmann,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    as_parameter,
)
from manifoldkit.optim import RiemannianAdam, RiemannianSGD, karcher_mean

LIBRARIES = {
    "ours": {
        "adam": RiemannianAdam,
        "sgd": RiemannianSGD,
        "spd": SPD,
        "sphere": Sphere,
        "stiefel": Stiefel,
    },
    "geoopt": {
        "adam": geoopt.optim.RiemannianAdam,
        "sgd": geoopt.optim.RiemannianSGD,
        "spd": geoopt.SymmetricPositiveDefinite,
        "sphere": geoopt.Sphere,
        "stiefel": geoopt.EuclideanStiefel,
    },
}


def _randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _steps(params, cost, best, optimizer, gap=1e-6, most=600):
    """Steps until the gap to the optimum is a millionth of that at the start."""
    first = None
    for i in range(most):
        optimizer.zero_grad()
        loss = cost(*params)
        value = float(loss.detach())
        first = value if first is None else first
        if value - best <= gap * max(abs(best), first - best):
            return i
        loss.backward()
        optimizer.step()
    return most


def _compare(start, cost, best, kind="adam", most=600, **options):
    """Steps of both libraries; ``start`` makes the parameters of one."""
    counts = []
    for library in LIBRARIES.values():
        params = start(library)
        optimizer = library[kind](params, **options)
        counts.append(_steps(params, cost, best, optimizer, most=most))
    return counts


def _point(x, manifold):
    return geoopt.ManifoldParameter(x.clone(), manifold=manifold)


def test_maximum_likelihood_of_a_gaussian():
    n = 6
    mix = _randn(n, n, seed=1) / n**0.5 + torch.eye(n, dtype=torch.float64)
    x = _randn(400, n) @ mix.mT + _randn(n, seed=2)
    mean = x.mean(0)
    centered = x - mean
    covariance = centered.mT @ centered / len(x)

    def cost(location, scatter):
        z = x - location
        fit = torch.linalg.solve(scatter, z.mT @ z / len(x))
        return (torch.logdet(scatter) + fit.diagonal().sum()) / 2

    def start(library):
        eye = _point(torch.eye(n, dtype=torch.float64), library["spd"]())
        return [torch.nn.Parameter(torch.zeros_like(mean)), eye]

    best = float((torch.logdet(covariance) + n) / 2)
    ours, theirs = _compare(start, cost, best, lr=0.05)
    assert ours < 600
    assert ours <= 1.05 * theirs
    params = start(LIBRARIES["ours"])
    # the Hessian of the likelihood is half the metric: step 2 is Newton's
    optimizer = RiemannianSGD(
        [{"params": params[:1], "lr": 0.5}, {"params": params[1:], "lr": 1.0}]
    )
    _steps(params, cost, best, optimizer, gap=0.0, most=200)
    torch.testing.assert_close(params[0].data, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(params[1].data, covariance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "lr"), [("adam", 0.05), ("sgd", 0.02)])
def test_completion_of_a_matrix_of_rank_three(kind, lr):
    m, n, r = 30, 20, 3
    u, v = (torch.linalg.qr(_randn(k, r, seed=k))[0] for k in (m, n))
    full = u * torch.tensor([6.0, 5.0, 4.0], dtype=torch.float64) @ v.mT
    seen = torch.rand(m, n, generator=torch.Generator().manual_seed(0)) < 0.6

    def cost(left, middle, right):
        return ((left @ middle @ right.mT - full)[seen] ** 2).sum() / 2

    def start(library):
        # the leading singular vectors of what is seen
        a, s, b = torch.linalg.svd(torch.where(seen, full, 0.0) / 0.6)
        left, right = (
            _point(w[:, :r].contiguous(), library["stiefel"]()) for w in (a, b.mT)
        )
        return [left, torch.nn.Parameter(s[:r].diag()), right]

    options = {"momentum": 0.9} if kind == "sgd" else {}
    ours, theirs = _compare(start, cost, 0.0, kind, lr=lr, **options)
    assert ours < 600
    assert ours <= 1.05 * theirs
    params = start(LIBRARIES["ours"])
    optimizer = RiemannianSGD(params, lr=0.02, momentum=0.9)
    _steps(params, cost, 0.0, optimizer, gap=1e-13)
    left, middle, right = (p.detach() for p in params)
    # entries never seen
    torch.testing.assert_close(left @ middle @ right.mT, full, rtol=1e-4, atol=1e-4)


def _spd(count, n, seed=0):
    a = _randn(count, n, 2 * n, seed=seed)
    return a @ a.mT / (2 * n)


def test_mean_under_a_generalized_bures_wasserstein_metric():
    y, m = _spd(15, 8), _spd(1, 8, seed=5)[0] + torch.eye(8, dtype=torch.float64)
    # the fixed point of the plain metric, between whitened matrices
    root, back = sqrtm(m), invsqrtm(m)
    white = back @ y @ back
    g = white.mean(0)
    for _ in range(200):
        half, inverse = sqrtm(g), invsqrtm(g)
        g = inverse @ (sqrtm(half @ white @ half).mean(0).matrix_power(2)) @ inverse
    expected = root @ g @ root
    manifold = SPD("gbw", M=m)
    report = karcher_mean(manifold, y)
    assert bool(report.converged)
    torch.testing.assert_close(report.mean, expected, rtol=1e-8, atol=1e-8)
    p = _point(y[0], manifold)
    optimizer = RiemannianSGD([p], lr=0.4)
    for _ in range(60):
        optimizer.zero_grad()
        (manifold.dist(p.expand_as(y), y) ** 2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(p.data, expected, rtol=1e-5, atol=1e-5)


def test_half_a_gradient_step_is_the_classical_iteration_for_means():
    y, manifold = _spd(20, 8), SPD()
    mean = karcher_mean(manifold, y).mean

    def cost(x):
        return (manifold.dist(x.expand_as(y), y) ** 2).mean()

    p = _point(y.mean(0), manifold)
    optimizer = RiemannianSGD([p], lr=0.5, retraction="exp")
    assert _steps([p], cost, float(cost(mean)), optimizer) <= 4


@pytest.mark.parametrize(
    ("kind", "options"), [("adam", {"lr": 0.1}), ("sgd", {"lr": 0.2})]
)
def test_mean_on_the_sphere(kind, options):
    sphere = Sphere()
    y = sphere.projx(_randn(1, 5, seed=1) + 0.5 * _randn(30, 5))
    mean = karcher_mean(sphere, y).mean

    def cost(x):
        return (sphere.dist(x.expand_as(y), y) ** 2).mean()

    def start(library):
        return [_point(y[0], library["sphere"]())]

    best = float(cost(mean))
    ours, theirs = _compare(start, cost, best, kind, **options)
    assert ours < 600
    assert ours <= 1.05 * theirs


def test_mean_of_rotations():
    manifold = SpecialOrthogonal()
    center = manifold.random(
        3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).data
    skew = 0.4 * _randn(30, 3, 3)
    y = center @ torch.linalg.matrix_exp(skew - skew.mT)
    report = karcher_mean(manifold, y)
    log = manifold.logmap(report.mean.expand_as(y), y).mean(0)
    assert float(log.norm()) < 1e-12
    p = _point(torch.eye(3, dtype=torch.float64), manifold)
    optimizer = RiemannianSGD([p], lr=0.4)
    for _ in range(40):
        optimizer.zero_grad()
        (manifold.dist(p.expand_as(y), y) ** 2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(p.data, report.mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [3, 10])
def test_procrustes_in_no_more_steps_than_on_stiefel(n):
    # geoopt has no rotations; its square Stiefel matrices start with determinant one
    a = _randn(4 * n, n)
    r = torch.linalg.qr(_randn(n, n, seed=1))[0]
    r = r * torch.linalg.det(r).sign().pow(torch.arange(n) == 0)
    b = a @ r + 0.1 * _randn(4 * n, n, seed=2)

    def cost(x):
        return ((a @ x - b) ** 2).sum() / (4 * n)

    best = float(cost(procrustes(a, b, special=True)))
    eye = torch.eye(n, dtype=torch.float64)
    x, y = _point(eye, SpecialOrthogonal()), _point(eye, geoopt.EuclideanStiefel())
    ours = _steps([x], cost, best, RiemannianAdam([x], lr=0.1))
    theirs = _steps([y], cost, best, geoopt.optim.RiemannianAdam([y], lr=0.1))
    assert ours < 600
    assert ours <= 1.05 * theirs


def test_minibatch_pca_in_no_more_steps_than_geoopt():
    scale = torch.tensor([3.0, 2.0] + [0.3] * 8, dtype=torch.float64)
    data = _randn(400, 10) * scale
    best = torch.linalg.eigh(data.mT @ data).eigenvectors[:, -2:]
    start = torch.linalg.qr(_randn(10, 2, seed=1))[0]

    def steps(manifold, optimizer_class):
        x = as_parameter(start.clone(), manifold)
        optimizer = optimizer_class([x], lr=0.02)
        for i in range(200):
            if float(torch.linalg.svdvals(best.mT @ x.data).min()) > 0.999:
                return i
            batch = data[(i * 50) % 400 : (i * 50) % 400 + 50]
            optimizer.zero_grad()
            (batch - batch @ x @ x.mT).square().mean().backward()
            optimizer.step()
        return 200

    theirs = steps(geoopt.EuclideanStiefel(), geoopt.optim.RiemannianAdam)
    for manifold in (Stiefel(), Grassmann()):
        ours = steps(manifold, RiemannianAdam)
        assert ours < 200
        assert ours <= 1.05 * theirs
