import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from manifoldkit.equivariant import MotionForecaster

SMALL = {"hidden": 8, "channels": 6, "n_layers": 1, "batch_size": 16, "max_epochs": 3}


def straight(n=40, agents=3, steps=8, dims=2, seed=0):
    rng = np.random.default_rng(seed)
    start, speed = rng.standard_normal((2, n, agents, 1, dims))
    return start + 0.1 * speed * np.arange(steps)[:, None]


def forecaster(**kw):
    return MotionForecaster(**({"random_state": 0} | SMALL | kw))


def test_training_lowers_the_error():
    X = straight(80)
    before = forecaster(max_epochs=1, lr=1e-9).fit(X).score(X)
    model = forecaster(max_epochs=40, lr=5e-3).fit(X)
    assert model.score(X) > before / 4
    assert model.history_[-1]["train_loss"] < model.history_[0]["train_loss"]


def test_shapes_and_splits():
    X = straight()
    model = forecaster(history=5).fit(X)
    assert (model.history_len_, model.horizon_len_) == (5, 3)
    assert model.predict(X).shape == (40, 3, 3, 2)
    np.testing.assert_array_equal(model.predict(X), model.predict(X[:, :, :5]))
    apart = forecaster().fit(X[:, :, :5], X[:, :, 5:])
    np.testing.assert_array_equal(apart.predict(X), model.predict(X))
    assert apart.score(X[:, :, :5], X[:, :, 5:]) == model.score(X)
    assert model.predict(straight(agents=5)).shape == (40, 5, 3, 2)
    category = model.predict_interactions(X)
    assert category.shape == (40, 3, 3, 2)
    np.testing.assert_allclose(category.sum(-1), 1, atol=1e-6)


def test_same_seed_same_forecast_and_no_trace_in_global_generators():
    X = straight()
    state = torch.get_rng_state()
    a, b = (forecaster(early_stopping=True).fit(X).predict(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, forecaster(random_state=1).fit(X).predict(X))
    assert torch.equal(state, torch.get_rng_state())


def test_the_forecast_turns_with_the_scene():
    X = straight()
    model = forecaster().fit(X)
    q = np.array([[0.6, 0.8], [0.8, -0.6]])  # a reflection
    np.testing.assert_allclose(
        model.predict(X @ q + 3), model.predict(X) @ q + 3, atol=1e-5
    )


def test_early_stopping_keeps_the_best_weights():
    X = straight(60)
    model = forecaster(
        early_stopping=True,
        patience=2,
        max_epochs=200,
        lr=0.05,
        validation_fraction=0.3,
    ).fit(X)
    losses = [row["valid_loss"] for row in model.history_]
    assert len(losses) < 200
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    assert all("valid_loss" not in row for row in forecaster().fit(X).history_)


def test_missing_values():
    X = straight()
    X[::2, 2] = np.nan  # padding
    X[1::2, 0, 6:] = np.nan  # left the scene: the future does not count
    model = forecaster(history=5).fit(X)
    pred = model.predict(X)
    assert np.isfinite(pred).all()
    assert (pred[::2, 2] == 0).all()
    assert np.isfinite(model.score(X))
    two = model.predict(X[::2, :2])
    np.testing.assert_allclose(pred[::2, :2], two, atol=1e-5)
    X[0, 0, 2] = np.nan  # a gap in the past
    with pytest.raises(ValueError, match="missing='hold'"):
        model.predict(X)
    gaps = forecaster(history=5, missing="linear").fit(X)
    assert np.isfinite(gaps.predict(X)).all()


def test_modes_ego_entropy_and_reversal():
    X = straight()
    model = forecaster(
        n_modes=3,
        n_layers=2,
        supervise="ego",
        n_categories=3,
        n_null=1,
        entropy_weight=0.1,
        time_reversal=True,
    ).fit(X)
    assert model.predict(X).shape == (40, 3, 3, 4, 2)
    assert np.isfinite(model.score(X))
    sharp = forecaster(entropy_weight=5.0).fit(X)
    plain = forecaster().fit(X)
    assert (
        sharp.predict_interactions(X).max(-1).mean()
        > plain.predict_interactions(X).max(-1).mean()
    )


def test_step_weights_change_what_is_learned(tmp_path):
    from manifoldkit.equivariant.eqmotion.training import DisplacementLoss

    pred, target = torch.zeros(2, 1, 3, 2), torch.ones(2, 1, 3, 2)
    target[..., 1, :] = 2
    weighted = DisplacementLoss(step_weights=[1.0, 0.0, 5.0])((pred, None), target)
    torch.testing.assert_close(weighted, torch.tensor(6 * 2**0.5 / 3))
    X = straight()
    early = forecaster(step_weights=[1, 0, 0, 0], lr=5e-3, max_epochs=30).fit(X)
    error = np.linalg.norm(early.predict(X) - X[:, :, 4:], axis=-1).mean((0, 1))
    even = forecaster(lr=5e-3, max_epochs=30).fit(X)
    plain = np.linalg.norm(even.predict(X) - X[:, :, 4:], axis=-1).mean((0, 1))
    assert error[3] > 2 * plain[3]
    assert error[0] < error[3]
    early.save(tmp_path / "early")
    loaded = MotionForecaster.load(tmp_path / "early")
    assert loaded.step_weights == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="step_weights: expected 4 numbers"):
        forecaster(step_weights=np.ones(3)).fit(X)


