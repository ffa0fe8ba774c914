"""Polar, scale and Iwasawa decompositions; functions of symmetric matrices."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap

from manifoldkit.lie import (
    iwasawa,
    polar,
    polar_log,
    scale_split,
    sym_exp,
    sym_inv_sqrt,
    sym_log,
    sym_sqrt,
)
from manifoldkit.lie.closed_forms.general_log import general_log

SYMMETRIC = [sym_exp, sym_log, sym_sqrt, sym_inv_sqrt]
GROUP = [polar, polar_log, iwasawa, scale_split]
SCIPY = {
    sym_exp: scipy.linalg.expm,
    sym_log: scipy.linalg.logm,
    sym_sqrt: scipy.linalg.sqrtm,
    sym_inv_sqrt: lambda x: np.linalg.inv(scipy.linalg.sqrtm(x)),
}


def random_gl(*batch, n, generator, scale=0.5, dtype=torch.float64):
    x = scale * torch.randn(*batch, n, n, dtype=torch.float64, generator=generator)
    return torch.linalg.matrix_exp(x).to(dtype)


def rotation(n, generator):
    return torch.linalg.qr(random_gl(n=n, generator=generator))[0]


def special_points(n, generator):
    """A random element, the identity, a conformal matrix and a repeated stretch."""
    eye = torch.eye(n, dtype=torch.float64)
    r = rotation(n, generator)
    r = r * torch.linalg.det(r).sign() if n % 2 else torch.linalg.matrix_power(r, 2)
    stretch = torch.ones(n, dtype=torch.float64)
    stretch[0] = 3
    points = [random_gl(n=n, generator=generator), eye, 2 * r, (r * stretch) @ r.mT]
    return torch.stack(points)


def values(out):
    return tuple(out) if isinstance(out, tuple) else (out,)


def assert_equal_values(a, b, **options):
    for x, y in zip(values(a), values(b), strict=True):
        torch.testing.assert_close(x, y, **options)


def mp_polar(g):
    """Factors to 60 digits by Newton's iteration."""
    with mpmath.workdps(60):
        x = mpmath.matrix(g.tolist())
        for _ in range(60):
            x = (x + (x**-1).T) / 2
        p = mpmath.matrix(g.tolist()) * x.T
        return [torch.tensor(np.array(m.tolist(), dtype=float)) for m in (p, x)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_polar_against_sixty_digits(n, dtype, generator):
    for condition in (10.0, 1e5):
        u, v = rotation(n, generator), rotation(n, generator)
        s = torch.ones(n, dtype=torch.float64)
        s[-1] = 1 / condition
        g = (u * s) @ v.mT
        g = g if torch.linalg.det(g) > 0 else g.flip(0)
        g = g.to(dtype)
        p, r = mp_polar(g.double())
        ours = polar(g)
        tol = 30 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours.p.double(), p, atol=tol, rtol=0)
        torch.testing.assert_close(ours.r.double(), r, atol=tol, rtol=0)


@pytest.mark.parametrize("function", SYMMETRIC)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_symmetric_functions_against_scipy(function, n, make_spd):
    x = make_spd(3, n=n, condition=1e4)
    expected = np.stack([SCIPY[function](a) for a in x.numpy()])
    np.testing.assert_allclose(function(x), expected, rtol=1e-10, atol=1e-12)
    assert isinstance(function(x.numpy()), np.ndarray)
    np.testing.assert_allclose(function(x.numpy()), expected, rtol=1e-10, atol=1e-12)


