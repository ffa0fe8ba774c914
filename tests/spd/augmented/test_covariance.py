"""Augmented covariances of tensors: shapes, derivatives, grids, precision."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from manifoldkit.spd.augmented import delay_embed
from manifoldkit.spd.augmented.covariance import (
    augmented_covariance,
    augmented_covariance_grid,
)
from manifoldkit.spd.augmented.definite import singular


@pytest.fixture
def X(rng):
    """Smooth epochs with an offset far above their variation."""
    noise = rng.standard_normal((9, 4, 206))
    return 1e3 + sum(noise[..., k : k + 200] for k in range(4))


@pytest.mark.parametrize("structure", ["stacked", "toeplitz"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_batch_shapes(X, shape, structure):
    x = torch.from_numpy(X[:6]).reshape(-1, 4, 200)[: int(np.prod(shape, dtype=int))]
    x = x.reshape(*shape, 4, 200)
    found = augmented_covariance(x, 3, 2, structure=structure)
    assert found.shape == (*shape, 12, 12)
    assert found.dtype == x.dtype
    assert torch.equal(found, found.mT)
    for index in np.ndindex(*shape):
        one = augmented_covariance(x[index], 3, 2, structure=structure)
        assert_allclose(found[index], one, rtol=1e-12, atol=1e-12)


def test_groups_of_epochs_do_not_show():
    x = torch.randn(
        40, 8, 120, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    whole = augmented_covariance(x, 12, 3, estimator="cov")  # several cache groups
    assert_allclose(
        whole[17], augmented_covariance(x[17], 12, 3, estimator="cov"), atol=1e-13
    )


@pytest.mark.parametrize("structure", ["stacked", "toeplitz"])
@pytest.mark.parametrize("estimator", ["cov", "corr", "oas", "lwf"])
def test_gradients(estimator, structure):
    if (structure, estimator) == ("toeplitz", "lwf"):
        pytest.skip("refused")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, 12, dtype=torch.float64, generator=generator)
    x.requires_grad_()

    def f(x):
        return augmented_covariance(
            x, 3, 2, estimator=estimator, structure=structure, shrinkage=0.1
        )

    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_lower_precision(dtype, rtol):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 100, dtype=torch.float64, generator=generator).to(dtype)
    found = augmented_covariance(x, 3, 2)
    assert found.dtype == dtype
    expected = augmented_covariance(x.double(), 3, 2)
    assert_allclose(found.double(), expected, rtol=0, atol=rtol * expected.abs().max())


@pytest.mark.parametrize("trim", ["full", "moabb"])
@pytest.mark.parametrize("structure", ["stacked", "toeplitz"])
def test_order_grid_equals_single_orders(X, trim, structure):
    x = torch.from_numpy(X)
    grid = augmented_covariance_grid(x, [4, 1, 2], 3, trim=trim, structure=structure)
    assert sorted(grid) == [1, 2, 4]
    for order, found in grid.items():
        one = augmented_covariance(x, order, 3, trim=trim, structure=structure)
        assert_allclose(found, one, rtol=1e-11, atol=1e-11)


def test_toeplitz_tends_to_stacked():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 100_003, dtype=torch.float64, generator=generator)
    x = x[:, 3:] + x[:, :-3] + 0.5 * x[:, 1:-2].flip(0)
    a = augmented_covariance(x, 4, 1, estimator="cov")
    b = augmented_covariance(x, 4, 1, estimator="cov", structure="toeplitz")
    assert (a - b).abs().max() < 2e-3
    assert (a - torch.diag(a.diagonal())).abs().max() > 0.4


def test_bad_tensors():
    with pytest.raises(TypeError, match="x: expected a torch tensor"):
        augmented_covariance(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="estimator: expected one of"):
        augmented_covariance(torch.zeros(2, 5), estimator="tyl")
    with pytest.raises(ValueError, match="orders: expected at least one"):
        augmented_covariance_grid(torch.zeros(2, 5), [])


def test_rank_check_sees_what_double_precision_sees(generator):
    """Its rough first look never clears a singular matrix, whatever the units."""
    a = torch.randn(4, 30, 90, dtype=torch.float64, generator=generator)
    regular = a @ a.mT / 90
    double, close, lost = regular[0].clone(), regular[1].clone(), regular[2].clone()
    double[-1], double[:, -1] = double[0], double[:, 0]
    double[-1, -1] = double[0, 0]
    s, u = torch.linalg.eigh(close)  # ill-conditioned, yet regular
    close = (u * s.new_tensor([1e-8] * 3 + [1.0] * 27)) @ u.mT
    lost[3, 3] = torch.nan
    C = torch.stack([regular[3], double, (close + close.mT) / 2, lost]).numpy()
    expected = [False, True, False, True]
    d = np.logspace(-5, 5, 30)
    for scaled in (C, 1e-18 * C, 1e18 * C, d[:, None] * C * d):
        kept = scaled.copy()
        assert singular(scaled).tolist() == expected
        np.testing.assert_array_equal(scaled, kept)  # nothing is written over


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("n_times", [90, 97, 200])
@pytest.mark.parametrize("trim", ["full", "moabb"])
def test_two_samples_at_a_time_change_nothing(lag, n_times, trim, generator):
    """Narrow signals take a faster product; every entry is that of the definition."""
    x = torch.randn(2, 5, n_times, dtype=torch.float64, generator=generator)
    x = 3 + x.cumsum(-1)
    for order in (4, 5, 10):
        z = delay_embed(x, order, lag, trim=trim).flatten(1, 2)
        z = z - z.mean(-1, keepdim=True)
        found = augmented_covariance(x, order, lag, estimator="scm", trim=trim)
        expected = z @ z.mT / z.shape[-1]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        assert torch.equal(found, found.mT)
        y = x.clone().requires_grad_()  # the plain product
        plain = augmented_covariance(y, order, lag, estimator="scm", trim=trim)
        torch.testing.assert_close(found, plain.detach(), rtol=1e-11, atol=1e-11)
