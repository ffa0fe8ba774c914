"""Matrices of fixed rank, general and positive semidefinite."""
