"""The main job: motor-imagery EEG, plain and augmented covariances side by side.

Every pipeline sees the same repeated stratified folds. Order and lag of the augmented
covariance are searched inside each training fold. Scores of a (task, pipeline) pair are
stored as soon as they are complete, so an interrupted run can be resumed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from rich.table import Table
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from manifoldkit.experiments.evaluation import (
    Run,
    Store,
    experiment,
    progress_bar,
    show_table,
)
from manifoldkit.experiments.report import show_latency, task_heading, write_report
from manifoldkit.experiments.result import Result, command_line, origin
from manifoldkit.experiments.spd.folds import (
    score_models,
    score_split,
    worker_pool,
)

NAME = "eeg_demo"
TITLE = "Motor-imagery EEG with augmented covariances"
ACM = "ACM + tangent space + SVM, searched"
PLAIN = "tangent space + SVM"
INTERVALS = (
    "Intervals: Wilson, 95 %, on the n trials of a task with the mean count over "
    "repetitions; repetitions use the same trials again and are not independent."
)

# the largest net gain in trials that McNemar's exact test never calls significant
_UNDECIDED = 5

_TASKS = {
    "imagined_fists_feet": "imagined fists vs feet",
    "imagined_left_right": "imagined left vs right",
    "executed_left_right": "executed left vs right",
}


class LogVariance(TransformerMixin, BaseEstimator):
    """Log of each channel's variance: the baseline without interactions.

    Parameters
    ----------
    matrices : bool, default=False
        Takes covariance matrices (n_matrices, n, n) instead of epochs (n_epochs,
        n_channels, n_times).

    Examples
    --------
    >>> LogVariance(matrices=True).fit_transform(np.eye(2)[None]).tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, matrices: bool = False):
        self.matrices = matrices

    def fit(self, X: np.ndarray, y: Any = None) -> Self:
        """Do nothing."""
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return features (n_epochs, n_channels)."""
        power = np.diagonal(X, axis1=1, axis2=2) if self.matrices else X.var(-1)
        return np.log(power)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def pipelines(
    matrices: bool = False, quick: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Return the contestants by name; ``matrices`` for covariance input."""
    from pyriemann.classification import MDM
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace

    from manifoldkit.spd import GBWMDM, make_acm_classifier

    front = [] if matrices else [Covariances("oas")]
    regression = LogisticRegression(max_iter=1000)
    models = {
        "log-variance + LDA": make_pipeline(
            LogVariance(matrices), LinearDiscriminantAnalysis()
        ),
        "MDM": make_pipeline(*front, MDM(metric="riemann")),
        "GBW-MDM": make_pipeline(*front, GBWMDM(M="mean")),
        "tangent space + LR": make_pipeline(*front, TangentSpace(), regression),
    }
    # the classifier of the augmented covariances: what the delays alone change
    models[PLAIN] = make_pipeline(*front, TangentSpace(), SVC(kernel="linear"))
    if not matrices:
        orders, lags = ((1, 3), (2, 6)) if quick else ((1, 2, 4), (2, 4, 8))
        models[ACM] = make_acm_classifier(
            order="auto",
            lag="auto",
            classifier="svm",
            cv=3,
            random_state=seed,
            orders=orders,
            lags=lags,
        )
    return models


def fetch_recordings() -> None:
    """Download the recordings that the demo runs on, unless they are here.

    PhysioNet's runs of one subject, each checked against its SHA-256; what is complete
    is kept, so an interrupted download goes on.

    Raises
    ------
    ConnectionError
        They cannot be had; one sentence.
    MissingExtraError
        MNE, which reads them, is not installed.
    """
    from manifoldkit.datasets import fetch_physionet_mi
    from manifoldkit.exceptions import DatasetNotFoundError

    try:
        fetch_physionet_mi(1, (6, 10))
    except DatasetNotFoundError as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().split("\n")[0][:120]
        raise ConnectionError(
            "--download: the recordings of PhysioNet could not be fetched "
            f"({type(cause).__name__}: {reason}); go online and run the same command "
            "again, which keeps complete runs, or leave --download out for simulated "
            "data"
        ) from None


