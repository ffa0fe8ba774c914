"""Augmented covariances of tensors: shapes, derivatives, grids, precision."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from manifoldkit.spd.augmented.covariance import (
    augmented_covariance,
    augmented_covariance_grid,
)


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
