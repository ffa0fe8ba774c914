"""Reproductions on point clouds under rotation."""
