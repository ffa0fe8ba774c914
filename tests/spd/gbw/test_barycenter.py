"""The GBW mean: stationarity, agreement, batching, derivatives, refusal."""

import math
import warnings

import pytest
import torch
from pyriemann.geometry.mean import mean_wasserstein
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.linalg import powm
from manifoldkit.spd import gbw_distance, gbw_geodesic, gbw_log, gbw_mean
from manifoldkit.spd.gbw.metric import transport

POWERS = [1.0, 0.5, 1.5, -1.0]
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def _residual(mean, x, weights=None):
    t = transport(mean, x)
    total = t.mean(0) if weights is None else (weights[:, None, None] * t).sum(0)
    n = mean.shape[-1]
    return float((total - torch.eye(n, dtype=x.dtype)).norm()) / math.sqrt(n)


@pytest.mark.parametrize(
    ("count", "n", "condition"),
    [(100, 8, 1e2), (100, 22, 1e2), (60, 22, 1e5), (40, 10, 1e8), (3, 1, 10.0)],
)
def test_stationarity(make_spd, count, n, condition):
    x = make_spd(count, n=n, condition=condition)
    mean, info = gbw_mean(x, return_info=True)
    assert bool(info.converged)
    assert int(info.n_iter) <= 12
    assert _residual(mean, x) <= max(2e-10, 1e-15 * condition)


def test_wildly_scaled_matrices(rng, generator):
    """Where roots of rounding errors stop the plain iteration, the other takes over."""
    x = torch.randn(30, 2, 20, dtype=torch.float64, generator=generator)
    scale = torch.randn(30, 2, dtype=torch.float64, generator=generator)
    x = x * (1.5 * scale + torch.tensor([0.0, 7.0])).exp()[..., None]
    x = x @ x.mT
    mean, info = gbw_mean(x, return_info=True)
    assert bool(info.converged)
    assert int(info.n_iter) <= 15
    assert _residual(mean, x) <= 1e-8


def test_agrees_with_pyriemann(make_spd):
    x = make_spd(30, n=6)
    expected = torch.from_numpy(mean_wasserstein(x.numpy(), tol=1e-13))
    torch.testing.assert_close(gbw_mean(x), expected, **CLOSE)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_units_do_not_matter(make_spd, scale):
    x = make_spd(30, n=6)
    mean, info = gbw_mean(x, return_info=True)
    scaled, scaled_info = gbw_mean(x * scale, return_info=True)
    torch.testing.assert_close(scaled / scale, mean, rtol=1e-9, atol=0)
    assert int(info.n_iter) == int(scaled_info.n_iter)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("with_metric", [False, True])
def test_mean_of_logarithms_vanishes(make_spd, power, with_metric):
    x, M = make_spd(20), make_spd() if with_metric else None
    weights = torch.linspace(0, 1, 20, dtype=x.dtype)
    mean = gbw_mean(x, weights, M, power)
    logs = gbw_log(mean, x, M, power)
    total = (weights[:, None, None] * logs).sum(0)
    assert float(total.norm()) <= 1e-8 * float(logs.norm())
    # and a move away raises the cost
    cost = (weights * gbw_distance(mean, x, M, power, squared=True)).sum()
    for t in (0.01, -0.01):
        other = gbw_geodesic(mean, x[0], t, M, power)
        moved = (weights * gbw_distance(other, x, M, power, squared=True)).sum()
        assert float(moved) > float(cost)


def test_special_cases(make_spd):
    x = make_spd(5)
    torch.testing.assert_close(gbw_mean(x[:1]), x[0], **CLOSE)
    torch.testing.assert_close(gbw_mean(x[:1].expand(7, 4, 4)), x[0], **CLOSE)
    weights = torch.tensor([0.7, 0.3], dtype=x.dtype)
    torch.testing.assert_close(
        gbw_mean(x[:2], weights), gbw_geodesic(x[0], x[1], 0.3), **CLOSE
    )
    s = torch.rand(6, 4, dtype=x.dtype) + 0.1
    commuting = torch.diag_embed(s)
    torch.testing.assert_close(
        gbw_mean(commuting), torch.diag(s.sqrt().mean(0) ** 2), **CLOSE
    )


