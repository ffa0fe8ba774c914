"""What the experiments share: the function ``run``, its docstring, stored pieces."""

import inspect
import io
import json
import re
import time

import pytest
from rich.console import Console

from manifoldkit.exceptions import DatasetNotFoundError
from manifoldkit.experiments.catalog import EXPERIMENTS
from manifoldkit.experiments.evaluation import Store, experiment, progress_bar
from manifoldkit.experiments.result import Result, source


def count(this, *, device: str = "cpu", largest: int = 2):
    """Count up.

    Parameters
    ----------
    seed : int, default=0
        Where to begin.
    largest : int, default=2
        Where to end.

    Raises
    ------
    ValueError
        There is nothing to count.
    """
    store = this.store(largest=largest)
    if largest < 1:
        raise ValueError("largest: nothing to count")
    rows = [
        {"n": s} | store.get(f"seed {s}", lambda n: {"square": n * n / 1}, s)
        for s in this.seeds(largest)
    ]
    rows[0]["note"] = None
    this.say("counted")
    remarks = ["one remark"]
    data = {"numbers": source("made up")}
    return this.finish(rows, data, this.seeds(largest), remarks=remarks)


COLUMNS = {"n": "{n}", "square": "{square:.1f}", "note": "{note:.1f}"}
run = experiment("count", "Counting", COLUMNS)(count)


