"""Traffic on sensor graphs: real months, own files, a simulation with its truth."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
