"""Complex Hermitian matrices: pyriemann, the real representation, derivatives."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from pyriemann.geometry import base as peer
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

from manifoldkit.linalg import (
    check_spd,
    eigh,
    expm,
    frechet_derivative,
    invsqrtm,
    logm,
    polar,
    powm,
    procrustes,
    solve_lyapunov,
    sqrtm,
    symmetrize,
    unvech,
    vech,
)
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian

FUNCTIONS = {
    "sqrtm": (sqrtm, peer.sqrtm),
    "invsqrtm": (invsqrtm, peer.invsqrtm),
    "logm": (logm, peer.logm),
    "expm": (expm, peer.expm),
    "powm(0.3)": (partial(powm, power=0.3), lambda x: peer.powm(x, 0.3)),
    "powm(-1)": (partial(powm, power=-1.0), lambda x: peer.powm(x, -1.0)),
}
ALL = pytest.mark.parametrize("f", [f for f, _ in FUNCTIONS.values()], ids=FUNCTIONS)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def make_hpd(generator):
    def make(*batch, n=4, condition=None):
        shape = (*batch, n, 5 * n)
        z = torch.randn(*shape, dtype=torch.complex128, generator=generator)
        x = z @ z.mH / (5 * n)
        if condition is None:
            return x
        u = torch.linalg.qr(z)[0]
        s = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
        return symmetrize((u * s) @ u.mH)

    return make


def hermitian(f):
    """A function of any matrix, of its Hermitian part."""
    return lambda x, *more: f(symmetrize(x), *more)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_agrees_with_pyriemann(name, make_hpd):
    f, reference = FUNCTIONS[name]
    x = make_hpd(2, 3)
    y = f(x)
    assert y.dtype == torch.complex128
    torch.testing.assert_close(y, y.mH, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(y, torch.from_numpy(reference(x.numpy())), **CLOSE)
    torch.testing.assert_close(powm(x, 1.0), x, **CLOSE)


@ALL
@pytest.mark.parametrize("condition", [10.0, 1e3, 1e6])
def test_is_the_function_of_the_real_representation(f, condition, make_hpd):
    x = make_hpd(3, n=3, condition=condition)
    y, double = f(x), real_to_hermitian(f(hermitian_to_real(x)))
    size = torch.linalg.matrix_norm(double).max()
    # positive powers are not corrected and keep about 1e-12
    torch.testing.assert_close(y / size, double / size, rtol=0, atol=2e-12)


@ALL
def test_a_real_matrix_gives_the_real_answer(f, make_spd):
    x = make_spd(4, n=5)
    y = f(torch.complex(x, torch.zeros_like(x)))
    torch.testing.assert_close(y.real, f(x), **CLOSE)
    assert float(y.imag.abs().max()) < 1e-12


@ALL
def test_gradients_in_both_parts(f, make_hpd):
    eye = torch.eye(3, dtype=torch.complex128)
    for x in (make_hpd(n=3), 2 * eye):  # at repeated eigenvalues too
        x.requires_grad_()
        assert gradcheck(hermitian(f), (x,), check_forward_ad=True)
        assert gradgradcheck(hermitian(f), (x,), fast_mode=True)


@ALL
def test_company_unit_and_precision(f, make_hpd):
    x = make_hpd(5)
    y = f(x)
    for i in range(5):
        torch.testing.assert_close(f(x[i]), y[i], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(vmap(f)(x), y, rtol=1e-12, atol=1e-12)
    bad = x.clone()
    bad[1, 0, 0] = math.nan
    bad.requires_grad_()
    z = f(bad)
    z[[0, 2, 3, 4]].abs().sum().backward()
    assert bool(z[1].isnan().all())
    torch.testing.assert_close(z[[0, 2, 3, 4]], y[[0, 2, 3, 4]], **CLOSE)
    assert bool(torch.view_as_real(bad.grad[[0, 2, 3, 4]]).isfinite().all())
    single = f(x.to(torch.complex64))
    assert single.dtype == torch.complex64
    torch.testing.assert_close(single.to(y), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-18, 1e-9, 1e9, 1e18])
def test_the_unit_of_the_data(unit, make_hpd):
    x = make_hpd(3)
    eye = torch.eye(4, dtype=x.dtype)
    for found, expected in (
        (sqrtm(unit * x), unit**0.5 * sqrtm(x)),
        (invsqrtm(unit * x), unit**-0.5 * invsqrtm(x)),
        (powm(unit * x, -1.0), powm(x, -1.0) / unit),
        (logm(unit * x), logm(x) + math.log(unit) * eye),
        (solve_lyapunov(unit * x, x), solve_lyapunov(x, x) / unit),
    ):
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13 * size)


def test_eigendecomposition(make_hpd):
    x = make_hpd(6)
    s, u = eigh(x)
    assert s.dtype == torch.float64
    torch.testing.assert_close((u * s[..., None, :]) @ u.mH, x, **CLOSE)
    torch.testing.assert_close(logm(x, eig=(s, u)), logm(x), **CLOSE)
    two = make_hpd(3000, n=2)  # real ones would take the closed form
    s, u = eigh(two)
    torch.testing.assert_close((u * s[..., None, :]) @ u.mH, two, **CLOSE)


def test_lyapunov(make_hpd):
    a, q = make_hpd(3, n=3), 1j * make_hpd(3, n=3) + make_hpd(3, n=3)
    x = solve_lyapunov(a, q)
    torch.testing.assert_close(a @ x + x @ a, q, **CLOSE)
    torch.testing.assert_close(solve_lyapunov(a, q, eig=eigh(a)), x, **CLOSE)
    real = make_hpd(n=3).real
    mixed = solve_lyapunov(real, q)
    torch.testing.assert_close(real.to(q) @ mixed + mixed @ real.to(q), q, **CLOSE)
    arguments = [a[0].clone().requires_grad_(), q[0].clone().requires_grad_()]
    assert gradcheck(hermitian(solve_lyapunov), arguments, check_forward_ad=True)
    assert gradgradcheck(hermitian(solve_lyapunov), arguments, fast_mode=True)


@pytest.mark.parametrize("name", ["sqrtm", "invsqrtm", "logm", "expm", "powm"])
def test_directional_derivative(name, make_hpd):
    x, h = make_hpd(2, n=3), 1j * make_hpd(2, n=3)
    h = symmetrize(h + torch.tensor([[0, 1, 0], [0, 0, 2j], [0, 0, 0]]))
    options = {"power": 0.7} if name == "powm" else {}
    f = {**{k: f for k, (f, _) in FUNCTIONS.items()}, "powm": partial(powm, power=0.7)}
    found = frechet_derivative(x, h, name, **options)
    step = 1e-5
    expected = (f[name](x + step * h) - f[name](x - step * h)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    arguments = [x[0].clone().requires_grad_(), h[0].clone().requires_grad_()]

    def derivative(x, h):
        return frechet_derivative(symmetrize(x), symmetrize(h), name, **options)

    assert gradcheck(derivative, arguments)


def test_gradient_agrees_with_that_of_the_real_representation(make_hpd):
    x, weight = make_hpd(3), make_hpd()

    def loss(x):
        return (symmetrize(logm(x)) * weight).abs().square().sum()

    found = torch.stack([grad(loss)(item) for item in x])
    torch.testing.assert_close(vmap(grad(loss))(x), found, **CLOSE)

    def doubled(real):
        y = real_to_hermitian(logm(hermitian_to_real(torch.view_as_complex(real))))
        return (y * weight).abs().square().sum()

    real = torch.view_as_real(x[0].clone()).contiguous().requires_grad_()
    (expected,) = torch.autograd.grad(doubled(real), real)
    torch.testing.assert_close(torch.view_as_real(found[0]), expected, **CLOSE)


def test_half_vectors(make_hpd):
    x = make_hpd(2, 3)
    v = vech(x)
    assert v.shape == (2, 3, 10)
    torch.testing.assert_close(v.abs().square().sum(-1), x.abs().square().sum((-2, -1)))
    torch.testing.assert_close(unvech(v), x, **CLOSE)
    assert torch.equal(unvech(vech(x, isometric=False), isometric=False).real, x.real)
    assert gradcheck(lambda x: unvech(vech(symmetrize(x))), (x[0, 0].requires_grad_(),))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_checks_and_what_is_real_only(make_hpd):
    x = make_hpd(3)
    skew = x.clone()
    skew[1, 0, 1] += 1
    for f in (sqrtm, logm, expm):
        with pytest.raises(ValueError, match=r"x\[1\] is not Hermitian"):
            f(skew, validate=True)
    with pytest.raises(ValueError, match=r"x\[1\] is not positive definite"):
        logm(torch.stack([x[0], -x[1]]), validate=True)
    with pytest.raises(ValueError, match=r"a\[0\] is not positive definite"):
        solve_lyapunov(-x, x, validate=True)
    for call in (lambda: polar(x), lambda: procrustes(x, x), lambda: check_spd(x)):
        with pytest.raises(TypeError, match="real matrices only, found a complex128"):
            call()
    for f in (sqrtm, eigh, vech, symmetrize):
        with pytest.raises(TypeError, match="complex64 or complex128"):
            f(torch.empty(2, 2, dtype=torch.complex32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_correction_is_left_out_where_it_changes_nothing(dtype, make_hpd):
    names = [(logm, {}), (invsqrtm, {}), (powm, {"power": -1.5})]
    tame, wild = make_hpd(4, n=8, condition=50.0), make_hpd(4, n=8, condition=1e7)
    if not dtype.is_complex:
        tame, wild = hermitian_to_real(tame), hermitian_to_real(wild)
    both = torch.stack([tame, wild], 1)
    for f, options in names:
        y = f(both, **options)
        full = f(both, **options, refine=True)
        plain = f(both, **options, refine=False)
        # each matrix by its own condition, whatever the others are
        assert torch.equal(y[:, 1], full[:, 1])
        assert torch.equal(y[:, 0], plain[:, 0])
        size = torch.linalg.matrix_norm(full)
        error = torch.linalg.matrix_norm(plain - full) / size
        assert float(error[:, 0].max()) < 2e-14
        assert float(error[:, 1].max()) > 1e-13


def test_numpy_agrees_on_a_batch(make_hpd):
    x = make_hpd(2)
    s, u = np.linalg.eigh(x.numpy())
    expected = (u * np.log(s)[:, None]) @ u.conj().swapaxes(1, 2)
    np.testing.assert_allclose(logm(x), expected, atol=1e-12)
