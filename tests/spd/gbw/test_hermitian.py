"""Complex Hermitian matrices, against pyriemann and in the real representation."""

import math

import pytest
import torch
from pyriemann.geometry.distance import distance_wasserstein
from pyriemann.geometry.geodesic import geodesic_wasserstein
from pyriemann.geometry.mean import mean_wasserstein
from pyriemann.geometry.tangentspace import exp_map_wasserstein, log_map_wasserstein
from torch.autograd import gradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import check_spd, is_spd
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian
from manifoldkit.spd import gbw_distance, gbw_exp, gbw_geodesic, gbw_log, gbw_mean

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def make_hpd(generator):
    def make(*batch, n=4):
        shape = (*batch, n, 5 * n)
        z = torch.randn(*shape, dtype=torch.complex128, generator=generator)
        return z @ z.mH / (5 * n)

    return make


def test_agrees_with_pyriemann(make_hpd):
    x, y = make_hpd(7), make_hpd()
    a, b = x.numpy(), y.numpy()
    expected = torch.from_numpy(distance_wasserstein(a, b))
    found = gbw_distance(x, y)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, **CLOSE)
    log = gbw_log(y, x)
    torch.testing.assert_close(
        log, torch.from_numpy(log_map_wasserstein(a, b)), **CLOSE
    )
    back = torch.from_numpy(exp_map_wasserstein(log.numpy(), b))
    torch.testing.assert_close(gbw_exp(y, log), back, **CLOSE)
    mean = torch.from_numpy(mean_wasserstein(a, tol=1e-13, maxiter=200))
    torch.testing.assert_close(gbw_mean(x), mean, **CLOSE)


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0])
def test_congruence_by_a_unitary_matrix_and_a_metric(make_hpd, power):
    a, b, M = make_hpd(3), make_hpd(3), make_hpd()
    u, _ = torch.linalg.qr(make_hpd() + 1j * make_hpd())

    def turn(x):
        return u @ x @ u.mH

    options = {"M": M, "power": power}
    turned = {"M": turn(M), "power": power}
    torch.testing.assert_close(
        gbw_distance(turn(a), turn(b), **turned), gbw_distance(a, b, **options), **CLOSE
    )
    for f in (gbw_log, lambda x, y, **k: gbw_geodesic(x, y, 0.3, **k)):
        torch.testing.assert_close(
            f(turn(a), turn(b), **turned), turn(f(a, b, **options)), **CLOSE
        )
    torch.testing.assert_close(
        gbw_mean(turn(a), **turned), turn(gbw_mean(a, **options)), rtol=1e-8, atol=1e-8
    )


def test_a_real_matrix_is_a_complex_one_without_imaginary_part(make_spd, make_hpd):
    a, b = make_spd(3), make_spd(3)
    z = torch.complex(a, torch.zeros_like(a))
    torch.testing.assert_close(gbw_distance(z, b), gbw_distance(a, b), **CLOSE)
    mixed = gbw_log(a, z)
    assert mixed.dtype == torch.complex128
    torch.testing.assert_close(gbw_mean(z).real, gbw_mean(a), **CLOSE)
    hermitian = make_hpd(3)
    torch.testing.assert_close(gbw_distance(hermitian, a), gbw_distance(a, hermitian))


def test_single_precision_and_gradients(make_hpd):
    x, y = make_hpd(3), make_hpd(3)
    low = gbw_distance(x.to(torch.complex64), y.to(torch.complex64))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), gbw_distance(x, y), rtol=1e-4, atol=1e-5)
    assert gbw_mean(x.to(torch.complex64)).dtype == torch.complex64
    arguments = [x.requires_grad_(), y.requires_grad_()]

    def hermitian(f):
        return lambda a, b: f((a + a.mH) / 2, (b + b.mH) / 2)

    assert gradcheck(hermitian(gbw_distance), arguments, fast_mode=True)
    assert gradcheck(
        hermitian(lambda a, b: gbw_mean(torch.stack([a, b], 1), tol=1e-13)),
        arguments,
        fast_mode=True,
    )


