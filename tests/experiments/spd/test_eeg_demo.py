"""The main job on small simulated data: files, honesty, resuming."""

import json
import re

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from manifoldkit.datasets import load_digits_covariances, make_motor_imagery_eeg
from manifoldkit.experiments.result import Result
from manifoldkit.experiments.spd import eeg_demo, folds
from manifoldkit.spd import make_acm_classifier


@pytest.fixture
def small(monkeypatch):
    """Tiny data and a folder-independent set of tasks."""
    epochs = make_motor_imagery_eeg(
        n_epochs=20, n_channels=4, n_times=160, random_state=0
    )
    digits = load_digits_covariances((3, 8), n_per_class=10)
    tasks = [
        eeg_demo.as_task("simulated imagery", epochs, False),
        eeg_demo.as_task("digits 3 vs 8", digits, True),
    ]
    monkeypatch.setattr(eeg_demo, "load_tasks", lambda quick, seed: tasks)
    return tasks


@pytest.fixture
def no_search(monkeypatch):
    """A fixed order and lag instead of the nested search, which takes seconds."""
    original = eeg_demo.pipelines

    def pipelines(matrices, quick, seed):
        models = original(matrices, quick, seed)
        if eeg_demo.ACM in models:
            models[eeg_demo.ACM] = make_acm_classifier(order=2, lag=2)
        return models

    monkeypatch.setattr(eeg_demo, "pipelines", pipelines)


def run(out, **kwargs):
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    try:
        result = eeg_demo.run(out, quick=True, jobs=1, console=console, **kwargs)
    finally:
        console.file.close()
    return result, console.export_text()


def scores(result):
    return [
        {k: v for k, v in row.items() if k != "fit_seconds" and "latency" not in k}
        for row in result.metrics
    ]


def test_run_writes_all_files_and_says_what_it_used(small, tmp_path):
    result, text = run(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    pictures = {"scores.png", "order_lag.png", "tangent_space.png"}
    assert names >= pictures | {"result.json", "report.html"}
    assert Result.load(tmp_path).metrics == result.metrics
    assert "SIMULATED" in text
    assert "does not apply" in text
    assert "simulated imagery: n = 20" in text
    assert "digits 3 vs 8, real: n = 20" in text
    assert "not independent" in text
    assert "one trial" in text
    for row in result.metrics:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["correct"] <= row["total"] == 20
        assert 0 < row["latency_median"] <= row["latency_p95"] < 5
    report = (tmp_path / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', report)
    assert report.count("data:image/png;base64") == 3
    assert "url(" not in report
    assert "@import" not in report
    for row in result.metrics:
        assert f"{row['correct']}/{row['total']}" in report


def test_resumed_run_equals_an_uninterrupted_one(
    small, no_search, tmp_path, monkeypatch
):
    whole, _ = run(tmp_path / "whole")
    original, calls = folds.score_folds, []

    def interrupted(*args, **kwargs):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(folds, "score_folds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part")
    stored = json.loads((tmp_path / "part" / "progress.json").read_text())
    assert len(stored["pieces"]) == 3

    again = []
    monkeypatch.setattr(
        folds,
        "score_folds",
        lambda *a, **k: (again.append(1), original(*a, **k))[1],
    )
    resumed, _ = run(tmp_path / "part", resume=True)
    assert scores(resumed) == scores(whole)
    assert len(again) == len(whole.metrics) - 3


def test_resume_refuses_another_run(small, no_search, tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"resume: .*seed"):
        run(tmp_path, resume=True, seed=5)


def row(pipeline, accuracy, low, high):
    return {
        "task": "t",
        "pipeline": pipeline,
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "n": 40,
        "chance_bound": 0.65,
    }


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "expected"),
    [
        (0.70, 0.55, 0.82, "10.0 points BELOW the plain one (the gap is 4.0 "),
        (0.80, 0.65, 0.90, "the same as the plain one"),
        (0.95, 0.92, 0.99, "15.0 points above the plain one (the gap is 6.0 "),
    ],
)
def test_the_comparison_is_said_in_words(accuracy, low, high, expected):
    rows = [row(eeg_demo.PLAIN, 0.8, 0.65, 0.9), row(eeg_demo.ACM, accuracy, low, high)]
    assert expected in eeg_demo.remarks_on(rows)[0]


def test_a_gap_is_called_undecided_only_where_no_paired_test_could_decide():
    def words(gap):
        rows = [
            row(eeg_demo.PLAIN, 0.6, 0.45, 0.74),
            row(eeg_demo.ACM, 0.6 + gap / 40, 0.45 + gap / 40, 0.74 + gap / 40),
        ]
        return eeg_demo.remarks_on(rows)[0]

    for gap in range(1, 13):
        # the best case: every trial on which the two differ goes one way
        possible = binomtest(gap, gap).pvalue < 0.05
        assert ("decides nothing" in words(gap)) is not possible
    assert "intervals overlap" in words(6)
    assert "do not overlap" in words(12)


def test_plain_pipelines_all_take_ready_matrices():
    matrices = set(eeg_demo.pipelines(matrices=True))
    assert set(eeg_demo.pipelines(matrices=False)) - matrices == {eeg_demo.ACM}


def test_data_are_named_with_their_limits(small):
    caveats = eeg_demo.caveats_on(small)
    assert any("simulated" in text and "recordings" in text for text in caveats)
    assert not any("One subject" in text for text in caveats)
    real = eeg_demo.caveats_on([{**small[0], "is_real": True}])
    assert real == ["One subject: nothing here carries over to other people."]


def test_chance_level_is_said_in_words():
    rows = [row(eeg_demo.PLAIN, 0.6, 0.5, 0.7), row(eeg_demo.ACM, 0.8, 0.7, 0.9)]
    assert any("chance" in r and eeg_demo.PLAIN in r for r in eeg_demo.remarks_on(rows))


def test_simulation_and_digits_stand_in_for_missing_recordings(monkeypatch, tmp_path):
    monkeypatch.delenv("MANIFOLDKIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tasks = eeg_demo.load_tasks(quick=True)
    assert [t["is_real"] for t in tasks] == [False, True]
    assert "simulat" in tasks[0]["label"]


def test_log_variance(rng):
    X = rng.standard_normal((5, 3, 50))
    np.testing.assert_allclose(
        eeg_demo.LogVariance().fit_transform(X), np.log(X.var(-1))
    )
