"""Scores of scikit-learn pipelines by repeated cross-validation, fold by fold."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from rich.progress import Progress
from scipy.stats import binom
from sklearn.base import clone
from sklearn.metrics import get_scorer
from sklearn.model_selection import RepeatedStratifiedKFold
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.evaluation import Store
from manifoldkit.experiments.result import student_interval, wilson_interval

if TYPE_CHECKING:
    from manifoldkit.datasets.eeg.epochs import EEGEpochs


# trials of a fold whose prediction is timed
_TIMED = 20


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, without what old libraries announce."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        yield


@contextmanager
def worker_pool(jobs: int) -> Iterator[Parallel]:
    """Yield a joblib ``Parallel`` that hands results over as they come.

    Data travel by value (they are small). joblib takes the libraries that a worker
    imports for a memory leak and says so while it replaces the worker; nothing is
    lost, and nobody can act on it, so that warning is dropped.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield Parallel(n_jobs=jobs, return_as="generator", max_nbytes=None)


class SplitScore(NamedTuple):
    """What a model does on the test part of a split.

    Attributes
    ----------
    correct : int
        Right answers.
    seconds : float
        Time of the fit.
    roc_auc : float or None
        Area under the ROC curve, where there are two classes.
    latencies : tuple of float
        Seconds of the prediction of one trial alone, on one thread.
    """

    correct: int
    seconds: float
    roc_auc: float | None
    latencies: tuple[float, ...] = ()


def score_split(
    model: Any, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> SplitScore:
    """Fit on one part and score on the other."""
    with one_thread():
        start = time.perf_counter()
        model = clone(model).fit(X[train], y[train])
        seconds = time.perf_counter() - start
        correct = int((model.predict(X[test]) == y[test]).sum())
        auc = roc_auc(model, X[test], y[test]) if len(np.unique(y)) == 2 else None
        return SplitScore(correct, seconds, auc, latencies_of(model, X[test]))


def latencies_of(model: Any, X: np.ndarray) -> tuple[float, ...]:
    """Return the seconds that single trials take, as they would come online."""
    seconds = []
    for i in range(min(len(X), _TIMED)):
        start = time.perf_counter()
        model.predict(X[i : i + 1])
        seconds.append(time.perf_counter() - start)
    return tuple(seconds)


def roc_auc(model: Any, X: np.ndarray, y: np.ndarray) -> float | None:
    """Return the area under the ROC curve of a two-class model; None of one class."""
    if len(np.unique(y)) < 2:
        return None
    return float(get_scorer("roc_auc")(model, X, y))


def score_folds(
    model: Any,
    X: np.ndarray,
    y: np.ndarray,
    *,
    n_repeats: int,
    seed: int,
    pool: Parallel,
    tick: Callable[[], None],
) -> dict[str, Any]:
    """Score a model by repeated stratified five-fold cross-validation.

    Parameters
    ----------
    model : estimator
        Cloned for every fold.
    X, y : ndarray
        Data and labels.
    n_repeats, seed : int
        How often the data are divided into folds, and from which seed.
    pool : joblib Parallel
        Made with ``return_as="generator"``.
    tick : callable
        Called after every fold.

    Returns
    -------
    dict
        Counts per repetition, accuracy, Wilson interval on the n trials with the mean
        count over repetitions, chance with its binomial 95 % point, median fit time,
        median and 95 % point of the time that a single trial takes; of two classes
        also the mean area under the ROC curve over all folds, the score that MOABB and
        the paper of the augmented covariance report.
    """
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=n_repeats, random_state=seed)
    scores = []
    jobs = (delayed(score_split)(model, X, y, *split) for split in folds.split(X, y))
    for score in pool(jobs):
        scores.append(score)
        tick()
    per_repeat = np.reshape([s.correct for s in scores], (n_repeats, 5)).sum(1)
    areas = [s.roc_auc for s in scores if s.roc_auc is not None]
    waits = [seconds for s in scores for seconds in s.latencies]
    n, mean = len(y), float(per_repeat.mean())
    low, high = wilson_interval(mean, n)
    largest = np.unique(y, return_counts=True)[1].max()
    return {
        **({"roc_auc": float(np.mean(areas))} if areas else {}),
        "correct": int(per_repeat.sum()),
        "total": n * n_repeats,
        "n": n,
        "accuracy": mean / n,
        "spread": float(per_repeat.std() / n),
        "low": low,
        "high": high,
        "per_repeat": [int(v) for v in per_repeat],
        "fit_seconds": float(np.median([s.seconds for s in scores])),
        "latency_median": float(np.median(waits)),
        "latency_p95": float(np.quantile(waits, 0.95)),
        "chance": float(largest / n),
        "chance_bound": float(binom.ppf(0.95, n, largest / n) / n),
    }


def score_models(
    store: Store,
    bar: Progress,
    task: str,
    models: dict[str, Any],
    X: np.ndarray,
    y: np.ndarray,
    **options: Any,
) -> list[dict[str, Any]]:
    """Return a row a model, each a piece; ``options`` are those of the folds."""
    rows = []
    for name, model in models.items():
        label = f"{task}: {name}"
        line = bar.add_task(label, total=5 * options["n_repeats"])
        tick = partial(bar.advance, line)
        scores = store.get(label, score_folds, model, X, y, tick=tick, **options)
        bar.remove_task(line)
        rows.append({"task": task, "pipeline": name, **scores})
    return rows


def over_subjects(values: ArrayLike, n: int) -> tuple[float, float, float]:
    """Standard deviation and Student's interval; Wilson's on n trials for one subject.

    >>> spread, low, high = over_subjects([0.3, 0.4, 0.5], 100)
    >>> round(spread, 3), round(low, 3), round(high, 3)
    (0.1, 0.152, 0.648)
    """
    found = np.asarray(values, dtype=float)
    if len(found) == 1:
        return (0.0, *wilson_interval(float(found[0]) * n, n))
    return student_interval(found)


def mamem_subjects(most: int | None = None) -> dict[int, "EEGEpochs"]:
    """Return the recordings of the MAMEM subjects that are on this machine."""
    from manifoldkit.datasets import fetch_mamem
    from manifoldkit.datasets.archive import find_archive

    here = [s for s in range(1, 12) if find_archive(f"eeg/mamem_ssvep_U{s:03d}.npz")]
    return {s: fetch_mamem(s, download=False) for s in here[:most]}
