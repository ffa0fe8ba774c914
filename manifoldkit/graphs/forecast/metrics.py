"""Errors of forecasts, with missing truth left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


def masked_mae(forecast: Tensor, target: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Return the mean of ``scale * |forecast - target|`` where the target is no NaN.

    Zero, with a zero gradient, when every target is missing.

    Examples
    --------
    >>> masked_mae(torch.tensor([1.0, 5.0]), torch.tensor([2.0, torch.nan]))
    tensor(1.)
    """
    known = ~torch.isnan(target)
    gap = torch.where(known, forecast - torch.where(known, target, 0.0), 0.0)
    return (scale * gap.abs()).sum() / known.sum().clamp_min(1)


@dataclass
class ForecastReport:
    """Errors by horizon.

    Attributes
    ----------
    rows : list of dict
        One a horizon: ``step`` (1 is the first step ahead), ``mae``, ``rmse``,
        ``mape`` (a fraction; NaN where no truth is large enough).
    overall : dict
        ``mae``, ``rmse``, ``mape`` over all steps.
    last_quarter : dict
        The same over the last 25 % of the horizon.
    n_windows : int
        Windows that count.
    """

    rows: list[dict] = field(default_factory=list)
    overall: dict = field(default_factory=dict)
    last_quarter: dict = field(default_factory=dict)
    n_windows: int = 0

    @property
    def mae(self) -> float:
        """Mean absolute error over all steps."""
        return self.overall["mae"]


class ErrorSums:
    """Sums of errors by step, added up batch by batch.

    Parameters
    ----------
    horizon : int
        Steps.
    mape_floor : float
        The percentage error counts where the truth is at least so large; zero is
        never divided by.
    """

    def __init__(self, horizon: int, mape_floor: float = 0.0):
        self.floor = mape_floor
        self.sums = np.zeros((5, horizon))
        self.size = np.zeros(horizon)  # largest error; sums are in units of it
        self.n_windows = 0

    def add(self, truth: np.ndarray, forecast: np.ndarray) -> None:
        """Add windows (B, horizon, N); missing truth (NaN) does not count."""
        known = ~np.isnan(truth)
        truth = np.where(known, truth, 0.0).astype(np.float64)
        gap = np.abs(np.where(known, forecast - truth, 0.0).astype(np.float64))
        large = known & (np.abs(truth) >= self.floor) & (truth != 0)
        relative = np.where(large, gap / np.where(large, np.abs(truth), 1), 0)
        size = np.maximum(self.size, gap.max((0, 2), initial=0))
        unit = np.where(size > 0, size, 1.0)
        shrink = self.size / unit
        self.sums[1] *= shrink
        self.sums[2] *= shrink**2
        self.size = size
        gap = gap / unit[:, None]  # its squares stay within the numbers
        parts = (known, gap, gap**2, large, relative)
        self.sums += [part.sum((0, 2)) for part in parts]
        self.n_windows += len(truth)

    def _errors(self, steps: slice) -> dict:
        size = self.size[steps]
        unit = size.max() or 1.0
        share = size / unit
        known, absolute, square, large, relative = self.sums[:, steps]
        absolute, square = absolute * share, square * share**2
        known, large = known.sum(), large.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "mae": float(np.divide(absolute.sum(), known) * unit),
                "rmse": float(np.sqrt(np.divide(square.sum(), known)) * unit),
                "mape": float(np.divide(relative.sum(), large)),
            }

    def report(self, horizons: Sequence[int] | None = None) -> ForecastReport:
        """Return the report.

        Parameters
        ----------
        horizons : sequence of int, optional
            Steps ahead to list; default all.

        Raises
        ------
        ValueError
            A step beyond the horizon.
        """
        total = self.sums.shape[1]
        horizons = range(1, total + 1) if horizons is None else horizons
        for step in horizons:
            if not 1 <= step <= total:
                raise ValueError(f"horizons: expected 1 to {total}, found {step}")
        quarter = max(round(total / 4), 1)
        return ForecastReport(
            rows=[{"step": s, **self._errors(slice(s - 1, s))} for s in horizons],
            overall=self._errors(slice(None)),
            last_quarter=self._errors(slice(total - quarter, total)),
            n_windows=self.n_windows,
        )
