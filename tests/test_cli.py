"""The command line: exit codes, one-line errors, quick start."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import manifoldkit
from manifoldkit import cli
from manifoldkit.exceptions import DatasetNotFoundError, MissingExtraError
from manifoldkit.experiments.catalog import Dataset
from manifoldkit.experiments.spd import eeg_demo

runner = CliRunner()


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Run in an empty folder without data; put thread settings back afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "data"))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(cli.console, "width", 200, raising=False)


def invoke(*arguments):
    result = runner.invoke(cli.app, list(arguments))
    return result.exit_code, result.output


def fake_run(monkeypatch, action):
    seen = []

    def run(out, *, quick, seed, jobs, resume, console):
        settings = {"quick": quick, "seed": seed, "jobs": jobs, "resume": resume}
        seen.append((Path(out), settings | {"console": console}))
        action()

    monkeypatch.setattr(eeg_demo, "run", run)
    return seen


def test_version():
    assert invoke("--version") == (0, f"manifoldkit {manifoldkit.__version__}\n")


def test_import_is_light():
    code = (
        "import sys, manifoldkit.cli; "
        "print([m for m in ('torch', 'sklearn', 'matplotlib', 'pyriemann') "
        "if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [(), ("demo",), ("run",), ("data",), ("bench",)])
def test_help_of_every_command(command):
    code, text = invoke(*command, "--help")
    assert code == 0
    assert "Usage" in text


def test_every_experiment_and_loader_exists():
    from manifoldkit import datasets

    for name, entry in cli.EXPERIMENTS.items():
        module = entry.load()
        assert callable(module.run)
        assert name == module.NAME
        assert set(entry.data) <= set(cli.DATASETS)
    for entry in cli.DATASETS.values():
        assert callable(getattr(datasets, entry.loader))


def test_names_are_whole_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setattr(cli.console, "width", 80, raising=False)
    text = invoke("list")[1]
    assert all(name in text for name in cli.EXPERIMENTS)
    code, text = invoke("bench")
    assert code == 1
    assert text.count("\n") == 1


def test_list_says_what_is_missing():
    code, text = invoke("list")
    assert code == 0
    assert "eeg_demo" in text
    assert "missing" in text


def test_data_list_says_where(tmp_path):
    code, text = invoke("data", "list")
    assert code == 0
    assert re.search(r"mamem.*no\b", text)
    assert str(tmp_path / "data") in text.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "nothing"), "no experiment 'nothing'; there are: eeg_demo"),
        (("run", "monoid_set"), "'monoid_set'; did you mean monoid_sets?"),
        (("list", "partical_motion"), "did you mean particle_motion?"),
        (("data", "fetch", "nothing"), "no data set 'nothing'; there are: physionet"),
        (("data", "fetch", "mnits"), "did you mean mnist?"),
        (("run", "particle_motion", "--device", "gpu"), "expected cpu, cuda or"),
        (("run", "particle_motion", "--device", "mps"), "cuda:N, found 'mps'"),
        (("run", "particle_motion", "--device", "cuda:99"), "cuda:99 is asked for"),
        (("run", "eeg_demo", "--devices", "2"), "eeg_demo has no training of its own"),
        (("run", "traffic_virtual_nodes", "--devices", "2"), "these have: spd_netw"),
        (("demo", "--resume"), "no run of eeg_demo to resume"),
        (("bench",), "the benchmarks are in a checkout"),
    ],
)
def test_wrong_use_is_one_line(arguments, expected):
    code, text = invoke(*arguments)
    assert code == 1
    assert expected in " ".join(text.split())
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "error",
    [
        ValueError("order: expected a positive integer, found 0"),
        OSError("not here: [physionet]"),
        MissingExtraError("plotting", "matplotlib", "viz"),
    ],
)
def test_expected_errors_are_one_line(monkeypatch, error):
    def fail():
        raise error

    fake_run(monkeypatch, fail)
    code, text = invoke("demo")
    assert code == 1
    assert " ".join(text.split()) == f"error: {' '.join(str(error).split())}"


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    def fail():
        raise AttributeError("a bug")

    fake_run(monkeypatch, fail)
    result = runner.invoke(cli.app, ["demo"])
    assert isinstance(result.exception, AttributeError)


def test_interruption_says_how_to_go_on(monkeypatch):
    def stop():
        raise KeyboardInterrupt

    fake_run(monkeypatch, stop)
    code, text = invoke("demo", "--out", "here")
    assert code == 130
    assert "interrupted; go on with --resume --out here" in text


def test_settings_reach_the_experiment(monkeypatch):
    seen = fake_run(monkeypatch, lambda: None)
    assert invoke("demo", "--quick", "--seed", "7", "--jobs", "1")[0] == 0
    ((out, settings),) = seen
    assert re.fullmatch(r"runs/eeg_demo-\d{8}-\d{6}", out.as_posix())
    assert settings.pop("console") is cli.console
    assert settings == {"quick": True, "seed": 7, "jobs": 1, "resume": False}


def test_settings_an_experiment_cannot_use_are_refused(monkeypatch):
    fake_run(monkeypatch, lambda: None)
    code, text = invoke("run", "eeg_demo", "--device", "cuda")
    assert code == 1
    assert "eeg_demo takes no --device" in text


def test_data_sets_without_subjects(monkeypatch):
    from manifoldkit import datasets

    one = Dataset("fetch_digits", "digits", ("images/digits.npz",))
    monkeypatch.setitem(cli.DATASETS, "digits", one)
    monkeypatch.setattr(datasets, "fetch_digits", lambda: None, raising=False)
    assert re.search(r"digits.*no\b", invoke("data", "list")[1])
    assert invoke("data", "fetch", "digits") == (0, "digits is in the data folder\n")
    code, text = invoke("data", "fetch", "digits", "--subject", "1")
    assert code == 1
    assert "digits has no subjects" in text


def test_resume_takes_the_latest_run(monkeypatch, tmp_path):
    for name in ("eeg_demo-20260101-000000", "eeg_demo-20260102-000000"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    seen = fake_run(monkeypatch, lambda: None)
    assert invoke("run", "eeg_demo", "--resume")[0] == 0
    assert seen[0][0].name == "eeg_demo-20260102-000000"


def test_a_run_is_not_written_over(monkeypatch, tmp_path):
    seen = fake_run(monkeypatch, lambda: None)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "progress.json").write_text("{}")
    code, text = invoke("demo", "--out", "here")
    assert code == 1
    assert "here holds a run (progress.json); go on with it by --resume" in text
    assert not seen
    assert invoke("demo", "--out", "here", "--resume")[0] == 0


def test_resuming_what_is_not_there_begins_anew(monkeypatch, tmp_path):
    # the run itself says so: tests/experiments/test_evaluation.py
    seen = fake_run(monkeypatch, lambda: None)
    code, _ = invoke("demo", "--out", "here", "--resume")
    assert code == 0
    assert seen[0][1]["resume"]
    assert not (tmp_path / "here").exists()  # nothing was written


def test_the_end_of_a_run_says_where_it_is(monkeypatch, tmp_path):
    fake_run(monkeypatch, lambda: (tmp_path / "here/result.json").write_text("{}"))
    code, text = invoke("demo", "--out", "here", "--quick")
    assert code == 0
    assert "take figures from a full run" in text
    assert text.endswith("here: result.json\n")


def test_a_run_that_fails_at_once_leaves_no_folder(monkeypatch, tmp_path):
    def fail():
        raise MissingExtraError("training", "lightning", "train")

    fake_run(monkeypatch, fail)
    assert invoke("demo")[0] == 1
    assert not list((tmp_path / "runs").iterdir())


def test_benchmarks_are_checked_and_passed_on(monkeypatch, tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__main__.py").write_text("")
    (folder / "means.py").write_text("\ndef run():\n    pass\n")
    seen = []
    monkeypatch.setattr(cli.subprocess, "call", lambda line: seen.append(line) or 3)
    assert invoke("bench", "means", "--write")[0] == 3
    assert seen[0][1:] == ["-m", "benchmarks", "means", "--write"]
    code, text = invoke("bench", "meens")
    assert code == 1
    assert "did you mean means?" in text


def test_missing_data_say_the_command(monkeypatch):
    def fail():
        raise DatasetNotFoundError("PhysioNet is not here")

    fake_run(monkeypatch, fail)
    code, text = invoke("demo")
    assert code == 1
    assert text == (
        "error: PhysioNet is not here\nfetch: manifoldkit data fetch physionet_mi\n"
    )


def test_cuda_that_is_not_there_is_one_line(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, text = invoke("run", "monoid_sets", "--device", "cuda", "--devices", "2")
    assert code == 1
    assert "on 2 device(s), and torch" in text
    assert "finds 1 CUDA device(s) here" in text


def test_list_describes_one():
    code, text = invoke("list", "subgraph_retrieval")
    assert code == 0
    cost = cli.EXPERIMENTS["subgraph_retrieval"].cost
    for part in ("Ramachandran", cost, "--devices", "data fetch subgraph_pairs"):
        assert part in text
    assert "fetch" not in invoke("list", "monoid_sets")[1]


def test_only_what_trains_with_lightning_takes_devices():
    """``--devices`` acts through ``training.fit``: the module or a part must use it."""
    import inspect
    import sys

    for name, entry in cli.EXPERIMENTS.items():
        module = entry.load()
        parts = re.findall(
            r"from (manifoldkit\.experiments[\w.]+)", inspect.getsource(module)
        )
        own = [part for part in parts if not part.endswith(".training")]
        modules = [module, *map(importlib.import_module, own)]
        assert all(m.__name__ in sys.modules for m in modules)
        uses = any(
            "experiments.training import" in inspect.getsource(m) for m in modules
        )
        assert uses or not entry.ddp, name


@pytest.mark.parametrize(
    ("line", "expected"),
    [("run mono", "monoid_graphs monoid_sets"), ("data fetch the", "the_hague")],
)
def test_names_are_completed_in_the_shell(line, expected):
    words = f"manifoldkit {line}"
    code = "from manifoldkit.cli import app; app(prog_name='manifoldkit')"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {
            "_MANIFOLDKIT_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(out.stdout.split()) == sorted(expected.split())


def test_a_data_folder_that_is_not_there_is_told(monkeypatch, tmp_path):
    fake_run(monkeypatch, lambda: None)
    assert invoke("demo")[1] == ""
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "typo"))
    told = f"MANIFOLDKIT_DATA: there is no folder {tmp_path / 'typo'}\n"
    assert invoke("demo")[1] == told
    assert invoke("data", "list")[1].endswith(told)


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        code, text = invoke("demo", "--out", name)
        assert code == 1
        assert text.startswith(f"error: out: cannot write to {name}: ")


def test_data_fetch_passes_subjects_and_plain_errors(monkeypatch):
    from manifoldkit import datasets

    def fetch(subjects):
        raise DatasetNotFoundError(f"mamem: subjects {subjects} are not here")

    monkeypatch.setattr(datasets, "fetch_mamem", fetch)
    code, text = invoke("data", "fetch", "mamem", "--subject", "2", "--subject", "3")
    assert code == 1
    assert text == "error: mamem: subjects [2, 3] are not here\n"


def test_demo_runs_on_the_command_line(tmp_path, monkeypatch):
    load = eeg_demo.load_tasks

    def smaller(quick, seed):
        tasks = load(quick, seed)
        for task in tasks:
            task["X"], task["y"] = task["X"][:20], task["y"][:20]
        return tasks[:1]

    monkeypatch.setattr(eeg_demo, "load_tasks", smaller)
    code, text = invoke("demo", "--quick", "--jobs", "1", "--out", "run")
    assert code == 0, text
    assert "SIMULATED" in text
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {row["total"] for row in stored["metrics"]} == {20}


@pytest.mark.slow
def test_an_experiment_runs_on_two_devices(tmp_path):
    """Lightning starts the command once more; one of the two writes the result."""
    pytest.importorskip("lightning")
    arguments = ["run", "rotation_continuity", "--quick", "--devices", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "manifoldkit", *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("reproduce rotations, 6D: mean") == 1
    (folder,) = (tmp_path / "runs").iterdir()
    stored = json.loads((folder / "result.json").read_text())
    assert all(row["mean"] < 180 for row in stored["metrics"])
