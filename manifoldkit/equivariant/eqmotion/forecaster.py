"""Motion forecasting behind scikit-learn's interface."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from manifoldkit._checks import interval, one_of, optional, positive
from manifoldkit._faces.estimator import TRAINING, TorchFace, evaluate, seeded
from manifoldkit.equivariant.eqmotion.metrics import ade, min_ade
from manifoldkit.equivariant.eqmotion.model import EqMotion
from manifoldkit.equivariant.eqmotion.scaling import typical_size
from manifoldkit.equivariant.eqmotion.scenes import Scenes, read_scenes
from manifoldkit.equivariant.eqmotion.training import DisplacementLoss, Forecast

_FITTED = ("history_len_", "horizon_len_", "n_agents_", "n_dims_", "unit_")
_PREDICT_BATCH = 512


class MotionForecaster(TorchFace, BaseEstimator):
    """Forecast how several agents move on.

    :class:`~manifoldkit.equivariant.EqMotion` (or a network of your own) behind
    scikit-learn's interface, trained through skorch (extra ``train``) on the mean
    distance between forecast and truth.

    Tracks are arrays (n_samples, n_agents, n_steps, n_dims) in which NaN means "not
    observed": an agent that is NaN throughout is padding, missing steps of the past
    are completed by ``missing``, missing steps of the future do not count. Scenes with
    different numbers of agents, or in the plane and in space, are a list of arrays
    (n_agents, n_steps, n_dims); what is returned for them is a list too.

    The unit of the tracks does not matter: the network works in units of ``unit_``,
    which ``fit`` learns, so a model fitted to millimeters forecasts what one fitted to
    meters does, times 1000. Scenes more than ten times as large as that are shown
    to EqMotion smaller than they are, and their forecasts enlarged.

    Parameters
    ----------
    model : "eqmotion" or callable, default="eqmotion"
        A callable takes ``past_len`` and ``future_len`` and returns a torch module
        that maps (B, N, past_len, D) to (B, N, future_len, D), without NaN.
    history : int, optional
        Observed steps; default half of the steps seen in ``fit``.
    horizon : int, optional
        Steps to forecast; default the rest.
    hidden, channels, n_layers, n_categories, n_null, tau, n_modes
        Sizes of the network, see :class:`~manifoldkit.equivariant.EqMotion`.
    agent_embedding : bool, default=False
        Tell agents apart by their place in the array (joints of a skeleton).
    missing : {"raise", "hold", "linear"}, default="raise"
        How tracks with gaps are completed.
    model_options : dict, optional
        Further options of EqMotion, such as ``{"rescale": "speed"}`` (default None
        here: within a unit, absolute speed and distance are seen).
    unit : "median", float or None, default="median"
        Length that the network takes for one. "median" is the median size of the scenes
        in ``fit``, where size is the root mean square distance of all positions from
        their mean. Give a length, in the unit of the tracks, where the network knows
        one; None, as version 0.1.0 had it, shows it the tracks as they are.
    supervise : {"all", "ego"}, default="all"
        Whose forecasts the loss counts: all agents, or the first of each sample.
    step_weights : array-like of shape (horizon,), optional
        Factors of the loss at each step to forecast; EqMotion takes
        ``horizon / np.arange(1, 5, 4 / horizon)`` for one second of human motion.
    entropy_weight : float, default=0.0
        Weight in the loss of the entropy of inferred categories, beside distances in
        units of ``unit_``; makes them sharper.
    time_reversal : bool, default=False
        Train on the reversed tracks too.
    lr, weight_decay : float, default=5e-4, 0.0
        Learning rate and weight decay of Adam.
    max_epochs, batch_size : int, default=50, 64
        Passes over the data, samples a step.
    early_stopping : bool, default=False
        Put ``validation_fraction`` of the samples aside, stop when their loss has not
        improved for ``patience`` epochs, and keep the best weights.
    validation_fraction : float, default=0.1
        Share for early stopping.
    patience : int, default=10
        Epochs without improvement.
    device : str, default="cpu"
        Where the network is trained and applied, such as "cuda".
    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the batches and the validation share.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet, or what stands for it in a loaded model
        ``net_.module_.network`` is the network, for tracks divided by ``unit_``.
    history_ : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``dur``, and with early stopping
        ``valid_loss``; losses are distances in the unit of the tracks.
    unit_ : float or None
        The length that the network takes for one.
    history_len_, horizon_len_, n_agents_, n_dims_ : int
        Sizes seen in ``fit``; only ``n_agents_`` may change afterwards.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> start, speed = rng.standard_normal((2, 64, 3, 1, 2))
    >>> X = start + 0.1 * speed * np.arange(8)[:, None]  # nobody turns
    >>> model = MotionForecaster(history=5, hidden=16, channels=8, n_layers=1,
    ...                          lr=5e-3, max_epochs=60, random_state=0).fit(X)
    >>> model.predict(X[:, :, :5]).shape
    (64, 3, 3, 2)
    >>> bool(model.score(X) > -0.2)
    True
    """

    _format = "manifoldkit.equivariant.MotionForecaster"
    _forgets_generator = True
    _settings = TRAINING | {
        "supervise": one_of("all", "ego"),
        "entropy_weight": interval(0),
    }

    def __init__(
        self,
        model: str | Callable[..., nn.Module] = "eqmotion",
        *,
        history: int | None = None,
        horizon: int | None = None,
        hidden: int = 64,
        channels: int = 64,
        n_layers: int = 4,
        n_categories: int = 2,
        n_null: int = 0,
        tau: float = 1.0,
        n_modes: int = 1,
        agent_embedding: bool = False,
        missing: str = "raise",
        model_options: dict | None = None,
        unit: str | float | None = "median",
        supervise: str = "all",
        step_weights: ArrayLike | None = None,
        entropy_weight: float = 0.0,
        time_reversal: bool = False,
        lr: float = 5e-4,
        weight_decay: float = 0.0,
        max_epochs: int = 50,
        batch_size: int = 64,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.model = model
        self.history = history
        self.horizon = horizon
        self.hidden = hidden
        self.channels = channels
        self.n_layers = n_layers
        self.n_categories = n_categories
        self.n_null = n_null
        self.tau = tau
        self.n_modes = n_modes
        self.agent_embedding = agent_embedding
        self.missing = missing
        self.model_options = model_options
        self.unit = unit
        self.supervise = supervise
        self.step_weights = step_weights
        self.entropy_weight = entropy_weight
        self.time_reversal = time_reversal
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_agents, n_steps, n_dims), or list
            Whole tracks: ``history`` observed steps, then ``horizon`` future ones. Or
            the observed steps alone, if ``y`` is given.
        y : array-like of shape (n_samples, n_agents, horizon, n_dims), or list
            The future, optional.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Shapes or settings that do not fit; infinite positions.
        MissingExtraError
            skorch is not installed.
        """
        self._check_settings()
        past, future = self._split(X, y, fitted=False)
        if len(past) == 0:
            raise ValueError("X: expected at least one sample, found none")
        self.n_agents_, self.n_dims_ = past.shape[1], past.shape[3]
        self.history_len_, self.horizon_len_ = past.shape[2], future.shape[2]
        rng = check_random_state(self.random_state)
        held = None
        if self.early_stopping:
            count = max(1, round(self.validation_fraction * len(past)))
            if count >= len(past):
                raise ValueError(
                    "early_stopping: expected more samples than go into validation, "
                    f"found {len(past)}"
                )
            order = rng.permutation(len(past))
            held = past[order[:count]], future[order[:count]]
            past, future = past[order[count:]], future[order[count:]]
        self.unit_ = self._learn_unit(past, future)
        if self.time_reversal:
            whole = np.concatenate([past, future], 2)
            whole = np.concatenate([whole, whole[:, :, ::-1]])
            past, future = np.split(whole, [self.history_len_], axis=2)
        # a copy each, because the loader wants strides that torch knows
        past, future = np.ascontiguousarray(past), np.ascontiguousarray(future)
        from manifoldkit._faces.training import train

        with seeded(int(rng.randint(2**31 - 1)), self.device):
            self.net_, rows = train(
                self._module(),
                DisplacementLoss(
                    self.n_modes,
                    self.supervise == "ego",
                    self.entropy_weight,
                    self._step_weights(),
                    self.unit_,
                ),
                (past, future),
                held,
                optimizer=partial(torch.optim.Adam, weight_decay=self.weight_decay),
                lr=self.lr,
                epochs=self.max_epochs,
                batch_size=self.batch_size,
                patience=self.patience if held is not None else None,
                device=self.device,
                verbose=self.verbose,
            )
        self.history_ = [
            {k: v * (self.unit_ or 1.0) if k.endswith("_loss") else v for k, v in r}
            for r in map(dict.items, rows)
        ]
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Forecast.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_agents, n_steps, n_dims), or list
            The observed steps, or whole tracks, of which the future is not looked at.

        Returns
        -------
        ndarray of shape (n_samples, n_agents, horizon, n_dims)
            With several modes (n_samples, n_agents, n_modes, horizon, n_dims). Zero
            for agents that are NaN throughout. A list of arrays, one a scene, where
            the scenes differ in agents or dimensions.
        """
        scenes = self._read(X)
        return scenes.own(self._forward(scenes.tracks)[0])

    def predict_interactions(self, X: ArrayLike) -> np.ndarray:
        """Infer the category of every pair of agents.

        Parameters
        ----------
        X : array-like
            Tracks, as :meth:`predict` takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_agents, n_agents, n_categories)
            Shares that sum to 1. A list of arrays where the scenes differ in agents.

        Raises
        ------
        ValueError
            The network infers none.
        """
        scenes = self._read(X)
        category = self._forward(scenes.tracks)[1]
        if category is None:
            raise ValueError("predict_interactions: this network infers no categories")
        return scenes.own(category, pairs=True)

    def score(self, X: ArrayLike, y: ArrayLike | None = None) -> float:
        """Return minus the average displacement error, so that more is better.

        Parameters
        ----------
        X, y : array-like
            Tracks, as :meth:`fit` takes them. Agents without a complete future do not
            count. With several modes the best one of each agent does.
        """
        past, future = self._split(X, y, fitted=True)
        pred = torch.from_numpy(self._forward(past)[0])
        target = torch.from_numpy(future)
        valid = target.isfinite().all((-1, -2))
        valid &= torch.from_numpy(np.isfinite(past).all(-1).any(-1))
        target = target.nan_to_num()
        return -float((ade if self.n_modes == 1 else min_ade)(pred, target, valid))

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        fitted = {name: getattr(self, name) for name in _FITTED}
        content = {"fitted": fitted, "history": self.history_}
        return self.net_.module_.state_dict(), content

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name, value in ({"unit_": None} | content["fitted"]).items():
            setattr(self, name, value)
        self.history_ = content["history"]
        with seeded(0, self.device):
            module = self._module()
        self._adopt(module, tensors)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.model != "eqmotion" and not callable(self.model):
            raise ValueError(
                f"model: expected 'eqmotion' or a callable, found {self.model!r}"
            )

        known = [*signature(EqMotion).parameters]
        unknown = [name for name in self.model_options or {} if name not in known]
        if unknown:
            raise ValueError(
                f"model_options: expected options of EqMotion, {', '.join(known)}; "
                f"found {', '.join(map(repr, unknown))}"
            )
        if self.unit != "median":
            optional(positive)(self.unit, "unit ('median', a length or None)")

    @staticmethod
    def _parameters(stored: dict[str, Any]) -> dict[str, Any]:
        return {"unit": None} | stored  # models of 0.1.0 know of no unit

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # scenes have four axes, or are a list
        tags.input_tags.allow_nan = True
        return tags

    def _read(self, X, name: str = "X", fitted: bool = True) -> Scenes:
        """Check tracks; pad what differs from scene to scene."""
        agents = dims = 0
        if fitted:
            check_is_fitted(self, "net_")
            agents = self.n_agents_ if self.agent_embedding else 0
            dims = self.n_dims_
        scenes = read_scenes(X, name, agents, dims)
        if scenes.shapes is not None and callable(self.model):
            raise ValueError(
                f"{name}: scenes of different shapes, such as {scenes.shapes[:3]} "
                "(agents, dimensions), need model='eqmotion'; a network of your own "
                "takes arrays (n_samples, n_agents, n_steps, n_dims)"
            )
        return scenes

    def _learn_unit(self, past: np.ndarray, future: np.ndarray) -> float | None:
        if self.unit == "median":
            return typical_size(np.concatenate([past, future], 2))
        return None if self.unit is None else float(self.unit)

    def _split(self, X, y, fitted: bool) -> tuple[np.ndarray, np.ndarray]:
        """Past and future of whole tracks, or of the two given apart."""
        scenes = self._read(X, fitted=fitted)
        X = scenes.tracks
        if y is not None:
            other = self._read(y, "y", fitted)
            y = other.tracks
            if (
                X.shape[:2] != y.shape[:2]
                or X.shape[3] != y.shape[3]
                or scenes.shapes != other.shapes
            ):
                raise ValueError(
                    "y: expected the samples, agents and dimensions of X, found "
                    f"shapes {scenes.shapes or X.shape} and {other.shapes or y.shape}"
                )
            return X, y
        steps = X.shape[2]
        history = self.history if self.history is not None else steps // 2
        if self.history is None and fitted:
            history = self.history_len_
        horizon = steps - history if self.horizon is None else self.horizon
        if history < 1 or horizon < 1 or history + horizon != steps:
            raise ValueError(
                f"X: expected history + horizon = {history} + {horizon} steps, "
                f"shape (n_samples, n_agents, {history + horizon}, n_dims), found "
                f"{X.shape}"
            )
        return X[:, :, :history], X[:, :, history:]

    def _network(self) -> nn.Module:
        if callable(self.model):
            return self.model(self.history_len_, self.horizon_len_)
        return EqMotion(
            self.history_len_,
            self.horizon_len_,
            self.hidden,
            self.channels,
            self.n_layers,
            self.n_categories,
            self.n_null,
            self.tau,
            self.n_modes,
            self.n_agents_ if self.agent_embedding else None,
            missing=self.missing,
            **({"rescale": None} | (self.model_options or {})),
        )

    def _module(self) -> Forecast:
        network = self._network()
        return Forecast(network, isinstance(network, EqMotion), self.unit_)

    def _step_weights(self) -> list[float] | None:
        if self.step_weights is None:
            return None
        weights = np.asarray(self.step_weights, dtype=float)
        if weights.shape != (self.horizon_len_,) or not (weights >= 0).all():
            raise ValueError(
                f"step_weights: expected {self.horizon_len_} numbers >= 0, one a step "
                f"to forecast, found {self.step_weights!r}"
            )
        return weights.tolist()

    def _forward(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        steps = (self.history_len_, self.history_len_ + self.horizon_len_)
        if X.shape[2] not in steps or X.shape[3] != self.n_dims_:
            raise ValueError(
                f"X: expected shape (n_samples, n_agents, {steps[0]}, {self.n_dims_})"
                f", or {steps[1]} steps, found {X.shape}"
            )
        x = torch.from_numpy(np.ascontiguousarray(X[:, :, : steps[0]]))
        module = self.net_.module_.eval()
        parts = evaluate(module, {"x": x}, _PREDICT_BATCH, self.device)
        pred = torch.cat([pred.cpu().to(x.dtype) for pred, _ in parts]).numpy()
        categories = [category.cpu() for _, category in parts if category is not None]
        return pred, torch.cat(categories).numpy() if categories else None
