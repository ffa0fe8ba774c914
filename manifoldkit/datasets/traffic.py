"""Traffic: readings of road sensors with their graph."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifoldkit.datasets.archive import Source, obtain, read_archive

if TYPE_CHECKING:
    from manifoldkit.datasets.traffic_simulation import TrafficTruth

_TGCN = "https://github.com/lehaifeng/T-GCN"
_HAGUE = "https://github.com/mmtop/UrbanDCRNN"
_METR_LA_WEEK = Source(
    "traffic/metr_la_week.npz",
    f"{_TGCN} (readings), https://github.com/liyaguang/DCRNN (sensor graph)",
    "Call fetch_metr_la with a network: it downloads los_speed.csv, the list of "
    "sensors and their road distances.",
    667_000,
    "7a63642c58d90cf861a1ebe05e83d882ba688d45a7c174bb75ec5dfd30f14ccf",
)
_HAGUE_MONTH = Source(
    "traffic/denhaag_2019_11.npz",
    _HAGUE,
    "The originals are spread over several tables that are matched by hand; only the "
    "archive is read.",
    433_000,
    "bee01a3268005540260aa6f95e175d5369fe1cf3353b81c774b52513131842f6",
)


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


def fetch_metr_la(
    *, path: str | Path | None = None, download: bool = True
) -> TrafficData:
    """Load one week of METR-LA: 207 loop detectors in Los Angeles, 5-minute speeds.

    The first week of March 2012 in the form published with T-GCN, in which missing
    readings were filled by interpolation. The whole set is read by
    :func:`load_traffic` from its publisher's file.

    Parameters
    ----------
    path : str or Path, optional
        Data folder or archive; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Allow the download.

    Returns
    -------
    TrafficData
        2016 rows, speeds in miles per hour; split 7:1:2 in time.

    Raises
    ------
    DatasetNotFoundError
        Not on this machine, and the download is not allowed or failed.

    References
    ----------
    .. [1] Y. Li et al., "Diffusion convolutional recurrent neural network", ICLR
       2018.
    .. [2] L. Zhao et al., "T-GCN: a temporal graph convolutional network for traffic
       prediction", IEEE T-ITS 2020.

    Examples
    --------
    >>> fetch_metr_la()  # doctest: +SKIP
    TrafficData('METR-LA week', 2016 rows of 5 min, 207 sensors)
    """
    from manifoldkit.datasets.traffic_download import metr_la_week

    file = obtain(_METR_LA_WEEK, metr_la_week, path, download)
    return _from_archive(
        file,
        name="METR-LA week",
        unit="mph",
        citation="Li et al., ICLR 2018; Zhao et al., IEEE T-ITS 2020",
        license="repository MIT; readings by LA Metro, for research",
        provenance=(
            "207 loop detectors of Los Angeles County, 1 to 7 March 2012, 5-minute "
            "mean speeds, gaps interpolated by T-GCN"
        ),
        split=(1411, 1613),
        mape_floor=1.0,
    )


def fetch_the_hague(
    *, path: str | Path | None = None, download: bool = True
) -> TrafficData:
    """Load one month of The Hague: 123 lane sensors at 13 junctions, 15-minute counts.

    Parameters
    ----------
    path : str or Path, optional
        Data folder or archive; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Kept for symmetry: the publisher's tables are matched by hand, so there is
        nothing to download automatically.

    Returns
    -------
    TrafficData
        2880 rows (November 2019), vehicles per 15 minutes; split 6:2:2 in time.
        ``extra`` holds ``distance_m``, ``legal_cost_m``, ``junction``, ``lane_type``
        and ``direction``.

    Raises
    ------
    DatasetNotFoundError
        Not on this machine.

    Examples
    --------
    >>> fetch_the_hague()  # doctest: +SKIP
    TrafficData('The Hague', 2880 rows of 15 min, 123 sensors)
    """
    file = obtain(_HAGUE_MONTH, dict, path, download=False)
    return _from_archive(
        file,
        name="The Hague",
        unit="vehicles per 15 min",
        citation="repository mmtop/UrbanDCRNN",
        license="MIT",
        provenance=(
            "123 lane sensors at 13 signaled junctions of The Hague, November 2019, "
            "15-minute counts"
        ),
        split=(1728, 2304),
        mape_floor=10.0,
    )


def _from_archive(file: Path, **words) -> TrafficData:
    keys = ("values", "adjacency", "start", "step_minutes")
    arrays = read_archive(file, keys)
    values = arrays.pop("values")
    if values.ndim != 3 or values.shape[2] != 1:
        raise ValueError(
            f"{file}: expected values of shape (time, sensors, 1), found {values.shape}"
        )
    named: dict[str, Any] = {
        k: arrays.pop(k) for k in ("lat", "lon", "sensor_id") if k in arrays
    }
    return TrafficData(
        values[..., 0],
        arrays.pop("adjacency"),
        np.datetime64(arrays.pop("start").item(), "m"),
        int(arrays.pop("step_minutes")),
        extra=arrays,
        **named,
        **words,
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
    values: np.ndarray, timestamps: np.ndarray, step_minutes: int
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
    if step_minutes != int(step_minutes) or step_minutes < 1:
        raise ValueError(
            f"step_minutes: expected a whole number of at least 1, found {step_minutes}"
        )
    step_minutes = int(step_minutes)
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
    total = np.zeros((rows, values.shape[1]))
    count = np.zeros((rows, values.shape[1]))
    np.add.at(total, row, np.where(known, values, 0))
    np.add.at(count, row, known)
    out = np.where(count > 0, total / count.clip(1), np.nan)
    start = stamps.min().astype("datetime64[m]")
    return out.astype(values.dtype), start
