"""Reproductions on graphs: aggregation, forecasts, retrieval, separation."""
