"""One module a reproduction; each returns a ``Result`` and writes a folder."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