def test_two_by_two_functions_to_fifty_digits():
    """Near and far eigenvalues, huge and tiny matrices."""
    for a, b, d in ((2, 1e-9, 2), (1, 0.01, 1.1), (5, 2, 1), (1e12, 3, 1e11)):
        x = torch.tensor([[a, b], [b, d]], dtype=torch.float64)
        with mpmath.workdps(50):
            (a, b), (_, d) = ((mpmath.mpf(v) for v in row) for row in x.tolist())
            mean, delta = (a + d) / 2, (a - d) / 2
            r = mpmath.sqrt(delta**2 + b**2)
            low, high = mpmath.log(mean - r), mpmath.log(mean + r)
            level, k = (low + high) / 2, (high - low) / (2 * r)
            log = [
                [float(level + k * delta), float(k * b)],
                [float(k * b), float(level - k * delta)],
            ]
        tol = {"rtol": 1e-14, "atol": 1e-14}
        torch.testing.assert_close(sym_log(x), torch.tensor(log, dtype=x.dtype), **tol)
        torch.testing.assert_close(sym_sqrt(x) @ sym_sqrt(x), x, rtol=1e-14, atol=1e-14)
    for scale in (1e-30, 1e30):
        x = torch.tensor([[2.0, 1.0], [1.0, 3.0]]) * scale
        y = sym_log(x) - math.log(scale) * torch.eye(2)
        torch.testing.assert_close(y, sym_log(x / scale), rtol=0, atol=2e-5)
        root = sym_sqrt(x) / scale**0.5
        torch.testing.assert_close(root, sym_sqrt(x / scale), rtol=1e-5, atol=0)
        back = sym_inv_sqrt(x) * scale**0.5
        torch.testing.assert_close(back, sym_inv_sqrt(x / scale), rtol=1e-5, atol=0)
    x = torch.tensor([[-60.0, 100.0], [100.0, -60.0]])  # cosh of the radius overflows
    torch.testing.assert_close(sym_exp(x)[0, 0], torch.tensor(math.exp(40) / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_round_trips(n, dtype, generator):
    g = random_gl(2500, n=n, generator=generator, scale=0.4, dtype=dtype)
    tol = {"rtol": 0, "atol": 2e3 * torch.finfo(dtype).eps}
    p, r = polar(g)
    torch.testing.assert_close(p @ r, g, **tol)
    torch.testing.assert_close(p, p.mT, **tol)
    torch.testing.assert_close(r @ r.mT, torch.eye(n, dtype=dtype).expand_as(g), **tol)
    assert (torch.linalg.det(r) > 0).all()
    q, s = polar(g, "right").p, polar(g, "right").r
    torch.testing.assert_close(s @ q, g, **tol)
    torch.testing.assert_close(s, r, **tol)
    y, rotation_ = polar_log(g)
    torch.testing.assert_close(sym_exp(y) @ rotation_, g, **tol)
    k, a, upper = iwasawa(g)
    torch.testing.assert_close(k @ a @ upper, g, **tol)
    assert (a.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert torch.equal(upper.tril(-1), torch.zeros_like(g))
    torch.testing.assert_close(upper.diagonal(dim1=-2, dim2=-1), g.new_ones(2500, n))
    scale, h = scale_split(g)
    torch.testing.assert_close(scale[:, None, None] * h, g, **tol)
    torch.testing.assert_close(torch.linalg.det(h), g.new_ones(2500), **tol)


@pytest.mark.parametrize("function", SYMMETRIC + GROUP)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_derivatives(function, n, generator):
    points = special_points(n, generator)
    if function in SYMMETRIC:
        points = points @ points.mT
    if n == 4:
        points = points[:2]
    x = points.requires_grad_()
    f = lambda x: values(function(x))  # noqa: E731
    fast = n == 4  # by random projections
    assert gradcheck(f, (x,), check_forward_ad=True, atol=2e-5, fast_mode=fast)
    pair = x[:2].detach().requires_grad_()
    assert gradgradcheck(f, (pair,), atol=2e-4, fast_mode=n > 2)


@pytest.mark.parametrize("function", SYMMETRIC + GROUP)
@pytest.mark.parametrize("n", [2, 3])
def test_transforms(function, n, generator, make_spd):
    g = random_gl(3, 4, n=n, generator=generator)
    x = make_spd(3, 4, n=n) if function in SYMMETRIC else g
    t = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    expected = function(x)
    assert_equal_values(vmap(vmap(function))(x), expected)
    _, forward = jvp(lambda x: values(function(x))[0], (x,), (t,))
    x = x.clone().requires_grad_()
    out = values(function(x))[0]
    w = torch.randn(out.shape, dtype=x.dtype, generator=generator)
    (back,) = torch.autograd.grad(out, x, w)
    torch.testing.assert_close((forward * w).sum(), (back * t).sum())


@pytest.mark.parametrize("n", [2, 3])
def test_finite_gradients_at_conformal_matrices_in_float32(n):
    """Differentiated eigenvectors give NaN here."""
    g = (3 * torch.eye(n)).requires_grad_()
    for part in (*polar_log(g), *polar(g), *scale_split(g)):
        (grad,) = torch.autograd.grad(part.sum(), g, retain_graph=True)
        assert grad.isfinite().all()


def test_polar_is_equivariant_and_stretches_are_continuous(generator):
    g = random_gl(20, n=3, generator=generator)
    r = polar(random_gl(n=3, generator=generator)).r
    p, q = polar(g)
    moved = polar(r @ g)
    torch.testing.assert_close(moved.p, r @ p @ r.mT)
    torch.testing.assert_close(moved.r, r @ q)


@pytest.mark.parametrize("function", GROUP)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_bad_matrices_stay_alone(function, n, generator):
    g = random_gl(6, n=n, generator=generator)
    clean = values(function(g))
    bad = g.clone()
    bad[1, 0, 0] = math.nan
    bad[2] = bad[2].flip(0) if torch.linalg.det(g[2].flip(0)) < 0 else -bad[2]
    if torch.linalg.det(bad[2]) > 0:
        bad[2, 0] *= -1
    bad[3] = 0
    bad[4] = math.inf
    for mode in ("off", "mask"):
        x = bad.clone().requires_grad_()
        out = values(function(x, validate=mode))
        for result, expected in zip(out, clean, strict=True):
            torch.testing.assert_close(result[[0, 5]], expected[[0, 5]])
            for i in (1, 2, 3, 4):
                assert not result[i].isfinite().all()
        total = sum(part[[0, 5]].sum() for part in out)
        (grad,) = torch.autograd.grad(total, x)
        assert grad[[0, 5]].isfinite().all()
        if mode == "mask":
            assert torch.equal(grad[1:5], torch.zeros_like(grad[1:5]))
            assert all(part[1:5].isnan().any(0).any() for part in out)
    for i, text in ((1, "not finite"), (2, "positive determinant"), (3, "positive")):
        with pytest.raises(ValueError, match=text):
            function(bad[i], validate="raise")
    with pytest.raises(ValueError, match=r"g\[1\]"):
        function(bad.numpy())
    with pytest.raises(ValueError, match="validate: expected one of"):
        function(g, validate="sometimes")


@pytest.mark.parametrize("function", [sym_log, sym_sqrt, sym_inv_sqrt])
@pytest.mark.parametrize("n", [2, 3])
def test_matrices_that_are_not_positive_definite(function, n, make_spd):
    x = make_spd(3, n=n)
    clean = function(x)
    x[1] = -x[1]
    for mode in ("off", "mask"):
        out = function(x, validate=mode)
        torch.testing.assert_close(out[[0, 2]], clean[[0, 2]])
        assert out[1].isnan().any()
    with pytest.raises(ValueError, match=r"x\[1\] is outside the set"):
        function(x, validate="raise")


@pytest.mark.parametrize("function", SYMMETRIC + GROUP)
def test_shapes_and_dtypes(function):
    name = "x" if function in SYMMETRIC else "g"
    for shape in ((2,), (2, 3), (1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            function(torch.ones(shape))
    with pytest.raises(TypeError, match="floating-point"):
        function(torch.eye(2, dtype=torch.long))
    with pytest.raises(TypeError, match="floating-point"):
        function(np.eye(2, dtype=int))
    for n in (2, 3):
        empty = function(torch.empty(3, 0, n, n))
        assert all(part.shape[:2] == (3, 0) for part in values(empty))
        for dtype in (torch.float16, torch.bfloat16):
            x = 2 * torch.eye(n, dtype=dtype)
            assert all(part.dtype == dtype for part in values(function(x)))
            exact = function(x.float())
            half = [part.to(dtype) for part in values(exact)]
            assert_equal_values(function(x), tuple(half))
    with pytest.raises(ValueError, match="side"):
        polar(torch.eye(2), "middle")


def test_autocast_computes_in_float32():
    g = torch.tensor([[1.0, 0.3, 0.1], [0.2, 1.5, 0.4], [0.0, 0.1, 0.7]])
    expected = polar_log(g)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal_values(polar_log(g), expected)


@pytest.mark.parametrize("n", [3, 5])
def test_general_logarithm(n, generator):
    g = random_gl(5, n=n, generator=generator, scale=0.6)
    expected = np.stack([scipy.linalg.logm(a) for a in g.numpy()])
    np.testing.assert_allclose(general_log(g), expected, atol=1e-11)
    points = torch.stack([g[0], torch.eye(n, dtype=torch.float64)]).requires_grad_()
    fast = n > 3  # by random projections
    assert gradcheck(general_log, (points,), check_forward_ad=True, fast_mode=fast)
    one = points[:1].detach().requires_grad_()
    assert gradgradcheck(general_log, (one,), fast_mode=fast)
    nothing = torch.diag(torch.tensor([-1.0] + [2.0] * (n - 1)).double())
    assert general_log(nothing).isnan().all()


@pytest.mark.compile
@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_compiles_without_graph_breaks(n, generator):
    def everything(g):
        y, r = polar_log(g)
        k, a, upper = iwasawa(g)
        s, h = scale_split(g)
        return sym_exp(y) @ r + sym_sqrt(polar(g, "right").p) + k @ a @ upper + s * h

    g = random_gl(n=n, generator=generator).requires_grad_()
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(g), everything(g))
    (grad,) = torch.autograd.grad(compiled(g).sum(), g)
    (expected,) = torch.autograd.grad(everything(g).sum(), g)
    torch.testing.assert_close(grad, expected)
