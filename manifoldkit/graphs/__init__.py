"""Learning on graphs: monoid aggregation over ragged sets."""

from manifoldkit._lazy import lazy_names

_EXPORTS: dict[str, tuple[str, ...]] = {
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
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
