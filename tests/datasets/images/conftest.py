"""A small archive in MNIST's form."""

import numpy as np
import pytest


@pytest.fixture
def folder(tmp_path, rng):
    """A data folder with a small archive of noise in MNIST's form."""
    target = tmp_path / "images"
    target.mkdir()
    parts = {"train": 30, "test": 12}
    arrays = {f"X_{k}": rng.integers(0, 256, (n, 28, 28)) for k, n in parts.items()}
    arrays = {k: v.astype(np.uint8) for k, v in arrays.items()}
    arrays |= {f"y_{k}": np.arange(n) % 10 for k, n in parts.items()}
    np.savez_compressed(target / "mnist8k.npz", **arrays)
    return tmp_path
