"""Ratio benchmarks against peers: ``python -m benchmarks`` runs them all."""
