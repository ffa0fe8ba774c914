"""Classifier and segmenter of point clouds behind scikit-learn's interface."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
