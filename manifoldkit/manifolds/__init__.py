"""Manifolds for torch: ``geoopt.Manifold`` subclasses and parameters that live on them.

Every manifold works on points with any leading batch dimensions, in float32 and
float64, on any device; geoopt's optimizers accept ours and ours accept geoopt's. Names
load their module on first use.
"""

from manifoldkit._lazy import lazy_names

_EXPORTS = {
    "diagnostics": ("ManifoldReport", "check_manifold"),
    "euclidean": ("Euclidean", "PositiveReals"),
    "general_linear": ("GLPlus", "SpecialLinear"),
    "grassmann": ("Grassmann",),
    "parameters": ("ManifoldParameter", "as_parameter", "attach", "manifold_of"),
    "product": ("Product",),
    "special_orthogonal": ("SpecialOrthogonal",),
    "spd": ("SPD",),
    "sphere": ("Oblique", "Sphere"),
    "stiefel": ("Stiefel",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
