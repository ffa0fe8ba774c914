"""Matrix functions against 60-digit references, and their derivatives."""

import math
import pickle
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacrev, jvp, vmap

from manifoldkit.linalg import (
    eigh,
    expm,
    invsqrtm,
    logm,
    polar,
    powm,
    sqrtm,
    symmetrize,
    unvech,
    vech,
)
from manifoldkit.linalg.spectral import Exp, InvSqrt, Log, Power, Sqrt

FUNCTIONS = {
    "sqrtm": (sqrtm, mpmath.sqrt),
    "invsqrtm": (invsqrtm, lambda t: 1 / mpmath.sqrt(t)),
    "logm": (logm, mpmath.log),
    "expm": (expm, mpmath.exp),
    "powm(0.3)": (partial(powm, power=0.3), lambda t: t ** mpmath.mpf(0.3)),
    "powm(-1)": (partial(powm, power=-1.0), lambda t: 1 / t),
    "powm(2)": (partial(powm, power=2.0), lambda t: t * t),
}
ALL = pytest.mark.parametrize("f", [f for f, _ in FUNCTIONS.values()], ids=FUNCTIONS)


def high_precision(x, f):
    """F(x) by a 60-digit eigendecomposition, as an array of mpmath numbers."""
    with mpmath.workdps(60):
        s, q = mpmath.eigsy(mpmath.matrix(x.double().tolist()))
        y = q * mpmath.diag([f(t) for t in s]) * q.T
        return np.array(y.tolist(), dtype=object)


def relative_error(y, reference):
    """Frobenius error relative to the reference, absolute below norm 1."""
    with mpmath.workdps(60):
        gap = np.array(y.tolist(), dtype=object) - reference
        scale = mpmath.fsum(t**2 for t in reference.ravel())
        total = mpmath.fsum(t**2 for t in gap.ravel())
        return float(mpmath.sqrt(total / max(scale, 1)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_agrees_with_60_digits(name, n, condition, make_spd):
    f, reference = FUNCTIONS[name]
    x = make_spd(n=n, condition=condition)
    assert relative_error(f(x), high_precision(x, reference)) < 1e-12


@pytest.mark.parametrize("name", ["logm", "invsqrtm", "powm(-1)"])
def test_documented_accuracy_beyond_condition_1e6(name, make_spd):
    f, reference = FUNCTIONS[name]
    x = make_spd(n=8, condition=1e8)
    assert relative_error(f(x), high_precision(x, reference)) < 1e-13
    single = make_spd(n=8, condition=1e3, dtype=torch.float32)
    assert relative_error(f(single), high_precision(single, reference)) < 1e-5


def test_agrees_with_scipy(make_spd):
    x = make_spd(n=6, condition=1e4)
    for ours, theirs in [
        (sqrtm, scipy.linalg.sqrtm),
        (logm, scipy.linalg.logm),
        (expm, scipy.linalg.expm),
        (
            partial(powm, power=0.3),
            lambda a: scipy.linalg.fractional_matrix_power(a, 0.3),
        ),
    ]:
        np.testing.assert_allclose(ours(x), theirs(x.numpy()), atol=1e-11)


@ALL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_batch_shape(f, batch, dtype, make_spd):
    x = make_spd(*batch, n=3, dtype=dtype)
    y = f(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    for i in np.ndindex(*batch):
        atol = 50 * torch.finfo(dtype).eps * float(y[i].abs().max())
        torch.testing.assert_close(f(x[i]), y[i], rtol=0, atol=atol)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(f, dtype, make_spd):
    x = make_spd(5, n=3, condition=4).to(dtype)
    y = f(x)
    assert y.dtype == dtype
    assert torch.equal(y, f(x.float()).to(dtype))


def spectra():
    """Points where naive derivatives fail: repeated and nearly repeated eigenvalues."""
    g = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=g))

    def rotate(*s):
        y = (q * torch.tensor(s, dtype=torch.float64)) @ q.T
        return (y + y.T) / 2

    eye = torch.eye(4, dtype=torch.float64)
    return {
        "identity": eye,
        "multiple": 3 * eye,
        "pairs": rotate(1.0, 1.0, 2.0, 2.0),
        "1e-9 apart": rotate(1.0, 1 + 1e-9, 2.0, 2 + 1e-9),
        "generic": rotate(0.4, 0.9, 1.5, 3.0),
        "near threshold": rotate(1.0, 1.09, 1.11, 1.3),
        "batch": torch.stack([eye, rotate(0.5, 0.5, 1.0, 4.0)]),
        "2x2": 2 * torch.eye(2, dtype=torch.float64),
    }


@ALL
@pytest.mark.parametrize("where", spectra())
def test_derivatives_match_finite_differences(f, where):
    x = spectra()[where].requires_grad_()
    assert gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, (x,), check_fwd_over_rev=True)


