import json

import pytest

from manifoldkit.experiments.graphs import traffic_virtual_nodes as experiment
from manifoldkit.experiments.graphs.flag_task import path_graphs, train_flag
from manifoldkit.experiments.result import Result


def test_a_quick_run_stores_its_result_and_resumes(tmp_path, monkeypatch):
    result = experiment.run(tmp_path, quick=True)
    methods = [row["method"] for row in result.metrics]
    assert experiment.RIDGE in methods
    assert experiment.APART_GATED in methods
    assert "known law" in methods
    assert {row["task"] for row in result.metrics} == {
        "simulated corridor",  # simulated data never bear a real set's name
        "flag task",
    }
    assert Result.load(tmp_path).metrics == json.loads(json.dumps(result.metrics))
    semi = next(r for r in result.metrics if r["method"] == experiment.APART_GATED)
    assert len(semi["mae_by_step"]) == 8
    assert semi["sensitivity_by_hops"][0]["hops"] == 0

    def never(*_, **__):
        raise AssertionError("a finished training was repeated")

    monkeypatch.setattr(experiment, "train", never)
    monkeypatch.setattr(experiment, "train_flag", never)
    again = experiment.run(tmp_path, quick=True, resume=True)
    assert again.metrics == result.metrics


def row(task, method, mae, last, spread=0.0, seeds=3):
    return {
        "task": experiment.TASKS[task].title,
        "method": method,
        "mae": mae,
        "mae_last_quarter": last,
        "mae_last_quarter_spread": spread,
        "seeds": seeds,
    }


@pytest.mark.parametrize(
    ("semi", "spread", "words"),
    [(5.0, 0.001, "a gain"), (5.099, 0.001, "no gain"), (5.0, 0.2, "no gain")],
)
def test_remarks_call_noise_noise(semi, spread, words):
    rows = [
        row("metr_la", experiment.RIDGE, 4.6, 5.2),
        row("metr_la", experiment.NONE, 4.4, 5.1, spread),
        row("metr_la", experiment.SEMI, 4.55, semi, spread),
    ]
    gain, gate, *_ = experiment.remarks_on(rows)
    assert words in gain
    assert "not reached" in gate
    assert "reached, below profile + ridge" in gate


def test_graphs_of_the_flag_task(generator):
    graphs = path_graphs(300, generator)
    flagged = [bool(g.x.sum()) for g in graphs]
    assert 0.58 < sum(flagged) / 300 < 0.75
    assert [bool(g.y.all()) for g in graphs] == flagged
    assert [bool(g.y.any()) for g in graphs] == flagged
    assert graphs[0].num_edges == 78


def test_a_virtual_node_solves_the_flag_task():
    with_node = train_flag("node", epochs=15, seed=0)
    without = train_flag("none", epochs=3, seed=0)
    assert with_node["accuracy"] >= 0.99
    assert without["accuracy"] <= 0.72
