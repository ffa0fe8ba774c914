"""Readings from text: one column a sensor, or one row a reading; with or without names.

What a column is follows from its name where it has a usual one, and from what it holds
where it has none.
"""

import warnings
from datetime import tzinfo
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit.datasets.traffic.clock import gridded, local_times, read_times
from manifoldkit.datasets.traffic.text import (
    is_integer,
    is_missing,
    is_number,
    names,
    numbers,
    read_cells,
)

_ROW = {"", "unnamed: 0", "index", "idx", "row", "no", "nr", "dyna_id", "rownames"}
_TIME = {
    *("time", "timestamp", "timestamps", "time_stamp", "datetime", "date_time"),
    *("date", "ts", "t", "when", "day", "measured_at", "recorded_at", "utc", "epoch"),
    *("local_time", "start", "starttime", "start_time", "time_start", "period"),
    *("timestep", "time_step", "step", "timeslot", "time_slot", "slot", "interval"),
}
_SENSOR = {
    *("sensor", "sensor_id", "sensorid", "sensor_name", "station", "station_id"),
    *("stationid", "detector", "detector_id", "detectorid", "detid", "loop", "vds"),
    *("node", "node_id", "nodeid", "location", "location_id", "loc", "site"),
    *("site_id", "link", "link_id", "segment", "segment_id", "entity_id", "device"),
    *("device_id", "road", "road_id", "id", "name", "point", "variable"),
}
_PLACE = {"lat", "latitude", "lon", "lng", "long", "longitude", "x", "y"}


class Table(NamedTuple):
    """Readings by time and sensor.

    Attributes
    ----------
    values : ndarray, shape (T, N)
    sensors : ndarray of shape (N,), or None
        Ids, where the file has them.
    timestamps : ndarray of datetime64[s], shape (T,), or None
        Local clock, uneven as in the file.
    start : datetime64, optional
        Time of row 0 where the rows are on the grid already.
    """

    values: np.ndarray
    sensors: np.ndarray | None
    timestamps: np.ndarray | None
    start: np.datetime64 | None = None


def read_table(
    file: Path,
    *,
    header: bool | None = None,
    step_minutes: int = 5,
    channel: int | str = 0,
    tz: str | tzinfo | None = None,
) -> Table:
    """Read a text file of readings, see :func:`~manifoldkit.datasets.load_traffic`.

    Raises
    ------
    ValueError
        Rows of different length; cells that are no numbers; a first line that may be
        names or readings.
    """
    rows = read_cells(file)
    head = rows[0] if rows and _has_header(rows, file, header) else None
    body = rows if head is None else rows[1:]
    width = len(body[0]) if body else 0
    if head is not None and len(head) == width - 1:
        head = ["", *head]  # as R writes: no name above the names of the rows
    sizes = {len(row) for row in body} | ({len(head)} if head is not None else set())
    if len(sizes) != 1 or not width:
        raise ValueError(
            f"{file}: expected a header of sensor ids and rows of as many columns"
        )
    columns = dict(enumerate(zip(*body, strict=True)))
    labels = [word.strip().lower() for word in head or [""] * width]
    _drop_row_numbers(columns, labels, head is not None, file)
    times = _time_column(columns, labels, file, tz, head is not None)
    if times is not None:
        where = _sensor_column(columns, labels, times, head is not None)
        if where is not None:
            return _long(columns, labels, where, times, file, step_minutes, channel, tz)
    kept = list(columns)
    values = numbers([[row[k] for k in kept] for row in body], file)
    ids = None if head is None else names([head[k] for k in kept])
    if times is not None and times.dtype.kind == "i":
        return Table(_by_step(values, times), ids, None)
    return Table(values, ids, times)


def _has_header(rows: list[list[str]], file: Path, header: bool | None) -> bool:
    """Tell whether the first line is a header; refuse to guess where it may be none."""
    if header is not None:
        return header
    first = [cell.strip('"') for cell in rows[0]]
    words = [cell for cell in first if not is_number(cell)]
    if words:  # a time is no name of a column
        return all(read_times([word]) is None for word in words)
    ids = first[1:] if first[:1] == [""] else first
    if not all(map(is_integer, ids)) or len(set(ids)) < len(ids) or len(rows) < 2:
        return len(rows) < 2
    found = [int(word) for word in ids]
    if found in (list(range(len(found))), list(range(1, len(found) + 1))):
        return True
    sample = [[c for c in row[-len(ids) :]] for row in rows[1:200]]
    if any(len(row) != len(ids) or not all(map(is_number, row)) for row in sample):
        return True  # times, or what is refused later
    body = [[float(c) for c in row if not is_missing(c)] for row in sample]
    readings = [abs(value) for row in body for value in row]
    if not readings or min(found) > 10 * max(readings):
        return True
    column = [
        [float(row[k]) for row in sample if not is_missing(row[k])]
        for k in range(len(ids))
    ]
    inside = [c and min(c) <= f <= max(c) for f, c in zip(found, column, strict=True)]
    if any("." in c for row in sample for c in row) and not all(inside):
        return True
    raise ValueError(
        f"{file}: the first line ({', '.join(ids[:4])}, ...) may hold sensor ids or "
        "readings: say header=True or header=False"
    )


def _drop_row_numbers(
    columns: dict[int, tuple], labels: list[str], named: bool, file: Path
) -> None:
    """Take out a column that only counts the rows, as pandas writes its index."""
    if len(columns) < 2 or not all(map(is_integer, columns[0])):
        return
    counted = [int(cell) for cell in columns[0]]
    steps = {b - a for a, b in pairwise(counted)}
    if named:
        if labels[0] in _ROW and all(step > 0 for step in steps):
            del columns[0]
    elif steps == {1} and counted[0] in (0, 1) and len(counted) > 2:
        del columns[0]
        warnings.warn(
            f"{file}: the first column counts the rows and is left out", stacklevel=4
        )


