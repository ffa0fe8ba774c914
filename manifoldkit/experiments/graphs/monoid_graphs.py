"""Aggregations in message passing on graph tasks, at sizes of training and beyond."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manifoldkit.experiments.evaluation import Columns, Run, experiment
from manifoldkit.experiments.graphs.monoid_models import (
    CPUBudget,
    GraphNetwork,
    fit_for,
)
from manifoldkit.experiments.result import Result, source

NAME = "monoid_graphs"
TITLE = "Aggregations on the multi-task graph benchmark"
METHODS = (
    "sum", "mean", "max", "PNA", "GRU fold", "LSTM fold", "set transformer", "PyG LCM",
    "GRU tree", "perceptron tree",
)  # fmt: skip
SECONDS = 25.0  # of a processor
REPEATED = ("sum", "mean", "max", "PNA", "GRU tree")  # with every seed, others once
TRAIN_SIZES, BATCH, WIDTH, ROUNDS, RATE = (15, 24), 32, 32, 8, 3e-3
TEST_SIZES = ((15, 24), (25, 49), (50, 100))
POOL, TEST_SEED, TEST_BATCH = 2000, 30_000, 20
TASKS = (
    "distance", "eccentricity", "laplacian", "connected", "diameter", "radius",
)  # fmt: skip


def as_tensors(graphs: Any) -> dict[str, Tensor]:
    """Return graphs with edges sorted by target and their targets side by side."""
    edges = graphs.edge_index[:, np.lexsort(graphs.edge_index)]
    arrays = graphs._asdict() | {"edge_index": edges}
    return {k: torch.from_numpy(v) for k, v in arrays.items() if k != "kind"}


class Pool:
    """Graphs kept in memory, from which batches are cut.

    Parameters
    ----------
    graphs : GraphTasks
        What :func:`manifoldkit.datasets.make_graph_tasks` made.
    """

    def __init__(self, graphs: Any):
        self.data = as_tensors(graphs)
        self.nodes = torch.bincount(self.data["batch"])
        self.first = torch.cat([torch.zeros(1).long(), self.nodes.cumsum(0)])
        of_edge = self.data["batch"][self.data["edge_index"][1]]
        edges = torch.bincount(of_edge, minlength=len(self.nodes))
        self.first_edge = torch.cat([torch.zeros(1).long(), edges.cumsum(0)])

    def __len__(self) -> int:
        return len(self.nodes)

    def take(self, chosen: Iterable[int]) -> dict[str, Tensor]:
        """Return some graphs as one batch."""
        chosen = list(chosen)
        parts: dict[str, list[Tensor]] = {"x": [], "y_node": [], "edge_index": []}
        shift = 0
        for g in chosen:
            rows = slice(int(self.first[g]), int(self.first[g + 1]))
            columns = slice(int(self.first_edge[g]), int(self.first_edge[g + 1]))
            parts["x"].append(self.data["x"][rows])
            parts["y_node"].append(self.data["y_node"][rows])
            edges = self.data["edge_index"][:, columns]
            parts["edge_index"].append(edges + shift - rows.start)
            shift += rows.stop - rows.start
        return {
            "x": torch.cat(parts["x"]),
            "edge_index": torch.cat(parts["edge_index"], 1),
            "batch": torch.arange(len(chosen)).repeat_interleave(self.nodes[chosen]),
            "y_node": torch.cat(parts["y_node"]),
            "y_graph": self.data["y_graph"][chosen],
        }

    @property
    def scales(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and deviation of the targets of nodes and of graphs."""
        node, graph = self.data["y_node"], self.data["y_graph"]
        return node.mean(0), node.std(0), graph.mean(0), graph.std(0)


