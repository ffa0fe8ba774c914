"""Results as files."""

import inspect
import json

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from manifoldkit.experiments.catalog import EXPERIMENTS
from manifoldkit.experiments.evaluation import Run
from manifoldkit.experiments.result import (
    Result,
    command_line,
    environment,
    student_interval,
    wilson_interval,
    write_json,
)


@pytest.fixture
def result():
    return Result(
        name="toy",
        title="A toy",
        metrics=[{"accuracy": np.float64(0.5), "counts": np.arange(3)}],
        seeds=[0],
        environment=environment(),
    )


def test_round_trip(result, tmp_path):
    file = result.save(tmp_path / "run")
    assert file.name == "result.json"
    back = Result.load(file)
    assert back.metrics == [{"accuracy": 0.5, "counts": [0, 1, 2]}]
    assert Result.load(tmp_path / "run") == back
    assert back.environment["packages"]["torch"]


@pytest.mark.parametrize("content", ["{", "[1]", '{"name": "x"}', '{"other": 1}'])
def test_other_files_are_refused(content, tmp_path):
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="not a stored result"):
        Result.load(file)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    file = write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_wilson_covers_as_it_says(rng):
    n, inside = 40, []
    for p in rng.uniform(0.3, 0.95, 3000):  # coverage holds on average over p
        low, high = wilson_interval(rng.binomial(n, p), n)
        inside.append(low <= p <= high)
    assert 0.935 < np.mean(inside) < 0.965
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    with pytest.raises(ValueError, match="correct"):
        wilson_interval(11, 10)


def test_environment_names_nobody():
    text = json.dumps(environment()).lower()
    assert "home" not in text
    assert "user" not in text


def test_the_interval_of_few_subjects_is_students():
    values = np.array([0.2, 0.5, 0.6, 0.7])
    spread, low, high = student_interval(values)
    found = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(found)
    assert spread == pytest.approx(values.std(ddof=1))
    with pytest.raises(ValueError, match="two numbers"):
        student_interval([0.5])


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_the_command_of_a_result_names_the_seed(name, tmp_path):
    assert command_line(name, 7, False) == f"manifoldkit run {name} --seed 7"
    module = EXPERIMENTS[name].load()
    # all write their result here, which names the experiment and the seed
    this = Run(module.NAME, module.TITLE, tmp_path, False, 7, False, Console())
    assert this.finish([], {}, [7]).command == command_line(name, 7, False)
    assert "this.finish(" in inspect.getsource(inspect.unwrap(module.run))
