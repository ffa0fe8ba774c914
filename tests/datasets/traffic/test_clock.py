"""Times of readings: uneven loggers, zones, daylight saving."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from manifoldkit.datasets import regularize_series
from manifoldkit.datasets.traffic.clock import local_times, wall_clock

GRID = np.datetime64("2020-01-01T00:00:00") + 300 * np.arange(40).astype("m8[s]")
COUNT = np.arange(40.0)[:, None]
BERLIN = "Europe/Berlin"


@pytest.mark.parametrize("phase", [0, 60, 120, 240])
@pytest.mark.parametrize("spread", [0, 3, 29, 100])
def test_every_reading_goes_to_its_own_slot(phase, spread):
    rng = np.random.default_rng(phase + spread)
    jitter = rng.integers(-spread, spread + 1, 40).astype("m8[s]")
    jitter[: 20 if spread > 29 else 0] = 0  # where the grid lies must be visible
    times = GRID + np.timedelta64(phase, "s") + jitter
    order = rng.permutation(40)
    out, start = regularize_series(COUNT[order], times[order], 5)
    assert np.array_equal(out, COUNT)
    assert start == GRID[0] + np.timedelta64(phase, "s")


def test_a_shift_of_all_times_shifts_the_start_alone():
    rng = np.random.default_rng(0)
    times = (GRID + rng.integers(-9, 9, 40).astype("m8[s]"))[rng.random(40) > 0.3]
    values = rng.standard_normal((len(times), 2))
    out, start = regularize_series(values, times, 5)
    for minutes in (1, 7, 1440):
        shift = np.timedelta64(minutes, "m")
        again, later = regularize_series(values, times + shift, 5)
        assert later == start + shift
        np.testing.assert_array_equal(again, out)


def test_finer_rows_are_averaged_down_some_seconds_off_or_not():
    jitter = np.random.default_rng(0).integers(-5, 6, 40).astype("m8[s]")
    jitter[0] = 0
    for times in (GRID, GRID + jitter):
        out, _ = regularize_series(COUNT, times, 15)
        assert out.ravel().tolist()[:13] == [3 * k + 1.0 for k in range(13)]


def test_collisions_and_coarse_files_are_told():
    times = GRID[[0, 0, 1, 2]]
    with pytest.warns(UserWarning, match=r"share a time slot.*averaged"):
        out, _ = regularize_series([[1.0], [3.0], [5.0], [6.0]], times, 5)
    assert out.ravel().tolist() == [2, 5, 6]
    # the same reading twice is no loss
    regularize_series([[1.0], [1.0], [5.0], [6.0]], times, 5)
    with pytest.warns(UserWarning, match="15 minutes apart, the grid is 5"):
        regularize_series(COUNT[::3], GRID[::3], 5)


def test_zones_become_the_clock_of_the_sensors():
    utc = [datetime(2024, 7, 1, 12, tzinfo=UTC) + timedelta(hours=k) for k in range(3)]
    for times in (utc, [f"{t:%Y-%m-%dT%H:%M}Z" for t in utc], [str(t) for t in utc]):
        assert local_times(times, tz=BERLIN)[0] == np.datetime64("2024-07-01T14:00")
        with pytest.raises(ValueError, match=r"without a zone.*tz="):
            local_times(times)
    offset = ["2024-07-01T05:00-07:00"]
    assert local_times(offset, tz="America/Los_Angeles")[0] == np.datetime64(
        "2024-07-01T05:00"
    )
    with pytest.raises(ValueError, match="some times have a zone"):
        local_times(["2024-07-01T05:00Z", "2024-07-01T05:00"], tz=BERLIN)
    with pytest.raises(ValueError, match="tz: expected a time zone"):
        local_times(offset, tz="Mars/Olympus")


def test_the_hour_that_comes_twice_and_the_hour_that_never_comes():
    utc = np.datetime64("2024-10-26T22:00:00") + 3600 * np.arange(6).astype("m8[s]")
    words = [f"{t}Z" for t in utc]
    with pytest.warns(UserWarning, match="share a time slot"):
        out, start = regularize_series(np.arange(6.0)[:, None], words, 60, tz=BERLIN)
    assert start == np.datetime64("2024-10-27T00:00")
    assert out.ravel().tolist() == [0, 1, 2.5, 4, 5]
    utc = np.datetime64("2024-03-30T23:00:00") + 3600 * np.arange(5).astype("m8[s]")
    words = [f"{t}Z" for t in utc]
    out, _ = regularize_series(np.arange(5.0)[:, None], words, 60, tz=BERLIN)
    np.testing.assert_array_equal(out.ravel(), [0, 1, np.nan, 2, 3, 4])
    local = np.datetime64("2024-03-31T00:00:00") + 3600 * np.arange(5).astype("m8[s]")
    with pytest.warns(UserWarning, match=r"1 rows.*clocks of Europe/Berlin skip"):
        out, _ = regularize_series(np.arange(5.0)[:, None], local, 60, tz=BERLIN)
    np.testing.assert_array_equal(out.ravel(), [0, 1, np.nan, 3, 4])


def test_the_clock_of_a_zone_is_that_of_the_standard_library():
    from zoneinfo import ZoneInfo

    rng = np.random.default_rng(0)
    utc = rng.integers(0, 2**31, 200).astype("datetime64[s]")
    for zone in ("America/Los_Angeles", "Asia/Kathmandu", "Australia/Lord_Howe"):
        expected = [
            t.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
            for t in utc.tolist()
        ]
        assert wall_clock(utc, zone).tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/27/2012 4:05 PM", "2012-03-27T16:05"),
        ("03/27/2012 12:00:30 AM", "2012-03-27T00:00:30"),
        ("27.03.2012 16:05", "2012-03-27T16:05"),
        ("2012/03/04 16:05", "2012-03-04T16:05"),
        ("2012-03-27", "2012-03-27T00:00"),
        ("2012-03-27T16:05:07.25", "2012-03-27T16:05:07"),
    ],
)
def test_dates_as_people_write_them(text, expected):
    assert local_times([text])[0] == np.datetime64(expected)


def test_dates_that_may_be_two_days():
    with pytest.raises(ValueError, match="cannot tell day and month of 3/4/2012"):
        local_times(["3/4/2012 10:00"])
    assert local_times(["3/4/2012", "3/14/2012"])[0] == np.datetime64("2012-03-04")
    assert local_times(["3/4/2012", "14/4/2012"])[0] == np.datetime64("2012-04-03")
    with pytest.raises(ValueError, match="expected times"):
        local_times(["noon"])
