"""Reproductions on Lie groups: affine images, continuity of rotations."""
