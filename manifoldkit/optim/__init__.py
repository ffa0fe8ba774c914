"""Optimizers for models that mix flat parameters with points on manifolds.

Names load their module on first use.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
