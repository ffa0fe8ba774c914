"""Times of readings: text and zones as local clocks, uneven times put on a grid."""

import re
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import ArrayLike

from manifoldkit._checks import check_count

_DATE = re.compile(
    r"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})"
    r"(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([AaPp][Mm])?)?"
    r"\s*(Z|UTC|[+-]\d{2}:?\d{2})?"
)
_QUARTER = 900  # seconds; zones change their offset at multiples of it


def as_zone(tz: str | tzinfo) -> tzinfo:
    """Return a time zone by name.

    Raises
    ------
    ValueError
        A name that the system's database of zones does not have.

    Examples
    --------
    >>> as_zone("UTC")
    zoneinfo.ZoneInfo(key='UTC')
    """
    if isinstance(tz, tzinfo):
        return tz
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ValueError(
            f"tz: expected a time zone such as 'America/Los_Angeles', found {tz!r}"
        ) from None


def read_times(
    words: Sequence[Any], name: str = "timestamps"
) -> tuple[np.ndarray, bool] | None:
    """Read times of text or ``datetime`` objects; None where they are something else.

    Understood are ISO dates, ``3/27/2012 4:05 PM`` (as PeMS writes) and
    ``27.03.2012 16:05``, each with or without ``Z`` or an offset.

    Returns
    -------
    times : ndarray of datetime64[s], shape (n,)
        UTC where a zone was said.
    aware : bool
        Whether it was.

    Raises
    ------
    ValueError
        Some with a zone and some without; dates whose day and month cannot be told
        apart.

    Examples
    --------
    >>> read_times(["3/27/2012 4:05 PM", "3/28/2012 0:00"])
    (array(['2012-03-27T16:05:00', '2012-03-28T00:00:00'],
          dtype='datetime64[s]'), False)
    """
    moments = [_moment(word) for word in words]
    if not moments or None in moments:
        return None
    parts: list[Any] = moments
    slashed = [part for part in parts if isinstance(part, tuple)]
    if slashed:
        months = _months_first(slashed, name)
        parts = [_dated(p, months) if isinstance(p, tuple) else p for p in parts]
        if None in parts:
            return None
    aware = {part.tzinfo is not None for part in parts}
    if len(aware) > 1:
        raise ValueError(f"{name}: some times have a zone and some have none")
    if aware == {True}:
        parts = [part.astimezone(UTC).replace(tzinfo=None) for part in parts]
    return np.array(parts, dtype="datetime64[s]"), aware == {True}


def _moment(word: Any) -> datetime | tuple | None:
    """Return a time, or the fields of a date whose order is still open, or None."""
    if isinstance(word, datetime):
        return word
    text = str(word).strip()
    match = _DATE.fullmatch(text)
    if match is None:
        if not text[:4].isdigit() or not 10 <= len(text) <= 35:
            return None  # fromisoformat would take "20120301" for a day
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return None
    a, mark, b, c, *clock = match.groups()
    if len(a) == 4:
        return _dated((int(a), int(b), int(c), *clock), None)
    if len(c) != 4:
        return None
    if mark == ".":  # the day comes first where dots are written
        return _dated((int(c), int(b), int(a), *clock), None)
    return (int(c), int(a), int(b), *clock)


def _months_first(dates: list[tuple], name: str) -> bool:
    month_first = any(date[2] > 12 for date in dates)
    day_first = any(date[1] > 12 for date in dates)
    if month_first == day_first and any(date[1] != date[2] for date in dates):
        year, a, b, *_ = dates[0]
        raise ValueError(
            f"{name}: cannot tell day and month of {a}/{b}/{year} apart; write dates "
            "as 2012-03-27"
        )
    return not day_first


def _dated(fields: tuple, months_first: bool | None) -> datetime | None:
    year, a, b, hour, minute, second, half, zone = fields
    month, day = (b, a) if months_first is False else (a, b)
    hour = int(hour or 0)
    if half:
        hour = hour % 12 + 12 * (half.lower() == "pm")
    try:
        out = datetime(year, month, day, hour, int(minute or 0), int(second or 0))
    except ValueError:
        return None
    if zone is None:
        return out
    if zone in ("Z", "UTC"):
        return out.replace(tzinfo=UTC)
    shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return (out - shift if zone[0] == "+" else out + shift).replace(tzinfo=UTC)


