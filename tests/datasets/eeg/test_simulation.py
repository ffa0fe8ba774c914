"""The simulator embeds the truth that it says."""

import numpy as np
import pytest
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from manifoldkit.datasets import make_motor_imagery_eeg


def simulate(**kwargs):
    return make_motor_imagery_eeg(**{"n_epochs": 60, "random_state": 0, **kwargs})


def test_shapes_and_balance():
    epochs = simulate(n_epochs=31, n_channels=8, n_times=200, n_sessions=2)
    assert epochs.X.shape == (31, 8, 200)
    assert sorted(epochs.class_counts.values()) == [15, 16]
    assert set(epochs.session) == {1, 2}
    assert len(set(epochs.ch_names)) == 8
    assert {"C3", "Cz", "C4"} <= set(epochs.ch_names)
    assert not epochs.is_real


@pytest.mark.parametrize("n_channels", [1, 3, 21, 40])
def test_any_number_of_channels(n_channels):
    epochs, truth = simulate(n_channels=n_channels, n_epochs=4, return_truth=True)
    assert epochs.X.shape[1] == n_channels == len(set(epochs.ch_names))
    assert np.isfinite(epochs.X).all()
    norms = np.linalg.norm(truth.channel_positions, axis=1)
    np.testing.assert_allclose(norms, 1)


def test_same_seed_same_epochs():
    a, b, c = simulate(), simulate(), simulate(random_state=1)
    np.testing.assert_array_equal(a.X, b.X)
    assert not np.allclose(a.X, c.X)
    X, y = simulate(return_X_y=True)
    np.testing.assert_array_equal(X, a.X)
    np.testing.assert_array_equal(y, a.y)
    g = np.random.default_rng(0)
    np.testing.assert_array_equal(simulate(random_state=g).X, a.X)
    assert simulate(random_state=np.random.RandomState(0)).X.shape == a.X.shape


def test_truth_shows_the_desynchronization():
    epochs, truth = simulate(n_epochs=400, n_times=64, return_truth=True)
    for k, name in enumerate(epochs.classes):
        assert truth.source_names[k] == name
        own = np.log(truth.source_power[epochs.y == name, k]).mean()
        other = np.log(truth.source_power[epochs.y != name, k]).mean()
        assert own - other == pytest.approx(np.log(truth.desynchronization), abs=0.2)


def test_power_drops_over_the_contralateral_hemisphere():
    epochs = simulate(n_epochs=120, variability=0.2, snr=5.0)
    power = np.log(epochs.X.var(-1))
    c3, c4 = (epochs.ch_names.index(name) for name in ("C3", "C4"))
    balance = power[:, c4] - power[:, c3]
    left, right = epochs.y == "left_hand", epochs.y == "right_hand"
    assert balance[left].mean() < balance[right].mean() - 0.2


def accuracy(**kwargs):
    model = make_pipeline(Covariances("oas"), TangentSpace(), LogisticRegression())
    scores = []
    for seed in range(3):
        epochs = simulate(random_state=seed, n_times=240, **kwargs)
        scores.append(cross_val_score(model, epochs.X, epochs.y, cv=5).mean())
    return np.mean(scores)


def test_difficulty_follows_the_parameters():
    easy = accuracy(desynchronization=0.15)
    assert easy > 0.85
    assert accuracy(desynchronization=0.15, snr=-30.0) < easy - 0.15
    assert 0.3 < accuracy(desynchronization=1.0) < 0.7  # nothing to find


def test_band_and_amplitude():
    raw = simulate(band=None)
    band = simulate()
    hertz = np.fft.rfftfreq(480, 1 / 160)
    power = (np.abs(np.fft.rfft(band.X)) ** 2).mean((0, 1))
    assert power[hertz > 45].mean() < 0.02 * power[(hertz > 8) & (hertz < 30)].mean()
    assert raw.X.std() == pytest.approx(8.0)
    assert band.X.std() == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_epochs": 0}, "n_epochs"),
        ({"n_epochs": 1}, "n_epochs: expected one a class"),
        ({"n_channels": 0}, "n_channels"),
        ({"n_times": 10}, "n_times: expected an integer >= 64, found 10"),
        ({"classes": ("left_hand", "jump")}, "classes"),
        ({"classes": ("left_hand",)}, "classes"),
        ({"desynchronization": 0}, "desynchronization"),
        ({"variability": -1}, "variability"),
        ({"snr": np.nan}, "snr: expected a finite"),
        ({"snr": np.inf}, "snr: expected a finite"),
        ({"band": (8, 90)}, "band"),
        ({"sfreq": 0}, "sfreq"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        simulate(**kwargs)


def test_counts_are_integers():
    with pytest.raises(TypeError, match="n_epochs: expected an integer"):
        simulate(n_epochs=10.5)
    assert len(simulate(n_epochs=np.int64(4))) == 4
