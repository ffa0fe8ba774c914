"""Problems with a known optimum, feasibility, and geoopt's trajectories."""

import geoopt
import pytest
import torch

from manifoldkit.linalg import procrustes, sqrtm
from manifoldkit.manifolds import (
    SPD,
    GLPlus,
    PositiveReals,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from manifoldkit.optim import (
    LandingSGD,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianSGD,
    StiefelMuon,
    karcher_mean,
)


def _randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _parameter(x, manifold):
    return geoopt.ManifoldParameter(x.clone(), manifold=manifold)


def _iterations(cost, p, optimizer, best, gap=1e-6, most=800):
    """Steps until the relative gap to the optimum is reached."""
    start = None
    for i in range(most):
        optimizer.zero_grad()
        loss = cost(p)
        start = float(loss.detach()) if start is None else start
        if float(loss.detach()) - best <= gap * max(abs(best), start - best):
            return i
        loss.backward()
        optimizer.step()
    return most


def _rayleigh():
    a = _randn(50, 50)
    a = a @ a.mT / 50
    best = -float(torch.linalg.eigvalsh(a)[-5:].sum())
    return (lambda x: -(x * (a @ x)).sum()), best


def _brockett():
    a = _randn(50, 50)
    a = a @ a.mT / 50
    n = torch.arange(1.0, 6, dtype=torch.float64)
    best = -float((torch.linalg.eigvalsh(a)[-5:] * n).sum())
    return (lambda x: -(x * (a @ x) * n).sum()), best


@pytest.mark.parametrize("problem_of", [_rayleigh, _brockett])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_eigenspaces_in_no_more_steps_than_geoopt(problem_of, kind):
    cost, best = problem_of()
    x = torch.linalg.qr(_randn(50, 5, seed=1))[0]
    ours, theirs = _parameter(x, Stiefel()), _parameter(x, geoopt.EuclideanStiefel())
    if kind == "adam":
        optimizer = RiemannianAdam([ours], lr=0.1)
        peer = geoopt.optim.RiemannianAdam([theirs], lr=0.1)
    else:
        optimizer = RiemannianSGD([ours], lr=0.01, momentum=0.9)
        peer = geoopt.optim.RiemannianSGD([theirs], lr=0.01, momentum=0.9)
    n, m = (
        _iterations(cost, ours, optimizer, best),
        _iterations(cost, theirs, peer, best),
    )
    assert n < 800
    assert n <= 1.05 * m


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("reflect", [False, True])
def test_procrustes_on_rotations_keeps_the_determinant(n, reflect):
    a = _randn(4 * n, n) * torch.linspace(1, 1.5, n, dtype=torch.float64)
    r = torch.linalg.qr(_randn(n, n, seed=1))[0]
    r = r * torch.tensor(
        [torch.linalg.det(r).sign() * (-1) ** reflect] + [1.0] * (n - 1)
    )
    b = a @ r + 0.1 * _randn(4 * n, n, seed=2)
    solution = procrustes(a, b, special=True)

    def cost(x):
        return ((a @ x - b) ** 2).sum() / n

    p = _parameter(torch.eye(n, dtype=torch.float64), SpecialOrthogonal())
    optimizer = RiemannianAdam([p], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        optimizer.zero_grad()
        cost(p).backward()
        optimizer.step()
        schedule.step()
    assert float(torch.linalg.det(p.data)) == pytest.approx(1.0, abs=1e-10)
    best = float(cost(solution))
    assert float(cost(p).detach()) == pytest.approx(best, rel=1e-5)


def _spd_points(count=20, n=8):
    a = _randn(count, n, 2 * n)
    return a @ a.mT / (2 * n)


@pytest.mark.parametrize(
    ("metric", "tol"),
    [("airm", 1e-6), ("log_euclidean", 1e-6), ("log_cholesky", 1e-6), ("bw", 1e-5)],
)
def test_spd_means_by_descent_equal_the_fixed_point(metric, tol):
    manifold = SPD(metric)
    y = _spd_points()
    mean = karcher_mean(manifold, y).mean
    p = _parameter(y[0], manifold)
    optimizer = RiemannianSGD([p], lr=0.4)
    for _ in range(60):
        optimizer.zero_grad()
        (manifold.dist(p.expand_as(y), y) ** 2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(p.data, mean, rtol=tol, atol=tol)


def test_spd_karcher_in_no_more_steps_than_geoopt():
    y = _spd_points()
    ours, theirs = SPD(), geoopt.SymmetricPositiveDefinite()
    mean = karcher_mean(ours, y).mean
    best = float((ours.dist(mean.expand_as(y), y) ** 2).mean())
    counts = []
    for manifold, build in (
        (ours, lambda p: RiemannianAdam(p, lr=0.1)),
        (theirs, lambda p: geoopt.optim.RiemannianAdam(p, lr=0.1)),
    ):
        p = _parameter(torch.eye(8, dtype=torch.float64), manifold)
        counts.append(
            _iterations(
                lambda x: (ours.dist(x.expand_as(y), y) ** 2).mean(),
                p,
                build([p]),
                best,
                most=200,
            )
        )
    assert counts[0] < 200
    assert counts[0] <= 1.05 * counts[1] + 1


def test_least_squares_on_matrix_groups():
    for manifold, make in (
        (GLPlus(), lambda m: m),
        (SpecialLinear(), lambda m: m / torch.linalg.det(m) ** 0.25),
    ):
        target = make(torch.linalg.matrix_exp(0.4 * _randn(4, 4, seed=3)))
        a = _randn(4, 30)
        p = _parameter(torch.eye(4, dtype=torch.float64), manifold)
        optimizer = RiemannianAdam([p], lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        for _ in range(400):
            optimizer.zero_grad()
            ((p @ a - target @ a) ** 2).mean().backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(p.data, target, rtol=1e-3, atol=1e-3)


def test_geometric_mean_of_positive_numbers():
    y = _randn(20, 6).exp()
    p = _parameter(torch.ones(6, dtype=torch.float64), PositiveReals())
    optimizer = RiemannianSGD([p], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        ((p.log() - y.log()) ** 2).mean(0).sum().backward()
        optimizer.step()
    torch.testing.assert_close(p.data, y.log().mean(0).exp())


def test_minibatch_pca():
    scale = torch.tensor([3.0, 2.0] + [0.3] * 8, dtype=torch.float64)
    data = _randn(400, 10) * scale
    p = _parameter(torch.linalg.qr(_randn(10, 2, seed=1))[0], Stiefel())
    optimizer = RiemannianAdam([p], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for i in range(150):
        batch = data[(i * 50) % 400 : (i * 50) % 400 + 50]
        optimizer.zero_grad()
        (batch - batch @ p @ p.mT).square().mean().backward()
        optimizer.step()
        schedule.step()
    best = torch.linalg.eigh(data.mT @ data).eigenvectors[:, -2:]
    cosines = torch.linalg.svdvals(best.mT @ p.data)
    assert float(cosines.min()) > 0.999


@pytest.mark.parametrize("lmo", ["project", "dual"])
def test_muon_solves_rayleigh_and_procrustes(lmo):
    cost, best = _rayleigh()
    p = _parameter(torch.linalg.qr(_randn(50, 5, seed=1))[0], Stiefel())
    q = _parameter(torch.eye(6, dtype=torch.float64), SpecialOrthogonal())
    target = torch.linalg.matrix_exp(0.3 * (_randn(6, 6) - _randn(6, 6).mT))
    optimizer = StiefelMuon([p, q], lr=0.2, lmo=lmo)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        (cost(p) + ((q - target) ** 2).sum()).backward()
        optimizer.step()
        schedule.step()
    assert float(cost(p).detach()) < 0.999 * best
    assert float((q.data - target).abs().max()) < 1e-2
    torch.testing.assert_close(p.data.mT @ p.data, torch.eye(5, dtype=torch.float64))


def test_landing_reaches_the_manifold_and_the_optimum():
    cost, best = _rayleigh()
    p = _parameter(torch.linalg.qr(_randn(50, 5, seed=1))[0], Stiefel())
    optimizer = LandingSGD([p], lr=0.1)
    worst = 0.0
    eye = torch.eye(5, dtype=torch.float64)
    for _ in range(500):
        optimizer.zero_grad()
        cost(p).backward()
        optimizer.step()
        worst = max(worst, float((p.data.mT @ p.data - eye).norm()))
    assert worst <= 0.5 + 1e-6
    assert float(cost(p).detach()) == pytest.approx(best, rel=1e-5)
    torch.testing.assert_close(p.data.mT @ p.data, eye, rtol=0, atol=1e-8)


def test_landing_shortens_steps_that_would_leave_the_safe_region():
    p = _parameter(torch.linalg.qr(_randn(8, 3))[0], Stiefel())
    optimizer = LandingSGD([p], lr=1e3, eps_safe=0.25)
    for _ in range(5):
        p.grad = _randn(8, 3, seed=2)
        optimizer.step()
        gap = p.data.mT @ p.data - torch.eye(3, dtype=torch.float64)
        assert float(gap.norm()) <= 0.25 + 1e-9


@pytest.mark.parametrize(
    "name", ["geoopt_stiefel", "geoopt_canonical", "geoopt_sphere"]
)
def test_trajectories_of_geoopt_in_single_precision(name, problem):
    ours, theirs = (problem(name, dtype=torch.float32) for _ in range(2))
    a = ours.run(RiemannianAdam(ours.params, lr=0.01), 50)
    b = theirs.run(geoopt.optim.RiemannianAdam(theirs.params, lr=0.01), 50)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_trajectories_on_geoopts_other_manifolds(their_manifold, problem):
    if their_manifold == "geoopt_spd":
        pytest.skip("momentum is transported in another way")
    ours, theirs = problem(their_manifold), problem(their_manifold)
    a = ours.run(RiemannianAdam(ours.params, lr=0.01), 20)
    b = theirs.run(geoopt.optim.RiemannianAdam(theirs.params, lr=0.01), 20)
    tol = 1e-4 if their_manifold == "birkhoff" else 1e-7
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@pytest.mark.parametrize("name", ["stiefel", "sphere", "geoopt_sphere"])
def test_our_manifolds_follow_the_same_path(name, problem):
    twin = {"stiefel": geoopt.EuclideanStiefel(), "sphere": geoopt.Sphere()}
    ours, theirs = problem(name), problem(name)
    for p in theirs.params:
        p.manifold = twin.get(name, p.manifold)
    a = ours.run(RiemannianAdam(ours.params, lr=0.01), 50)
    b = theirs.run(geoopt.optim.RiemannianAdam(theirs.params, lr=0.01), 50)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_geoopt_optimizers_run_on_our_manifolds(our_manifold, problem):
    a = problem(our_manifold, count=1)
    start = float(a.loss().detach())
    a.run(geoopt.optim.RiemannianAdam(a.params, lr=0.02), 30)
    assert float(a.loss().detach()) < start


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_first_momentum_step_has_the_length_of_the_gradient(momentum):
    p = _parameter(torch.tensor([1.0, 0.0]), Sphere())
    p.grad = torch.tensor([5.0, 0.1])
    RiemannianSGD([p], lr=1.0, momentum=momentum).step()
    expected = torch.nn.functional.normalize(torch.tensor([1.0, -0.1]), dim=0)
    torch.testing.assert_close(p.data, expected)


def test_maximize_ascends(our_manifold, problem):
    a = problem(our_manifold)
    start = float(a.loss().detach())
    a.run(RiemannianAdam(a.params, lr=0.005, maximize=True), 5)
    assert float(a.loss().detach()) > start


@pytest.mark.parametrize("mode", ["l2", "decoupled"])
@pytest.mark.parametrize(
    "name", ["spd_airm", "spd_log_euclidean", "positive", "poincare"]
)
def test_weight_decay_pulls_to_the_origin(name, mode, problem):
    a = problem(name)
    manifold = a.params[0].manifold
    origin = manifold.origin(*a.params[0].shape, dtype=torch.float64).detach()
    far = [float(manifold.dist(x, origin).sum()) for x in a.values()]
    gradients = [torch.zeros_like(p) for p in a.params]
    optimizer = RiemannianSGD(a.params, lr=0.1, weight_decay=1.0, decay_mode=mode)
    for p, g in zip(a.params, gradients, strict=True):
        p.grad = g
    optimizer.step()
    near = [float(manifold.dist(x, origin).sum()) for x in a.values()]
    tol = 1e-2 if mode == "l2" else 1e-6
    assert near == pytest.approx([0.9 * d for d in far], rel=tol)
    assert all(not g.any() for g in gradients)


def test_decoupled_decay_of_adam_is_adamw_on_the_manifold():
    p = _parameter(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), SPD())
    p.grad = torch.zeros(2, 2)
    RiemannianAdamW([p], lr=0.5, weight_decay=1.0).step()
    torch.testing.assert_close(p.data, torch.diag(torch.tensor([2.0, 1.0])))
    torch.testing.assert_close(sqrtm(p.data @ p.data), p.data)


def test_compact_manifolds_warn_about_decay():
    p = _parameter(torch.tensor([1.0, 0.0]), Sphere())
    with pytest.warns(UserWarning, match="does nothing on the compact manifold"):
        optimizer = RiemannianAdamW([p], lr=0.1, weight_decay=0.1)
    p.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(p.data, torch.tensor([1.0, 0.0]))


def _stays_within(bound, name, steps, problem, lr=0.02, dtype=torch.float32):
    a = problem(name, dtype=dtype)
    optimizer = RiemannianAdam(a.params, lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for p in a.params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
        optimizer.step()
    x, manifold = torch.stack(a.values()).double(), a.params[0].manifold
    return manifold.check_point_on_manifold(x, atol=bound, rtol=0.0)


COMPACT = ["stiefel", "stiefel_canonical", "stiefel_polar", "so", "sphere", "oblique"]


@pytest.mark.parametrize("name", [*COMPACT, "grassmann"])
@pytest.mark.parametrize("lr", [1e-3, 0.02])
def test_points_stay_feasible(name, lr, problem):
    assert _stays_within(2e-6, name, 200, problem, lr)
    assert _stays_within(1e-13, name, 100, problem, lr, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMPACT, "grassmann"])
@pytest.mark.parametrize("lr", [1e-3, 0.02])
def test_points_stay_feasible_for_10000_steps(name, lr, problem):
    assert _stays_within(5e-6, name, 10_000, problem, lr)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stiefel", "stiefel_canonical", "so", "sphere"])
def test_double_precision_stays_feasible_for_10000_steps(name, problem):
    assert _stays_within(1e-12, name, 10_000, problem, dtype=torch.float64)


@pytest.mark.parametrize("name", ["spd_airm", "spd_log_cholesky", "spd_log_euclidean"])
def test_spd_points_stay_positive_definite(name, problem):
    a = problem(name, dtype=torch.float32)
    optimizer = RiemannianAdam(a.params, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        for p in a.params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    assert all(float(torch.linalg.eigvalsh(x)[0]) > 0 for x in a.values())
    for x in a.values():
        torch.testing.assert_close(x, x.mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transport", ["auto", "project", "none"])
@pytest.mark.parametrize("retraction", [None, "exp"])
def test_options_of_the_geometry_reach_the_optimum(transport, retraction, problem):
    for name in ("stiefel", "so", "sphere", "spd_airm", "geoopt_stiefel"):
        a = problem(name, count=2)
        start = float(a.loss().detach())
        options = {"retraction": retraction, "transport": transport}
        a.run(RiemannianAdam(a.params, lr=0.05, **options), 60)
        share = 0.9 if transport == "none" else 0.5
        assert float(a.loss().detach()) < share * start


def test_retraction_is_overridden():
    x = torch.linalg.qr(_randn(5, 2))[0]
    g = _randn(5, 2, seed=1)
    points = {}
    for name in (None, "qr", "polar", "exp"):
        p = _parameter(x, Stiefel())
        p.grad = g.clone()
        RiemannianSGD([p], lr=0.5, retraction=name).step()
        points[name] = p.data
    torch.testing.assert_close(points[None], points["qr"])
    assert float((points["polar"] - points["qr"]).abs().max()) > 1e-3
    exact = Stiefel().expmap(x, -0.5 * Stiefel().egrad2rgrad(x, g))
    torch.testing.assert_close(points["exp"], exact)
