"""The GBW distance, log, exp, geodesic and tangent coordinates."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyriemann.geometry.distance import distance_riemann, distance_wasserstein
from pyriemann.geometry.tangentspace import exp_map_wasserstein, log_map_wasserstein
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import logm, powm
from manifoldkit.spd import gbw_distance, gbw_exp, gbw_geodesic, gbw_log
from manifoldkit.spd.gbw.metric import transport
from manifoldkit.spd.gbw.tangent import from_tangent_vector, tangent_vector

POWERS = [1.0, 0.5, 1.5, 2.0, -1.0]
CLOSE = {"rtol": 1e-10, "atol": 1e-11}
FUNCTIONS = [
    gbw_distance,
    gbw_log,
    gbw_exp,
    lambda a, b, **k: gbw_geodesic(a, b, 0.3, **k),
]


@pytest.fixture(params=[False, True], ids=["M=I", "M"])
def matrix(request, make_spd):
    return make_spd(n=4) if request.param else None


def _reference_distance(a, b):
    """50 digits."""
    mpmath.mp.dps = 50
    a, b = mpmath.matrix(a.tolist()), mpmath.matrix(b.tolist())

    def root(x):
        s, u = mpmath.eigsy(x)
        return u * mpmath.diag([mpmath.sqrt(v) for v in s]) * u.T

    inner = root(a) * b * root(a)
    s = mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True)
    total = sum(a[i, i] + b[i, i] - 2 * mpmath.sqrt(s[i]) for i in range(a.rows))
    return float(mpmath.sqrt(total))


# --- values ---


def test_agrees_with_pyriemann(make_spd):
    a, b = make_spd(7), make_spd()
    x, y = a.numpy(), b.numpy()
    torch.testing.assert_close(
        gbw_distance(a, b), torch.from_numpy(distance_wasserstein(x, y)), **CLOSE
    )
    log = gbw_log(b, a)
    torch.testing.assert_close(
        log, torch.from_numpy(log_map_wasserstein(x, y)), **CLOSE
    )
    expected = torch.from_numpy(exp_map_wasserstein(log.numpy(), y))
    torch.testing.assert_close(gbw_exp(b, log), expected, **CLOSE)


def test_trace_formula_with_metric(make_spd):
    a, b, M = make_spd(), make_spd(), make_spd()
    inverse = torch.linalg.inv(M)
    s = torch.linalg.eigvals(inverse @ a @ inverse @ b).real
    trace = (inverse @ (a + b)).trace()
    expected = trace - 2 * s.sqrt().sum()
    torch.testing.assert_close(gbw_distance(a, b, M, squared=True), expected, **CLOSE)


@pytest.mark.parametrize("power", POWERS)
def test_power_is_a_pullback(make_spd, matrix, power):
    a, b = make_spd(3), make_spd(3)
    flat = gbw_distance(powm(a, power), powm(b, power), matrix)
    torch.testing.assert_close(
        gbw_distance(a, b, matrix, power), flat / abs(power), **CLOSE
    )
    middle = gbw_geodesic(powm(a, power), powm(b, power), 0.4, matrix)
    torch.testing.assert_close(
        gbw_geodesic(a, b, 0.4, matrix, power), powm(middle, 1 / power), **CLOSE
    )


@pytest.mark.parametrize("power", POWERS)
def test_any_factor_of_the_metric_is_an_isometry(make_spd, power):
    a, b, M = make_spd(3), make_spd(3), make_spd()
    root = torch.linalg.inv(powm(M, 0.5))  # not the Cholesky factor
    x, y = (root @ powm(t, power) @ root for t in (a, b))
    torch.testing.assert_close(
        gbw_distance(a, b, M, power), gbw_distance(x, y) / abs(power), **CLOSE
    )


def test_small_power_is_half_the_log_euclidean_distance(make_spd):
    a, b = make_spd(5), make_spd(5)
    expected = (logm(a) - logm(b)).square().sum((-2, -1)).sqrt() / 2
    torch.testing.assert_close(
        gbw_distance(a, b, power=1e-3), expected, rtol=1e-3, atol=0
    )


def test_metric_matrix_at_the_point_is_a_quarter_of_affine_invariant(make_spd):
    x = make_spd(n=4)
    step = make_spd(n=4) - make_spd(n=4)
    for h in (1e-3, 1e-4):
        gbw = gbw_distance(x, x + h * step, M=x)
        airm = distance_riemann(x.numpy(), (x + h * step).numpy())
        assert float(gbw) == pytest.approx(airm / 2, rel=20 * h)


def test_invariance_under_orthogonal_congruence(make_spd, generator):
    a, b, M = make_spd(3), make_spd(3), make_spd()
    x = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    r, _ = torch.linalg.qr(x)

    def turn(t):
        return r @ t @ r.mT

    for power in POWERS:
        torch.testing.assert_close(
            gbw_distance(turn(a), turn(b), turn(M), power),
            gbw_distance(a, b, M, power),
            **CLOSE,
        )
        torch.testing.assert_close(
            gbw_log(turn(a), turn(b), turn(M), power),
            turn(gbw_log(a, b, M, power)),
            **CLOSE,
        )


@pytest.mark.parametrize("power", POWERS)
def test_round_trips(make_spd, matrix, power):
    a, b = make_spd(3, 1), make_spd(2)
    v = gbw_log(a, b, matrix, power)
    assert v.shape == (3, 2, 4, 4)
    torch.testing.assert_close(v, v.mT)
    back = gbw_exp(a, v, matrix, power, check_domain=True)
    torch.testing.assert_close(back, b.expand_as(back), **CLOSE)
    z = tangent_vector(a, b, matrix, power)
    torch.testing.assert_close(
        z.norm(dim=-1), gbw_distance(a, b, matrix, power), rtol=0, atol=1e-12
    )
    back = from_tangent_vector(a, z, matrix, power)
    torch.testing.assert_close(back, b.expand_as(back), **CLOSE)
    torch.testing.assert_close(
        gbw_log(a, a, matrix, power), torch.zeros_like(a), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("power", POWERS)
def test_geodesic_has_constant_speed(make_spd, matrix, power):
    a, b = make_spd(3), make_spd(3)
    d = gbw_distance(a, b, matrix, power)
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x = gbw_geodesic(a, b, t[:, None], matrix, power)
    assert x.shape == (3, 3, 4, 4)
    torch.testing.assert_close(
        gbw_distance(a, x, matrix, power), t[:, None] * d, rtol=1e-9, atol=1e-10
    )
    torch.testing.assert_close(x[2], b, **CLOSE)
    same = gbw_exp(a, 0.25 * gbw_log(a, b, matrix, power), matrix, power)
    torch.testing.assert_close(x[1], same, **CLOSE)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from(POWERS),
    st.floats(0, 4),
    st.integers(0, 2**31),
)
def test_metric_axioms(n, power, log_condition, seed):
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    q, _ = torch.linalg.qr(torch.randn(4, n, n, **options))
    s = 10 ** (-log_condition * torch.rand(4, n, **options))
    a, b, c, M = (q * s[:, None]) @ q.mT
    ab, ba, bc, ac = (
        gbw_distance(x, y, M, power) for x, y in ((a, b), (b, a), (b, c), (a, c))
    )
    # rounding of the powers and of the whitening
    size = float(torch.linalg.inv(M).trace() * powm(a, power).trace()) ** 0.5
    small = 1e-9 * float(ab + bc) + 1e-12 * size * 10**log_condition
    assert float(ab) >= 0
    assert float(ab) == pytest.approx(float(ba), abs=small)
    assert float(ac) <= float(ab + bc) + small
    assert float(gbw_distance(a, a, M, power)) <= small


# --- accuracy ---


@pytest.mark.parametrize("exponent", range(1, 14))
def test_distance_of_nearly_equal_matrices(make_spd, exponent):
    x = make_spd(n=6)
    y = x + 10.0**-exponent * (make_spd(n=6) - make_spd(n=6)) / 10
    expected = _reference_distance(x, y)
    assert abs(float(gbw_distance(x, y)) - expected) < 1e-14
    assert abs(float(gbw_distance(x[None].expand(3, 6, 6), y)[2]) - expected) < 1e-14


@pytest.mark.parametrize("exponent", range(1, 7))
def test_distance_of_nearly_equal_matrices_in_float32(make_spd, exponent):
    x = make_spd(n=6).float()
    y = x + 10.0**-exponent * (make_spd(n=6) - make_spd(n=6)).float()
    y = (y + y.mT) / 2
    expected = _reference_distance(x.double(), y.double())
    assert abs(float(gbw_distance(x, y)) - expected) < 1e-5


def test_cancelling_entries_of_a_batch_do_not_touch_the_others(make_spd):
    x = make_spd(6)
    y = x.clone()
    y[::2] = make_spd(3)
    y[1] += 1e-9 * make_spd()
    batch = gbw_distance(x, y)
    single = torch.stack([gbw_distance(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(batch, single, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("condition", "rtol"), [(1e3, 1e-13), (1e6, 1e-11), (1e10, 1e-7)]
)
def test_transport_solves_its_equation(make_spd, condition, rtol):
    g, x = make_spd(5, n=8, condition=condition), make_spd(5, n=8, condition=condition)
    t = transport(g, x)
    gap = (t @ g @ t - x).norm(dim=(-2, -1)) / x.norm(dim=(-2, -1))
    size = t.norm(dim=(-2, -1)) ** 2 * g.norm(dim=(-2, -1))
    assert bool((gap <= rtol * size).all())


def test_rank_deficient_points(make_spd):
    a = make_spd(2)
    v = torch.tensor([1.0, 2, 0, 0], dtype=torch.float64)
    b = torch.outer(v, v)
    expected = gbw_distance(a, b + 1e-16 * torch.eye(4, dtype=a.dtype))
    for distance in (gbw_distance(a, b), gbw_distance(b, a)):
        torch.testing.assert_close(distance, expected, rtol=0, atol=1e-6)
    assert float(gbw_distance(b, b)) < 1e-7
    torch.testing.assert_close(gbw_exp(a, gbw_log(a, b)), b.expand(2, 4, 4), **CLOSE)
    gbw_log(a, b, validate=True)
    with pytest.raises(NotOnManifoldError, match="base is not positive definite"):
        gbw_log(b, a, validate=True)
    x = a.clone().requires_grad_()
    gbw_distance(x, b).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_exp_outside_the_domain():
    base = torch.eye(2, dtype=torch.float64)
    far = torch.diag(torch.tensor([-6.0, 0.0], dtype=torch.float64))
    # I + L = diag(1 - 3, 1): the geodesic came back from the boundary
    torch.testing.assert_close(gbw_exp(base, far)[0, 0], base[0, 0] * 4)
    with pytest.raises(NotOnManifoldError, match=r"tangent\[1\] is outside.*-2.0e\+00"):
        gbw_exp(base, torch.stack([0 * far, far]), check_domain=True)
    with pytest.raises(NotOnManifoldError, match="tangent is outside"):
        gbw_exp(base, far, check_domain=True)


# --- dtypes, shapes, bad entries ---


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(make_spd, function, dtype):
    a, b, M = make_spd(3), make_spd(3), make_spd()
    exact = function(a, b, M=M, power=0.5)
    low = function(a.to(dtype), b.to(dtype), M=M.to(dtype), power=0.5)
    assert low.dtype == dtype
    tol = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.5}[dtype]
    torch.testing.assert_close(low.double(), exact, rtol=tol, atol=tol)
    assert function(a, b.float()).dtype == torch.float64


@pytest.mark.parametrize("function", FUNCTIONS)
def test_batch_shapes(make_spd, function):
    event = () if function is gbw_distance else (4, 4)
    a, b, M = make_spd(2, 1), make_spd(3), make_spd(5, 1, 1)
    assert function(a, b, M=M).shape == (5, 2, 3, *event)
    assert function(a[0, 0], b[0]).shape == event
    assert function(a[:0], b).shape == (0, 3, *event)
    full = function(a, b, M=M, power=0.5)
    torch.testing.assert_close(
        full[3, 1, 2], function(a[1, 0], b[2], M=M[3, 0, 0], power=0.5), **CLOSE
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("power", [1.0, 0.5, 1.5])
def test_a_bad_matrix_spoils_itself_alone(make_spd, function, power):
    a, b = make_spd(4), make_spd(4)
    good = function(a, b, power=power)
    a, b = a.clone(), b.clone()
    a[1], b[2] = math.nan, math.nan
    out = function(a, b, power=power)
    torch.testing.assert_close(out[[0, 3]], good[[0, 3]])
    assert bool(out[1:3].isnan().flatten(1 if out.ndim > 1 else 0).any(-1).all())
    if function is not gbw_exp:
        with pytest.raises(ValueError, match=r"\[1\] is not finite"):
            function(a, b, power=power, validate=True)
    b = b.clone()
    b[2] = torch.eye(4)
    a[1] = -torch.eye(4)
    out = function(a, b, power=power)
    assert bool(out[[0, 2, 3]].isfinite().all())
    assert bool(out[1].isnan().any())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_arguments(make_spd, function):
    a = make_spd(2)
    for power in (0.0, 1e-4, math.nan, math.inf, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="power: expected a finite number"):
            function(a, a, power=power)
    with pytest.raises(ValueError, match=r"expected square.*\(2, 4, 3\)"):
        function(a[..., :3], a)
    with pytest.raises(ValueError, match=r"\(\.\.\., 4, 4\).*\(2, 3, 3\)"):
        function(a, a[..., :3, :3])
    with pytest.raises(ValueError, match=r"M: .*\(\.\.\., 4, 4\).*\(3, 3\)"):
        function(a, a, M=torch.eye(3))
    with pytest.raises(
        ValueError, match=r"batch shapes that broadcast.*\(2, 4, 4\).*\(3, 4, 4\)"
    ):
        function(a, make_spd(3))
    with pytest.raises(TypeError, match="floating-point"):
        function(a, a.int())
    with pytest.raises(TypeError, match="tensor"):
        function(a, a.numpy())
    with pytest.raises(NotOnManifoldError, match="M is not positive definite"):
        function(a, a, M=-torch.eye(4, dtype=a.dtype), validate=True)
    skew = a.clone()
    skew[1, 0, 1] += 1
    with pytest.raises(NotOnManifoldError, match=r"\[1\] is not symmetric"):
        function(skew, a, validate=True)


def test_geodesic_position_shape(make_spd):
    a = make_spd(2)
    with pytest.raises(ValueError, match=r"t: .*\(2, 4, 4\).*\(3,\)"):
        gbw_geodesic(a, a, torch.zeros(3))


# --- derivatives ---


def _points(make_spd, kind):
    eye = torch.eye(3, dtype=torch.float64)
    if kind == "identity":
        return [eye.clone(), 2 * eye, eye.clone()]
    if kind == "repeated":
        return [torch.diag(eye.new_tensor([1, 1, 2.0])), make_spd(n=3), eye.clone()]
    return [make_spd(2, 1, n=3), make_spd(2, n=3), make_spd(n=3)]


@pytest.mark.parametrize("power", [1.0, 0.5, 1.5])
@pytest.mark.parametrize("kind", ["identity", "repeated", "random"])
def test_gradients(make_spd, kind, power):
    points = [x.requires_grad_() for x in _points(make_spd, kind)]
    for function in (
        lambda a, b, m: gbw_distance(a, b, m, power),
        lambda a, b, m: gbw_distance(a, b, m, power, squared=True),
        lambda a, b, m: gbw_log(a, b, m, power),
        lambda a, b, m: gbw_exp(a, 0.1 * b, m, power),
        lambda a, b, m: gbw_geodesic(a, b, 0.3, m, power),
        lambda a, b, m: tangent_vector(a, b, m, power),
        lambda a, b, m: from_tangent_vector(
            a, 0.05 * tangent_vector(a, b, m, power), m, power
        ),
    ):
        assert gradcheck(function, points, fast_mode=True)


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["identity", "random"])
def test_second_derivatives(make_spd, kind, power):
    points = [x.requires_grad_() for x in _points(make_spd, kind)]
    for function in (
        lambda a, b, m: gbw_distance(a, b, m, power, squared=True),
        lambda a, b, m: gbw_log(a, b, m, power),
        lambda a, b, m: gbw_exp(a, 0.1 * b, m, power),
        lambda a, b, m: gbw_geodesic(a, b, 0.3, m, power),
    ):
        assert gradgradcheck(function, points, fast_mode=True)


def test_gradient_in_the_position(make_spd):
    a, b = make_spd(n=3), make_spd(n=3)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: gbw_geodesic(a, b, t, power=0.5), [t])


@pytest.mark.parametrize("power", [1.0, 0.5, 1.5])
def test_gradient_of_the_distance_to_itself_is_zero(make_spd, matrix, power):
    x = make_spd(5, condition=1e4)
    y = x.clone().requires_grad_()
    gbw_distance(y, x, matrix, power).sum().backward()
    assert float(y.grad.abs().max()) == 0
    y.grad = None
    gbw_distance(y[:, None], x, matrix, power).sum().backward()
    assert bool(y.grad.isfinite().all())


def test_gradient_near_itself_is_a_unit_step(make_spd):
    """The distance grows at unit speed along a geodesic, however short."""
    x, y = make_spd(), make_spd()
    for t in (1e-2, 1e-6, 1e-9):
        z = gbw_geodesic(x, y, t).requires_grad_()
        d = gbw_distance(x, z)
        d.backward()
        speed = (z.grad * gbw_log(z.detach(), x)).sum() / d.detach()
        assert float(speed.detach()) == pytest.approx(-1, abs=1e-4)


def test_gradient_with_respect_to_a_set_of_centers(make_spd):
    x, centers = make_spd(5), make_spd(3).requires_grad_()
    gbw_distance(x[:, None], centers, squared=True).sum().backward()
    expected = torch.eye(4, dtype=x.dtype) - transport(centers.detach(), x[:, None])
    torch.testing.assert_close(centers.grad, expected.sum(0), **CLOSE)


@pytest.mark.parametrize("power", [0.5, 0.7, 1.0, 1.5, 2.0])
def test_singular_points_with_every_positive_power(power, make_spd, generator):
    """Rounding takes their zero eigenvalues below zero, where a power is no number."""
    v = torch.randn(20, 3, 1, dtype=torch.float64, generator=generator)
    base, point = make_spd(n=3), v @ v.mT
    regular = point + 1e-14 * torch.eye(3, dtype=torch.float64)
    close = {"rtol": 1e-4, "atol": 1e-4 if power >= 1 else 1e-2}
    for f in (gbw_distance, gbw_log):
        found = f(base, point, power=power, validate=True)
        torch.testing.assert_close(found, f(base, regular, power=power), **close)
    end = gbw_geodesic(base, point, 1.0, power=power)
    torch.testing.assert_close(end, point, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [None, 1j, "1", True, math.nan])
def test_powers_that_are_no_numbers(power):
    x = torch.eye(2)
    with pytest.raises(ValueError, match="power: expected a finite number"):
        gbw_distance(x, x, power=power)
