import os
from types import SimpleNamespace

import numpy as np
import pytest

from manifoldkit.graphs import evaluate_baselines
from manifoldkit.graphs.forecast.baselines import (
    LastValue,
    SeasonalProfile,
    SharedRidge,
    column_scales,
    ridge_map,
)
from manifoldkit.graphs.forecast.series import Clock, Series

MONDAY = 4 * 1440  # 1970-01-05


def series(values, step=60, start=MONDAY):
    return Series(np.asarray(values, dtype=float), Clock(start, step))


def test_last_value_skips_missing_readings():
    model = LastValue(2).fit(series([[1.0, 5.0], [3.0, 7.0]]), 2)
    past = np.array([[[1.0, np.nan], [np.nan, np.nan]]])
    assert model.forecast(past, np.array([0])).tolist() == [[[1, 6], [1, 6]]]


def test_profile_is_the_mean_by_time_of_day_and_part_of_the_week():
    hours = np.arange(24 * 21)
    weekend = (hours // 24) % 7 >= 5
    values = (hours % 24 + 100 * weekend)[:, None].astype(float)
    model = SeasonalProfile(3).fit(series(values), len(values))
    assert model.split_
    out = model.forecast(values[None, :2], np.array([MONDAY + 4 * 1440 + 23 * 60]))
    assert out[0, :, 0].tolist() == [23, 100, 101]  # Friday night into Saturday
    short = SeasonalProfile(1).fit(series(values[:120]), 120)
    assert not short.split_
    with pytest.raises(ValueError, match="profile"):
        SeasonalProfile(1, "month")


def test_profile_of_hours_never_seen_falls_back():
    values = np.full((30, 2), np.nan)
    values[:10] = np.arange(20.0).reshape(10, 2)
    model = SeasonalProfile(1, "week_part").fit(series(values), 30)
    assert np.isfinite(model.table_).all()
    assert model.table_[15].tolist() == [9, 10]  # the mean of each sensor
    assert model.table_[24 + 3].tolist() == model.table_[3].tolist()


@pytest.mark.parametrize("gaps", [False, True])
def test_ridge_map_solves_the_normal_equations(rng, gaps):
    z = rng.standard_normal((700, 3))
    if gaps:
        z[rng.uniform(size=z.shape) < 0.1] = np.nan
    coef = ridge_map(z, 4, 2, alpha=0.5)
    starts = np.arange(700 - 5)
    for k in range(2):
        x = np.stack([z[s : s + 4].T for s in starts]).reshape(-1, 4)
        y = np.stack([z[s + 4 + k] for s in starts]).ravel()
        known = ~np.isnan(y)
        x = np.c_[np.nan_to_num(x), np.ones(len(x))][known]
        expected = np.linalg.solve(x.T @ x + 0.5 * np.eye(5), x.T @ y[known])
        np.testing.assert_allclose(coef[:, k], expected, atol=1e-10)


@pytest.mark.parametrize("unit", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_scales_of_constant_sensors_are_those_of_others(unit):
    values = np.array([[0.1, 1.0, np.nan, 0], [0.1, 3.0, np.nan, 6]]) * unit
    scales, known = column_scales(values)
    np.testing.assert_allclose(scales, np.array([2, 1, 2, 3]) * unit, rtol=1e-12)
    assert known.tolist() == [False, True, False, True]
    assert column_scales(np.ones((3, 2)))[0].tolist() == [1, 1]


def test_nothing_of_the_test_part_is_used(rng):
    values = rng.uniform(1, 9, (24 * 20, 3))
    other = values.copy()
    other[24 * 14 :] += 1000
    for make in (
        lambda: LastValue(4),
        lambda: SeasonalProfile(4),
        lambda: SharedRidge(6, 4),
        lambda: SharedRidge(6, 4, profile=False),
    ):
        past, when = values[None, :6], np.array([MONDAY])
        a = make().fit(series(values), 24 * 14).forecast(past, when)
        b = make().fit(series(other), 24 * 14).forecast(past, when)
        np.testing.assert_array_equal(a, b)


def test_a_linear_law_is_found(rng):
    noise = rng.standard_normal((2000, 2))
    z = np.zeros((2000, 2))
    for t in range(1, 2000):
        z[t] = 0.9 * z[t - 1] + 0.1 * noise[t]
    data = SimpleNamespace(values=50 + z, start=0, step_minutes=60)
    errors = evaluate_baselines(data, 3, 4)
    assert errors["linear (ridge)"].mae < errors["last value"].mae
    assert errors["linear (ridge)"].mae < errors["historical average"].mae
    with pytest.raises(ValueError, match="horizon: 400 steps do not fit the test part"):
        evaluate_baselines(SimpleNamespace(**vars(data)), 3, 400, split=(1500, 1700))


@pytest.mark.skipif(
    not os.environ.get("MANIFOLDKIT_DATA"), reason="the traffic archives are not here"
)
@pytest.mark.parametrize(
    ("name", "steps", "floors"),
    [
        (
            "fetch_metr_la",
            (12, 20),
            {
                "last value": (5.399, 10.330, 0.145, 7.141),
                "historical average": (5.383, 9.222, 0.181, 5.330),
                "linear (ridge)": (5.378, 9.311, 0.171, 6.801),
                "profile + ridge": (4.591, 7.748, 0.137, 5.237),
            },
        ),
        (
            "fetch_the_hague",
            (24, 24),
            {
                "last value": (23.284, 39.143, 0.678, 34.493),
                "historical average": (5.407, 8.532, 0.165, 5.485),
                "linear (ridge)": (15.864, 26.006, 0.391, 16.729),
                "profile + ridge": (5.283, 8.290, 0.160, 5.443),
            },
        ),
    ],
)
def test_floors_of_the_real_archives(name, steps, floors):
    from manifoldkit import datasets
    from manifoldkit.exceptions import DatasetNotFoundError

    try:
        data = getattr(datasets, name)(download=False)
    except DatasetNotFoundError:
        pytest.skip("the archive is not here")
    for method, report in evaluate_baselines(data, *steps).items():
        found = (*report.overall.values(), report.last_quarter["mae"])
        assert found == pytest.approx(floors[method], abs=6e-3), method