def test_a_run_stores_its_result_shows_it_and_resumes(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    result = run(tmp_path, seed=3, console=console)
    assert [row["square"] for row in result.metrics] == [9.0, 16.0]
    assert result.seeds == [3, 4]
    assert result.command == "manifoldkit run count --seed 3"
    assert Result.load(tmp_path) == result
    text = console.file.getvalue()
    assert text.startswith("counted")
    assert "│ 4 │ 16.0   │      │" in text
    assert "- one remark\n" in text
    assert re.search(r"numbers +│ SIMULATED │ made up \(this project\)", text)
    with pytest.raises(ValueError, match="belongs to a run with"):
        run(tmp_path, seed=3, largest=3, resume=True, console=console)
    again = run(tmp_path, seed=3, resume=True, console=console)
    assert again.duration == result.duration
    assert run(tmp_path / "quick", quick=True, console=console).seeds == [0]


def test_a_run_that_has_nothing_to_resume_says_so(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    run(tmp_path / "new", resume=True, console=console)
    assert "nothing to resume in" in console.file.getvalue()
    console = Console(file=io.StringIO(), width=80)
    run(tmp_path / "new", resume=True, console=console)
    assert "nothing to resume" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("dataset", "how"),
    [
        ("mnist", "get it by: manifoldkit data fetch mnist. Zeros stand in."),
        ("exp", "put exp.npz there. Zeros stand in."),
    ],
)
def test_missing_data_are_told_now_and_in_the_result(dataset, how, tmp_path):
    def without(this):
        """Run on something else."""
        this.missing(dataset, "Zeros stand in.", reason="put exp.npz there.")
        return this.finish([], {"zeros": source("made")}, [0], remarks=["last"])

    console = Console(file=io.StringIO(), width=300)
    result = experiment("zeros", "Zeros")(without)(tmp_path, console=console)
    first = console.file.getvalue().splitlines()[0]
    assert first.startswith(f"{dataset} (")
    assert first.endswith(f"is not on this machine; {how}")
    assert result.remarks == [first, "last"]


@pytest.mark.filterwarnings("ignore:there is no folder")
@pytest.mark.parametrize("name", [n for n, e in EXPERIMENTS.items() if e.data])
def test_no_experiment_takes_a_simulation_for_real(name, tmp_path, monkeypatch):
    """Without any data a run stops, or names nothing real that has to be fetched."""
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = EXPERIMENTS[name]
    console = Console(file=io.StringIO(), width=300)
    run = entry.load().run

    class Begun(Exception):
        pass

    def stop(self, key, *work, **options):
        raise Begun(key)

    monkeypatch.setattr(Store, "get", stop)
    with pytest.raises((Begun, DatasetNotFoundError)) as caught:
        run(tmp_path, quick=True, console=console)
    text = str(caught.value)
    if caught.type is DatasetNotFoundError:
        assert "MANIFOLDKIT_DATA" in text
        return
    assert not any(real in text for real in ("aids", "psb", "MNIST", "METR"))
    if name not in ("spd_networks", "traffic_virtual_nodes"):
        assert "is not on this machine" in console.file.getvalue()


@pytest.mark.parametrize("wrong", [-1, 2.5, True, None])
def test_seeds_are_integers(wrong, tmp_path):
    with pytest.raises(ValueError, match=f"seed: expected an integer >= 0.*{wrong}"):
        run(tmp_path, seed=wrong)
    with pytest.raises(ValueError, match="seeds: expected an integer >= 1"):
        EXPERIMENTS["monoid_sets"].load().run(tmp_path, seeds=wrong)
    assert not (tmp_path / "result.json").exists()


def test_run_says_what_it_takes():
    takes = inspect.signature(run).parameters
    assert [*takes] == [
        *("out", "quick", "seed", "resume", "console"),
        *("device", "largest"),
    ]
    kinds = {str(parameter.kind) for parameter in list(takes.values())[1:]}
    assert kinds == {"KEYWORD_ONLY"}
    assert takes["largest"].annotation is int
    with pytest.raises(TypeError, match="smallest"):
        run("nowhere", smallest=1)
    lines = run.__doc__.splitlines()
    assert lines[0] == "Count up."
    described = [line.split(" :")[0] for line in lines if " : " in line]
    order = ["out", "quick", "seed", "resume", "device", "console", "largest"]
    assert described == order
    assert lines[lines.index("seed : int, default=0") + 1] == "    Where to begin."
    end = ["", "Returns", "-------", "Result", "", "Raises", "------", "ValueError"]
    assert lines[-9:-1] == end


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_the_run_of_every_experiment_is_described(name):
    run = EXPERIMENTS[name].load().run
    takes = inspect.signature(run).parameters
    described = [line.split(" :")[0] for line in run.__doc__.splitlines()]
    assert {"out", "quick", "seed", "resume", "console"} <= set(takes)
    assert all(described.count(key) == 1 for key in takes)


def test_store_computes_once_and_survives(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"value": len(calls)}

    store = Store(tmp_path, {"seed": 0}, resume=False)
    assert store.get("a", compute) == store.get("a", compute) == {"value": 1}
    again = Store(tmp_path, {"seed": 0}, resume=True)
    assert again.get("a", compute) == {"value": 1}
    fresh = Store(tmp_path, {"seed": 0}, resume=False)
    assert fresh.get("a", compute) == {"value": 2}


def test_store_keeps_nothing_of_an_interrupted_piece(tmp_path):
    store = Store(tmp_path, {"seed": 0}, resume=False)
    store.get("done", lambda: {"value": 1})

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("cut", interrupted)
    pieces = json.loads((tmp_path / "progress.json").read_text())["pieces"]
    assert pieces == {"done": {"value": 1}}


def test_store_refuses_other_settings(tmp_path):
    Store(tmp_path, {"seed": 0}, resume=False).get("a", dict)
    with pytest.raises(ValueError, match="belongs to a run with"):
        Store(tmp_path, {"seed": 1}, resume=True)


def test_progress_is_silent_without_a_terminal(capsys):
    with progress_bar(Console(force_terminal=False)) as bar:
        bar.advance(bar.add_task("work", total=1))
    assert capsys.readouterr().out.strip() == ""


def test_time_of_an_interrupted_run_counts(tmp_path):
    store = Store(tmp_path, {}, resume=False)
    store.get("a", lambda: time.sleep(0.01) or {})
    before = store.seconds
    assert before >= 0.01
    again = Store(tmp_path, {}, resume=True)
    again.get("a", dict)
    assert again.seconds == before
    again.get("b", lambda: time.sleep(0.01) or {})
    assert again.seconds >= before + 0.01
