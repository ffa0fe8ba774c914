"""Data: ``load_*`` is on this machine, ``fetch_*`` downloads, ``make_*`` simulates.

Names load their module on first use; importing this package is instant.
"""

from importlib import import_module

_EXPORTS = {
    "eeg": ("fetch_mamem", "fetch_physionet_mi", "load_eeg_demo"),
    "epochs": ("EEGEpochs",),
    "images": ("MatrixSet", "load_digits_covariances"),
    "simulation": ("MotorImageryTruth", "make_motor_imagery_eeg"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
