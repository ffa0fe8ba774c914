"""The committed page is what the committed results give."""

from pathlib import Path

import pytest

from manifoldkit.experiments.catalog import EXPERIMENTS, Experiment
from manifoldkit.experiments.headlines import HEADLINES, ours, published
from manifoldkit.experiments.reproductions import render
from manifoldkit.experiments.result import Result

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_page_is_up_to_date():
    page = (DOCS / "reproductions.md").read_text(encoding="utf-8")
    assert page == render(DOCS / "results")


def test_results_name_no_machine():
    for file in (DOCS / "results").glob("*/result.json"):
        text = file.read_text()
        assert "/home/" not in text
        assert "/root/" not in text
        assert Result.load(file).metrics


def test_rendering_shows_what_matters(tmp_path):
    Result(
        name="toy",
        title="A toy",
        metrics=[
            {
                "task": "t",
                "pipeline": "p",
                "accuracy": 0.75,
                "low": 0.6,
                "high": 0.9,
                "spread": 0.01,
                "n": 40,
                "chance": 0.5,
            },
            {"task": "u", "model": "m", "ade_mean": 0.031415926, "per_seed": [1, 2]},
        ],
        data={"t": {"is_real": False, "provenance": "made up", "citation": "none"}},
        paper=[{"source": "somebody", "score": 91.7}],
        remarks=["worse than hoped"],
        command="manifoldkit run toy",
    ).save(tmp_path / "toy")
    untried = Experiment("spd.never", "never run", "Somebody 1999", "3 h")
    page = render(tmp_path, {"untried": untried})
    for part in (
        "SIMULATED",
        "75.0%",
        "60.0% to 90.0%",
        "91.7",
        "worse than hoped",
        "`manifoldkit run toy`",
        "| task | model | ade mean |",
        "| u | m | 0.03142 |",
        "| [toy](#a-toy) |",
        "**Unreproduced**",
        "| untried | Somebody 1999 | 3 h | `manifoldkit run untried` |",
    ):
        assert part in page


def test_every_experiment_is_on_the_page_once():
    page = (DOCS / "reproductions.md").read_text(encoding="utf-8")
    overview = page[: page.index("\nCommand: ")]
    for name in EXPERIMENTS:
        stored = (DOCS / "results" / name / "result.json").exists()
        assert overview.count(f"| [{name}](#") == stored
        assert overview.count(f"| {name} |") == (not stored)


@pytest.mark.parametrize("file", sorted((DOCS / "results").glob("*/result.json")))
def test_every_result_has_a_headline(file):
    result = Result.load(file)
    headline = HEADLINES[result.name]
    # a renamed row? name it in manifoldkit/experiments/headlines.py as well
    assert ours(result, headline)[0].isdigit()
    if headline.paper is not None:
        assert published(result, headline)[0].isdigit()
