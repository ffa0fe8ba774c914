"""Symmetric positive definite matrices under five metrics."""

from manifoldkit.manifolds.spd.common import SPD

__all__ = ["SPD"]
