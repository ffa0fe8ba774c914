"""Means of points: the Karcher mean, and batch normalization by it."""
