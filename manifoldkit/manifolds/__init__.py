"""Manifolds for torch: ``geoopt.Manifold`` subclasses and parameters that live on them.

Every manifold works on points with any leading batch dimensions, in float32 and
float64, on any device; geoopt's optimizers accept ours and ours accept geoopt's. Names
load their module on first use.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
