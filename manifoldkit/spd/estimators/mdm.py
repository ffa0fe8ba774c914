"""Minimum distance to class means in the generalized Bures-Wasserstein metric."""

from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from torch import Tensor

from manifoldkit._checks import check_settings, count, interval, one_of
from manifoldkit.spd.estimators.matrices import (
    SPDInput,
    as_matrix,
    as_tensor,
    metric_matrix,
    move,
    size_of,
    weights_of,
)
from manifoldkit.spd.estimators.temperature import (
    fit_temperature,
    information,
    update_temperature,
)
from manifoldkit.spd.gbw.barycenter import gbw_mean
from manifoldkit.spd.gbw.chart import check_power
from manifoldkit.spd.gbw.metric import gbw_distance
from manifoldkit.spd.gbw.metric_learning import learn_metric_matrix
from manifoldkit.spd.validation import check_labels, check_matrices, classes_of


class GBWMDM(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, SPDInput
):
    r"""Minimum distance to the class means, generalized Bures-Wasserstein metric.

    A matrix goes to the class whose mean is nearest. All class means are computed in
    one batched call. Matrices may be complex Hermitian (cross-spectra).

    Parameters
    ----------
    power : float, default=1.0
        Power deformation of the metric, see :func:`~manifoldkit.spd.gbw_distance`.
    M : {"identity", "mean"} or array-like of shape (n, n), default="identity"
        Metric matrix. "identity": Bures-Wasserstein. "mean": the mean of all training
        matrices (of their powers), which makes the metric nearly affine invariant
        around the data while distances stay linear in small eigenvalues.
    learn_metric : bool, default=False
        Start from ``M`` and learn the metric matrix: L-BFGS on the penalized
        cross-entropy of ``softmax(-d^2 / tau)`` over its log-Cholesky coordinates, the
        class means following the metric. Exact gradients; slower.
    penalty : float, default=0.01
        Weight of the squared distance of the learned coordinates to their start.
    max_iter : int, default=30
        Largest number of L-BFGS iterations.
    normalize : bool, default=False
        Let ``transform`` return distances in units of the size of the class means, so
        that a linear model behind it does not depend on the unit of the signals. By
        default they are the distances themselves, in the square root of the unit of the
        matrices (for ``M="identity"`` and ``power=1``); predictions have no unit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    covmeans_ : ndarray of shape (n_classes, n, n)
        Class means.
    metric_ : ndarray of shape (n, n)
        Metric matrix that is used.
    temperature_ : float
        ``tau``, fitted to the training labels by maximum likelihood with smoothed
        targets (Platt), so that separable classes leave it positive.
    class_count_ : ndarray of shape (n_classes,)
        Total weight of the matrices of each class.
    scale_ : float
        What ``transform`` divides distances by: the root of the mean eigenvalue of
        :math:`M^{-1} G^\theta`, averaged over the class means G.
    n_channels_ : int
        Size of the matrices seen in ``fit``.

    Raises
    ------
    ValueError
        When fitted: bad matrices (the first is named), one class only, or settings out
        of range.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([np.diag([1., 1.]), np.diag([1., 2.]), np.diag([9., 1.])])
    >>> model = GBWMDM().fit(X, ["rest", "rest", "move"])
    >>> model.predict(np.array([np.diag([8., 2.])]))
    array(['move'], dtype='<U4')
    """

    def __init__(
        self,
        power: float = 1.0,
        M: ArrayLike = "identity",
        learn_metric: bool = False,
        penalty: float = 0.01,
        max_iter: int = 30,
        normalize: bool = False,
    ):
        self.power = power
        self.M = M
        self.learn_metric = learn_metric
        self.penalty = penalty
        self.max_iter = max_iter
        self.normalize = normalize

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Compute the class means and the temperature.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices, real or complex.
        y : array-like of shape (n_matrices,)
            Labels, at least two different ones.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights; every class needs a positive sum.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A matrix is not SPD (named), one class only, lengths or settings do not fit.
        """
        matrices, labels = self._check_training(X, y)
        return self._start(matrices, labels, classes_of(labels), sample_weight)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        r"""Move the class means towards further matrices.

        The mean of a class of total weight W moves along the geodesic to the mean of
        its new matrices, of weight w, by the part :math:`w / (W + w)`: exact for
        commuting matrices, and for one matrix a call the running mean of pyriemann's
        online examples. The metric matrix stays that of the first call (or of
        :meth:`fit`, after which this method goes on); the temperature takes a Newton
        step of the running likelihood.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n)
            SPD matrices.
        y : array-like of shape (n_matrices,)
            Labels.
        classes : array-like, optional
            All labels that will come; needed in the first call. A class without
            matrices yet is never predicted.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As :meth:`fit`; no ``classes`` in the first call, or labels outside them.
        """
        first = not hasattr(self, "covmeans_")
        n = None if first else self.n_channels_
        matrices, labels = self._check_training(X, y, n)
        if classes is None and first:
            raise ValueError("classes: expected in the first call of partial_fit")
        given = None if classes is None else classes_of(np.asarray(classes))
        known: np.ndarray = given if first and given is not None else self.classes_
        if given is not None and not np.array_equal(given, known):
            raise ValueError(
                f"classes: expected {known.tolist()} as before, found {classes!r}"
            )
        unknown = np.setdiff1d(labels, known)
        if len(unknown):
            raise ValueError(
                f"y: expected labels out of {known.tolist()}, "
                f"found {unknown.tolist()[0]!r}"
            )
        if first:
            return self._start(matrices, labels, known, sample_weight)
        self._check_kind(matrices)
        return self._go_on(matrices, labels, sample_weight)

    def _check_training(
        self, X: ArrayLike, y: ArrayLike, n: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        check_power(self.power)
        check_settings(
            self,
            {
                "max_iter": count(),
                "penalty": interval(0),
                "normalize": one_of(True, False),
            },
        )
        matrices = check_matrices(X, n=n, hermitian=True)
        return matrices, check_labels(matrices, y, "GBWMDM")

    def _start(self, X, y, labels, sample_weight) -> Self:
        """Fit the means of the classes that have matrices."""
        real, n = not np.iscomplexobj(X), X.shape[-1]
        x, weights = as_tensor(X, real), weights_of(sample_weight, X)
        present = np.isin(labels, y)
        if self.learn_metric and not present.all():
            raise ValueError(
                "learn_metric: the first call of partial_fit needs matrices of every "
                f"class, found none of class {labels[~present].tolist()[0]!r}"
            )
        codes = np.searchsorted(labels[present], y)
        groups = _group(codes, weights, labels[present])
        metric = metric_matrix(self.M, x, weights, self.power, real)
        if self.learn_metric:
            metric = learn_metric_matrix(
                x,
                torch.from_numpy(codes),
                weights,
                groups,
                metric,
                power=self.power,
                penalty=self.penalty,
                max_iter=self.max_iter,
                hermitian=not real,
            )
        index, group_weights = groups
        means = gbw_mean(x[index], group_weights, metric, self.power)
        self.classes_ = labels
        self.n_channels_ = n
        dtype = np.float64 if real else np.complex128
        self.covmeans_ = np.full((len(labels), n, n), np.nan, dtype)
        self.covmeans_[present] = as_matrix(means, real)
        self.class_count_ = np.zeros(len(labels))
        self.class_count_[present] = group_weights.sum(1).numpy()
        self.metric_ = np.eye(n) if metric is None else as_matrix(metric, real)
        self.temperature_, self._information = 1.0, 0.0
        self._set_scale()
        self._learn_temperature(x, np.searchsorted(labels, y), weights.numpy())
        return self

    def _go_on(self, X, y, sample_weight) -> Self:
        """Move the means of the classes that have new matrices."""
        real, metric = self._is_real(), self._metric()
        x, weights = as_tensor(X, real), weights_of(sample_weight, X)
        codes = np.searchsorted(self.classes_, y)
        counts = np.bincount(codes, weights, minlength=len(self.classes_))
        for k in np.flatnonzero(counts):
            rows = torch.from_numpy(codes == k)
            mean = gbw_mean(x[rows], weights[rows], metric, self.power)
            if self.class_count_[k] > 0:
                old = as_tensor(self.covmeans_[k], real)
                mean = move(
                    old, self.class_count_[k], mean, counts[k], metric, self.power
                )
            self.covmeans_[k] = as_matrix(mean, real)
        self.class_count_ = self.class_count_ + counts
        self._set_scale()
        self._learn_temperature(x, codes, weights.numpy())
        return self

    def _set_scale(self) -> None:
        self.scale_ = 1.0
        if self.normalize:
            means = as_tensor(self.covmeans_[self.class_count_ > 0], self._is_real())
            self.scale_ = size_of(means, self._metric(), self.power)

    def _learn_temperature(self, x: Tensor, codes, weights) -> None:
        seen = self.class_count_ > 0
        if seen.sum() < 2:
            return
        codes = np.cumsum(seen)[codes] - 1
        squared = self._distances(x)[:, seen] ** 2
        items = squared, codes, weights, self.class_count_[seen]
        if self._information > 0:
            self.temperature_, self._information = update_temperature(
                self.temperature_, self._information, *items
            )
        else:
            self.temperature_ = fit_temperature(*items)
            self._information = information(squared, self.temperature_, weights)

    def _is_real(self) -> bool:
        return not np.iscomplexobj(self.covmeans_)

    def _distances(self, x: Tensor) -> np.ndarray:
        """Distances in the unit of the data; infinite to classes without matrices."""
        real, seen = self._is_real(), self.class_count_ > 0
        means = as_tensor(self.covmeans_[seen], real)
        found = gbw_distance(x[:, None], means, self._metric(), self.power).numpy()
        out = np.full((len(x), len(seen)), np.inf)
        out[:, seen] = found if real else found / np.sqrt(2)
        return out

    @property
    def _n_features_out(self) -> int:
        return len(self.classes_)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the distances to the class means, shape (n_matrices, n_classes).

        In units of ``scale_``: times ``scale_`` they are those of
        :func:`~manifoldkit.spd.gbw_distance`.

        Raises
        ------
        ValueError
            A class has no matrices yet.
        """
        x, dtype = self._check(X)
        if not self.class_count_.all():
            empty = self.classes_[self.class_count_ == 0].tolist()[0]
            raise ValueError(
                f"transform: no matrices of class {empty!r} were given to partial_fit "
                "yet, so there is no distance to its mean"
            )
        return (self._distances(x) / self.scale_).astype(dtype, copy=False)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the label of the nearest class mean, shape (n_matrices,)."""
        x, _ = self._check(X)
        return self.classes_[self._distances(x).argmin(1)]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return ``softmax(-d^2 / temperature_)``, shape (n_matrices, n_classes)."""
        x, _ = self._check(X)
        return softmax(-(self._distances(x) ** 2) / self.temperature_, axis=1)


def _group(codes, weights: Tensor, labels):
    """Return indices (n_classes, longest) of the classes and weights, 0 for padding."""
    members = [np.flatnonzero(codes == k) for k in range(len(labels))]
    index = torch.zeros(len(labels), max(map(len, members)), dtype=torch.long)
    grouped = torch.zeros(index.shape, dtype=weights.dtype)
    for k, rows in enumerate(members):
        index[k, : len(rows)] = torch.from_numpy(rows)
        grouped[k, : len(rows)] = weights[rows]
        if not grouped[k].sum() > 0:
            raise ValueError(
                f"sample_weight: all weights of class {labels.tolist()[k]!r} are zero"
            )
    return index, grouped
