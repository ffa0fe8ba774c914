"""Clipped spectral functions: what ReEig and its fusion with the logarithm compute.

Scalar functions with divided differences, in the form of
:mod:`manifoldkit.linalg.spectral`. They have kinks at the bounds, where the one-sided
derivative of the clipped side, zero, is taken.
"""

import torch
from torch import Tensor

from manifoldkit.linalg.elementary import safe_divide
from manifoldkit.linalg.spectral import Log, sort3


class Clip:
    """``f(a) = min(max(a, low), high)``."""

    sees_small_eigenvalues = False

    def __init__(self, low: float, high: float = torch.inf):
        self.low, self.high = low, high

    def _region(self, a: Tensor) -> Tensor:
        """-1 below or at the lower bound, 1 above or at the upper one, else 0."""
        return (a >= self.high).to(torch.int8) - (a <= self.low).to(torch.int8)

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s.clamp(self.low, self.high)

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b]: exactly 1 or 0 where both are in the same region."""
        region = self._region(a)
        slope = (
            (region == 0).to(a.dtype).expand(torch.broadcast_shapes(a.shape, b.shape))
        )
        mixed = safe_divide(self.value(a) - self.value(b), a - b, slope)
        return torch.where(region == self._region(b), slope, mixed)

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]: zero within a region, where f is linear."""
        low, middle, high = sort3(a, b, c)
        linear = self._region(low) == self._region(high)
        gap = torch.where(linear, torch.ones_like(high), high - low)
        bend = (self.first(middle, high) - self.first(low, middle)) / gap
        return torch.where(linear, torch.zeros_like(bend), bend)


class ClippedLog:
    """``f(a) = log(max(a, low))``; the chain rule of divided differences."""

    sees_small_eigenvalues = False

    def __init__(self, low: float):
        self.clip, self.log = Clip(low), Log()

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return self.clip.value(s).log()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b] = log[A, B] clip[a, b], A = clip(a)."""
        return self.log.first(*map(self.clip.value, (a, b))) * self.clip.first(a, b)

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c] = log[A, B, C] clip[a, c] clip[a, b] + log[B, C] clip[a, b, c]."""
        clip = self.clip
        top = self.log.second(*map(clip.value, (a, b, c)))
        slope = self.log.first(clip.value(b), clip.value(c))
        return top * clip.first(a, c) * clip.first(a, b) + slope * clip.second(a, b, c)
