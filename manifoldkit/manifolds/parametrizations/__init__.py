"""Weights that stay on a manifold under any optimizer of torch."""
