"""Clouds as users have them: arrays or lists, of one size or of several."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

_SMALLEST = 8


class Clouds(NamedTuple):
    """Checked clouds, each of its own number of points.

    Attributes
    ----------
    points : list of ndarray of float32, shape (n_i, 3)
        Points, normalized if wanted.
    normals : list of ndarray of float32, shape (n_i, 3), or None
        Their normals.
    kept : list of ndarray of bool, shape (m_i,)
        Which of the points that were given they are; all unless some were dropped.
    """

    points: list[np.ndarray]
    normals: list[np.ndarray] | None
    kept: list[np.ndarray]

    def tensors(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Points and normals (len(rows), n, 3) of clouds of equal size."""
        return stack(self.points, rows), (
            None if self.normals is None else stack(self.normals, rows)
        )


def stack(arrays: Sequence[np.ndarray], rows: Sequence[int]) -> Tensor:
    """Arrays of equal shape as one tensor."""
    return torch.from_numpy(np.stack([arrays[i] for i in rows]))


def by_size(
    arrays: Sequence[np.ndarray], rows: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Rows of arrays of equal length, sizes in the order in which they come.

    >>> list(by_size([np.ones(2), np.ones(3), np.ones(2)]))
    [[0, 2], [1]]
    """
    alike: dict[int, list[int]] = {}
    for i in range(len(arrays)) if rows is None else rows:
        alike.setdefault(len(arrays[i]), []).append(int(i))
    yield from alike.values()


def read_clouds(
    X: ArrayLike,
    normals: ArrayLike | None,
    *,
    on_invalid: str,
    normalize: str | None,
    least: int | None = None,
    name: str = "X",
) -> Clouds:
    """Check clouds and their normals.

    Parameters
    ----------
    X : array of shape (n_clouds, n_points, 3 or 6), or list of arrays
        Points; six numbers are a point and its normal.
    normals : like X, optional
        Normals.
    on_invalid : {"raise", "drop"}
        What to do with points that are not finite.
    normalize : {"unit_sphere", None}
        Center each cloud and divide by its largest radius.
    least : int, optional
        Points that each cloud must have.
    name : str
        The argument, for the message.

    Raises
    ------
    ValueError
        The first bad cloud is named.
    """
    clouds = as_list(X, name)
    if normals is None and all(c.ndim == 2 and c.shape[1] == 6 for c in clouds):
        clouds, normals = [c[:, :3] for c in clouds], [c[:, 3:] for c in clouds]
    directions = None if normals is None else as_list(normals, "normals")
    if directions is not None and len(directions) != len(clouds):
        raise ValueError(
            f"normals: expected {len(clouds)} arrays, found {len(directions)}"
        )
    kept = [np.ones(len(cloud), bool) for cloud in clouds]
    if on_invalid == "drop":
        kept = [_finite_rows(cloud) for cloud in clouds]
        if directions is not None:
            pairs = zip(directions, kept, strict=True)
            directions = [d[k] if len(d) == len(k) else d for d, k in pairs]
        clouds = [cloud[k] for cloud, k in zip(clouds, kept, strict=True)]
    for i, cloud in enumerate(clouds):
        _check_cloud(cloud, f"{name}[{i}]")
        if directions is not None and directions[i].shape != cloud.shape:
            raise ValueError(
                f"normals[{i}]: expected shape {cloud.shape}, found shape "
                f"{directions[i].shape}"
            )
    smallest = min(map(len, clouds))
    if least is not None and smallest < least:
        raise ValueError(
            f"{name}: expected at least n_points={least} points in each cloud, found "
            f"{smallest}"
        )
    if normalize == "unit_sphere":
        clouds = [unit_sphere(cloud) for cloud in clouds]
    return Clouds(
        [cloud.astype(np.float32) for cloud in clouds],
        None if directions is None else [d.astype(np.float32) for d in directions],
        kept,
    )


def as_list(X: ArrayLike, name: str) -> list[np.ndarray]:
    """Clouds as a list of arrays of floating-point numbers."""
    if isinstance(X, np.ndarray) and X.dtype != object and X.ndim != 3:
        raise ValueError(
            f"{name}: expected shape (n_clouds, n_points, 3) or a list of arrays, "
            f"found shape {X.shape}"
        )
    if not isinstance(X, Sequence | np.ndarray):
        X = np.asarray(X)
    clouds = [np.asarray(cloud) for cloud in X]
    if not clouds:
        raise ValueError(f"{name}: expected at least one cloud, found none")
    for i, cloud in enumerate(clouds):
        if cloud.dtype.kind not in "f":
            raise ValueError(
                f"{name}[{i}]: expected floating-point numbers, found {cloud.dtype}"
            )
    return clouds


def _finite_rows(cloud: np.ndarray) -> np.ndarray:
    good = np.isfinite(cloud).all(-1)
    return good if good.ndim == 1 else np.ones(len(cloud), bool)


def _check_cloud(cloud: np.ndarray, name: str) -> None:
    if cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) < _SMALLEST:
        raise ValueError(
            f"{name}: expected points of shape (n, 3) with n >= {_SMALLEST}, found "
            f"shape {cloud.shape}"
        )
    if not np.isfinite(cloud).all():
        raise ValueError(f"{name} is not finite: it contains NaN or inf")


def unit_sphere(cloud: np.ndarray) -> np.ndarray:
    """Center at the mean and divide by the largest radius, in float64.

    A power of two is divided out first, so that no square overflows or vanishes.
    """
    points = cloud.astype(np.float64)
    points = np.ldexp(points, -np.frexp(np.abs(points).max())[1])  # exact
    points = points - points.mean(0)
    radius = np.linalg.norm(points, axis=1).max()
    return points / radius if radius > 0 else points


def read_classes(y: ArrayLike, n_clouds: int) -> np.ndarray:
    """Labels of classes, one a cloud.

    Raises
    ------
    ValueError
        Another number of them, missing labels, or numbers that are no classes.

    Examples
    --------
    >>> read_classes(["box", "torus"], 2)
    array(['box', 'torus'], dtype='<U5')
    """
    labels = np.asarray(y)
    if labels.shape != (n_clouds,):
        raise ValueError(f"y: expected {n_clouds} labels, found shape {labels.shape}")
    missing = labels != labels  # NaN
    if labels.dtype == object:
        missing = missing | (labels == None)  # noqa: E711
    if np.any(missing):
        raise ValueError(
            f"y: expected a label for each cloud, found {labels[missing][0]} at "
            f"{int(np.flatnonzero(missing)[0])}"
        )
    check_classification_targets(labels)
    return labels


def read_labels(
    y: ArrayLike | Sequence[ArrayLike], sizes: Sequence[int], name: str = "y"
) -> list[np.ndarray]:
    """Integers from 0 on, one a point of each cloud.

    Parameters
    ----------
    y : array of shape (n_clouds, n_points), or list of arrays
        Labels.
    sizes : sequence of int
        Numbers of points.
    name : str
        The argument, for the message.

    Raises
    ------
    ValueError
        Other shapes, or no such numbers.
    """
    wanted = (
        f"shape ({len(sizes)}, {sizes[0]})"
        if len(set(sizes)) == 1
        else f"one array of shape (n_points,) for each of {len(sizes)} clouds"
    )
    labels = [np.asarray(row) for row in rows_of(y, name)]
    if isinstance(y, np.ndarray) and y.dtype != object:
        found = f"{y.dtype} of shape {y.shape}"
    else:
        found = f"{len(labels)} arrays"
    expected = f"{name}: expected integers from 0 on of {wanted}"
    if len(labels) != len(sizes):
        raise ValueError(f"{expected}, found {found}")
    for i, (row, size) in enumerate(zip(labels, sizes, strict=True)):
        if row.shape != (size,) or row.dtype.kind not in "iu":
            found = f"{row.dtype} of shape {row.shape} in {name}[{i}]"
            raise ValueError(f"{expected}, found {found}")
        if row.min() < 0:
            raise ValueError(f"{expected}, found {row.min()} in {name}[{i}]")
    return labels


def rows_of(values: Any, name: str) -> Sequence[Any]:
    """Items along the first axis; a list may be ragged."""
    if not isinstance(values, Sequence | np.ndarray):
        values = np.asarray(values)
    if isinstance(values, str) or (isinstance(values, np.ndarray) and not values.ndim):
        raise ValueError(f"{name}: expected one array a cloud, found {values!r}")
    return values


def scale_warning(clouds: Clouds, name: str = "X") -> str | None:
    """What to say of clouds that are far from the size that networks expect."""
    radii = [np.abs(c - c.mean(0)).max() for c in clouds.points]
    low, high = min(radii), max(radii)
    if low >= 1e-2 and high <= 1e2:
        return None
    return (
        f"{name}: normalize=None and clouds of radius {low:.1e} to {high:.1e}; sizes "
        "are features, and networks expect them to be about 1: change the unit, or "
        "use normalize='unit_sphere'"
    )
