"""Trivial forecasts that any model has to beat.

Each is fitted on the training rows alone: ``fit(series, rows)`` and then
``forecast(past, minutes)`` with past readings (B, history, N) and the minutes of the
first forecast step (B,).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from manifoldkit._checks import check_choice
from manifoldkit.graphs.forecast.metrics import ErrorSums, ForecastReport
from manifoldkit.graphs.forecast.series import (
    Series,
    check_series,
    split_rows,
    weekday,
    window_starts,
)

_DAY = 1440


class LastValue:
    """Repeat the last reading (the last one that is not missing).

    Parameters
    ----------
    horizon : int
        Steps.
    """

    def __init__(self, horizon: int):
        self.horizon = horizon

    def fit(self, series: Series, rows: int) -> Self:
        """Remember the mean of each sensor, for histories without any reading."""
        self.mean_ = column_means(series.values[:rows])
        return self

    def forecast(self, past: np.ndarray, minutes: np.ndarray) -> np.ndarray:
        """Return forecasts (B, horizon, N)."""
        known = ~np.isnan(past)
        latest = past.shape[1] - 1 - known[:, ::-1].argmax(1)
        last = np.take_along_axis(past, latest[:, None], 1)
        last = np.where(known.any(1, keepdims=True), last, self.mean_)
        return np.repeat(last, self.horizon, 1)


class SeasonalProfile:
    """Historical mean by time of day, and by workday and weekend.

    Parameters
    ----------
    horizon : int
        Steps.
    kind : {"auto", "day", "week_part"}
        "week_part" keeps workdays and weekends apart; "auto" does so when the
        training part covers two weeks.

    Attributes
    ----------
    table_ : ndarray, shape (n_slots, N)
        One row a time of day; with "week_part" those of the weekend follow.
    """

    def __init__(self, horizon: int = 1, kind: str = "auto"):
        check_choice(kind, ("auto", "day", "week_part"), "profile")
        self.horizon, self.kind = horizon, kind

    def fit(self, series: Series, rows: int) -> Self:
        """Average the first ``rows`` rows."""
        values, self.step_ = series.values[:rows], series.clock.step
        long = len(values) * self.step_ >= 14 * _DAY
        self.split_ = self.kind == "week_part" or (self.kind == "auto" and long)
        per_day = _DAY // self.step_
        slots = self.slots(series.clock.minutes(np.arange(len(values))))
        day = _slot_means(values, slots % per_day, per_day)
        means = column_means(values)
        day = np.where(np.isnan(day), np.broadcast_to(means, day.shape), day)
        day = _like_the_others(day, ~np.isnan(values).all(0))
        table = day
        if self.split_:
            table = _slot_means(values, slots, 2 * per_day)
            table = np.where(np.isnan(table), np.concatenate([day, day]), table)
            table = _like_the_others(table, ~np.isnan(values).all(0))
        self.table_ = table.astype(values.dtype)
        return self

    def slots(self, minutes: np.ndarray) -> np.ndarray:
        """Return the rows of the table for some minutes."""
        minutes = np.asarray(minutes)
        slot = (minutes % _DAY) // self.step_
        if self.split_:
            slot = slot + (_DAY // self.step_) * (weekday(minutes) >= 5)
        return slot

    def at(self, minutes: np.ndarray) -> np.ndarray:
        """Return the profile (..., N) at some minutes (...)."""
        return self.table_[self.slots(minutes)]

    def forecast(self, past: np.ndarray, minutes: np.ndarray) -> np.ndarray:
        """Return forecasts (B, horizon, N); the past is not looked at."""
        ahead = np.arange(self.horizon) * self.step_
        return self.at(np.asarray(minutes)[:, None] + ahead)


class SharedRidge:
    """One ridge regression from history to horizon, shared by all sensors.

    Parameters
    ----------
    history, horizon : int
        Steps in and out.
    profile : bool, default=True
        Work on what the seasonal profile leaves over.
    kind : str, default="auto"
        Kind of the :class:`SeasonalProfile`.
    alpha : float, default=1.0
        Ridge penalty on standardized inputs.

    Attributes
    ----------
    coef_ : ndarray, shape (history + 1, horizon)
        Map of standardized readings; the last row is the constant.
    """

    def __init__(
        self,
        history: int,
        horizon: int,
        profile: bool = True,
        kind: str = "auto",
        alpha: float = 1.0,
    ):
        self.history, self.horizon = history, horizon
        self.profile = SeasonalProfile(horizon, kind) if profile else None
        self.alpha = alpha

    def fit(self, series: Series, rows: int) -> Self:
        """Solve the normal equations over all training windows and sensors."""
        values, clock = series.values[:rows], series.clock
        if self.profile is not None:
            self.profile.fit(series, rows)
            center = self.profile.at(clock.minutes(np.arange(len(values))))
            self.center_ = np.zeros(values.shape[1])
        else:
            center = self.center_ = column_means(values)
        rest = values - center
        self.scale_, self.known_ = column_scales(rest, column_sizes(values))
        z = np.where(self.known_, rest / self.scale_, np.nan)
        self.coef_ = ridge_map(z, self.history, self.horizon, self.alpha)
        return self

    def forecast(self, past: np.ndarray, minutes: np.ndarray) -> np.ndarray:
        """Return forecasts (B, horizon, N)."""
        minutes = np.asarray(minutes)[:, None]
        steps = np.arange(-self.history, self.horizon)
        center = self.center_
        if self.profile is not None:
            center = self.profile.at(minutes + steps * self.profile.step_)
            before, after = np.split(center, [self.history], 1)
        else:
            before = after = center
        z = np.where(self.known_, np.nan_to_num((past - before) / self.scale_), 0)
        out = np.einsum("bhn,hk->bkn", z, self.coef_[:-1]) + self.coef_[-1][:, None]
        return np.where(self.known_, out, 0) * self.scale_ + after


def ridge_map(z: np.ndarray, history: int, horizon: int, alpha: float) -> np.ndarray:
    """Fit the shared linear map (history + 1, horizon) on a series (T, N).

    Missing inputs count as zero, the mean; missing targets do not count.
    """
    windows = len(z) - history - horizon + 1
    if windows < 1:
        raise ValueError(
            f"history, horizon: {history} + {horizon} steps do not fit a training part "
            f"of {len(z)} rows"
        )
    known = ~np.isnan(z)
    filled = np.where(known, z, 0).astype(np.float64)
    whole = bool(known.all())
    gram = np.zeros((1 if whole else horizon, history + 1, history + 1))
    cross = np.zeros((history + 1, horizon))
    for begin in range(0, windows, 512):  # blocks bound the memory
        rows = slice(begin, min(begin + 512, windows))
        count = rows.stop - begin

        def lag(array, k, begin=begin, count=count):
            return array[begin + k : begin + k + count].ravel()

        x = np.stack([lag(filled, k) for k in range(history)])
        x = np.concatenate([x, np.ones_like(x[:1])])
        for k in range(horizon):
            # the target is zero where it is missing, so it adds nothing here
            cross[:, k] += x @ lag(filled, history + k)
            if not whole:
                gram[k] += (x * lag(known, history + k)) @ x.T
        if whole:
            gram[0] += x @ x.T
    gram += alpha * np.eye(history + 1)
    if whole:
        return np.linalg.solve(gram[0], cross)
    return np.linalg.solve(gram, cross.T[..., None])[..., 0].T


def column_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each sensor's readings, where there are none that of others.

    >>> column_means(np.array([[1.0, np.nan, 4.0], [3.0, np.nan, 4.0]]))
    array([2., 3., 4.])
    """
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0, dtype=np.float64)
    return _like_the_others(total / known.sum(0).clip(1), known.any(0))


