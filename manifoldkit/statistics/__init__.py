"""Statistics of points on manifolds, with scikit-learn's faces.

Means with confidence regions, tangent principal components, geodesic regression,
k-means, kernels and wrapped normal distributions, over every manifold that has an
exponential map and a logarithm. Names load their module on first use.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
