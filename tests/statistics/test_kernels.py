"""Kernels of geodesic distance, and where they are positive definite."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import laplacian_kernel, rbf_kernel
from sklearn.svm import SVC
from spaces import SPACES, cloud

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.manifolds import SPD, Euclidean, Sphere, pairwise_distance
from manifoldkit.statistics import geodesic_kernel


def test_flat_kernels_are_those_of_scikit_learn(rng):
    X, Y = rng.standard_normal((9, 3)), rng.standard_normal((4, 3))
    space = Euclidean(1)
    found = geodesic_kernel(space, X, Y, "gauss", 0.3)
    np.testing.assert_allclose(found, rbf_kernel(X, Y, gamma=0.3), rtol=1e-12)
    one = geodesic_kernel(space, X[:, :1], Y[:, :1], gamma=0.3)
    expected = laplacian_kernel(X[:, :1], Y[:, :1], gamma=0.3)
    np.testing.assert_allclose(one, expected, rtol=1e-12)
    d = pairwise_distance(space, torch.tensor(X))
    median = np.median(d.numpy()[np.triu_indices(9, 1)])
    np.testing.assert_allclose(
        geodesic_kernel(space, X, kind="gauss"),
        geodesic_kernel(space, X, kind="gauss", gamma=1 / median**2),
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["euclidean", "log_euclidean", "log_cholesky"])
@pytest.mark.parametrize("gamma", [0.01, 0.1, 1.0])
def test_gauss_is_positive_definite_and_silent_on_flat_metrics(name, gamma):
    k = geodesic_kernel(
        SPACES[name][0], cloud(name, 60, 1.0), kind="gauss", gamma=gamma
    )
    assert float(torch.linalg.eigvalsh(k)[0]) > -1e-12


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["sphere", "airm"])
def test_laplace_is_positive_definite_where_it_should_be(name):
    for gamma in (0.1, 1.0):
        geodesic_kernel(SPACES[name][0], cloud(name, 60, 1.0), gamma=gamma)


def test_gauss_on_the_sphere_is_told():
    x = Sphere().random(80, 3, generator=torch.Generator().manual_seed(0)).double()
    options = {"kind": "gauss", "gamma": 0.1 / (torch.pi / 2) ** 2}
    with pytest.warns(ConvergenceWarning, match="smallest eigenvalue -"):
        k = geodesic_kernel(Sphere(), x, **options)
    least = float(torch.linalg.eigvalsh(k)[0])
    assert least < -0.05
    with pytest.raises(ValueError, match="psd: the gauss kernel"):
        geodesic_kernel(Sphere(), x, **options, psd="error")
    clipped = geodesic_kernel(Sphere(), x, **options, psd="clip")
    assert float(torch.linalg.eigvalsh(clipped)[0]) > -1e-12
    # the nearest semidefinite matrix is off by the negative part alone
    s = torch.linalg.eigvalsh(k)
    gap = torch.linalg.matrix_norm(clipped - k)
    torch.testing.assert_close(gap, s.clamp_max(0).norm())
    same = geodesic_kernel(Sphere(), x, **options, psd="ignore")
    assert torch.equal(same, k)
    with pytest.warns(ConvergenceWarning, match="flat metrics only"):
        geodesic_kernel(Sphere(), x, x[:3], **options)


def test_it_serves_a_support_vector_machine():
    a, b = cloud("airm", 15), cloud("airm", 15, seed=4)
    x, y = torch.cat([a, b]).numpy(), np.repeat([0, 1], 15)
    k = geodesic_kernel(SPD(), x, gamma=0.5)
    model = SVC(kernel="precomputed").fit(k, y)
    assert model.score(geodesic_kernel(SPD(), x, x, gamma=0.5), y) > 0.9


def test_gradients_pass(generator):
    x = cloud("airm", 4).requires_grad_()
    geodesic_kernel(SPD(), x, gamma=1.0).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_bad_input():
    x = cloud("sphere", 5)
    with pytest.raises(ValueError, match='gamma: "median" needs different points'):
        geodesic_kernel(Sphere(), x[:1].expand(4, 3))
    for name, value in {"kind": "rbf", "gamma": -1.0, "psd": "maybe"}.items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            geodesic_kernel(Sphere(), x, **{name: value})
    with pytest.raises(ValueError, match="psd: 'clip' needs a square matrix"):
        geodesic_kernel(Sphere(), x, x, psd="clip")
    with pytest.raises(TypeError, match="x: expected real points"):
        geodesic_kernel(Sphere(), "points")