def test_metric_matrix_and_power_are_pullbacks(make_spd):
    x, M = make_spd(9), make_spd()
    root = powm(M, 0.5)
    inverse = torch.linalg.inv(root)
    flat = gbw_mean(inverse @ powm(x, 0.5) @ inverse)
    expected = root @ flat @ root
    torch.testing.assert_close(
        gbw_mean(x, M=M, power=0.5), expected @ expected, rtol=1e-7, atol=1e-8
    )


def test_batches_and_ragged_groups(make_spd):
    x = make_spd(3, 2, 7)
    weights = torch.ones(3, 2, 7, dtype=x.dtype)
    weights[0, 1, 4:] = 0
    weights[2, 0, :6] = 0
    x[0, 1, 4:] = math.nan  # padding may be anything
    x[2, 0, 0] = 0
    x[2, 0, 1] = -1
    M = make_spd(2)
    for power in POWERS:
        mean, info = gbw_mean(x, weights, M, power, return_info=True)
        assert mean.shape == (3, 2, 4, 4)
        assert info.residual.shape == (3, 2)
        assert bool(info.converged.all())
        torch.testing.assert_close(
            mean[0, 1], gbw_mean(x[0, 1, :4], M=M[1], power=power), **CLOSE
        )
        torch.testing.assert_close(mean[2, 0], x[2, 0, 6], **CLOSE)
        torch.testing.assert_close(
            mean[1, 1], gbw_mean(x[1, 1], M=M[1], power=power), **CLOSE
        )
    y = x.clone().requires_grad_()
    gbw_mean(y, weights, M, 1.5).sum().backward()
    assert bool(y.grad.isfinite().all())
    assert float(y.grad[weights == 0].abs().max()) == 0


def test_batch_shapes_broadcast(make_spd):
    x, M = make_spd(6), make_spd(3)
    weights = torch.rand(2, 1, 6, dtype=x.dtype)
    mean = gbw_mean(x, weights, M)
    assert mean.shape == (2, 3, 4, 4)
    torch.testing.assert_close(mean[1, 2], gbw_mean(x, weights[1, 0], M[2]), **CLOSE)
    assert gbw_mean(x.expand(0, 6, 4, 4)).shape == (0, 4, 4)
    warm = gbw_mean(x, M=M[0], init=x[0])
    torch.testing.assert_close(warm, gbw_mean(x, M=M[0]), **CLOSE)
    _, info = gbw_mean(x, M=M[0], init=warm, return_info=True)
    assert int(info.n_iter) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(make_spd, dtype):
    x = make_spd(12)
    low, info = gbw_mean(x.to(dtype), return_info=True)
    assert low.dtype == dtype
    assert bool(info.converged)
    tol = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(low.double(), gbw_mean(x), rtol=tol, atol=tol)


def test_singular_matrices_among_regular_ones(make_spd):
    x = make_spd(8)
    x[0] = torch.outer(x[0, 0], x[0, 0])
    mean = gbw_mean(x, validate=True)
    assert _residual(mean, x) < 1e-7


def test_a_bad_matrix_spoils_its_own_mean_alone(make_spd):
    x = make_spd(3, 5)
    good = gbw_mean(x)
    x[1, 2] = math.nan
    out = gbw_mean(x)
    torch.testing.assert_close(out[[0, 2]], good[[0, 2]])
    assert bool(out[1].isnan().all())
    with pytest.raises(ValueError, match=r"x\[1, 2\] is not finite"):
        gbw_mean(x, validate=True)


# --- derivatives ---


def _arguments(make_spd, kind):
    if kind == "identity":
        x = torch.eye(3, dtype=torch.float64).expand(4, 3, 3).clone()
        M = torch.eye(3, dtype=torch.float64)
    else:
        x, M = make_spd(2, 4, n=3), make_spd(2, n=3)
    weights = torch.linspace(0.2, 1, 4, dtype=x.dtype)
    return [t.requires_grad_() for t in (x, weights, M)]


