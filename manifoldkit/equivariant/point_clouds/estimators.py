"""Point-cloud classification and segmentation behind scikit-learn's interface."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, TransformerMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from manifoldkit._faces.files import labels_content, stored_labels
from manifoldkit.equivariant.neighbors.grouping import three_interpolate
from manifoldkit.equivariant.point_clouds.base import PointCloudBase
from manifoldkit.equivariant.point_clouds.inputs import read_classes, read_labels
from manifoldkit.equivariant.point_clouds.metrics import part_iou
from manifoldkit.equivariant.point_clouds.networks import (
    make_classifier,
    make_segmenter,
    seeded_network,
)
from manifoldkit.equivariant.point_clouds.views import View


class PointCloudClassifier(ClassifierMixin, TransformerMixin, PointCloudBase):
    """Classify point clouds, whatever way they are turned.

    Trained through skorch (extra ``train``).

    Parameters
    ----------
    model : {"risurconv", "parot", "pointnet-frames", "pointnet"}, default="risurconv"
        The first is rotation invariant by construction, "parot" learns to be (exactly
        with ``model_options={"directions": "equivariant"}``), "pointnet-frames" is
        PointNet averaged over frames, "pointnet" is the baseline that is not.
    n_points : int, optional
        Points of each cloud that the network sees: farthest points, among all or, in
        further views, among some at random. Default: all. Training on clouds of
        different sizes needs it; prediction does not.
    normalize : {"unit_sphere", None}
        Center each cloud and divide by its largest radius, so that neither unit nor
        place matters. None leaves them: then sizes are features, and a warning says so
        where they are far from 1.
    rotation : {"none", "z", "so3"}
        Random rotations in training, about one axis or any. "risurconv" needs none.
    rotation_axis : int, default=2
        Axis of ``rotation="z"``; which one is up is up to the data set.
    scale_range : (float, float), default=(0.8, 1.25)
        Random sizes in training.
    jitter : float, default=0.0
        Standard deviation of noise on the points of further views.
    n_views : int, default=1
        Versions of each training cloud, each with other points and noise. The geometry
        of "risurconv" is computed once a version, not once an epoch.
    stretch : float, default=0.0
        Further views are stretched along their principal axes, each by a random factor
        between ``1 / (1 + stretch)`` and ``1 + stretch``.
    mirror : bool, default=False
        Half of the further views are mirror images.
    n_votes : int, default=1
        Views of ``n_points`` each whose scores are averaged in prediction.
    model_options : dict, optional
        Further arguments of the network. "risurconv" gets ``unsigned_normals=True``
        unless they say otherwise: the normals of meshes rarely agree on a side.
    smoothing : float, default=0.1
        Label smoothing, spread over the other classes.
    lr, weight_decay : float, default=1e-3, 1e-4
        Learning rate and weight decay of Adam; the rate falls to a hundredth along a
        cosine.
    max_epochs, batch_size : int, default=40, 32
        Passes over the data, clouds a step.
    early_stopping : bool, default=False
        Put ``validation_fraction`` of the clouds aside, stop when their loss has not
        improved for ``patience`` epochs, and keep the best weights.
    validation_fraction : float, default=0.15
        Share for early stopping.
    patience : int, default=10
        Epochs without improvement.
    checkpoint : path, optional
        File to write after every epoch. A later ``fit`` with the same data and settings
        goes on from it, and ends as an uninterrupted one would.
    device : str, default="cpu"
        Where the network is trained and applied, such as "cuda".
    random_state : int, RandomState instance or None, default=None
        Draws initial weights, batches, views and the validation share. Resuming from a
        checkpoint needs an int.
    verbose : int, default=0
        1 prints a line an epoch.
    class_weight : dict, "balanced" or None
        Weights of the classes in the loss.
    on_invalid : {"raise", "drop"}, default="raise"
        What to do with points that are not finite: refuse, or leave them out.

    Notes
    -----
    What is said of a cloud does not depend on the others in the call, of whatever sizes
    they are.

    Attributes
    ----------
    classes_ : ndarray
        Labels, sorted.
    history_ : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``dur``, and with early stopping
        ``valid_loss``.
    net_ : skorch.NeuralNet, or what stands for it in a loaded model
        ``net_.module_.network`` is the network.

    Examples
    --------
    >>> from manifoldkit.datasets import make_point_clouds
    >>> clouds = make_point_clouds(16, 64, shapes=("box", "torus"), random_state=0)
    >>> model = PointCloudClassifier(
    ...     model_options={"sizes": (32, 16, 8, 8), "n_blocks": 0}, max_epochs=8,
    ...     random_state=0)
    >>> model.fit(clouds.X, clouds.y, normals=clouds.normals).classes_
    array([0, 1])
    >>> model.predict_proba(clouds.X, normals=clouds.normals).shape
    (16, 2)
    """

    _format = "manifoldkit.equivariant.PointCloudClassifier"

    def fit(self, X: ArrayLike, y: ArrayLike, normals: ArrayLike | None = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array of shape (n_clouds, n_points, 3), or list of arrays (n_i, 3)
            Points; clouds of different sizes need ``n_points``. Six numbers a point
            are taken for the point and its normal.
        y : array-like of shape (n_clouds,)
            Labels, at least two different ones; no measurements and no NaN.
        normals : like X, optional
            Normals of any length; zeros and NaN are replaced by estimated axes, as are
            missing ones. Only "risurconv" looks at them.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Bad input (the first bad cloud is named) or settings.
        """
        self._check_settings()
        clouds = self._read_training(X, normals)
        y = read_classes(y, len(clouds.points))
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected at least 2 classes, found {self.classes_.tolist()}"
            )
        weights = None
        if self.class_weight is not None:
            by_class = compute_class_weight(
                self.class_weight, classes=self.classes_, y=y
            )
            weights = torch.from_numpy(by_class).float()
        target = torch.from_numpy(codes).long()
        return self._train(self._network(), clouds, target, None, weights)

    def _network(self) -> nn.Module:
        return seeded_network(
            self.random_state,
            lambda: make_classifier(
                self.model, len(self.classes_), self.model_options or {}
            ),
        )

    def predict_proba(
        self, X: ArrayLike, normals: ArrayLike | None = None
    ) -> np.ndarray:
        """Return class probabilities, shape (n_clouds, n_classes)."""
        return self._mean_vote(X, normals, "forward").softmax(-1).numpy()

    def decision_function(
        self, X: ArrayLike, normals: ArrayLike | None = None
    ) -> np.ndarray:
        """Return class scores.

        Logits of shape (n_clouds, n_classes); for two classes, as scikit-learn has it,
        how much the second exceeds the first, shape (n_clouds,).
        """
        scores = self._mean_vote(X, normals, "forward").numpy()
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: ArrayLike, normals: ArrayLike | None = None) -> np.ndarray:
        """Return the label of the largest score, shape (n_clouds,)."""
        check_is_fitted(self, "net_")
        return self.classes_[self._mean_vote(X, normals, "forward").argmax(1).numpy()]

    def transform(self, X: ArrayLike, normals: ArrayLike | None = None) -> np.ndarray:
        """Return the pooled vector of each cloud, "risurconv" and "parot" only."""
        if self.model not in ("risurconv", "parot"):
            raise ValueError(f"transform: model {self.model!r} has no pooled vector")
        return self._mean_vote(X, normals, "features").numpy()

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        normals: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the overall accuracy."""
        right = self.predict(X, normals) == np.asarray(y)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        return float(np.average(right, weights=weights))

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, content = super()._content()
        return tensors, labels_content(self.classes_) | content

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.classes_ = stored_labels(content)
        super()._restore(content, tensors)


class PointCloudSegmenter(PointCloudBase):
    """Segment point clouds into parts, whatever way they are turned.

    Trained through skorch (extra ``train``).

    Parameters
    ----------
    model, n_points, normalize, rotation, rotation_axis, scale_range
        Network and sizes, with the meaning that :class:`PointCloudClassifier` gives
        them.
    jitter, n_views, stretch, mirror, n_votes
        Views of each cloud in training and prediction, see there.
    model_options, smoothing, lr, weight_decay, max_epochs, batch_size
        Options of the network and of its training, see there.
    early_stopping, validation_fraction, patience, checkpoint
        When training ends and from where it goes on, see there.
    class_weight : dict, "balanced" or None
        Weights of the parts in the loss, a weight for each part label; "balanced"
        weighs a part by how few points it has.
    on_invalid : {"raise", "drop"}, default="raise"
        What to do with points that are not finite: refuse, or leave them out; then
        they have part -1 and scores NaN.
    device, random_state, verbose
        Where it runs, what it draws and what it prints, see there.

    Attributes
    ----------
    n_parts_ : int
        Number of part labels.
    parts_ : dict of int to list of int
        Part labels of each category.
    history_ : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``dur``, and with early stopping
        ``valid_loss``.
    net_ : skorch.NeuralNet, or what stands for it in a loaded model
        ``net_.module_.network`` is the network.

    Examples
    --------
    >>> from manifoldkit.datasets import make_point_clouds
    >>> clouds = make_point_clouds(8, 64, shapes=("mug", "table"), random_state=0)
    >>> model = PointCloudSegmenter("pointnet", max_epochs=1, random_state=0,
    ...                             model_options={"width": 0.1})
    >>> model.fit(clouds.X, clouds.parts, category=clouds.y).n_parts_
    4
    >>> model.predict(clouds.X, category=clouds.y).shape
    (8, 64)
    """

    _format = "manifoldkit.equivariant.PointCloudSegmenter"

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        category: ArrayLike | None = None,
        normals: ArrayLike | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array of shape (n_clouds, n_points, 3), or list of arrays (n_i, 3)
            Points; clouds of different sizes need ``n_points``.
        y : array-like of int, shape (n_clouds, n_points), or list of arrays (n_i,)
            Part of each point, numbered from 0 over all categories.
        category : array-like of int, shape (n_clouds,), optional
            Category of each cloud, from 0 on. Default: all are of one.
        normals : like X, optional
            Normals of any length, as for :class:`PointCloudClassifier`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Bad input (the first bad cloud is named) or settings.
        """
        self._check_settings()
        clouds = self._read_training(X, normals)
        given = read_labels(y, [len(kept) for kept in clouds.kept])
        labels = [row[kept] for row, kept in zip(given, clouds.kept, strict=True)]
        labels = [row.astype(np.int64) for row in labels]
        kinds = self._categories(category, len(labels))
        found = np.concatenate(labels)
        self.n_parts_ = int(found.max()) + 1
        self.n_categories_ = int(kinds.max()) + 1
        self.parts_ = {
            int(c): np.unique(
                np.concatenate([labels[i] for i in np.flatnonzero(kinds == c)])
            ).tolist()
            for c in kinds.unique()
        }
        return self._train(
            self._network(), clouds, labels, kinds, self._part_weights(found)
        )

    def _part_weights(self, labels: np.ndarray) -> Tensor | None:
        """Weights of all parts; one that no point has is never asked for."""
        if self.class_weight is None:
            return None
        present = np.unique(labels)
        weights = torch.ones(self.n_parts_)
        weights[present] = torch.from_numpy(
            compute_class_weight(self.class_weight, classes=present, y=labels)
        ).float()
        return weights

    def _network(self) -> nn.Module:
        return seeded_network(
            self.random_state,
            lambda: make_segmenter(
                self.model, self.n_parts_, self.n_categories_, self.model_options or {}
            ),
        )

    def _categories(self, category: ArrayLike | None, n: int) -> Tensor:
        kinds = (
            np.zeros(n, dtype=np.int64) if category is None else np.asarray(category)
        )
        if kinds.shape != (n,) or kinds.dtype.kind not in "iu" or kinds.min() < 0:
            raise ValueError(
                f"category: expected {n} integers from 0 on, found {kinds.dtype} of "
                f"shape {kinds.shape}"
            )
        return torch.from_numpy(kinds.astype(np.int64))

    def decision_function(
        self,
        X: ArrayLike,
        category: ArrayLike | None = None,
        normals: ArrayLike | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Return part scores, shape (n_clouds, n_points, n_parts).

        Parts that the category does not have get minus infinity; points that were
        dropped get NaN. Clouds of different sizes make a list of arrays
        (n_i, n_parts).
        """
        check_is_fitted(self, "net_")
        clouds = self._read(X, normals)
        kinds = self._categories(category, len(clouds.points))
        unknown = set(kinds.tolist()) - set(self.parts_)
        if unknown:
            raise ValueError(
                f"category: expected among {sorted(self.parts_)}, "
                f"found {sorted(unknown)}"
            )
        takes = kinds if hasattr(self.net_.module_.network, "n_categories") else None
        votes = self._evaluate(clouds, "forward", takes)
        found = []
        for points, kept, kind, seen in zip(
            clouds.points, clouds.kept, kinds.tolist(), votes, strict=True
        ):
            scores = np.full((len(kept), self.n_parts_), np.nan, dtype=np.float32)
            scores[kept] = _at_all_points(torch.from_numpy(points), seen).numpy()
            absent = np.setdiff1d(np.arange(self.n_parts_), self.parts_[kind])
            scores[np.ix_(kept, absent)] = -np.inf
            found.append(scores)
        return _stacked(found)

    def predict(
        self,
        X: ArrayLike,
        category: ArrayLike | None = None,
        normals: ArrayLike | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Return the part of each point, shape (n_clouds, n_points).

        Points that were dropped get -1. Clouds of different sizes make a list of
        arrays (n_i,).
        """
        scores = self.decision_function(X, category, normals)
        return _stacked([np.where(np.isnan(s[:, 0]), -1, s.argmax(-1)) for s in scores])

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        category: ArrayLike | None = None,
        normals: ArrayLike | None = None,
    ) -> float:
        """Return the mean over clouds of the intersection over union of parts.

        Points that were dropped do not count.
        """
        predicted = list(self.predict(X, category, normals))
        kinds = self._categories(category, len(predicted)).numpy()
        true = read_labels(y, [len(row) for row in predicted])
        seen = [row >= 0 for row in predicted]
        return part_iou(
            [row[s] for row, s in zip(true, seen, strict=True)],
            [row[s] for row, s in zip(predicted, seen, strict=True)],
            kinds,
            self.parts_,
        )["instance"]

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, content = super()._content()
        parts = {
            "n_parts": self.n_parts_,
            "n_categories": self.n_categories_,
            "parts": {str(k): v for k, v in self.parts_.items()},
        }
        return tensors, parts | content

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.n_parts_ = content["n_parts"]
        self.n_categories_ = content["n_categories"]
        self.parts_ = {int(k): v for k, v in content["parts"].items()}
        super()._restore(content, tensors)


def _at_all_points(points: Tensor, votes: list[tuple[View, Tensor]]) -> Tensor:
    """Mean over the votes; where one saw fewer points, it is carried back to all."""
    found = [
        scores
        if len(scores) == len(points)
        else three_interpolate(points, view.points[0], scores)
        for view, scores in votes
    ]
    return torch.stack(found).mean(0)


def _stacked(rows: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """One array if all have one shape."""
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else rows
