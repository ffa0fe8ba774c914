import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.signal import butter, sosfiltfilt

from manifoldkit.spd.augmented.nonlinear import (
    cao_statistic,
    first_minimum,
    mdop_embedding,
    mutual_information,
    standardize,
    theiler_window,
)


@pytest.fixture(scope="module")
def lorenz():
    def flow(_, s):
        x, y, z = s
        return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]

    times = np.arange(20, 60, 0.02)
    return solve_ivp(flow, (0, 60), [1.0, 1.0, 1.05], t_eval=times, rtol=1e-8).y


def test_standardize_drops_flat_channels():
    x = np.stack([np.full(50, 3.0), 5 + 2 * np.random.default_rng(0).normal(size=50)])
    z = standardize(x)
    assert z.shape == (1, 50)
    assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-12)


def test_mutual_information_of_gaussians():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(200_001)
    x = 0.8 * noise[1:] + 0.6 * noise[:-1]  # correlation 0.48 at delay 1, 0 at 2
    found = mutual_information(x[None], [0, 1, 2], n_bins=16)[0]
    assert_allclose(found[0], np.log(16), rtol=1e-3)
    # 16 bins a side lose some per cent of the information
    assert_allclose(found[1], -0.5 * np.log(1 - 0.48**2), rtol=0.08)
    assert found[2] < 2e-3


def test_mutual_information_does_not_depend_on_units():
    x = np.random.default_rng(0).standard_normal((2, 500)).cumsum(-1)
    a = mutual_information(x, range(5))
    assert_allclose(mutual_information(np.exp(x / 50), range(5)), a, rtol=1e-12)


def test_first_minimum():
    assert first_minimum(np.array([5.0, 3, 2, 4, 1])) == 2
    assert first_minimum(np.array([5.0, 4, 3])) is None


def test_theiler_window_is_the_slowest_channel():
    # a Gaussian rhythm shares least with itself a quarter of a period later
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 4000))
    bands = [butter(2, (0.9 / p, 1.1 / p), "bandpass", output="sos", fs=1)
             for p in (20, 80)]  # fmt: skip
    x = [sosfiltfilt(sos, n) for sos, n in zip(bands, noise, strict=True)]
    fast, both = standardize(np.stack(x[:1])), standardize(np.stack(x))
    assert 4 <= theiler_window(fast, 50) <= 6
    assert 17 <= theiler_window(both, 50) <= 23


def test_mdop_embeds_lorenz_in_three_dimensions(lorenz):
    x = standardize(lorenz[:1])
    found = mdop_embedding(x, np.random.RandomState(0), n_reference=400)
    assert len(found.delays) == 3
    assert found.delays[0] == 0
    assert found.channels == [0, 0, 0]
    assert all(np.diff(found.false_neighbors) < 0)
    assert found.false_neighbors[-1] <= 0.05


def test_mdop_follows_its_definition():
    """One cycle of a two-channel trial against a literal double loop."""
    rng = np.random.default_rng(1)
    x = standardize(rng.standard_normal((2, 120)).cumsum(-1))
    max_delay = 10
    found = mdop_embedding(
        x, np.random.RandomState(0), max_delay=max_delay, n_reference=1000
    )
    n = 120 - max_delay
    best = (-np.inf,)
    for start in range(2):
        for channel in range(2):
            for delay in range(max_delay + 1):
                total = 0.0
                for i in range(n):
                    far = [j for j in range(n) if abs(i - j) > found.theiler]
                    gaps = np.abs(x[start, i] - x[start, far])
                    j = far[int(gaps.argmin())]
                    gap = abs(x[channel, i + delay] - x[channel, j + delay])
                    total += np.log10(max(gap, 1e-20) / gaps.min())
                best = max(best, (total / n, start, channel, delay))
    assert_allclose(found.beta.max(), best[0], rtol=1e-10)
    assert found.channels[0] == best[1]
    if len(found.delays) > 1:
        assert (found.channels[1], found.delays[1]) == best[2:]


def test_mdop_survives_quantized_and_few_samples():
    x = standardize(np.round(np.random.default_rng(0).standard_normal((2, 30))))
    found = mdop_embedding(x, np.random.RandomState(0), max_delay=7, n_reference=5)
    assert np.isfinite(found.beta).all()
    assert len(found.delays) == len(found.channels)


def test_cao_statistic_saturates_for_a_sine_and_not_for_noise(lorenz):
    t = np.arange(1500)
    rng = np.random.default_rng(0)
    x = standardize(
        np.stack([np.sin(t * 0.1371), rng.standard_normal(1500), lorenz[0, :1500]])
    )
    sine, noise, chaos = cao_statistic(x, 12, 6, np.random.RandomState(0))
    assert sine[1] > 0.95
    assert noise[1] < 0.7
    assert chaos[1] < 0.9 < chaos[3]
