"""Geometric and manifold learning on one linear-algebra core.

Sub-packages load on first use, so ``import manifoldkit`` is instant and pulls in
neither torch nor any optional dependency.

>>> import manifoldkit
>>> manifoldkit.__version__
'0.1.0'
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
__all__ += ["__version__"]
