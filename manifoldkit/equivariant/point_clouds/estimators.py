"""Point-cloud classification and segmentation behind scikit-learn's interface."""

from pathlib import Path
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
from manifoldkit.equivariant.point_clouds.metrics import part_iou
from manifoldkit.equivariant.point_clouds.networks import (
    make_classifier,
    make_segmenter,
    seeded_network,
)
from manifoldkit.equivariant.point_clouds.views import voting_views


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
        further views, among some at random. Default: all.
    normalize : {"unit_sphere", None}
        Center each cloud and divide by its largest radius.
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

    def __init__(
        self,
        model: str = "risurconv",
        *,
        n_points: int | None = None,
        normalize: str | None = "unit_sphere",
        rotation: str = "none",
        rotation_axis: int = 2,
        scale_range: tuple[float, float] = (0.8, 1.25),
        jitter: float = 0.0,
        n_views: int = 1,
        stretch: float = 0.0,
        mirror: bool = False,
        n_votes: int = 1,
        model_options: dict | None = None,
        smoothing: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        max_epochs: int = 40,
        batch_size: int = 32,
        early_stopping: bool = False,
        validation_fraction: float = 0.15,
        patience: int = 10,
        checkpoint: str | Path | None = None,
        class_weight: dict[Any, float] | str | None = None,
        on_invalid: str = "raise",
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        super().__init__(
            model,
            n_points=n_points,
            normalize=normalize,
            rotation=rotation,
            rotation_axis=rotation_axis,
            scale_range=scale_range,
            jitter=jitter,
            n_views=n_views,
            stretch=stretch,
            mirror=mirror,
            n_votes=n_votes,
            model_options=model_options,
            smoothing=smoothing,
            lr=lr,
            weight_decay=weight_decay,
            max_epochs=max_epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            checkpoint=checkpoint,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight
        self.on_invalid = on_invalid

    def fit(self, X: ArrayLike, y: ArrayLike, normals: ArrayLike | None = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array of shape (n_clouds, n_points, 3), or list of arrays (n_i, 3)
            Points; clouds of different sizes need ``n_points``. Six numbers a point
            are taken for the point and its normal.
        y : array-like of shape (n_clouds,)
            Labels, at least two different ones.
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
        x, directions = self._read(X, normals)
        y = np.asarray(y)
        if y.shape != (len(x),):
            raise ValueError(f"y: expected {len(x)} labels, found shape {y.shape}")
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
        network = self._network()
        return self._train(
            network, x, directions, torch.from_numpy(codes).long(), None, weights
        )

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
        return self._evaluate(X, normals, "forward").softmax(-1).numpy()

    def decision_function(
        self, X: ArrayLike, normals: ArrayLike | None = None
    ) -> np.ndarray:
        """Return class scores (logits), shape (n_clouds, n_classes)."""
        return self._evaluate(X, normals, "forward").numpy()

    def predict(self, X: ArrayLike, normals: ArrayLike | None = None) -> np.ndarray:
        """Return the label of the largest score, shape (n_clouds,)."""
        check_is_fitted(self, "net_")
        return self.classes_[self._evaluate(X, normals, "forward").argmax(1).numpy()]

    def transform(self, X: ArrayLike, normals: ArrayLike | None = None) -> np.ndarray:
        """Return the pooled vector of each cloud, "risurconv" and "parot" only."""
        if self.model not in ("risurconv", "parot"):
            raise ValueError(f"transform: model {self.model!r} has no pooled vector")
        return self._evaluate(X, normals, "features").numpy()

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
        X : array of shape (n_clouds, n_points, 3)
            Points.
        y : array-like of int, shape (n_clouds, n_points)
            Part of each point, numbered from 0 over all categories.
        category : array-like of int, shape (n_clouds,), optional
            Category of each cloud, from 0 on. Default: all are of one.
        normals : array of shape (n_clouds, n_points, 3), optional
            Normals of any length, as for :class:`PointCloudClassifier`.

        Returns
        -------
        self
        """
        self._check_settings()
        x, directions = self._read(X, normals)
        y = np.asarray(y)
        if y.shape != tuple(x.shape[:2]) or y.dtype.kind not in "iu" or y.min() < 0:
            raise ValueError(
                f"y: expected integers from 0 on of shape {tuple(x.shape[:2])}, found "
                f"{y.dtype} of shape {y.shape}"
            )
        kinds = self._categories(category, len(x))
        self.n_parts_ = int(y.max()) + 1
        self.n_categories_ = int(kinds.max()) + 1
        self.parts_ = {
            int(c): np.unique(y[kinds.numpy() == c]).tolist() for c in kinds.unique()
        }
        return self._train(
            self._network(), x, directions, torch.from_numpy(y).long(), kinds, None
        )

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
    ) -> np.ndarray:
        """Return part scores, shape (n_clouds, n_points, n_parts).

        Parts that the category does not have get minus infinity.
        """
        check_is_fitted(self, "net_")
        x, directions = self._read(X, normals)
        kinds = self._categories(category, len(x))
        unknown = set(kinds.tolist()) - set(self.parts_)
        if unknown:
            raise ValueError(
                f"category: expected among {sorted(self.parts_)}, "
                f"found {sorted(unknown)}"
            )
        takes = kinds if hasattr(self.net_.module_.network, "n_categories") else None
        views = voting_views(x, directions, self.n_points, self.n_votes)
        votes = []
        for view in views:
            seen = self._run(view, "forward", takes)
            if seen.shape[1] != x.shape[1]:  # seen at fewer points: carry them back
                seen = three_interpolate(x, view.points, seen)
            votes.append(seen)
        scores = torch.stack(votes).mean(0)
        allowed = torch.zeros(self.n_categories_, self.n_parts_, dtype=torch.bool)
        for c, parts in self.parts_.items():
            allowed[c, parts] = True
        return scores.masked_fill(~allowed[kinds][:, None], -torch.inf).numpy()

    def predict(
        self,
        X: ArrayLike,
        category: ArrayLike | None = None,
        normals: ArrayLike | None = None,
    ) -> np.ndarray:
        """Return the part of each point, shape (n_clouds, n_points)."""
        return self.decision_function(X, category, normals).argmax(-1)

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        category: ArrayLike | None = None,
        normals: ArrayLike | None = None,
    ) -> float:
        """Return the mean over clouds of the intersection over union of parts."""
        kinds = self._categories(category, len(np.asarray(y))).numpy()
        predicted = self.predict(X, category, normals)
        return part_iou(np.asarray(y), predicted, kinds, self.parts_)["instance"]

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
