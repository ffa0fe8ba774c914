"""The place in this room of a mean that moved down to ``manifolds``."""

from manifoldkit.manifolds import KarcherMean as KarcherMean
from manifoldkit.manifolds import karcher_mean as karcher_mean
