"""Sensors of which training knows nothing, units of readings, windows in company."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from manifoldkit.datasets import make_traffic
from manifoldkit.graphs import TrafficForecaster, evaluate_baselines
from manifoldkit.graphs.forecast.baselines import make_baselines
from manifoldkit.graphs.forecast.metrics import ErrorSums
from manifoldkit.graphs.forecast.norm import NodeBatchNorm
from manifoldkit.graphs.forecast.series import check_series

DATA = make_traffic(n_sensors=8, n_days=4, random_state=0)
TRAIN = int(0.6 * len(DATA))
OTHERS = [0, 1, 2, 4, 5, 6, 7]
BACKBONES = {
    "stgcn": {"channels": (4, 2, 4), "out_channels": 4},
    "gwnet": {"channels": 4, "skip_channels": 4, "end_channels": 4, "blocks": 2},
    "linear": {},
}


def fit(data, backbone="stgcn", **options):
    model = TrafficForecaster(
        backbone,
        **{"history": 9, "horizon": 3, "virtual_nodes": 1, "max_epochs": 1} | options,
        backbone_options=BACKBONES[backbone],
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "values: sensors")
        return model.fit(data)


def silenced(kind):
    """Readings of sensor 3 that teach nothing in the training rows, then wake up."""
    values = DATA.values.copy()
    values[:TRAIN, 3] = {"dead": np.nan, "constant": 5.0}[kind]
    if kind == "dead":
        values[7, 3] = np.nan
    return replace(DATA, values=values)


@pytest.mark.parametrize("kind", ["dead", "constant"])
@pytest.mark.parametrize(
    ("residual", "scaler"),
    [("profile", "sensor"), (None, "global"), ("ridge", "global")],
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_sensor_that_wakes_up_counts_as_missing(
    kind, residual, scaler, backbone, tmp_path
):
    data = silenced(kind)
    model = fit(data, backbone, residual=residual, scaler=scaler)
    past, t0 = data.values[-9:], data.timestamps[-9]
    awake = model.predict(past, t0)
    masked = past.copy()
    for reading in (np.nan, 1e6, -3.0):
        masked[:, 3] = reading
        np.testing.assert_array_equal(model.predict(masked, t0), awake)
    assert np.isfinite(awake).all()
    if kind == "dead":
        assert awake[:, 3].min() > 0
        assert awake[:, 3].max() <= 1.01 * np.nanmax(data.values)
    else:
        np.testing.assert_allclose(awake[:, 3], 5.0, rtol=1e-5)
    model.save(tmp_path / "model")
    again = TrafficForecaster.load(tmp_path / "model").predict(past, t0)
    np.testing.assert_array_equal(again, awake)


@pytest.mark.parametrize("kind", ["dead", "constant"])
def test_baselines_and_a_sensor_that_wakes_up(kind):
    data = silenced(kind)
    series = check_series(data)
    past = np.stack([data.values[-9:], data.values[-30:-21]])
    minutes = series.clock.minutes(np.array([len(data.values), len(data.values) - 21]))
    for model in make_baselines(9, 3).values():
        model.fit(series, TRAIN)
        awake, masked = past.copy(), past.copy()
        masked[:, :, 3] = np.nan
        a, b = model.forecast(awake, minutes), model.forecast(masked, minutes)
        np.testing.assert_array_equal(a[..., OTHERS], b[..., OTHERS])
        assert np.isfinite(a).all()
        alone = [model.forecast(awake[k : k + 1], minutes[k : k + 1]) for k in (0, 1)]
        np.testing.assert_allclose(a, np.concatenate(alone), rtol=1e-12)


def test_it_is_said_once_and_refused_where_nothing_is_known():
    model = TrafficForecaster(history=9, horizon=3, virtual_nodes=0, max_epochs=1)
    model.set_params(backbone_options=BACKBONES["stgcn"])
    with pytest.warns(UserWarning, match=r"sensors \[3\] have no reading"):
        model.fit(silenced("dead"))
    values = np.full_like(DATA.values, np.nan)
    values[-30:] = 1.0
    with pytest.raises(ValueError, match="no reading at all"):
        model.fit(replace(DATA, values=values))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("options", [{}, {"residual": None, "scaler": "global"}])
def test_windows_in_company_forecast_what_they_forecast_alone(backbone, options):
    model = fit(DATA, backbone, **options)
    starts = np.array([0, 40, 77, 123])
    past = DATA.values[starts[:, None] + np.arange(9)].copy()
    past[1, :, 2] = np.nan  # a sensor that is dead in one window
    past[2] = np.nan
    past[3] *= 1e6
    t0 = DATA.timestamps[starts]
    together = model.predict(past, t0)
    for k in range(4):
        alone = model.predict(past[k], t0[k])
        np.testing.assert_allclose(
            together[k], alone, rtol=2e-5, atol=2e-5 * np.abs(alone).max()
        )
    assert np.isfinite(together).all()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("residual", ["profile", "ridge", None])
def test_the_unit_of_the_readings_changes_nothing(backbone, residual):
    past, t0 = DATA.values[:9].astype(np.float64), DATA.start
    wanted = None
    for unit in (1.0, 2.0**-30, 2.0**30):
        values = DATA.values.astype(np.float64) * unit
        data = replace(DATA, values=values, mape_floor=10 * unit)
        model = fit(data, backbone, residual=residual, clip=1.0, weight_decay=1e-3)
        report = model.evaluate(data)
        found = (
            model.predict(past * unit, t0) / unit,
            report.mae / unit,
            report.overall["rmse"] / unit,
            report.overall["mape"],
            model.history_[0]["valid_loss"] / unit,
        )
        wanted = found if wanted is None else wanted
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    validation = model.evaluate(data, part="validation").mae
    assert found[4] == pytest.approx(validation / unit, rel=0.05)


@pytest.mark.parametrize("unit", [1e-200, 1e-9, 1e9, 1e200])
def test_errors_are_in_the_unit_of_the_readings(unit):
    rng = np.random.default_rng(0)
    truth, forecast = rng.standard_normal((2, 30, 4, 3))
    truth[3, 1, 2] = np.nan
    reports = []
    for scale in (1.0, unit):
        sums = ErrorSums(4)
        for part in range(0, 30, 7):  # sizes differ from batch to batch
            rows = slice(part, part + 7)
            sums.add(scale * truth[rows], scale * forecast[rows])
        reports.append(sums.report([2]))
    plain, scaled = reports
    gap = np.abs(truth - forecast)
    assert plain.mae == pytest.approx(np.nanmean(gap))
    assert plain.overall["rmse"] == pytest.approx(np.sqrt(np.nanmean(gap**2)))
    for ours, theirs in ((plain.overall, scaled.overall),
                         (plain.rows[0], scaled.rows[0])):  # fmt: skip
        assert theirs["mae"] == pytest.approx(ours["mae"] * unit)
        assert theirs["rmse"] == pytest.approx(ours["rmse"] * unit)
        assert theirs["mape"] == pytest.approx(ours["mape"])


@pytest.mark.parametrize("unit", [1e-150, 1e-9, 1e9, 1e150])
def test_baselines_in_another_unit(unit):
    plain = evaluate_baselines(DATA, 9, 3, mape_floor=0)
    values = DATA.values.astype(np.float64) * unit
    scaled = evaluate_baselines(replace(DATA, values=values), 9, 3, mape_floor=0)
    for name, report in plain.items():
        assert scaled[name].mae == pytest.approx(report.mae * unit, rel=1e-4)
        mape = scaled[name].overall["mape"]
        assert mape == pytest.approx(report.overall["mape"], rel=1e-4)


def test_a_batch_with_nan_does_not_stay_in_the_statistics():
    norm, x = NodeBatchNorm(3, 2, 4), torch.randn(2, 6, 5, 4)
    twin = NodeBatchNorm(3, 2, 4)
    norm(x)
    twin(x)
    x[0, 0, 1, 2] = torch.nan
    norm(x)
    for name, value in norm.state_dict().items():
        assert torch.isfinite(value).all(), name
    torch.testing.assert_close(norm.real.running_mean[2], twin.real.running_mean[2])
    plain = torch.nn.BatchNorm1d(4)
    clean = torch.randn(3, 4, 5, 4)
    plain.load_state_dict(twin.real.state_dict())
    expected = plain(clean[:, :, :3].reshape(-1, 4)).view(3, 4, 3, 4)
    torch.testing.assert_close(twin(clean)[:, :, :3], expected)
    torch.testing.assert_close(twin.real.state_dict(), plain.state_dict())


def test_seconds_off_the_grid_do_not_move_a_forecast():
    model = fit(DATA)
    past, t0 = DATA.values[:9], np.datetime64(DATA.start, "s")
    for seconds in (-20, -1, 7):
        shifted = model.predict(past, t0 + np.timedelta64(seconds, "s"))
        np.testing.assert_array_equal(shifted, model.predict(past, t0))


NAMED = [[*"abcdefgh"], {s: k for k, s in enumerate("abcdefgh")}, DATA.adjacency]


def test_named_weights_come_in_the_order_of_the_sensors():
    model = fit(replace(DATA, adjacency=NAMED, sensor_id=None))
    past = DATA.values[:9]
    expected = fit(DATA).predict(past, DATA.start)
    np.testing.assert_array_equal(model.predict(past, DATA.start), expected)
    order = np.random.default_rng(0).permutation(8)
    names = [NAMED[0][k] for k in order]
    mixed = [names, {s: k for k, s in enumerate(names)},
             DATA.adjacency[np.ix_(order, order)]]  # fmt: skip
    data = replace(DATA, adjacency=mixed, sensor_id=np.array(NAMED[0]))
    np.testing.assert_array_equal(fit(data).predict(past, DATA.start), expected)


@pytest.mark.parametrize(
    ("adjacency", "message"),
    [
        (NAMED, "adjacency: 0 is not in its list"),
        ([NAMED[0], {"a": 3}, DATA.adjacency], "ids and places differ"),
        ([NAMED[0][:5], {}, DATA.adjacency], "expected 5 x 5 weights"),
        ([["a"], ["b", "c"], 3], "expected a matrix of weights"),
        (DATA.adjacency + 1j, "complex"),
        ("adj_mx.pkl", "expected a matrix of weights"),
    ],
)
def test_graphs_that_do_not_fit(adjacency, message):
    with pytest.raises(ValueError, match=message):
        fit(replace(DATA, adjacency=adjacency))


def test_ragged_readings_are_named():
    model = fit(DATA)
    with pytest.raises(ValueError, match="history: expected one number"):
        model.predict([[1.0, 2.0], [3.0]], DATA.start)
    with pytest.raises(ValueError, match="values: expected one number"):
        fit(replace(DATA, values=[[1.0, 2.0], [3.0]]))
    tags = model.__sklearn_tags__().input_tags
    assert not tags.two_d_array
    assert tags.three_d_array
    assert tags.allow_nan
