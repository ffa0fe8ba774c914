"""Changes to test clouds: noise, missing points, outliers, density, wrong normals."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from manifoldkit.equivariant import PointCloudClassifier

Normals = np.ndarray | None
Clouds = tuple[np.ndarray, Normals]


def robustness(
    model: "PointCloudClassifier", X: np.ndarray, normals: Normals, y: np.ndarray
) -> dict[str, float]:
    """Return the accuracy without votes on turned clouds after one change to them.

    Parameters
    ----------
    model : PointCloudClassifier
        A fitted one; its ``n_points`` and ``n_votes`` are left as they were.
    X, normals : array of shape (n_clouds, n_points, 3)
        Turned clouds; normals or None.
    y : array of shape (n_clouds,)
        Labels.

    Returns
    -------
    dict of str to float
        Accuracy by change.
    """
    changed = {
        "no change": (X, normals),
        "noise 0.01": _noise(X, normals, 0.01),
        "noise 0.03": _noise(X, normals, 0.03),
        "256 points": _keep(X, normals, 256),
        "half cut away": _cut(X, normals, 0.5),
        "5 % outliers": _outliers(X, normals, 0.05),
        "uneven density": _uneven(X, normals),
    }
    if normals is not None:
        rng = np.random.default_rng(0)
        sign = np.where(rng.random(X.shape[:2]) < 0.5, -1, 1)[..., None]
        changed["normals of random sign"] = (X, (normals * sign).astype(np.float32))
    scores, settings = {}, {k: getattr(model, k) for k in ("n_points", "n_votes")}
    for name, (points, directions) in changed.items():
        n = min(settings["n_points"], points.shape[1])
        model.set_params(n_points=n, n_votes=1)
        scores[name] = model.score(points, y, normals=directions)
    model.set_params(**settings)
    return scores


def _noise(X: np.ndarray, normals: Normals, sigma: float) -> Clouds:
    noise = np.random.default_rng(0).standard_normal(X.shape)
    return (X + sigma * noise).astype(np.float32), normals


def _take(X: np.ndarray, normals: Normals, index: np.ndarray) -> Clouds:
    rows = np.arange(len(X))[:, None]
    return X[rows, index], None if normals is None else normals[rows, index]


def _keep(X: np.ndarray, normals: Normals, n: int) -> Clouds:
    rng = np.random.default_rng(0)
    return _take(X, normals, np.argsort(rng.random(X.shape[:2]), axis=1)[:, :n])


def _cut(X: np.ndarray, normals: Normals, share: float) -> Clouds:
    """Keep what lies on one side of a plane of random direction."""
    direction = np.random.default_rng(0).standard_normal((len(X), 3))
    along = np.einsum("bni,bi->bn", X, direction)
    n = int(X.shape[1] * (1 - share))
    return _take(X, normals, np.argsort(along, axis=1)[:, :n])


def _outliers(X: np.ndarray, normals: Normals, share: float) -> Clouds:
    rng = np.random.default_rng(0)
    out = X.copy()
    where = rng.random(X.shape[:2]) < share
    out[where] = rng.uniform(-1, 1, (int(where.sum()), 3))
    return out, normals


def _uneven(X: np.ndarray, normals: Normals) -> Clouds:
    """Points are kept more often on one side, six times as many as on the other."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((len(X), 3))
    along = np.einsum("bni,bi->bn", X, direction)
    rank = along.argsort(1).argsort(1) / X.shape[1]
    chance = rng.random(X.shape[:2]) ** (1 / (1 + 5 * rank))
    return _take(X, normals, np.argsort(-chance, axis=1)[:, : X.shape[1] // 2])
