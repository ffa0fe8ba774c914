"""Symmetric positive definite matrices: geometry, augmented covariances, estimators.

Names load their module on first use, so that the torch functions do not wait for
scikit-learn and pyriemann.
"""

from importlib import import_module

_EXPORTS = {
    "augmented": ("AugmentedCovariances", "augmented_covariance", "yule_walker"),
    "embedding_selection": ("DelayEmbedding", "select_delay_embedding"),
    "estimators": ("GBWMDM", "GBWTangentSpace"),
    "gbw": ("gbw_distance", "gbw_exp", "gbw_geodesic", "gbw_log"),
    "gbw_barycenter": ("gbw_mean",),
    "pipelines": ("make_acm_classifier",),
    "pyriemann_bridge": ("gbw_metric",),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
