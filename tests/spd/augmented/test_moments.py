import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from manifoldkit.spd.augmented.moments import (
    block_autocovariances,
    block_toeplitz,
    delay_embed,
    delay_moments,
    n_delay_vectors,
    yule_walker,
)


def signals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("trim", ["full", "moabb"])
@pytest.mark.parametrize(("order", "lag"), [(1, 1), (1, 5), (3, 1), (4, 6)])
def test_delay_vectors_by_definition(order, lag, trim):
    x = signals(2, 3, 40)
    z = delay_embed(x, order, lag, trim=trim)
    n = n_delay_vectors(40, order, lag, trim)
    assert z.shape == (2, order, 3, n)
    for a in range(order):
        assert torch.equal(z[:, a], x[:, :, a * lag : a * lag + n])


def test_delay_embed_copies_nothing():
    x = signals(2, 30, 4).mT  # not contiguous
    assert delay_embed(x, 3, 4).data_ptr() == x.data_ptr()
    array = np.arange(60.0).reshape(2, 30)[:, ::2]
    z = delay_embed(array, 3, 2)
    assert np.shares_memory(z, array)
    assert not z.flags.writeable
    assert_allclose(z[2, 1], array[1, 4:])


def test_delay_embed_is_differentiable():
    x = signals(2, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: delay_embed(t, 3, 2) ** 2, x)


@pytest.mark.parametrize("trim", ["full", "moabb"])
@pytest.mark.parametrize("lag", [1, 4])
def test_moments_equal_brute_force(lag, trim):
    x = signals(7, 3, 60)
    moments = delay_moments(x, [2, 6, 1, 3], lag, trim)
    assert sorted(moments) == [1, 2, 3, 6]
    for order, (second, first, count) in moments.items():
        z = delay_embed(x, order, lag, trim=trim).flatten(1, 2)
        assert count == z.shape[-1]
        assert_allclose(second, z @ z.mT, atol=1e-12)
        assert_allclose(first, z.sum(-1), atol=1e-13)
        assert torch.equal(second, second.mT)


def test_autocovariances_by_definition():
    x = signals(2, 30)
    centered = x - x.mean(-1, keepdim=True)
    gamma = block_autocovariances(x, order=4, lag=3)
    for k in range(4):
        h = 3 * k
        expected = sum(torch.outer(centered[:, t + h], centered[:, t])
                       for t in range(30 - h)) / 30  # fmt: skip
        assert_allclose(gamma[k], expected, atol=1e-14)


def test_toeplitz_is_positive_definite_where_the_unbiased_form_is_not():
    x = torch.sin(torch.arange(24, dtype=torch.float64) * 0.7)[None] + 0.01 * signals(
        1, 24
    )
    order = 20
    gamma = block_autocovariances(x, order)
    matrix = block_toeplitz(gamma)
    assert torch.equal(matrix, matrix.mT)
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    unbiased = gamma * (24 / (24 - torch.arange(order)))[:, None, None]
    assert torch.linalg.eigvalsh(block_toeplitz(unbiased))[0] < 0


def test_toeplitz_blocks_follow_the_delay_vector():
    gamma = block_autocovariances(signals(2, 3, 50), order=4)
    matrix = block_toeplitz(gamma).view(2, 4, 3, 4, 3)
    assert torch.equal(matrix[:, 2, :, 0], gamma[:, 2])
    assert torch.equal(matrix[:, 0, :, 2], gamma[:, 2].mT)


def test_yule_walker_recovers_a_simulated_var():
    a1 = torch.tensor([[0.5, 0.2], [-0.3, 0.4]], dtype=torch.float64)
    a2 = torch.tensor([[-0.3, 0.1], [0.0, 0.2]], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0.0], [0.5, 0.8]], dtype=torch.float64)
    lag, n = 2, 40_000
    noise = factor @ signals(2, n)
    x = torch.zeros(2, n, dtype=torch.float64)
    for t in range(2 * lag, n):
        x[:, t] = a1 @ x[:, t - lag] + a2 @ x[:, t - 2 * lag] + noise[:, t]
    model = yule_walker(x, order=2, lag=lag)
    # standard errors are about 1 / sqrt(n) = 0.005
    assert_allclose(model.coefficients, torch.stack([a1, a2]), atol=0.025)
    assert_allclose(model.noise_covariance, factor @ factor.mT, atol=0.03)
    batch = yule_walker(torch.stack([x, 3 * x])[None], order=2, lag=lag)
    assert batch.coefficients.shape == (1, 2, 2, 2, 2)
    assert_allclose(batch.coefficients[0, 1], model.coefficients, atol=1e-12)


@pytest.mark.parametrize(
    ("order", "lag", "error", "match"),
    [
        (0, 1, ValueError, "order: expected an integer >= 1, found 0"),
        (1, 0, ValueError, "lag: expected an integer >= 1, found 0"),
        (2.0, 1, TypeError, "order: expected an integer >= 1, found 2.0"),
        (True, 1, TypeError, "order: expected an integer >= 1, found True"),
        (5, 10, ValueError, r"T = 30 samples, order = 5, lag = 10 leave T_eff = -10"),
    ],
)
def test_bad_order_and_lag(order, lag, error, match):
    with pytest.raises(error, match=match):
        delay_embed(signals(2, 30), order, lag)


def test_bad_signals():
    with pytest.raises(ValueError, match="n_channels, n_times"):
        delay_embed(np.zeros(5), 1, 1)
    with pytest.raises(ValueError, match="found shape"):
        yule_walker(torch.zeros(5), 1)
    with pytest.raises(TypeError, match="floating"):
        block_autocovariances(torch.zeros(2, 5, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="trim: expected one of"):
        delay_embed(signals(2, 30), 1, 1, trim="none")
