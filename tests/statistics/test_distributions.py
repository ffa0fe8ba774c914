"""Wrapped normal distributions: densities have total mass one, samples follow them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from spaces import SPACES, base_point, cloud

from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    GLPlus,
    Grassmann,
    SpecialOrthogonal,
    Sphere,
    tangent_basis,
)
from manifoldkit.manifolds.tangent import coordinates
from manifoldkit.statistics import FrechetMean, WrappedNormal

NORTH = torch.tensor([0.0, 0.0, 1.0]).double()
WIDE = torch.tensor([[2.0, 0.6], [0.6, 1.0]]).double()


def test_flat_densities_are_those_of_scipy(rng):
    a = rng.standard_normal((3, 3))
    c, m, y = a @ a.T + np.eye(3), rng.standard_normal(3), rng.standard_normal((7, 3))
    tensors = [torch.tensor(t) for t in (m, c, y)]
    found = WrappedNormal(Euclidean(1), *tensors[:2]).log_prob(tensors[2])
    np.testing.assert_allclose(
        found, stats.multivariate_normal(m, c).logpdf(y), rtol=1e-12
    )


def test_the_circle_has_the_wrapped_normal():
    t = torch.linspace(-3.1, 3.1, 9).double()
    y = torch.stack([t.cos(), t.sin()], -1)
    normal = WrappedNormal(Sphere(), torch.tensor([1.0, 0.0]).double(), 4.0)
    turns = t[:, None] + 2 * math.pi * torch.arange(-30, 31)
    expected = torch.tensor(stats.norm(0, 2).logpdf(turns)).logsumexp(-1)
    torch.testing.assert_close(normal.log_prob(y, n_folds=30), expected)
    r = torch.stack([torch.stack([y[:, 0], -y[:, 1]], -1), y.flip(-1)], -2)
    turning = SpecialOrthogonal(scale="angle")
    normal = WrappedNormal(turning, torch.eye(2).double(), 4.0)
    torch.testing.assert_close(normal.log_prob(r, n_folds=30), expected)


def sphere_mass(normal, n_folds, n=240):
    """Integral over the sphere of its radius, Gauss-Legendre in the height."""
    z, weights = np.polynomial.legendre.leggauss(n)
    t = 2 * math.pi * (np.arange(n) + 0.5) / n
    s = np.sqrt(1 - z**2)
    y = np.stack([np.outer(s, np.cos(t)), np.outer(s, np.sin(t))], -1)
    y = np.concatenate([y, np.broadcast_to(z[:, None, None], (n, n, 1))], -1)
    r = normal.manifold.radius
    density = normal.log_prob(r * torch.tensor(y), n_folds=n_folds).exp()
    return float((density.mean(-1) * torch.tensor(weights)).sum()) * 2 * math.pi * r**2


@pytest.mark.filterwarnings("ignore:WrappedNormal")
@pytest.mark.parametrize(
    ("covariance", "single"), [(1.0, 0.9928), (2.25, 0.8884), (WIDE, None)]
)
def test_folds_bring_the_mass_of_the_sphere_to_one(covariance, single):
    # the poles, where the folded density is infinite, lie between the nodes
    normal = WrappedNormal(Sphere(), NORTH, covariance)
    alone = sphere_mass(normal, 0)
    assert alone < 1
    if single:
        assert abs(alone - single) < 2e-3
    # the integrable pole costs the rule about 1 / n of what is near it
    assert abs(sphere_mass(normal, 4) - 1) < 2e-3
    larger = WrappedNormal(Sphere(2.0), 2 * NORTH, 4.0 * normal.covariance)
    assert abs(sphere_mass(larger, 4) - 1) < 2e-3


@pytest.mark.filterwarnings("ignore:WrappedNormal")
@pytest.mark.parametrize("scale", ["angle", "frobenius"])
@pytest.mark.parametrize(("spread", "single"), [(1.0, 0.980), (1.5, 0.777)])
def test_folds_bring_the_mass_of_rotations_to_one(scale, spread, single):
    """Over the angle r: isotropic, so that rotations about one axis will do."""
    manifold = SpecialOrthogonal(scale=scale)
    unit = 1.0 if scale == "angle" else math.sqrt(2)
    normal = WrappedNormal(manifold, torch.eye(3).double(), (unit * spread) ** 2)
    r, weights = np.polynomial.legendre.leggauss(60)
    r, weights = (
        (torch.tensor(r) + 1) * math.pi / 2,
        torch.tensor(weights) * math.pi / 2,
    )
    zero, one = torch.zeros_like(r), torch.ones_like(r)
    y = torch.stack(
        [r.cos(), -r.sin(), zero, r.sin(), r.cos(), zero, zero, zero, one], -1
    ).unflatten(-1, (3, 3))
    # volume of the shell of angle r, in units of the metric
    shell = 4 * math.pi * (2 * torch.sin(r / 2)) ** 2 * unit**3
    mass = [
        float((normal.log_prob(y, n_folds=k).exp() * shell * weights).sum())
        for k in (0, 4)
    ]
    assert abs(mass[0] - single) < 1.5e-3
    assert abs(mass[1] - 1) < 1e-9


@pytest.mark.filterwarnings("ignore:WrappedNormal")
@pytest.mark.parametrize("name", ["airm", "grassmann", "bw", "rotations", "lorentz"])
def test_densities_against_the_determinant_of_autograd(name):
    """Change of variables from coordinates to coordinates of the end point."""
    manifold, _ = SPACES[name]
    x, y = base_point(name), cloud(name, 2, 0.2)[0]
    basis, end = tangent_basis(manifold, x), tangent_basis(manifold, y)
    d = len(basis)
    u = manifold.logmap(x, y)
    c = coordinates(manifold, x, basis, u)

    def point(c):
        return manifold.expmap(x, torch.tensordot(c, basis, 1))

    eye = torch.eye(d, dtype=torch.float64)
    columns = [torch.func.jvp(point, (c,), (e,))[1] for e in eye]
    tangent = torch.stack([manifold.proju(y, v) for v in columns])
    if name == "grassmann":  # the bases of the subspace differ by a rotation
        tangent = tangent @ (point(c).mT @ y)
    jacobian = coordinates(manifold, y, end, tangent)
    expected = stats.multivariate_normal(np.zeros(d), 0.3 * np.eye(d)).logpdf(c.numpy())
    expected = expected - float(torch.linalg.slogdet(jacobian)[1])
    found = WrappedNormal(manifold, x, 0.3).log_prob(y)
    tol = 1e-6 if name == "lorentz" else 1e-11
    np.testing.assert_allclose(float(found), expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("name", ["sphere", "airm", "product"])
def test_samples_have_the_covariance_and_fit_finds_it(name):
    manifold, shape = SPACES[name]
    m = base_point(name)
    d = len(tangent_basis(manifold, m))
    c = torch.diag(torch.linspace(0.02, 0.06, d).double())
    normal = WrappedNormal(manifold, m, c)
    g = torch.Generator().manual_seed(0)
    y = normal.rsample(3000, generator=g)
    assert y.shape == (3000, *shape)
    logs = coordinates(manifold, m, normal.basis, manifold.logmap(m.expand_as(y), y))
    torch.testing.assert_close(logs.mT @ logs / 3000, c, atol=5e-3, rtol=0)
    found = WrappedNormal.fit(manifold, y)
    assert float(manifold.dist(found.mean, m)) < 0.03
    total = [float(q.covariance.trace()) for q in (found, normal)]
    assert abs(total[0] / total[1] - 1) < 0.05
    np.testing.assert_allclose(
        found.covariance, FrechetMean(manifold).fit(y).covariance_, atol=1e-12
    )


def test_gradients_of_samples_and_densities():
    m = cloud("airm", 1)[0].requires_grad_()
    c = torch.eye(6).double().mul(0.1).requires_grad_()
    y = WrappedNormal(SPD(), m, c).rsample(
        4, generator=torch.Generator().manual_seed(0)
    )
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(y.sum(), (m, c)))
    y = cloud("airm", 3)

    def density(c):
        return WrappedNormal(SPD(), m.detach(), (c + c.mT) / 2).log_prob(y)

    assert torch.autograd.gradcheck(density, c)


@pytest.mark.filterwarnings("ignore:WrappedNormal")
def test_the_cut_locus_is_no_nan():
    normal = WrappedNormal(Sphere(), NORTH, 1.0)
    for y in (NORTH, -NORTH):
        for folds in (0, 2):
            assert not normal.log_prob(y, n_folds=folds).isnan().any()
    half = torch.diag(torch.tensor([1.0, -1.0, -1.0])).double()
    turning = WrappedNormal(SpecialOrthogonal(), torch.eye(3).double(), 1.0)
    assert turning.log_prob(torch.stack([half, torch.eye(3).double()]), 3).isfinite()[0]


def test_lost_mass_is_told():
    with pytest.warns(UserWarning, match="11.* of the mass .*pass n_folds"):
        WrappedNormal(Sphere(), NORTH, 2.25).log_prob(NORTH)
    x = Grassmann().origin(4, 2)
    with pytest.warns(UserWarning, match="beyond the injectivity radius 1.57"):
        WrappedNormal(Grassmann(), x, 1.0).log_prob(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_and_batches(dtype):
    normal = WrappedNormal(Sphere(), NORTH.to(dtype), torch.tensor([0.1, 0.2]))
    y = normal.rsample((2, 3), generator=torch.Generator().manual_seed(0))
    assert y.dtype == dtype
    value = normal.log_prob(y)
    assert value.shape == (2, 3)
    torch.testing.assert_close(value[1, 2], normal.log_prob(y[1, 2]))
    assert normal.rsample(0).shape == (0, 3)


def test_bad_input():
    with pytest.raises(ValueError, match=r"covariance: expected shape .*\(2, 2\)"):
        WrappedNormal(Sphere(), NORTH, torch.eye(3))
    with pytest.raises(ValueError, match="covariance is not positive definite"):
        WrappedNormal(Sphere(), NORTH, torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="covariance: expected positive variances"):
        WrappedNormal(Sphere(), NORTH, -1.0)
    with pytest.raises(TypeError, match="covariance: expected a number"):
        WrappedNormal(Sphere(), NORTH, "wide")
    with pytest.raises(ValueError, match="mean: not points"):
        WrappedNormal(Sphere(), 2 * NORTH, 1.0)
    with pytest.raises(ValueError, match="mean: expected one point"):
        WrappedNormal(Sphere(), NORTH[None], 1.0)
    normal = WrappedNormal(SPD(), torch.eye(2).double(), 1.0)
    with pytest.raises(ValueError, match="n_folds: known on spheres"):
        normal.log_prob(torch.eye(2).double(), n_folds=1)
    with pytest.raises(ValueError, match="y: expected points of shape"):
        normal.log_prob(torch.eye(3).double())
    with pytest.raises(NotImplementedError, match="polar"):
        WrappedNormal(GLPlus(), torch.eye(2), 1.0).log_prob(torch.eye(2))
    assert WrappedNormal(GLPlus(), torch.eye(2), 0.1).rsample(3).shape == (3, 2, 2)
    with pytest.raises(ValueError, match="n: expected"):
        normal.rsample(-1)
