"""Geometric and manifold learning on one linear-algebra core.

Sub-packages load on first use, so ``import manifoldkit`` is instant and pulls in
neither torch nor any optional dependency.

>>> import manifoldkit
>>> manifoldkit.__version__
'0.1.0'
"""

from importlib import import_module

__version__ = "0.1.0"

_SUBPACKAGES = (
    "datasets",
    "equivariant",
    "exceptions",
    "graphs",
    "lie",
    "linalg",
    "manifolds",
    "optim",
    "spd",
    "testing",
)

__all__ = ["__version__", *_SUBPACKAGES]


def __getattr__(name):
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
