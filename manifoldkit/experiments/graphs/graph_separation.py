"""Graph frames on graphs that message passing cannot tell apart: EXP and graph8c.

A separation test with random frames also "separates" copies of the same graph, so
every distance between two graphs stands beside the distance between relabeled copies.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from manifoldkit.experiments.evaluation import Columns, Run, experiment
from manifoldkit.experiments.result import Result, source

if TYPE_CHECKING:
    from manifoldkit.equivariant.frames.graph_frames import GraphFrame

NAME = "graph_separation"
TITLE = "Graph frames: telling apart what message passing cannot"
EPOCHS, BATCH, RATE = 60, 100, 1e-3
THRESHOLD = 1e-3

PAPER = [
    {"method": "FA-GIN+ID", "EXP-classify": "100", "EXP": "0", "graph8c": "0"},
    {"method": "GA-GIN+ID", "EXP-classify": "50", "EXP": "0", "graph8c": "0"},
    {"method": "GIN", "EXP-classify": "50", "EXP": "600", "graph8c": "386"},
]
CLASSIFIERS = ("FA-GIN+ID", "GA-GIN+ID", "GIN")
#: On EXP, untrained: orders a graph, and the name of the row.
ORDERS = {0: "GIN", 1: "FA-GIN+ID, 1 order", 16: "16 orders"}
#: On graph8c, untrained: exact frames or a plain network, and the start of ``eps``.
EXACT = {
    "GIN": (False, 0.0),
    "FA-GIN+ID, all orders": (True, 0.0),
    "FA-GIN+ID, all orders, eps 0.1": (True, 0.1),
}


class PositionalGIN(nn.Module):
    """Graph isomorphism network on dense graphs, with the place of a node as a feature.

    Parameters
    ----------
    n_features : int
        Node features; the first one is 1 for nodes that exist and 0 for padding.
    n_places : int
        Size of the one-hot place; 0 for a plain network.
    act : callable
        Nonlinearity.
    pool : {"mean", "sum"}
        How nodes are pooled.
    eps : float, default=0.0
        Start of the weight ``1 + eps`` of a node against its neighbors. At zero a layer
        sees the set of a node and its neighbors, not which of them is the node.
    """

    def __init__(
        self,
        n_features: int,
        n_places: int,
        act: Callable[[Tensor], Tensor] = torch.relu,
        pool: str = "mean",
        eps: float = 0.0,
    ):
        super().__init__()
        self.n_places, self.act, self.pool = n_places, act, pool
        sizes = [n_features + n_places, 64, 64, 64]
        self.first = nn.ModuleList(nn.Linear(a, 64) for a in sizes[:-1])
        self.second = nn.ModuleList(nn.Linear(64, 64) for _ in sizes[:-1])
        self.norms = nn.ModuleList(nn.BatchNorm1d(64) for _ in sizes[:-1])
        self.eps = nn.Parameter(torch.full((3,), float(eps)))
        self.out = nn.Linear(64, 10)

    def forward(self, adjacency: Tensor, features: Tensor) -> Tensor:
        """Return 10 outputs of graphs (B, n, n) with node features (B, n, c)."""
        real = features[..., :1]
        h = features
        if self.n_places:
            places = torch.eye(self.n_places).to(features)
            h = torch.cat([h, real * places[: h.shape[1]]], -1)
        exists = real[..., 0] > 0
        layers = zip(self.first, self.norms, self.second, strict=True)
        for i, (first, norm, second) in enumerate(layers):
            h = (1 + self.eps[i]) * h + adjacency @ h
            nodes = self.act(second(self.act(norm(first(h[exists])))))
            h = h.new_zeros(*h.shape[:2], nodes.shape[-1])
            h[exists] = nodes
        total = h.sum(1)
        if self.pool == "mean":
            total = total / real.sum(1)
        return self.out(total)


def node_features(adjacency: Tensor, mask: Tensor, node_type: Tensor) -> Tensor:
    """Return existence, type and degree of every node."""
    parts = (mask.to(adjacency), node_type.to(adjacency), adjacency.sum(-1))
    return torch.stack(parts, -1)


def relabeled(
    adjacency: Tensor, features: Tensor, mask: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Return a copy of every graph with its nodes in another order."""
    g = torch.Generator().manual_seed(seed)
    key = torch.rand(mask.shape, generator=g) + (~mask).float() * 2
    p = key.argsort(1)
    b = torch.arange(len(p))[:, None]
    return adjacency[b[..., None], p[:, :, None], p[:, None, :]], features[b, p]


