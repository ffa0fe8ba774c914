"""The clock of traffic: even grids of uneven times."""

import numpy as np
import pytest

from manifoldkit.datasets import TrafficData, regularize_series


def test_an_hour_that_is_skipped_and_one_that_comes_twice():
    t = np.datetime64("2024-03-31T01:30", "m") + 15 * np.arange(6)
    t[2:] += np.timedelta64(60, "m")
    values, start = regularize_series(np.arange(6.0)[:, None], t, 15)
    assert start == t[0]
    assert values[:, 0].tolist()[:2] == [0, 1]
    assert np.isnan(values[2:6, 0]).all()
    assert values[6:, 0].tolist() == [2, 3, 4, 5]
    twice = np.array(["2024-10-27T02:00"] * 2 + ["2024-10-27T02:15"], "datetime64[m]")
    with pytest.warns(UserWarning, match="share a time slot"):
        values, _ = regularize_series([[1, 8], [3, 8], [5, 8]], twice, 15)
    assert values.tolist() == [[2, 8], [5, 8]]
    shuffled, _ = regularize_series(np.array([[2.0], [1.0]]), t[[1, 0]], 15)
    assert shuffled.ravel().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "stamps", "step", "message"),
    [
        ([[1.0]], ["2024-01-01", "2024-01-02"], 5, "expected shapes"),
        ([[1.0]], ["2024-01-01"], 0, "step_minutes"),
        ([[1.0], [2.0]], ["2000-01-01", "2024-01-02"], 1, "is step_minutes right"),
        ([[1.0]], ["2024-01-01T00:00+01:00"], 5, "without a zone"),
    ],
)
def test_bad_times(values, stamps, step, message):
    with pytest.raises(ValueError, match=message):
        regularize_series(values, stamps, step)


def test_times_of_the_rows():
    data = TrafficData(np.ones((3, 2)), np.eye(2), np.datetime64("2024-01-01"), 30)
    assert data.timestamps.tolist()[2].isoformat() == "2024-01-01T01:00:00"


def test_times_that_are_missing_and_grids_that_are_no_minutes():
    t = np.array(["2020-01-01T00:00", "NaT"], "datetime64[m]")
    with pytest.raises(ValueError, match="timestamps: expected times, found NaT"):
        regularize_series([[1.0], [3.0]], t, 5)
    with pytest.raises(
        ValueError, match=r"step_minutes: expected an integer >= 1, found 2\.5"
    ):
        regularize_series([[1.0], [3.0]], t[[0, 0]], 2.5)
