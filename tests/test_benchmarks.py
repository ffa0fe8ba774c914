"""The benchmarks are found by themselves; page and figure are what is stored."""

import doctest
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Return the module, writing into an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("benchmarks.report")
    monkeypatch.setattr(module, "STORE", tmp_path / "results.json")
    monkeypatch.setattr(module, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(module, "FIGURE", tmp_path / "performance.svg")
    return module


@pytest.fixture
def command(report):
    return importlib.import_module("benchmarks.__main__")


def row(case="a case", ratio=0.5, **extra):
    peer = {"peer": "a peer", "peer_s": 2.0} if ratio else {"peer": "", "peer_s": None}
    return {"case": case, "ours_s": 1.0, "ratio": ratio} | peer | extra


def test_page_is_what_is_stored(report):
    stored = json.loads((ROOT / "benchmarks" / "results.json").read_text("utf-8"))
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert page == report.render(stored)
    assert "(_static/performance.svg)" in page
    assert (ROOT / "docs" / "_static" / "performance.svg").exists()
    for entry in stored.values():
        assert entry["environment"]["threads"] == 1
        assert entry["environment"]["date"] in page


def test_every_module_with_run_is_found(command):
    names = command.benchmarks()
    assert {"linalg", "gbw", "point_clouds"} <= set(names)
    assert not {"__main__", "report", "timing"} & set(names)


@pytest.mark.parametrize(
    ("entry", "share"),
    [
        (row(target="<= 0.4"), 1.25),
        (row(target="0.25, aim 0.1"), 2.0),
        (row(target="0.125 (with torch-quickfps)"), 4.0),
        (row(ratio=None, target="4 s"), 0.25),
        (row(ratio=None, target="500 ms"), 2.0),
        (row(ratio=None, target="0.5"), None),
        (row(target=""), None),
        (row(), None),
    ],
)
def test_share_of_target(report, entry, share):
    assert report.share_of_target(entry) == share


def test_write_keeps_what_was_not_run_and_what_came_before_a_failure(
    command, report, monkeypatch, capsys
):
    rows = {"one": [row("first", 0.25, target="<= 0.1")], "two": [row("second", 3.0)]}

    def measure(name):
        if name == "broken":
            raise RuntimeError("no such peer")
        env = report.environment()
        return {"title": f"About {name}", "environment": env, "rows": rows[name]}

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "benchmarks", lambda: ["broken", "one", "two"])
    assert command.main(["one", "--write"]) == 0
    assert command.main(["broken", "two", "--write"]) == 1
    assert "failed: broken" in capsys.readouterr().err
    page = report.PAGE.read_text("utf-8")
    assert page.index("About one") < page.index("About two")
    assert "Targets not reached" in page
    assert "first (against a peer): 0.25, target <= 0.1" in page
    assert report.FIGURE.read_text("utf-8").rstrip().endswith("</svg>")
    before = report.FIGURE.read_bytes()
    assert command.main(["--render"]) == 0
    assert report.FIGURE.read_bytes() == before


def test_unknown_name_lists_the_known(command, capsys):
    with pytest.raises(SystemExit):
        command.main(["nonsense"])
    assert "linalg" in capsys.readouterr().err


def test_examples_of_the_report(report):
    assert doctest.testmod(report).failed == 0
    assert "benchmarks.report" in sys.modules
