"""Scikit-learn estimators with the generalized Bures-Wasserstein metric.

They compute in float64 and return the floating dtype of their input. They are
deterministic: the same data give the same fit.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
