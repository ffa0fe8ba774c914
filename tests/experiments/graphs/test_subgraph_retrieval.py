import json

import numpy as np

from manifoldkit.experiments.graphs import subgraph_retrieval as experiment
from manifoldkit.experiments.result import Result


def test_quick_run_is_stored_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = experiment.run(tmp_path, quick=True)
    assert Result.load(tmp_path).metrics == json.loads(json.dumps(result.metrics))
    methods = {row["method"]: row for row in result.metrics}
    assert set(experiment.RECIPES) < set(methods)
    assert methods["filter + exact solver"]["map"] == 1.0
    assert methods["motif counts (no training)"]["false_rejections"] == 0
    # a simulation never bears the name of a real set
    assert {row["set"] for row in result.metrics} == {"simulated pairs"}
    assert "aids" not in result.data
    assert not result.data["simulated pairs"]["is_real"]
    assert "manifoldkit data fetch subgraph_pairs" in result.remarks[0]
    assert "SIMULATED" in capsys.readouterr().out
    monkeypatch.setattr(experiment, "train", print)  # all pieces are there
    again = experiment.run(tmp_path, quick=True, resume=True)
    assert [r["map"] for r in again.metrics] == [r["map"] for r in result.metrics]


def test_shrinking_keeps_the_pairs_together():
    from manifoldkit.datasets import make_subgraph_pairs

    pairs = make_subgraph_pairs(30, 20, random_state=0)
    small = experiment.shrink(
        pairs._replace(corpus=pairs.corpus * 6, relation=np.tile(pairs.relation, 6))
    )
    assert small.relation.shape == (len(small.queries), 100)
    queries, relation = small.part("test")
    at = np.flatnonzero(pairs.split == "test")[: len(queries)]
    assert np.array_equal(relation[:, :20], pairs.relation[at])


def test_remarks_compare_with_the_targets():
    rows = [
        {
            "set": "aids",
            "method": "IsoNet++ node, 350 steps at 1e-3",
            "map": 0.4,
            "steps": 350,
            "seconds_10k": 2.0,
            "train_seconds": 30.0,
        },
        {
            "set": "aids",
            "method": "IsoNet++ node, 7000 steps",
            "map": 0.5,
            "steps": 7000,
            "seconds_10k": "",
            "processor_seconds": 600.0,
        },
        {
            "set": "aids",
            "method": "filter + exact solver",
            "map": 1.0,
            "seconds_10k": 0.5,
        },
    ]
    text = " ".join(experiment.remarks_on(rows))
    assert "0.37 after 350: reached" in text
    assert "10 minutes of processor time" in text
    assert "0.55 in 30 minutes: missed" in text
    assert "0.50 s for 10 000 pairs" in text


def test_the_clock_of_resumed_parts_adds_up():
    clock = [(1.0, 3.0), (1.0, 6.0), (2.0, 7.0), (2.0, 9.0)]
    rows = [{"part": part, "processor": spent} for part, spent in clock]
    assert experiment.total_time(rows) == 15.0
    assert experiment.total_time([]) == 0
