"""Traffic on a sensor graph: the data type, its clock, and what readers share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from manifoldkit._checks import check_count

if TYPE_CHECKING:
    from manifoldkit.datasets.traffic.truth import TrafficTruth


@dataclass(frozen=True, eq=False)
class TrafficData:
    """Readings of road sensors on an even grid of time, with the sensors' graph.

    Attributes
    ----------
    values : ndarray, shape (T, N)
        Readings; NaN where missing.
    adjacency : ndarray, shape (N, N), or scipy sparse
        Weights; the row listens to the column.
    start : datetime64
        Time of row 0, local clock without a zone.
    step_minutes : int
        Minutes between rows.
    name, unit : str
        Data set; unit of the readings.
    is_real : bool
        Measured (True) or simulated.
    provenance, citation, license : str
        Origin in a sentence, what to cite, terms of use.
    split : tuple
        Rows at which validation and test begin, or three shares.
    mape_floor : float
        Smallest truth for which a percentage error makes sense.
    sensor_id, lat, lon : ndarray of shape (N,), optional
        Names and places.
    extra : dict of str to ndarray
        What else the archive holds.
    truth : TrafficTruth, optional
        What a simulation knows.
    """

    values: np.ndarray
    adjacency: Any
    start: np.datetime64
    step_minutes: int
    name: str = "traffic"
    unit: str = ""
    is_real: bool = True
    provenance: str = ""
    citation: str = ""
    license: str = ""
    split: tuple = (0.7, 0.1, 0.2)
    mape_floor: float = 0.0
    sensor_id: np.ndarray | None = None
    lat: np.ndarray | None = None
    lon: np.ndarray | None = None
    extra: dict | None = None
    truth: TrafficTruth | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        rows, sensors = self.values.shape
        return (
            f"TrafficData({self.name!r}, {rows} rows of {self.step_minutes} min, "
            f"{sensors} sensors)"
        )

    @property
    def timestamps(self) -> np.ndarray:
        """Time of every row, datetime64[m], shape (T,)."""
        start = np.asarray(self.start).astype("datetime64[m]")
        return start + np.arange(len(self.values)) * np.timedelta64(
            self.step_minutes, "m"
        )


def local_times(times: Any, name: str = "timestamps") -> np.ndarray:
    """Return times as datetime64[s].

    Raises
    ------
    ValueError
        No times, or times with a zone: NumPy would turn them into UTC.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # NumPy's word for a zone
            return np.asarray(times).astype("datetime64[s]")
    except UserWarning:
        raise ValueError(
            f"{name}: expected times of a local clock without a zone, found {times!r}"
        ) from None


def regularize_series(
    values: ArrayLike, timestamps: ArrayLike, step_minutes: int
) -> tuple[np.ndarray, np.datetime64]:
    """Put readings with gaps or repeated times on an even grid.

    Rows that are missing (the hour that daylight saving skips, outages) become NaN;
    rows of one time (the hour that comes twice) are averaged; a time between two grid
    points counts for the earlier one.

    Parameters
    ----------
    values : array-like, shape (T, N)
        Readings; NaN where missing.
    timestamps : array-like of datetime64, shape (T,)
        In any order.
    step_minutes : int
        Grid.

    Returns
    -------
    values : ndarray, shape (rows, N)
    start : datetime64[m]
        Time of row 0.

    Raises
    ------
    ValueError
        Shapes that do not fit; times with a zone or missing; a grid that is no whole
        number of minutes, or far too fine.

    Examples
    --------
    >>> t = np.array(["2020-01-01T00:00", "2020-01-01T00:10"], "datetime64[m]")
    >>> regularize_series([[1.0], [3.0]], t, 5)[0].ravel()
    array([ 1., nan,  3.])
    """
    values = np.asarray(values)
    times = local_times(timestamps).astype("datetime64[m]")
    if np.isnat(times).any():
        raise ValueError("timestamps: expected times, found NaT")
    stamps = times.astype(np.int64)
    if values.ndim != 2 or stamps.shape != values.shape[:1] or not len(values):
        raise ValueError(
            f"values, timestamps: expected shapes (T, N) and (T,) with T > 0, found "
            f"{values.shape} and {stamps.shape}"
        )
    check_count(step_minutes, "step_minutes")
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    row = (stamps - stamps.min()) // step_minutes
    rows = int(row.max()) + 1
    if rows > 100 * len(values) + 1000:
        raise ValueError(
            f"timestamps: {len(values)} rows span {rows} steps of {step_minutes} "
            "minutes: is step_minutes right?"
        )
    known = ~np.isnan(values)
    total, count = np.zeros((2, rows, values.shape[1]))
    np.add.at(total, row, np.where(known, values, 0))
    np.add.at(count, row, known)
    out = np.where(count > 0, total / count.clip(1), np.nan)
    start = stamps.min().astype("datetime64[m]")
    return out.astype(values.dtype), start


def distance_weights(
    edges: np.ndarray, sensors: np.ndarray, sigma: float | None, cutoff: float
) -> np.ndarray:
    """Turn rows from, to, distance into weights by a thresholded Gaussian kernel.

    Rows of sensors that are not listed are left out; the width defaults to the
    standard deviation of the distances that are left.

    >>> edges = np.array([[7, 9, 1.0], [9, 7, 3.0], [7, 8, 2.0]])
    >>> distance_weights(edges, np.array([7, 9]), sigma=1.0, cutoff=0.1).round(3)
    array([[1.   , 0.368],
           [0.   , 1.   ]])
    """
    place = {int(s): k for k, s in enumerate(sensors)}
    rows = [
        (place[int(i)], place[int(j)], d)
        for i, j, d in edges
        if int(i) in place and int(j) in place
    ]
    weights = np.eye(len(sensors))
    if not rows:
        return weights
    i, j, d = (np.array(column) for column in zip(*rows, strict=True))
    width = float(np.std(d)) if sigma is None else sigma
    if not width > 0:
        width = float(np.abs(d).max()) or 1.0  # all alike: their own length
    weight = np.exp(-((d / width) ** 2))
    weights[i, j] = np.where(weight >= cutoff, weight, 0)
    return weights