def test_agent_embedding_tells_agents_apart():
    X = straight()
    model = forecaster(agent_embedding=True).fit(X)
    swapped = model.predict(X[:, [1, 0, 2]])[:, [1, 0, 2]]
    assert np.abs(swapped - model.predict(X)).max() > 1e-3
    with pytest.raises(ValueError, match="n_agents = 3"):
        model.predict(straight(agents=4))


class _Last(torch.nn.Module):
    def __init__(self, past_len, future_len):
        super().__init__()
        self.map = torch.nn.Linear(past_len, future_len)

    def forward(self, x):
        return self.map(x.mT).mT


def test_a_network_of_ones_own():
    X = straight(80)
    model = forecaster(model=_Last, max_epochs=200, lr=1e-2).fit(X)
    assert model.score(X) > -0.05
    with pytest.raises(ValueError, match="infers no categories"):
        model.predict_interactions(X)
    with pytest.raises(TypeError, match="model"):
        model.save("nowhere")


def test_scikit_learn_habits(tmp_path):
    X = straight()
    model = forecaster()
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert clone(model).get_params() == model.get_params()
    search = GridSearchCV(model, {"hidden": [4, 8]}, cv=2).fit(X)
    assert search.best_params_["hidden"] in (4, 8)
    model.fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    model.save(tmp_path / "model")
    loaded = MotionForecaster.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.history_ == model.history_
    assert loaded.get_params() == model.get_params()
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold"):
        MotionForecaster.load(tmp_path / "model")
    first = model.predict(X)
    np.testing.assert_array_equal(model.fit(X).predict(X), first)


@pytest.mark.parametrize(
    ("kw", "match"),
    [
        ({"supervise": "some"}, "supervise"),
        ({"model": "lstm"}, "model"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"lr": 0}, "lr"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"history": 8}, "history"),
        ({"history": 3, "horizon": 3}, r"history \+ horizon"),
        ({"hidden": 7}, "hidden"),
    ],
)
def test_settings(kw, match):
    with pytest.raises(ValueError, match=match):
        forecaster(**kw).fit(straight())


def test_input():
    X = straight()
    model = forecaster().fit(X)
    with pytest.raises(ValueError, match="n_samples, n_agents"):
        model.fit(X[0])
    with pytest.raises(ValueError, match="X: expected shape"):
        model.predict(X[:, :, :3])
    with pytest.raises(ValueError, match="y: expected the samples"):
        model.score(X[:, :, :4], X[1:, :, 4:])
    with pytest.raises(ValueError, match="at least one sample"):
        forecaster().fit(X[:0])
    with pytest.raises(ValueError, match="more samples"):
        forecaster(early_stopping=True).fit(X[:1])
    X[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"X\[0, 0, 0, 0\] is infinite"):
        model.fit(X)
    assert model.predict(straight()[:0]).shape == (0, 3, 4, 2)
