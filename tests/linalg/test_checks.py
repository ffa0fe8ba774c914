"""Checks and their messages."""

import math

import numpy as np
import pytest
import torch

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import check_spd, is_spd
from manifoldkit.linalg.checks import check_symmetric, check_weights, tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_spd_per_matrix(dtype):
    eye = torch.eye(3, dtype=dtype)
    skewed = eye.clone()
    skewed[0, 1] = 0.3
    nan = eye.clone()
    nan[2, 2] = math.nan
    x = torch.stack([eye, -eye, skewed, nan, 0 * eye])
    assert is_spd(x).tolist() == [True, False, False, False, False]
    assert is_spd(x[:0]).shape == (0,)
    assert is_spd(eye).shape == ()


def test_check_spd_returns_its_argument_and_accepts_rounding(make_spd):
    x = make_spd(4, n=5, condition=1e10)
    assert check_spd(x) is x
    asymmetric = make_spd(4, n=5)
    asymmetric[:, 0, 1] += 1e-9
    assert check_spd(asymmetric) is asymmetric
    v = torch.ones(3, 1)
    assert check_spd(v @ v.T, semidefinite=True) is not None
    assert check_spd(x[:0]) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.fill_(math.inf), r"cov\[1, 0\] is not finite"),
        (lambda m: m[0, 1].add_(1.0), r"cov\[1, 0\] is not symmetric: .*1e-06"),
        (
            lambda m: m.neg_(),
            r"cov\[1, 0\] is not positive definite: .* -1.0e\+00.*shrinkage",
        ),
    ],
)
def test_check_spd_names_index_value_and_remedy(change, message):
    x = torch.eye(3, dtype=torch.float64).repeat(2, 2, 1, 1)
    change(x[1, 0])
    with pytest.raises(ValueError, match=message):
        check_spd(x, name="cov")


def test_not_on_manifold_is_a_value_error():
    with pytest.raises(NotOnManifoldError):
        check_spd(-torch.eye(2))
    with pytest.raises(NotOnManifoldError, match="semidefinite"):
        check_spd(-torch.eye(2), semidefinite=True)


@pytest.mark.parametrize(
    "bad", [np.eye(2), torch.eye(2).bool(), torch.eye(2).to(torch.complex64)]
)
def test_types(bad):
    with pytest.raises(TypeError):
        check_spd(bad)


def test_symmetry_tolerance_follows_the_dtype():
    x = torch.eye(2, dtype=torch.float64)
    x[0, 1] = 1e-5
    with pytest.raises(ValueError, match="not symmetric"):
        check_symmetric(x)
    check_symmetric(x.float())
    check_symmetric(x, rtol=1e-4)


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (torch.ones(3), "expected 4 weights"),
        (torch.tensor([1.0, -1, 0, 0]), r"weights\[1\] is -1.0"),
        (torch.zeros(4), "all weights are zero"),
        (torch.tensor([1.0, math.nan, 0, 0]), "not finite"),
    ],
)
def test_weights(w, message):
    with pytest.raises(ValueError, match=message):
        check_weights(w, 4)


def test_tolerance_scales_with_the_dtype():
    assert tolerance(torch.float32, 2) == 2 * torch.finfo(torch.float32).eps
    assert tolerance(torch.float16) == torch.finfo(torch.float32).eps
