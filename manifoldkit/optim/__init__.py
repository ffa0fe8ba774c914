"""Optimizers for models that mix flat parameters with points on manifolds.

Names load their module on first use.
"""

from importlib import import_module

_EXPORTS = {
    "adam": ("RiemannianAdam", "RiemannianAdamW"),
    "clipping": ("clip_riemannian_grad_norm_",),
    "factory": ("build_optimizer",),
    "karcher": ("KarcherMean", "karcher_mean"),
    "landing": ("LandingSGD",),
    "muon": ("StiefelMuon",),
    "pymanopt_adapter": ("to_pymanopt",),
    "sgd": ("RiemannianSGD",),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