def squared_errors(
    model: nn.Module, batch: dict[str, Tensor], scales: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return squared errors over variances: of nodes (n, 3) and of graphs (g, 3)."""
    mean, std, graph_mean, graph_std = scales
    node, graph = model(
        batch["x"], batch["edge_index"], batch["batch"], len(batch["y_graph"])
    )
    return (
        (node - (batch["y_node"] - mean) / std).square(),
        (graph - (batch["y_graph"] - graph_mean) / graph_std).square(),
    )


@torch.no_grad()
def mean_errors(
    model: nn.Module, pool: Pool, scales: tuple[Tensor, ...], device: str
) -> Tensor:
    """Return the mean squared errors (6,) over all graphs, a few at a time.

    Aggregations that pad to the largest neighborhood need the memory of its square.
    """
    chosen = torch.arange(len(pool)).split(TEST_BATCH)
    parts = [
        squared_errors(
            model, {k: v.to(device) for k, v in pool.take(c.tolist()).items()}, scales
        )
        for c in chosen
    ]
    return torch.cat([torch.cat(e).mean(0) for e in zip(*parts, strict=True)])


def score(
    name: str, seconds: float, seed: int, n_train: int, n_test: int, device: str
) -> dict[str, Any]:
    """Train one network; return its steps and its errors by test size and task.

    Parameters
    ----------
    name : str
        Aggregation.
    seconds : float
        Processor time.
    seed : int
        Seed of weights and batches; the graphs are the same for all.
    n_train, n_test : int
        Graphs.
    device : str
        Where to train.
    """
    from manifoldkit.datasets import make_graph_tasks

    pool = Pool(make_graph_tasks(n_train, TRAIN_SIZES, random_state=0))
    scales = tuple(s.to(device) for s in pool.scales)
    torch.manual_seed(seed)
    degrees = torch.bincount(torch.bincount(pool.data["edge_index"][1]))
    model = GraphNetwork(name, width=WIDTH, rounds=ROUNDS, degrees=degrees)

    def draw(batch_seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(batch_seed)
        chosen = torch.randint(len(pool), (BATCH,), generator=generator)
        return {k: v.to(device) for k, v in pool.take(chosen.tolist()).items()}

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        node, graph = squared_errors(net, batch, scales)
        return (node.mean() + graph.mean()) / 2

    steps = fit_for(CPUBudget(seconds, draw), model, loss, RATE, seed, device)
    errors = {}
    for low, high in TEST_SIZES:
        graphs = make_graph_tasks(n_test, (low, high), random_state=TEST_SEED + low)
        found = mean_errors(model.eval(), Pool(graphs), scales, device)
        errors[f"{low} to {high}"] = dict(zip(TASKS, found.tolist(), strict=True))
    return {"steps": steps, "errors": errors}


COLUMNS: Columns = {
    "nodes": "{nodes}",
    "aggregation": "{aggregation}",
    "mean error": "{mean:.4g}",
    "seeds": "{seeds}",
    "steps": "{steps}",
}


@experiment(NAME, TITLE, COLUMNS)
def run(this: Run, *, device: str = "cpu", seeds: int = 2) -> Result:
    """Train every aggregation on six tasks at once.

    Parameters
    ----------
    quick : bool, default=False
        Three aggregations for two seconds on few graphs, one seed.
    seeds : int, default=2
        Number of seeds for sum, mean, max, PNA and the GRU tree; others are trained
        once.
    """
    store, chosen = this.store(), this.seeds(seeds)
    n_train, n_test = (200, 40) if this.quick else (POOL, 200)
    settings = {"n_train": n_train, "n_test": n_test, "device": device}
    metrics = []
    for name, seconds, some in plan(this.quick, chosen):
        work = (score, name, seconds)
        runs = store.by_seed(f"{name}, {seconds:.0f} s", some, *work, **settings)
        metrics += _rows(name, seconds, runs)
        this.say(f"{name}: mean error {metrics[-1]['mean']:.3g} at the largest sizes")
    graphs = "random graphs of ten kinds, targets by exact algorithms"
    return this.finish(
        sorted(metrics, key=lambda m: int(m["nodes"].split()[0])),
        protocol=_PROTOCOL,
        data={"graph tasks": source(graphs, "after Corso et al. 2020")},
        seeds=chosen,
        paper_note="",
        remarks=[] if this.quick else _remarks(metrics),
    )


def plan(quick: bool, seeds: list[int]) -> list[tuple[str, float, list[int]]]:
    """Return aggregation, processor time and seeds of every training."""
    if quick:
        return [(name, 2.0, seeds) for name in ("sum", "max", "GRU tree")]
    return [(m, SECONDS, seeds if m in REPEATED else seeds[:1]) for m in METHODS]


def _rows(name: str, seconds: float, runs: list[dict]) -> list[dict]:
    """A row for every range of test sizes."""
    rows = []
    for size in TEST_SIZES:
        errors = [r["errors"][f"{size[0]} to {size[1]}"] for r in runs]
        means = [float(np.mean([*e.values()])) for e in errors]
        rows.append(
            {
                "nodes": f"{size[0]} to {size[1]}",
                "aggregation": name,
                "seconds": seconds,
                "steps": int(np.mean([r["steps"] for r in runs])),
                "mean": float(np.mean(means)),
                "trainings": len(runs),
                "seeds": f"{min(means):.3g} to {max(means):.3g}",
                **{t: float(np.mean([e[t] for e in errors])) for t in TASKS},
            }
        )
    return rows


_PROTOCOL = (
    "2000 training graphs of 15 to 24 nodes, batches of 32, six targets at once; 200 "
    "test graphs of every range of sizes. Numbers are squared errors over the variance "
    "in training: 1 is a constant guess at sizes of training, and targets that grow "
    "with the graph have larger errors beyond. 8 rounds of message passing with shared "
    "weights, 32 features, readout by mean, sum and maximum for all. Every aggregation "
    "has the same processor time on one thread, Adam at 0.003; nothing is selected. "
    "Only the aggregation of neighbors differs. 'seeds' is the range over trainings."
)


def _remarks(metrics: list[dict]) -> list[str]:
    """Say who is best at which size, and how many steps each of them made."""
    remarks = []
    for low, high in TEST_SIZES:
        rows = [m for m in metrics if m["nodes"] == f"{low} to {high}"]
        rows.sort(key=lambda m: m["mean"])
        order = ", ".join(f"{m['aggregation']} {m['mean']:.3g}" for m in rows)
        remarks.append(f"Mean over tasks at {low} to {high} nodes: {order}.")
    steps = ", ".join(f"{m['aggregation']} {m['steps']}" for m in rows)
    remarks.append(f"Steps in {SECONDS:.0f} s: {steps}.")
    return remarks
