"""Accuracy of augmented covariances: PhysioNet over seeds, MAMEM by session.

The paper's data sets (BNCI2014_001 and others) come through MOABB:
:mod:`manifoldkit.experiments.spd.moabb_evaluation` runs its protocol where there is a
network. Here the same pipelines run on recordings that fit on a small machine.
"""

import warnings
from pathlib import Path

import numpy as np
from joblib import delayed
from rich.console import Console
from rich.table import Table
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.evaluation import (
    Store,
    progress_bar,
    score_folds,
    show,
    worker_pool,
)
from manifoldkit.experiments.result import (
    Result,
    command_line,
    environment,
    origin,
    student_interval,
    wilson_interval,
)
from manifoldkit.experiments.spd.moabb_evaluation import published_rows

NAME = "augmented_covariance"
TITLE = "Augmented covariances: order and lag against the plain covariance"
TASKS = ("imagined_fists_feet", "imagined_left_right", "executed_left_right")
FIXED = ((1, 1), (3, 4), (5, 3), (6, 4), (8, 3))


def pipelines(quick: bool = False, seed: int = 0) -> dict:
    """Return the contestants on motor imagery by name."""
    from pyriemann.classification import MDM
    from pyriemann.estimation import Covariances

    from manifoldkit.spd import make_acm_classifier

    small = {"orders": (1, 3), "lags": (2, 6)}
    grid = small if quick else {"orders": (1, 2, 4, 6), "lags": (1, 2, 4, 8)}
    auto = {"order": "auto", "lag": "auto", "random_state": seed}
    return {
        "MDM": make_pipeline(Covariances("oas"), MDM()),
        "TS + SVM": make_acm_classifier(order=1),
        "ACM + TS + SVM (grid)": make_acm_classifier(**auto, **grid, cv=3),
        "ACM + TS + SVM (MDOP)": make_acm_classifier(**auto, selection="mdop"),
        "ACM + MDM (MDOP)": make_acm_classifier(
            **auto, selection="mdop", classifier="mdm"
        ),
    }


def _session_accuracy(X, y, train, test, order, lag) -> float:
    """Train on some sessions, return the accuracy on another."""
    from manifoldkit.spd import make_acm_classifier

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        model = make_acm_classifier(order=order, lag=lag, classifier="svm")
        return float(model.fit(X[train], y[train]).score(X[test], y[test]))


def score_mamem_subject(epochs, orders, lags, pool) -> dict:
    """Score one subject: fixed pairs, and the pair chosen on session 4.

    Sessions 1 to 3 train every model; session 4 only chooses; session 5 is the report.
    """
    train = np.flatnonzero(epochs.session <= 3)
    choose = np.flatnonzero(epochs.session == 4)
    report = np.flatnonzero(epochs.session == 5)
    X, y = epochs.X, epochs.y
    grid = [(1, 1)] + [(o, lag) for o in orders if o > 1 for lag in lags]
    jobs = [(pair, choose) for pair in grid] + [(pair, report) for pair in FIXED]
    scores = list(
        pool(delayed(_session_accuracy)(X, y, train, t, *pair) for pair, t in jobs)
    )
    best = grid[int(np.argmax(scores[: len(grid)]))]
    named = {
        f"order {o}, lag {lag}": s
        for (o, lag), s in zip(FIXED, scores[len(grid) :], strict=True)
    }
    chosen = (
        scores[len(grid) + FIXED.index(best)]
        if best in FIXED
        else _session_accuracy(X, y, train, report, *best)
    )
    counts = np.unique(y[report], return_counts=True)[1]
    return {
        "scores": {**named, "chosen on session 4": chosen},
        "chosen": list(best),
        "n": len(report),
        "chance": float(counts.max() / len(report)),
    }


