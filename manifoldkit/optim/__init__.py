"""Optimizers for models that mix flat parameters with points on manifolds.

Names load their module on first use.
"""

from manifoldkit._lazy import lazy_names

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

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
