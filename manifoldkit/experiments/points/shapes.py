"""Training on more shapes than are asked for."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from manifoldkit.equivariant import PointCloudClassifier


def with_further_shapes(train: Any) -> Any:
    """Add the rest of Princeton's training list, each base class as one of its own."""
    from manifoldkit.datasets import fetch_point_clouds

    every = fetch_point_clouds("base", "train")
    if every.model_id is None or every.normals is None:
        raise ValueError("fetch_point_clouds: expected shapes with ids and normals")
    rest = ~np.isin(every.model_id, train.model_id)
    return train._replace(
        X=np.concatenate([train.X, every.X[rest]]),
        y=np.concatenate([train.y, len(train.class_names) + every.y[rest]]),
        normals=np.concatenate([train.normals, every.normals[rest]]),
    )


def probabilities_among(
    model: "PointCloudClassifier",
    answers: np.ndarray,
    X: np.ndarray,
    normals: np.ndarray | None,
) -> np.ndarray:
    """Return probabilities of some classes, given that it is one of them.

    Parameters
    ----------
    model : PointCloudClassifier
        A fitted one.
    answers : array
        Some of its classes, sorted.
    X, normals : array of shape (n_clouds, n_points, 3)
        Clouds; normals or None.
    """
    table = model.predict_proba(X, normals)[:, np.isin(model.classes_, answers)]
    return table / table.sum(1, keepdims=True)