def local_times(
    times: Any, name: str = "timestamps", tz: str | tzinfo | None = None
) -> np.ndarray:
    """Return times of a local clock as datetime64[s].

    Parameters
    ----------
    times : array-like
        ``datetime64``, ``datetime`` objects or text. Times without a zone are those of
        the local clock.
    name : str
        What messages call them.
    tz : str or tzinfo, optional
        Zone of the clock, to which times with a zone are converted.

    Raises
    ------
    ValueError
        No times; times with a zone and no ``tz``: no guess is made about the clock.

    Examples
    --------
    >>> str(local_times("2024-07-01T12:00Z", tz="Europe/Berlin"))
    '2024-07-01T14:00:00'
    """
    array = np.asarray(times)
    if array.dtype.kind == "M":
        return array.astype("datetime64[s]")
    found = read_times(array.ravel().tolist(), name)
    if found is None and array.size:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # NumPy's word for a zone
            try:
                found = array.ravel().astype("datetime64[s]"), False
            except (UserWarning, TypeError, ValueError):
                raise ValueError(
                    f"{name}: expected times (datetime64), found {times!r}"
                ) from None
    if found is None:
        return np.empty(array.shape, "datetime64[s]")
    out, aware = found
    if aware and tz is None:
        raise ValueError(
            f"{name}: expected times of a local clock without a zone, found "
            f"{str(array.ravel()[0])!r}; say the zone of the sensors' clock by tz="
        )
    if aware and tz is not None:
        out = wall_clock(out, tz)
    return out.reshape(array.shape)


