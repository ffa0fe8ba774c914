"""Rotation protocols and part overlap."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from manifoldkit.datasets import make_point_clouds
from manifoldkit.equivariant import part_iou, rotate_clouds, rotation_protocols


def flat(X):
    return X[:, np.argsort(X[0, :, 2])].reshape(len(X), -1)


def test_rotations_keep_what_they_should():
    clouds = make_point_clouds(5, 30, random_state=0)
    for rotation, axis in (("z", 2), ("z", 1), ("so3", 2)):
        X, n = rotate_clouds(
            clouds.X, rotation, normals=clouds.normals, axis=axis, random_state=0
        )
        assert X.dtype == np.float32
        np.testing.assert_allclose(
            np.einsum("bni,bni->bn", X, n),
            np.einsum("bni,bni->bn", clouds.X, clouds.normals),
            atol=1e-5,
        )
        kept = np.allclose(X[..., axis], clouds.X[..., axis], atol=1e-6)
        assert kept == (rotation == "z")
    same, _ = rotate_clouds(clouds.X, "none")
    assert same is clouds.X or np.array_equal(same, clouds.X)
    with pytest.raises(ValueError, match="rotation: expected"):
        rotate_clouds(clouds.X, "y")


def test_protocols_show_what_a_network_without_invariance_loses():
    train = make_point_clouds(60, 40, shapes=("table", "torus"), random_state=0)
    test = make_point_clouds(60, 40, shapes=("table", "torus"), random_state=1)

    def heights(X):
        return np.sort(X[..., 2], 1)

    upright = make_pipeline(FunctionTransformer(heights), KNeighborsClassifier(1))
    found = rotation_protocols(
        upright,
        train.X,
        train.y,
        test.X,
        test.y,
        protocols=("none/none", "z/z", "z/so3", "so3/so3"),
        random_state=0,
    )
    assert found["none/none"]["accuracy"] > 0.95
    assert found["z/z"]["agreement"] == 1.0
    assert found["z/so3"]["accuracy"] < found["z/z"]["accuracy"] - 0.1

    def lengths(X):
        return np.sort(np.linalg.norm(X, axis=2), 1)

    turned = make_pipeline(FunctionTransformer(lengths), KNeighborsClassifier(1))
    found = rotation_protocols(turned, train.X, train.y, test.X, test.y, random_state=0)
    assert {row["agreement"] for row in found.values()} == {1.0}
    with pytest.raises(ValueError, match="protocols: expected one of"):
        rotation_protocols(turned, train.X, train.y, test.X, test.y, protocols=["x/z"])


def test_part_overlap_by_hand():
    parts = {0: [0, 1], 1: [2, 3, 4]}
    truth = [[0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 2, 2]]
    guess = [[0, 1, 1, 1], [2, 2, 2, 3], [2, 2, 2, 2]]
    found = part_iou(truth, guess, [0, 1, 1], parts)
    first = (1 / 2 + 2 / 3) / 2
    second = (2 / 3 + 1 / 2 + 1) / 3  # part 4 is in neither: 1
    assert found["instance"] == pytest.approx((first + second + 1) / 3)
    assert found["class"] == pytest.approx((first + (second + 1) / 2) / 2)
    with pytest.raises(ValueError, match="y_true, y_pred: expected equal shapes"):
        part_iou(truth, [[0]], [0], parts)
    with pytest.raises(ValueError, match="category: expected 3 numbers"):
        part_iou(truth, guess, [0], parts)


def test_an_axis_that_is_none_and_a_category_without_parts():
    with pytest.raises(ValueError, match=r"axis: expected one of .*0, 1, 2.*, found 3"):
        rotate_clouds(np.zeros((2, 5, 3)), "z", axis=3)
    with pytest.raises(ValueError, match="parts: expected those of category 0"):
        part_iou([[0, 0]], [[0, 1]], [0], {0: []})
