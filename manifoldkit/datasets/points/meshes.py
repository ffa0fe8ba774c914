"""Triangle meshes, and points with normals on them."""

from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from manifoldkit._checks import check_count


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes
    ----------
    vertices : ndarray of float64, shape (n_vertices, 3)
        Corners.
    faces : ndarray of int64, shape (n_faces, 3)
        Rows of ``vertices`` that each triangle joins.
    """

    vertices: np.ndarray
    faces: np.ndarray


def sample_mesh(
    mesh: Mesh, n_points: int, random_state: int | np.random.RandomState | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points uniformly on the surface, with the normals of their faces.

    Parameters
    ----------
    mesh : Mesh
        Triangles; those without area are never chosen.
    n_points : int
        How many points.
    random_state : int, RandomState or None
        Seed.

    Returns
    -------
    points, normals : ndarray of float64, shape (n_points, 3)
        Signs of normals follow the order of the corners, which in collected meshes is
        often arbitrary.

    Raises
    ------
    ValueError
        A mesh without area, or a negative number of points.

    Examples
    --------
    >>> triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    >>> points, normals = sample_mesh(triangle, 5, random_state=0)
    >>> points.sum(1).round(6), normals[0].round(3)
    (array([1., 1., 1., 1., 1.]), array([0.577, 0.577, 0.577]))
    """
    check_count(n_points, "n_points", least=0)
    corners = mesh.vertices[mesh.faces]
    edges = corners[:, 1:] - corners[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    doubled = np.linalg.norm(normals, axis=1)
    if not doubled.sum() > 0:
        raise ValueError("mesh: expected faces with an area, found none")
    rng = check_random_state(random_state)
    face = rng.choice(len(doubled), n_points, p=doubled / doubled.sum())
    u, v = rng.uniform(size=(2, n_points, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    points = corners[face, 0] + u * edges[face, 0] + v * edges[face, 1]
    return points, normals[face] / doubled[face, None]


def farthest_points(points: np.ndarray, n: int) -> np.ndarray:
    """Indices of ``n`` points, each farthest from those before, from the first on."""
    chosen = np.zeros(n, dtype=np.int64)
    nearest = np.full(len(points), np.inf)
    for i in range(1, n):
        gap = np.square(points - points[chosen[i - 1]]).sum(1)
        nearest = np.minimum(nearest, gap)
        chosen[i] = nearest.argmax()
    return chosen
