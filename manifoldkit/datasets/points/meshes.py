"""Triangle meshes: reading OFF files, and sampling points with normals."""

import itertools
from pathlib import Path
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


def read_off(path: str | Path) -> Mesh:
    r"""Read a mesh in the Object File Format.

    Headers glued to the counts ("OFF8 6 0", as in ModelNet), comments, blank lines and
    colors are understood; polygons are split into triangles around their first corner.

    Parameters
    ----------
    path : str or Path
        Text file.

    Returns
    -------
    Mesh

    Raises
    ------
    ValueError
        The file is not OFF, ends early, or a face names no vertex. The message names
        the file.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "square.off"
    >>> text = "OFF4 1 0  # glued\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"
    >>> _ = file.write_text(text)
    >>> read_off(file).faces
    array([[0, 1, 2],
           [0, 2, 3]])
    """
    path = Path(path)
    lines = [line.split("#", 1)[0] for line in path.read_text("latin-1").splitlines()]
    rows = [line.split() for line in lines if line.strip()]
    if not rows or not rows[0][0].upper().startswith("OFF"):
        raise ValueError(f"{path}: expected a file that begins with OFF")
    header = [word for word in (rows[0][0][3:], *rows[0][1:]) if word]
    rows = rows[1:] if not header else [header, *rows[1:]]
    try:
        n_vertices, n_faces = int(rows[0][0]), int(rows[0][1])
        if len(rows) < 1 + n_vertices + n_faces:
            raise ValueError(
                f"expected {n_vertices} vertices and {n_faces} faces, found "
                f"{len(rows) - 1} lines"
            )
        body = rows[1 : 1 + n_vertices]
        vertices = np.array([row[:3] for row in body], dtype=np.float64)
        faces = _triangles(rows[1 + n_vertices : 1 + n_vertices + n_faces])
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: {error}") from None
    vertices = vertices.reshape(-1, 3)
    if not np.isfinite(vertices).all():
        raise ValueError(f"{path}: a vertex is not finite")
    if len(faces) and not (faces.min() >= 0 and faces.max() < n_vertices):
        raise ValueError(
            f"{path}: expected corners from 0 to {n_vertices - 1}, "
            f"found {faces.min()} to {faces.max()}"
        )
    return Mesh(vertices, faces)


def _triangles(rows: list[list[str]]) -> np.ndarray:
    """Fans of all polygons; lines and points are left out."""
    found = []
    for row in rows:
        size = int(row[0])
        corners = [int(word) for word in row[1 : 1 + size]]
        if len(corners) < size:
            raise ValueError(f"a face of {size} corners lists {len(corners)}")
        pairs = itertools.pairwise(corners[1:])
        found += [(corners[0], a, b) for a, b in pairs]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


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
