"""The place in this room of a function that moved down to ``linalg``."""

from manifoldkit.linalg import sinkhorn as sinkhorn
