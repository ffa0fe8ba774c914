"""Traffic forecasting behind scikit-learn's interface."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from manifoldkit._checks import (
    Rule,
    check_choice,
    count,
    interval,
    one_of,
    optional,
    positive,
)
from manifoldkit._faces.estimator import (
    TRAINING,
    Deadline,
    TorchFace,
    evaluate,
    seeded,
)
from manifoldkit.graphs.forecast.baselines import cut_windows, ridge_map
from manifoldkit.graphs.forecast.files import (
    as_tuples,
    graph_tensors,
    stored_graph,
)
from manifoldkit.graphs.forecast.metrics import ErrorSums, ForecastReport
from manifoldkit.graphs.forecast.networks import (
    RECIPES,
    ForecastNetwork,
    MaskedMAE,
    make_backbone,
    recipe_of,
)
from manifoldkit.graphs.forecast.scaling import Standardizer
from manifoldkit.graphs.forecast.series import (
    Series,
    WindowLoader,
    Windows,
    as_graph,
    check_alike,
    check_readings,
    check_series,
    check_training_rows,
    split_rows,
    time_of_day,
    to_minutes,
    weekday,
    window_starts,
)
from manifoldkit.graphs.virtual.adjacency import SemiAdaptiveAdjacency

# Clipping and weight decay of the published recipes suit losses in miles per hour. Data
# of any unit are trained as if their spread were that of speeds on a motorway.
_SPREAD = 10.0


class TrafficForecaster(TorchFace, BaseEstimator):
    """Forecast the readings of all sensors of a road network.

    A graph network on the sensors, with virtual nodes, behind scikit-learn's
    interface; trained through skorch (extra ``train``) on the mean absolute error in
    the unit of the readings. Missing readings (NaN) count neither in the loss nor in
    the errors. Mean, scale and profile come from the training rows alone.

    Parameters
    ----------
    backbone : {"stgcn", "gwnet", "linear"} or callable, default="stgcn"
        A callable takes ``(adjacency, history, horizon)`` and returns a module that
        maps features (B, history, N, 3) to (B, horizon, N). "linear" is one map over
        time, shared by all sensors, without a graph.
    history, horizon : int, default=12
        Steps in and out.
    virtual_nodes : int, default=10
        Number of virtual nodes; 0 for none.
    adjacency : {"semi", "adaptive", "all_ones", "distance"}, default="semi"
        Mode of :class:`~manifoldkit.graphs.SemiAdaptiveAdjacency`.
    gate, bidirectional : bool, default=False
        Whether the adjacency weighs its virtual nodes, and knows both directions.
    adjacency_options, backbone_options : dict, optional
        Further options of the adjacency and of the backbone, such as
        ``{"channels": (32, 16, 32), "order": 2}``.
    residual : {"profile", "ridge"} or None, default="profile"
        "profile" forecasts what the historical mean by time of day leaves over;
        "ridge" moreover adds a ridge regression from the history, at which training
        starts. On small data this matters more than the network.
    profile : {"auto", "day", "week_part"}, default="auto"
        Days that share a profile: all, or workdays and weekends apart, which "auto"
        does when the training rows cover two weeks.
    scaler : {"sensor", "global"}, default="sensor"
        Mean and standard deviation of each sensor, or of all together. Of a sensor that
        is constant in the training rows, or has no reading there, no spread is known:
        its later readings count as missing, and its forecast is its profile or mean, or
        that of the other sensors.
    split : tuple, optional
        Rows at which validation and test begin, or three shares; default what the
        data set says, else (0.7, 0.1, 0.2). Windows of validation and test may reach
        back into the part before for their inputs, never for their targets.
    null_value : float, optional
        The reading that means "missing"; by default only NaN does.
    lr, weight_decay, clip : float, optional
        Learning rate and weight decay of Adam, and the largest gradient norm; by
        default those of the backbone's published recipe. The rate falls by 5 % every
        10 epochs. Decay and clipping are weighed against a loss in units of a tenth of
        the readings' mean spread, so the unit of the readings does not matter.
    max_epochs, batch_size, patience : int, default=100, 64, 30
        Passes; windows a step; epochs without a better validation loss after which
        training ends. The best weights are kept.
    max_seconds : float, optional
        Wall-clock time after which training ends, with the best weights so far.
    device : str, default="cpu"
        Where the network is trained and applied, such as "cuda".
    random_state : int, RandomState instance or None, default=None
        Draws the initial weights and the batches.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet, or what stands for it in a loaded model
        ``net_.module_.backbone`` is the network.
    adjacency_ : SemiAdaptiveAdjacency
        The learned graph (``explain``, ``plot``).
    history_ : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``valid_loss``, ``dur``.
    n_sensors_, step_minutes_ : int
        Sensors, and minutes between rows, that ``fit`` has seen.
    scaler_ : Standardizer
        Profile (``profile_``), mean and scale (``center_``, ``scale_``), fitted on the
        training rows.

    Examples
    --------
    >>> from manifoldkit.datasets import make_traffic
    >>> data = make_traffic(n_days=4, n_sensors=10, random_state=0)
    >>> model = TrafficForecaster(horizon=6, virtual_nodes=2, max_epochs=1,
    ...                           backbone_options={"channels": (8, 4, 8)},
    ...                           random_state=0).fit(data)
    >>> model.predict(data.values[:12], t0=data.start).shape
    (6, 10)
    >>> model.evaluate(data, horizons=[1, 6]).rows[1]["step"]
    6
    """

    _format = "manifoldkit.graphs.TrafficForecaster"
    _forgets_generator = True
    _settings: ClassVar[dict[str, Rule]] = {
        **{k: v for k, v in TRAINING.items() if k != "validation_fraction"},
        "lr": interval(0),  # 0 keeps the start, which may be a ridge regression
        "weight_decay": optional(interval(0)),
        "history": count(),
        "horizon": count(),
        "clip": optional(positive),
        "max_seconds": optional(interval(0)),
        "residual": one_of("profile", "ridge", None),
        "scaler": one_of("sensor", "global"),
    }

    def __init__(
        self,
        backbone: str | Callable[..., nn.Module] = "stgcn",
        *,
        history: int = 12,
        horizon: int = 12,
        virtual_nodes: int = 10,
        adjacency: str = "semi",
        gate: bool = False,
        bidirectional: bool = False,
        adjacency_options: dict | None = None,
        backbone_options: dict | None = None,
        residual: str | None = "profile",
        profile: str = "auto",
        scaler: str = "sensor",
        split: Sequence[float] | None = None,
        null_value: float | None = None,
        lr: float = 1e-3,
        weight_decay: float | None = None,
        clip: float | None = None,
        max_epochs: int = 100,
        batch_size: int = 64,
        patience: int = 30,
        max_seconds: float | None = None,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.history = history
        self.horizon = horizon
        self.virtual_nodes = virtual_nodes
        self.adjacency = adjacency
        self.gate = gate
        self.bidirectional = bidirectional
        self.adjacency_options = adjacency_options
        self.backbone_options = backbone_options
        self.residual = residual
        self.profile = profile
        self.scaler = scaler
        self.split = split
        self.null_value = null_value
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.patience = patience
        self.max_seconds = max_seconds
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, dataset: Any, y: None = None) -> Self:
        """Train on the first part of a data set, with early stopping on the second.

        Parameters
        ----------
        dataset : TrafficData or any object
            With ``values`` (T, N), ``adjacency`` (N, N; row listens to column; array
            or sparse, or ``[ids, places, matrix]`` as in ``adj_mx.pkl``), ``start``,
            ``step_minutes`` and optionally ``timestamps``, ``sensor_id`` and ``split``.
        y : None
            Not used.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Data or settings that do not fit.
        MissingExtraError
            skorch is not installed.
        """
        self._check_settings()
        series = check_series(dataset, self.null_value)
        names = getattr(dataset, "sensor_id", None)
        graph = as_graph(dataset.adjacency, series.values.shape[1], names)
        first, second = self._split(dataset, series)
        self.n_sensors_, self.step_minutes_ = series.values.shape[1], series.clock.step
        self.dtype_ = str(series.values.dtype)
        self.scaler_ = self._scaler().fit(series, first)
        minutes = series.clock.minutes(np.arange(len(series.values)))
        z = torch.from_numpy(self.scaler_.transform(series.values, minutes))
        sizes = (self.history, self.horizon)
        check_training_rows(series.values[:first])
        train_starts = window_starts(0, first, *sizes)
        if not len(train_starts):
            raise ValueError(
                f"horizon: {self.history} + {self.horizon} steps do not fit the "
                f"training part of {first} rows"
            )
        held = window_starts(first, second, *sizes)
        highway = None
        if self.residual == "ridge":
            highway = ridge_map(z[:first].numpy(), *sizes, alpha=1.0)
        from manifoldkit._faces.training import train

        rng = check_random_state(self.random_state)
        unit = float(self.scaler_.scale_.mean(dtype=np.float64)) / _SPREAD
        decay, clip = recipe_of(self.backbone, self.weight_decay, self.clip)
        deadline = Deadline(self.max_seconds)
        with seeded(int(rng.randint(2**31 - 1)), self.device):
            self.net_, self.history_ = train(
                self._network(graph, highway),
                MaskedMAE(torch.as_tensor(self.scaler_.scale_ / unit)),
                Windows(z, minutes, train_starts, *sizes),
                Windows(z, minutes, held, *sizes) if len(held) else None,
                optimizer=partial(torch.optim.Adam, weight_decay=decay),
                lr=self.lr,
                epochs=self.max_epochs,
                batch_size=self.batch_size,
                loader={
                    "iterator_train": partial(WindowLoader, stop=deadline),
                    "iterator_valid": WindowLoader,
                },
                schedule="step",
                clip=clip,
                patience=self.patience if len(held) else None,
                deadline=deadline,
                device=self.device,
                verbose=self.verbose,
            )
        for row in self.history_:
            row |= {k: unit * row[k] for k in ("train_loss", "valid_loss") if k in row}
        return self

    def predict(self, history: ArrayLike, t0: Any = None) -> np.ndarray:
        """Forecast.

        Parameters
        ----------
        history : array-like, shape (history, N) or (B, history, N)
            The latest readings, NaN where missing; an axis of length 1 may follow.
        t0 : datetime64 or int, or array of shape (B,)
            Time of the first row of each history (naive local clock; numbers are
            minutes since 1970). Needed by every model but a linear one without
            profile.

        Returns
        -------
        ndarray, shape (horizon, N) or (B, horizon, N)

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Readings of another shape or infinite; no time where one is needed, or
            times with a zone.
        """
        check_is_fitted(self, "net_")
        past = check_readings(history, "history", self.null_value)
        sizes = (self.history, self.n_sensors_)
        if past.shape[-3:] == (*sizes, 1) and past.shape[1:] != sizes:
            past = past[..., 0]  # as in the archives
        single = past.ndim == 2
        past = past[None] if single else past
        if past.shape[1:] != sizes:
            raise ValueError(
                f"history: expected shape (..., {self.history}, {self.n_sensors_}), "
                f"found {np.shape(history)}"
            )
        if t0 is None:
            if self.residual is not None or self.backbone != "linear":
                raise ValueError("t0: expected the time of the first row, found None")
            t0 = 0
        begin = np.broadcast_to(to_minutes(t0), len(past))
        parts = [
            self._forecast(
                past[k : k + self.batch_size], begin[k : k + self.batch_size]
            )
            for k in range(0, len(past), self.batch_size)
        ]
        empty = np.empty((0, self.horizon, self.n_sensors_), self.dtype_)
        out = np.concatenate([empty, *parts])
        return out[0] if single else out

    def score(self, dataset: Any, y: None = None) -> float:
        """Return minus the mean absolute error on the test part: more is better."""
        return -self.evaluate(dataset).mae

    def evaluate(
        self,
        dataset: Any,
        horizons: Sequence[int] | None = None,
        mape_floor: float | None = None,
        part: str = "test",
    ) -> ForecastReport:
        """Return errors by horizon on the last part of a data set.

        Parameters
        ----------
        dataset : object
            Data as given to :meth:`fit`, split the same way.
        horizons : sequence of int, optional
            Steps ahead to list; default all.
        mape_floor : float, optional
            Smallest truth for which the percentage error counts; default what the
            data set says, else any but zero.
        part : {"test", "validation"}
            Which targets.

        Returns
        -------
        ForecastReport

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Other sensors or steps than in ``fit``; a part too short for a window;
            horizons out of range.
        """
        check_is_fitted(self, "net_")
        check_choice(part, ("test", "validation"), "part")
        series = check_series(dataset, self.null_value)
        check_alike(series, self.n_sensors_, self.step_minutes_)
        first, second = self._split(dataset, series)
        bounds = (second, len(series.values)) if part == "test" else (first, second)
        starts = window_starts(*bounds, self.history, self.horizon)
        if not len(starts):
            raise ValueError(
                f"horizon: {self.horizon} steps do not fit the {part} part of "
                f"{bounds[1] - bounds[0]} rows"
            )
        if mape_floor is None:
            mape_floor = getattr(dataset, "mape_floor", 0.0)
        sums = ErrorSums(self.horizon, mape_floor)
        for begin in range(0, len(starts), self.batch_size):
            chosen = starts[begin : begin + self.batch_size]
            past, future = cut_windows(
                series.values, chosen, self.history, self.horizon
            )
            sums.add(future, self._forecast(past, series.clock.minutes(chosen)))
        return sums.report(horizons)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # a data set; histories for predict
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        return tags

    def _check_settings(self) -> None:
        super()._check_settings()
        if not callable(self.backbone) and self.backbone not in RECIPES:
            raise ValueError(
                f"backbone: expected one of {list(RECIPES)} or a callable, found "
                f"{self.backbone!r}"
            )

    def _split(self, dataset, series: Series) -> tuple[int, int]:
        split = self.split
        if split is None:
            split = getattr(dataset, "split", None) or (0.7, 0.1, 0.2)
        return split_rows(len(series.values), split)

    def _scaler(self) -> Standardizer:
        return Standardizer(self.profile if self.residual else None, self.scaler)

    def _network(self, graph: Tensor, highway: Any) -> ForecastNetwork:
        dtype = getattr(torch, self.dtype_)
        self._graph = graph.to(dtype)
        self.adjacency_ = SemiAdaptiveAdjacency(
            self._graph,
            self.virtual_nodes,
            mode=self.adjacency,
            gate=self.gate,
            bidirectional=self.bidirectional,
            **(self.adjacency_options or {}),
        )
        if highway is not None:
            highway = torch.as_tensor(np.asarray(highway), dtype=dtype)
        backbone = make_backbone(
            self.backbone,
            self.adjacency_,
            (self.history, self.horizon),
            self.backbone_options or {},
        )
        return ForecastNetwork(backbone, highway).to(dtype)

    def _forecast(self, past: np.ndarray, begin: np.ndarray) -> np.ndarray:
        """Forecast histories (B, history, N) that begin at some minutes (B,)."""
        steps = np.arange(self.history + self.horizon) * self.step_minutes_
        own, ahead = np.split(begin[:, None] + steps, [self.history], 1)
        arrays = {
            "z": np.nan_to_num(self.scaler_.transform(past, own)),
            "day": time_of_day(own).astype(self.dtype_),
            "week": (weekday(own) / 7).astype(self.dtype_),
        }
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        module = self.net_.module_.eval()
        (out,) = evaluate(module, tensors, max(len(past), 1), self.device)
        return self.scaler_.restore(out.cpu().numpy(), ahead)

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.net_.module_.state_dict()
        tensors = {f"network.{k}": v for k, v in state.items()}
        tensors |= graph_tensors(self._graph)
        scaler = self.scaler_.arrays()
        tensors |= {k: torch.from_numpy(v) for k, v in scaler.items()}
        profile = self.scaler_.profile_
        return tensors, {
            "n_sensors": self.n_sensors_,
            "step_minutes": self.step_minutes_,
            "dtype": self.dtype_,
            "sparse": self.adjacency_.is_sparse,
            "profile_split": profile is not None and profile.split_,
            "history": self.history_,
        }

    @staticmethod
    def _parameters(stored: dict[str, Any]) -> dict[str, Any]:
        both = ("backbone_options", "split")
        return stored | {name: as_tuples(stored[name]) for name in both}

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.n_sensors_, self.dtype_ = content["n_sensors"], content["dtype"]
        self.step_minutes_, self.history_ = content["step_minutes"], content["history"]
        self.scaler_ = self._scaler().restore_arrays(
            tensors, self.step_minutes_, content["profile_split"]
        )
        graph = stored_graph(tensors, self.n_sensors_, content["sparse"])
        with seeded(0, self.device):
            module = self._network(graph, tensors.get("network.highway"))
        state = {k: tensors[f"network.{k}"] for k in module.state_dict()}
        self._adopt(module, state)
