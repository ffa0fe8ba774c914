"""Scored folds against a slow reference, and stored pieces."""

import json
import time

import numpy as np
import pytest
from joblib import Parallel
from scipy.stats import binom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from manifoldkit.experiments.evaluation import Store, progress_bar, score_folds


@pytest.fixture
def data(rng):
    y = np.repeat(["a", "b"], [12, 18])
    return rng.standard_normal((30, 2)) + 1.2 * (y == "b")[:, None], y


def score(model, data, **settings):
    ticks = []
    scores = score_folds(
        model,
        *data,
        **{"n_repeats": 3, "seed": 0} | settings,
        pool=Parallel(n_jobs=1, return_as="generator"),
        tick=lambda: ticks.append(1),
    )
    return scores, len(ticks)


def test_counts_agree_with_cross_val_score(data):
    scores, ticks = score(LinearDiscriminantAnalysis(), data)
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    # folds of equal size: the mean over folds is the share of right answers
    expected = cross_val_score(LinearDiscriminantAnalysis(), *data, cv=folds)
    assert scores["accuracy"] == pytest.approx(expected.mean(), abs=1e-12)
    assert scores["correct"] == sum(scores["per_repeat"])
    assert (scores["n"], scores["total"], ticks) == (30, 90, 15)
    assert scores["low"] < scores["accuracy"] < scores["high"]


def test_repetitions_do_not_narrow_the_interval(data):
    # they use the same trials again, so n stays the number of trials
    model = DummyClassifier(strategy="most_frequent")
    one, _ = score(model, data, n_repeats=1)
    many, _ = score(model, data, n_repeats=6)
    assert (one["low"], one["high"]) == (many["low"], many["high"])


def test_chance_is_the_largest_class(data):
    scores, _ = score(DummyClassifier(strategy="most_frequent"), data)
    assert scores["accuracy"] == scores["chance"] == pytest.approx(0.6)
    right = round(scores["chance_bound"] * 30)
    # guessing the largest class goes above the bound in at most 5 % of cases
    assert binom.sf(right, 30, 0.6) <= 0.05 < binom.sf(right - 1, 30, 0.6)


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
    from rich.console import Console

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
