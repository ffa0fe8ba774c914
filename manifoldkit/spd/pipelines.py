"""Ready pipelines of the augmented covariance method (ACM) for classification."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from manifoldkit._checks import check_choice
from manifoldkit.spd.alignment.aligner import DomainAligner
from manifoldkit.spd.augmented.transformer import AugmentedCovariances
from manifoldkit.spd.unit_free import UnitFreeFgMDM, UnitFreeMDM, UnitFreeTangentSpace

CLASSIFIERS = ("svm", "lr", "en", "mdm", "fgmdm", "gbwmdm")
# mix of the penalties of MOABB's elastic net
_L1_RATIO = 0.7
SELECTIONS = ("grid", "mdop", "afnn", "aic", "bic", "hq", "uniform")


def make_acm_classifier(
    order: int | str = 1,
    lag: int | str = 1,
    classifier: Any = "svm",
    *,
    estimator: str | Callable[..., Any] = "oas",
    structure: str = "stacked",
    metric: str | dict[str, Any] | None = "riemann",
    align: bool | DomainAligner = False,
    shrinkage: float = 0.0,
    missing: str = "impute",
    selection: str = "grid",
    orders: Sequence[int] = (1, 2, 4, 6),
    lags: Sequence[int] = (1, 2, 4, 8),
    param_grid: dict[str, Any] | None = None,
    scoring: str | Callable[..., float] | None = None,
    cv: Any = 3,
    memory: Any = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Pipeline | GridSearchCV:
    """Build a classifier of epochs on their augmented covariances.

    The result is a plain scikit-learn ``Pipeline`` with the steps

    - ``"augmented"``: :class:`AugmentedCovariances`;
    - ``"align"``, with ``align``: :class:`DomainAligner`;
    - ``"tangent"``: pyriemann's ``TangentSpace(metric)``, unless the classifier works
      on the matrices themselves;
    - ``"classifier"``.

    Tangent space and class means see the matrices divided by the mean eigenvalue of the
    training matrices, whatever the metric: signals in volts give what microvolts give.
    (A classifier of your own with ``metric=None`` gets the matrices as they are.)

    so that grids name ``augmented__order``, ``augmented__lag``, ``classifier__C``.
    Tangent features are not standardized: their coordinates are isometric, distances
    between them approximate those between the matrices, and a scaler would blow up the
    directions that hold noise.

    ``order="auto"`` or ``lag="auto"`` with ``selection="grid"`` returns a
    ``GridSearchCV`` over that pipeline. Every ``fit`` chooses by cross-validation
    inside its own training epochs, so ``cross_val_score`` of it is a nested
    cross-validation and its score is honest. Do not report ``best_score_``: it is the
    maximum over the grid. With another ``selection`` the choice is made without labels
    in the first step of the pipeline, from the training epochs too, and much cheaper.

    Parameters
    ----------
    order, lag : int or "auto", default=1
        Delay embedding; "auto" searches.
    classifier : {"svm", "lr", "en", "mdm", "fgmdm", "gbwmdm"} or estimator
        By default "svm". Linear support vector machine, logistic regression or elastic
        net (logistic regression with 0.7 of its penalty on absolute values, the best
        left/right pipeline of MOABB's benchmark; slower) on the tangent space; nearest
        class mean under ``metric``, after geodesic filtering, or under the generalized
        Bures-Wasserstein metric. An estimator is put behind the tangent space, or takes
        the matrices when ``metric=None``.
    align : bool or DomainAligner, default=False
        Recenter the matrices of each subject or session, or do as a
        :class:`DomainAligner` of yours does. ``fit``, ``predict`` and ``score`` then
        take ``domains=`` where scikit-learn's metadata routing is on; otherwise
        ``fit(X, y, align__domains=...)``, and what ``predict`` is given is one new
        domain, whose mean is that of its matrices.
    estimator, structure, shrinkage, missing
        Options of :class:`AugmentedCovariances`. By default epochs in which channels
        hold NaN are completed, with a warning.
    metric : str, dict or None, default="riemann"
        Metric of tangent space and means, as pyriemann takes it (for example
        ``gbw_metric()``). Not used by "gbwmdm".
    selection : {"grid", "mdop", "afnn", "aic", "bic", "hq", "uniform"}, default="grid"
        How "auto" chooses: by inner cross-validation, or as
        :func:`manifoldkit.spd.select_delay_embedding`.
    orders, lags : sequence of int
        Values of an inner grid; the largest bound the other methods too. The paper
        searches 1 to 10 for both.
    param_grid : dict, optional
        Further parameters for the inner grid, such as ``{"classifier__C": [0.5, 1]}``.
    scoring, cv, n_jobs
        Options of the inner grid search. An integer ``cv`` means shuffled stratified
        folds drawn with ``random_state``.
    memory : str or joblib.Memory, optional
        Cache of the pipeline: a grid over the classifier's parameters then computes
        each (order, lag) once a fold.
    random_state : int, RandomState instance or None, default=None
        Seed of inner folds, selection and classifier.

    Returns
    -------
    Pipeline or GridSearchCV

    Raises
    ------
    ValueError
        Unknown option; a single class (when fitted).
    TypeError
        ``classifier`` neither a name nor an estimator, ``align`` no aligner.

    References
    ----------
    .. [1] Carrara and Papadopoulo, "Classification of BCI-EEG based on the augmented
           covariance matrix", IEEE Trans. Biomed. Eng. 2024, arXiv 2302.04508.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["feet", "hands"], 10)
    >>> X = rng.standard_normal((20, 2, 100))
    >>> X[10:, :, 2:] += X[10:, :, :-2]  # one class is smoother in time
    >>> make_acm_classifier(order=3, lag=2).fit(X, y).score(X, y)
    1.0
    """
    check_choice(selection, SELECTIONS, "selection")
    asked: dict[str, Any] = {"order": order, "lag": lag}
    automatic = [name for name, value in asked.items() if value == "auto"]
    searched = bool(automatic) and selection == "grid"
    if param_grid and not searched:
        raise ValueError(
            "param_grid: used only with order='auto' or lag='auto' and "
            "selection='grid'; wrap the pipeline in GridSearchCV instead"
        )
    augmented = AugmentedCovariances(
        **asked | (dict.fromkeys(automatic, 1) if searched else {}),
        estimator=estimator,
        structure=structure,
        shrinkage=shrinkage,
        missing=missing,
        selection="mdop" if selection == "grid" else selection,
        max_order=max(orders),
        max_lag=max(lags),
        random_state=random_state,
    )
    steps = [
        ("augmented", augmented),
        *_alignment(align),
        *_back_end(classifier, metric, random_state),
    ]
    pipeline = Pipeline(steps, memory=memory)
    if not searched:
        return pipeline
    if isinstance(cv, int):
        cv = StratifiedKFold(cv, shuffle=True, random_state=random_state)
    grid = _order_lag_grid(automatic, orders, lags)
    return GridSearchCV(
        pipeline,
        [part | (param_grid or {}) for part in grid],
        scoring=scoring,
        cv=cv,
        n_jobs=n_jobs,
        error_score="raise",
    )


def _order_lag_grid(
    automatic: list[str], orders: Sequence[int], lags: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the pairs to search; order 1, where no lag matters, only once."""
    values = {"order": list(orders), "lag": list(lags)}
    if len(automatic) < 2 or 1 not in values["order"]:
        return [{f"augmented__{name}": values[name] for name in automatic}]
    parts = [([1], values["lag"][:1])]
    further = [order for order in values["order"] if order != 1]
    if further:
        parts.append((further, values["lag"]))
    return [{"augmented__order": o, "augmented__lag": k} for o, k in parts]


def _alignment(align: bool | DomainAligner) -> list[tuple[str, Any]]:
    if isinstance(align, DomainAligner):
        return [("align", clone(align))]
    if not isinstance(align, bool | np.bool_):
        raise TypeError(f"align: expected a bool or a DomainAligner, found {align!r}")
    return [("align", DomainAligner())] if align else []


def _elastic_net() -> LogisticRegression:
    model = LogisticRegression(l1_ratio=_L1_RATIO, solver="saga", max_iter=1000)
    # before scikit-learn 1.8 the mix is looked at only where the penalty says so
    default = inspect.signature(LogisticRegression).parameters["penalty"].default
    return model.set_params(penalty="elasticnet") if default == "l2" else model


def _named(classifier: str, metric: Any) -> Any:
    if classifier == "en":
        return _elastic_net()
    if classifier == "svm":
        return SVC(kernel="linear")
    if classifier == "lr":
        return LogisticRegression(max_iter=1000)
    if classifier == "gbwmdm":
        from manifoldkit.spd.estimators import GBWMDM

        return GBWMDM()
    model = {"mdm": UnitFreeMDM, "fgmdm": UnitFreeFgMDM}[classifier]
    return model(metric=metric)


def _back_end(classifier: Any, metric: Any, random_state: Any) -> list[tuple[str, Any]]:
    """Return the steps behind the matrices."""
    named = isinstance(classifier, str)
    if named:
        model = _named(check_choice(classifier, CLASSIFIERS, "classifier"), metric)
        if "random_state" in model.get_params():
            model.set_params(random_state=random_state)
    elif hasattr(classifier, "fit") and not isinstance(classifier, type):
        model = clone(classifier)
    else:
        raise TypeError(
            f"classifier: expected one of {CLASSIFIERS} or an estimator, "
            f"found {classifier!r}"
        )
    on_matrices = classifier not in ("svm", "lr", "en") if named else metric is None
    tangent = [] if on_matrices else [("tangent", UnitFreeTangentSpace(metric=metric))]
    return [*tangent, ("classifier", model)]
