"""Forecasts that know what a simulation was made of."""

import numpy as np
import pytest

from manifoldkit.datasets import make_traffic


def test_who_knows_the_far_effect_forecasts_better():
    data = make_traffic(30, 20, random_state=1)
    t = data.truth
    rows = np.arange(200, len(data) - 8)
    ahead = data.values[rows[:, None] + 1 + np.arange(8)]
    error = {
        far: np.abs(t.forecast(rows, 8, far) - ahead)[..., t.targets].mean()
        for far in (True, False)
    }
    assert error[True] < 0.8 * error[False]
    calm = make_traffic(30, 5, beta=0.0, random_state=1).truth
    np.testing.assert_array_equal(
        calm.forecast([100], 4), calm.forecast([100], 4, long_range=False)
    )
    with pytest.raises(ValueError, match="rows"):
        t.forecast([3], 4)
    with pytest.raises(ValueError, match="rows"):
        t.forecast([len(data) - 2], 4)
