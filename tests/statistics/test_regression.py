"""Geodesic regression: exact without noise, least squares where that is defined."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression
from sklearn.utils.estimator_checks import check_estimator
from spaces import SPACES, base_point, cloud

from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.manifolds import SPD, PositiveReals, Sphere, tangent_basis
from manifoldkit.statistics import GeodesicRegression


def test_scikit_learn_checks():
    check_estimator(GeodesicRegression(), on_skip=None)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_euclidean_data_have_the_fit_of_scikit_learn(rng, fit_intercept, weighted):
    X, y = rng.standard_normal((30, 3)) + 2, rng.standard_normal((30, 2))
    w = rng.random(30) if weighted else None
    ours = GeodesicRegression(fit_intercept=fit_intercept).fit(X, y, w)
    peer = LinearRegression(fit_intercept=fit_intercept).fit(X, y, w)
    np.testing.assert_allclose(ours.coef_.T, peer.coef_, atol=1e-10)
    np.testing.assert_allclose(ours.predict(X), peer.predict(X), atol=1e-10)
    single = GeodesicRegression(fit_intercept=fit_intercept).fit(X, y[:, 0], w)
    plain = LinearRegression(fit_intercept=fit_intercept).fit(X, y[:, 0], w)
    assert single.predict(X).shape == (30,)
    scores = single.score(X, y[:, 0], w), plain.score(X, y[:, 0], w)
    np.testing.assert_allclose(*scores, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_of_either_side_changes_nothing(rng, scale):
    X, y = rng.standard_normal((20, 2)), rng.standard_normal((20, 2))
    expected = LinearRegression().fit(X, y).predict(X)
    found = GeodesicRegression().fit(X, scale * y).predict(X)
    np.testing.assert_allclose(found / scale, expected, atol=1e-10)
    mixed = X * [scale, 1 / scale]
    found = GeodesicRegression().fit(mixed, y).predict(mixed)
    np.testing.assert_allclose(found, expected, atol=1e-10)


EXACT = ["sphere", "airm", "rotations", "grassmann", "stiefel"]


def line(name, n=12, q=2, noise=0.0, seed=0):
    """Covariates, and the points of a geodesic model of them."""
    manifold, _ = SPACES[name]
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, q, dtype=torch.float64, generator=g)
    x = x - x.mean(0)
    p = base_point(name, seed)
    basis = tangent_basis(manifold, p)
    slope = 0.2 * torch.randn(q, len(basis), dtype=torch.float64, generator=g)
    u = torch.tensordot(x @ slope, basis, 1)
    y = manifold.expmap(p.expand_as(u), u)
    if noise:
        base = tangent_basis(manifold, y)
        c = noise * torch.randn(n, len(basis), dtype=torch.float64, generator=g)
        extra = torch.einsum("na,na...->n...", c, base)
        y = manifold.expmap(y, extra)
    return x, y.detach().as_subclass(torch.Tensor), p


@pytest.mark.parametrize("name", EXACT)
def test_data_without_noise_are_fitted_exactly(name):
    manifold, _ = SPACES[name]
    x, y, p = line(name)
    model = GeodesicRegression(manifold).fit(x, y)
    assert np.sqrt(2 * model.loss_) < 1e-12
    distance = manifold.dist(torch.tensor(model.intercept_), p)
    assert float(distance) < 1e-12 if name != "grassmann" else 1e-7
    assert model.score(x, y) > 1 - 1e-12


def test_a_flat_metric_is_least_squares_in_its_chart():
    manifold = SPD("log_euclidean")
    x, y, _ = line("log_euclidean", 15, noise=0.2)
    model = GeodesicRegression(manifold).fit(x, y)
    chart = manifold.chart(y).reshape(15, -1).numpy()
    expected = LinearRegression().fit(x, chart).predict(x)
    found = manifold.chart(torch.tensor(model.predict(x))).reshape(15, -1)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    X = np.exp(np.linspace(0, 1, 8))
    numbers = GeodesicRegression(PositiveReals()).fit(np.log(X)[:, None], X**2)
    np.testing.assert_allclose(numbers.predict([[1.5]]), np.exp(3.0), rtol=1e-12)


@pytest.mark.parametrize("name", ["sphere", "rotations", "airm", "product"])
def test_noisy_data_are_fitted_at_a_minimum(name):
    """No point and no vectors nearby are better, by differences."""
    manifold, _ = SPACES[name]
    x, y, _ = line(name, 14, q=1, noise=0.3)
    model = GeodesicRegression(manifold).fit(x, y)
    p, v = torch.tensor(model.intercept_), torch.tensor(model.coef_)
    basis = tangent_basis(manifold, p)

    def loss(z, e):
        q = manifold.expmap(p, torch.tensordot(z, basis, 1))
        w = manifold.proju(q, v[0] + torch.tensordot(e, basis, 1))
        u = x[:, 0].reshape(-1, *[1] * q.ndim) * w
        end = manifold.expmap(q.expand_as(u), u)
        return float(manifold.dist(end, y, keepdim=True).square().mean()) / 2

    g, d = torch.Generator().manual_seed(1), len(basis)
    zero = torch.zeros(d, dtype=torch.float64)
    assert abs(loss(zero, zero) - model.loss_) < 1e-12
    for _ in range(20):
        z, e = 1e-4 * torch.randn(2, d, dtype=torch.float64, generator=g)
        slope = (loss(z, e) - loss(-z, -e)) / 2e-4
        assert abs(slope) < 1e-6
        assert loss(z, e) > model.loss_


def test_one_covariate_on_the_sphere_against_a_direct_search():
    x, y, _ = line("sphere", 20, q=1, noise=0.4, seed=2)
    model = GeodesicRegression(Sphere()).fit(x, y)

    def loss(theta):
        p = theta[:3] / np.linalg.norm(theta[:3])
        v = theta[3:] - p * (p @ theta[3:])
        t = x.numpy() * np.linalg.norm(v)
        end = p * np.cos(t) + v / np.linalg.norm(v) * np.sin(t)
        return np.mean(np.arccos(np.clip((end * y.numpy()).sum(1), -1, 1)) ** 2) / 2

    start = np.concatenate([model.intercept_, model.coef_[0]])
    g = np.random.default_rng(0)
    best = min(
        minimize(loss, start + 0.1 * g.standard_normal(6), tol=1e-12).fun
        for _ in range(3)
    )
    assert model.loss_ <= best + 1e-10


def test_weights_count_as_repetition():
    x, y, _ = line("sphere", 10, noise=0.2)
    w = np.array([3.0] + [1.0] * 9)
    a = GeodesicRegression(Sphere()).fit(x, y, w)
    xx, yy = torch.cat([x[:1], x[:1], x]), torch.cat([y[:1], y[:1], y])
    b = GeodesicRegression(Sphere()).fit(xx, yy)
    np.testing.assert_allclose(a.predict(x), b.predict(x), atol=1e-8)


def test_the_covariance_of_coefficients_is_that_of_least_squares(rng):
    X, y = rng.standard_normal((40, 2)), rng.standard_normal(40)
    model = GeodesicRegression().fit(X, y)
    x0 = X - X.mean(0)
    variance = ((y - model.predict(X)) ** 2).sum() / (40 - 3)
    expected = variance * np.linalg.inv(x0.T @ x0)
    np.testing.assert_allclose(model.coef_covariance_, expected, rtol=1e-9)


def test_the_covariance_of_coefficients_covers_them():
    manifold, runs, square = Sphere(), 12, 0.0
    for seed in range(runs):
        x, y, p = line("sphere", 30, q=1, noise=0.1, seed=seed)
        truth, _, _ = line("sphere", 30, q=1, seed=seed)
        model = GeodesicRegression(manifold).fit(x, y)
        exact = GeodesicRegression(manifold).fit(
            truth, line("sphere", 30, 1, 0, seed)[1]
        )
        v = torch.tensor(exact.coef_[0])
        q = torch.tensor(model.intercept_)
        gap = torch.tensor(model.coef_[0]) - manifold.parallel_transport(p, q, v)
        c = (tangent_basis(manifold, q) @ gap).numpy()
        square += c @ np.linalg.solve(model.coef_covariance_, c) / runs
    assert 0.7 < square < 4.5  # chi-square with 2 degrees has mean 2


def test_what_cannot_be_told_apart_is_shared_and_said(rng):
    x, y, _ = line("sphere", 10, noise=0.1)
    constant = np.c_[x[:, 0], np.full(10, 3.0)]
    with pytest.warns(UserWarning, match="covariate 1 is constant"):
        model = GeodesicRegression(Sphere()).fit(constant, y)
    assert not model.coef_[1].any()
    twice = GeodesicRegression(Sphere()).fit(np.c_[x[:, 0], x[:, 0]], y)
    np.testing.assert_allclose(twice.coef_[0], twice.coef_[1], atol=1e-10)
    np.testing.assert_allclose(twice.coef_[0], model.coef_[0] / 2, atol=1e-7)


def test_equal_points_have_no_slope():
    x = np.linspace(0, 1, 6)[:, None]
    model = GeodesicRegression(SPD()).fit(x, cloud("airm", 1).expand(6, 3, 3))
    assert np.abs(model.coef_).max() < 1e-12


def test_bad_input():
    x, y, _ = line("sphere", 10, noise=0.3)
    bad = y.clone()
    bad[4] = torch.nan
    with pytest.raises(ValueError, match=r"y\[4\] is not finite"):
        GeodesicRegression(Sphere()).fit(x, bad)
    with pytest.raises(NotOnManifoldError, match="y: not points of"):
        GeodesicRegression(Sphere()).fit(x, 2 * y)
    with pytest.raises(ValueError, match="inconsistent"):
        GeodesicRegression(Sphere()).fit(x[:5], y)
    with pytest.raises(ValueError, match="y: "):
        GeodesicRegression(Sphere()).fit(x, None)
    with pytest.raises(ValueError, match="max_iter"):
        GeodesicRegression(Sphere(), max_iter=0).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="gradient"):
        GeodesicRegression(Sphere(), max_iter=1).fit(x, y)
    few = GeodesicRegression(Sphere()).fit(x[:3], y[:3])
    with pytest.raises(ValueError, match="more samples than the 3 coefficients"):
        _ = few.coef_covariance_
