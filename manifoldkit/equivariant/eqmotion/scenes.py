"""Scenes of tracks as one array: given as such, or as a list of different sizes."""

from typing import Any, NamedTuple

import numpy as np


class Scenes(NamedTuple):
    """Checked tracks.

    Attributes
    ----------
    tracks : ndarray, shape (n_scenes, n_agents, n_steps, n_dims)
        Positions; agents that a scene lacks are NaN, dimensions that it lacks zero.
    shapes : list of (n_agents, n_dims), or None
        What each scene really has; None where all are alike.
    """

    tracks: np.ndarray
    shapes: list[tuple[int, int]] | None

    def own(self, values: np.ndarray, pairs: bool = False) -> Any:
        """Cut what was computed for padded scenes down to each scene's own size.

        ``values`` has agents in axis 1; for ``pairs`` in axis 2 too, and else
        dimensions in its last axis.
        """
        if self.shapes is None:
            return values
        if pairs:
            cut = zip(values, self.shapes, strict=True)
            return [v[:n, :n].copy() for v, (n, _) in cut]
        cut = zip(values, self.shapes, strict=True)
        return [v[:n, ..., :d].copy() for v, (n, d) in cut]


def read_scenes(X: Any, name: str, agents: int = 0, dims: int = 0) -> Scenes:
    """Return tracks as a floating-point array, or raise ``ValueError``.

    Parameters
    ----------
    X : array-like of shape (n_scenes, n_agents, n_steps, n_dims), or list
        Arrays (n_agents, n_steps, n_dims), which may differ in the number of agents
        and of dimensions.
    name : str
        The argument, for messages.
    agents, dims : int
        Scenes of a list are padded to so many, if they have no more.
    """
    items, given = _different(X), X
    if items is None:
        X = _numbers(X, name)
        short = X.ndim == 4 and (X.shape[1] < agents or X.shape[3] < dims)
        if short and not isinstance(given, np.ndarray):
            items = list(X)
    if items is None:
        if X.ndim != 4:
            raise ValueError(
                f"{name}: expected shape (n_samples, n_agents, n_steps, n_dims), or a "
                f"list of arrays (n_agents, n_steps, n_dims), found {X.shape}"
            )
        _refuse_infinite(X, name)
        return Scenes(X, None)
    scenes = [_numbers(item, f"{name}[{i}]") for i, item in enumerate(items)]
    for i, scene in enumerate(scenes):
        if scene.ndim != 3 or scene.shape[2] == 0:
            raise ValueError(
                f"{name}[{i}]: expected shape (n_agents, n_steps, n_dims), found "
                f"{scene.shape}"
            )
        if scene.shape[1] != scenes[0].shape[1]:
            raise ValueError(
                f"{name}[{i}]: expected as many steps as {name}[0] has, "
                f"{scenes[0].shape[1]}, found {scene.shape[1]}; put NaN where nothing "
                "was observed"
            )
        _refuse_infinite(scene, f"{name}[{i}]")
    shapes = [(scene.shape[0], scene.shape[2]) for scene in scenes]
    n, d = (max(sizes) for sizes in zip(*shapes, strict=True))
    shape = len(scenes), max(n, agents), scenes[0].shape[1], max(d, dims)
    tracks = np.full(shape, np.nan, np.result_type(*scenes))
    for place, scene in zip(tracks, scenes, strict=True):
        place[: len(scene)] = 0.0
        place[: len(scene), :, : scene.shape[2]] = scene
    return Scenes(tracks, shapes)


def _different(X: Any) -> list[Any] | None:
    """Return the scenes of a list whose shapes are not all the same."""
    objects = isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1
    if not objects and not isinstance(X, list | tuple):
        return None
    if len({np.shape(item) if _is_regular(item) else None for item in X}) > 1:
        return list(X)
    return list(X) if objects else None


def _is_regular(item: Any) -> bool:
    try:
        np.shape(item)
    except ValueError:  # a list of lists of different lengths
        return False
    return True


def _numbers(X: Any, name: str) -> np.ndarray:
    try:
        X = np.asarray(X)
    except ValueError:
        raise ValueError(
            f"{name}: expected tracks of equal length for every agent, found rows of "
            "different lengths; put NaN where nothing was observed"
        ) from None
    if X.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers, found dtype {X.dtype}")
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)


def _refuse_infinite(X: np.ndarray, name: str) -> None:
    if np.isinf(X).any():
        where = [int(i) for i in np.argwhere(np.isinf(X))[0]]
        # one index list: X[2, 0, 1, 1] for arrays, X[2][0, 1, 1] for scenes of a list
        raise ValueError(
            f"{name}{where} is infinite: expected numbers, or NaN where nothing was "
            "observed"
        )
