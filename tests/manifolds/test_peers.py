"""Agreement with geoopt, pyriemann and SciPy where these are right."""

import geoopt
import numpy as np
import pytest
import torch
from pyriemann.geometry import distance as peer
from scipy.linalg import expm, logm, subspace_angles

from manifoldkit.manifolds import (
    SPD,
    GLPlus,
    Grassmann,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(
        torch.as_tensor(a), torch.as_tensor(b), rtol=tol, atol=tol
    )


def pair(manifold, shape, generator, scale=0.3):
    x = manifold.random(*shape, dtype=torch.float64, generator=generator).data
    u = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return x, scale * manifold.proju(x, u)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("riemann", "riemann"),
        ("log_euclidean", "logeuclid"),
        ("log_cholesky", "logchol"),
        ("wasserstein", "wasserstein"),
    ],
)
def test_spd_distances_are_pyriemanns(metric, name, make_spd):
    x, y = make_spd(6), make_spd(6)
    found = SPD(metric).dist(x, y)
    function = getattr(peer, f"distance_{name}")
    close(found, function(x.numpy(), y.numpy()))


@pytest.mark.parametrize(
    "method", ["egrad2rgrad", "retr", "expmap", "logmap", "transp", "inner", "dist"]
)
def test_airm_is_geoopts(method, make_spd, generator):
    ours, theirs = SPD("airm"), geoopt.SymmetricPositiveDefinite()
    x, y = make_spd(5), make_spd(5)
    u = ours.proju(x, torch.randn(5, 4, 4, dtype=x.dtype, generator=generator))
    arguments = {"logmap": (x, y), "dist": (x, y), "transp": (x, y, u)}
    arguments = arguments.get(method, (x, u))
    close(getattr(ours, method)(*arguments), getattr(theirs, method)(*arguments), 1e-8)


def test_gbw_is_bw_of_whitened_matrices(make_spd):
    """d(x, y; M) = d(M^-1/2 x M^-1/2, M^-1/2 y M^-1/2)."""
    x, y, m = make_spd(5), make_spd(5), make_spd()
    s, u = torch.linalg.eigh(m)
    w = (u * s.rsqrt()) @ u.mT
    manifold = SPD("gbw", M=m)
    close(manifold.dist(x, y), SPD("bw").dist(w @ x @ w, w @ y @ w))
    close(SPD("gbw").dist(x, y), SPD("bw").dist(x, y))
    # metric of a scaled identity: distances shrink by the root of the scale
    scaled = SPD("gbw", M=4 * torch.eye(4).double())
    close(scaled.dist(x, y), SPD("bw").dist(x, y) / 2)


def test_bw_logarithm_is_the_matrix_formula(make_spd):
    """log_x(y) = (xy)^1/2 + (yx)^1/2 - 2x."""
    from scipy.linalg import sqrtm

    x, y = make_spd(), make_spd()
    root = torch.as_tensor(np.real(sqrtm((x @ y).numpy())))
    close(SPD("bw").logmap(x, y), root + root.mT - 2 * x, 1e-8)


def test_distances_of_close_matrices_keep_their_digits(make_spd, generator):
    x = make_spd(5)
    for metric in ("airm", "log_euclidean", "log_cholesky", "bw"):
        manifold = SPD(metric)
        u = manifold.proju(x, torch.randn(5, 4, 4, dtype=x.dtype, generator=generator))
        u = 1e-9 * u
        close(
            manifold.dist(x, x + u) / manifold.norm(x, u), torch.ones(5).double(), 1e-5
        )


def test_euclidean_stiefel_is_geoopts(generator):
    ours, theirs = Stiefel("euclidean", "qr"), geoopt.EuclideanStiefel()
    x, u = pair(ours, (4, 6, 3), generator)
    for method in ("egrad2rgrad", "retr", "expmap", "inner", "proju"):
        close(getattr(ours, method)(x, u), getattr(theirs, method)(x, u))
    close(Stiefel("euclidean", "cholqr").retr(x, u), theirs.retr(x, u))


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 16, 3)])
def test_canonical_stiefel_is_geoopts_at_its_own_argument(shape, generator):
    """geoopt steps by W = ux' - xu', ours by that of Pu = u - xx'u/2."""
    ours, theirs = Stiefel("canonical"), geoopt.CanonicalStiefel()
    x, u = pair(ours, shape, generator)
    pu = u - x @ (x.mT @ u) / 2
    close(ours.retr(x, u), theirs.retr(x, pu))
    y, v = ours.retr_transp(x, u, u)
    close(v, theirs.transp_follow_retr(x, pu, u))
    close(ours.egrad2rgrad(x, u), theirs.egrad2rgrad(x, u))
    close(ours.inner(x, u), theirs.inner(x, u))
    assert theirs.check_point_on_manifold(y)