@pytest.mark.parametrize(
    ("f", "reference"),
    [
        (Sqrt(), mpmath.sqrt),
        (InvSqrt(), lambda t: 1 / mpmath.sqrt(t)),
        (Log(), mpmath.log),
        (Exp(), mpmath.exp),
        (Power(0.7), lambda t: t ** mpmath.mpf(0.7)),
        (Power(-2.0), lambda t: t**-2),
    ],
    ids=["sqrt", "invsqrt", "log", "exp", "power 0.7", "power -2"],
)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    base=st.floats(1e-3, 30),
    gaps=st.tuples(
        *[st.sampled_from([0, 1e-14, 1e-9, 1e-4, 0.05, 0.2, 0.4, 2, 50])] * 2
    ),
)
def test_divided_differences_have_no_cancellation(f, reference, base, gaps):
    a, b, c = base, base * (1 + gaps[0]), base * (1 + gaps[1])
    if isinstance(f, Exp) and max(b, c) > 100:
        return
    with mpmath.workdps(100):
        # distinct points a hair apart stand for the confluent limits
        x = mpmath.mpf(a)
        y = mpmath.mpf(b) + x * mpmath.mpf("1e-30")
        z = mpmath.mpf(c) - x * mpmath.mpf("1e-30")
        if y == z:
            z += x * mpmath.mpf("1e-31")

        def first(p, q):
            return (reference(p) - reference(q)) / (p - q)

        expected1 = float(first(x, y))
        expected2 = float((first(x, y) - first(y, z)) / (x - z))
    t = [torch.tensor(v, dtype=torch.float64) for v in (a, b, c)]
    assert float(f.first(t[0], t[1])) == pytest.approx(expected1, rel=1e-13)
    assert float(f.second(*t)) == pytest.approx(expected2, rel=1e-11)