def test_checks(make_hpd):
    x = make_hpd(3)
    skew = x.clone()
    skew[1, 0, 0] += 1j
    with pytest.raises(NotOnManifoldError, match=r"a\[1\] is not Hermitian"):
        gbw_distance(skew, x, validate=True)
    with pytest.raises(NotOnManifoldError, match=r"x\[1\] is not positive semidef"):
        gbw_mean(torch.stack([x[0], -x[1], x[2]]), validate=True)
    with pytest.raises(ValueError, match=r"x\[2\] is not finite"):
        check_spd(x * torch.tensor([1, 1, math.nan])[:, None, None], hermitian=True)
    assert is_spd(torch.stack([x[0], skew[1], -x[2]]), hermitian=True).tolist() == [
        True,
        False,
        False,
    ]
    with pytest.raises(TypeError, match="real"):
        check_spd(x)


def test_the_real_representation_keeps_products_and_adjoints(make_hpd):
    x, y = make_hpd(2), 1j * make_hpd(2) + make_hpd(2)
    torch.testing.assert_close(real_to_hermitian(hermitian_to_real(y)), y)
    product = hermitian_to_real(x) @ hermitian_to_real(y)
    torch.testing.assert_close(hermitian_to_real(x @ y), product)
    torch.testing.assert_close(hermitian_to_real(y.mH), hermitian_to_real(y).mT)


def test_geodesic_and_metric_agree_with_pyriemann(make_hpd):
    a, b, M = make_hpd(), make_hpd(), make_hpd()
    for t in (0.0, 0.3, 1.0):
        expected = geodesic_wasserstein(a.numpy(), b.numpy(), t)
        torch.testing.assert_close(
            gbw_geodesic(a, b, t), torch.from_numpy(expected), **CLOSE
        )
    # with a metric matrix: pyriemann's functions of the whitened matrices
    factor = torch.linalg.inv(torch.linalg.cholesky(M)).numpy()

    def white(x):
        return factor @ x.numpy() @ factor.conj().T

    expected = distance_wasserstein(white(a), white(b))
    assert float(gbw_distance(a, b, M)) == pytest.approx(float(expected), rel=1e-10)
    expected = log_map_wasserstein(white(b), white(a))
    found = torch.from_numpy(white(gbw_log(a, b, M)))
    torch.testing.assert_close(found, torch.from_numpy(expected), **CLOSE)


def test_gradients_of_logarithm_exponential_and_geodesic(make_hpd):
    a, b, M = (make_hpd(n=3).requires_grad_() for _ in range(3))

    def hermitian(x):
        return (x + x.mH) / 2

    def middle(a, b, M, power):
        return gbw_geodesic(a, b, 0.4, M, power)

    for power in (1.0, 0.5):
        for f in (gbw_log, gbw_exp, middle):

            def of_any(a, b, M, f=f, power=power):
                return f(hermitian(a), hermitian(b), hermitian(M), power)

            assert gradcheck(of_any, (a, b, M), fast_mode=True)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_unit_and_company(make_hpd, unit):
    x, y = make_hpd(4), make_hpd()
    pairs = [
        (gbw_distance(unit * x, unit * y), unit**0.5 * gbw_distance(x, y)),
        (gbw_log(unit * y, unit * x), unit * gbw_log(y, x)),
        (gbw_mean(unit * x), unit * gbw_mean(x)),
        (gbw_geodesic(unit * x, unit * y, 0.2), unit * gbw_geodesic(x, y, 0.2)),
        (gbw_log(y, x)[2], gbw_log(y, x[2])),
        (gbw_mean(torch.stack([x, 1e9 * x]))[0], gbw_mean(x)),
    ]
    for found, expected in pairs:
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * size)
