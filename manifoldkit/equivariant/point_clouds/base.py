"""What the classifier and the segmenter of point clouds share."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from manifoldkit._checks import Rule, count, interval, one_of
from manifoldkit._faces.estimator import (
    TRAINING,
    Loaded,
    TorchFace,
    seeded,
    split_off,
)
from manifoldkit.equivariant.neighbors.sampling import farthest_point_sample
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
_SMALLEST = 8


class PointCloudBase(TorchFace, BaseEstimator):
    """Settings, input checks, training and files."""

    net_: Any
    on_invalid = "raise"  # a setting of the classifier alone: parts need every point
    _settings: ClassVar[dict[str, Rule]] = TRAINING | {
        "model": one_of(*MODELS),
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
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # input

    def _read(self, X, normals, name="X") -> tuple[Tensor, Tensor | None]:
        """Clouds and normals as float32 tensors of equal numbers of points."""
        clouds = _as_list(X, name)
        if normals is None and all(c.ndim == 2 and c.shape[1] == 6 for c in clouds):
            clouds, normals = [c[:, :3] for c in clouds], [c[:, 3:] for c in clouds]
        directions = None if normals is None else _as_list(normals, "normals")
        if directions is not None and len(directions) != len(clouds):
            raise ValueError(
                f"normals: expected {len(clouds)} arrays, found {len(directions)}"
            )
        if self.on_invalid == "drop":
            clouds, directions = _finite_points(clouds, directions)
        for i, cloud in enumerate(clouds):
            if cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) < _SMALLEST:
                raise ValueError(
                    f"{name}[{i}]: expected points of shape (n, 3) with n >= "
                    f"{_SMALLEST}, found shape {cloud.shape}"
                )
            if not np.isfinite(cloud).all():
                raise ValueError(f"{name}[{i}] is not finite: it contains NaN or inf")
            if directions is not None and directions[i].shape != cloud.shape:
                raise ValueError(
                    f"normals[{i}]: expected shape {cloud.shape}, found shape "
                    f"{directions[i].shape}"
                )
        if self.normalize == "unit_sphere":
            clouds = [_unit_sphere(cloud) for cloud in clouds]
        return self._equal_sizes(clouds, directions, name)

    def _equal_sizes(self, clouds, directions, name) -> tuple[Tensor, Tensor | None]:
        sizes = {len(cloud) for cloud in clouds}
        if self.n_points is not None and min(sizes) < self.n_points:
            raise ValueError(
                f"{name}: expected at least n_points={self.n_points} points in each "
                f"cloud, found {min(sizes)}"
            )
        if len(sizes) > 1 and self.n_points is None:
            raise ValueError(
                f"{name}: clouds of {min(sizes)} to {max(sizes)} points need n_points"
            )
        if len(sizes) > 1:  # farthest points bring all to the size of the smallest
            m, picked = min(sizes), []
            for i, cloud in enumerate(clouds):
                keep = farthest_point_sample(torch.from_numpy(cloud), m).numpy()
                picked.append(cloud[keep])
                if directions is not None:
                    directions[i] = directions[i][keep]
            clouds = picked
        x = torch.from_numpy(np.stack(clouds)).float()
        if directions is None:
            return x, None
        return x, torch.from_numpy(np.stack(directions)).float()

    def _inputs(self, network: nn.Module, x: Tensor, normals: Tensor | None):
        """What the network takes: graphs, or points."""
        if self.model == "risurconv":
            return geometry(network, x, normals)
        return x

    # training

    def _train(self, network: nn.Module, x, normals, y, category, weights):
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        held_rows = None
        rows = np.arange(len(x))
        if self.early_stopping:
            rows, held_rows = self._split(y, seed)
        augment = {
            "rotation": self.rotation,
            "axis": self.rotation_axis,
            "scale": self.scale_range,
        }
        data = (x, normals, y, category)
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
            known = self._fingerprint(x, y, seed)
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
        x, normals, y, category = data
        rows = torch.from_numpy(np.asarray(rows))
        per_point = y.ndim == 2
        n = None if normals is None else normals[rows]
        extra = y[rows] if per_point else None
        if generator is None:
            views = [first_view(x[rows], n, extra, self.n_points)]
        else:
            views = training_views(
                x[rows],
                n,
                extra,
                self.n_points,
                self.n_views,
                jitter=self.jitter,
                stretch=self.stretch,
                mirror=self.mirror,
                generator=generator,
            )
        joined = join_views(views)
        inputs = self._inputs(network, joined.points, joined.normals)
        known = None if category is None else category[rows]
        targets = joined.extra if per_point else y[rows]
        return CloudSource(inputs, targets, known, augment, seed, len(rows))

    def _split(self, y: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
        share, labels = self.validation_fraction, y.numpy() if y.ndim == 1 else None
        try:
            return split_off(len(y), share, seed, labels)
        except ValueError:  # a class with a single cloud
            return split_off(len(y), share, seed)

    def _fingerprint(self, x: Tensor, y: Tensor, seed: int) -> str:
        digest = hashlib.sha256()
        for array in (x, y):
            digest.update(np.ascontiguousarray(array.numpy()).tobytes())
        params = self.get_params()
        for name in ("checkpoint", "verbose", "device", "random_state"):
            params.pop(name)
        digest.update(repr((sorted(params.items()), seed)).encode())
        return digest.hexdigest()

    # use

    def _evaluate(self, X, normals, method: str, category=None) -> Tensor:
        """Mean over the votes of what the network gives for each cloud."""
        check_is_fitted(self, "net_")
        x, directions = self._read(X, normals)
        views = voting_views(x, directions, self.n_points, self.n_votes)
        return torch.stack([self._run(v, method, category) for v in views]).mean(0)

    def _run(self, view: View, method: str, category=None) -> Tensor:
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
        return stored | {"scale_range": tuple(stored["scale_range"])}

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.history_ = content["history"]
        network = self._network()
        network.load_state_dict(tensors)
        self.net_ = Loaded(Trainee(network).to(self.device).eval())


def _as_list(X, name: str) -> list[np.ndarray]:
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


def _finite_points(clouds, directions):
    """Leave out the points that are not finite, and their normals."""
    for i, cloud in enumerate(clouds):
        good = np.isfinite(cloud).all(-1)
        if good.ndim == 1 and not good.all():
            clouds[i] = cloud[good]
            if directions is not None and len(directions[i]) == len(cloud):
                directions[i] = directions[i][good]
    return clouds, directions


def _unit_sphere(cloud: np.ndarray) -> np.ndarray:
    """Center at the mean and divide by the largest radius, in float64."""
    centered = cloud.astype(np.float64)
    centered = centered - centered.mean(0)
    radius = np.linalg.norm(centered, axis=1).max()
    return (centered / radius if radius > 0 else centered).astype(cloud.dtype)
