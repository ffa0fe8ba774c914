"""Readings without their daily course, in units of their spread."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from manifoldkit.graphs.forecast.baselines import (
    SeasonalProfile,
    column_means,
    column_scales,
    column_sizes,
)
from manifoldkit.graphs.forecast.series import Series

_STORED = ("center", "scale", "profile", "known")


class Standardizer:
    """Take profile or mean off and divide by the standard deviation.

    Parameters
    ----------
    profile : str or None
        Kind of the :class:`SeasonalProfile` to take off; None for the plain mean.
    kind : {"sensor", "global"}
        Mean and standard deviation of each sensor, or of all together.

    Attributes
    ----------
    profile_ : SeasonalProfile or None
    center_, scale_ : ndarray, shape (N,)
    known_ : ndarray of bool, shape (N,)
        Sensors whose readings vary in the training rows. Nothing is known of the
        others: their readings count as missing, and their forecast is the level.
    """

    def __init__(self, profile: str | None, kind: str):
        self.profile, self.kind = profile, kind

    def fit(self, series: Series, rows: int) -> Self:
        """Fit on the first rows alone: those of training."""
        values, dtype = series.values[:rows], series.values.dtype
        self.profile_ = None
        if self.profile is not None:
            self.profile_ = SeasonalProfile(1, self.profile).fit(series, rows)
            values = values - self.profile_.at(series.clock.minutes(np.arange(rows)))
        sizes = column_sizes(series.values[:rows])
        center = column_means(values)
        scale, self.known_ = column_scales(values, sizes)
        if self.kind == "global":
            flat, n = values.reshape(-1, 1), values.shape[1]
            center = np.where(self.known_, column_means(flat), center)
            scale = column_scales(flat, sizes.max(keepdims=True))[0].repeat(n)
        if self.profile_ is not None:
            center = np.zeros_like(center)
        self.center_, self.scale_ = center.astype(dtype), scale.astype(dtype)
        return self

    def level(self, minutes: np.ndarray) -> np.ndarray:
        """Return what is taken off at some minutes (...): shape (..., N)."""
        if self.profile_ is None:
            return np.broadcast_to(self.center_, (*minutes.shape, len(self.center_)))
        return self.profile_.at(minutes)

    def transform(self, values: np.ndarray, minutes: np.ndarray) -> np.ndarray:
        """Standardize readings (..., N) of some minutes (...); NaN where missing."""
        z = (values - self.level(minutes)) / self.scale_
        z = np.where(self.known_, z, np.nan)
        return np.ascontiguousarray(z, dtype=self.scale_.dtype)

    def restore(self, z: np.ndarray, minutes: np.ndarray) -> np.ndarray:
        """Undo :meth:`transform`."""
        return np.where(self.known_, z, 0) * self.scale_ + self.level(minutes)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what has to be stored."""
        out = {"center": self.center_, "scale": self.scale_, "known": self.known_}
        if self.profile_ is not None:
            out["profile"] = self.profile_.table_
        return out

    def restore_arrays(self, arrays: Mapping[str, Any], step: int, split: bool) -> Self:
        """Take what :meth:`arrays` gave, with the profile's step and kind."""
        arrays = {k: np.asarray(arrays[k]) for k in _STORED if k in arrays}
        self.center_, self.scale_ = arrays["center"], arrays["scale"]
        # files of earlier versions knew all sensors
        self.known_ = arrays.get("known", np.ones(self.center_.shape, dtype=bool))
        self.profile_ = None
        if "profile" in arrays:
            self.profile_ = SeasonalProfile(1, self.profile or "auto")
            self.profile_.table_, self.profile_.split_ = arrays["profile"], split
            self.profile_.step_ = step
        return self
