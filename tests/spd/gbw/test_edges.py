"""Units, company and condition: distance and mean at the edges of a dtype."""

import math
import warnings

import pytest
import torch

from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.spd import gbw_distance, gbw_mean
from manifoldkit.spd.gbw.metric import transport

POWERS = [1.0, 0.5, 1.5, -1.0]
# powers of 4 round nothing, so that equality is exact but for the powers
SCALES = [
    (torch.float64, 4.0**-50),
    (torch.float64, 4.0**50),
    (torch.float32, 4.0**-25),
    (torch.float32, 4.0**25),
    (torch.float32, 4.0**-50),
]


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("with_metric", [False, True])
def test_both_are_homogeneous(make_spd, dtype, scale, power, with_metric):
    a, b = make_spd(6, dtype=dtype), make_spd(6, dtype=dtype)
    M = make_spd(dtype=dtype) if with_metric else None
    close = {"rtol": 1e-11 if dtype == torch.float64 else 1e-4, "atol": 0}
    factor = scale ** (power / 2)
    if torch.finfo(dtype).tiny < factor < torch.finfo(dtype).max:
        torch.testing.assert_close(
            gbw_distance(scale * a, scale * b, M, power) / factor,
            gbw_distance(a, b, M, power),
            **close,
        )
    options = {"power": power, "tol": 1e-10 if dtype == torch.float64 else 1e-5}
    mean = gbw_mean(a, M=M, **options)
    torch.testing.assert_close(
        gbw_mean(scale * a, M=M, **options) / scale, mean, **close
    )
    if with_metric:
        torch.testing.assert_close(gbw_mean(a, M=scale * M, **options), mean, **close)


@pytest.mark.parametrize(("dtype", "scale"), SCALES[:4])
def test_gradients_are_homogeneous(make_spd, dtype, scale):
    a, b = make_spd(6, dtype=dtype), make_spd(6, dtype=dtype)
    grads = []
    for s in (1.0, scale):
        x = (s * a).requires_grad_()
        (gbw_distance(x, s * b) / s**0.5).sum().backward()
        (gbw_mean(x, tol=1e-6) / s).sum().backward()
        grads.append(x.grad * s)
    rtol = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(*grads, rtol=rtol, atol=rtol)


def test_matrices_of_all_sizes_in_one_call(make_spd):
    """Each is computed in its own unit: the tiny ones do not drown."""
    x, y = make_spd(5, dtype=torch.float32), make_spd(5, dtype=torch.float32)
    scale = 4.0 ** torch.tensor([-50.0, -20, 0, 20, 50])
    together = gbw_distance(scale[:, None, None] * x, scale[:, None, None] * y)
    torch.testing.assert_close(together / scale.sqrt(), gbw_distance(x, y))
    batch = torch.stack([x, y], 1)
    together = gbw_mean(scale[:, None, None, None] * batch, tol=1e-5)
    torch.testing.assert_close(
        together / scale[:, None, None], gbw_mean(batch, tol=1e-5), rtol=1e-4, atol=1e-5
    )


def _spoil(kind, x):
    x = x.clone()
    x[1] = {
        "nan": torch.full_like(x[1], math.nan),
        "inf": torch.full_like(x[1], math.inf),
        "one nan": x[1].masked_fill(torch.eye(4, dtype=torch.bool), math.nan),
        "indefinite": -x[1],
        "zero": torch.zeros_like(x[1]),
        "rank one": torch.ones_like(x[1]),
    }[kind]
    return x


