"""pyriemann's tangent space and nearest means, free of the unit of the signals.

Only the affine-invariant metrics of pyriemann have no unit. With the others
coordinates, probabilities and even the rules that stop a mean scale with the matrices;
so these are divided by the mean eigenvalue of the training matrices first.
"""

import copy
from typing import Any, Self

import numpy as np
import torch
from pyriemann.classification import MDM, FgMDM
from pyriemann.tangentspace import TangentSpace
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils.validation import check_is_fitted

from manifoldkit.linalg.checks import check_weights
from manifoldkit.spd.validation import check_labels, classes_of


def _scale_of(X: np.ndarray) -> float:
    """Mean eigenvalue of matrices (n_matrices, n, n), averaged over them."""
    return float(np.trace(X, axis1=1, axis2=2).mean(dtype=np.float64) / X.shape[-1])


class UnitFreeTangentSpace(ClassNamePrefixFeaturesOutMixin, TangentSpace):
    """pyriemann's tangent space of matrices in units of ``scale_``.

    ``reference_`` is in the unit of the data.
    """

    reference_: np.ndarray

    def fit(self, X: np.ndarray, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit scale and reference to matrices (n_matrices, n, n)."""
        self.scale_ = _scale_of(X)
        super().fit(X / self.scale_, y, sample_weight)
        self.reference_ = self.reference_ * self.scale_
        return self

    def fit_transform(
        self, X: np.ndarray, y: Any = None, sample_weight: Any = None
    ) -> np.ndarray:
        """Fit, and return the tangent vectors of the same matrices."""
        return self.fit(X, y, sample_weight).transform(X)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return tangent vectors (n_matrices, n (n + 1) / 2)."""
        check_is_fitted(self, "scale_")
        return self._scaled().transform(X / self.scale_)

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Return the matrices of tangent vectors."""
        check_is_fitted(self, "scale_")
        return self._scaled().inverse_transform(X) * self.scale_

    def _scaled(self) -> TangentSpace:
        twin = TangentSpace(self.metric, self.tsupdate)
        twin.reference_ = self.reference_ / self.scale_
        return twin

    @property
    def _n_features_out(self) -> int:
        n = self.reference_.shape[0]
        return n * (n + 1) // 2

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return "tangentspace0", "tangentspace1", ..."""
        check_is_fitted(self, "scale_")
        names = [f"tangentspace{i}" for i in range(self._n_features_out)]
        return np.array(names, dtype=object)


class _UnitFree:
    """Divide by the scale of the training matrices, and look at the labels first.

    pyriemann's nearest means take labels of one class or trip over them. The matrices
    come out of :class:`AugmentedCovariances`, which has looked at them.
    """

    def fit(self, X, y, sample_weight=None):
        """Fit after a look at the labels.

        Parameters
        ----------
        X : ndarray, shape (n_matrices, n, n)
            SPD matrices.
        y : array-like, shape (n_matrices,)
            Labels of at least two classes.
        sample_weight : array-like, shape (n_matrices,), optional
            Weights.

        Returns
        -------
        self
        """
        y = check_labels(X, y, type(self).__name__.removeprefix("UnitFree"))
        classes_of(y)
        if sample_weight is not None:
            sample_weight = check_weights(
                torch.as_tensor(np.asarray(sample_weight, dtype=float)),
                len(y),
                "sample_weight",
            ).numpy()
        self.scale_ = _scale_of(X)
        super().fit(X / self.scale_, y, sample_weight=sample_weight)  # type: ignore[misc]
        self._rescale(self.scale_)
        return self

    def transform(self, X):
        """Return the distances to the class means, in units of ``scale_``."""
        return self._call("transform", X)

    def predict(self, X):
        """Return the label of the nearest mean, shape (n_matrices,)."""
        return self._call("predict", X)

    def predict_proba(self, X):
        """Return pyriemann's probabilities, shape (n_matrices, n_classes)."""
        return self._call("predict_proba", X)

    def _call(self, method, X):
        check_is_fitted(self, "scale_")
        twin = copy.copy(self)
        twin._rescale(1 / self.scale_)
        return getattr(super(_UnitFree, twin), method)(X / self.scale_)

    def _rescale(self, factor):
        """Bring public matrices to another unit."""


class UnitFreeMDM(_UnitFree, MDM):
    """Minimum distance to mean; ``covmeans_`` are in the unit of the data."""

    covmeans_: np.ndarray

    def _rescale(self, factor):
        self.covmeans_ = self.covmeans_ * factor


class UnitFreeFgMDM(_UnitFree, FgMDM):
    """Minimum distance to mean after geodesic filtering."""
