"""Tangent principal components: equal to scikit-learn's, free of coordinates."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.utils.estimator_checks import check_estimator
from spaces import FEW, ISOMETRIES, SPACES, TOL, base_point, cloud

from manifoldkit.manifolds import SPD, Sphere, tangent_basis
from manifoldkit.statistics import FrechetMean, TangentPCA


def test_scikit_learn_checks():
    check_estimator(TangentPCA(), on_skip=None)


@pytest.mark.parametrize("n_components", [None, 2, 0.8])
@pytest.mark.parametrize("whiten", [False, True])
def test_euclidean_data_have_the_components_of_scikit_learn(rng, n_components, whiten):
    X = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 4)) + 5
    ours = TangentPCA(n_components=n_components, whiten=whiten).fit(X)
    peer = PCA(n_components, whiten=whiten, svd_solver="full").fit(X)
    for name in ("components_", "explained_variance_", "explained_variance_ratio_"):
        found, expected = getattr(ours, name), getattr(peer, name)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.transform(X), peer.transform(X), atol=1e-10)
    z = ours.transform(X)
    np.testing.assert_allclose(
        ours.inverse_transform(z), peer.inverse_transform(z), atol=1e-10
    )


@pytest.mark.parametrize("name", SPACES)
def test_all_components_reproduce_the_points_and_add_up_to_the_variance(name):
    manifold, shape = SPACES[name]
    n = FEW.get(name, 9)
    x = cloud(name, n)
    pca = TangentPCA(manifold, tol=TOL.get(name)).fit(x)
    assert pca.components_.shape[1:] == shape
    assert pca.reconstruction_error(x).max() < 2e-7
    variance = FrechetMean(manifold, tol=TOL.get(name)).fit(x).variance_
    total = pca.explained_variance_.sum()
    np.testing.assert_allclose(total, variance * n / (n - 1), rtol=TOL.get(name, 1e-10))
    b = torch.tensor(pca.components_)
    base = torch.tensor(pca.mean_).expand_as(b)
    unit = manifold.inner(base, b, keepdim=True).reshape(-1)
    np.testing.assert_allclose(unit, 1, atol=1e-9)


@pytest.mark.parametrize("name", ISOMETRIES)
def test_isometries_change_no_variance_and_no_score_but_its_sign(name):
    manifold, _ = SPACES[name]
    x = cloud(name, FEW.get(name, 9))
    a = TangentPCA(manifold, 1).fit(x)
    b = TangentPCA(manifold, 1).fit(ISOMETRIES[name](x))
    tol = {"airm": 1e-12, "sphere": 1e-12, "rotations": 1e-12}.get(name, 1e-9)
    np.testing.assert_allclose(
        b.explained_variance_, a.explained_variance_, rtol=tol, atol=tol
    )
    za, zb = a.transform(x), b.transform(ISOMETRIES[name](x))
    np.testing.assert_allclose(abs(zb), abs(za), atol=100 * tol)


def test_a_congruence_is_invisible_to_rounding():
    x = cloud("airm", 40, 0.5)
    a, b = (TangentPCA(SPD()).fit(y) for y in (x, ISOMETRIES["airm"](x)))
    variances = a.explained_variance_, b.explained_variance_
    np.testing.assert_allclose(*variances, rtol=1e-13, atol=1e-13)


def test_principal_geodesics_have_unit_speed_and_pass_the_mean():
    x = cloud("airm", 12)
    pca = TangentPCA(SPD(), 2).fit(x)
    line = torch.tensor(pca.principal_geodesic(1, [-0.5, 0.0, 0.5]))
    np.testing.assert_allclose(line[1], pca.mean_, rtol=1e-9)
    np.testing.assert_allclose(SPD().dist(line[0], line[2]), 1.0, rtol=1e-9)
    along = pca.transform(line)
    np.testing.assert_allclose(along[:, 1], [-0.5, 0, 0.5], atol=1e-9)


def test_a_base_point_of_choice():
    x, base = cloud("sphere", 10), base_point("sphere", 0)
    pca = TangentPCA(Sphere(), base=base).fit(x)
    np.testing.assert_array_equal(pca.mean_, base)
    assert np.abs(pca.tangent_mean_).max() > 1e-3
    assert pca.reconstruction_error(x).max() < 1e-7
    near = torch.tensor(pca.inverse_transform(np.zeros((1, 2))))
    u = Sphere().logmap(base, near[0])
    np.testing.assert_allclose(u, pca.tangent_mean_, atol=1e-12)


def test_fewer_components_have_a_geodesic_error(rng):
    x = cloud("airm", 20)
    error = [TangentPCA(SPD(), k).fit(x).reconstruction_error(x) for k in (1, 3, 6)]
    sizes = [e.mean() for e in error]
    assert sizes[0] > sizes[1] > 1e-3 > sizes[2]


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_changes_nothing(scale, rng):
    X = rng.standard_normal((20, 3))
    a, b = TangentPCA(whiten=True).fit(X), TangentPCA(whiten=True).fit(scale * X)
    ratios = [p.explained_variance_ratio_ for p in (a, b)]
    np.testing.assert_allclose(*ratios, rtol=1e-10)
    np.testing.assert_allclose(a.transform(X), b.transform(scale * X), atol=1e-9)


def test_coordinates_are_those_of_the_tangent_basis():
    pca = TangentPCA(Sphere()).fit(cloud("sphere", 6))
    basis = tangent_basis(Sphere(), torch.tensor(pca.mean_))
    np.testing.assert_array_equal(pca.basis_, basis)


def test_bad_input():
    x = cloud("sphere", 6)
    for k in (0, 3, 1.0, -0.5, "mle", True):
        with pytest.raises(ValueError, match=r"n_components: .*1\.\.2"):
            TangentPCA(Sphere(), k).fit(x)
    with pytest.raises(ValueError, match="whiten: the points are all equal"):
        TangentPCA(Sphere(), 1, whiten=True).fit(x[:1].expand(5, 3))
    with pytest.raises(ValueError, match="base: expected"):
        TangentPCA(Sphere(), base="median").fit(x)
    with pytest.raises(ValueError, match="base: not points of"):
        TangentPCA(Sphere(), base=2 * x[0]).fit(x)
    with pytest.raises(ValueError, match="base: expected a point of shape"):
        TangentPCA(Sphere(), base=x).fit(x)
    with pytest.raises(ValueError, match="1 sample"):
        TangentPCA(Sphere()).fit(x[:1])
    pca = TangentPCA(Sphere()).fit(x)
    with pytest.raises(ValueError, match="k: expected a component below 2"):
        pca.principal_geodesic(2, [0.0])
    with pytest.raises(ValueError, match="t: expected finite lengths"):
        pca.principal_geodesic(0, 1.0)
    with pytest.raises(ValueError, match="Z: expected 2 columns"):
        pca.inverse_transform(np.ones((1, 3)))