def run(
    out: str | Path,
    *,
    quick: bool = False,
    seed: int = 0,
    jobs: int = 2,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Run the experiment on the recordings that are on this machine.

    Parameters
    ----------
    out : str or Path
        Folder for ``result.json``.
    quick : bool, default=False
        One repetition, small searches, two tasks, two subjects.
    seed : int, default=0
        First seed of the repeated folds and of the searches.
    jobs : int, default=2
        Processes.
    resume : bool, default=False
        Go on with an interrupted run in ``out``.
    console : rich Console, optional
        Where to print.

    Returns
    -------
    Result

    Raises
    ------
    DatasetNotFoundError
        Neither PhysioNet's subject 1 nor any MAMEM archive is on this machine.
    """
    console, out = console or Console(), Path(out)
    store = Store(out, {"quick": quick, "seed": seed}, resume)
    with worker_pool(jobs) as pool:
        metrics, data = _motor_imagery(store, quick, seed, pool, console)
        mamem_metrics, mamem_data = _mamem(store, quick, pool, console)
    metrics += mamem_metrics
    data |= mamem_data
    if not metrics:
        from manifoldkit.datasets import fetch_physionet_mi

        fetch_physionet_mi(1, download=False)  # raises, saying what is missing
    result = Result(
        name=NAME,
        title=TITLE,
        metrics=metrics,
        protocol=(
            f"PhysioNet subject 1, {'two' if quick else 'three'} tasks: stratified "
            f"5-fold cross-validation, {1 if quick else 5} repetitions; order and lag "
            "from an inner 3-fold search over orders 1, 2, 4, 6 and lags 1, 2, 4, 8, "
            "or by MDOP, from the training fold alone; Wilson interval on the number "
            "of trials. MAMEM: "
            "sessions 1-3 train, session 4 chooses order and lag, session 5 reports; "
            "mean over subjects with Student's interval; spread: standard deviation."
        ),
        data=data,
        seeds=[seed],
        paper=published_rows(),
        remarks=remarks_on(metrics),
        command=command_line(NAME, seed, quick),
        duration=store.seconds,
        environment=environment(),
    )
    result.save(out)
    _show(result, console)
    return result


def _motor_imagery(store, quick, seed, pool, console):
    """PhysioNet's subject 1, if it is here."""
    from manifoldkit.datasets import load_eeg_demo

    metrics, data = [], {}
    n_repeats = 1 if quick else 5
    with progress_bar(console) as bar:
        for task in TASKS[:2] if quick else TASKS:
            epochs = load_eeg_demo(task)
            if not epochs.is_real:
                continue
            label = task.replace("_", " ")
            data[label] = origin(epochs)
            for name, model in pipelines(quick, seed).items():
                row = bar.add_task(f"{label}: {name}", total=5 * n_repeats)
                scores = store.get(
                    f"{label}: {name}",
                    lambda m=model, e=epochs, r=row: score_folds(
                        m,
                        e.X,
                        e.y,
                        n_repeats=n_repeats,
                        seed=seed,
                        pool=pool,
                        tick=lambda: bar.advance(r),
                    ),
                )
                bar.remove_task(row)
                metrics.append({"task": label, "pipeline": name, **scores})
    return metrics, data


def _mamem(store, quick, pool, console):
    """All MAMEM subjects that are here."""
    from manifoldkit.datasets import fetch_mamem
    from manifoldkit.datasets.archive import find_archive

    subjects = [
        s for s in range(1, 12) if find_archive(f"eeg/mamem_ssvep_U{s:03d}.npz")
    ]
    subjects = subjects[:2] if quick else subjects
    orders, lags = ((1, 3), (4,)) if quick else ((1, 2, 4, 6, 8), (1, 2, 3, 4))
    if not subjects:
        return [], {}
    pieces = []
    with progress_bar(console) as bar:
        row = bar.add_task("MAMEM subjects", total=len(subjects))
        for subject in subjects:
            epochs = fetch_mamem(subject, download=False)
            pieces.append(
                store.get(
                    f"MAMEM U{subject:03d}",
                    lambda e=epochs: score_mamem_subject(e, orders, lags, pool),
                )
            )
            bar.advance(row)
    metrics = []
    for name in pieces[0]["scores"]:
        values = np.array([piece["scores"][name] for piece in pieces])
        spread, low, high = _over_subjects(values, pieces[0]["n"])
        metrics.append(
            {
                "task": "MAMEM SSVEP, five classes",
                "pipeline": f"ACM + TS + SVM, {name}",
                "accuracy": float(values.mean()),
                "spread": spread,
                "low": low,
                "high": high,
                "per_subject": values.round(4).tolist(),
                "n": pieces[0]["n"] * len(values),
                "subjects": subjects,
                "chance": float(np.mean([piece["chance"] for piece in pieces])),
            }
        )
    metrics[-1]["chosen_order_lag"] = [piece["chosen"] for piece in pieces]
    names = ", ".join(f"U{s:03d}" for s in subjects)
    provenance = {
        "provenance": f"MAMEM SSVEP data set II, subjects {names}, session 5",
        "citation": epochs.citation,
        "is_real": True,
    }
    return metrics, {"MAMEM SSVEP, five classes": provenance}


def _over_subjects(values: np.ndarray, n: int) -> tuple[float, float, float]:
    """Standard deviation and Student's interval; Wilson's on n trials for one subject.

    >>> spread, low, high = _over_subjects(np.array([0.3, 0.4, 0.5]), 100)
    >>> round(spread, 3), round(low, 3), round(high, 3)
    (0.1, 0.152, 0.648)
    """
    if len(values) == 1:
        return (0.0, *wilson_interval(float(values[0] * n), n))
    spread, low, high = student_interval(values)
    return spread, max(low, 0.0), min(high, 1.0)


def remarks_on(metrics: list[dict]) -> list[str]:
    """Say what the numbers show, also where augmentation does not help."""
    remarks = []
    for task in dict.fromkeys(row["task"] for row in metrics):
        rows = {row["pipeline"]: row for row in metrics if row["task"] == task}
        base = next(r for n, r in rows.items() if n == "TS + SVM" or "order 1," in n)
        for name, row in rows.items():
            if row is base or "MDM" in name:
                continue
            gap = 100 * (row["accuracy"] - base["accuracy"])
            words = f"{abs(gap):.1f} points {'above' if gap > 0 else 'BELOW'}"
            words = "as good as" if abs(gap) < 0.05 else words
            remarks.append(f"{task}: {name} is {words} the plain covariance.")
    if any("chosen on" in row["pipeline"] for row in metrics):
        remarks.append(
            "MAMEM: the fixed pairs were looked at on these recordings before, so they "
            "show what temporal structure is worth; the honest estimate is the row "
            "whose pair was chosen on session 4."
        )
    remarks.append(
        "One subject with 30 to 45 trials a task decides nothing; the paper's own data "
        "sets need a network (python -m manifoldkit.experiments.moabb_evaluation)."
    )
    return remarks


def _show(result: Result, console: Console) -> None:
    table = Table("task", "pipeline", "accuracy", "95 % interval", "spread")
    for row in result.metrics:
        table.add_row(
            row["task"],
            row["pipeline"],
            f"{row['accuracy']:.1%}",
            f"{row['low']:.0%} - {row['high']:.0%}",
            f"{row['spread']:.1%}",
        )
    show(result, table, console)
