"""Simulated traffic in which far sensors matter, with known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from manifoldkit.datasets._checks import check_counts, check_numbers
from manifoldkit.datasets.traffic import TrafficData

_DAY = 1440


class TrafficTruth(NamedTuple):
    r"""What :func:`make_traffic` knows about its readings.

    Readings are ``profile + scale * z`` with

    .. math:: z_t = \varphi P z_{t-1} + \beta\, w\, (s \cdot z_{t-L})
        + 2 \mathbb{1}_s u_t + \varepsilon_t, \qquad u_t = \rho u_{t-1} + \eta_t,

    where w marks the targets and s averages over the sources.

    Attributes
    ----------
    z : ndarray, shape (T, N)
        Departures from the profile.
    events : ndarray, shape (T,)
        The hidden u.
    profile : ndarray, shape (T, N)
        Daily course.
    scale : ndarray, shape (N,)
        Standard deviation of the noise, in readings.
    transition : ndarray, shape (N, N)
        P, diffusion along the road, rows sum to 1.
    sources, targets : ndarray of int
        Sensors between which the long-range effect acts.
    phi, beta, rho : float
    lag : int
        L, in steps.
    """

    z: np.ndarray
    events: np.ndarray
    profile: np.ndarray
    scale: np.ndarray
    transition: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    phi: float
    beta: float
    rho: float
    lag: int

    def forecast(self, rows, horizon: int, long_range: bool = True) -> np.ndarray:
        """Return the conditional mean of the readings after some rows.

        Parameters
        ----------
        rows : array-like of int, shape (B,)
            Last known rows, at least ``lag - 1``.
        horizon : int
            Steps.
        long_range : bool, default=True
            Know the far effect. Without it, the best that a model of the road alone
            can do with the departures of the last row.

        Returns
        -------
        ndarray, shape (B, horizon, N)

        Raises
        ------
        ValueError
            Rows with too few rows before them or after.
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or not len(rows):
            raise ValueError(f"rows: expected shape (B,), found {rows.shape}")
        if rows.min() < self.lag - 1 or rows.max() + horizon >= len(self.z):
            raise ValueError(
                f"rows: expected {self.lag - 1} to {len(self.z) - horizon - 1}, found "
                f"{rows.min()} to {rows.max()}"
            )
        past = [self.z[rows - k] for k in range(self.lag)]  # newest first
        event, out = self.events[rows], []
        for _ in range(horizon):
            event = self.rho * event
            z = self.phi * past[0] @ self.transition.T
            z[:, self.sources] += 2 * event[:, None]
            if long_range:
                far = past[self.lag - 1][:, self.sources].mean(1)
                z[:, self.targets] += self.beta * far[:, None]
            past = [z, *past[:-1]]
            out.append(z)
        ahead = rows[:, None] + 1 + np.arange(horizon)
        return self.profile[ahead] + self.scale * np.stack(out, 1)


def make_traffic(
    n_sensors: int = 60,
    n_days: int = 28,
    *,
    step_minutes: int = 15,
    lag: int = 12,
    beta: float = 1.5,
    missing: float = 0.0,
    random_state=None,
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

    Returns
    -------
    TrafficData
        Starting on Monday 2 January 2023, split 6:2:2, with ``truth``
        (:class:`TrafficTruth`).

    Raises
    ------
    ValueError
        Settings out of range.

    Examples
    --------
    >>> data = make_traffic(n_days=2, random_state=0)
    >>> data
    TrafficData('simulated corridor', 192 rows of 15 min, 60 sensors)
    >>> data.truth.forecast([100], horizon=4).shape
    (1, 4, 60)
    """
    _check(n_sensors, n_days, step_minutes, lag, beta, missing)
    rng = check_random_state(random_state)
    along = np.sort(rng.uniform(0, n_sensors, n_sensors))
    distance = np.abs(along[:, None] - along)
    adjacency = np.exp(-((distance / 1.5) ** 2))
    adjacency[adjacency < 0.1] = 0
    transition = adjacency / adjacency.sum(1, keepdims=True)
    sources = np.arange(max(n_sensors // 10, 1))
    targets = np.arange(n_sensors - n_sensors // 4, n_sensors)
    steps = n_days * _DAY // step_minutes
    phi, rho = 0.6, 0.7
    z, events = _simulate(rng, steps, transition, sources, targets, phi, beta, rho, lag)
    mean = rng.uniform(60, 240, n_sensors)
    clock = np.arange(steps) * step_minutes
    profile = mean * _daily_course(clock, rng.uniform(0.3, 0.7, n_sensors))
    scale = 0.06 * mean
    values = np.maximum(profile + scale * z, 0).astype(np.float32)
    if missing:
        values[rng.uniform(size=values.shape) < missing] = np.nan
    truth = TrafficTruth(
        z, events, profile, scale, transition, sources, targets, phi, beta, rho, lag
    )
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


def _check(n_sensors, n_days, step_minutes, lag, beta, missing) -> None:
    check_counts(n_sensors=n_sensors, n_days=n_days, step_minutes=step_minutes, lag=lag)
    check_numbers(beta=beta, missing=missing)
    if n_sensors < 8:
        raise ValueError(f"n_sensors: expected at least 8, found {n_sensors}")
    if n_days < 1:
        raise ValueError(f"n_days: expected at least 1, found {n_days}")
    if step_minutes < 1 or _DAY % step_minutes:
        raise ValueError(
            f"step_minutes: expected a divisor of 1440, found {step_minutes}"
        )
    if lag < 1:
        raise ValueError(f"lag: expected at least 1 step, found {lag}")
    if not 0 <= missing < 1:
        raise ValueError(f"missing: expected a share in [0, 1), found {missing}")


def _simulate(rng, steps, transition, sources, targets, phi, beta, rho, lag):
    """Run the recursion, after a start that is thrown away."""
    warm = 10 * lag
    n = len(transition)
    noise = rng.standard_normal((warm + steps, n))
    shocks = np.sqrt(1 - rho**2) * rng.standard_normal(warm + steps)
    z, events = np.zeros((warm + steps, n)), np.zeros(warm + steps)
    for t in range(1, warm + steps):
        events[t] = rho * events[t - 1] + shocks[t]
        z[t] = phi * transition @ z[t - 1] + noise[t]
        z[t, sources] += 2 * events[t]
        if t >= lag:
            z[t, targets] += beta * z[t - lag, sources].mean()
    return z[warm:], events[warm:]


def _daily_course(minutes: np.ndarray, morning: np.ndarray) -> np.ndarray:
    """Two rush hours on workdays, one broad hump at weekends; mean about 1."""
    hour = minutes[:, None] % _DAY / 60
    weekend = (minutes[:, None] // _DAY) % 7 >= 5

    def hump(center, width):
        return np.exp(-(((hour - center) / width) ** 2))

    work = 0.45 + 2.2 * (morning * hump(8, 2.2) + (1 - morning) * hump(17, 2.8))
    return np.where(weekend, 0.45 + 0.8 * hump(14, 4.5), work)
