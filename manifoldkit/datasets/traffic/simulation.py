"""Simulated traffic in which far sensors matter, with known truth."""

import numpy as np
from sklearn.utils import check_random_state

from manifoldkit._checks import (
    check_count,
    check_counts,
    check_interval,
    check_numbers,
)
from manifoldkit.datasets.traffic.data import TrafficData
from manifoldkit.datasets.traffic.truth import DAY, TrafficTruth, daily_course

Rng = np.random.RandomState

# how much of a departure, and of an event, stays from step to step
_PHI, _RHO = 0.6, 0.7


def make_traffic(
    n_sensors: int = 60,
    n_days: int = 28,
    *,
    step_minutes: int = 15,
    lag: int = 12,
    beta: float = 1.5,
    missing: float = 0.0,
    random_state: int | Rng | None = None,
) -> TrafficData:
    """Simulate flow along a corridor whose far end depends on its near end.

    Sensors lie along a winding road. Departures from the daily course diffuse to
    neighbors; besides, events at one end (a tenth of the sensors) reach the other end
    (a quarter of them) after ``lag`` steps without passing the sensors between, as
    drivers do who take a road without sensors. A network that only looks a few hops
    far cannot know of them; two hops through a virtual node can.

    Parameters
    ----------
    n_sensors : int, default=60
        N, at least 8.
    n_days : int, default=28
        Length.
    step_minutes : int, default=15
        Minutes between rows; divides a day.
    lag : int, default=12
        Steps until an event reaches the far end.
    beta : float, default=1.5
        Strength of that effect; 0 turns it off.
    missing : float, default=0.0
        Share of readings replaced by NaN.
    random_state : int, RandomState instance or None
        Seed.

    Returns
    -------
    TrafficData
        Starting on Monday 2 January 2023, split 6:2:2, with ``truth``
        (:class:`TrafficTruth`).

    Raises
    ------
    ValueError, TypeError
        Settings out of range.

    Examples
    --------
    >>> data = make_traffic(n_days=2, random_state=0)
    >>> data
    TrafficData('simulated corridor', 192 rows of 15 min, 60 sensors)
    >>> data.truth.forecast([100], horizon=4).shape
    (1, 4, 60)
    """
    check_count(n_sensors, "n_sensors", least=8)
    check_counts(n_days=n_days, step_minutes=step_minutes, lag=lag)
    if DAY % step_minutes:
        raise ValueError(
            f"step_minutes: expected a divisor of 1440, found {step_minutes}"
        )
    check_numbers(beta=beta)
    check_interval(missing, "missing", 0, 1, "[)")
    rng = check_random_state(random_state)
    along = np.sort(rng.uniform(0, n_sensors, n_sensors))
    distance = np.abs(along[:, None] - along)
    adjacency = np.exp(-((distance / 1.5) ** 2))
    adjacency[adjacency < 0.1] = 0
    clock = np.arange(n_days * DAY // step_minutes) * step_minutes
    truth = _truth(rng, clock, adjacency, lag, beta)
    readings = truth.profile + truth.scale * truth.z
    values = np.maximum(readings, 0).astype(np.float32)
    if missing:
        values[rng.uniform(size=values.shape) < missing] = np.nan
    angle = along / n_sensors * np.pi
    return TrafficData(
        values,
        adjacency.astype(np.float32),
        np.datetime64("2023-01-02T00:00", "m"),
        step_minutes,
        name="simulated corridor",
        unit=f"vehicles per {step_minutes} min",
        is_real=False,
        provenance="simulated by make_traffic",
        citation="this project",
        license="BSD-3-Clause",
        split=(0.6, 0.2, 0.2),
        mape_floor=10.0,
        sensor_id=np.arange(n_sensors),
        lat=52.0 + 0.05 * np.sin(angle),
        lon=5.0 + 0.1 * np.cos(angle),
        truth=truth,
    )


def _truth(
    rng: Rng, clock: np.ndarray, adjacency: np.ndarray, lag: int, beta: float
) -> TrafficTruth:
    """Run the recursion, after a start that is thrown away; draw a daily course."""
    n, warm = len(adjacency), 10 * lag
    total = warm + len(clock)
    transition = adjacency / adjacency.sum(1, keepdims=True)
    sources, targets = np.arange(max(n // 10, 1)), np.arange(n - n // 4, n)
    noise = rng.standard_normal((total, n))
    shocks = np.sqrt(1 - _RHO**2) * rng.standard_normal(total)
    z, events = np.zeros((total, n)), np.zeros(total)
    for t in range(1, total):
        events[t] = _RHO * events[t - 1] + shocks[t]
        z[t] = _PHI * transition @ z[t - 1] + noise[t]
        z[t, sources] += 2 * events[t]
        if t >= lag:
            z[t, targets] += beta * z[t - lag, sources].mean()
    z, events, mean = z[warm:], events[warm:], rng.uniform(60, 240, n)
    profile, scale = mean * daily_course(clock, rng.uniform(0.3, 0.7, n)), 0.06 * mean
    ends = sources, targets
    return TrafficTruth(
        z, events, profile, scale, transition, *ends, _PHI, beta, _RHO, lag
    )
