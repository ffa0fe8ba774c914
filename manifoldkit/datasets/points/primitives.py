"""Simulated point clouds of simple objects, with exact normals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation
from sklearn.utils import check_random_state

from manifoldkit._checks import check_choice, check_counts, check_interval

# A piece of surface: its area, and a sampler of points and outward normals.
Rng = np.random.RandomState
Sampler = Callable[[int, Rng], tuple[np.ndarray, np.ndarray]]
Piece = tuple[float, Sampler]


class PointClouds(NamedTuple):
    """Labeled point clouds.

    Attributes
    ----------
    X : ndarray of float32, shape (n_clouds, n_points, 3)
        Points, centered at their mean, largest radius 1.
    y : ndarray of int64, shape (n_clouds,)
        Index into ``class_names``.
    normals : ndarray of float32, shape (n_clouds, n_points, 3)
        Outward unit normals.
    class_names : tuple of str
        Names of the classes.
    rotations : ndarray of float32, shape (n_clouds, 3, 3)
        How each object was turned from its upright pose: ``x = R x_upright``.
    parts : ndarray of int64, shape (n_clouds, n_points)
        Part of the object that each point lies on: index into ``part_names``.
    part_names : tuple of str
        Names of the parts, such as "mug handle". Shapes without parts are one.
    """

    X: np.ndarray
    y: np.ndarray
    normals: np.ndarray
    class_names: tuple[str, ...]
    rotations: np.ndarray
    parts: np.ndarray
    part_names: tuple[str, ...]


def make_point_clouds(
    n_clouds: int = 200,
    n_points: int = 256,
    *,
    shapes: Sequence[str] | None = None,
    rotate: str | None = None,
    noise: float = 0.0,
    random_state: int | Rng | None = None,
) -> PointClouds:
    """Sample points on objects of random proportions.

    Points are uniform on the surface. Classes are balanced and in random order.

    Parameters
    ----------
    n_clouds, n_points : int, default=200, 256
        Number of clouds, and of points in each.
    shapes : sequence of str, optional
        Classes among "box", "cone", "cylinder", "ellipsoid", "torus", "mug",
        "airplane", "table"; default all.
    rotate : {None, "z", "so3"}
        Turn each object by nothing, about the vertical axis, or by a uniformly
        distributed rotation.
    noise : float, default=0.0
        Standard deviation of Gaussian noise on the points, relative to the largest
        radius. The normals stay those of the surface.
    random_state : int, RandomState or None
        Seed.

    Returns
    -------
    PointClouds

    Raises
    ------
    ValueError, TypeError
        Unknown shape or rotation, or numbers that are no integers of at least one.

    Examples
    --------
    >>> clouds = make_point_clouds(4, 64, shapes=("box", "torus"), random_state=0)
    >>> clouds.X.shape, sorted(clouds.y.tolist())
    ((4, 64, 3), [0, 0, 1, 1])
    """
    check_counts(n_clouds=n_clouds, n_points=n_points)
    check_interval(noise, "noise", 0)
    check_choice(rotate, (None, "z", "so3"), "rotate")
    names = tuple(SHAPES) if shapes is None else tuple(shapes)
    for name in names or (None,):
        check_choice(name, SHAPES, "shapes")
    rng = check_random_state(random_state)
    y = rng.permutation(np.arange(n_clouds) % len(names))
    points, normals = np.empty((2, n_clouds, n_points, 3))
    parts = np.empty((n_clouds, n_points), dtype=np.int64)
    first = np.cumsum([0, *(len(_PARTS.get(name, ("",))) for name in names)])
    for i, label in enumerate(y):
        name = names[label]
        points[i], normals[i], piece = sample(SHAPES[name](rng), n_points, rng)
        parts[i] = first[label] + np.asarray(_PART_OF_PIECE.get(name, (0,) * 6))[piece]
    turns = _rotations(rotate, n_clouds, rng)
    points -= points.mean(1, keepdims=True)
    radius = np.linalg.norm(points, axis=2).max(1)
    points /= np.where(radius > 0, radius, 1.0)[:, None, None]  # 0: a single point
    points += noise * rng.standard_normal(points.shape)
    points, normals = (a @ turns.swapaxes(1, 2) for a in (points, normals))
    part_names = (f"{n} {part}".strip() for n in names for part in _PARTS.get(n, ("",)))
    return PointClouds(
        points.astype(np.float32),
        y.astype(np.int64),
        normals.astype(np.float32),
        names,
        turns.astype(np.float32),
        parts,
        tuple(part_names),
    )


def _rotations(kind: str | None, n: int, rng: Rng) -> np.ndarray:
    if kind is None:
        return np.tile(np.eye(3), (n, 1, 1))
    if kind == "z":
        angles = rng.uniform(-np.pi, np.pi, (n, 1))
        return Rotation.from_rotvec(angles * [0.0, 0.0, 1.0]).as_matrix()
    return Rotation.from_quat(rng.standard_normal((n, 4))).as_matrix()


def sample(
    pieces: list[Piece], n: int, rng: Rng
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uniform points on the union of pieces, normals, and pieces, in random order."""
    areas = np.array([area for area, _ in pieces])
    counts = rng.multinomial(n, areas / areas.sum())
    drawn = [sampler(k, rng) for (_, sampler), k in zip(pieces, counts, strict=True)]
    points, normals = (np.concatenate(part) for part in zip(*drawn, strict=True))
    piece, order = np.repeat(np.arange(len(pieces)), counts), rng.permutation(n)
    return points[order], normals[order], piece[order]


