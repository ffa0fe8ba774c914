"""Equivariance checks for any callable."""

__all__: list[str] = []