@pytest.mark.parametrize("shape", [(12, 2), (5, 3), (4, 4)])
def test_canonical_geodesic_is_the_block_formula(shape, generator):
    """y = [x q] expm([[A, -R'], [R, 0]]) [I; 0] with qR = (I - xx')u."""
    manifold = Stiefel("canonical")
    x, u = pair(manifold, shape, generator)
    p = shape[1]
    a, (q, r) = x.mT @ u, torch.linalg.qr(u - x @ (x.mT @ u))
    zero = torch.zeros(p, p).double()
    block = torch.cat([torch.cat([a, -r.mT], 1), torch.cat([r, zero], 1)])
    if shape[0] == shape[1]:
        expected = x @ torch.linalg.matrix_exp(a)
    else:
        expected = torch.cat([x, q], 1) @ torch.linalg.matrix_exp(block)[:, :p]
    if 2 * p <= shape[0] or shape[0] == shape[1]:
        close(manifold.expmap(x, u), expected)
    rotation = expm((u @ x.mT - x @ u.mT + x @ (u.mT @ x) @ x.mT).numpy())
    close(manifold.expmap(x, u), torch.as_tensor(rotation) @ x)


def test_sphere_is_geoopts(generator):
    ours, theirs = Sphere(), geoopt.Sphere()
    x, u = pair(ours, (5, 7), generator)
    y = ours.random(5, 7, dtype=torch.float64, generator=generator).data
    for method in ("egrad2rgrad", "retr", "expmap", "inner"):
        close(getattr(ours, method)(x, u), getattr(theirs, method)(x, u))
    close(ours.dist(x, y), theirs.dist(x, y))
    close(ours.logmap(x, y), theirs.logmap(x, y))


def test_sphere_at_the_ends(generator):
    """Close points keep their digits; antipodal ones are pi apart."""
    x, u = pair(Sphere(), (5, 4), generator, scale=1e-9)
    ones = torch.ones(5).double()
    close(Sphere().dist(x, Sphere().expmap(x, u)) / u.norm(dim=-1), ones, 1e-6)
    close(Sphere().dist(x, -x), torch.pi * ones)
    assert torch.isfinite(Sphere().logmap(x, -x)).all()
    y = Sphere().parallel_transport(x, Sphere().expmap(x, 1e9 * u), u)
    close(y.norm(dim=-1), u.norm(dim=-1))


def test_grassmann_distance_is_the_principal_angles(generator):
    manifold = Grassmann()
    x, u = pair(manifold, (6, 3), generator, scale=0.4)
    y = manifold.expmap(x, u)
    angles = subspace_angles(x.numpy(), y.numpy())
    close(manifold.dist(x, y), np.linalg.norm(angles))
    # any basis of the subspace will do
    rotation = SpecialOrthogonal().random(3, 3, dtype=x.dtype, generator=generator).data
    close(manifold.dist(x, y @ rotation), manifold.dist(x, y))
    close(manifold.logmap(x, y @ rotation), u)


def test_grassmann_geodesic_is_the_svd_formula(generator):
    manifold = Grassmann()
    x, u = pair(manifold, (6, 3), generator)
    left, s, vt = torch.linalg.svd(u, full_matrices=False)
    expected = x @ vt.mT @ s.cos().diag() @ vt + left @ s.sin().diag() @ vt
    close(manifold.expmap(x, u), expected)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_rotation_logarithm_is_scipys(n, generator):
    manifold = SpecialOrthogonal()
    x, y = manifold.random(2, n, n, dtype=torch.float64, generator=generator).data
    expected = torch.as_tensor(np.real(logm((x.mT @ y).numpy())))
    close(x.mT @ manifold.logmap(x, y), expected, 1e-8)
    angle = SpecialOrthogonal(scale="angle")
    close(angle.dist(x, y) * 2**0.5, manifold.dist(x, y))


def test_polar_gl_is_the_product_of_its_factors(generator, make_spd):
    p, q = make_spd(n=3), make_spd(n=3)
    so = SpecialOrthogonal()
    r, s = so.random(2, 3, 3, dtype=p.dtype, generator=generator).data
    found = GLPlus("polar").dist(p @ r, q @ s) ** 2
    close(found, SPD().dist(p, q) ** 2 + so.dist(r, s) ** 2)


def test_determinants_stay_positive(generator):
    for manifold in (GLPlus(), GLPlus("polar"), SpecialLinear()):
        x, u = pair(manifold, (50, 3, 3), generator)
        u = 3 * u / manifold.norm(x, u)[:, None, None]
        determinant = torch.linalg.det(manifold.retr(x, u))
        assert (determinant > 0).all()
        if isinstance(manifold, SpecialLinear):
            close(determinant, torch.ones(50).double(), 1e-8)


def test_so_never_reaches_reflections(generator):
    for retraction in ("cayley", "qr", "exp"):
        manifold = SpecialOrthogonal(retraction)
        x, u = pair(manifold, (50, 4, 4), generator, scale=3.0)
        close(torch.linalg.det(manifold.retr(x, u)), torch.ones(50).double(), 1e-8)
        reflected = x.clone()
        reflected[..., 0] *= -1
        close(torch.linalg.det(manifold.projx(reflected)), torch.ones(50).double())


@pytest.mark.parametrize("metric", ["euclidean", "canonical"])
def test_stiefel_logarithm_over_its_range(metric, generator):
    manifold = Stiefel(metric)
    x, u = pair(manifold, (20, 5, 3), generator)
    u = 1.5 * u / manifold.norm(x, u, keepdim=True)
    y = manifold.expmap(x, u)
    close(manifold.logmap(x, y), u, 1e-7)
    close(manifold.dist(x, y), torch.full((20,), 1.5).double(), 1e-7)
