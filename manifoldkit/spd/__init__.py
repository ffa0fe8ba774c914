"""Symmetric positive definite matrices: geometry, augmented covariances, estimators.

Names load their module on first use, so that the torch functions do not wait for
scikit-learn and pyriemann.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
