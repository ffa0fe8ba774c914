"""What the SPDNet classifier makes of the arrays that it is given."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from manifoldkit.linalg.checks import check_weights
from manifoldkit.spd.augmented.transformer import AugmentedCovariances
from manifoldkit.spd.validation import check_epochs, check_matrices


class NetworkInputs:
    """Arrays of users to matrices, targets and codes of domains."""

    input: str
    rescale: bool
    class_weight: Any
    order: Any
    lag: Any
    estimator: Any
    domain_batchnorm: bool
    unseen: str
    n_channels_: int
    scale_: float
    covariances_: AugmentedCovariances
    domains_: np.ndarray

    def _check_input(self, X: ArrayLike, fitting: bool = False) -> np.ndarray:
        n = None if fitting else self.n_channels_
        if self.input == "signal":
            return check_epochs(X, n_channels=n)
        return check_matrices(X, n=n)

    def _targets(
        self,
        X: np.ndarray,
        y: np.ndarray,
        classes: np.ndarray,
        sample_weight: ArrayLike | None,
    ) -> np.ndarray:
        """Rows (code, weight) in the dtype of the data."""
        unknown = np.setdiff1d(y, classes)
        if len(unknown):
            raise ValueError(
                f"y: expected labels out of {classes.tolist()}, "
                f"found {unknown.tolist()[0]!r}"
            )
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        check_weights(torch.from_numpy(weights), len(X), "sample_weight")
        codes = np.searchsorted(classes, y)
        if self.class_weight is not None:
            by_class = compute_class_weight(self.class_weight, classes=classes, y=y)
            weights = weights * by_class[codes]
        return np.stack([codes, weights], 1).astype(X.dtype)

    def _make_covariances(self) -> AugmentedCovariances:
        return AugmentedCovariances(
            order=self.order, lag=self.lag, estimator=self.estimator
        )

    def _prepare(self, X: np.ndarray, fitting: bool = False) -> np.ndarray:
        """Matrices that the network takes."""
        if self.input == "signal":
            if fitting:
                self.covariances_ = self._make_covariances().fit(X)
            X = self.covariances_.transform(X)
        if fitting:
            traces = np.trace(X, axis1=1, axis2=2, dtype=np.float64) / X.shape[1]
            self.scale_ = float((traces / len(X)).sum()) if self.rescale else 1.0
        return X / X.dtype.type(self.scale_)

    def _domain_labels(self, domains: ArrayLike | None, n: int) -> np.ndarray | None:
        """Domains as an array of n labels; None where there are none to be."""
        if not self.domain_batchnorm:
            if domains is None:
                return None
            raise ValueError(
                "domains: expected None, or set domain_batchnorm=True, which uses them"
            )
        if domains is None:
            raise ValueError("domains: expected one a sample (domain_batchnorm=True)")
        labels = np.asarray(domains)
        if labels.shape != (n,):
            raise ValueError(
                f"domains: expected shape ({n},), one a sample, found {labels.shape}"
            )
        return labels

    def _learn_domains(self, labels: np.ndarray | None, fresh: bool) -> None:
        """Number the domains; those that are known keep their numbers."""
        if labels is None:
            return
        found = np.unique(labels)
        if not fresh:
            check_kind(found, self.domains_)
            new = found[~np.isin(found, self.domains_)]
            found = np.concatenate([self.domains_, new])
        self.domains_ = found

    def _domain_codes(self, labels: np.ndarray | None) -> np.ndarray | None:
        """Numbers of domains that are known."""
        return None if labels is None else self._codes(labels)

    def _codes(self, labels: np.ndarray) -> np.ndarray:
        check_kind(labels, self.domains_)
        order = np.argsort(self.domains_, kind="stable")
        return order[np.searchsorted(self.domains_, labels, sorter=order)]


def check_kind(labels: np.ndarray, known: np.ndarray) -> None:
    """Raise where labels are numbers and the known ones are not, or vice versa."""
    text = [a.dtype.kind in "USO" for a in (labels, known)]
    if len(labels) and text[0] != text[1]:
        raise TypeError(
            f"domains: expected labels like {known[0]!r}, found {labels[0]!r}"
        )
