"""The scripts in ``examples/`` do what they say."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_is_tested_and_documented():
    tests = Path(__file__).read_text()
    guide = EXAMPLES.parent / "docs" / "guide" / "scaling.md"
    for file in EXAMPLES.glob("*.py"):
        assert f'"{file.name}"' in tests
        assert f"examples/{file.name}" in guide.read_text()
        assert f"python examples/{file.name}" in file.read_text()


def test_two_processes_train_one_network():
    pytest.importorskip("lightning", reason="needs lightning")
    text = run("ddp_spdnet.py", "--devices", "2", "--epochs", "3")
    assert "2 process(es)" in text
    assert float(re.search(r"accuracy (\S+)", text)[1]) > 0.9
    assert "largest difference between processes: 0.0\n" in text
    assert "parameters on their manifolds: True" in text


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs dask[distributed]"
)
def test_a_grid_search_on_dask_workers():
    text = run("dask_grid_search.py", "--workers", "2")
    assert "the same scores as in one process: True" in text


def test_a_corpus_on_disk():
    text = run("stream_corpus.py", "--graphs", "300")
    assert "300 graphs, " in text
    assert text.count("verified") == 3
    assert "of 300 graphs passed the filter" in text