def box(center: ArrayLike, size: ArrayLike) -> list[Piece]:
    """Six faces of a box with edges along the axes."""
    center, size = np.asarray(center, float), np.asarray(size, float)

    def face(axis: int, sign: float) -> Piece:
        normal = sign * np.eye(3)[axis]

        def sampler(n, rng):
            inside = rng.uniform(-0.5, 0.5, (n, 3)) * size
            inside[:, axis] = sign * size[axis] / 2
            return center + inside, np.tile(normal, (n, 1))

        return float(np.delete(size, axis).prod()), sampler

    return [face(axis, sign) for axis in range(3) for sign in (-1.0, 1.0)]


def cylinder(center: ArrayLike, axis: int, radius: float, height: float) -> list[Piece]:
    """A closed cylinder along a coordinate axis."""
    center = np.asarray(center, float)
    u, v, w = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3], np.eye(3)[axis]

    def side(n, rng):
        t, z = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(-0.5, 0.5, (n, 1))
        normal = np.cos(t) * u + np.sin(t) * v
        return center + radius * normal + height * z * w, normal

    def cap(sign: float) -> Sampler:
        def sampler(n, rng):
            t, r = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(size=(n, 1)) ** 0.5
            flat = radius * r * (np.cos(t) * u + np.sin(t) * v)
            return center + flat + sign * height / 2 * w, np.tile(sign * w, (n, 1))

        return sampler

    disc = np.pi * radius**2
    return [(2 * np.pi * radius * height, side), (disc, cap(-1.0)), (disc, cap(1.0))]


def cone(radius: float, height: float) -> list[Piece]:
    """A closed cone with its tip up."""
    slope = np.hypot(radius, height)

    def side(n, rng):
        t, s = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(size=(n, 1)) ** 0.5
        around = np.concatenate([np.cos(t), np.sin(t), 0 * t], 1)
        up = np.array([0.0, 0.0, 1.0])
        points = s * radius * around + (1 - s) * height * up
        return points, (height * around + radius * up) / slope

    base = cylinder((0, 0, 0), 2, radius, 0.0)[1]
    return [(np.pi * radius * slope, side), base]


def ellipsoid(axes: ArrayLike) -> list[Piece]:
    """An ellipsoid; uniform by rejection of points of the stretched sphere."""
    axes = np.asarray(axes, float)

    def sampler(n, rng):
        kept = np.empty((0, 3))
        while len(kept) < n:
            unit = rng.standard_normal((4 * n + 16, 3))
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            stretch = np.linalg.norm(unit / axes, axis=1) * axes.min()
            kept = np.concatenate([kept, unit[rng.uniform(size=len(unit)) < stretch]])
        unit = kept[:n]
        normal = unit / axes
        return unit * axes, normal / np.linalg.norm(normal, axis=1, keepdims=True)

    return [(1.0, sampler)]


