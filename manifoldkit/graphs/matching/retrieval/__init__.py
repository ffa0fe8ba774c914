"""Search in a corpus of graphs: filter, networks, exact verification."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
