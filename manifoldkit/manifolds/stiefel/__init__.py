"""Matrices with orthonormal columns: the manifold, its maps, its logarithm."""
