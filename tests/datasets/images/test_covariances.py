"""Region covariances of real digits."""

import numpy as np
import pytest
from pyriemann.tangentspace import TangentSpace
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from manifoldkit.datasets import load_digits_covariances


def test_matrices_are_spd_and_carry_the_digit():
    digits = load_digits_covariances((3, 8), n_per_class=60)
    assert digits.X.shape == (120, 7, 7)
    assert np.linalg.eigvalsh(digits.X).min() > 0
    assert digits.is_real
    assert set(digits.y) == {"3", "8"}
    model = make_pipeline(TangentSpace(), LogisticRegression())
    assert cross_val_score(model, digits.X, digits.y, cv=4).mean() > 0.8


def test_all_digits_and_plain_arrays():
    X, y = load_digits_covariances(tuple(range(10)), return_X_y=True)
    assert len(X) == len(y) == 1797


def test_torch_codes_follow_the_classes():
    digits = load_digits_covariances((8, 3), n_per_class=4)
    X, y = digits.to_torch()
    np.testing.assert_array_equal(X, digits.X)
    assert [digits.classes[i] for i in y] == digits.y.tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"digits": (3, 10)}, "digits"),
        ({"digits": ()}, "digits"),
        ({"digits": (3, 3)}, "digits: .* each once"),
        ({"n_per_class": 0}, "n_per_class"),
        ({"ridge": 0}, "ridge"),
        ({"ridge": np.nan}, "ridge"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_digits_covariances(**kwargs)
