"""What the classifier and the segmenter of point clouds share."""

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from manifoldkit._checks import Rule, count, interval, one_of, optional
from manifoldkit._faces.estimator import (
    TRAINING,
    Loaded,
    TorchFace,
    seeded,
    split_off,
)
from manifoldkit.equivariant.point_clouds.inputs import (
    Clouds,
    by_size,
    read_clouds,
    scale_warning,
    stack,
)
from manifoldkit.equivariant.point_clouds.networks import geometry
from manifoldkit.equivariant.point_clouds.training import (
    CloudSource,
    ScoreLoss,
    Trainee,
)
from manifoldkit.equivariant.point_clouds.views import (
    View,
    first_view,
    join_views,
    training_views,
    voting_views,
)

MODELS = ("risurconv", "parot", "pointnet-frames", "pointnet")
_PREDICT_BATCH = 32


class PointCloudBase(TorchFace, BaseEstimator):
    """Settings, input checks, training and files."""

    net_: Any
    _settings: ClassVar[dict[str, Rule]] = TRAINING | {
        "model": one_of(*MODELS),
        "n_points": optional(count()),
        "rotation": one_of("none", "z", "so3"),
        "normalize": one_of(None, "unit_sphere"),
        "n_views": count(),
        "n_votes": count(),
        "batch_size": count(2),  # one cloud has no statistics
        "jitter": interval(0),
        "stretch": interval(0),
        "on_invalid": one_of("raise", "drop"),
    }

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
        self.model = model
        self.n_points = n_points
        self.normalize = normalize
        self.rotation = rotation
        self.rotation_axis = rotation_axis
        self.scale_range = scale_range
        self.jitter = jitter
        self.n_views = n_views
        self.stretch = stretch
        self.mirror = mirror
        self.n_votes = n_votes
        self.model_options = model_options
        self.smoothing = smoothing
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.checkpoint = checkpoint
        self.class_weight = class_weight
        self.on_invalid = on_invalid
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.on_invalid == "drop"
        return tags

    # input

    def _read(self, X: ArrayLike, normals: ArrayLike | None) -> Clouds:
        """Clouds and normals as float32 arrays, each of its own size."""
        return read_clouds(
            X,
            normals,
            on_invalid=self.on_invalid,
            normalize=self.normalize,
            least=self.n_points,
        )

    def _read_training(self, X: ArrayLike, normals: ArrayLike | None) -> Clouds:
        """Clouds to train on: the network must see the same number of points."""
        clouds = self._read(X, normals)
        sizes = [len(cloud) for cloud in clouds.points]
        if self.n_points is None and len(set(sizes)) > 1:
            raise ValueError(
                f"X: clouds of {min(sizes)} to {max(sizes)} points need n_points, how "
                f"many of each the network sees: at most {min(sizes)}"
            )
        if self.normalize is None:
            message = scale_warning(clouds)
            if message is not None:
                warnings.warn(message, UserWarning, stacklevel=3)
        return clouds

    def _inputs(self, network: nn.Module, x: Tensor, normals: Tensor | None):
        """What the network takes: graphs, or points."""
        if self.model == "risurconv":
            return geometry(network, x, normals)
        return x

    # training

    def _train(
        self,
        network: nn.Module,
        clouds: Clouds,
        y: Tensor | list[np.ndarray],
        category: Tensor | None,
        weights: Tensor | None,
    ) -> Self:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        held_rows = None
        rows = np.arange(len(y))
        if self.early_stopping:
            rows, held_rows = self._split(y, seed)
        augment = {
            "rotation": self.rotation,
            "axis": self.rotation_axis,
            "scale": self.scale_range,
        }
        data = (clouds, y, category)
        source = self._source(network, data, rows, generator, augment, seed)
        held = None
        if held_rows is not None:
            held = self._source(network, data, held_rows, None, None, seed)
        trainee = Trainee(network)
        if self.model == "risurconv":
            trainee.template = source.inputs[:1]
        from manifoldkit._faces.training import Checkpoint, first, train

        size = min(self.batch_size, max(len(source), 2))
        checkpoint = None
        if self.checkpoint is not None:
            known = self._fingerprint(clouds, y, seed)
            checkpoint = Checkpoint(self.checkpoint, known, source.generator)
        with seeded(seed, self.device):
            self.net_, self.history_ = train(
                trainee,
                ScoreLoss(self.smoothing, weights),
                source,
                held,
                optimizer=partial(torch.optim.Adam, weight_decay=self.weight_decay),
                lr=self.lr,
                epochs=self.max_epochs,
                batch_size=size,
                loader={
                    # a last batch of one cloud has no statistics
                    "iterator_train__drop_last": len(source) % size == 1,
                    "iterator_train__collate_fn": first,
                    "iterator_valid__collate_fn": first,
                },
                schedule="cosine",
                patience=self.patience if self.early_stopping else None,
                threshold=0.0,
                checkpoint=checkpoint,
                device=self.device,
                verbose=self.verbose,
            )
        trainee.template = None
        return self

    def _source(self, network, data, rows, generator, augment, seed) -> CloudSource:
        clouds, y, category = data
        per_point = not isinstance(y, Tensor)
        groups = list(by_size(clouds.points, rows.tolist()))
        made: list[list[View]] = []  # a list of views for each size
        for group in groups:
            x, normals = clouds.tensors(group)
            extra = stack(y, group) if per_point else None
            made.append(self._views(x, normals, extra, generator))
        views = [
            _joined(
                [_in_order(parts, groups, rows) for parts in zip(*same, strict=True)]
            )
            for same in zip(*made, strict=True)
        ]
        joined = join_views(views)
        inputs = self._inputs(network, joined.points, joined.normals)
        index = torch.from_numpy(rows)
        known = None if category is None else category[index]
        targets = joined.extra if per_point else y[index]
        return CloudSource(inputs, targets, known, augment, seed, len(rows))

    def _views(
        self,
        x: Tensor,
        normals: Tensor | None,
        extra: Tensor | None,
        generator: torch.Generator | None,
    ) -> list[View]:
        """Views of clouds of one size: all to train on, one to validate."""
        if generator is None:
            return [first_view(x, normals, extra, self.n_points)]
        return training_views(
            x,
            normals,
            extra,
            self.n_points,
            self.n_views,
            jitter=self.jitter,
            stretch=self.stretch,
            mirror=self.mirror,
            generator=generator,
        )

    def _split(
        self, y: Tensor | list[np.ndarray], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        share = self.validation_fraction
        labels = y.numpy() if isinstance(y, Tensor) else None
        try:
            return split_off(len(y), share, seed, labels)
        except ValueError:  # a class with a single cloud
            return split_off(len(y), share, seed)

    def _fingerprint(
        self, clouds: Clouds, y: Tensor | list[np.ndarray], seed: int
    ) -> str:
        digest = hashlib.sha256()
        labels = [y.numpy()] if isinstance(y, Tensor) else y
        for array in (*clouds.points, *labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        params = self.get_params()
        for name in ("checkpoint", "verbose", "device", "random_state"):
            params.pop(name)
        digest.update(repr((sorted(params.items()), seed)).encode())
        return digest.hexdigest()

    # use

    def _evaluate(
        self, clouds: Clouds, method: str, category: Tensor | None = None
    ) -> list[list[tuple[View, Tensor]]]:
        """What the network gives for each vote of each cloud, beside what it saw.

        Clouds are put together by size, so that none is changed by another.
        """
        views: list[list[View]] = [[] for _ in clouds.points]
        for rows in by_size(clouds.points):
            x, normals = clouds.tensors(rows)
            for view in voting_views(x, normals, self.n_points, self.n_votes):
                for i, row in enumerate(rows):
                    views[row].append(view.cloud(i))
        flat = [(row, view) for row, votes in enumerate(views) for view in votes]
        found: list[list[tuple[View, Tensor]]] = [[] for _ in views]
        for group in by_size([view.points[0].numpy() for _, view in flat]):
            chosen = [flat[i] for i in group]
            kinds = None
            if category is not None:
                kinds = category[[row for row, _ in chosen]]
            scores = self._run(join_views([v for _, v in chosen]), method, kinds)
            for (row, view), seen in zip(chosen, scores, strict=True):
                found[row].append((view, seen))
        return found

    def _mean_vote(
        self, X: ArrayLike, normals: ArrayLike | None, method: str
    ) -> Tensor:
        """Mean over the votes of what the network gives for each cloud."""
        check_is_fitted(self, "net_")
        votes = self._evaluate(self._read(X, normals), method)
        return torch.stack([torch.stack([s for _, s in v]).mean(0) for v in votes])

    def _run(self, view: View, method: str, category: Tensor | None = None) -> Tensor:
        x, directions = view.points, view.normals
        network = self.net_.module_.network.eval()
        parts = []
        with torch.no_grad():
            for rows in torch.arange(len(x)).split(_PREDICT_BATCH):
                n = None if directions is None else directions[rows]
                inputs = self._inputs(network, x[rows], n)
                if isinstance(inputs, Tensor):
                    inputs = inputs.to(self.device)
                known = {} if category is None else {"category": category[rows]}
                parts.append(getattr(network, method)(inputs, **known).cpu())
        return torch.cat(parts)

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.net_.module_.network.state_dict(), {"history": self.history_}

    @staticmethod
    def _parameters(stored: dict[str, Any]) -> dict[str, Any]:
        params = stored | {"scale_range": tuple(stored["scale_range"])}
        if isinstance(params.get("class_weight"), list):  # keys that are not strings
            params["class_weight"] = {k: v for k, v in params["class_weight"]}
        return params

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.history_ = content["history"]
        network = self._network()
        network.load_state_dict(tensors)
        self.net_ = Loaded(Trainee(network).to(self.device).eval())


def _joined(parts: Sequence[Tensor | None]) -> View:
    points, normals, extra = parts
    if points is None:
        raise ValueError("expected points, found none")
    return View(points, normals, extra)


def _in_order(
    parts: Sequence[Tensor | None], groups: Sequence[Sequence[int]], rows: np.ndarray
) -> Tensor | None:
    """Join what was made by size, in the order of the rows."""
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    place = {row: i for i, row in enumerate(i for group in groups for i in group)}
    order = torch.tensor([place[row] for row in rows.tolist()])
    return torch.cat([part for part in parts if part is not None])[order]
