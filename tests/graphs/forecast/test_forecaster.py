import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from manifoldkit.datasets import make_traffic
from manifoldkit.graphs import SemiAdaptiveAdjacency, TrafficForecaster
from manifoldkit.graphs.forecast.baselines import evaluate_baselines

SMALL = {"channels": (8, 4, 8), "order": 2, "out_channels": 8}
FAST = {
    "history": 9,
    "horizon": 4,
    "virtual_nodes": 2,
    "max_epochs": 1,
    "backbone_options": SMALL,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def data():
    return make_traffic(n_sensors=10, n_days=5, lag=4, missing=0.02, random_state=0)


@pytest.fixture(scope="module")
def fitted(data):
    return TrafficForecaster(**FAST).fit(data)


def test_forecasts_have_the_shape_of_the_horizon(data, fitted):
    one = fitted.predict(data.values[:9], t0=data.start)
    assert one.shape == (4, 10)
    assert np.isfinite(one).all()
    stack = np.stack([data.values[:9], data.values[4:13]])
    both = fitted.predict(stack, t0=data.timestamps[[0, 4]])
    np.testing.assert_allclose(both[0], one, rtol=1e-5)
    for shape in ((9, 10, 1), (1, 9, 10, 1)):  # as the archives store them
        again = fitted.predict(data.values[:9].reshape(shape), t0=data.start)
        assert np.array_equal(again.reshape(4, 10), one)
    assert fitted.predict(stack[:0], t0=data.start).shape == (0, 4, 10)
    assert fitted.predict(np.full((9, 10), np.nan), t0=data.start).shape == (4, 10)


def test_evaluation_is_what_predict_gives(data, fitted):
    report = fitted.evaluate(data, horizons=[1, 4])
    first = int(0.8 * len(data))
    starts = np.arange(first - 9, len(data) - 9 - 4 + 1)
    rows = starts[:, None]
    past, truth = data.values[rows + np.arange(9)], data.values[rows + 9 + np.arange(4)]
    forecast = fitted.predict(past, data.timestamps[starts])
    gap = np.abs(forecast - truth)
    assert report.n_windows == len(starts)
    assert report.mae == pytest.approx(np.nanmean(gap), rel=1e-5)
    assert report.rows[1]["mae"] == pytest.approx(np.nanmean(gap[:, 3]), rel=1e-5)
    assert fitted.score(data) == -report.mae
    assert fitted.evaluate(data, part="validation").n_windows > 0


def test_same_seed_same_forecast(data, fitted):
    again = clone(fitted).fit(data)
    past = data.values[:9]
    assert np.array_equal(
        again.predict(past, data.start), fitted.predict(past, data.start)
    )
    other = clone(fitted).set_params(random_state=1).fit(data)
    assert not np.array_equal(
        other.predict(past, data.start), fitted.predict(past, data.start)
    )
    state = torch.get_rng_state()
    clone(fitted).fit(data)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("residual", ["profile", "ridge", None])
@pytest.mark.parametrize("scaler", ["sensor", "global"])
def test_nothing_leaks_from_validation_and_test(data, residual, scaler):
    model = TrafficForecaster(**FAST | {"residual": residual, "scaler": scaler})
    first, second = int(0.6 * len(data)), int(0.8 * len(data))
    values = data.values.copy()
    values[second:] = 7777
    a = clone(model).fit(data)
    b = clone(model).fit(replace(data, values=values))
    past = data.values[:9]
    assert np.array_equal(a.predict(past, data.start), b.predict(past, data.start))
    values[first:] = 7777  # validation picks the epoch, and nothing else
    c = clone(model).fit(replace(data, values=values))
    np.testing.assert_array_equal(a.scaler_.scale_, c.scaler_.scale_)
    np.testing.assert_array_equal(a.scaler_.center_, c.scaler_.center_)
    if residual:
        np.testing.assert_array_equal(
            a.scaler_.profile_.table_, c.scaler_.profile_.table_
        )


def test_ridge_residual_starts_at_profile_and_ridge(data):
    model = TrafficForecaster(**FAST | {"residual": "ridge", "lr": 0.0}).fit(data)
    ridge = evaluate_baselines(data, 9, 4)["profile + ridge"]
    assert model.evaluate(data).mae == pytest.approx(ridge.mae, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "linear", "backbone_options": None},
        {
            "backbone": "gwnet",
            "backbone_options": {"channels": 4, "skip_channels": 8, "end_channels": 8},
        },
        {"adjacency": "all_ones", "virtual_nodes": 1},
        {"adjacency": "adaptive"},
        {"adjacency": "distance"},
        {"gate": True},
        {"bidirectional": True},
        {"virtual_nodes": 0},
        {"adjacency_options": {"sparse_topk": 3, "threshold": 0.1}},
    ],
    ids=str,
)
def test_every_kind_saves_and_loads(data, options, tmp_path):
    model = TrafficForecaster(**FAST | options).fit(data)
    past = data.values[:9]
    expected = model.predict(past, data.start)
    model.save(tmp_path / "model")
    other = TrafficForecaster.load(tmp_path / "model")
    assert np.array_equal(other.predict(past, data.start), expected)
    assert other.get_params() == model.get_params()
    assert other.history_ == model.history_
    assert isinstance(other.adjacency_, SemiAdaptiveAdjacency)


