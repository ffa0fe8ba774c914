"""Data: ``load_*`` is on this machine, ``fetch_*`` downloads, ``make_*`` simulates.

Names load their module on first use; importing this package is instant.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
