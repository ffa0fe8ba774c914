"""Checks and their messages."""

import math

import numpy as np
import pytest
import torch

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import check_spd, checks, is_spd
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
        (torch.ones(3), r"shape \(\.\.\., 4\), one weight an item"),
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


def test_last_dimensions_and_batches_are_named():
    x = torch.ones(2, 5, 3)
    assert checks.check_last(x, ("K", 3), "x") is x
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., 4, 3\), found"):
        checks.check_last(x, (4, 3), "x")
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., K, n, n, n\)"):
        checks.check_last(x, ("K", "n", "n", "n"), "x")
    with pytest.raises(TypeError, match="x: expected floating-point numbers"):
        checks.check_last(x.long(), (3,), "x")
    with pytest.raises(TypeError, match="x: expected a torch tensor, found str"):
        checks.check_tensor("text", "x")
    checks.check_broadcast(a=(x, 1), b=(x[0], 1), c=(x[:1], 1))
    with pytest.raises(ValueError, match="a, b: expected batch shapes that broadcast"):
        checks.check_broadcast(a=(x, 1), b=(x[:, :4], 1))
    half, double = checks.common_dtype(x.bfloat16(), x.double())
    assert half.dtype == double.dtype == torch.float64
    assert checks.common_dtype(x.bfloat16(), x.bfloat16())[0].dtype == torch.float32


def test_options_counts_and_positive_numbers():
    assert checks.check_choice("a", {"a": 1, "b": 2}, "kind") == "a"
    with pytest.raises(ValueError, match=r"kind: expected one of \('a', 'b'\), found"):
        checks.check_choice(None, ("a", "b"), "kind")
    assert checks.check_count(np.int64(3), "n") == 3
    assert type(checks.check_count(np.int64(3), "n")) is int
    assert checks.check_count(0, "n", 0) == 0
    for bad in (0, True, 2.0, "2", None, math.nan):
        with pytest.raises(ValueError, match="n: expected an integer >= 1, found"):
            checks.check_count(bad, "n")
    with pytest.raises(ValueError, match="width: expected an integer"):
        checks.check_counts(height=1, width=0)
    assert checks.check_positive(np.float32(2), "r") == 2.0
    for bad in (0, -1.0, math.inf, math.nan, True, "1", None, 1j):
        with pytest.raises(ValueError, match="r: expected a positive number, found"):
            checks.check_positive(bad, "r")
