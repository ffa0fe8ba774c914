"""Traffic on a sensor graph: the data type, its clock, and what readers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
