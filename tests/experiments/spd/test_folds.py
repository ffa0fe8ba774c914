"""Scored folds against a slow reference, subjects, and the recordings."""

import numpy as np
import pytest
from joblib import Parallel
from scipy.stats import binom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from manifoldkit.experiments.result import wilson_interval
from manifoldkit.experiments.spd.folds import over_subjects, score_folds


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


def test_one_subject_has_the_interval_of_its_trials():
    assert over_subjects([0.6], 50) == (0.0, *wilson_interval(30, 50))
