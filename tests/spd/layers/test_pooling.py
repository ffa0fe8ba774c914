"""Covariances of signals, and pooling of matrices over channels."""

import pytest
import torch
from torch.autograd import gradcheck

from manifoldkit.linalg import logm
from manifoldkit.spd import CovariancePool, SPDPool, gbw_mean

DOUBLE = torch.float64


def test_covariance_pool(generator):
    x = torch.randn(2, 3, 4, 50, dtype=DOUBLE, generator=generator)
    expected = torch.stack([torch.cov(m) for m in x.flatten(0, 1)]).unflatten(0, (2, 3))
    eye = torch.eye(4, dtype=DOUBLE)
    torch.testing.assert_close(CovariancePool(0.0)(x), expected)
    absolute = CovariancePool(1e-3, relative=False)
    torch.testing.assert_close(absolute(x), expected + 1e-3 * eye)
    scale = expected.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    torch.testing.assert_close(CovariancePool(1e-3)(x), expected + 1e-3 * scale * eye)
    volts = CovariancePool(1e-3)(1e-6 * x)
    torch.testing.assert_close(
        volts, 1e-12 * CovariancePool(1e-3)(x), atol=0, rtol=1e-9
    )
    torch.testing.assert_close(CovariancePool(0.0, center=False)(x), x @ x.mT / 50)
    assert gradcheck(CovariancePool(), (x[0, :2].requires_grad_(),))


@pytest.mark.parametrize("metric", ["log_euclidean", "euclidean", "bw"])
def test_mean_pooling(metric, make_spd):
    x = make_spd(2, 4, n=3)
    pooled = SPDPool(metric=metric)(x)
    expected = {
        "euclidean": lambda x: x.mean(-3),
        "log_euclidean": lambda x: torch.stack(
            [torch.matrix_exp(logm(m).mean(0)) for m in x]
        ),
        "bw": gbw_mean,
    }[metric](x)
    torch.testing.assert_close(pooled, expected)
    pairs = SPDPool(metric=metric, kernel_size=2)(x)
    torch.testing.assert_close(pairs[:, 1], SPDPool(metric=metric)(x[:, 2:]))
    small = x[:, :2].clone().requires_grad_()
    assert gradcheck(SPDPool(metric=metric), (small,), atol=1e-5)


def test_max_pooling_takes_the_largest_eigenvalue(make_spd):
    x = make_spd(5, 4, n=3) * torch.tensor([1.0, 3.0, 2.0, 0.5])[:, None, None]
    x = x.requires_grad_()
    y = SPDPool("max")(x)
    torch.testing.assert_close(y, x[:, 1])
    y.sum().backward()
    assert torch.equal(x.grad.abs().sum((0, 2, 3)) > 0, torch.arange(4) == 1)
