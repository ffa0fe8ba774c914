"""What the experiments share: runs that can be resumed, scored folds, printing."""

import json
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.stats import binom
from sklearn.base import clone
from sklearn.model_selection import RepeatedStratifiedKFold
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.result import Result, wilson_interval, write_json


def score_split(model, X, y, train, test) -> tuple[int, float]:
    """Fit on one split; return the number of right answers and the fit's seconds."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        start = time.perf_counter()
        model = clone(model).fit(X[train], y[train])
        seconds = time.perf_counter() - start
        return int((model.predict(X[test]) == y[test]).sum()), seconds


def score_folds(
    model, X, y, *, n_repeats: int, seed: int, pool: Parallel, tick: Callable[[], None]
) -> dict:
    """Score a model by repeated stratified five-fold cross-validation.

    Parameters
    ----------
    model : estimator
        Cloned for every fold.
    X, y : ndarray
        Data and labels.
    n_repeats, seed : int
        Of the folds.
    pool : joblib Parallel
        With ``return_as="generator"``.
    tick : callable
        Called after every fold.

    Returns
    -------
    dict
        Counts per repetition, accuracy, Wilson interval on the n trials with the mean
        count over repetitions, chance with its binomial 95 % point, median fit time.
    """
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=n_repeats, random_state=seed)
    correct, seconds = [], []
    jobs = (delayed(score_split)(model, X, y, *split) for split in folds.split(X, y))
    for right, elapsed in pool(jobs):
        correct.append(right)
        seconds.append(elapsed)
        tick()
    per_repeat = np.reshape(correct, (n_repeats, 5)).sum(1)
    n, mean = len(y), float(per_repeat.mean())
    low, high = wilson_interval(mean, n)
    largest = np.unique(y, return_counts=True)[1].max()
    return {
        "correct": int(per_repeat.sum()),
        "total": n * n_repeats,
        "n": n,
        "accuracy": mean / n,
        "spread": float(per_repeat.std() / n),
        "low": low,
        "high": high,
        "per_repeat": [int(v) for v in per_repeat],
        "fit_seconds": float(np.median(seconds)),
        "chance": float(largest / n),
        "chance_bound": float(binom.ppf(0.95, n, largest / n) / n),
    }


@contextmanager
def worker_pool(jobs: int):
    """Yield a joblib ``Parallel`` that hands results over as they come.

    Data travel by value (they are small). joblib takes the libraries that a worker
    imports for a memory leak and says so while it replaces the worker; nothing is
    lost, and nobody can act on it, so that warning is dropped.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield Parallel(n_jobs=jobs, return_as="generator", max_nbytes=None)


class Store:
    """Finished pieces of a run, by key, in ``progress.json`` of its folder.

    Parameters
    ----------
    folder : Path
        Of the run.
    settings : dict
        What a resumed run must agree in.
    resume : bool
        Read what an earlier run left.

    Raises
    ------
    ValueError
        The run to resume had other settings.
    """

    def __init__(self, folder: Path, settings: dict, resume: bool):
        self.file = folder / "progress.json"
        self.content: dict = {"settings": settings, "pieces": {}}
        if resume and self.file.exists():
            try:
                stored = json.loads(self.file.read_text(encoding="utf-8"))
                kept = stored["settings"], stored["pieces"]
            except (TypeError, KeyError, ValueError) as error:
                raise ValueError(
                    f"resume: {self.file} is not the progress of a run ({error!r})"
                ) from error
            if kept[0] != settings:
                raise ValueError(
                    f"resume: {self.file} belongs to a run with {stored['settings']}, "
                    f"asked for {settings}"
                )
            self.content = stored

    def get(self, key: str, compute: Callable[[], dict]) -> dict:
        """Return a stored piece, or compute and store it."""
        pieces = self.content["pieces"]
        if key not in pieces:
            start = time.perf_counter()
            pieces[key] = compute()
            spent = self.content.get("seconds", 0.0)
            self.content["seconds"] = spent + time.perf_counter() - start
            write_json(self.file, self.content)
        return pieces[key]

    @property
    def seconds(self) -> float:
        """Time that the pieces took, also those of the run that was interrupted."""
        return self.content.get("seconds", 0.0)


def show(result: Result, table: Table, console: Console) -> None:
    """Print the table of a result, and its remarks."""
    console.print(table)
    for remark in result.remarks:
        console.print(f"- {remark}", highlight=False)


def progress_bar(console: Console) -> Progress:
    """Return a progress display that is silent where nobody watches."""
    return Progress(
        TextColumn("{task.description:<52}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
