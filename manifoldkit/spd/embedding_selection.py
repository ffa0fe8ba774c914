"""Choice of order and lag of a delay embedding, from training epochs alone."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from manifoldkit._checks import check_choice
from manifoldkit.spd.augmented.selection import (
    METHODS,
    DelayEmbedding,
    check_request,
    largest_order,
    select_without_labels,
    shortest,
)
from manifoldkit.spd.pipelines import make_acm_classifier


def select_delay_embedding(
    X: ArrayLike,
    method: str = "mdop",
    *,
    y: ArrayLike | None = None,
    order: int | None = None,
    lag: int | None = None,
    max_order: int = 10,
    max_lag: int = 10,
    max_delay: int = 50,
    n_reference: int = 200,
    band_edge: float | None = None,
    classifier: Any = "svm",
    cv: Any = 3,
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> DelayEmbedding:
    r"""Choose order and lag of the delay embedding from training epochs.

    Give training epochs only: a choice that has seen the test epochs makes their score
    optimistic. ``AugmentedCovariances(order="auto", lag="auto")`` does so inside a
    pipeline.

    ========= ==================================================================
    "mdop"    MDOP embedding of each trial; order = number of its delays,
              lag = their mean, both averaged over trials and rounded
    "afnn"    lag = first minimum of the mean self mutual information, order =
              first maximum of the mean of Cao's E1 at that lag
    "aic"     order of the VAR at a fixed lag that minimizes
    "bic"     log det(residual covariance) + penalty order C² / T, with penalty
    "hq"      2, log T, or 2 log log T
    "uniform" lag = time in which the autocorrelation falls to 1/e, order so that
              order * lag spans a period of the lower band edge; the cheapest
    "grid"    cross-validated grid search of the whole classifier; needs ``y``
    ========= ==================================================================

    Parameters
    ----------
    X : array-like, shape (n_epochs, n_channels, n_times)
        Training epochs; a list of trials (n_channels, n_times) of different duration,
        of which the shortest bounds the answer; or ``mne.Epochs``. Channels that are
        flat or hold NaN are left out of an epoch.
    method : str, default="mdop"
        See the table.
    y : array-like, shape (n_epochs,), optional
        Labels, for "grid".
    order, lag : int, optional
        Keep this value and choose the other only. The criteria need a lag: 1 if none.
    max_order, max_lag : int, default=10
        Bounds of the answer (the grid of the paper). The order is also kept so small
        that half of the epoch remains.
    max_delay : int, default=50
        Largest candidate delay of "mdop", in samples; a quarter of the epoch at most.
    n_reference : int, default=200
        Points a trial that "mdop" and "afnn" look for neighbors of.
    band_edge : float, optional
        Lowest frequency of interest in cycles a sample (8 Hz at 160 Hz is 0.05), for
        "uniform". Default: where the mean spectrum has gathered 5 % of its power.
    classifier, cv, scoring
        Options of "grid", see :func:`manifoldkit.spd.make_acm_classifier`.
    n_jobs : int, optional
        Trials (or grid cells) in parallel.
    random_state : int, RandomState instance or None, default=None
        Draws reference points and folds.

    Returns
    -------
    DelayEmbedding
        ``order``, ``lag``, ``curves``, ``per_trial``, ``plot()``.

    Raises
    ------
    ValueError
        Bad epochs, unknown method, "grid" without labels, an epoch in which every
        channel is flat, or epochs under 20 samples.

    Notes
    -----
    For "mdop" as the paper ran it set ``max_order=50, max_lag=50`` and
    ``n_reference`` to the epoch's length. A smaller sample of reference points gives
    the same means with more noise.

    References
    ----------
    .. [1] Carrara and Papadopoulo, arXiv 2302.04508.
    .. [2] Nichkawde, Phys. Rev. E 87, 022905, 2013. (mdop)
    .. [3] Cao, Physica D 110, 1997. (afnn)
    .. [4] Luetkepohl, "New Introduction to Multiple Time Series Analysis", 2005,
           section 4.3. (aic, bic, hq)

    Examples
    --------
    >>> t = np.arange(400)
    >>> X = np.stack([np.sin(t / 6 + phase) for phase in range(4)])[:, None]
    >>> X = X + 0.1 * np.random.default_rng(0).standard_normal(X.shape)
    >>> chosen = select_delay_embedding(X, "afnn", random_state=0)
    >>> 8 <= chosen.lag <= 10  # a quarter of the period of 6 * 2 pi samples
    True
    """
    check_choice(method, METHODS, "method")
    bounds: dict[str, Any] = {
        "order": order,
        "lag": lag,
        "max_order": max_order,
        "max_lag": max_lag,
        "max_delay": max_delay,
        "n_reference": n_reference,
    }
    epochs = check_request(X, **bounds)
    if method != "grid":
        return select_without_labels(
            epochs,
            method,
            **bounds,
            band_edge=band_edge,
            n_jobs=n_jobs,
            random_state=random_state,
        )
    orders = [order] if order else list(range(1, int(max_order) + 1))
    lags = [lag] if lag else list(range(1, int(max_lag) + 1))
    return _by_grid(
        epochs,
        y,
        orders,
        lags,
        classifier=classifier,
        cv=cv,
        scoring=scoring,
        n_jobs=n_jobs,
        random_state=random_state,
    )


def _by_grid(
    X: np.ndarray,
    y: ArrayLike | None,
    orders: list[int],
    lags: list[int],
    **options: Any,
) -> DelayEmbedding:
    if y is None:
        raise ValueError("y: method='grid' needs the labels of the epochs, found None")
    search: Any = make_acm_classifier(
        "auto", "auto", orders=orders, lags=lags, **options
    )
    cells = [
        {
            "augmented__lag": [step],
            "augmented__order": [
                o for o in orders if o <= largest_order(shortest(X), step)
            ],
        }
        for step in lags
    ]
    search.set_params(param_grid=[c for c in cells if c["augmented__order"]]).fit(X, y)
    results = search.cv_results_
    scores = np.full((len(orders), len(lags)), np.nan)
    for params, score in zip(
        results["params"], results["mean_test_score"], strict=True
    ):
        i = orders.index(params["augmented__order"])
        scores[i, lags.index(params["augmented__lag"])] = score
    best = search.best_params_
    return DelayEmbedding(
        best["augmented__order"],
        best["augmented__lag"],
        "grid",
        {"score": (np.array(orders), np.array(lags), scores)},
    )
