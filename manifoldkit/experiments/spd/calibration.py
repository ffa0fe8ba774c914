"""A pipeline that aligns domains, in the words in which MOABB hands them over."""

from typing import Any, Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if

#: Name of the subject or session that is scored.
TARGET = "target, not trained on"


def _has(method: str) -> Any:
    def check(self: "TargetDomain") -> bool:
        return hasattr(getattr(self, "pipeline_", self.pipeline), method)

    return available_if(check)


class TargetDomain(ClassifierMixin, BaseEstimator):
    """Fit a pipeline with a ``DomainAligner`` to source subjects, ask it of another.

    MOABB's cross-subject evaluation gives ``fit`` the subjects of the epochs and, with
    ``cv_kwargs={"calibration_size": ...}``, a calibration part of the target without
    or with labels. Unlabeled calibration epochs give the target's mean, labeled ones
    are trained on too. Without calibration, and in the cross-session evaluation, the
    mean is that of the epochs that are asked about.

    Parameters
    ----------
    pipeline : Pipeline or search over one
        With a :class:`~manifoldkit.spd.DomainAligner` as a step.

    Attributes
    ----------
    pipeline_ : Pipeline
        Fitted; of a search the one that it chose.
    classes_ : ndarray
        Labels, sorted.
    """

    # names that MOABB's evaluations look for
    __metadata_request__fit = {  # noqa: RUF012
        "subjects": True,
        "X_target_unlabeled": True,
        "X_target_labeled": True,
        "y_target_labeled": True,
    }

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        subjects: ArrayLike | None = None,
        X_target_unlabeled: ArrayLike | None = None,
        X_target_labeled: ArrayLike | None = None,
        y_target_labeled: ArrayLike | None = None,
    ) -> Self:
        """Fit the pipeline, with the subjects as domains.

        Parameters
        ----------
        X : array-like of shape (n_epochs, n_channels, n_times)
            Epochs of the sources.
        y : array-like of shape (n_epochs,)
            Labels.
        subjects : array-like of shape (n_epochs,), optional
            Their subjects; one and the same without.
        X_target_unlabeled, X_target_labeled : array-like, optional
            Calibration epochs of the target.
        y_target_labeled : array-like, optional
            Labels of the latter.
        """
        X, y = np.asarray(X), np.asarray(y)
        names = (
            ["source"] * len(y)
            if subjects is None
            else [str(s) for s in np.asarray(subjects)]
        )
        if X_target_labeled is not None and y_target_labeled is not None:
            X = np.concatenate([X, np.asarray(X_target_labeled)])
            y = np.concatenate([y, np.asarray(y_target_labeled)])
            names += [TARGET] * (len(y) - len(names))
        with sklearn.config_context(enable_metadata_routing=True):
            fitted = clone(self.pipeline).fit(X, y, domains=names)
            self.pipeline_: Pipeline = getattr(fitted, "best_estimator_", fitted)
            if X_target_unlabeled is not None:
                self._adapt(X_target_unlabeled)
        self.classes_ = self.pipeline_.classes_
        return self

    def _adapt(self, X: ArrayLike) -> None:
        """Give the aligner the target's statistics."""
        matrices: Any = np.asarray(X)
        for _, step in self.pipeline_.steps:
            if hasattr(step, "adapt"):
                step.adapt(matrices, [TARGET] * len(matrices))
                return
            matrices = step.transform(matrices)

    def _ask(self, method: str, X: Any) -> np.ndarray:
        with sklearn.config_context(enable_metadata_routing=True):
            names = [TARGET] * len(X)
            return getattr(self.pipeline_, method)(X, domains=names)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return labels of epochs of the target."""
        return self._ask("predict", X)

    @_has("predict_proba")
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return probabilities of the classes."""
        return self._ask("predict_proba", X)

    @_has("decision_function")
    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return the decision function of the last step."""
        return self._ask("decision_function", X)


def aligns(pipeline: Any) -> bool:
    """Tell whether a pipeline, or a search over one, has a step that aligns domains."""
    steps = getattr(getattr(pipeline, "estimator", pipeline), "steps", ())
    return any(hasattr(step, "adapt") for _, step in steps)
