"""Simulated traffic follows the law that it states."""

import numpy as np
import pytest

from manifoldkit.datasets import make_traffic


def test_the_simulation_follows_its_law():
    data = make_traffic(20, 10, random_state=0)
    t = data.truth
    np.testing.assert_allclose(
        data.values, np.maximum(t.profile + t.scale * t.z, 0), rtol=1e-5
    )
    far = np.zeros_like(t.z)
    far[t.lag :, t.targets] = t.beta * t.z[: -t.lag, t.sources].mean(1)[:, None]
    rest = t.z[1:] - t.phi * t.z[:-1] @ t.transition.T - far[1:]
    rest[:, t.sources] -= 2 * t.events[1:, None]
    noise = rest[t.lag :]
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert t.events.std() == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(t.transition.sum(1), 1)


def test_the_far_end_is_many_hops_away():
    data = make_traffic(random_state=0)
    t = data.truth
    step = t.transition > 0
    reach = np.linalg.matrix_power(step.astype(float), 4) > 0
    assert not reach[np.ix_(t.targets, t.sources)].any()


def test_missing_readings_seed_and_settings():
    a, b = (make_traffic(10, 3, missing=0.2, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(a.values, b.values)
    assert np.isnan(a.values).mean() == pytest.approx(0.2, abs=0.03)
    assert not a.is_real
    for bad in (
        {"n_sensors": 7},
        {"n_days": 0},
        {"step_minutes": 7},
        {"lag": 0},
        {"missing": 1.0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make_traffic(**bad)
