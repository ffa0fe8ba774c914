"""Closed forms for rotations and small matrices, each with its exact derivatives."""
