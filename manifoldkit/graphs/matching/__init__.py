"""Subgraph retrieval: alignment networks, sound filters and exact verification."""
