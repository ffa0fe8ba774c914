"""Means with missing channels: pyriemann, the cost itself, laws, bad input."""

import math

import numpy as np
import pytest
import torch
from pyriemann.geometry.mean import (
    maskedmean_riemann,
    mean_riemann,
    nanmean_riemann,
)

from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.linalg import logm, symmetrize
from manifoldkit.manifolds import SPD
from manifoldkit.optim import karcher_mean
from manifoldkit.spd import gbw_distance, gbw_mean, maskedmean, nanmean

# pyriemann's steps shrink until they stop
pytestmark = pytest.mark.filterwarnings("ignore:Convergence not reached")


@pytest.fixture
def data(generator):
    """Six matrices 4 x 4; four of them miss a channel or two."""
    a = torch.randn(6, 4, 12, dtype=torch.float64, generator=generator)
    x = a @ a.mT / 12 * torch.linspace(0.5, 3, 6, dtype=torch.float64)[:, None, None]
    mask = torch.ones(6, 4, dtype=torch.bool)
    for i, channel in ((0, 1), (1, 2), (1, 3), (3, 0), (5, 2)):
        mask[i, channel] = False
    return x, mask


def with_nan(x, mask):
    there = mask[..., :, None] & mask[..., None, :]
    return torch.where(there, x, math.nan)


def affine(a, b):
    s = torch.linalg.eigvals(torch.linalg.solve(a, b)).real
    return s.log().square().sum()


def cost(g, x, mask, distance):
    blocks = (
        (g[k][:, k], y[k][:, k], k) for y, k in zip(x, mask, strict=True) if k.any()
    )
    return sum(distance(*block) for block in blocks) / len(x)


def balance(g, x, mask):
    """What pyriemann drives to zero, relative to g."""
    total = torch.zeros_like(g)
    for y, k in zip(x, mask, strict=True):
        factor = torch.linalg.cholesky(g[k][:, k])
        inverse = torch.linalg.inv(factor)
        log = factor @ logm(symmetrize(inverse @ y[k][:, k] @ inverse.mT)) @ factor.mT
        p = torch.eye(len(g), dtype=g.dtype)[:, k]
        total += p @ log @ p.mT / len(x)
    return float(total.norm() / g.norm())


def masks_of(mask):
    return [np.eye(len(k))[:, k] for k in mask.numpy()]


def test_balance_is_the_mean_of_pyriemann(data):
    x, mask = data
    found = maskedmean(x, mask, equation="balance", tol=1e-10)
    theirs = maskedmean_riemann(x.numpy(), masks_of(mask), tol=1e-12, maxiter=150)
    torch.testing.assert_close(found, torch.from_numpy(theirs), rtol=0, atol=1e-3)
    # the rest is what their shrinking steps leave undone
    assert balance(found, x, mask) < 1e-9
    assert balance(found, x, mask) < balance(torch.from_numpy(theirs), x, mask)
    lost = with_nan(x, mask)
    theirs = nanmean_riemann(lost.numpy(), tol=1e-12, maxiter=150)
    found = nanmean(lost, equation="balance")
    torch.testing.assert_close(found, torch.from_numpy(theirs), rtol=0, atol=1e-3)


def test_balance_is_a_fixed_point_of_pyriemann(data):
    x, mask = data
    found = maskedmean(x, mask, equation="balance", tol=1e-12)
    again = maskedmean_riemann(x.numpy(), masks_of(mask), init=found.numpy(), tol=1e-9)
    torch.testing.assert_close(found, torch.from_numpy(again), rtol=0, atol=1e-10)
    # near each other its steps arrive before they vanish
    x = torch.eye(4, dtype=x.dtype) + 0.02 * x
    theirs = maskedmean_riemann(
        x.numpy(), masks_of(mask), init=x.mean(0).numpy(), tol=1e-10, maxiter=200
    )
    found = maskedmean(x, mask, equation="balance", tol=1e-11)
    torch.testing.assert_close(found, torch.from_numpy(theirs), rtol=0, atol=1e-6)


def test_minimum_has_the_least_cost(data, generator):
    x, mask = data
    found = maskedmean(x, mask)

    def value(g):
        return float(cost(g, x, mask, lambda a, b, _: affine(a, b)))

    theirs = maskedmean_riemann(x.numpy(), masks_of(mask), maxiter=200)
    assert value(found) < value(torch.from_numpy(theirs)) - 1e-3
    for _ in range(20):
        v = symmetrize(torch.randn(4, 4, dtype=x.dtype, generator=generator))
        assert value(found + 1e-3 * v) > value(found)


@pytest.mark.parametrize("metric_matrix", [False, True])
def test_bures_wasserstein_has_the_least_cost(data, metric_matrix, generator):
    x, mask = data
    M = x[2] if metric_matrix else None
    found = maskedmean(x, mask, metric="gbw", M=M, tol=1e-11)

    def value(g):
        def squared(a, b, k):
            inner = None if M is None else M[k][:, k]
            return gbw_distance(a, b, inner, squared=True)

        return cost(g, x, mask, squared)

    g = found.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(g), g)
    assert float(slope.norm()) < 1e-8
    for _ in range(5):
        v = symmetrize(torch.randn(4, 4, dtype=x.dtype, generator=generator))
        assert float(value(found + 1e-2 * v)) > float(value(found))