def _graphs(data: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return adjacency, features and mask of a set of graphs."""
    mask, kind = torch.from_numpy(data.mask), torch.from_numpy(data.node_type)
    a = torch.from_numpy(data.adjacency).to(dtype)
    return a, node_features(a, mask, kind), mask


def _any_order(mask: Tensor) -> "GraphFrame":
    """Return the frame of all orders: group averaging."""
    from manifoldkit.equivariant.frames.graph_frames import GraphFrame

    b, n = mask.shape
    size = torch.lgamma(mask.sum(1).double() + 1)
    return GraphFrame(torch.arange(n).expand(b, n), (~mask).long(), size)


def classify(
    method: str, seed: int, epochs: int, device: str, path: str | Path | None = None
) -> dict[str, Any]:
    """Train on EXP-classify and return the accuracy on the test graphs, epoch by epoch.

    Parameters
    ----------
    method : {"FA-GIN+ID", "GA-GIN+ID", "GIN"}
        Graph frames, all orders, or no places.
    seed : int
        Seed of weights, orders and batches.
    epochs : int
        Epochs; the last state is tested, nothing is selected.
    device : str
        Where to train.
    path : path, optional
        Folder of the data.
    """
    from manifoldkit.datasets.graphs.separation import fetch_exp
    from manifoldkit.equivariant.frames.graph_frames import (
        GraphFrame,
        GraphFrameAveraging,
        graph_frame,
    )
    from manifoldkit.experiments.training import batches, fit

    data = fetch_exp(path)
    a, x, mask = _graphs(data, torch.float32)
    framed = method == "FA-GIN+ID"
    frame = graph_frame(a, x[..., 1:2], mask) if framed else _any_order(mask)
    torch.manual_seed(seed)
    places = 0 if method == "GIN" else a.shape[1]
    model = GraphFrameAveraging(PositionalGIN(3, places), max_exact=0, samples=1)
    columns = [a, x, mask, torch.from_numpy(data.y), *frame]
    columns = [v.to(device) for v in columns]

    def logits(net: nn.Module, batch: list[Tensor]) -> Tensor:
        a, x, mask, _, *frame = batch
        return net(a, x, mask, GraphFrame(*frame))

    def loss(net: nn.Module, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(logits(net, batch), batch[3])

    def score(net: nn.Module, start: int, stop: int) -> float:
        part = [v[start:stop] for v in columns]
        return float((logits(net, part).argmax(1) == part[3]).float().mean())

    log = fit(
        model.to(device),
        loss,
        batches(*(v[400:] for v in columns), batch_size=BATCH),
        optimizer=lambda net: torch.optim.Adam(net.parameters(), RATE),
        epochs=epochs,
        validate=lambda net: {
            "valid": score(net, 0, 200),
            "test": score(net, 200, 400),
        },
        validate_every=min(10, epochs),
        seed=seed,
        device=device,
    )
    curve = [(row["epoch"], row["test"]) for row in log.epochs if "test" in row]
    return {"accuracy": curve[-1][1], "curve": curve, "seconds": log.seconds}


def separate_exp(
    samples: int, seed: int, count: int = 600, path: str | Path | None = None
) -> dict[str, Any]:
    """Return distances of the pairs of EXP and of relabeled copies, untrained network.

    Parameters
    ----------
    samples : int
        Orders a graph; 0 for a plain network without places.
    seed : int
        Seed of weights, orders and relabelings.
    count : int
        Pairs.
    path : path, optional
        Folder of the data.
    """
    from manifoldkit.datasets.graphs.separation import fetch_exp
    from manifoldkit.equivariant.frames.graph_frames import GraphFrameAveraging

    a, x, mask = (v[: 2 * count] for v in _graphs(fetch_exp(path), torch.float64))
    torch.manual_seed(seed)
    places = a.shape[1] if samples else 0
    plain = PositionalGIN(3, places, torch.tanh, "sum").double().eval()
    framed = GraphFrameAveraging(
        plain, max_exact=0, samples=max(samples, 1), chunk=1000
    )
    other, features = relabeled(a, x, mask, seed)

    def embed(a: Tensor, x: Tensor) -> Tensor:
        return framed(a, x, mask) if samples else plain(a, x)

    with torch.no_grad():
        z, copy = embed(a, x), embed(other, features)
    pairs = (z[::2] - z[1::2]).abs().sum(1)
    copies = (z - copy).abs().sum(1)
    return _compare(pairs, copies) | {"pairs": len(pairs)}


def _compare(pairs: Tensor, copies: Tensor) -> dict[str, Any]:
    """Count pairs below the published threshold, and those not beyond the copies."""
    margin = float(copies.quantile(0.95)) * 1.05 + 1e-9
    return {
        "similar": int((pairs <= THRESHOLD).sum()),
        "not_beyond_copies": int((pairs <= margin).sum()),
        "copies_called_different": float((copies > THRESHOLD).double().mean()),
        "median_pair": float(pairs.median()),
        "median_copy": float(copies.median()),
        "largest_copy": float(copies.max()),
    }


def separate_graph8c(
    framed: bool,
    seed: int,
    count: int = 11117,
    path: str | Path | None = None,
    eps: float = 0.0,
) -> dict[str, Any]:
    """Compare all pairs of the connected graphs with 8 nodes, frames exact.

    Parameters
    ----------
    framed : bool
        Exact frame average of a network with places, or a plain network.
    seed : int
        Seed of weights and relabelings.
    count : int
        Graphs, the first of the collection.
    path : path, optional
        Folder of the data.
    eps : float
        Start of the weight of a node against its neighbors.
    """
    from manifoldkit.datasets.graphs.separation import fetch_graph8c
    from manifoldkit.equivariant.frames.graph_frames import GraphFrameAveraging

    a, x, mask = (v[:count] for v in _graphs(fetch_graph8c(path), torch.float64))
    torch.manual_seed(seed)
    network: nn.Module = PositionalGIN(3, 8 if framed else 0, torch.tanh, "sum", eps)
    network = network.double().eval()
    if framed:
        network = GraphFrameAveraging(network, max_exact=math.factorial(8), chunk=4000)
    other, features = relabeled(a, x, mask, seed)
    with torch.no_grad():
        z, copy = network(a, x), network(other, features)
    copies = (z - copy).abs().sum(1)
    bound = max(100 * float(copies.max()), 1e-9)
    similar = close = 0
    for i in range(0, len(z), 500):
        distance = torch.cdist(z[i : i + 500], z[i:], p=1)
        later = torch.ones_like(distance, dtype=torch.bool).triu(1)
        similar += int((distance <= THRESHOLD)[later].sum())
        close += int((distance <= bound)[later].sum())
    return {
        "similar": similar,
        "not_beyond_copies": close,
        "largest_copy": float(copies.max()),
        "pairs": len(z) * (len(z) - 1) // 2,
    }


COLUMNS: Columns = {
    "task": "{task}",
    "method": "{method}",
    "accuracy": "{accuracy:.1f}%",
    "pairs alike": "{similar:g}",
    "not beyond copies": "{not_beyond_copies:g}",
}


@experiment(NAME, TITLE, COLUMNS)
def run(
    this: Run, *, device: str = "cpu", data: str | Path | None = None, seeds: int = 3
) -> Result:
    """Classify EXP and separate EXP and graph8c with and without graph frames.

    Parameters
    ----------
    quick : bool, default=False
        One seed, 2 epochs, fewer graphs.
    data : str or Path, optional
        Folder of the data.
    seeds : int, default=3
        Number of seeds.
    """
    from manifoldkit.datasets.graphs.separation import fetch_exp, fetch_graph8c

    store, chosen = this.store(), this.seeds(seeds)
    for load in (fetch_exp, fetch_graph8c):
        load(data)  # stops here, not after an hour, where one is missing

    def over_seeds(label: str, few: bool, *work: Any, **settings: Any) -> list[dict]:
        some = chosen[:1] if few else chosen
        runs = store.by_seed(label, some, *work, path=data, **settings)
        this.say(f"{label}: {_figure(runs[-1])}")
        return runs

    metrics = list(_rows(over_seeds, this.quick, device))
    return this.finish(
        metrics,
        protocol=_PROTOCOL,
        data={
            "EXP": source(
                "600 constructed pairs of graphs, as published", "Abboud et al. 2021"
            ),
            "graph8c": source(
                "all connected graphs with 8 nodes",
                "B. McKay, Combinatorial data",
                is_real=True,
            ),
        },
        seeds=chosen,
        paper=PAPER,
        paper_note=(
            "per cent on EXP-classify after 199 epochs, similar pairs of 600 and of "
            "61788286 otherwise (100 seeds, 1 order a graph, no control by copies)"
        ),
        remarks=_remarks(metrics),
    )


def _rows(
    over_seeds: Callable[..., list[dict]], quick: bool, device: str
) -> Iterator[dict[str, Any]]:
    """Yield a row for every method on every task."""
    epochs, graphs, pairs = (2, 300, 50) if quick else (EPOCHS, 11117, 600)
    for method in CLASSIFIERS:
        settings = {"epochs": epochs, "device": device}
        label = f"EXP-classify: {method}"
        runs = over_seeds(label, False, classify, method, **settings)
        scores = [r["accuracy"] for r in runs]
        yield {
            "task": "EXP-classify",
            "method": method,
            "epochs": epochs,
            "accuracy": 100 * float(np.mean(scores)),
            "lowest": 100 * min(scores),
            "scores": scores,
            "curves": [r["curve"] for r in runs],
        }
    for samples, method in ORDERS.items():
        work: tuple[Any, ...] = (separate_exp, samples)
        runs = over_seeds(f"EXP: {method}", False, *work, count=pairs)
        yield {"task": "EXP", "method": method} | _mean(runs)
    for method, (framed, eps) in EXACT.items():
        # 589 thousand orders a seed for exact averages: one seed of the weights
        work = (separate_graph8c, framed)
        runs = over_seeds(f"graph8c: {method}", framed, *work, count=graphs, eps=eps)
        yield {"task": "graph8c", "method": method, "seeds": len(runs)} | _mean(runs)


def _figure(run: dict[str, Any]) -> str:
    if "accuracy" in run:
        return f"accuracy {run['accuracy']:.1%}"
    return f"{run['similar']} pairs of {run['pairs']} alike"


_PROTOCOL = (
    "EXP-classify: graphs 0-199 validation, 200-399 test, the rest training; the last "
    "state is tested with one random order a graph, nothing is selected. The network "
    "has batch normalization after the first map of a layer, as GIN has; without it "
    "two trial runs of 60 epochs ended at 50 and 92 per cent. EXP and "
    "graph8c: untrained networks, L1 distance of 10 outputs. 'similar' counts pairs "
    "within 1e-3, as published; 'not_beyond_copies' counts pairs no farther apart than "
    "relabeled copies of one graph (95th percentile for random orders, 100 times the "
    "largest for exact averages). Means over seeds; exact averages on graph8c with the "
    "first seed only."
)


def _mean(runs: list[dict]) -> dict:
    return {k: float(np.mean([r[k] for r in runs])) for k in runs[0]}


def _remarks(metrics: list[dict]) -> list[str]:
    by = {(m["task"], m["method"]): m for m in metrics}
    one, many = by["EXP", "FA-GIN+ID, 1 order"], by["EXP", "16 orders"]
    still = by["graph8c", "FA-GIN+ID, all orders"]
    exact = by["graph8c", "FA-GIN+ID, all orders, eps 0.1"]
    return [
        f"With one random order a graph, {100 * one['copies_called_different']:.0f} % "
        "of relabeled copies of the same graph are 'separated' by the published "
        f"threshold (with 16 orders {100 * many['copies_called_different']:.0f} %): "
        "that test does not show that graphs are told apart.",
        f"Beyond the copies, {one['not_beyond_copies']:.0f} of {one['pairs']:.0f} "
        "pairs of EXP are not separated with 1 order, "
        f"{many['not_beyond_copies']:.0f} with 16.",
        "On graph8c the averages are exact: copies agree to "
        f"{exact['largest_copy']:.0e}, and {exact['not_beyond_copies']:.0f} of "
        f"{exact['pairs']:.0f} pairs are not told apart. With the usual start "
        f"eps = 0 there are {still['not_beyond_copies']:.0f}: such a layer sees closed "
        "neighborhoods, and these pairs have the same ones (A + I differs by a "
        "permutation of its rows). One random order a graph hides that.",
    ]
