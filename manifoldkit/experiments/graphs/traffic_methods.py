"""The data sets, methods and trainings of the traffic experiment.

:mod:`manifoldkit.experiments.graphs.traffic_virtual_nodes` runs them all and says what
the numbers show.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from manifoldkit.graphs import TrafficForecaster

NONE = "STGCN, no virtual node"
SEMI = "STGCN, 10 virtual nodes, semi-adaptive"
RIDGE = "profile + ridge"
SMALL = {"channels": (32, 16, 32), "order": 2, "out_channels": 64, "dropout": 0.3}
VARIANTS: dict[str, dict[str, Any]] = {
    NONE: {"virtual_nodes": 0, "adjacency": "distance"},
    SEMI: {},
    "STGCN, 10 virtual nodes, gated": {"gate": True},
    "STGCN, 1 virtual node, all ones": {"adjacency": "all_ones", "virtual_nodes": 1},
}
TINY = {"channels": (16, 8, 16), "order": 2, "out_channels": 16, "dropout": 0.1}
APART = "normalized per node, no virtual node"
APART_GATED = "normalized per node, 10 virtual nodes, gated"
CORRIDOR: dict[str, dict] = {
    name: {"lr": 5e-3, "backbone_options": TINY | norm, **options}
    for name, norm, options in (
        (APART, {"norm": "node"}, VARIANTS[NONE]),
        (APART_GATED, {"norm": "node"}, {"gate": True}),
        ("normalized per node, 10 virtual nodes, semi-adaptive", {"norm": "node"}, {}),
        (
            "normalized per node, 1 virtual node, all ones",
            {"norm": "node"},
            {"adjacency": "all_ones", "virtual_nodes": 1},
        ),
        ("published normalization, no virtual node", {}, VARIANTS[NONE]),
        ("published normalization, 10 virtual nodes, gated", {}, {"gate": True}),
        ("published normalization, 10 virtual nodes, semi-adaptive", {}, {}),
    )
}
WAVENET = {"channels": 8, "skip_channels": 32, "end_channels": 32, "blocks": 2}
CORRIDOR |= {
    f"Graph WaveNet, {name}": {
        "backbone": "gwnet",
        "lr": 5e-3,
        "backbone_options": WAVENET | {"adaptive_dim": adaptive},
        **options,
    }
    for name, adaptive, options in (
        ("no virtual node", 0, VARIANTS[NONE]),
        ("10 virtual nodes, gated", 0, {"gate": True}),
        ("its own adaptive graph", 10, VARIANTS[NONE]),
    )
}
REPEATED = (NONE, SEMI, APART, APART_GATED)  # trained with every seed


class Task(NamedTuple):
    """A data set with its standard windows.

    Attributes
    ----------
    title : str
        Heading in the table.
    history, horizon : int
        Steps.
    epochs : int
        Passes.
    gate : tuple of float or None
        Mean absolute error, over all steps and the last quarter, to stay under.
    seeds : int
        Trainings of STGCN without virtual nodes and with semi-adaptive ones; the other
        methods are trained once.
    archive : str
        Name of the recordings among the data sets; "" for a simulation.
    """

    title: str
    history: int
    horizon: int
    epochs: int
    gate: tuple[float, float] | None = None
    seeds: int = 3
    archive: str = ""


TASKS = {
    "metr_la": Task("METR-LA week", 12, 20, 12, (4.50, 5.15), archive="metr_la"),
    "the_hague": Task("The Hague", 24, 24, 6, (5.20, 5.40), archive="the_hague"),
    "corridor": Task("simulated corridor", 12, 8, 20),
    "metr_la_long": Task(
        "METR-LA week, 4 hours", 12, 48, 8, seeds=1, archive="metr_la"
    ),
}


def load(task: str, quick: bool) -> Any:
    """Return the data set of a task; quick runs simulate a short one."""
    from manifoldkit.datasets import fetch_metr_la, fetch_the_hague, make_traffic

    if task == "corridor":
        n_sensors, n_days = (16, 4) if quick else (32, 28)
        return make_traffic(n_sensors, n_days, lag=8, random_state=0)
    return fetch_the_hague() if task == "the_hague" else fetch_metr_la()


def make_model(
    task: str, options: dict, *, seed: int, quick: bool = False, device: str = "cpu"
) -> "TrafficForecaster":
    """Return a forecaster, not fitted; settings are the same for all data sets."""
    from manifoldkit.graphs import TrafficForecaster

    setting = TASKS[task]
    usual = {
        "history": setting.history,
        "horizon": setting.horizon,
        "residual": "ridge",
        "lr": 2e-3,
        "max_epochs": 1 if quick else setting.epochs,
        "backbone_options": SMALL,
        "random_state": seed,
        "device": device,
    }
    return TrafficForecaster(**(usual | options))


def train(
    task: str, options: dict, *, seed: int, quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Train one network; return its errors on the test part and how far it sees."""
    data = load(task, quick)
    model = make_model(task, options, seed=seed, quick=quick, device=device).fit(data)
    module = model.net_.module_
    out = {
        **report_row(model.evaluate(data)),
        "valid_mae": model.evaluate(data, part="validation").mae,
        "parameters": sum(p.numel() for p in module.parameters() if p.numel()),
        "train_seconds": float(sum(row.get("dur", 0.0) for row in model.history_)),
        "best_epoch": int(np.argmin([row["valid_loss"] for row in model.history_])) + 1,
    }
    if seed == 0 and task == "corridor":
        out["sensitivity"] = sensitivity_by_hops(model, data)
    return out


def report_row(report: Any) -> dict[str, Any]:
    """Return the figures of a report, lists by step included."""
    row = {key: report.overall[key] for key in ("mae", "rmse", "mape")}
    for key in ("mae", "rmse"):
        row[f"{key}_last_quarter"] = report.last_quarter[key]
    for key in ("mae", "rmse", "mape"):
        row[f"{key}_by_step"] = [step[key] for step in report.rows]
    return row | {"windows": report.n_windows}


def sensitivity_by_hops(
    model: "TrafficForecaster", data: Any, probes: int = 2
) -> list[dict[str, Any]]:
    """Return how much forecasts feel of the readings so many hops away."""
    from manifoldkit.graphs import layer_sensitivity

    network = model.net_.module_.backbone
    z = torch.zeros(1, model.history, model.n_sensors_, 1)

    def forecast(x: Tensor) -> Tensor:
        clock = torch.zeros(*x.shape[:-1], 2)
        return network(torch.cat([x, clock], -1)).transpose(1, 2)

    result = layer_sensitivity(
        forecast, z, probes=probes, generator=torch.Generator().manual_seed(0)
    )
    return result.by_hops(data.adjacency)


def oracle(data: Any, task: str) -> dict[str, dict[str, Any]]:
    """Return the errors of forecasts that know the simulation."""
    from manifoldkit.graphs.forecast.metrics import ErrorSums
    from manifoldkit.graphs.forecast.series import split_rows, window_starts

    setting, truth = TASKS[task], data.truth
    _, second = split_rows(len(data.values), data.split)
    starts = window_starts(second, len(data.values), setting.history, setting.horizon)
    rows = starts + setting.history - 1
    ahead = rows[:, None] + 1 + np.arange(setting.horizon)
    out = {}
    for name, far in (("known law", True), ("known law without the far effect", False)):
        sums = ErrorSums(setting.horizon, data.mape_floor)
        sums.add(data.values[ahead], truth.forecast(rows, setting.horizon, far))
        out[name] = report_row(sums.report())
    return out
