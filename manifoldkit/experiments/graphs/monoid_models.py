"""Networks on sets and graphs by aggregation, and training within a CPU budget."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Batches = Callable[[int], Any]


class CPUBudget:
    """Fresh batches until the process has spent so many seconds on a processor.

    Equal time for all methods, whatever a step of each costs and whatever else the
    machine is doing. The only epoch ends when the time is spent.

    Parameters
    ----------
    seconds : float
        Time on a processor.
    draw : callable
        ``draw(seed)`` returns a batch; seeds come from torch's generator.
    """

    def __init__(self, seconds: float, draw: Batches):
        self.seconds, self.draw = seconds, draw
        self.started: float | None = None
        self.steps = 0

    @property
    def share(self) -> float:
        """Share of the time that is spent, from 0 to 1."""
        if self.started is None:
            return 0.0
        return min((time.process_time() - self.started) / self.seconds, 1.0)

    def __len__(self) -> int:
        return 1 << 30

    def __iter__(self) -> Iterator:
        self.started = time.process_time()
        while self.share < 1:
            self.steps += 1
            yield self.draw(int(torch.randint(1 << 31, ())))

    def rate(self, _: int) -> float:
        """Warm up for a twentieth, stay, and fall as a cosine in the last 70 %."""
        falling = max(self.share - 0.3, 0) / 0.7
        return min(
            self.share / 0.05 + 0.02, 0.01 + 0.495 * (1 + math.cos(math.pi * falling))
        )


def fit_for(
    budget: CPUBudget,
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    rate: float,
    seed: int,
    device: str = "cpu",
) -> int:
    """Train with Adam until the budget is spent; return the number of steps.

    Parameters
    ----------
    budget : CPUBudget
        Processor time and batches.
    model : torch.nn.Module
        What is trained.
    loss : callable
        ``loss(model, batch)``.
    rate : float
        Largest learning rate.
    seed : int
        Seed of the batches.
    device : str
        Where to train.
    """
    from manifoldkit.experiments.training import fit

    fit(
        model.to(device),
        loss,
        budget,
        optimizer=lambda net: torch.optim.Adam(
            net.parameters(), rate, betas=(0.9, 0.99)
        ),
        scheduler=lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, budget.rate),
        scheduler_interval="step",
        epochs=1,
        clip=1.0,
        device=device,
        seed=seed,
        progress=False,
    )
    return budget.steps


def aggregation(name: str, width: int, degrees: Tensor | None = None) -> nn.Module:
    """Return an aggregation of ``width`` features by name.

    Parameters
    ----------
    name : str
        One of :data:`AGGREGATIONS`.
    width : int
        Features of an element.
    degrees : Tensor of int64, optional
        Histogram of set sizes in training, for the scalers of "PNA".
    """
    return AGGREGATIONS[name](width, degrees)


def _pna(width: int, degrees: Tensor | None) -> nn.Module:
    from torch_geometric.nn.aggr import DegreeScalerAggregation

    scalers = ["identity", "amplification", "attenuation"]
    if degrees is None:
        raise ValueError("degrees: needed by PNA")
    statistics = ["mean", "min", "max", "std"]
    return DegreeScalerAggregation(statistics, scalers, degrees)


def _pyg(name: str, *arguments: Any, **settings: Any) -> nn.Module:
    from torch_geometric.nn import aggr

    return getattr(aggr, name)(*arguments, **settings)


def _lcm(operator: str, **settings: Any) -> Callable[[int, Any], nn.Module]:
    def build(width: int, _: Any) -> nn.Module:
        from manifoldkit import graphs

        return graphs.LCMAggregation(getattr(graphs, operator)(width), **settings)

    return build


def _fold(kind: str) -> Callable[[int, Any], nn.Module]:
    def build(width: int, _: Any) -> nn.Module:
        from manifoldkit.graphs import FoldAggregation

        return FoldAggregation(width, width, kind, permute="train")

    return build


AGGREGATIONS: dict[str, Callable[[int, Any], nn.Module]] = {
    "sum": lambda width, _: _pyg("SumAggregation"),
    "mean": lambda width, _: _pyg("MeanAggregation"),
    "max": lambda width, _: _pyg("MaxAggregation"),
    "PNA": _pna,
    "GRU fold": _fold("gru"),
    "LSTM fold": _fold("lstm"),
    "set transformer": lambda width, _: _pyg(
        "SetTransformerAggregation", width, heads=4
    ),
    "PyG LCM": lambda width, _: _pyg("LCMAggregation", width, width, project=False),
    "GRU tree": _lcm("GRUMonoid"),
    "LSTM tree": _lcm("LSTMMonoid"),
    "perceptron tree": _lcm("SymmetricMLPMonoid"),
}


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class SetNetwork(nn.Module):
    """Encode every element, aggregate the set, decode the answer.

    Parameters
    ----------
    name : str
        One of :data:`AGGREGATIONS`.
    bits : int
        Inputs and outputs.
    width : int
        Features of an element and of the aggregate.
    degrees : Tensor, optional
        Histogram of set sizes in training, for "PNA".
    """

    aggregate: Any

    def __init__(
        self, name: str, bits: int = 8, width: int = 64, degrees: Tensor | None = None
    ):
        super().__init__()
        self.encode = _perceptron(bits, width, width)
        self.aggregate = aggregation(name, width, degrees)
        wide = 12 * width if name == "PNA" else width
        self.decode = _perceptron(wide, width, bits)

    def forward(self, x: Tensor, batch: Tensor, n_sets: int) -> Tensor:
        """Return a logit for every bit of every set's answer."""
        h = self.encode(x)
        return self.decode(self.aggregate(h, batch, dim_size=n_sets))

    def prefixes(self, x: Tensor, batch: Tensor) -> Tensor:
        """Return logits for every prefix of every set; trees and recurrent folds."""
        from manifoldkit.graphs import FoldAggregation, segment_tree_scan

        h = self.encode(x)
        if isinstance(self.aggregate, FoldAggregation):
            return self.decode(self.aggregate.scan(h, batch))
        return self.decode(segment_tree_scan(h, batch, self.aggregate.operator))


