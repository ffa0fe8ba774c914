import datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manifoldkit.graphs.forecast.series import (
    Clock,
    WindowLoader,
    Windows,
    check_series,
    split_rows,
    time_of_day,
    to_minutes,
    weekday,
    window_starts,
)


def dataset(values=None, **kw):
    values = np.arange(20.0).reshape(10, 2) if values is None else values
    kw = {"start": np.datetime64("2024-01-01T00:00"), "step_minutes": 5} | kw
    return SimpleNamespace(values=values, **kw)


def test_clock_of_known_days():
    stamps = np.array(["2012-03-01T06:00", "2012-03-04T23:55"], "datetime64[m]")
    minutes = to_minutes(stamps)
    assert weekday(minutes).tolist() == [3, 6]  # a Thursday and a Sunday
    assert time_of_day(minutes).tolist() == [0.25, 1435 / 1440]
    assert Clock(0, 15).minutes(np.array([0, 4])).tolist() == [0, 60]


def test_readings_become_floats_with_nan():
    series = check_series(dataset(np.array([[0, 1], [2, 0]])[..., None]), null_value=0)
    assert series.values.dtype == np.float64
    assert np.isnan(series.values).tolist() == [[True, False], [False, True]]
    kept = check_series(dataset(np.array([[0, 1], [2, 0]])))
    assert not np.isnan(kept.values).any()  # zero is a reading unless it is said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset(np.array([["a"]])), "numbers"),
        (dataset(np.array([[np.inf, 1.0]])), r"values\[0, 0\] is infinite"),
        (dataset(np.ones(3)), "time, sensors"),
        (dataset(np.ones((0, 3))), "time, sensors"),
        (dataset(np.ones((4, 3, 2))), "time, sensors"),
        (dataset(step_minutes=7), "divisor of 1440"),
        (dataset(start="yesterday"), "time stamps"),
        (dataset(start=np.datetime64("NaT")), "NaT"),
        (dataset(timestamps=np.arange(3)), "one a row"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        check_series(data)


def test_a_jump_of_the_clock_is_named():
    stamps = np.datetime64("2024-03-31T01:30", "m") + 5 * np.arange(10)
    stamps[6:] += np.timedelta64(60, "m")  # summer time begins
    with pytest.raises(ValueError, match="rows 5 and 6 are 65 minutes apart"):
        check_series(dataset(timestamps=stamps))


@pytest.mark.parametrize(
    "when",
    [
        "2024-03-31T01:30+01:00",
        datetime.datetime(2024, 3, 31, tzinfo=datetime.UTC),
        [datetime.datetime(2024, 3, 31, tzinfo=datetime.UTC)],
    ],
)
def test_times_with_a_zone_are_refused(when):
    with pytest.raises(ValueError, match="t0: expected times of a local clock"):
        to_minutes(when)


def test_splits():
    assert split_rows(2016, (1411, 1613)) == (1411, 1613)
    assert split_rows(100, (0.6, 0.2, 0.2)) == (60, 80)
    for bad in ((0.5, 0.2), (0.5, 0.2, 0.2), (0, 5), (8, 200), (9, 8)):
        with pytest.raises(ValueError, match="split"):
            split_rows(10, bad)


@pytest.mark.parametrize("overlap", [True, False])
def test_targets_stay_in_their_part_and_none_is_lost(overlap):
    starts = window_starts(50, 70, history=6, horizon=4, overlap=overlap)
    targets = starts[:, None] + 6 + np.arange(4)
    assert targets.max() == 69
    assert targets.min() == (50 if overlap else 56)
    assert len(window_starts(0, 9, 6, 4)) == 0


def windows(n=23):
    z = torch.arange(40.0)[:, None].repeat(1, 2)
    z[5, 1] = torch.nan
    return Windows(z, np.arange(40) * 5, np.arange(n), 3, 2)


def test_batches_hold_every_window_once():
    data = windows()
    first = [batch[0]["z"][:, 0, 0] for batch in WindowLoader(data, 8)]
    assert [len(b) for b in first] == [8, 8, 7]  # the last one is not dropped
    assert torch.cat(first).tolist() == list(range(23))
    torch.manual_seed(0)
    mixed = torch.cat([b[0]["z"][:, 0, 0] for b in WindowLoader(data, 8, shuffle=True)])
    assert sorted(mixed.tolist()) == list(range(23))
    assert mixed.tolist() != list(range(23))


def test_missing_inputs_are_zero_and_missing_targets_nan():
    inputs, target = windows()[3]
    assert inputs["z"][:, 1].tolist() == [3, 4, 0]
    assert target[:, 0].tolist() == [6, 7]
    _, target = windows()[1]
    assert torch.isnan(target[1, 1])


def test_a_loader_can_be_stopped_after_one_batch():
    assert len(list(WindowLoader(windows(), 8, stop=lambda: True))) == 1
    assert len(WindowLoader(windows(), 8)) == 3
