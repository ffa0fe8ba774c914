"""Scores of point-cloud models: rotation protocols and part overlap."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils import check_random_state

from manifoldkit._checks import check_choice

PROTOCOLS = ("z/z", "z/so3", "so3/so3", "none/none", "none/so3")


def _clouds(X: ArrayLike, name: str) -> np.ndarray:
    try:
        clouds = np.asarray(X)
    except ValueError:  # a ragged list
        clouds = np.empty(0, object)
    if clouds.ndim != 3 or clouds.shape[2] != 3 or clouds.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected an array of shape (n_clouds, n_points, 3), found "
            f"{getattr(X, 'shape', type(X).__name__)}"
        )
    return clouds if clouds.dtype.kind == "f" else clouds.astype(float)


def rotate_clouds(
    X: ArrayLike,
    rotation: str,
    *,
    normals: ArrayLike | None = None,
    axis: int = 2,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Turn each cloud at random.

    Parameters
    ----------
    X : array of shape (n_clouds, n_points, 3)
        Points.
    rotation : {"none", "z", "so3"}
        Not at all, about one axis by a uniform angle, or by a uniformly distributed
        rotation.
    normals : array of shape (n_clouds, n_points, 3), optional
        Turned along.
    axis : int, default=2
        Axis of "z".
    random_state : int, RandomState or None
        Seed.

    Returns
    -------
    X, normals : arrays
        In the dtypes given; ``normals`` may be None.

    Raises
    ------
    ValueError
        Clouds of another shape; an unknown rotation or axis.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((2, 5, 3))
    >>> turned, _ = rotate_clouds(X, "so3", random_state=0)
    >>> bool(np.allclose(np.linalg.norm(turned, axis=2), np.linalg.norm(X, axis=2)))
    True
    """
    clouds = _clouds(X, "X")
    check_choice(rotation, ("none", "z", "so3"), "rotation")
    check_choice(axis, range(-3, 3), "axis")
    directions = None if normals is None else _clouds(normals, "normals")
    if directions is not None and len(directions) != len(clouds):
        raise ValueError(
            f"normals: expected {len(clouds)} clouds, found shape {directions.shape}"
        )
    if rotation == "none":
        return clouds, directions
    rng = check_random_state(random_state)
    if rotation == "z":
        angles = rng.uniform(-np.pi, np.pi, (len(clouds), 1))
        turns = Rotation.from_rotvec(angles * np.eye(3)[axis])
    else:
        turns = Rotation.from_quat(rng.standard_normal((len(clouds), 4)))
    matrices = turns.as_matrix().swapaxes(1, 2)
    if directions is not None:
        directions = (directions @ matrices).astype(directions.dtype)
    return (clouds @ matrices).astype(clouds.dtype), directions


def rotation_protocols(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    y_test: ArrayLike,
    *,
    normals: ArrayLike | None = None,
    normals_test: ArrayLike | None = None,
    protocols: Sequence[str] = ("z/z", "z/so3", "so3/so3"),
    axis: int = 2,
    random_state: int | np.random.RandomState | None = None,
) -> dict[str, dict[str, float]]:
    """Train and test under the usual pairs of rotations.

    "z/so3" means trained under rotations about one axis and tested under any. An
    estimator with the parameters ``rotation`` and ``rotation_axis`` draws new
    rotations in every epoch, others see each training cloud turned once. One fit
    serves all protocols with the same training rotations.

    Parameters
    ----------
    estimator : estimator
        Cloned for every fit. ``normals`` go to ``fit`` and ``predict`` if given.
    X, X_test : array of shape (n_clouds, n_points, 3)
        Points.
    y, y_test : array of shape (n_clouds,)
        Labels.
    normals, normals_test : arrays like X and X_test, optional
        Normals.
    protocols : sequence of str
        Among "z/z", "z/so3", "so3/so3", "none/none", "none/so3".
    axis : int, default=2
        The axis of "z" in these data.
    random_state : int, RandomState or None
        Seed of the rotations.

    Returns
    -------
    dict
        For each protocol ``accuracy`` (overall), ``balanced`` (mean over classes), and
        ``agreement``, the share of test clouds with the same label as unturned.

    Raises
    ------
    ValueError
        An unknown protocol; clouds of another shape.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> X, y = np.random.default_rng(0).standard_normal((4, 9, 3)), [0, 0, 0, 1]
    >>> rotation_protocols(DummyClassifier(), X, y, X, y, protocols=["none/so3"])
    {'none/so3': {'accuracy': 0.75, 'balanced': 0.5, 'agreement': 1.0}}
    """
    for protocol in protocols:
        check_choice(protocol, PROTOCOLS, "protocols")
    rng = check_random_state(random_state)
    seeds = {rotation: rng.randint(2**31 - 1) for rotation in ("none", "z", "so3")}
    fitted, results = {}, {}
    for protocol in protocols:
        train, test = protocol.split("/")
        if train not in fitted:
            fitted[train] = _fit(estimator, X, y, normals, train, axis, seeds[train])
        model = fitted[train]
        turned, directions = rotate_clouds(
            X_test, test, normals=normals_test, axis=axis, random_state=seeds[test]
        )
        predicted = _predict(model, turned, directions)
        plain = _predict(model, X_test, normals_test)
        results[protocol] = {
            "accuracy": float(np.mean(predicted == np.asarray(y_test))),
            "balanced": float(balanced_accuracy_score(y_test, predicted)),
            "agreement": float(np.mean(predicted == plain)),
        }
    return results


