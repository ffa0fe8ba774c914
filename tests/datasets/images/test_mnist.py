"""MNIST: the archives, the download's conversion."""

import gzip
import hashlib

import numpy as np
import pytest

from manifoldkit.datasets import fetch_affine_mnist, fetch_mnist
from manifoldkit.datasets.images import mnist
from manifoldkit.exceptions import DatasetNotFoundError


def test_archives_are_read(folder):
    train, test = (
        fetch_mnist(s, path=folder, download=False) for s in ("train", "test")
    )
    assert repr(train) == "ImageSet('mnist_train', 30 images 28 x 28)"
    assert len(test) == 12
    assert test.is_real
    X, y = fetch_mnist("test", path=folder, return_X_y=True)
    np.testing.assert_array_equal(X, test.X)
    np.testing.assert_array_equal(y, test.y)


def test_a_missing_archive_says_what_to_do(tmp_path):
    with pytest.raises(
        DatasetNotFoundError, match=r"mnist8k.npz, 1.3 MB, SHA-256 4b01"
    ):
        fetch_mnist(path=tmp_path, download=False)
    with pytest.raises(DatasetNotFoundError, match="affine_mnist_test"):
        fetch_affine_mnist(path=tmp_path, download=False)


def test_a_download_is_checked_and_converted(tmp_path, monkeypatch, rng):
    """The publisher's files are replaced by fabricated ones of the same form."""
    X = rng.integers(0, 256, (8100, 28, 28)).astype(np.uint8)
    y = rng.integers(0, 10, 8100).astype(np.uint8)
    files = {
        "t10k-images-idx3-ubyte.gz": gzip.compress(bytes(16) + X.tobytes(), 1),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(bytes(8) + y.tobytes(), 1),
    }
    asked = []

    def retrieve(url, known_hash, fname):
        asked.append(url)
        content = files[fname]
        digest = hashlib.sha256(content).hexdigest()
        if known_hash != f"sha256:{digest}":
            raise ValueError("checksum")
        (tmp_path / fname).write_bytes(content)
        return str(tmp_path / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(DatasetNotFoundError, match="checksum"):
        fetch_mnist(path=tmp_path)
    digests = {k: hashlib.sha256(v).hexdigest() for k, v in files.items()}
    monkeypatch.setattr(mnist, "ORIGINALS", digests)
    test = fetch_mnist("test", path=tmp_path)
    np.testing.assert_array_equal(test.X, X[6000:8000])
    np.testing.assert_array_equal(test.y, y[6000:8000])
    assert all("amazonaws" in url for url in asked)


@pytest.mark.parametrize("key", ["X_train", "y_train"])
def test_tampered_archives_are_refused(folder, key):
    file = folder / "images" / "mnist8k.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    arrays[key] = arrays[key][:, :20] if key == "X_train" else arrays[key] + 7
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match="not the archive expected"):
        fetch_mnist("train", path=folder)


def test_bad_split_and_size():
    with pytest.raises(ValueError, match="split"):
        fetch_mnist("validation")
    with pytest.raises(ValueError, match="size"):
        mnist.pad_images(np.zeros((1, 4, 4)), 0)
