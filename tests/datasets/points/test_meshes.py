"""OFF files and sampling of meshes."""

import numpy as np
import pytest

from manifoldkit.datasets import Mesh, read_off, sample_mesh
from manifoldkit.datasets.points.meshes import farthest_points

CUBE = """8 6 0
0 0 0
1 0 0
1 1 0
0 1 0
0 0 1
1 0 1
1 1 1
0 1 1
4 3 2 1 0
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""


@pytest.mark.parametrize(
    "text",
    [
        "OFF\n" + CUBE,
        "OFF" + CUBE,  # glued, as in ModelNet
        "off " + CUBE,
        "# a cube\nOFF\n\n" + CUBE.replace("8 6 0", "8 6 0  # counts"),
        "OFF\n" + CUBE.replace("4 3 2 1 0", "4 3 2 1 0 255 0 0"),  # colors
    ],
)
def test_headers_and_polygons(tmp_path, text):
    file = tmp_path / "cube.off"
    file.write_text(text)
    mesh = read_off(file)
    assert mesh.vertices.shape == (8, 3)
    assert mesh.faces.shape == (12, 3)
    points, normals = sample_mesh(mesh, 6000, random_state=0)
    assert np.allclose(np.abs(normals).max(1), 1)
    outward = ((points - 0.5) * normals).sum(1)
    np.testing.assert_allclose(outward, 0.5)
    share = [np.mean(np.abs(normals[:, i]) > 0.5) for i in range(3)]
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)
    np.testing.assert_allclose(points.mean(0), 0.5, atol=0.03)


def test_lines_and_points_are_left_out(tmp_path):
    file = tmp_path / "mixed.off"
    file.write_text("OFF\n3 3 0\n0 0 0\n1 0 0\n0 1 0\n1 0\n2 0 1\n3 0 1 2\n")
    assert read_off(file).faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PLY\n1 2 3\n", "begins with OFF"),
        ("", "begins with OFF"),
        (
            "OFF\n3 1 0\n0 0 0\n1 0 0\n",
            "3 vertices and 1 faces, found 2 lines",
        ),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "corners from 0 to 2"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "a face of 4 corners lists 3"),
        ("OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "a vertex is not finite"),
        ("OFF\n3 1 0\n0 0 x\n1 0 0\n0 1 0\n3 0 1 2\n", "mesh.off"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    file = tmp_path / "mesh.off"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_off(file)


def test_meshes_without_area_are_refused():
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="faces with an area"):
        sample_mesh(flat, 5)


def test_farthest_points_spread():
    x = np.linspace(0, 1, 11)[:, None] * [1.0, 0, 0]
    assert farthest_points(x, 3).tolist() == [0, 10, 5]