def _time_column(
    columns: dict[int, tuple],
    labels: list[str],
    file: Path,
    tz: str | tzinfo | None,
    named: bool,
) -> np.ndarray | None:
    """Find the times of the rows and take their columns out."""
    named_so = [k for k in columns if labels[k] in _TIME]
    if sorted(labels[k] for k in named_so) in (["date", "time"], ["day", "time"]):
        day, hour = sorted(named_so, key=lambda k: labels[k] == "time")
        pairs = zip(columns.pop(day), columns.pop(hour), strict=True)
        return _read_times([f"{a} {b}" for a, b in pairs], file, tz)
    texts = [k for k in columns if not is_number(columns[k][0])]
    timely = [k for k in texts if read_times(columns[k][:1]) is not None]
    for k in [k for k in named_so if k in timely] + timely:
        return _read_times(list(columns.pop(k)), file, tz)
    for k in named_so:
        if all(map(is_integer, columns[k])) and len(columns) > 1:
            return _counted(columns.pop(k), file, tz)
    if 0 in texts and not (named and labels[0] in _SENSOR):
        raise ValueError(
            f"{file}: expected numbers or time stamps without a zone in the first "
            f"column, found {columns[0][0]!r}"
        )
    return None


def _read_times(words: list[str], file: Path, tz: str | tzinfo | None) -> np.ndarray:
    different, which = np.unique(np.array(words), return_inverse=True)
    bad = next((w for w in different if read_times([w], str(file)) is None), None)
    if bad is not None:
        raise ValueError(f"{file}: expected a time stamp, found {str(bad)!r}")
    return local_times(different, f"{file}: timestamps", tz)[which]


def _counted(cells: tuple, file: Path, tz: str | tzinfo | None) -> np.ndarray:
    """Return integers: seconds or milliseconds since 1970, or the number of a step."""
    count = np.array(cells, dtype=np.int64)
    for unit, low in (("s", 10**9), ("ms", 10**12), ("us", 10**15), ("ns", 10**18)):
        if low // 10 < count.min() and count.max() < 10 * low:
            if tz is None:
                raise ValueError(
                    f"{file}: times such as {cells[0]} count from 1970 in UTC: say the "
                    "zone of the sensors' clock by tz= ('UTC' if it is that)"
                )
            stamps = count.astype(f"datetime64[{unit}]").astype("datetime64[s]")
            text = [f"{t}Z" for t in stamps.astype(str)]
            return local_times(text, str(file), tz)
    return count


def _sensor_column(
    columns: dict[int, tuple], labels: list[str], times: np.ndarray, named: bool
) -> int | None:
    """Find the column of sensor ids of a table with one row a reading."""
    known = [k for k in columns if labels[k] in _SENSOR]
    repeated = len(np.unique(times)) < len(times)
    if named and known and len(columns) > 1:
        return known[0]
    if len(columns) != 2:
        return None
    for k in columns:
        text = not all(map(is_number, columns[k]))
        pairs = set(zip(times.tolist(), columns[k], strict=True))
        whole = repeated and all(map(is_integer, columns[k]))
        if text or (whole and len(pairs) == len(columns[k])):
            return k
    return None


def _long(
    columns: dict[int, tuple],
    labels: list[str],
    where: int,
    times: np.ndarray,
    file: Path,
    step_minutes: int,
    channel: int | str,
    tz: str | tzinfo | None,
) -> Table:
    """Turn rows time, sensor, value into columns of sensors on the grid."""
    ids, code = np.unique(names(list(columns.pop(where))), return_inverse=True)
    values = [
        k for k, cells in columns.items()
        if labels[k] not in _PLACE and all(map(is_number, cells[:100]))
    ]  # fmt: skip
    found = [labels[k] for k in values]
    if isinstance(channel, str):
        if channel.lower() not in found:
            raise ValueError(f"channel: expected one of {found}, found {channel!r}")
        channel = found.index(channel.lower())
    elif not 0 <= channel < len(values):
        raise ValueError(
            f"{file}: expected a column of readings beside times and sensors with "
            f"channel {channel}, found {found}"
        )
    elif len(values) > 1 and channel == 0:
        warnings.warn(
            f"{file}: of the columns {found} the first is read; say another one by "
            "channel=",
            stacklevel=3,
        )
    cells = columns[values[channel]]
    read = numbers([[c] for c in cells], file)[:, 0]
    if times.dtype.kind == "i":
        return Table(_by_step(read, times, code, len(ids)), ids, None)
    out, start = gridded(read, times, code, len(ids), step_minutes, tz)
    return Table(out, ids, None, start)


def _by_step(
    values: np.ndarray, step: np.ndarray, code: np.ndarray | None = None, n: int = 0
) -> np.ndarray:
    """Put rows, or single readings, at the numbers of their steps."""
    row = step - step.min()
    rows = int(row.max()) + 1
    if rows > 100 * len(row) + 1000:
        raise ValueError(f"timestamps: {len(row)} rows span {rows} steps")
    if len(np.unique(row if code is None else row * n + code)) < len(row):
        raise ValueError("timestamps: two readings of one sensor have the same step")
    if code is None:
        out = np.full((rows, values.shape[1]), np.nan)
        out[row] = values
    else:
        out = np.full((rows, n), np.nan)
        out[row, code] = values
    return out