def _fit(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    normals: ArrayLike | None,
    rotation: str,
    axis: int,
    seed: int,
) -> Any:
    model = clone(estimator)
    if {"rotation", "rotation_axis"} <= set(model.get_params()):
        model.set_params(rotation=rotation, rotation_axis=axis)
    else:
        X, normals = rotate_clouds(
            X, rotation, normals=normals, axis=axis, random_state=seed
        )
    return model.fit(X, y) if normals is None else model.fit(X, y, normals=normals)


def _predict(model: Any, X: ArrayLike, normals: ArrayLike | None) -> np.ndarray:
    return model.predict(X) if normals is None else model.predict(X, normals=normals)


def _whole(values: ArrayLike, name: str) -> np.ndarray:
    try:
        values = np.asarray(values)
    except ValueError:  # a ragged list
        values = np.asarray(None)
    if values.dtype.kind not in "iub":
        raise TypeError(f"{name}: expected whole numbers, found {values.dtype}")
    return values


def _by_cloud(values: ArrayLike, name: str) -> list[np.ndarray]:
    """Labels of each cloud; the clouds may differ in size."""
    ragged = isinstance(values, Sequence) and not isinstance(values, str)
    if not ragged and not np.ndim(values):
        return [_whole(values, name)]  # a number: told with its shape
    return [_whole(row, name) for row in values]  # type: ignore[union-attr]


def _told(shapes: list[tuple[int, ...]]) -> str:
    if len(set(shapes)) == 1:
        return str((len(shapes), *shapes[0]))
    return f"{len(shapes)} clouds of shapes {', '.join(map(str, shapes))}"[:90]


def part_iou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    category: ArrayLike,
    parts: Mapping[int, Sequence[int]],
) -> dict[str, float]:
    r"""Mean intersection over union of parts.

    For each cloud :math:`|T_p \cap P_p| / |T_p \cup P_p|` is averaged over the parts p
    of its category; a part that neither has counts as 1.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (n_clouds, n_points), or list of arrays (n_i,)
        Parts; predictions should be restricted to the category's own.
    category : array of int, shape (n_clouds,)
        Category of each cloud.
    parts : mapping of int to sequence of int
        Parts of each category.

    Returns
    -------
    dict
        ``instance``, the mean over clouds, and ``class``, the mean over categories of
        their clouds' means.

    Raises
    ------
    TypeError
        Labels that are not whole numbers; parts that are no mapping.
    ValueError
        Shapes that differ; a category without parts.

    Examples
    --------
    >>> part_iou([[0, 0, 1, 1]], [[0, 1, 1, 1]], [0], {0: [0, 1]})["instance"]
    0.5833333333333333
    """
    true, found = _by_cloud(y_true, "y_true"), _by_cloud(y_pred, "y_pred")
    kinds = _whole(category, "category")
    shapes = [[row.shape for row in rows] for rows in (true, found)]
    good = all(len(shape) == 1 and shape[0] for shape in shapes[0])
    if not true or not good or shapes[0] != shapes[1]:
        raise ValueError(
            "y_true, y_pred: expected equal shapes (n_clouds, n_points), found "
            f"{_told(shapes[0])} and {_told(shapes[1])}"
        )
    if kinds.shape != (len(true),):
        raise ValueError(
            f"category: expected {len(true)} numbers, found shape {kinds.shape}"
        )
    if not isinstance(parts, Mapping):
        raise TypeError(f"parts: expected parts by category, found {parts!r}")
    unknown = sorted(c for c in set(kinds.tolist()) if not len(parts.get(c, ())))
    if unknown:
        raise ValueError(f"parts: expected those of category {unknown[0]} as well")
    overlaps = np.empty(len(true))
    for i, (truth, guess) in enumerate(zip(true, found, strict=True)):
        shares = []
        for part in parts[int(kinds[i])]:
            union = np.sum((truth == part) | (guess == part))
            both = np.sum((truth == part) & (guess == part))
            shares.append(both / union if union else 1.0)
        overlaps[i] = np.mean(shares)
    by_class = [overlaps[kinds == c].mean() for c in np.unique(kinds)]
    return {"instance": float(overlaps.mean()), "class": float(np.mean(by_class))}