def test_third_derivative_is_refused_rather_than_wrong(make_spd):
    x = make_spd(n=3).requires_grad_()
    (g,) = torch.autograd.grad(logm(x).square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivatives"):
        h.sum().backward()


@ALL
def test_functional_transforms(f, make_spd):
    x = make_spd(3, n=3)

    def loss(x):
        return f(x).square().sum()

    torch.testing.assert_close(vmap(f)(x), f(x), rtol=1e-13, atol=1e-13)
    per_sample = vmap(grad(loss))(x)
    torch.testing.assert_close(per_sample[1], grad(loss)(x[1]))
    h = hessian(loss)(x[0])
    torch.testing.assert_close(h, jacrev(jacrev(loss))(x[0]))
    tangent = symmetrize(torch.ones_like(x[0]).tril())
    _, forward = jvp(loss, (x[0],), (tangent,))
    torch.testing.assert_close(forward, (grad(loss)(x[0]) * tangent).sum())


@pytest.mark.compile
@pytest.mark.parametrize("f", [sqrtm, logm])
def test_compiles_without_graph_breaks(f, make_spd):
    x = make_spd(3, n=3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = torch.compile(f, fullgraph=True, backend="aot_eager")(a)
    y.square().sum().backward()
    f(b).square().sum().backward()
    torch.testing.assert_close(y, f(x))
    torch.testing.assert_close(a.grad, b.grad)


@ALL
def test_one_bad_matrix_leaves_the_others_alone(f, make_spd):
    x = make_spd(4, n=3)
    clean = f(x)
    x[1, 0, 1] = math.nan
    x[2, 0, 0] = math.inf
    x.requires_grad_()
    y = f(x)
    y[[0, 3]].sum().backward()
    assert torch.equal(y[[0, 3]], clean[[0, 3]])
    assert y[1].isnan().all()
    assert y[2].isnan().all()
    assert x.grad[[0, 3]].isfinite().all()


@pytest.mark.parametrize("f", [sqrtm, invsqrtm, logm, partial(powm, power=0.3)])
def test_validation_names_the_first_bad_matrix(f, make_spd):
    x = make_spd(2, 2, n=3)
    x[1, 0] -= 2 * torch.eye(3)
    assert f(x)[1, 0].isnan().all()
    with pytest.raises(ValueError, match=r"x\[1, 0\] is not positive .*eigenvalue"):
        f(x, validate=True)
    x[0, 1, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"x\[0, 1\] is not finite"):
        f(x, validate=True)


def test_expm_validates_symmetry():
    x = torch.zeros(2, 3, 3)
    x[1, 0, 2] = 1
    with pytest.raises(ValueError, match=r"x\[1\] is not symmetric"):
        expm(x, validate=True)


def test_one_eigendecomposition_serves_value_and_derivative(make_spd, monkeypatch):
    x = make_spd(3, n=4).requires_grad_()
    calls = []
    solver = torch.linalg.eigh

    def counted(*args, **kwargs):
        calls.append(args)
        return solver(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    logm(x).sum().backward()
    assert len(calls) == 1
    eig = eigh(x)
    torch.testing.assert_close(
        sqrtm(x, eig=eig) @ invsqrtm(x, eig=eig),
        logm(x) * 0 + torch.eye(4, dtype=x.dtype),
    )
    assert len(calls) == 3


def test_singular_matrices_have_a_root():
    v = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    x = v.T @ v
    torch.testing.assert_close(sqrtm(x, validate=True), x / math.sqrt(14))


def test_round_trips_and_group_law(make_spd):
    x = make_spd(5, n=6, condition=1e4)
    torch.testing.assert_close(expm(logm(x)), x, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(powm(x, 0.3) @ powm(x, 0.7), x, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(powm(x, 1), x)
    assert torch.equal(powm(x, 0.5), sqrtm(x))
    assert torch.equal(powm(x, -0.5), invsqrtm(x))
    torch.testing.assert_close(powm(x, 0.0), torch.eye(6).expand_as(x).to(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_2x2_agrees_with_lapack(dtype, generator):
    a = torch.randn(2000, 2, 2, dtype=dtype, generator=generator)
    x = torch.cat(
        [
            a + a.mT,
            1e6 * (a @ a.mT),
            torch.eye(2, dtype=dtype)[None],
            torch.zeros(1, 2, 2, dtype=dtype),
        ]
    )
    s, u = eigh(x)
    scale = x.abs().amax((-2, -1)).clamp_min(1)[:, None]
    atol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        s / scale, torch.linalg.eigvalsh(x) / scale, rtol=0, atol=atol
    )
    torch.testing.assert_close(
        ((u * s[:, None]) @ u.mT) / scale[..., None],
        x / scale[..., None],
        rtol=0,
        atol=atol,
    )
    torch.testing.assert_close(
        u.mT @ u, torch.eye(2, dtype=dtype).expand_as(u), rtol=0, atol=atol
    )


def test_vech_is_an_isometry(generator):
    x = symmetrize(torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=generator))
    v = vech(x)
    assert v.shape == (2, 3, 15)
    torch.testing.assert_close(v.norm(dim=-1), torch.linalg.matrix_norm(x))
    torch.testing.assert_close(unvech(v), x)
    assert torch.equal(unvech(vech(x, isometric=False), isometric=False), x)
    x.requires_grad_()
    assert gradcheck(lambda x: unvech(vech(symmetrize(x))), (x[0, 0],))


def test_autocast_does_not_round_the_products(make_spd):
    x = make_spd(3, n=4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = logm(x)
    assert torch.equal(y, logm(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sqrtm(np.eye(2)), TypeError, "x: expected a torch tensor"),
        (lambda: sqrtm(torch.eye(2).long()), TypeError, "int64"),
        (
            lambda: polar(torch.eye(2).to(torch.complex64)),
            TypeError,
            "real matrices only",
        ),
        (lambda: sqrtm(torch.ones(2, 3)), ValueError, r"\(2, 3\)"),
        (lambda: sqrtm(torch.ones(3)), ValueError, r"\(3,\)"),
        (lambda: sqrtm(torch.ones(2, 0, 0)), ValueError, r"\(2, 0, 0\)"),
        (lambda: powm(torch.eye(2), math.nan), ValueError, "power"),
        (lambda: powm(torch.eye(2), torch.tensor(2.0)), ValueError, "power"),
        (lambda: unvech(torch.ones(4)), ValueError, r"n \(n \+ 1\) / 2"),
        (lambda: unvech(torch.ones(())), ValueError, r"n \(n \+ 1\) / 2"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_results_pickle(make_spd):
    y = sqrtm(make_spd(n=3))
    assert torch.equal(pickle.loads(pickle.dumps(y)), y)


@pytest.mark.gpu
@ALL
def test_cuda_agrees_with_cpu(f, make_spd):
    x = make_spd(5, n=4)
    torch.testing.assert_close(f(x.cuda()).cpu(), f(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("power", [0.3, 0.5, 1.5, 3.0])
def test_positive_powers_of_singular_matrices(power, generator):
    """Rounding takes zero eigenvalues below zero."""
    v = torch.randn(50, 3, 1, dtype=torch.float64, generator=generator)
    x = v @ v.mT
    length = (v.mT @ v).sqrt()
    expected = length ** (2 * power - 2) * x
    found = powm(x, power, validate=True)
    # a zero eigenvalue is known to 1e-16, its power to that power
    tol = 1e-13 if power >= 1 else 50 * 1e-16**power
    atol = tol * float(length.max())
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=atol)
    # what passes the check has a power: the same bound serves both
    below = torch.diag(torch.tensor([1.0, -1e-15], dtype=torch.float64))
    assert powm(below, power, validate=True).isfinite().all()


def test_derivative_of_a_power_at_a_singular_matrix():
    x = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    x.requires_grad_()
    powm(x, 1.5).diagonal().sum().backward()  # tr X^p has the gradient p X^(p-1)
    expected = torch.diag(torch.tensor([3.0, 1.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(x.grad, expected)