def torus(
    center: ArrayLike, radius: float, tube: float, arc: float = 2 * np.pi
) -> list[Piece]:
    """A torus, or an open part of one, standing in the x-z plane."""
    center = np.asarray(center, float)

    def sampler(n, rng):
        around = rng.uniform(-arc / 2, arc / 2, (n, 1))
        angle = np.empty((0, 1))
        while len(angle) < n:  # more surface outside than inside
            tried = rng.uniform(0, 2 * np.pi, (3 * n + 16, 1))
            chance = (radius + tube * np.cos(tried)) / (radius + tube)
            kept = tried[rng.uniform(size=tried.shape) < chance]
            angle = np.concatenate([angle, kept[:, None]])
        angle = angle[:n]
        ring = np.concatenate([np.cos(around), 0 * around, np.sin(around)], 1)
        normal = np.cos(angle) * ring + np.sin(angle) * np.array([0.0, 1.0, 0.0])
        return center + radius * ring + tube * normal, normal

    return [(arc * radius * 2 * np.pi * tube, sampler)]


def _make_mug(rng: Rng) -> list[Piece]:
    radius, height = rng.uniform(0.35, 0.5), rng.uniform(0.8, 1.2)
    handle = torus((radius, 0, 0), 0.3 * height, 0.06, np.pi)
    return cylinder((0, 0, 0), 2, radius, height) + handle


def _make_airplane(rng: Rng) -> list[Piece]:
    length, span = rng.uniform(1.6, 2.2), rng.uniform(1.4, 2.2)
    chord, shift = rng.uniform(0.25, 0.4), rng.uniform(-0.1, 0.2)
    tail = -length / 2 + 0.12
    return (
        cylinder((0, 0, 0), 0, rng.uniform(0.1, 0.16), length)
        + box((shift, 0, 0), (chord, span, 0.05))
        + box((tail, 0, 0), (0.2, 0.35 * span, 0.04))
        + box((tail, 0, 0.2), (0.22, 0.04, rng.uniform(0.3, 0.45)))
    )


def _make_table(rng: Rng) -> list[Piece]:
    width, depth = rng.uniform(1.2, 2.0), rng.uniform(0.8, 1.2)
    height, leg = rng.uniform(0.7, 1.1), rng.uniform(0.06, 0.12)
    x, y = width / 2 - leg, depth / 2 - leg
    pieces = box((0, 0, 0), (width, depth, 0.08))
    for sx, sy in ((-x, -y), (-x, y), (x, -y), (x, y)):
        pieces += box((sx, sy, -height / 2 - 0.04), (leg, leg, height))
    return pieces


SHAPES: dict[str, Callable[[Rng], list[Piece]]] = {
    "box": lambda rng: box((0, 0, 0), rng.uniform(0.5, 1.5, 3)),
    "cone": lambda rng: cone(rng.uniform(0.4, 0.8), rng.uniform(0.8, 1.6)),
    "cylinder": lambda rng: cylinder(
        (0, 0, 0), 2, rng.uniform(0.3, 0.7), rng.uniform(0.8, 1.8)
    ),
    "ellipsoid": lambda rng: ellipsoid(rng.uniform(0.5, 1.2, 3)),
    "torus": lambda rng: torus((0, 0, 0), 1.0, rng.uniform(0.2, 0.45)),
    "mug": _make_mug,
    "airplane": _make_airplane,
    "table": _make_table,
}

# which part each piece of surface belongs to, in the order the makers list them
_PARTS: dict[str, tuple[str, ...]] = {
    "mug": ("cup", "handle"),
    "airplane": ("body", "wings", "tail"),
    "table": ("top", "legs"),
}
_PART_OF_PIECE: dict[str, tuple[int, ...]] = {
    "mug": (0,) * 3 + (1,),
    "airplane": (0,) * 3 + (1,) * 6 + (2,) * 12,
    "table": (0,) * 6 + (1,) * 24,
}
