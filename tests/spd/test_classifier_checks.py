"""Scikit-learn's own checks of SPDNetClassifier, behind a front that takes tables.

A row of a table becomes the diagonal of an SPD matrix, see test_estimator_checks.
"""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from manifoldkit.spd.classifiers import SPDNetClassifier


class SPDNetClassifierOfRows(SPDNetClassifier):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        return tags

    def _matrices(self, X, reset):
        X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        eye = np.eye(X.shape[1], dtype=X.dtype)
        return (0.1 + np.logaddexp(0, X))[:, :, None] * eye

    def fit(self, X, y, sample_weight=None):
        return super().fit(self._matrices(X, True), y, sample_weight)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        X = self._matrices(X, not hasattr(self, "net_"))
        return super().partial_fit(X, y, classes, sample_weight)

    def _evaluate(self, X, method, domains):
        check_is_fitted(self, "net_")
        return super()._evaluate(self._matrices(X, False), method, domains)


EXPECTED_FAILURES = {
    "check_classifiers_train": "of tables with two columns the default BiMap keeps one "
    "number of two",
    "check_sample_weight_equivalence_on_dense_data": "a sample that is there twice "
    "changes the batches and their statistics, a weight does not",
}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [SPDNetClassifierOfRows(max_epochs=5, lr=0.2, random_state=0)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