def test_nothing_missing_is_the_plain_mean(data):
    x, mask = data
    full = torch.ones_like(mask)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    expected = karcher_mean(SPD("airm"), x, weights).mean
    for equation in ("minimum", "balance"):
        found = maskedmean(x, full, weights, equation=equation)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    peer = mean_riemann(x.numpy(), tol=1e-12, maxiter=200)
    torch.testing.assert_close(nanmean(x), torch.from_numpy(peer), rtol=0, atol=1e-7)
    for M in (None, x[0]):
        found = maskedmean(x, full, weights, metric="gbw", M=M)
        expected = gbw_mean(x, weights, M)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"equation": "balance"}, {"metric": "gbw"}])
def test_laws(data, options):
    x, mask = data
    found = maskedmean(x, mask, **options)
    for unit in (1e-9, 1e9, 1e-18):
        torch.testing.assert_close(
            maskedmean(unit * x, mask, **options) / unit, found, rtol=1e-6, atol=1e-7
        )
    # what is masked does not matter, and NaN says the same
    junk = torch.where(with_nan(x, mask).isnan(), -7e30, x)
    assert torch.equal(maskedmean(junk, mask, **options), found)
    assert torch.equal(nanmean(with_nan(x, mask), **options), found)
    # company: other problems, and matrices of weight zero
    others = torch.stack([1e6 * x.flip(0), x])
    masks = torch.stack([torch.ones_like(mask), mask])
    torch.testing.assert_close(
        maskedmean(others, masks, **options)[1], found, rtol=1e-12, atol=1e-12
    )
    more = torch.cat([x, 100 * x[:1]])
    weights = torch.tensor([1.0] * 6 + [0.0], dtype=x.dtype)
    torch.testing.assert_close(
        maskedmean(more, torch.cat([mask, mask[:1]]), weights, **options),
        found,
        rtol=1e-6,
        atol=1e-7,
    )
    # channels may be reordered, and single precision is computed in double
    order = torch.tensor([2, 0, 3, 1])
    turned = maskedmean(x[:, order][:, :, order], mask[:, order], **options)
    torch.testing.assert_close(turned, found[order][:, order], rtol=1e-6, atol=1e-7)
    single = maskedmean(x.float(), mask, **options)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"equation": "balance"}, {"metric": "gbw"}])
def test_hermitian(data, options):
    x, mask = data
    phase = torch.polar(torch.ones(4), torch.arange(4.0)).to(torch.complex128)
    turned = phase[:, None] * x * phase.conj()
    expected = phase[:, None] * maskedmean(x, mask, **options) * phase.conj()
    found = maskedmean(turned, mask, **options)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_scaling_single_channels_moves_the_minimum_along(data):
    x, mask = data
    d = torch.tensor([1.0, 1e-3, 5.0, 40.0], dtype=x.dtype)
    turned = maskedmean(d[:, None] * x * d, mask)
    expected = maskedmean(x, mask)
    torch.testing.assert_close(turned / d[:, None] / d, expected, rtol=1e-6, atol=1e-7)


def test_bad_input(data):
    x, mask = data
    gone = mask.clone()
    gone[:, 2] = False
    for metric in ("riemann", "gbw"):
        with pytest.raises(ValueError, match="channel 2 is missing in all matrices"):
            maskedmean(x, gone, metric=metric)
        with pytest.raises(ValueError, match=r"x\[1\]: channel 2 is missing in all"):
            nanmean(with_nan(torch.stack([x, x]), torch.stack([mask, gone])))
    apart = torch.ones_like(mask)
    apart[:3, 0], apart[3:, 1] = False, False
    with pytest.raises(ValueError, match="channels 0 and 1 are never observed togeth"):
        maskedmean(x, apart)
    # weight zero is no observation
    weights = torch.tensor([1.0, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="channel 1 is missing"):
        maskedmean(x, mask, weights)
    single = x.clone()
    single[4, 0, 1] = single[4, 1, 0] = math.nan
    with pytest.raises(ValueError, match=r"x\[4\]: expected NaN to fill"):
        nanmean(single)
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not positive definite"):
        maskedmean(torch.cat([x[:2], -x[2:]]), mask)
    for wrong, error in ((mask.double(), TypeError), (mask[:, :3], ValueError)):
        with pytest.raises(error, match="mask: expected"):
            maskedmean(x, wrong)
    with pytest.raises(ValueError, match="equation: metric='gbw'"):
        maskedmean(x, mask, metric="gbw", equation="balance")
    with pytest.raises(ValueError, match="M: metric='riemann' takes no"):
        maskedmean(x, mask, M=x[0])
    with pytest.warns(ConvergenceWarning, match="1 of 1 means not converged"):
        maskedmean(x, mask, max_iter=1)
