"""Simulated point clouds: on the surface, with its normals, turned as said."""

import numpy as np
import pytest

from manifoldkit.datasets import make_point_clouds
from manifoldkit.datasets.points.primitives import (
    SHAPES,
    box,
    cone,
    cylinder,
    ellipsoid,
    sample,
    torus,
)


def test_shapes_and_balance():
    clouds = make_point_clouds(24, 50, random_state=0)
    assert clouds.X.shape == clouds.normals.shape == (24, 50, 3)
    assert clouds.X.dtype == clouds.normals.dtype == np.float32
    assert np.bincount(clouds.y).tolist() == [3] * len(SHAPES)
    np.testing.assert_allclose(clouds.X.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(clouds.X, axis=2).max(1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(clouds.normals, axis=2), 1, rtol=1e-5)


def test_the_same_seed_gives_the_same_objects_in_any_pose():
    upright = make_point_clouds(8, 40, random_state=3)
    again = make_point_clouds(8, 40, random_state=3)
    np.testing.assert_array_equal(upright.X, again.X)
    for kind in ("z", "so3"):
        turned = make_point_clouds(8, 40, rotate=kind, random_state=3)
        R = turned.rotations
        np.testing.assert_allclose(
            R @ R.swapaxes(1, 2), np.tile(np.eye(3), (8, 1, 1)), atol=1e-5
        )
        np.testing.assert_allclose(np.linalg.det(R), 1, rtol=1e-5)
        np.testing.assert_allclose(turned.X, upright.X @ R.swapaxes(1, 2), atol=1e-5)
        np.testing.assert_allclose(
            turned.normals, upright.normals @ R.swapaxes(1, 2), atol=1e-5
        )
    np.testing.assert_allclose(
        make_point_clouds(4, 9, rotate="z").rotations[:, 2, 2], 1
    )


@pytest.mark.parametrize(
    ("pieces", "implicit"),
    [
        (ellipsoid((0.5, 1.0, 2.0)), lambda p: (p**2 / [0.25, 1.0, 4.0]).sum(1) - 1),
        (
            torus((0, 0, 0), 1.0, 0.3),
            lambda p: (np.hypot(p[:, 0], p[:, 2]) - 1) ** 2 + p[:, 1] ** 2 - 0.09,
        ),
        (
            cone(0.5, 1.0)[:1],
            lambda p: np.hypot(p[:, 0], p[:, 1]) - 0.5 * (1 - p[:, 2]),
        ),
        (
            cylinder((0, 0, 0), 1, 0.5, 2.0)[:1],
            lambda p: p[:, 0] ** 2 + p[:, 2] ** 2 - 0.25,
        ),
    ],
)
def test_points_lie_on_the_surface_and_normals_are_its_gradient(pieces, implicit):
    points, normals, _ = sample(pieces, 300, np.random.RandomState(0))
    np.testing.assert_allclose(implicit(points), 0, atol=1e-9)
    step = 1e-6
    gradient = np.stack(
        [
            (implicit(points + step * e) - implicit(points - step * e)) / (2 * step)
            for e in np.eye(3)
        ],
        axis=1,
    )
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(normals, gradient, atol=1e-6)


def test_points_are_uniform_on_the_surface():
    """Moments of uniform densities: sphere, torus and box by their closed forms."""
    rng = np.random.RandomState(0)
    points, _, _ = sample(ellipsoid((1.0, 1.0, 1.0)), 40_000, rng)
    np.testing.assert_allclose((points**2).mean(0), 1 / 3, atol=0.01)
    points, _, _ = sample(torus((0, 0, 0), 1.0, 0.4), 40_000, rng)
    ring = np.hypot(points[:, 0], points[:, 2])
    np.testing.assert_allclose(ring.mean(), 1 + 0.4**2 / 2, atol=0.005)
    points, normals, _ = sample(box((0, 0, 0), (1.0, 2.0, 3.0)), 40_000, rng)
    share = np.abs(normals).mean(0)
    np.testing.assert_allclose(share, np.array([6, 3, 2]) / 11, atol=0.01)


def test_noise_moves_points_and_not_normals():
    clean = make_point_clouds(4, 200, random_state=1)
    noisy = make_point_clouds(4, 200, noise=0.05, random_state=1)
    np.testing.assert_array_equal(clean.normals, noisy.normals)
    assert np.std(noisy.X - clean.X) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes": ("ball",)}, "shapes: expected one of .* found 'ball'"),
        ({"shapes": ()}, "shapes: expected one of .* found None"),
        ({"n_clouds": 0}, "n_clouds: expected an integer >= 1, found 0"),
        ({"n_points": 0}, "n_points: expected an integer >= 1, found 0"),
        ({"noise": -1.0}, "noise: expected a number >= 0, found -1"),
        ({"rotate": "x"}, "rotate"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_point_clouds(**settings)


def test_parts_follow_the_geometry():
    clouds = make_point_clouds(6, 400, shapes=("mug", "table", "box"), random_state=1)
    assert clouds.part_names == (
        "mug cup",
        "mug handle",
        "table top",
        "table legs",
        "box",
    )
    for x, parts, label in zip(clouds.X, clouds.parts, clouds.y, strict=True):
        assert set(parts) == {0: {0, 1}, 1: {2, 3}, 2: {4}}[int(label)]
        if label == 0:  # the handle stands out on one side
            assert x[parts == 1, 0].min() > np.quantile(x[parts == 0, 0], 0.9)
        if label == 1:
            assert x[parts == 2, 2].min() > x[parts == 3, 2].max() - 1e-5


def test_a_single_point_is_the_center():
    made = make_point_clouds(2, 1, random_state=0)
    assert np.array_equal(made.X, np.zeros((2, 1, 3)))
