"""Scores of point-cloud models: rotation protocols and part overlap."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils import check_random_state

from manifoldkit._checks import check_choice

PROTOCOLS = ("z/z", "z/so3", "so3/so3", "none/none", "none/so3")


def _clouds(X, name: str) -> np.ndarray:
    try:
        X = np.asarray(X)
        fits = X.ndim == 3 and X.shape[2] == 3 and X.dtype.kind in "fiu"
    except ValueError:  # a ragged list
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: expected an array of shape (n_clouds, n_points, 3), found "
            f"{getattr(X, 'shape', type(X).__name__)}"
        )
    return X if X.dtype.kind == "f" else X.astype(float)


def rotate_clouds(X, rotation: str, *, normals=None, axis: int = 2, random_state=None):
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
    X = _clouds(X, "X")
    check_choice(rotation, ("none", "z", "so3"), "rotation")
    if axis not in range(-3, 3):
        raise ValueError(f"axis: expected 0, 1 or 2, found {axis!r}")
    if rotation == "none":
        return X, normals
    rng = check_random_state(random_state)
    if rotation == "z":
        angles = rng.uniform(-np.pi, np.pi, (len(X), 1))
        turns = Rotation.from_rotvec(angles * np.eye(3)[axis])
    else:
        turns = Rotation.from_quat(rng.standard_normal((len(X), 4)))
    matrices = turns.as_matrix().swapaxes(1, 2)
    turned = (X @ matrices).astype(X.dtype)
    if normals is not None:
        normals = _clouds(normals, "normals")
        if normals.shape[0] != len(X):
            raise ValueError(
                f"normals: expected {len(X)} clouds, found shape {normals.shape}"
            )
        normals = (normals @ matrices).astype(normals.dtype)
    return turned, normals


def rotation_protocols(
    estimator,
    X,
    y,
    X_test,
    y_test,
    *,
    normals=None,
    normals_test=None,
    protocols: Sequence[str] = ("z/z", "z/so3", "so3/so3"),
    axis: int = 2,
    random_state=None,
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
        Of the rotations.

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


def _fit(estimator, X, y, normals, rotation, axis, seed):
    model = clone(estimator)
    if {"rotation", "rotation_axis"} <= set(model.get_params()):
        model.set_params(rotation=rotation, rotation_axis=axis)
    else:
        X, normals = rotate_clouds(
            X, rotation, normals=normals, axis=axis, random_state=seed
        )
    return model.fit(X, y) if normals is None else model.fit(X, y, normals=normals)


def _predict(model, X, normals):
    return model.predict(X) if normals is None else model.predict(X, normals=normals)


def _whole(values, name: str) -> np.ndarray:
    try:
        values = np.asarray(values)
    except ValueError:  # a ragged list
        values = np.asarray(None)
    if values.dtype.kind not in "iub":
        raise TypeError(f"{name}: expected whole numbers, found {values.dtype}")
    return values


def part_iou(
    y_true, y_pred, category, parts: Mapping[int, Sequence[int]]
) -> dict[str, float]:
    r"""Mean intersection over union of parts.

    For each cloud :math:`|T_p \cap P_p| / |T_p \cup P_p|` is averaged over the parts p
    of its category; a part that neither has counts as 1.

    Parameters
    ----------
    y_true, y_pred : array of int, shape (n_clouds, n_points)
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
    y_true, y_pred = _whole(y_true, "y_true"), _whole(y_pred, "y_pred")
    category = _whole(category, "category")
    if y_true.shape != y_pred.shape or y_true.ndim != 2 or not y_true.size:
        raise ValueError(
            "y_true, y_pred: expected equal shapes (n_clouds, n_points), found "
            f"{y_true.shape} and {y_pred.shape}"
        )
    if category.shape != (len(y_true),):
        raise ValueError(
            f"category: expected {len(y_true)} numbers, found shape {category.shape}"
        )
    if not isinstance(parts, Mapping):
        raise TypeError(f"parts: expected parts by category, found {parts!r}")
    unknown = sorted(c for c in set(category.tolist()) if not len(parts.get(c, ())))
    if unknown:
        raise ValueError(f"parts: expected those of category {unknown[0]} as well")
    overlaps = np.empty(len(y_true))
    for i, (truth, guess) in enumerate(zip(y_true, y_pred, strict=True)):
        shares = []
        for part in parts[int(category[i])]:
            union = np.sum((truth == part) | (guess == part))
            both = np.sum((truth == part) & (guess == part))
            shares.append(both / union if union else 1.0)
        overlaps[i] = np.mean(shares)
    by_class = [overlaps[category == c].mean() for c in np.unique(category)]
    return {"instance": float(overlaps.mean()), "class": float(np.mean(by_class))}
