"""Aggregation by folding a learnable commutative monoid over ragged sets."""