def wall_clock(times: np.ndarray, tz: str | tzinfo) -> np.ndarray:
    """Return what the clocks of a zone show at some times UTC (datetime64[s]).

    >>> utc = np.array(["2024-07-01T12:00", "2024-12-01T12:00"], "datetime64[s]")
    >>> wall_clock(utc, "Europe/Berlin").astype(str).tolist()
    ['2024-07-01T14:00:00', '2024-12-01T13:00:00']
    """
    zone = as_zone(tz)
    seconds = times.astype("datetime64[s]").astype(np.int64)
    quarters, which = np.unique(seconds // _QUARTER, return_inverse=True)
    shift = [
        (_EPOCH + timedelta(seconds=int(q) * _QUARTER)).astimezone(zone).utcoffset()
        for q in quarters
    ]
    offset = np.array([s.total_seconds() if s else 0 for s in shift], dtype=np.int64)
    local = seconds + offset[which.reshape(seconds.shape)]
    return local.astype("datetime64[s]")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def skipped(times: np.ndarray, tz: str | tzinfo) -> np.ndarray:
    """Tell which local times the clocks of a zone never show (daylight saving).

    >>> t = np.array(["2024-03-31T01:30", "2024-03-31T02:30"], "datetime64[s]")
    >>> skipped(t, "Europe/Berlin")
    array([False,  True])
    """
    zone = as_zone(tz)
    seconds = times.astype("datetime64[s]").astype(np.int64)
    quarters, which = np.unique(seconds // _QUARTER, return_inverse=True)
    gone = []
    for quarter in quarters:
        wall = (_EPOCH + timedelta(seconds=int(quarter) * _QUARTER)).replace(
            tzinfo=zone
        )
        back = wall.astimezone(UTC).astimezone(zone)
        gone.append(back.replace(tzinfo=None) != wall.replace(tzinfo=None))
    return np.array(gone, dtype=bool)[which.reshape(seconds.shape)]


def time_slots(
    times: np.ndarray, step_minutes: int, spacing: float | None = None
) -> tuple[np.ndarray, np.datetime64]:
    """Return the row of each time on an even grid, and the time of row 0.

    Every time belongs to the nearest grid point; the grid lies where most times are, by
    the minute. Where times lie closer than the grid they are averaged down: a grid
    point then stands for the interval that begins there.

    Parameters
    ----------
    times : ndarray of datetime64[s], shape (n,)
    step_minutes : int
    spacing : float, optional
        Usual seconds between readings of one sensor; default that of the times.

    Raises
    ------
    ValueError
        A grid far too fine for the times.

    Examples
    --------
    >>> t = np.array(["2020-01-01T00:00:02", "2020-01-01T00:04:58"], "datetime64[s]")
    >>> rows, start = time_slots(t, 5)
    >>> rows, str(start)
    (array([0, 1]), '2020-01-01T00:00')
    """
    stamps, step = times.astype("datetime64[s]").astype(np.int64), 60 * step_minutes
    if spacing is None:
        spacing = usual_spacing(times, np.zeros(times.shape, dtype=np.int64))
    spacing = step if spacing == 0 else spacing
    if spacing < 0.75 * step:
        unit = 60 * round(spacing / 60)
        if unit:  # some seconds off must not change the interval
            stamps = _nearest(stamps, _phase(stamps, unit), unit)
        begin = int(stamps.min()) // 60 * 60
        row = (stamps - begin) // step
    else:
        phase = _phase(stamps, step)
        row = (_nearest(stamps, phase, step) - phase) // step
        begin = phase + int(row.min()) * step
        row = row - row.min()
    rows = int(row.max()) + 1
    if rows > 100 * len(stamps) + 1000:
        raise ValueError(
            f"timestamps: {len(stamps)} rows span {rows} steps of {step_minutes} "
            "minutes: is step_minutes right?"
        )
    if spacing > 1.5 * step and len(np.unique(row)) > 2:
        warnings.warn(
            f"timestamps: rows are {spacing / 60:g} minutes apart, the grid is "
            f"{step_minutes}: most of its rows are missing; is step_minutes right?",
            stacklevel=3,
        )
    return row, np.datetime64(begin, "s").astype("datetime64[m]")


def usual_spacing(times: np.ndarray, sensor: np.ndarray) -> float:
    """Return the median seconds between readings of one sensor; 0 where there is one.

    >>> t = np.array(["2020-01-01T00:00:01", "2020-01-01T00:05:03"], "datetime64[s]")
    >>> usual_spacing(t, np.array([0, 0])), usual_spacing(t, np.array([0, 1]))
    (302.0, 0.0)
    """
    stamps = times.ravel().astype("datetime64[s]").astype(np.int64)
    order = np.lexsort((stamps, sensor.ravel()))
    same = np.diff(sensor.ravel()[order]) == 0
    gaps = np.diff(stamps[order])
    gaps = gaps[same & (gaps > 0)]
    return float(np.median(gaps)) if len(gaps) else 0.0


def _phase(stamps: np.ndarray, step: int) -> int:
    """Return the offset in [0, step) that most times have, by the minute."""
    minutes = (stamps + 30) // 60 * 60 % step
    offsets, first, count = np.unique(minutes, return_index=True, return_counts=True)
    often = np.flatnonzero(count == count.max())
    return int(offsets[often[np.argmin(stamps[first[often]])]])


def _nearest(stamps: np.ndarray, phase: int, step: int) -> np.ndarray:
    """Return the nearest grid points, the earlier one in the middle."""
    return (stamps - phase + (step - 1) // 2) // step * step + phase


def slot_means(
    values: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    shape: tuple[int, int],
    resampled: bool = False,
) -> np.ndarray:
    """Average readings by slot and sensor; warn where they differ in one slot.

    Parameters
    ----------
    values, row, column : ndarray, one shape
        Readings, NaN where missing, and where each belongs.
    shape : tuple
        Rows and sensors.
    resampled : bool, default=False
        Several readings a slot are what was asked for: no warning.
    """
    if row.ndim == 2 and len(np.unique(row[:, 0])) == len(row):
        out = np.full(shape, np.nan)  # whole rows, and none has company
        out[row[:, 0]] = values
        return out
    known = ~np.isnan(values)
    cell = (row * shape[1] + column)[known]
    count = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    total = np.bincount(cell, values[known], shape[0] * shape[1]).reshape(shape)
    out = np.where(count > 0, total / count.clip(1), np.nan)
    if not resampled and (count > 1).any():
        mean = out[row, column]
        apart = known & (np.abs(values - mean) > 1e-6 * np.abs(mean))
        if apart.any():
            first = np.unravel_index(int(np.argmax(apart)), apart.shape)
            slot = int(np.broadcast_to(row, apart.shape)[first])
            warnings.warn(
                f"timestamps: {int((count > 1).sum())} readings share a time slot with "
                f"a different reading of their sensor (the first is slot {slot}): they "
                "are averaged",
                stacklevel=3,
            )
    return out


def regularize_series(
    values: ArrayLike,
    timestamps: ArrayLike,
    step_minutes: int,
    *,
    tz: str | tzinfo | None = None,
) -> tuple[np.ndarray, np.datetime64]:
    """Put readings with gaps, repeated or uneven times on an even grid.

    A reading belongs to the nearest grid point, so loggers may be some seconds off.
    Rows that are missing (the hour that daylight saving skips, outages) become NaN;
    rows of one slot (the hour that comes twice) are averaged, with a warning where they
    differ. Rows that lie closer than the grid are averaged down: each grid point stands
    for the interval that begins there.

    Parameters
    ----------
    values : array-like, shape (T, N)
        Readings; NaN where missing.
    timestamps : array-like of datetime64, shape (T,)
        In any order; or ``datetime`` objects or text, with ``tz`` also with a zone.
    step_minutes : int
        Grid.
    tz : str or tzinfo, optional
        Zone of the sensors' clock, such as ``"America/Los_Angeles"``. Times with a zone
        are converted to it, times without one are taken for it; rows at times that this
        clock skips count as missing, with a warning.

    Returns
    -------
    values : ndarray, shape (rows, N)
    start : datetime64[m]
        Time of row 0, local clock.

    Raises
    ------
    ValueError
        Shapes that do not fit; times that are missing, or have a zone without ``tz``; a
        grid that is no whole number of minutes, or far too fine.

    Examples
    --------
    >>> t = np.array(["2020-01-01T00:00:02", "2020-01-01T00:09:58"], "datetime64[s]")
    >>> regularize_series([[1.0], [3.0]], t, 5)[0].ravel()
    array([ 1., nan,  3.])
    """
    values = np.asarray(values)
    times = local_times(timestamps, tz=tz)
    if np.isnat(times).any():
        raise ValueError("timestamps: expected times, found NaT")
    if values.ndim != 2 or times.shape != values.shape[:1] or not len(values):
        raise ValueError(
            f"values, timestamps: expected shapes (T, N) and (T,) with T > 0, found "
            f"{values.shape} and {times.shape}"
        )
    check_count(step_minutes, "step_minutes")
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    column = np.arange(values.shape[1])
    out, start = gridded(values, times[:, None], column, len(column), step_minutes, tz)
    return out.astype(values.dtype), start


def gridded(
    values: np.ndarray,
    times: np.ndarray,
    column: np.ndarray,
    sensors: int,
    step_minutes: int,
    tz: str | tzinfo | None = None,
) -> tuple[np.ndarray, np.datetime64]:
    """Put readings of some sensors on an even grid, see :func:`regularize_series`.

    ``times`` and ``column`` broadcast to the shape of the values.
    """
    if tz is not None:
        gone = skipped(times, tz)
        if gone.any():
            warnings.warn(
                f"timestamps: {int(gone.sum())} rows are at times that the clocks of "
                f"{tz} skip (the first is {times[gone][0]}): they count as missing",
                stacklevel=3,
            )
            values = np.where(gone, np.nan, values)
    one_each = column.shape == times.shape  # else whole rows of readings
    spacing = usual_spacing(times, column if one_each else np.zeros(times.shape, int))
    row, start = time_slots(times.ravel(), step_minutes, spacing)
    row = np.broadcast_to(row.reshape(times.shape), values.shape)
    column = np.broadcast_to(column, values.shape)
    finer = 0 < spacing < 45 * step_minutes
    shape = (int(row.max()) + 1, sensors)
    return slot_means(values, row, column, shape, resampled=finer), start
