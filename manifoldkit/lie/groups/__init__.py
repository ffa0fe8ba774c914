"""Matrix Lie groups: GL+(n), SL(n), SO(n), the space SPD(n), scales, affine maps."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
