"""Augmented covariances of EEG epochs, and the choice of order and lag."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
