"""Order and lag of the delay embedding from the epochs alone, without labels."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from manifoldkit._checks import (
    check_choice,
    check_counts,
    count,
    optional,
)
from manifoldkit.spd.augmented.moments import (
    block_autocovariances,
    block_toeplitz,
    n_delay_vectors,
)
from manifoldkit.spd.augmented.nonlinear import (
    cao_statistic,
    first_minimum,
    mdop_embedding,
    mutual_information,
    standardize,
)
from manifoldkit.spd.validation import check_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: All but "grid" look at the epochs only.
METHODS = ("mdop", "afnn", "aic", "bic", "hq", "uniform", "grid")

# Channels that repeat others (an average reference) have no log determinant; this
# share of their unit variance is added. It shifts every order of a curve alike.
_RIDGE = 1e-8
# The lower band edge is where the spectrum has gathered this share of its power.
_EDGE_POWER = 0.05


@dataclass(frozen=True)
class DelayEmbedding:
    """Order and lag that a method chose, with what it saw.

    Attributes
    ----------
    order, lag : int
        The choice; ``lag`` in samples.
    method : str
        Name of the method.
    curves : dict of str to tuple of ndarray
        Named diagnostics averaged over trials: abscissa and values; for "grid" the
        orders, the lags and the mean inner score of each pair.
    per_trial : dict of str to ndarray
        One value or curve a trial.

    Examples
    --------
    >>> from manifoldkit.spd import select_delay_embedding
    >>> X = np.random.default_rng(0).standard_normal((4, 2, 300))
    >>> chosen = select_delay_embedding(X, method="bic", max_order=4)
    >>> chosen.order, chosen.lag, list(chosen.curves)
    (1, 1, ['bic'])
    """

    order: int
    lag: int
    method: str
    curves: dict[str, tuple[np.ndarray, ...]] = field(default_factory=dict, repr=False)
    per_trial: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def plot(self, ax: "Axes | None" = None, curve: str | None = None) -> "Axes":
        """Draw one diagnostic curve, or the map of scores of a grid.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        curve : str, optional
            Which of ``curves``; the first by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            No such curve.
        """
        import matplotlib.pyplot as plt

        curve = next(iter(self.curves)) if curve is None else curve
        check_choice(curve, tuple(self.curves), "curve")
        ax = plt.subplots(layout="constrained")[1] if ax is None else ax
        if len(self.curves[curve]) == 3:
            orders, lags, scores = self.curves[curve]
            image = ax.imshow(scores, origin="lower", aspect="auto")
            ax.set_xticks(range(len(lags)), lags)
            ax.set_yticks(range(len(orders)), orders)
            ax.set(xlabel="lag (samples)", ylabel="order")
            best = list(lags).index(self.lag), list(orders).index(self.order)
            ax.plot(*best, marker="o", mfc="none", mec="white", ms=12)
            ax.figure.colorbar(image, ax=ax, label="mean inner score")
        else:
            x, y = self.curves[curve]
            ax.plot(x, y, marker=".")
            by_order = curve in ("aic", "bic", "hq", "cao_e1", "false_neighbors")
            ax.axvline(self.order if by_order else self.lag, ls="--", color="0.5")
            label = "order" if by_order else "delay (samples)"
            ax.set(xlabel=label, ylabel=curve.replace("_", " "))
        ax.set_title(f"{self.method}: order {self.order}, lag {self.lag}")
        return ax


def shortest(X: np.ndarray) -> int:
    """Return the number of samples of the shortest of checked epochs."""
    return min(x.shape[1] for x in X)


def _check_bounds(
    X: np.ndarray, order: int | None, lag: int | None, **bounds: int
) -> None:
    """Raise unless epochs, already checked, admit a choice of order and lag."""
    for name, value in {"order": order, "lag": lag}.items():
        optional(count())(value, name)
    check_counts(**bounds)
    if shortest(X) < 20:
        raise ValueError(
            f"X: expected epochs of at least 20 samples, found {shortest(X)} samples"
        )


def check_request(
    X: ArrayLike, order: int | None, lag: int | None, **bounds: int
) -> np.ndarray:
    """Return the epochs of a choice of order and lag; raise unless all of it fits."""
    epochs = check_epochs(X, missing=True)
    _check_bounds(epochs, order, lag, **bounds)
    return epochs


def select_without_labels(
    X: np.ndarray,
    method: str,
    *,
    order: int | None,
    lag: int | None,
    max_order: int = 10,
    max_lag: int = 10,
    max_delay: int = 50,
    n_reference: int = 200,
    band_edge: float | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> DelayEmbedding:
    """Choose order and lag by one of the methods that need no labels.

    The arguments are those of :func:`~manifoldkit.spd.select_delay_embedding`; the
    epochs have been checked.

    Raises
    ------
    ValueError
        A method that needs labels; an epoch in which every channel is
        flat, or epochs under 20 samples.
    """
    check_choice(method, METHODS, "method")
    _check_bounds(
        X,
        order,
        lag,
        max_order=max_order,
        max_lag=max_lag,
        max_delay=max_delay,
        n_reference=n_reference,
    )
    if method == "grid":
        raise ValueError("y: method='grid' needs the labels of the epochs, found None")
    trials = [standardize(x) for x in X]
    for i, trial in enumerate(trials):
        if len(trial) == 0:
            raise ValueError(f"X[{i}] has no variation: every channel is flat")
    if method == "mdop":
        found = _by_mdop(trials, int(max_delay), int(n_reference), n_jobs, random_state)
    elif method == "afnn":
        bounds = order or max_order, max_lag
        found = _by_afnn(trials, lag, *bounds, n_reference, n_jobs, random_state)
    elif method == "uniform":
        found = _by_time_scales(trials, lag, max_lag, band_edge)
    else:
        found = _by_criterion(method, trials, lag or 1, max_order)

    chosen_lag = lag or int(np.clip(found.lag, 1, max_lag))
    most = min(max_order, largest_order(shortest(X), chosen_lag))
    chosen_order = order or int(np.clip(found.order, 1, most))
    n_delay_vectors(shortest(X), chosen_order, chosen_lag)
    return DelayEmbedding(
        chosen_order, chosen_lag, method, found.curves, found.per_trial
    )


def largest_order(n_times: int, lag: int) -> int:
    """Largest order that leaves half of the epoch."""
    return 1 + (n_times // 2) // lag


def _rounded_mean(values) -> int:
    return int(np.floor(np.mean(values) + 0.5))


def _each(function, trials, n_jobs, random_state) -> list:
    """Apply to each trial and a generator of its own, whatever ``n_jobs``."""
    seeds = check_random_state(random_state).randint(2**31 - 1, size=len(trials))
    return Parallel(n_jobs=n_jobs)(
        delayed(function)(trial, np.random.RandomState(seed))
        for trial, seed in zip(trials, seeds, strict=True)
    )


def _by_mdop(trials, max_delay, n_reference, n_jobs, random_state) -> DelayEmbedding:
    max_delay = min(max_delay, shortest(trials) // 4)

    def embed(trial, rng):
        return mdop_embedding(trial, rng, max_delay=max_delay, n_reference=n_reference)

    found = _each(embed, trials, n_jobs, random_state)
    orders = np.array([len(e.delays) for e in found])
    lags = np.array([_rounded_mean(e.delays) for e in found])
    longest = max(len(e.false_neighbors) for e in found)
    fractions = np.full((len(found), longest), np.nan)
    for row, e in zip(fractions, found, strict=True):
        row[: len(e.false_neighbors)] = e.false_neighbors
    beta = np.mean([e.beta for e in found], axis=0)
    return DelayEmbedding(
        _rounded_mean(orders),
        _rounded_mean(lags),
        "mdop",
        {
            "beta": (np.arange(max_delay + 1), beta),
            "false_neighbors": (np.arange(1, longest + 1), np.nanmean(fractions, 0)),
        },
        {
            "order": orders,
            "lag": lags,
            "theiler": np.array([e.theiler for e in found]),
        },
    )


def _by_afnn(
    trials, lag, max_order, max_lag, n_reference, n_jobs, random_state
) -> DelayEmbedding:
    n_times = shortest(trials)
    delays = np.arange(0, min(max_lag + 1, n_times // 4) + 1)
    information = np.array([mutual_information(t, delays).mean(0) for t in trials])
    curve = information.mean(0)
    lag = lag or first_minimum(curve) or int(delays[1:][curve[1:].argmin()])
    max_order = max(1, min(max_order, n_times // (2 * lag) - 2))

    def statistic(trial, rng):
        return cao_statistic(trial, lag, max_order + 1, rng, n_reference).mean(0)

    e1 = np.array(_each(statistic, trials, n_jobs, random_state))
    mean = e1.mean(0)
    # a peak, or where a curve that only saturates has come within 5 % of its height
    peak = first_minimum(np.r_[np.inf, -mean])
    level = int(np.argmax(mean >= 0.95 * mean.max())) + 1
    dimensions = np.arange(1, max_order + 2)
    return DelayEmbedding(
        level if peak is None else peak,
        lag,
        "afnn",
        {"mutual_information": (delays, curve), "cao_e1": (dimensions, mean)},
        {"mutual_information": information, "cao_e1": e1},
    )


def _by_criterion(method, trials, lag, max_order) -> DelayEmbedding:
    max_order = max(1, min(max_order, (shortest(trials) - 1) // lag - 1))
    orders = np.arange(1, max_order + 1)

    def criterion(trial):
        n = trial.shape[1]
        weight = {"aic": 2.0, "bic": np.log(n), "hq": 2 * np.log(np.log(n))}[method]
        fit = _prediction_log_det(trial, lag, max_order)
        return fit + weight * orders * len(trial) ** 2 / n

    curves = np.array([criterion(trial) for trial in trials])
    mean = curves.mean(0)
    return DelayEmbedding(
        int(orders[mean.argmin()]),
        lag,
        method,
        {method: (orders, mean)},
        {method: curves, "order": orders[curves.argmin(1)]},
    )


def _prediction_log_det(trial: np.ndarray, lag: int, max_order: int) -> np.ndarray:
    """Log determinant of the Yule-Walker residual covariance, orders 1..max_order.

    Block p of the Cholesky factor of the block-Toeplitz matrix is the factor of the
    residual covariance given the p blocks before it: one factorization serves all.
    """
    gamma = block_autocovariances(torch.from_numpy(trial), max_order + 1, lag)
    matrix = block_toeplitz(gamma)
    matrix.diagonal().mul_(1 + _RIDGE)
    pivots = torch.linalg.cholesky(matrix).diagonal()
    return 2 * pivots.log().view(max_order + 1, -1).sum(1)[1:].numpy()


def _by_time_scales(trials, lag, max_lag, band_edge) -> DelayEmbedding:
    n_times = max(trial.shape[1] for trial in trials)
    if band_edge is not None and not 0 < band_edge <= 0.5:
        raise ValueError(
            "band_edge: expected cycles a sample in (0, 0.5], such as 8 / sfreq, "
            f"found {band_edge!r}"
        )
    # zero padding makes the power spectrum that of the biased autocovariance
    power = np.mean(
        [np.square(np.abs(np.fft.rfft(t, 2 * n_times))).mean(0) for t in trials], 0
    )
    correlation = np.fft.irfft(power)[:n_times]
    correlation /= correlation[0]
    below = np.flatnonzero(correlation < np.exp(-1))
    lag = lag or int(np.clip(below[0] if below.size else n_times // 4, 1, max_lag))
    if band_edge is None:
        share = np.cumsum(power[1:]) / power[1:].sum()
        band_edge = (1 + int(np.searchsorted(share, _EDGE_POWER))) / (2 * n_times)
    shown = np.arange(min(n_times, 4 * max_lag + 1))
    return DelayEmbedding(
        int(np.ceil(1 / (band_edge * lag))),
        lag,
        "uniform",
        {"autocorrelation": (shown, correlation[shown])},
        {},
    )
