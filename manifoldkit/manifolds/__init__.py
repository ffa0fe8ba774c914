"""Manifolds for torch: ``geoopt.Manifold`` subclasses and parameters that live on them.

Every manifold works on points with any leading batch dimensions, in float32 and
float64, on any device; geoopt's optimizers accept ours and ours accept geoopt's. Names
load their module on first use.
"""

from importlib import import_module

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
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