@pytest.mark.parametrize("power", [1.0, 0.5, 1.5])
@pytest.mark.parametrize("kind", ["identity", "random"])
def test_implicit_gradients(make_spd, kind, power):
    """Against central differences, in the matrices, the weights and the metric."""
    assert gradcheck(
        lambda x, w, m: gbw_mean(x, w, m, power, tol=1e-13),
        _arguments(make_spd, kind),
        fast_mode=True,
    )


@pytest.mark.parametrize("kind", ["identity", "random"])
def test_unrolled_gradients(make_spd, kind):
    arguments = _arguments(make_spd, kind)

    def mean(x, w, m):
        return gbw_mean(x, w, m, grad="unrolled", max_iter=2)

    assert gradcheck(mean, arguments, fast_mode=True)
    assert gradgradcheck(mean, arguments, fast_mode=True)


def test_both_gradients_agree(make_spd):
    grads = []
    x = make_spd(6, n=3)
    for grad in ("implicit", "unrolled"):
        y = x.clone().requires_grad_()
        mean = gbw_mean(y, tol=1e-12, grad=grad)
        (mean * x[0]).sum().backward()
        grads.append(y.grad)
    torch.testing.assert_close(*grads, **CLOSE)


def test_one_unrolled_step_is_the_fixed_point_map(make_spd):
    x = make_spd(6)
    start = x.mean(0)
    h = transport(start, x).mean(0)
    torch.testing.assert_close(
        gbw_mean(x, grad="unrolled", max_iter=1), h @ start @ h, **CLOSE
    )


# --- refusal ---


def test_not_converged_is_said(make_spd):
    x = make_spd(2, 20, condition=1e4)
    with pytest.warns(ConvergenceWarning, match=r"2 of 2 means.*after 1 steps: resid"):
        mean, info = gbw_mean(x, max_iter=1, return_info=True)
    assert mean.shape == (2, 4, 4)
    assert not bool(info.converged.any())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gbw_mean(x, max_iter=1, grad="unrolled")


def test_bad_arguments(make_spd):
    x = make_spd(5)
    for bad in (x[0], x[:0]):
        with pytest.raises(ValueError, match="at least one matrix"):
            gbw_mean(bad)
    with pytest.raises(ValueError, match=r"weights\[1\] is -1"):
        gbw_mean(x, torch.tensor([1.0, -1, 1, 1, 1]))
    with pytest.raises(ValueError, match="all weights are zero"):
        gbw_mean(x, torch.zeros(5))
    with pytest.raises(ValueError, match="not finite"):
        gbw_mean(x, torch.full((5,), math.nan))
    with pytest.raises(ValueError, match=r"weights: expected shape \(\.\.\., 5\)"):
        gbw_mean(x, torch.ones(4))
    with pytest.raises(ValueError, match=r"broadcast.*\(2, 5, 4, 4\).*\(3, 4, 4\)"):
        gbw_mean(x.expand(2, 5, 4, 4), M=x[:3])
    with pytest.raises(ValueError, match=r"init: .*\(3, 3\)"):
        gbw_mean(x, init=torch.eye(3))
    with pytest.raises(ValueError, match="tol"):
        gbw_mean(x, tol=0)
    with pytest.raises(ValueError, match="max_iter"):
        gbw_mean(x, max_iter=0)
    with pytest.raises(ValueError, match="grad"):
        gbw_mean(x, grad="exact")
    with pytest.raises(ValueError, match="power"):
        gbw_mean(x, power=0)
    with pytest.raises(TypeError, match="floating-point"):
        gbw_mean(x.int())
    x[3] = -x[3]
    with pytest.raises(NotOnManifoldError, match=r"x\[3\] is not positive semidef"):
        gbw_mean(x, validate=True)
    with pytest.raises(NotOnManifoldError, match="M is not positive definite"):
        gbw_mean(x[:3], M=x[3], validate=True)
