"""Symmetric positive definite matrices: geometry, augmented covariances, estimators.

Names load their module on first use, so that the torch functions do not wait for
scikit-learn and pyriemann.
"""

from manifoldkit._lazy import lazy_names

_EXPORTS = {
    "augmented": ("AugmentedCovariances", "augmented_covariance", "yule_walker"),
    "batchnorm": ("BWBatchNorm", "GBWBatchNorm", "make_batchnorm"),
    "batchnorm_peers": ("SPDBatchNorm",),
    "batchnorm_sync": ("convert_sync_batchnorm",),
    "classifiers": ("SPDNetClassifier",),
    "clustering": ("make_gbw_kmeans",),
    "embedding_selection": ("DelayEmbedding", "select_delay_embedding"),
    "estimators": ("GBWMDM", "GBWTangentSpace"),
    "gbw": ("gbw_distance", "gbw_exp", "gbw_geodesic", "gbw_log"),
    "gbw_barycenter": ("gbw_mean",),
    "filters": ("SpatioTemporalFilters",),
    "layers": ("BiMap", "LogEig", "ReEig", "SPDResidual"),
    "networks": ("ConvSPDNet", "SPDNet"),
    "pooling": ("CovariancePool", "SPDPool"),
    "pipelines": ("make_acm_classifier",),
    "pyriemann_bridge": ("gbw_metric",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
