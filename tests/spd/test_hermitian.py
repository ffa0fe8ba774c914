"""Complex Hermitian matrices, against the same formulas with complex numbers."""

import numpy as np
import pytest
import torch
from pyriemann.geometry.distance import distance_wasserstein
from pyriemann.geometry.geodesic import geodesic, geodesic_wasserstein
from pyriemann.geometry.mean import mean_wasserstein

from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian
from manifoldkit.spd import GBWMDM, GBWTangentSpace, gbw_metric, make_gbw_kmeans
from manifoldkit.spd.hermitian import (
    hermitian_matrix,
    hermitian_vector,
)

POWERS = [1.0, 0.5, -1.0]


def spectra(rng, count, n=3, samples=20):
    z = rng.standard_normal((2, count, n, samples))
    z = z[0] + 1j * z[1]
    z[:, 1] += 1j * z[:, 0]  # imaginary parts that matter
    return z @ z.conj().swapaxes(1, 2) / samples


@pytest.fixture
def data(rng):
    """Two classes that differ in the sign of the imaginary part alone."""
    X, y = spectra(rng, 24), np.tile(["lead", "lag"], 12)
    return np.where((y == "lead")[:, None, None], X, X.conj()), y


def power_of(x, power):
    s, u = np.linalg.eigh(x)
    return (u * s[..., None, :] ** power) @ u.conj().swapaxes(-1, -2)


def whiten(M, x):
    factor = np.linalg.inv(np.linalg.cholesky(M))
    return factor @ x @ factor.conj().T


def test_forms_are_inverse_isometries(rng):
    x = torch.from_numpy(spectra(rng, 4))
    torch.testing.assert_close(real_to_hermitian(hermitian_to_real(x)), x)
    torch.testing.assert_close(
        hermitian_to_real(x @ x), hermitian_to_real(x) @ hermitian_to_real(x)
    )
    vector = hermitian_vector(x)
    assert vector.shape == (4, 9)
    torch.testing.assert_close(hermitian_matrix(vector), x)
    torch.testing.assert_close(
        vector.norm(dim=-1), x.abs().square().sum((-2, -1)) ** 0.5
    )


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("metric", [False, True])
def test_the_metric_is_that_of_complex_matrices(rng, power, metric):
    X, M = spectra(rng, 6), spectra(rng, 1)[0] if metric else None
    flat = power_of(X, power)
    flat = whiten(M, flat) if metric else flat
    ours = gbw_metric(M, power)
    expected = distance_wasserstein(flat[1:], flat[0]) / abs(power)
    np.testing.assert_allclose(ours["distance"](X[1:], X[0]), expected, rtol=1e-7)
    squared = ours["distance"](X[1:], X[0], squared=True)
    np.testing.assert_allclose(squared, expected**2, rtol=1e-7)
    mean = power_of(ours["mean"](X), power)
    mean = whiten(M, mean) if metric else mean
    np.testing.assert_allclose(mean, mean_wasserstein(flat, tol=1e-12), atol=1e-8)
    middle = power_of(ours["mean"](X[0], X[1], 0.3), power)
    middle = whiten(M, middle) if metric else middle
    np.testing.assert_allclose(middle, geodesic_wasserstein(flat[0], flat[1], 0.3))
    tangent = ours["map"].log(X, X[0])
    np.testing.assert_allclose(tangent, tangent.conj().swapaxes(1, 2), atol=1e-10)
    np.testing.assert_allclose(ours["map"].exp(tangent, X[0]), X, atol=1e-8)
    kernel = ours["kernel"](X, Cref=X[0])
    assert kernel.dtype == np.float64
    squares = ours["distance"](X, X[0]) ** 2
    np.testing.assert_allclose(
        np.diag(kernel)[1:] / kernel[1, 1], squares[1:] / squares[1], rtol=1e-6
    )


