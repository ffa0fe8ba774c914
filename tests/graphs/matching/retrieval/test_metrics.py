import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from manifoldkit.graphs import (
    average_precision,
    hits_at_k,
    precision_at_k,
    retrieval_scores,
)


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_that_of_scikit_learn(levels):
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, truth = rng.integers(levels, size=40), rng.random(40) < 0.3
        truth[0] = True
        ours = average_precision(scores, truth)
        assert ours == pytest.approx(average_precision_score(truth, scores))
        order = rng.permutation(40)
        assert average_precision(scores[order], truth[order]) == pytest.approx(ours)
        for f in (hits_at_k, precision_at_k):
            assert f(scores, truth, 5) == pytest.approx(
                f(scores[order], truth[order], 5)
            )


def test_hits_and_precision_by_hand():
    scores, truth = [5, 4, 3, 2, 1], [1, 0, 1, 0, 1]
    assert hits_at_k(scores, truth, 1) == pytest.approx(1 / 3)
    assert hits_at_k(scores, truth, 2) == pytest.approx(2 / 3)
    assert hits_at_k(scores, truth, 3) == 1  # fewer negatives than that
    assert precision_at_k(scores, truth, 3) == pytest.approx(2 / 3)
    assert precision_at_k([1, 1, 1, 1], [1, 0, 0, 0], 2) == pytest.approx(1 / 4)


def orders(scores, truth):
    """The truth in every order of places that puts higher scores first."""
    for places in itertools.permutations(range(len(scores))):
        ranked = scores[list(places)]
        if (np.diff(ranked) <= 0).all():
            yield truth[list(places)]


def test_ties_count_on_average_and_never_for_a_hit():
    """Each measure against all orders in which equal scores could be listed."""
    rng = np.random.default_rng(0)
    tied = 0
    for _ in range(30):
        scores, truth = rng.integers(3, size=6), rng.random(6) < 0.5
        truth[:2] = True, False
        ranked = list(orders(scores, truth))
        tied += len(ranked) > 1
        for k in (1, 2, 4):
            mean = np.mean([row[:k].mean() for row in ranked])
            assert precision_at_k(scores, truth, k) == pytest.approx(mean)
            # a positive is a hit where it is above the k-th negative in all orders
            hits = min(
                sum(row[: np.flatnonzero(~row)[k - 1]])
                if (~row).sum() >= k
                else sum(row)
                for row in ranked
            )
            assert hits_at_k(scores, truth, k) == pytest.approx(hits / sum(truth))
    assert tied > 20
    # all equal: the precision of a random order is the share of positives
    assert average_precision(np.zeros(6), [1, 0, 0, 1, 0, 0]) == pytest.approx(1 / 3)


def test_queries_without_two_classes_are_skipped_and_counted():
    found = retrieval_scores(np.eye(3), [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert (found.map, found.n_queries, found.n_skipped) == (1.0, 1, 2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: retrieval_scores(np.eye(2), np.ones((2, 2))),
            "positives and negatives",
        ),
        (lambda: retrieval_scores(np.eye(2), np.eye(3)), "equal shapes"),
        (lambda: retrieval_scores(np.eye(2), np.full((2, 2), np.nan)), "relation"),
        (lambda: average_precision([1.0], [0]), "positive"),
        (lambda: average_precision([np.nan, 1], [0, 1]), "NaN"),
        (lambda: average_precision([1.0], [0, 1]), "equal lengths"),
        (lambda: hits_at_k([1.0], [1], 0), "k: "),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
