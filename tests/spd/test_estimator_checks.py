"""Scikit-learn's own estimator checks.

The checks feed tables of shape (n_samples, n_features); given an estimator of epochs or
matrices as it is they stop after one. So each estimator runs behind a front that makes
its input from the rows of a table: a row is the one channel of an epoch, or becomes the
diagonal of an SPD matrix. What cannot hold then is listed with its reason.
"""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import (
    check_estimator_cloneable,
    parametrize_with_checks,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from manifoldkit.spd.alignment import DomainAligner
from manifoldkit.spd.augmented.transformer import AugmentedCovariances
from manifoldkit.spd.estimators import GBWMDM, GBWTangentSpace


class _TableInput:
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        tags.input_tags.allow_nan = False  # a table's NaN would be an epoch's only row
        return tags


class AugmentedCovariancesOfRows(_TableInput, AugmentedCovariances):
    """A row is an epoch of one channel, its variance the output."""

    def fit(self, X, y=None):
        return super().fit(validate_data(self, X, dtype=np.float64)[:, None], y)

    def fit_transform(self, X, y=None):
        X = validate_data(self, X, dtype=np.float64)
        return super().fit_transform(X[:, None], y)[:, 0]

    def transform(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return super().transform(X[:, None])[:, 0]


class _DiagonalMatrices(_TableInput):
    """A row becomes a diagonal matrix by the softplus function."""

    def _matrices(self, X, reset):
        X = validate_data(self, X, reset=reset, dtype=np.float64)
        return (0.1 + np.logaddexp(0, X))[:, :, None] * np.eye(X.shape[1])

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(self._matrices(X, True), y, sample_weight=sample_weight)

    def transform(self, X):
        check_is_fitted(self)
        return super().transform(self._matrices(X, False))


class GBWTangentSpaceOfRows(_DiagonalMatrices, GBWTangentSpace):
    def partial_fit(self, X, y=None, sample_weight=None):
        first = not hasattr(self, "reference_")
        return super().partial_fit(self._matrices(X, first), y, sample_weight)


class GBWMDMOfRows(_DiagonalMatrices, GBWMDM):
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        first = not hasattr(self, "covmeans_")
        return super().partial_fit(self._matrices(X, first), y, classes, sample_weight)

    def predict(self, X):
        check_is_fitted(self)
        return super().predict(self._matrices(X, False))

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(self._matrices(X, False))


class DomainAlignerOfRows(_DiagonalMatrices, DomainAligner):
    """A row is a diagonal matrix, the diagonal of what it becomes the output."""

    def fit(self, X, y=None, domains=None, sample_weight=None):
        return DomainAligner.fit(
            self, self._matrices(X, True), y, domains, sample_weight
        )

    def partial_fit(self, X, y=None, domains=None, sample_weight=None):
        X = self._matrices(X, not hasattr(self, "centers_"))
        return super().partial_fit(X, y, domains, sample_weight)

    def transform(self, X, domains=None):
        check_is_fitted(self)
        aligned = DomainAligner.transform(self, self._matrices(X, False), domains)
        return np.diagonal(aligned, axis1=1, axis2=2)


EXPECTED_FAILURES = {
    DomainAlignerOfRows: {},
    AugmentedCovariancesOfRows: {
        "check_estimators_dtypes": "its integer table has a constant row, which as an "
        "epoch has no variation and is refused by name",
        "check_fit2d_1feature": "an epoch of one sample is refused; the message speaks "
        "of samples, not of features",
    },
    GBWTangentSpaceOfRows: {},
    GBWMDMOfRows: {
        "check_non_transformer_estimators_n_iter": "max_iter bounds the optional "
        "learning of the metric; a default fit iterates nothing that it could count",
        "check_transformer_n_iter": "as the check before",
    },
}


# scikit-learn casts labels with NaN to integers before it refuses them
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [estimator() for estimator in EXPECTED_FAILURES],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES[type(estimator)],
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "estimator",
    [AugmentedCovariances, DomainAligner, GBWMDM, GBWTangentSpace],
)
def test_estimators_as_they_are_ask_for_three_dimensions(estimator):
    check_estimator_cloneable(estimator.__name__, estimator())
    tags = estimator().__sklearn_tags__().input_tags
    assert tags.three_d_array
    assert not tags.two_d_array


def test_no_expected_failure_is_out_of_date():
    """A check that passes again must leave the list."""
    from sklearn.utils.estimator_checks import estimator_checks_generator

    for estimator, failures in EXPECTED_FAILURES.items():
        for instance, check in estimator_checks_generator(estimator()):
            if check.func.__name__ in failures:
                with pytest.raises((AssertionError, AttributeError, ValueError)):
                    check(instance)
