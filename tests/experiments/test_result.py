"""Results as files."""

import json

import numpy as np
import pytest

from manifoldkit.experiments.result import (
    Result,
    environment,
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