class GraphNetwork(nn.Module):
    """Rounds of message passing with shared weights, and two heads.

    ``h_i <- h_i + U[h_i, aggregate_j M[h_i, h_j]]``, then a perceptron on every node
    and one on the mean, sum and maximum over the graph.

    Parameters
    ----------
    name : str
        One of :data:`AGGREGATIONS`.
    inputs, node_outputs, graph_outputs : int
        Features of a node; targets of a node and of a graph.
    width : int
        Features of a node in between.
    rounds : int
        Rounds of message passing.
    degrees : Tensor, optional
        Histogram of degrees in training, for "PNA".
    """

    def __init__(
        self,
        name: str,
        inputs: int = 2,
        node_outputs: int = 3,
        graph_outputs: int = 3,
        width: int = 32,
        rounds: int = 8,
        degrees: Tensor | None = None,
    ):
        super().__init__()
        self.rounds = rounds
        self.encode = nn.Linear(inputs, width)
        self.message = _perceptron(2 * width, width, width)
        self.aggregate = aggregation(name, width, degrees)
        wide = width * (13 if name == "PNA" else 2)
        self.update = _perceptron(wide, width, width)
        self.norm = nn.LayerNorm(width)
        self.node_head = _perceptron(width, width, node_outputs)
        self.graph_head = _perceptron(3 * width, width, graph_outputs)

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, n_graphs: int
    ) -> tuple[Tensor, Tensor]:
        """Return the targets of nodes and graphs; edges sorted by target."""
        from torch_geometric.utils import scatter

        source, target = edge_index
        h = self.encode(x)
        for _ in range(self.rounds):
            messages = self.message(torch.cat([h[target], h[source]], -1))
            gathered = self.aggregate(messages, target, dim_size=len(x))
            h = self.norm(h + self.update(torch.cat([h, gathered], -1)))
        pooled = [scatter(h, batch, 0, n_graphs, how) for how in ("mean", "sum", "max")]
        return self.node_head(h), self.graph_head(torch.cat(pooled, -1))
