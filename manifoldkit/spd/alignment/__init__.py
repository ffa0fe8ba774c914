"""Alignment of domains (subjects, sessions, devices) of SPD matrices."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
