"""Random graphs, and the networks as published as reference."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest


def _random_graphs(seed, count, low=3, high=9, p=0.35):
    """Pairs (n, edges) of different sizes, each with an edge at least."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        n = int(rng.integers(low, high + 1))
        u, v = np.triu_indices(n, 1)
        keep = rng.random(len(u)) < p
        if keep.any():
            found.append((n, np.stack([u[keep], v[keep]], 1)))
    return found


@pytest.fixture(scope="session")
def random_graphs():
    return _random_graphs


@pytest.fixture(scope="session")
def reference():
    """The module with ``Literal``; benchmarks are no installed package."""
    root = str(Path(__file__).parents[3])
    sys.path.insert(0, root)
    try:
        return importlib.import_module("benchmarks.literal.isonetpp")
    finally:
        sys.path.remove(root)
