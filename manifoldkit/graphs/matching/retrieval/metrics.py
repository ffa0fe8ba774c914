"""How good a ranking of a corpus is."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from manifoldkit._checks import check_count


class RetrievalScores(NamedTuple):
    """Means over the queries that have positives and negatives.

    Attributes
    ----------
    map : float
        Mean average precision.
    hits : float
        Mean of :func:`hits_at_k`.
    precision : float
        Mean of :func:`precision_at_k`.
    n_queries, n_skipped : int
        Queries that count, and those without positives or without negatives.
    """

    map: float
    hits: float
    precision: float
    n_queries: int
    n_skipped: int


def average_precision(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Return the average precision of one ranking; equal scores share a place.

    Tied items enter together, as in scikit-learn, so that their order in the input does
    not matter.

    Parameters
    ----------
    scores, relevant : array-like, shape (n,)
        Scores, and nonzero for positives.

    Raises
    ------
    ValueError
        Lengths that differ, scores that are NaN, or no positive.

    Examples
    --------
    >>> average_precision([3.0, 2.0, 1.0], [1, 0, 1])
    0.8333...
    >>> average_precision([1.0, 1.0], [1, 0]), average_precision([1.0, 1.0], [0, 1])
    (0.5, 0.5)
    """
    values, truth = _checked(scores, relevant, positives=True)
    order = np.argsort(-values, kind="stable")
    ranked, truth = values[order], truth[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    found = truth.cumsum()[last]
    return float(np.diff(found, prepend=0) @ (found / (last + 1)) / truth.sum())


def hits_at_k(scores: ArrayLike, relevant: ArrayLike, k: int = 20) -> float:
    """Return the share of positives that score above the k-th negative.

    The published tables name this measure but their code does not hold it; this is the
    usual definition in retrieval. All positives count with fewer than ``k`` negatives.

    Parameters
    ----------
    scores, relevant : array-like, shape (n,)
        Scores, and nonzero for positives.
    k : int, default=20

    Raises
    ------
    ValueError
        Lengths that differ, scores that are NaN, no positive, or ``k`` below 1.

    Examples
    --------
    >>> hits_at_k([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0], k=1)
    0.5
    """
    values, truth = _checked(scores, relevant, k, positives=True)
    negative = np.sort(values[~truth])[::-1]
    if len(negative) < k:
        return 1.0
    return float((values[truth] > negative[k - 1]).mean())


def precision_at_k(scores: ArrayLike, relevant: ArrayLike, k: int = 20) -> float:
    """Return the share of positives among the first ``k``, ties counted on average.

    Parameters
    ----------
    scores, relevant : array-like, shape (n,)
        Scores, and nonzero for positives.
    k : int, default=20
        How many places are looked at; of fewer items all count.

    Raises
    ------
    ValueError
        Lengths that differ, scores that are NaN, or ``k`` below 1.

    Examples
    --------
    >>> precision_at_k([3.0, 2.0, 2.0, 1.0], [1, 1, 0, 0], k=2)
    0.75
    """
    values, truth = _checked(scores, relevant, k)
    k = min(k, len(values))
    limit = np.sort(values)[::-1][k - 1]
    above, tied = values > limit, values == limit
    share = (k - above.sum()) / tied.sum()
    return float((truth[above].sum() + share * truth[tied].sum()) / k)


def retrieval_scores(
    scores: ArrayLike, relation: ArrayLike, k: int = 20
) -> RetrievalScores:
    """Return MAP, HITS and precision of a matrix of scores.

    Parameters
    ----------
    scores, relation : array-like, shape (n_queries, n_corpus)
        Scores, and nonzero where the corpus graph contains the query.
    k : int
        Places that HITS and precision look at.

    Raises
    ------
    ValueError
        Shapes that differ, scores that are NaN, or no query with both positives and
        negatives.

    Examples
    --------
    >>> scores = retrieval_scores([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], [[1, 0, 1]] * 2)
    >>> scores.map, scores.n_queries
    (0.8333..., 2)
    """
    values, truth = _array(scores, "scores"), _array(relation, "relation")
    if np.isnan(truth).any():
        raise ValueError("relation: found NaN")
    truth = truth != 0
    if values.ndim != 2 or values.shape != truth.shape:
        raise ValueError(
            "scores, relation: expected equal shapes (n_queries, n_corpus), found "
            f"{values.shape} and {truth.shape}"
        )
    usable = truth.any(1) & ~truth.all(1)
    if not usable.any():
        raise ValueError(
            "relation: expected a query with positives and negatives, found none"
        )
    rows = [
        (average_precision(s, r), hits_at_k(s, r, k), precision_at_k(s, r, k))
        for s, r in zip(values[usable], truth[usable], strict=True)
    ]
    mean_ap, hits, precision = np.mean(rows, 0).tolist()
    n = int(usable.sum())
    return RetrievalScores(mean_ap, hits, precision, n, len(values) - n)


def _array(values: Any, name: str) -> np.ndarray:
    try:
        if np.iscomplexobj(values):
            raise TypeError("complex numbers")
        return np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of numbers ({error})") from None


def _checked(
    scores: Any, relevant: Any, k: int = 1, positives: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    scores, relevant = _array(scores, "scores"), _array(relevant, "relevant") != 0
    if scores.ndim != 1 or scores.shape != relevant.shape or not len(scores):
        raise ValueError(
            f"scores, relevant: expected equal lengths, found {scores.shape} and "
            f"{relevant.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("scores: found NaN")
    check_count(k, "k")
    if positives and not relevant.any():
        raise ValueError("relevant: expected at least one positive, found none")
    return scores, relevant
