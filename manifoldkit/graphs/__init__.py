"""Learning on graphs: learned aggregation, virtual nodes, forecasts, retrieval."""

from manifoldkit._lazy import lazy_names

_EXPORTS: dict[str, tuple[str, ...]] = {
    "forecast.baselines": ("evaluate_baselines",),
    "forecast.forecaster": ("TrafficForecaster",),
    "forecast.graph_wavenet": ("GraphWaveNet",),
    "forecast.metrics": ("ForecastReport",),
    "forecast.stgcn": ("STGCN",),
    "matching.cascade": ("SearchResult",),
    "matching.corpus": ("GraphCorpus",),
    "matching.exact": ("ExactSolver", "Match"),
    "matching.filters": ("CountFilter",),
    "matching.isonet": ("GMNMatch", "IsoNet"),
    "matching.isonetpp": ("IsoNetPP",),
    "matching.losses": ("pairwise_ranking_loss",),
    "matching.metrics": (
        "average_precision",
        "hits_at_k",
        "precision_at_k",
        "retrieval_scores",
    ),
    "matching.packed": ("PackedGraphs",),
    "matching.retrieval": ("SubgraphRetriever",),
    "matching.sinkhorn": ("sinkhorn",),
    "monoid.aggregation": ("FoldAggregation", "LCMAggregation"),
    "monoid.losses": ("associativity_loss", "commutativity_loss", "identity_loss"),
    "monoid.operators": (
        "ExactMonoid",
        "GRUMonoid",
        "LSTMMonoid",
        "Monoid",
        "SymmetricGRUMonoid",
        "SymmetricMLPMonoid",
    ),
    "monoid.plan": ("SegmentTreePlan",),
    "monoid.reduce": ("segment_tree_reduce",),
    "monoid.scan": ("segment_tree_scan",),
    "virtual.adjacency": ("SemiAdaptiveAdjacency", "VirtualNodeWeights"),
    "virtual.kernels": (
        "gaussian_kernel_adjacency",
        "normalize_adjacency",
        "semi_adaptive_adjacency",
    ),
    "virtual.layers": ("VirtualNodeMPNN", "VirtualNodeState"),
    "virtual.sensitivity": ("Sensitivity", "layer_sensitivity", "receptive_field"),
    "virtual.transform": ("AddVirtualNodes", "VirtualNodeFeatures"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
