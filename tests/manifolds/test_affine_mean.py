"""Affine-invariant means and logarithms: known answers, invariances, a peer."""

import warnings

import mpmath
import pytest
import torch
from pyriemann.geometry.mean import mean_riemann

from manifoldkit.manifolds import SPD
from manifoldkit.optim import karcher_mean

P = SPD("airm")


def _gap(found, expected):
    """Affine-invariant distance: relative in every direction."""
    return float(P.dist(found.double(), expected.double()).max())


def _gradient(mean, x):
    """Length of the gradient at a mean, with 30 digits."""
    with mpmath.workdps(30):
        factor = mpmath.cholesky(mpmath.matrix(mean.tolist()))
        inverse = factor**-1
        total = mpmath.zeros(len(mean))
        for one in x:
            s, u = mpmath.eigsy(inverse * mpmath.matrix(one.tolist()) * inverse.T)
            total += u * mpmath.diag([mpmath.log(v) for v in s]) * u.T
        return float(mpmath.norm(total / len(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [1e2, 1e7, 1e12])
def test_commuting_matrices_have_the_mean_of_their_logarithms(
    make_spd, generator, dtype, condition
):
    if dtype == torch.float32 and condition > 1e7:
        return
    turn = torch.linalg.qr(make_spd(n=5))[0] if dtype == torch.float64 else torch.eye(5)
    turn = turn if condition < 1e12 else torch.eye(5)
    exponent = torch.rand(9, 5, dtype=torch.float64, generator=generator)
    s = condition**-exponent
    x = (turn.double() * s[:, None]) @ turn.double().T
    x = ((x + x.mT) / 2).to(dtype)
    expected = (turn.double() * s.log().mean(0).exp()) @ turn.double().T
    found = karcher_mean(P, x)
    assert bool(found.converged)
    rounding = torch.finfo(dtype).eps * (condition if turn[0, 0] != 1 else 1)
    assert _gap(found.mean, expected) < max(10 * rounding, 1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e5])
def test_two_matrices_have_a_closed_form(make_spd, condition):
    a, b = make_spd(condition=condition), make_spd(condition=condition)
    found = karcher_mean(P, torch.stack([a, b])).mean
    # G a^-1 G = b
    gap = found @ torch.linalg.inv(a) @ found - b
    assert float(gap.norm() / b.norm()) < 1e-14 * condition**1.5
    t = karcher_mean(
        P, torch.stack([a, b]), torch.tensor([0.7, 0.3], dtype=a.dtype)
    ).mean
    assert _gap(t, P.geodesic(0.3, a, b)) < 1e-14 * condition**1.5


@pytest.mark.parametrize(("n", "condition"), [(3, 1e2), (6, 1e4)])
def test_stationarity_with_thirty_digits(make_spd, n, condition):
    x = make_spd(5, n=n, condition=condition)
    found = karcher_mean(P, x)
    assert bool(found.converged)
    assert _gradient(found.mean, x) < 1e-14 * condition


@pytest.mark.parametrize("m", [2, 10, 300])
@pytest.mark.parametrize("condition", [1e2, 1e7])
def test_closer_to_stationary_than_the_peer(make_spd, m, condition):
    x = make_spd(m, n=8, condition=condition)
    found = karcher_mean(P, x)
    assert bool(found.converged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = torch.as_tensor(mean_riemann(x.numpy()))
    gradients = []
    for mean in (found.mean, peer):
        logs = P.logmap(mean.expand_as(x), x).mean(0)
        gradients.append(float(P.norm(mean, logs)))
    assert gradients[0] <= gradients[1] + 1e-13
    assert _gap(found.mean, peer) < 1e-5


def test_congruence_and_inverse(make_spd, generator):
    x = make_spd(12, n=6, condition=1e3)
    g = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    g[0] *= 1e4  # units of one channel
    mean = karcher_mean(P, x).mean
    turned = g @ x @ g.mT
    assert _gap(karcher_mean(P, (turned + turned.mT) / 2).mean, g @ mean @ g.mT) < 1e-8
    inverse = torch.linalg.inv(x)
    found = karcher_mean(P, (inverse + inverse.mT) / 2).mean
    assert _gap(found, torch.linalg.inv(mean)) < 1e-9


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-40, 2.0**20, 2.0**100])
def test_the_unit_changes_nothing(make_spd, scale):
    x = make_spd(20, n=6, condition=1e3)
    one, other = karcher_mean(P, x), karcher_mean(P, scale * x)
    torch.testing.assert_close(other.mean / scale, one.mean)
    torch.testing.assert_close(other.variance, one.variance)
    assert one.iterations == other.iterations