def _like_the_others(table: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give sensors of which nothing is known the mean of those that are known."""
    if known.all() or not known.any():
        return table
    return np.where(known, table, table[..., known].mean(-1, keepdims=True))


def column_sizes(values: np.ndarray) -> np.ndarray:
    """Return the largest modulus of each sensor's readings, zero without any."""
    return np.nan_to_num(np.abs(values)).max(0)


def column_scales(
    values: np.ndarray, sizes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each sensor's standard deviation, and where it is known.

    It is not known of sensors that are constant, or have no two readings. The scale of
    these is the mean over the others, so that it is in the unit of the readings; 1
    where no sensor has one.

    Parameters
    ----------
    values : ndarray, shape (T, N)
        NaN where missing.
    sizes : ndarray of shape (N,), optional
        Modulus of what the values are the rest of: as much as its rounding is nothing.

    Returns
    -------
    scales : ndarray of float64, shape (N,)
    known : ndarray of bool, shape (N,)
    """
    present = ~np.isnan(values)
    gap = np.where(present, values - column_means(values), 0).astype(np.float64)
    largest = np.abs(gap).max(0)
    unit = np.where(largest > 0, largest, 1.0)  # squares of extreme numbers are none
    std = np.sqrt(((gap / unit) ** 2).sum(0) / present.sum(0).clip(1)) * unit
    sizes = column_sizes(values) if sizes is None else sizes
    precision = np.finfo(values.dtype if values.dtype.kind == "f" else float).eps
    known = std > 8 * precision * sizes
    return np.where(known, std, std[known].mean() if known.any() else 1.0), known


def _slot_means(values: np.ndarray, slots: np.ndarray, n_slots: int) -> np.ndarray:
    known = ~np.isnan(values)
    total = np.zeros((n_slots, values.shape[1]))
    count = np.zeros((n_slots, values.shape[1]))
    np.add.at(total, slots, np.where(known, values, 0))
    np.add.at(count, slots, known)
    return np.where(count > 0, total / count.clip(1), np.nan)


def make_baselines(history: int, horizon: int, kind: str = "auto") -> Mapping:
    """Return the trivial forecasts by name, not fitted."""
    return {
        "last value": LastValue(horizon),
        "historical average": SeasonalProfile(horizon, kind),
        "linear (ridge)": SharedRidge(history, horizon, profile=False),
        "profile + ridge": SharedRidge(history, horizon, kind=kind),
    }


def evaluate_baselines(
    dataset: Any,
    history: int,
    horizon: int,
    *,
    split: Sequence[float] | None = None,
    horizons: Sequence[int] | None = None,
    profile: str = "auto",
    null_value: float | None = None,
    mape_floor: float | None = None,
) -> dict[str, ForecastReport]:
    """Fit the trivial forecasts on the training part and score them on the test part.

    Parameters
    ----------
    dataset : object
        Data that :meth:`TrafficForecaster.fit` would take.
    history, horizon : int
        Steps in and out.
    split, horizons, profile, null_value, mape_floor
        Options of :class:`TrafficForecaster` and of its ``evaluate``.

    Returns
    -------
    dict of str to ForecastReport
        "last value", "historical average", "linear (ridge)", "profile + ridge".

    Raises
    ------
    TypeError, ValueError
        Data that do not fit, or parts too short for a window.

    Examples
    --------
    >>> from manifoldkit.datasets import make_traffic
    >>> data = make_traffic(n_days=4, n_sensors=10, random_state=0)
    >>> sorted(evaluate_baselines(data, 12, 6))
    ['historical average', 'last value', 'linear (ridge)', 'profile + ridge']
    """
    series = check_series(dataset, null_value)
    split = getattr(dataset, "split", None) if split is None else split
    first, second = split_rows(len(series.values), split or (0.7, 0.1, 0.2))
    starts = window_starts(second, len(series.values), history, horizon)
    if not len(starts):
        raise ValueError(
            f"horizon: {horizon} steps do not fit the test part of "
            f"{len(series.values) - second} rows"
        )
    floor = getattr(dataset, "mape_floor", 0.0) if mape_floor is None else mape_floor
    out = {}
    for name, model in make_baselines(history, horizon, profile).items():
        model.fit(series, first)
        sums = ErrorSums(horizon, floor)
        for part in np.array_split(starts, -(-len(starts) // 256)):
            past, future = cut_windows(series.values, part, history, horizon)
            when = series.clock.minutes(part + history)  # of the first forecast step
            sums.add(future, model.forecast(past, when))
        out[name] = sums.report(horizons)
    return out


def cut_windows(
    values: np.ndarray, starts: np.ndarray, history: int, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return past (B, history, N) and future (B, horizon, N) of windows."""
    rows = np.asarray(starts)[:, None]
    return (
        values[rows + np.arange(history)],
        values[rows + history + np.arange(horizon)],
    )
