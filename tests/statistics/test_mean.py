"""Frechet means: laws, limits, and what bad input is told."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from spaces import FEW, ISOMETRIES, SPACES, TOL, cloud

from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.manifolds import SPD, Euclidean, GLPlus, SpecialOrthogonal, Sphere
from manifoldkit.optim import karcher_mean
from manifoldkit.statistics import FrechetMean, WrappedNormal


def test_scikit_learn_checks():
    check_estimator(FrechetMean(), on_skip=None)


def test_euclidean_data_have_the_mean_and_covariance_of_scikit_learn(rng):
    X = rng.standard_normal((30, 4)) * [1, 10, 0.1, 3] + 7
    mean, peer = FrechetMean().fit(X), EmpiricalCovariance().fit(X)
    np.testing.assert_allclose(mean.mean_, peer.location_, rtol=1e-13)
    np.testing.assert_allclose(mean.covariance_, peer.covariance_, rtol=1e-10)
    np.testing.assert_allclose(mean.transform(X), X - X.mean(0), atol=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_laws_on_every_manifold(name):
    manifold, _ = SPACES[name]
    n = FEW.get(name, 8)
    x = cloud(name, n)
    tol = TOL.get(name)
    mean = FrechetMean(manifold, tol).fit(x)
    c = mean.transform(x)
    assert c.shape == (n, len(mean.basis_))
    np.testing.assert_allclose(c.mean(0), 0, atol=tol or 1e-11)
    np.testing.assert_allclose(
        np.trace(mean.covariance_), mean.variance_, rtol=tol or 1e-9
    )
    back = torch.tensor(mean.inverse_transform(c))
    assert float(manifold.dist(x, back, keepdim=True).max()) < 2e-7
    np.testing.assert_allclose(mean.transform(back), c, atol=tol or 1e-10)
    twin = clone(mean).fit(x.numpy())
    np.testing.assert_array_equal(twin.mean_, mean.mean_)


@pytest.mark.parametrize("name", ISOMETRIES)
def test_isometries_carry_the_mean_and_keep_its_spread(name):
    manifold, _ = SPACES[name]
    x, move = cloud(name, FEW.get(name, 8)), ISOMETRIES[name]
    a, b = FrechetMean(manifold).fit(x), FrechetMean(manifold).fit(move(x))
    moved = move(torch.tensor(a.mean_))
    gap = manifold.dist(moved, torch.tensor(b.mean_), keepdim=True)
    assert float(gap.max()) < 1e-7
    spreads = [np.linalg.eigvalsh(mean.covariance_) for mean in (a, b)]
    np.testing.assert_allclose(*spreads, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_of_the_data_changes_nothing(scale, rng):
    X = rng.standard_normal((20, 3)) + 2
    a, b = FrechetMean().fit(X), FrechetMean().fit(scale * X)
    np.testing.assert_allclose(b.mean_, scale * a.mean_, rtol=1e-12)
    assert b.n_iter_ == a.n_iter_
    ra, rb = a.confidence_region(), b.confidence_region()
    assert rb.radius == ra.radius
    np.testing.assert_allclose(rb.mahalanobis(scale * X), ra.mahalanobis(X), rtol=1e-9)
    x = cloud("airm")
    sizes = [
        FrechetMean(SPD()).fit(s * x).confidence_region().covariance for s in (1, scale)
    ]
    np.testing.assert_allclose(*sizes, rtol=1e-8)


def test_features_of_unlike_units_have_a_region(rng):
    X = rng.standard_normal((30, 2))
    region = FrechetMean().fit(X).confidence_region()
    wide = FrechetMean().fit(X * [1e-9, 1e9]).confidence_region()
    q = rng.standard_normal((50, 2)) * 0.3
    np.testing.assert_array_equal(region.contains(q), wide.contains(q * [1e-9, 1e9]))


def test_the_region_of_flat_data_is_that_of_hotelling(rng):
    X = rng.standard_normal((25, 3)) @ rng.standard_normal((3, 3))
    region = FrechetMean().fit(X).confidence_region(0.9)
    difference = X.mean(0) - 0.1
    # the covariance of the mean, with n where Hotelling has n - 1
    t2 = difference @ np.linalg.solve(np.cov(X.T, bias=True) / 25, difference)
    bound = 3 * 24 / 22 * stats.f.ppf(0.9, 3, 22)
    np.testing.assert_allclose(region.radius**2, bound, rtol=1e-12)
    np.testing.assert_allclose(region.mahalanobis(np.full(3, 0.1)) ** 2, t2, rtol=1e-9)
    inside = region.contains(region.boundary(20))
    edge = region.mahalanobis(region.boundary(20))
    assert inside.dtype == bool
    np.testing.assert_allclose(edge, region.radius, rtol=1e-9)


def hessian_by_differences(manifold, mean, x, step=1e-4):
    base, basis = torch.tensor(mean.mean_), torch.tensor(mean.basis_)

    def cost(c):
        p = manifold.expmap(base, torch.tensordot(c, basis, 1))
        d = manifold.dist(p.expand_as(x), x, keepdim=True)
        return float(d.square().sum()) / (2 * len(x))

    d = len(basis)
    e = step * torch.eye(d, dtype=torch.float64)
    out = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            out[i, j] = (
                cost(e[i] + e[j])
                - cost(e[i] - e[j])
                - cost(e[j] - e[i])
                + cost(-e[i] - e[j])
            ) / (4 * step**2)
    return out


@pytest.mark.filterwarnings("ignore:X. points up to")
@pytest.mark.parametrize(
    "name", ["sphere of radius 2", "grassmann", "rotations", "airm"]
)
def test_the_covariance_of_the_mean_has_the_hessian(name):
    """V = H^-1 S H^-1 / n; S and H are found from V and by differences."""
    manifold, _ = SPACES[name]
    x = cloud(name, 20, spread=0.25)
    mean = FrechetMean(manifold).fit(x)
    v = mean.confidence_region().covariance
    h = hessian_by_differences(manifold, mean, x)
    np.testing.assert_allclose(h @ v @ h * len(x), mean.covariance_, atol=2e-6)


def test_a_repeated_point_counts_as_its_weight():
    x = cloud("sphere", 10)
    weights = np.array([2.0] + [1.0] * 9)
    weighted = FrechetMean(Sphere()).fit(x, sample_weight=weights)
    repeated = FrechetMean(Sphere()).fit(torch.cat([x[:1], x]))
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, atol=1e-12)
    np.testing.assert_allclose(weighted.covariance_, repeated.covariance_, atol=1e-12)


def test_bootstrap_and_asymptotic_regions_agree():
    x = cloud("sphere", 200, spread=0.3)
    mean = FrechetMean(Sphere()).fit(x)
    a = mean.confidence_region()
    b = mean.confidence_region(method="bootstrap", n_bootstrap=300, random_state=0)
    c = mean.confidence_region(method="bootstrap", n_bootstrap=300, random_state=0)
    assert b.radius == c.radius
    volume = [np.sqrt(np.linalg.det(r.covariance)) * r.radius**2 for r in (a, b)]
    assert 0.7 < volume[1] / volume[0] < 1.4


def coverage(spread, n, runs, seed, level=0.95):
    mean, g = (
        torch.tensor([0.0, 0.0, 1.0]).double(),
        torch.Generator().manual_seed(seed),
    )
    normal = WrappedNormal(Sphere(), mean, spread**2)
    hits = 0
    for _ in range(runs):
        region = FrechetMean(Sphere()).fit(normal.rsample(n, generator=g))
        hits += bool(region.confidence_region(level).contains(mean))
    return hits / runs


@pytest.mark.filterwarnings("ignore:X. points up to", "ignore:the Hessian")
def test_coverage_of_few_runs():
    # a binomial deviation of 25 runs at 0.7 is 0.09
    assert 0.45 < coverage(0.6, 25, 25, 0, 0.7) < 0.95


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("spread", "n", "least", "most"),
    [(0.2, 100, 0.93, 0.97), (0.6, 25, 0.93, 0.97), (0.9, 100, 0.90, 0.97)],
)
def test_coverage(spread, n, least, most):
    assert least < coverage(spread, n, 2000, 1) < most


@pytest.mark.slow
def test_means_of_drawn_points_lie_in_their_region_at_the_nominal_rate():
    g, hits, runs = torch.Generator().manual_seed(0), 0, 200
    mean = cloud("airm", 1)[0]
    normal = WrappedNormal(SPD(), mean, 0.2)
    for _ in range(runs):
        found = FrechetMean(SPD()).fit(normal.rsample(30, generator=g))
        hits += bool(found.confidence_region(0.7).contains(mean))
    assert abs(hits / runs - 0.7) < 0.1


def test_antipodal_and_equatorial_points_have_no_single_mean():
    x = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]).double()
    with pytest.warns(ConvergenceWarning, match="not unique"):
        FrechetMean(Sphere()).fit(x)
    t = torch.arange(5).double() * 2 * torch.pi / 5
    ring = torch.stack([t.cos(), t.sin(), torch.zeros(5).double()], -1)
    with pytest.warns(ConvergenceWarning, match="not unique"):
        FrechetMean(Sphere()).fit(ring)
    half = torch.diag(torch.tensor([1.0, -1.0, -1.0])).double()
    with pytest.warns(ConvergenceWarning, match="not unique"):
        FrechetMean(SpecialOrthogonal()).fit(torch.stack([torch.eye(3).double(), half]))


@pytest.mark.filterwarnings("error")
def test_a_far_point_alone_is_no_reason_to_warn():
    x = torch.cat([cloud("sphere", 20, 0.2), -cloud("sphere", 1, 0.2)])
    found = FrechetMean(Sphere()).fit(x)
    assert float(found.variance_) > 0.4
    with pytest.warns(UserWarning, match="fit in no ball"):
        found.confidence_region()


def test_smeary_data_are_told():
    # mass near the antipode of the mean flattens the cost
    x = cloud("sphere", 60, 0.3)
    far = cloud("sphere", 22, 0.05, base=-x.mean(0) / x.mean(0).norm())
    mean = FrechetMean(Sphere(), tol=1e-3).fit(torch.cat([x, far]))
    with (
        pytest.warns(ConvergenceWarning, match="smeary"),
        pytest.warns(UserWarning, match="no ball"),
    ):
        mean.confidence_region()


def test_equal_points_have_variance_zero_and_no_region():
    x = cloud("airm", 1).expand(9, 3, 3)
    mean = FrechetMean(SPD()).fit(x)
    assert mean.variance_ < 1e-20
    with pytest.raises(ValueError, match="singular"):
        mean.confidence_region()
    with pytest.raises(ValueError, match="more points than the 6 dimensions, found 6"):
        FrechetMean(SPD()).fit(cloud("airm", 6)).confidence_region()


def test_bad_input():
    x = cloud("sphere", 6).numpy()
    model = FrechetMean(Sphere()).fit(x)
    bad = x.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"X\[3\] is not finite"):
        FrechetMean(Sphere()).fit(bad)
    with pytest.raises(NotOnManifoldError, match=r"X: .* at \[2\]"):
        FrechetMean(Sphere()).fit(x * [[1], [1], [2], [1], [1], [1]])
    with pytest.raises(ValueError, match=r"X: expected points of shape|features"):
        model.transform(np.eye(4))
    with pytest.raises(ValueError, match=r"sample_weight\[1\] is -1"):
        FrechetMean(Sphere()).fit(x, sample_weight=[1, -1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"X: expected .*points of 2 dim"):
        FrechetMean(SPD()).fit(np.eye(3))
    with pytest.raises(NotImplementedError, match="polar"):
        FrechetMean(GLPlus()).fit(np.stack([np.eye(2)] * 3))
    with pytest.raises(TypeError, match="manifold: expected a geoopt Manifold"):
        FrechetMean("sphere").fit(x)
    with pytest.raises(ValueError, match="C: expected 2 columns"):
        model.inverse_transform(x)
    for options in ({"level": 1.0}, {"method": "exact"}, {"n_bootstrap": 1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            model.confidence_region(**options)
    region = model.confidence_region()
    with pytest.raises(ValueError, match="points: expected points of shape"):
        region.contains(np.eye(4))
    with pytest.raises(ValueError, match="axes: expected two of the 2"):
        region.boundary(axes=(0, 2))


def test_company_does_not_change_an_answer():
    x = cloud("grassmann", 6)
    model = FrechetMean(SPACES["grassmann"][0]).fit(x)
    np.testing.assert_allclose(
        model.transform(x)[:1], model.transform(x[:1]), atol=1e-14
    )


def test_it_agrees_with_the_karcher_mean_and_takes_scalars():
    X = np.array([1.0, 4.0])
    model = FrechetMean(SPACES["positive"][0]).fit(X)
    np.testing.assert_allclose(model.mean_, 2)
    assert model.transform(X).shape == (2, 1)
    x = cloud("airm")
    np.testing.assert_allclose(
        FrechetMean(SPD()).fit(x).mean_, karcher_mean(SPD(), x).mean, rtol=1e-12
    )
    assert FrechetMean(Euclidean(2)).fit(x).mean_.shape == (3, 3)


@pytest.mark.parametrize("name", ["airm", "rotations"])
def test_a_classifier_behind_it_is_the_tangent_space_pipeline(name):
    manifold, _ = SPACES[name]
    x = torch.cat([cloud(name, 15), cloud(name, 15, seed=4)])
    y = np.repeat(["a", "b"], 15)
    model = make_pipeline(FrechetMean(manifold), LogisticRegression()).fit(x.numpy(), y)
    assert model.score(x.numpy(), y) > 0.9
    names = model[0].get_feature_names_out()
    assert names[0] == "frechetmean0"
