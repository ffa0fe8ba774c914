"""The committed page is what the committed results give."""

from pathlib import Path

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
    page = render(tmp_path)
    for part in (
        "SIMULATED",
        "75.0%",
        "60.0% to 90.0%",
        "91.7",
        "worse than hoped",
        "`manifoldkit run toy`",
        "| task | model | ade mean |",
        "| u | m | 0.03142 |",
    ):
        assert part in page
