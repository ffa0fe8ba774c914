"""Digits under affine maps: the maps, the archive, the published one."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from manifoldkit.datasets import fetch_affine_mnist, fetch_mnist, make_affine_digits
from manifoldkit.datasets.images import warp_images
from manifoldkit.datasets.images.mnist import pad_images
from manifoldkit.exceptions import DatasetNotFoundError


def test_affine_set_is_made_once_from_the_test_images(folder):
    made = fetch_affine_mnist(path=folder, download=False)
    assert made.X.shape == (12, 40, 40)
    assert "drawn by manifoldkit" in made.provenance
    assert (folder / "images" / "affine_mnist_test.npz").exists()
    again = fetch_affine_mnist(path=folder, download=False)
    np.testing.assert_array_equal(again.X, made.X)
    np.testing.assert_array_equal(again.affine, made.affine)
    test = fetch_mnist("test", path=folder)
    warped = warp_images(test.X, made.affine, 40)
    assert np.abs(warped.astype(int) - made.X).max() <= 1  # maps stored as float32


def test_maps_act_on_rows_and_columns_about_the_center(rng):
    X = rng.integers(0, 256, (5, 20, 20)).astype(np.uint8)
    made = make_affine_digits(X, np.arange(5), size=32, random_state=3)
    place = np.stack(np.mgrid[:32, :32], -1) - 15.5
    for image, moved, affine in zip(X, made.X, made.affine, strict=True):
        source = (place - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T + 9.5
        expected = map_coordinates(
            image.astype(float),
            source.transpose(2, 0, 1),
            order=1,
            mode="grid-constant",
        )
        inside = ((source > 0) & (source < 19)).all(-1)
        np.testing.assert_allclose(moved[inside], expected[inside], atol=0.6)


def test_ranges_severity_and_seeds():
    full = make_affine_digits(severity=1.0, random_state=0)
    half = make_affine_digits(severity=0.5, random_state=0)
    np.testing.assert_allclose(
        half.affine[:, :, 2], full.affine[:, :, 2] / 2, atol=1e-6
    )
    shift = np.abs(full.affine[:, :, 2]).max()
    assert 5.9 < shift <= 6
    det = np.linalg.det(full.affine[:, :, :2])
    assert 0.64 < det.min() < 0.7
    assert 1.35 < det.max() < 1.44
    still = make_affine_digits(severity=0.0)
    np.testing.assert_allclose(
        still.affine[:, :, :2], np.broadcast_to(np.eye(2), (1797, 2, 2))
    )
    again = make_affine_digits(random_state=0)
    np.testing.assert_array_equal(again.X, full.X)
    assert (make_affine_digits(random_state=1).X != full.X).any()
    assert full.is_real


def test_severity_zero_only_pads(rng):
    X = rng.integers(0, 256, (3, 28, 28)).astype(np.uint8)
    made = make_affine_digits(X, np.arange(3), severity=0.0)
    np.testing.assert_array_equal(made.X, pad_images(X, 40))
    np.testing.assert_array_equal(pad_images(made.X, 28), X)
    images, labels = made.to_torch(28)
    np.testing.assert_allclose(images[:, 0], X / np.float32(255))
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rotation": -1.0}, "rotation"),
        ({"severity": np.nan}, "severity"),
        ({"scale": 0.6, "severity": 2.0}, "scale: .* found 1.2"),
        ({"X": np.zeros((2, 8, 8))}, "X: expected uint8"),
        ({"X": np.zeros((2, 8, 8), np.uint8)}, "y: expected 2 labels, found none"),
        ({"X": np.zeros((2, 8, 8), np.uint8), "y": [1]}, r"y: .* found shape \(1,\)"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_affine_digits(**kwargs)


def test_the_real_archive_if_it_is_here():
    try:
        test, moved = (
            fetch_mnist("test", download=False),
            fetch_affine_mnist(download=False),
        )
    except DatasetNotFoundError:
        pytest.skip("MNIST is not on this machine")
    np.testing.assert_array_equal(moved.y, test.y)
    warped = warp_images(test.X[:50], moved.affine[:50], 40)
    assert np.abs(warped.astype(int) - moved.X[:50]).mean() < 0.1
