"""Factorizations in which a bad matrix spoils itself alone."""

import math

import torch
from torch.func import vmap

from manifoldkit.linalg.factorizations import cholesky, eigvalsh, quick_eigh


def test_eigenvalues_of_a_batch_with_a_bad_matrix(make_spd):
    x = make_spd(3, n=4)
    clean = torch.linalg.eigvalsh(x)
    torch.testing.assert_close(eigvalsh(x), clean, rtol=0, atol=0)
    x[1, 0, 0] = math.nan
    x.requires_grad_()
    s = eigvalsh(x)
    assert s[1].isnan().all()
    torch.testing.assert_close(s[[0, 2]], clean[[0, 2]], rtol=1e-13, atol=0)
    s[[0, 2]].sum().backward()
    assert x.grad[[0, 2]].isfinite().all()
    assert vmap(eigvalsh)(make_spd(3, n=4)).shape == s.shape


def test_quick_decomposition_agrees_and_survives_nan(make_spd):
    x = make_spd(3, n=4)
    s, u = quick_eigh(x)
    torch.testing.assert_close((u * s[..., None, :]) @ u.mT, x)
    x[1, 0, 0] = math.nan
    bad = quick_eigh(x)[0]
    assert bad[1].isnan().all()
    torch.testing.assert_close(bad[[0, 2]], s[[0, 2]])


def test_cholesky_factor_of_a_batch_with_a_bad_matrix(make_spd):
    x = make_spd(3, n=4)
    clean = torch.linalg.cholesky(x)
    assert torch.equal(cholesky(x), clean)
    assert torch.equal(vmap(cholesky)(x), clean)
    x[1] *= -1
    x.requires_grad_()
    factor = cholesky(x)
    assert factor[1].isnan().all()
    assert torch.equal(factor[[0, 2]], clean[[0, 2]])
    factor[[0, 2]].sum().backward()
    assert x.grad[[0, 2]].isfinite().all()
