"""EEG: epochs with their channels, real recordings, a simulation, the demo data."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
