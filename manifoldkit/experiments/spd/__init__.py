"""Reproductions on SPD matrices: EEG and ill-conditioned data."""