def load_tasks(quick: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Return the data: real recordings, or a simulation and real digits."""
    from manifoldkit.datasets import load_digits_covariances, load_eeg_demo

    tasks = []
    for task, label in _TASKS.items():
        epochs = load_eeg_demo(task, random_state=seed)
        if epochs.is_real:
            tasks.append(as_task(label, epochs, False))
        elif task == "imagined_left_right":
            tasks.append(as_task("simulated imagery", epochs, False))
    if not tasks[0]["is_real"]:
        digits = load_digits_covariances((3, 8), n_per_class=25 if quick else 50)
        tasks.append(as_task("digits 3 vs 8", digits, True))
    return tasks


def as_task(label: str, data: Any, matrices: bool) -> dict[str, Any]:
    """Return what the run needs of a data set, of signals or of ready matrices."""
    told = {"label": label, "X": data.X, "y": data.y, "matrices": matrices}
    return told | origin(data)


def _order_lag_map(
    task: dict[str, Any],
    quick: bool,
    seed: int,
    pool: Parallel,
    tick: Callable[[], None],
) -> dict[str, Any]:
    """Cross-validated accuracy of each order and lag, to look at, not to choose by."""
    from manifoldkit.spd import make_acm_classifier

    orders, lags = ((1, 3), (2, 6)) if quick else ((1, 2, 4), (1, 2, 4, 8))
    scores = np.full((len(orders), len(lags)), np.nan)
    X, y = task["X"], task["y"]
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=1, random_state=seed + 1)
    splits = list(folds.split(X, y))
    for i, order in enumerate(orders):
        for j, lag in enumerate(lags):
            if order == 1 and j > 0:
                scores[i, j] = scores[i, 0]  # the lag of a single copy does nothing
            else:
                model = make_acm_classifier(order=order, lag=lag, classifier="svm")
                jobs = (delayed(score_split)(model, X, y, *split) for split in splits)
                scores[i, j] = sum(s.correct for s in pool(jobs)) / len(y)
            tick()
    return {"orders": orders, "lags": lags, "scores": scores.tolist()}


def remarks_on(metrics: list[dict]) -> list[str]:
    """Say in words what the numbers show, also where augmentation does not help."""
    remarks = []
    for task in dict.fromkeys(row["task"] for row in metrics):
        rows = {row["pipeline"]: row for row in metrics if row["task"] == task}
        if ACM not in rows:
            remarks.append(
                f"{task}: the augmented covariance needs signals and does not apply to "
                "ready covariance matrices."
            )
        else:
            remarks.append(_compare(task, rows[ACM], rows[PLAIN]))
        weak = [n for n, r in rows.items() if r["accuracy"] <= r["chance_bound"]]
        if weak:
            bound = next(iter(rows.values()))["chance_bound"]
            scores = ", ".join(f"{n} {rows[n]['accuracy']:.1%}" for n in weak)
            remarks.append(
                f"{task}: not distinguishable from chance, at most {bound:.1%} "
                f"(majority class, 5 % level): {scores}."
            )
    return remarks


def _compare(task: str, acm: dict, plain: dict) -> str:
    gap = acm["accuracy"] - plain["accuracy"]
    if abs(gap) < 1e-9:
        return f"{task}: the augmented covariance scores the same as the plain one."
    verdict = f"{100 * abs(gap):.1f} points {'above' if gap > 0 else 'BELOW'}"
    trials = abs(gap) * acm["n"]
    weight = f"the gap is {trials:.1f} of {acm['n']} trials"
    # with b trials won and none lost, McNemar's exact test gives 2 * 0.5**b
    if trials <= _UNDECIDED + 1e-9:
        weight += (
            f"; a paired test needs more than {_UNDECIDED} at the very least: this "
            "decides nothing"
        )
    elif acm["low"] <= plain["high"] and plain["low"] <= acm["high"]:
        weight += "; the intervals overlap"
    else:
        weight += "; the intervals do not overlap"
    return (
        f"{task}: the augmented covariance scores {verdict} the plain one ({weight})."
    )


def caveats_on(tasks: list[dict]) -> list[str]:
    """Say what the data cannot show."""
    caveats = [
        f"{task['label']}: the data are simulated, so the scores say nothing about "
        "recordings."
        for task in tasks
        if not task["is_real"]
    ]
    if any(task["is_real"] and not task["matrices"] for task in tasks):
        caveats.append("One subject: nothing here carries over to other people.")
    return caveats


def _protocol(n_repeats: int) -> str:
    return (
        f"Stratified 5-fold cross-validation, {n_repeats} repetition(s), the same "
        "folds for all pipelines. Order and lag are searched by an inner 3-fold "
        "cross-validation inside each training fold; the fit time of that pipeline is "
        f"the whole search. {INTERVALS} Chance: share of the largest class; a score is "
        "told apart from it above the 95 % point of the binomial distribution. "
        "ROC AUC: mean over the folds. One trial: median and 95 % point of the time "
        "that a fitted pipeline takes for a single trial, on one core."
    )


def _show(result: Result, this: Run) -> None:
    """Print a table a task, the remarks, and where the report is."""
    for task in dict.fromkeys(row["task"] for row in result.metrics):
        this.console.print(_table(result, task))
    this.say(INTERVALS)
    show_table(result, None, this.console)
    this.console.print(f"open {this.out / 'report.html'}", soft_wrap=True)


@experiment(NAME, TITLE, show=_show)
def run(this: Run, *, jobs: int = 2) -> Result:
    """Run the demonstration and write its folder.

    Parameters
    ----------
    out : str or Path
        Folder for ``result.json``, the figures and ``report.html``.
    quick : bool, default=False
        One repetition and a small search.
    seed : int, default=0
        Seed of folds, search and simulation.

    Raises
    ------
    ValueError
        ``resume`` with other settings than the run in ``out`` had.
    """
    tasks = load_tasks(this.quick, this.seed)
    if not any(task["is_real"] and not task["matrices"] for task in tasks):
        this.say(
            "This run is on SIMULATED EEG; on real recordings: manifoldkit demo "
            "--download"
        )
        this.missing("physionet_mi", "A simulation and scikit-learn's digits stand in.")
    n_repeats = 1 if this.quick else 2
    store = this.store(tasks=[t["label"] for t in tasks])
    for task in tasks:
        kind = "real" if task["is_real"] else "SIMULATED"
        this.console.print(
            f"[bold]{task['label']}[/bold] ({kind}): {task['provenance']}"
        )
    metrics, maps = _compute(this, tasks, store, n_repeats, jobs)
    told = ("is_real", "provenance", "citation")
    command = command_line(NAME, this.seed, this.quick)
    result = this.finish(
        metrics,
        protocol=_protocol(n_repeats),
        data={t["label"]: {key: t[key] for key in told} for t in tasks},
        seeds=[this.seed],
        remarks=remarks_on(metrics) + caveats_on(tasks),
        command=command.replace(f"run {NAME}", "demo"),
    )
    figures = _draw(result, tasks, maps, this.out)
    write_report(result, figures, this.out / "report.html")
    return result


def _compute(
    this: Run, tasks: list[dict[str, Any]], store: Store, n_repeats: int, jobs: int
) -> tuple[list[dict[str, Any]], dict[str, dict]]:
    """Fill the table and the order x lag maps, with progress."""
    metrics, maps = [], {}
    quick, seed = this.quick, this.seed
    with worker_pool(jobs) as pool, progress_bar(this.console) as bar:
        for task in tasks:
            name, X, y = (task[key] for key in ("label", "X", "y"))
            models = pipelines(task["matrices"], quick, seed)
            folds = {"n_repeats": n_repeats, "seed": seed, "pool": pool}
            metrics += score_models(store, bar, name, models, X, y, **folds)
            if not task["matrices"]:
                label = f"{name}: order x lag map"
                row = bar.add_task(label, total=None)
                tick = partial(bar.advance, row)
                work = (task, quick, seed, pool, tick)
                maps[name] = store.get(label, _order_lag_map, *work)
                bar.remove_task(row)
    return metrics, maps


def _draw(
    result: Result, tasks: list[dict], maps: dict[str, dict], out: Path
) -> dict[str, Path]:
    """Write the figures; return their files by caption."""
    from manifoldkit import plotting
    from manifoldkit.spd import AugmentedCovariances

    headings = {task: task_heading(result, task) for task in result.data}
    rows = [{**row, "task": headings[row["task"]]} for row in result.metrics]
    maps = {headings[task]: entry for task, entry in maps.items()}
    figures = {
        "Accuracy with 95 % interval; the gray band is what chance reaches.": (
            "scores.png",
            plotting.plot_scores(rows),
        ),
        "Cross-validated accuracy of fixed orders and lags. To look at only: choosing "
        "the best cell afterwards would be optimistic.": (
            "order_lag.png",
            plotting.plot_order_lag_maps(maps),
        ),
    }
    task = tasks[0]
    covariances = {
        f"order {order}" + (f", lag {lag}" if order > 1 else ", plain covariance"): (
            AugmentedCovariances(order=order, lag=lag).fit_transform(task["X"])
        )
        for order, lag in ((1, 1), (4, 4))
    }
    figures[
        f"Tangent space at the mean, {headings[task['label']]}: two principal "
        "components of all trials, without regard to the classes."
    ] = ("tangent_space.png", plotting.plot_tangent_plane(covariances, task["y"]))
    files = {}
    for caption, (name, figure) in figures.items():
        with plotting.style():
            figure.savefig(out / name)
        files[caption] = out / name
    return files


def _table(result: Result, task: str) -> Table:
    """Return the scores of one task, the best in bold."""
    rows = [row for row in result.metrics if row["task"] == task]
    first = rows[0]
    table = Table(
        title=f"{task_heading(result, task)}: n = {first['n']}, chance "
        f"{first['chance']:.1%} (told apart above {first['chance_bound']:.1%})",
        title_justify="left",
    )
    table.add_column("pipeline")
    has_auc = "roc_auc" in first
    auc = ("ROC AUC",) if has_auc else ()
    for name in ("correct", "accuracy", "95 % interval", *auc, "fit", "one trial"):
        table.add_column(name, justify="right")
    best = max(row["accuracy"] for row in rows)
    for row in rows:
        table.add_row(
            row["pipeline"],
            f"{row['correct']}/{row['total']}",
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} - {row['high']:.1%}",
            *((f"{row['roc_auc']:.3f}",) if has_auc else ()),
            f"{1e3 * row['fit_seconds']:.0f} ms",
            show_latency(row),
            style="bold" if row["accuracy"] == best else "",
        )
    return table
