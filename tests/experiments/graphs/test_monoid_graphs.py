"""Graph tasks: batches, errors, and a quick run."""

import pytest
import torch
from rich.console import Console

from manifoldkit.datasets import make_graph_tasks
from manifoldkit.experiments.graphs import monoid_graphs as experiment
from manifoldkit.experiments.result import Result


@pytest.fixture(scope="module")
def graphs():
    return make_graph_tasks(12, (5, 9), random_state=0)


def test_a_batch_of_all_graphs_is_the_set(graphs):
    pool = experiment.Pool(graphs)
    batch = pool.take(range(len(pool)))
    for key, value in experiment.as_tensors(graphs).items():
        torch.testing.assert_close(batch[key], value)
    target = batch["edge_index"][1]
    assert (target[1:] >= target[:-1]).all()


def test_a_batch_keeps_graphs_apart(graphs):
    pool = experiment.Pool(graphs)
    whole = pool.take(range(len(pool)))
    batch = pool.take([7, 2])
    assert batch["batch"].tolist() == [0] * int(pool.nodes[7]) + [1] * int(
        pool.nodes[2]
    )
    of_edge = batch["batch"][batch["edge_index"]]
    assert torch.equal(of_edge[0], of_edge[1])
    shift = int(pool.nodes[:2].sum()) - int(pool.nodes[7])
    mine = (whole["batch"] == 2)[whole["edge_index"][1]]
    assert torch.equal(
        whole["edge_index"][:, mine] - shift, batch["edge_index"][:, of_edge[1] == 1]
    )
    assert torch.equal(batch["y_graph"], pool.data["y_graph"][[7, 2]])
    assert torch.equal(
        batch["y_node"][batch["batch"] == 1], whole["y_node"][whole["batch"] == 2]
    )


class Guess(torch.nn.Module):
    """The mean of every target."""

    def forward(self, x, edge_index, batch, n_graphs):
        """Return zeros."""
        return torch.zeros(len(x), 3), torch.zeros(n_graphs, 3)


def test_a_constant_guess_has_error_one(graphs):
    pool = experiment.Pool(graphs)
    batch = pool.take(range(len(pool)))
    for errors in experiment.squared_errors(Guess(), batch, pool.scales):
        n = len(errors)
        torch.testing.assert_close(errors.mean(0), torch.full((3,), (n - 1) / n))


def test_errors_a_few_graphs_at_a_time_are_those_of_all():
    pool = experiment.Pool(make_graph_tasks(45, (5, 9), random_state=1))
    torch.manual_seed(0)
    model = experiment.GraphNetwork("max", width=8, rounds=2).eval()
    found = experiment.mean_errors(model, pool, pool.scales, "cpu")
    with torch.no_grad():
        whole = pool.take(range(len(pool)))
        node, graph = experiment.squared_errors(model, whole, pool.scales)
    torch.testing.assert_close(found, torch.cat([node.mean(0), graph.mean(0)]))


def test_every_aggregation_is_in_the_plan():
    plan = experiment.plan(False, [0, 1])
    assert [name for name, _, _ in plan] == [*experiment.METHODS]
    for name, seconds, seeds in plan:
        assert seconds == experiment.SECONDS
        assert seeds == ([0, 1] if name in experiment.REPEATED else [0])


@pytest.mark.slow
def test_quick_run(tmp_path):
    console = Console(quiet=True)
    result = experiment.run(tmp_path, quick=True, console=console)
    assert Result.load(tmp_path / "result.json").metrics == result.metrics
    assert [m["aggregation"] for m in result.metrics[:3]] == ["sum", "max", "GRU tree"]
    for row in result.metrics:
        errors = [row[task] for task in experiment.TASKS]
        assert row["mean"] == pytest.approx(sum(errors) / 6)
        assert min(errors) >= 0