def test_one_artifact_among_float32_epochs(make_spd):
    """22 channels, condition 3e6, one epoch a million times larger."""
    x = make_spd(40, n=22, condition=3e6)
    x[7] *= 1e6
    exact = karcher_mean(P, x.float().double())
    found = karcher_mean(P, x.float())
    assert bool(exact.converged)
    assert bool(found.converged)
    assert float((found.mean - exact.mean).norm() / exact.mean.norm()) < 1e-6
    torch.testing.assert_close(
        found.variance.double(), exact.variance, rtol=1e-5, atol=0
    )


def test_many_problems_weights_and_starts(make_spd, generator):
    x = make_spd(40, 6, n=16, condition=1e3)  # more than one block
    w = torch.rand(40, 6, dtype=torch.float64, generator=generator)
    w[3, 2] = 0
    together = karcher_mean(P, x, w)
    assert bool(together.converged.all())
    for i in (0, 3, 39):
        alone = karcher_mean(P, x[i], w[i])
        torch.testing.assert_close(together.mean[i], alone.mean)
        torch.testing.assert_close(together.variance[i], alone.variance)
    left = karcher_mean(P, x[3, [0, 1, 3, 4, 5]], w[3, [0, 1, 3, 4, 5]])
    torch.testing.assert_close(together.mean[3], left.mean)
    warm = karcher_mean(P, x, w, init=together.mean, tol=1e-9)
    assert warm.iterations == 0
    assert karcher_mean(P, x[:0]).mean.shape == (0, 16, 16)
    at = together.mean[:, None]
    variance = (w * P.dist(at, x) ** 2).sum(1) / w.sum(1)
    torch.testing.assert_close(together.variance, variance)


def test_matrices_of_several_chunks_are_all_counted(make_spd):
    base = make_spd(7, n=24, condition=1e2)
    x = base.repeat(100, 1, 1)  # 700 * 576 numbers
    torch.testing.assert_close(karcher_mean(P, x).mean, karcher_mean(P, base).mean)


def test_far_start(make_spd):
    """A start a hundred decades away: steps are shortened until they help."""
    x = make_spd(6, n=4, condition=1e3)
    init = torch.diag(torch.tensor([1e-12, 1, 1e6, 1e12], dtype=torch.float64))
    found = karcher_mean(P, x, init=init)
    assert bool(found.converged)
    assert _gap(found.mean, karcher_mean(P, x).mean) < 1e-9


# --- logarithm and distance of ill-conditioned pairs ---


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_float32_logarithm_is_finite_where_the_distance_is(make_spd, condition):
    a = make_spd(8, n=5, condition=condition, dtype=torch.float32)
    b = make_spd(8, n=5, condition=condition, dtype=torch.float32)
    log = P.logmap(a, b)
    assert bool(log.isfinite().all())
    distance = P.dist(a, b)
    torch.testing.assert_close(P.norm(a, log), distance, rtol=0.1, atol=0)
    exact = P.dist(a.double(), b.double())
    torch.testing.assert_close(distance.double(), exact, rtol=0.05, atol=0)


def test_small_eigenvalues_of_a_pencil_are_kept():
    """The whitened matrix has condition 1e16 in float32."""
    s = torch.tensor([1e-4, 1e-2, 1.0, 1e4])
    a, b = torch.diag(s), torch.diag(1 / s)
    expected = torch.diag(-2 * s * s.log())
    torch.testing.assert_close(P.logmap(a, b), expected, rtol=1e-4, atol=0)
    x = a.clone().requires_grad_()
    y = b.clone().requires_grad_()
    P.dist(x, y).backward()
    assert bool(x.grad.isfinite().all())
    exact = (2 * s.log().double()).norm()
    torch.testing.assert_close(P.dist(a, b).double(), exact, rtol=1e-5, atol=0)


def test_ill_conditioned_pairs_leave_the_others(make_spd):
    a, b = make_spd(4, dtype=torch.float32), make_spd(4, dtype=torch.float32)
    plain = P.logmap(a, b)
    a[1] = torch.diag(torch.tensor([1e-4, 1.0, 1.0, 1e4]))
    b[1] = torch.diag(torch.tensor([1e4, 1.0, 1.0, 1e-4]))
    b[2] = torch.nan
    log = P.logmap(a, b)
    torch.testing.assert_close(log[[0, 3]], plain[[0, 3]])
    assert bool(log[1].isfinite().all())
    assert bool(log[2].isnan().all())