def test_a_sparse_graph_is_kept_sparse(data, tmp_path):
    sparse = replace(data, adjacency=scipy.sparse.csr_array(data.adjacency))
    model = TrafficForecaster(**FAST).fit(sparse)
    assert model.adjacency_.is_sparse
    dense = TrafficForecaster(**FAST).fit(data)
    past = data.values[:9]
    np.testing.assert_allclose(
        model.predict(past, data.start), dense.predict(past, data.start), rtol=1e-4
    )
    model.save(tmp_path / "model")
    other = TrafficForecaster.load(tmp_path / "model")
    assert np.array_equal(
        other.predict(past, data.start), model.predict(past, data.start)
    )
    options = {"backbone": "gwnet", "backbone_options": {"channels": 4}}
    assert TrafficForecaster(**FAST | options).fit(sparse).predict(
        past, data.start
    ).shape == (4, 10)


def test_files_of_others_are_refused(tmp_path, fitted):
    (tmp_path / "a.json").write_text('{"format": "else"}')
    with pytest.raises(ValueError, match="does not hold"):
        TrafficForecaster.load(tmp_path / "a")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        TrafficForecaster.load(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        TrafficForecaster.load(tmp_path / "b")


def test_time_cap_and_patience_keep_the_best_weights(data):
    options = FAST | {"max_epochs": 1000, "max_seconds": 0.0}
    capped = TrafficForecaster(**options).fit(data)
    assert len(capped.history_) == 1
    patient = TrafficForecaster(
        **FAST | {"max_epochs": 8, "patience": 2, "lr": 0.3}
    ).fit(data)
    losses = [row["valid_loss"] for row in patient.history_]
    found = patient.evaluate(data, part="validation").mae
    # batches weigh alike in the log, whatever number of readings is missing in them
    assert found == pytest.approx(min(losses), rel=0.02)


def test_training_beats_the_start_and_missing_readings_do_not_matter(data):
    values = data.values.copy()
    options = FAST | {"max_epochs": 5, "lr": 5e-3}
    model = TrafficForecaster(**options).fit(data)
    losses = [row["train_loss"] for row in model.history_]
    assert losses[-1] < losses[0]
    filled = np.where(np.isnan(values), -1.0, values)
    named = TrafficForecaster(**options, null_value=-1.0).fit(
        replace(data, values=filled)
    )
    past = data.values[:9]
    assert np.array_equal(
        named.predict(past, data.start), model.predict(past, data.start)
    )


def test_other_inputs(data):
    whole = replace(data, values=np.nan_to_num(data.values, nan=50).astype(np.int32))
    model = TrafficForecaster(**FAST).fit(whole)
    assert np.isfinite(model.predict(whole.values[:9], data.start)).all()
    flat = data.values.copy()
    flat[:, 3] = 5.0
    model = TrafficForecaster(**FAST | {"residual": None}).fit(
        replace(data, values=flat)
    )
    others = np.delete(model.scaler_.scale_, 3)
    assert model.scaler_.scale_[3] == pytest.approx(others.mean())
    np.testing.assert_allclose(model.predict(flat[:9], data.start)[:, 3], 5.0)
    double = replace(data, values=data.values.astype(np.float64))
    out = TrafficForecaster(**FAST).fit(double).predict(double.values[:9], data.start)
    assert out.dtype == np.float64
    one = make_traffic(n_sensors=8, n_days=4, random_state=0)
    alone = replace(one, values=one.values[:, :1], adjacency=np.ones((1, 1)))
    lonely = TrafficForecaster(**FAST).fit(alone)
    for shape in ((9, 1), (9, 1, 1)):
        past = alone.values[:9].reshape(shape)
        assert lonely.predict(past, one.start).shape == (4, 1)
    past = np.stack([alone.values[:9]] * 9)
    assert lonely.predict(past, one.start).shape == (9, 4, 1)


def test_a_backbone_of_ones_own(data):
    class Hold(torch.nn.Module):
        def __init__(self, adjacency, history, horizon):
            super().__init__()
            self.horizon, self.gain = horizon, torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * x[:, -1:, :, 0].repeat(1, self.horizon, 1)

    model = TrafficForecaster(Hold, **FAST | {"backbone_options": None}).fit(data)
    assert model.predict(data.values[:9], data.start).shape == (4, 10)
    with pytest.raises(TypeError):
        model.save("nowhere")


def test_it_pickles_and_knows_its_state(data, fitted):
    with pytest.raises(NotFittedError):
        TrafficForecaster().predict(data.values[:12], data.start)
    assert fitted.history_[0]["epoch"] == 1


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"backbone": "rnn"}, {}, "backbone"),
        ({"residual": "trend"}, {}, "residual"),
        ({"scaler": "minmax"}, {}, "scaler"),
        ({"history": 0}, {}, "history"),
        ({"history": 8}, {}, "at least 9 steps"),
        ({"horizon": 5000}, {}, "do not fit the training part"),
        ({"profile": "month"}, {}, "profile"),
        ({"split": (0.5, 0.1)}, {}, "split"),
        ({}, {"adjacency": np.ones((3, 3))}, "for 10 sensors, found"),
        ({}, {"adjacency": -np.ones((10, 10))}, "negative"),
        ({}, {"adjacency": np.full((10, 10), np.nan)}, "not finite"),
        ({}, {"values": np.full((480, 10), np.inf)}, "infinite"),
        ({}, {"step_minutes": 11}, "step_minutes"),
    ],
)
def test_bad_input(data, options, change, message):
    with pytest.raises(ValueError, match=message):
        TrafficForecaster(**FAST | options).fit(replace(data, **change))


def test_bad_histories(data, fitted):
    with pytest.raises(ValueError, match=r"history: expected shape \(..., 9, 10\)"):
        fitted.predict(data.values[:8], data.start)
    with pytest.raises(ValueError, match="t0: expected the time"):
        fitted.predict(data.values[:9])
    with pytest.raises(ValueError, match="t0: expected time stamps"):
        fitted.predict(data.values[:9], t0="noon")
    with pytest.raises(ValueError, match="sensors"):
        fitted.evaluate(replace(data, values=data.values[:, :4]))
    with pytest.raises(ValueError, match="step_minutes"):
        fitted.evaluate(replace(data, step_minutes=30))
    with pytest.raises(ValueError, match="part"):
        fitted.evaluate(data, part="train")
    short = replace(data, values=data.values[:20], split=(15, 19))
    with pytest.raises(ValueError, match="do not fit the test part"):
        fitted.evaluate(short)


def test_pickle(data, fitted):
    other = pickle.loads(pickle.dumps(fitted))
    past = data.values[:9]
    assert np.array_equal(
        other.predict(past, data.start), fitted.predict(past, data.start)
    )
