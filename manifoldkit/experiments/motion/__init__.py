"""Reproductions on motion: particles and pedestrians."""