KINDS = ["nan", "inf", "one nan", "indefinite", "zero", "rank one"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_bad_matrix_leaves_values_and_gradients_of_the_others(
    make_spd, kind, dtype
):
    a, b = make_spd(4, dtype=dtype), make_spd(4, dtype=dtype)
    b[2] = a[2]  # the accurate way is taken in the same call
    bad, others = _spoil(kind, a), [0, 2, 3]
    close = {"rtol": 1e-9 if dtype == torch.float64 else 1e-3}
    close["atol"] = close["rtol"]
    for first, second in ((bad, b), (b, bad)):
        results = []
        for rows in (range(4), others):
            x, y = (t[list(rows)].requires_grad_() for t in (first, second))
            value = gbw_distance(x, y, squared=True)
            value.sum().backward()
            results.append([value.detach(), x.grad, y.grad])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one[others], other, **close)
        assert bool(results[0][0][1].isnan()) == (kind not in ("zero", "rank one"))


@pytest.mark.parametrize("kind", KINDS[:4])
def test_one_bad_mean_leaves_the_others(make_spd, kind):
    x = make_spd(4, 5)
    others = [0, 2, 3]
    bad = x.clone()
    bad[1, 3] = _spoil(kind, x[:2, 3])[1]
    results = []
    for batch in (bad, x[others]):
        leaf = batch.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mean = gbw_mean(leaf)
        mean.sum().backward()
        results.append((mean.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0][others], results[1][0])
    torch.testing.assert_close(results[0][1][others], results[1][1])
    assert not bool(results[0][0][1].isfinite().all())


@pytest.mark.parametrize("condition", [1e4, 1e7, 1e12])
@pytest.mark.parametrize("n", [2, 5])
def test_ill_conditioned_float32_has_finite_gradients(make_spd, condition, n):
    x = make_spd(6, n=n, condition=condition, dtype=torch.float32).requires_grad_()
    y = make_spd(6, n=n, condition=condition, dtype=torch.float32).requires_grad_()
    gbw_distance(x, y).sum().backward()
    assert bool(x.grad.isfinite().all())
    assert bool(y.grad.isfinite().all())
    x.grad = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gbw_mean(x).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_gradients_of_close_pairs_are_those_of_float64(make_spd):
    """Where d^2 has lost its digits, roots of a product of the two would be wrong."""
    a = make_spd(5, n=6, condition=1e5, dtype=torch.float32)
    b = a + 1e-6 * make_spd(5, n=6, dtype=torch.float32)
    grads = []
    for dtype in (torch.float32, torch.float64):
        x, y = (t.to(dtype, copy=True).requires_grad_() for t in (a, b))
        gbw_distance(x, y, squared=True).sum().backward()
        grads.append([x.grad.double(), y.grad.double()])
    for low, high in zip(*grads, strict=True):
        size = high.abs().amax((-2, -1), keepdim=True)
        assert bool(((low - high).abs() <= 0.05 * size).all())


def test_the_gradient_at_a_singular_matrix_is_along_its_range(make_spd):
    """Across the range it is infinite; along it, that of the smaller problem."""
    b = make_spd(n=4)
    k = torch.zeros(4, 2, dtype=torch.float64)
    k[:2] = torch.linalg.cholesky(make_spd(n=2))
    step = torch.zeros(4, 4, dtype=torch.float64)
    step[:2, :2] = make_spd(n=2)
    x = (k @ k.mT).requires_grad_()
    gbw_distance(x, b, squared=True).backward()
    h = 1e-6
    up, down = (gbw_distance(x + s * h * step, b, squared=True) for s in (1, -1))
    slope = (x.grad * step).sum()
    torch.testing.assert_close(slope, (up - down).detach() / (2 * h), rtol=1e-6, atol=0)


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e9])
def test_the_derivative_is_one_minus_the_transport(make_spd, condition):
    a, b = make_spd(4, condition=condition), make_spd(4, condition=condition)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    gbw_distance(x, y, squared=True).sum().backward()
    eye = torch.eye(4, dtype=a.dtype)
    for leaf, expected in ((x, transport(a, b)), (y, transport(b, a))):
        size = expected.abs().amax((-2, -1), keepdim=True)
        gap = (leaf.grad - (eye - expected)).abs() / size
        assert float(gap.max()) < 1e-9 * condition**0.5
