"""Sensor series: checks, clock, splits and windows.

Time is counted in whole minutes of a naive clock; row r of a series lies at
``start + r * step``.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from manifoldkit._checks import check_order
from manifoldkit.graphs.virtual.kernels import check_adjacency

_DAY = 1440


class Clock(NamedTuple):
    """When the rows of a series are.

    Attributes
    ----------
    start : int
        Minutes since 1970-01-01 of row 0.
    step : int
        Minutes between rows; divides a day.
    """

    start: int
    step: int

    def minutes(self, rows: np.ndarray) -> np.ndarray:
        """Return the minutes of rows."""
        return self.start + np.asarray(rows) * self.step


class Series(NamedTuple):
    """Checked readings.

    Attributes
    ----------
    values : ndarray of float32 or float64, shape (T, N)
        NaN where missing.
    clock : Clock
    """

    values: np.ndarray
    clock: Clock


def time_of_day(minutes: np.ndarray) -> np.ndarray:
    """Return the share of the day that has passed, in [0, 1)."""
    return (np.asarray(minutes) % _DAY) / _DAY


def weekday(minutes: np.ndarray) -> np.ndarray:
    """Return the day of the week, Monday 0.

    >>> weekday(np.array([0]))  # 1970-01-01 was a Thursday
    array([3])
    """
    return (np.asarray(minutes) // _DAY + 3) % 7


def to_minutes(when: Any, name: str = "t0") -> np.ndarray:
    """Return time stamps to the nearest minute since 1970; numbers are taken as such.

    Raises
    ------
    ValueError
        No time stamps, or times of a zone (they jump with daylight saving).
    """
    array = np.asarray(when)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # NumPy's word for a zone
            stamps = array.astype("datetime64[s]")
    except UserWarning:
        raise ValueError(
            f"{name}: expected times of a local clock without a zone, found {when!r}; "
            "drop the zone (in pandas: tz_localize(None))"
        ) from None
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: expected time stamps (datetime64) or minutes since 1970, found "
            f"{when!r}"
        ) from None
    if np.isnat(stamps).any():
        raise ValueError(f"{name}: expected time stamps, found NaT")
    return (stamps.astype(np.int64) + 30) // 60  # loggers are some seconds off


def check_readings(
    values: Any, name: str = "values", null_value: float | None = None
) -> np.ndarray:
    """Return readings as floats with NaN where missing.

    Parameters
    ----------
    values : array-like
        Numbers; a last axis of length 1 may follow the sensors.
    name : str
        What messages call them.
    null_value : float, optional
        The number that stands for "missing". Zero is a reading unless it is said
        here.

    Raises
    ------
    ValueError
        Not numbers, or infinite ones.
    """
    try:
        values = np.asarray(values)
    except ValueError:  # in NumPy's words
        raise ValueError(
            f"{name}: expected one number a time and sensor, found rows of different "
            "lengths"
        ) from None
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers, found dtype {values.dtype}")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
    if np.isinf(values).any():
        where = [int(i) for i in np.argwhere(np.isinf(values))[0]]
        raise ValueError(
            f"{name}{where} is infinite: expected numbers, or NaN where missing"
        )
    if null_value is not None:
        values = np.where(values == null_value, np.nan, values).astype(values.dtype)
    return values


def check_series(dataset: Any, null_value: float | None = None) -> Series:
    """Return the readings and the clock of a data set.

    Parameters
    ----------
    dataset : object
        With ``values`` (T, N) or (T, N, 1), ``step_minutes``, ``start`` and,
        optionally, ``timestamps`` (T,).
    null_value : float, optional
        See :func:`check_readings`.

    Raises
    ------
    TypeError
        Not a data set.
    ValueError
        Wrong shapes or values; time stamps that are not evenly spaced.
    """
    needed = ("values", "step_minutes", "start")
    if lacking := ", ".join(k for k in needed if not hasattr(dataset, k)):
        raise TypeError(
            f"dataset: expected an object with {lacking} (a TrafficData), found "
            f"{type(dataset).__name__}"
        )
    values = check_readings(dataset.values, "values", null_value)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"values: expected shape (time, sensors), found {values.shape}"
        )
    step = int(dataset.step_minutes)
    if step < 1 or _DAY % step:
        raise ValueError(
            f"step_minutes: expected a divisor of 1440 (one day), found {step}"
        )
    stamps = getattr(dataset, "timestamps", None)
    if stamps is not None:
        minutes = to_minutes(stamps, "timestamps")
        if minutes.shape != (len(values),):
            raise ValueError(
                f"timestamps: expected {len(values)}, one a row, found shape "
                f"{minutes.shape}"
            )
        bad = np.flatnonzero(np.diff(minutes) != step)
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"timestamps: rows {row} and {row + 1} are "
                f"{int(minutes[row + 1] - minutes[row])} minutes apart, expected "
                f"{step}; put the readings on a regular grid first "
                "(datasets.regularize_series)"
            )
        start = int(minutes[0])
    else:
        start = int(to_minutes(dataset.start, "start"))
    return Series(values, Clock(start, step))


def check_training_rows(values: np.ndarray) -> None:
    """Warn of sensors without any reading in the training rows (T, N).

    Raises
    ------
    ValueError
        No sensor has one.
    """
    dead = np.flatnonzero(np.isnan(values).all(0))
    if len(dead) == values.shape[1]:
        raise ValueError("values: the training rows have no reading at all")
    if len(dead):
        warnings.warn(
            f"values: sensors {dead.tolist()[:9]} have no reading in the training "
            "rows; their later readings count as missing, and their forecast is the "
            "mean of the other sensors",
            stacklevel=3,
        )


def check_alike(series: Series, n_sensors: int, step_minutes: int) -> None:
    """Raise unless a series has the sensors and steps that ``fit`` has seen."""
    if series.values.shape[1] != n_sensors:
        raise ValueError(
            f"values: expected {n_sensors} sensors, found {series.values.shape[1]}"
        )
    if series.clock.step != step_minutes:
        raise ValueError(
            f"step_minutes: expected {step_minutes} as in fit, found "
            f"{series.clock.step}"
        )


def split_rows(length: int, split: Any) -> tuple[int, int]:
    """Return the rows at which validation and test begin.

    Parameters
    ----------
    length : int
        Number of rows.
    split : tuple
        Two rows (int), or three shares that sum to 1.

    Raises
    ------
    ValueError
        Neither of both, or rows that do not fit.

    Examples
    --------
    >>> split_rows(2016, (0.7, 0.1, 0.2)), split_rows(10, (6, 8))
    ((1411, 1612), (6, 8))
    """
    if len(split) == 2 and all(float(s).is_integer() for s in split):
        first, second = (int(s) for s in split)
    elif len(split) == 3 and abs(sum(split) - 1) < 1e-6 and min(split) >= 0:
        first = int(length * split[0])
        second = int(length * (split[0] + split[1]))
    else:
        raise ValueError(
            f"split: expected two rows or three shares that sum to 1, found {split!r}"
        )
    if not 0 < first <= second <= length:
        raise ValueError(f"split: rows {first}, {second} do not fit {length} rows")
    return first, second


def window_starts(
    first: int, last: int, history: int, horizon: int, overlap: bool = True
) -> np.ndarray:
    """Return the first input rows of all windows whose targets lie in [first, last).

    Parameters
    ----------
    first, last : int
        Part of the series.
    history, horizon : int
        Steps in and out.
    overlap : bool, default=True
        Inputs may reach back before ``first``.

    Examples
    --------
    >>> window_starts(10, 16, history=4, horizon=2)
    array([ 6,  7,  8,  9, 10])
    """
    begin = max(first - history, 0) if overlap else first
    return np.arange(begin, last - history - horizon + 1)


def as_graph(adjacency: Any, n_sensors: int, sensors: Any = None) -> Tensor:
    """Return an adjacency as a torch tensor, sparse if it came sparse.

    Parameters
    ----------
    adjacency : array-like, sparse matrix, Tensor or list
        Weights; or ``[ids, places, weights]`` as the traffic repositories pickle.
    n_sensors : int
        Number of sensors.
    sensors : array-like of shape (N,), optional
        Their ids, into whose order named weights are brought.

    Raises
    ------
    ValueError
        It is not square, finite and non-negative, or of another number of nodes, or
        of other sensors.
    """
    several = isinstance(adjacency, (list, tuple)) and len(adjacency) == 3
    if several and isinstance(adjacency[1], Mapping):  # not three rows
        ids, places, weights = adjacency
        adjacency = _named_weights(ids, places, weights, sensors)
    if hasattr(adjacency, "tocoo"):  # scipy
        coo = adjacency.tocoo()
        index = np.stack([coo.row, coo.col]).astype(np.int64)
        adjacency = torch.sparse_coo_tensor(
            torch.from_numpy(index),
            torch.from_numpy(np.asarray(coo.data)),
            coo.shape,
            check_invariants=True,
        )
    elif not isinstance(adjacency, Tensor):
        adjacency = torch.as_tensor(_square(adjacency))
    if adjacency.is_complex():
        raise ValueError("adjacency: expected real weights, found complex numbers")
    if not adjacency.is_floating_point():
        adjacency = adjacency.float()
    if adjacency.shape != (n_sensors, n_sensors):
        raise ValueError(
            f"adjacency: expected shape ({n_sensors}, {n_sensors}) for {n_sensors} "
            f"sensors, found {tuple(adjacency.shape)}"
        )
    if adjacency.layout == torch.strided:
        check_adjacency(adjacency, "adjacency")
    return adjacency


def _square(adjacency: Any) -> np.ndarray:
    try:
        array = np.asarray(adjacency)
        if array.dtype.kind not in "fiubc":
            array = array.astype(np.float64)
    except (TypeError, ValueError):  # in NumPy's words
        raise ValueError(
            "adjacency: expected a matrix of weights, or [sensor ids, places, matrix], "
            f"found {type(adjacency).__name__}"
        ) from None
    return array


def _named_weights(ids: Any, places: Mapping, weights: Any, sensors: Any) -> np.ndarray:
    """Bring weights with the ids of their rows into the order of the sensors."""
    matrix, listed = _square(weights), list(ids)
    if matrix.shape != (len(listed), len(listed)):
        raise ValueError(
            f"adjacency: expected {len(listed)} x {len(listed)} weights for as many "
            f"ids, found {matrix.shape}"
        )
    wrong = [name for row, name in enumerate(listed) if places.get(name, row) != row]
    if wrong:
        raise ValueError(f"adjacency: ids and places differ on sensor {wrong[0]!r}")
    if sensors is None:
        return matrix
    order = check_order(sensors, listed, "adjacency", "its list of sensor ids")
    return matrix[np.ix_(order, order)]


class Windows(Dataset):
    """Windows of a standardized series, cut out batch by batch.

    Parameters
    ----------
    z : Tensor, shape (T, N)
        Standardized readings, NaN where missing.
    minutes : ndarray of int, shape (T,)
        Times of the rows.
    starts : ndarray of int
        First input rows.
    history, horizon : int
        Steps in and out.
    """

    def __init__(
        self,
        z: Tensor,
        minutes: np.ndarray,
        starts: np.ndarray,
        history: int,
        horizon: int,
    ):
        self.target = z
        self.inputs = torch.nan_to_num(z)  # missing: the mean, or the profile
        self.day = torch.as_tensor(time_of_day(minutes), dtype=z.dtype)
        self.week = torch.as_tensor(weekday(minutes) / 7, dtype=z.dtype)
        self.starts = torch.as_tensor(starts)
        self.history, self.horizon = history, horizon

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return inputs and targets (B, horizon, N) of windows."""
        rows = self.starts[index][:, None]
        past = rows + torch.arange(self.history)
        future = rows + self.history + torch.arange(self.horizon)
        sources = {"z": self.inputs, "day": self.day, "week": self.week}
        return {k: v[past] for k, v in sources.items()}, self.target[future]

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, target = self.batch(torch.tensor([index]))
        return {k: v[0] for k, v in inputs.items()}, target[0]


class WindowLoader:
    """Batches of :class:`Windows`, the last one however small.

    Parameters
    ----------
    windows : Windows
    batch_size : int
    shuffle : bool
        Draw the order from torch's generator.
    stop : callable, optional
        Asked before every batch but the first; true ends the epoch.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        shuffle: bool = False,
        stop: Callable[[], bool] | None = None,
    ):
        self.windows, self.batch_size = windows, batch_size
        self.shuffle, self.stop = shuffle, stop

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator:
        n = len(self.windows)
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        for k, index in enumerate(order.split(self.batch_size)):
            if k and self.stop is not None and self.stop():
                return
            yield self.windows.batch(index)
