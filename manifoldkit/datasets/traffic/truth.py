"""What simulated traffic was made of, and the forecast that knows it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

DAY = 1440


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
        How much of a departure stays, how much of the events arrives, how much of an
        event stays from step to step.
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

    def forecast(
        self, rows: ArrayLike, horizon: int, long_range: bool = True
    ) -> np.ndarray:
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


def daily_course(minutes: np.ndarray, morning: np.ndarray) -> np.ndarray:
    """Two rush hours on workdays, one broad hump at weekends; mean about 1."""
    hour = minutes[:, None] % DAY / 60
    weekend = (minutes[:, None] // DAY) % 7 >= 5

    def hump(center, width):
        return np.exp(-(((hour - center) / width) ** 2))

    work = 0.45 + 2.2 * (morning * hump(8, 2.2) + (1 - morning) * hump(17, 2.8))
    return np.where(weekend, 0.45 + 0.8 * hump(14, 4.5), work)