def test_tensors_weights_and_single_precision(rng):
    X, metric = spectra(rng, 5), gbw_metric()
    mean = metric["mean"](torch.from_numpy(X), sample_weight=np.arange(5.0))
    assert mean.dtype == torch.complex128
    np.testing.assert_allclose(mean, metric["mean"](X, sample_weight=np.arange(5.0)))
    single = metric["mean"](X.astype(np.complex64))
    assert single.dtype == np.complex64
    np.testing.assert_allclose(single, metric["mean"](X), atol=1e-5)
    init = metric["mean"](X, init=X[0])
    np.testing.assert_allclose(init, metric["mean"](X), atol=1e-8)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("M", ["identity", "mean", "array"])
@pytest.mark.parametrize("reference", ["mean", "array"])
def test_tangent_features_are_real_isometric_and_invertible(
    data, rng, power, M, reference
):
    X, _ = data
    M = spectra(rng, 1)[0] if M == "array" else M
    reference = spectra(rng, 1)[0] if reference == "array" else reference
    space = GBWTangentSpace(power, M, reference).fit(X)
    Z = space.transform(X)
    assert Z.shape == (24, 9)
    assert Z.dtype == np.float64
    distance = gbw_metric(space.metric_, power)["distance"]
    expected = distance(X, space.reference_) / space.scale_
    np.testing.assert_allclose(np.linalg.norm(Z, axis=1), expected, rtol=1e-8)
    np.testing.assert_allclose(space.inverse_transform(Z), X, atol=1e-8)
    assert len(space.get_feature_names_out()) == 9


@pytest.mark.parametrize("options", [{}, {"M": "mean"}, {"learn_metric": True}])
def test_the_imaginary_part_tells_the_classes_apart(data, options):
    X, y = data
    model = GBWMDM(max_iter=5, **options).fit(X, y)
    assert model.score(X, y) > 0.9
    assert GBWMDM(**options).fit(X.real, y).score(X.real, y) < 0.9
    online = GBWMDM(max_iter=5, **options).partial_fit(X[:12], y[:12], ["lag", "lead"])
    assert online.partial_fit(X[12:], y[12:]).score(X, y) > 0.9
    assert np.iscomplexobj(online.covmeans_)


def test_real_matrices_with_a_zero_imaginary_part_give_the_real_answer(rng):
    X, y = spectra(rng, 12).real, np.tile([0, 1], 6)
    for options in ({}, {"M": "mean", "power": 0.5}, {"learn_metric": True}):
        real = GBWMDM(**options).fit(X, y)
        other = GBWMDM(**options).fit(X.astype(complex), y)
        np.testing.assert_allclose(
            other.transform(X), real.transform(X), rtol=1e-4, atol=1e-6
        )
    space = GBWTangentSpace().fit(X.astype(complex))
    np.testing.assert_allclose(space.transform(X)[:, 6:], 0, atol=1e-9)


def test_clusters(data):
    X, y = data
    labels = make_gbw_kmeans(2, random_state=0).fit(X).labels_
    assert len(set(zip(labels, y, strict=True))) == 2


def test_no_imaginary_part_is_lost_in_silence(data):
    X, y = data
    model, space = GBWMDM().fit(X.real, y), GBWTangentSpace().fit(X.real)
    for call in (lambda: model.predict(X), lambda: space.transform(X)):
        with pytest.raises(TypeError, match="expected real matrices as in fit"):
            call()
    with pytest.raises(TypeError, match="real values only"):
        space.inverse_transform(np.ones((2, 6)) * 1j)
    for name in ("M", "reference"):
        with pytest.raises(TypeError, match=f"{name}: expected a real matrix"):
            GBWTangentSpace(**{name: X[0]}).fit(X.real)
    for bad in (X * 1j, X + np.triu(np.full((3, 3), 1j))):
        with pytest.raises(ValueError, match=r"X\[0\] is not Hermitian"):
            GBWMDM().fit(bad, y)


def test_geodesic_with_an_array_of_positions(rng):
    t = np.array([0.1, 0.5, 0.9])
    for X in (spectra(rng, 6), spectra(rng, 6).real):
        found = geodesic(X[:3], X[3:], t, metric=gbw_metric()["mean"])
        for a, b, s, g in zip(X[:3], X[3:], t, found, strict=True):
            np.testing.assert_allclose(g, geodesic_wasserstein(a, b, s), atol=1e-10)
