"""Our pipelines inside MOABB's evaluations, with the protocol of the ACM paper.

``python -m manifoldkit.experiments.moabb_evaluation --dataset BNCI2014_001`` downloads
the data through MOABB and scores the paper's pipelines: 8-35 Hz, full epoch, AUC for
two classes and accuracy for three, order, lag and SVM searched inside each training
fold.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifoldkit._checks import check_choice
from manifoldkit.exceptions import MissingExtraError
from manifoldkit.experiments.spd.calibration import TargetDomain, aligns

if TYPE_CHECKING:
    import pandas as pd

EVALUATIONS = ("within-session", "cross-session", "cross-subject")
PARADIGMS = ("left-right", "right-feet", "three-class")

# Per cent (ROC AUC of two classes, accuracy of three), mean over subjects of session
# means, from the authors' result files:
# (evaluation, paradigm) -> data set -> pipeline -> score.
_ACM_GRID, _ACM_MDOP = "ACM+TS+SVM (grid)", "ACM+TS+SVM (MDOP)"
_ROWS = (_ACM_GRID, _ACM_MDOP, "TS+SVM", "MDM")
_WITHIN = "within-session"
_CROSS = "cross-session"
PUBLISHED = {
    (_WITHIN, "left-right"): {
        "BNCI2014_001": (91.7, 87.3, 88.3, 83.9),
        "BNCI2014_004": (82.1, 82.1, 79.4, 77.6),
        "Zhou2016": (94.3, 92.8, 91.8, 89.2),
    },
    (_WITHIN, "right-feet"): {
        "BNCI2014_001": (97.4, 94.3, 94.6, 91.2),
        "BNCI2015_001": (93.7, 92.7, 91.5, 87.4),
        "BNCI2014_002": (88.5, 82.7, 86.4, 77.3),
        "Zhou2016": (97.5, 96.7, 96.2, 92.4),
    },
    (_WITHIN, "three-class"): {
        "BNCI2014_001": (83.6, 77.6, 77.7, 72.2),
        "Zhou2016": (84.2, 82.2, 82.8, 74.9),
    },
    (_CROSS, "left-right"): {
        "BNCI2014_001": (90.6, 87.3, 85.6, 82.6),
        "BNCI2014_004": (83.3, 81.4, 79.9, 79.0),
        "Zhou2016": (92.7, 93.6, 91.2, 91.7),
    },
    (_CROSS, "right-feet"): {
        "BNCI2014_001": (96.2, 92.7, 93.5, 89.7),
        "BNCI2015_001": (93.0, 92.3, 88.8, 87.3),
        "Zhou2016": (98.5, 97.0, 95.7, 92.9),
    },
    (_CROSS, "three-class"): {
        "BNCI2014_001": (75.7, 71.4, 67.3, 66.4),
        "Zhou2016": (78.4, 75.8, 73.0, 69.8),
    },
}


# MOABB's own benchmark, within session, left/right, AUC in per cent, a data set:
# ACM + TS + SVM (grid), TS + SVM. Augmentation loses where channels are many.
BENCHMARK = {
    "BNCI2014_001": (91.7, 86.5),
    "BNCI2014_004": (82.7, 79.4),
    "Cho2017": (73.6, 74.6),
    "GrosseWentrup2009": (86.6, 88.1),
    "Lee2019_MI": (83.1, 83.6),
    "PhysionetMI": (63.6, 68.2),
    "Schirrmeister2017": (85.8, 87.6),
    "Shin2017A": (69.0, 68.5),
    "Weibo2014": (84.8, 83.7),
    "Zhou2016": (95.0, 93.4),
}


def published_rows() -> list[dict[str, Any]]:
    """Return the published scores as rows of a table.

    >>> published_rows()[0]["ACM+TS+SVM (grid)"]
    91.7
    """
    paper = "Carrara and Papadopoulo 2024"
    rows = [
        {
            "source": f"{paper}, {evaluation}",
            "data": f"{name}, {paradigm}",
            "score": "accuracy" if paradigm == "three-class" else "ROC AUC",
        }
        | dict(zip(_ROWS, scores, strict=True))
        for (evaluation, paradigm), table in PUBLISHED.items()
        for name, scores in table.items()
    ]
    rows += [
        {
            "source": "MOABB's benchmark, within-session",
            "data": f"{name}, left-right",
            "score": "ROC AUC",
        }
        | {_ACM_GRID: augmented, "TS+SVM": plain}
        for name, (augmented, plain) in BENCHMARK.items()
    ]
    return rows


def paper_pipelines(
    random_state: int = 0, quick: bool = False, paradigm: str = "left-right"
) -> dict[str, Any]:
    """Return the pipelines of the paper's tables, by name.

    Order, lag and SVM are searched in three stratified folds of the training epochs by
    the score that is reported, as MOABB's nested search does.

    Parameters
    ----------
    random_state : int
        Seed of the searches.
    quick : bool
        A small grid instead of order and lag 1 to 10.
    paradigm : {"left-right", "right-feet", "three-class"}
        Decides the score: AUC for two classes, accuracy for three.
    """
    from pyriemann.classification import MDM
    from pyriemann.estimation import Covariances
    from sklearn.pipeline import make_pipeline

    from manifoldkit.spd import make_acm_classifier

    values = (1, 3) if quick else tuple(range(1, 11))
    kernels = {"classifier__C": [0.5, 1, 1.5], "classifier__kernel": ["linear", "rbf"]}
    auto: dict[str, Any] = {
        "order": "auto",
        "lag": "auto",
        "random_state": random_state,
    }
    return {
        _ACM_GRID: make_acm_classifier(
            **auto,
            estimator="cov",
            orders=values,
            lags=values,
            param_grid=None if quick else kernels,
            scoring="accuracy" if paradigm == "three-class" else "roc_auc",
        ),
        # shrunk: the pair that MDOP finds may leave fewer samples than dimensions
        _ACM_MDOP: make_acm_classifier(
            **auto,
            selection="mdop",
            orders=values if quick else (50,),
            lags=values if quick else (50,),
        ),
        "TS+SVM": make_acm_classifier(order=1, estimator="cov"),
        "MDM": make_pipeline(Covariances("cov"), MDM()),
    }


def evaluate(
    pipelines: dict[str, Any],
    datasets: Any = None,
    evaluation: str = "within-session",
    paradigm: str = "left-right",
    *,
    random_state: int = 0,
    n_jobs: int = 1,
    results_folder: str | Path | None = None,
    overwrite: bool = False,
    **evaluation_options: Any,
) -> "pd.DataFrame":
    """Score scikit-learn pipelines of epochs in one of MOABB's evaluations.

    Parameters
    ----------
    pipelines : dict of str to estimator
        They take epochs (n_epochs, n_channels, n_times). Those with a
        :class:`~manifoldkit.spd.DomainAligner` are given the subjects as domains across
        subjects, and treat what they are scored on as a domain of its own, across
        sessions too.
    datasets : MOABB data sets, or names, or None
        All that fit the paradigm by default.
    evaluation : {"within-session", "cross-session", "cross-subject"}
        How to split.
    paradigm : {"left-right", "right-feet", "three-class"} or MOABB paradigm
        Names mean 8-35 Hz and the whole epoch, as in the paper.
    random_state, n_jobs : int
        Seed of the splits, and how many processes.
    results_folder : str or Path, optional
        Where MOABB keeps its results; its own default otherwise.
    overwrite : bool, default=False
        Compute again what is stored there.
    **evaluation_options
        Passed on to MOABB's evaluation, such as
        ``cv_kwargs={"calibration_size": 0.2}``.

    Returns
    -------
    pandas.DataFrame
        MOABB's table: a row a data set, subject, session and pipeline.

    Raises
    ------
    MissingExtraError
        MOABB is not installed.
    ValueError
        Unknown evaluation, paradigm or data set.
    """
    try:
        import moabb.datasets
        import moabb.evaluations
    except ImportError:
        raise MissingExtraError("evaluate", "moabb", "eeg") from None
    check_choice(evaluation, EVALUATIONS, "evaluation")
    if isinstance(paradigm, str):
        paradigm = _paradigm(check_choice(paradigm, PARADIGMS, "paradigm"))
    if evaluation != "within-session":
        pipelines = {
            name: TargetDomain(model) if aligns(model) else model
            for name, model in pipelines.items()
        }
    kind = evaluation.title().replace("-", "") + "Evaluation"
    if datasets is not None:
        single = isinstance(datasets, str) or not isinstance(datasets, Sequence)
        listed = [datasets] if single else list(datasets)
        datasets = [_dataset(moabb.datasets, d) for d in listed]
    with warnings.catch_warnings():
        # theirs only: what our pipelines warn of is for the user to change
        warnings.filterwarnings("ignore", module=r"(moabb|mne|h5py)(\.|$)")
        runner = getattr(moabb.evaluations, kind)(
            paradigm=paradigm,
            datasets=datasets,
            random_state=random_state,
            n_jobs=n_jobs,
            hdf5_path=None if results_folder is None else str(results_folder),
            overwrite=overwrite,
            suffix="manifoldkit",
            **evaluation_options,
        )
        return runner.process(pipelines)


def _dataset(module: ModuleType, dataset: Any) -> Any:
    if not isinstance(dataset, str):
        return dataset
    if not hasattr(module, dataset):
        raise ValueError(f"datasets: MOABB has no data set {dataset!r}")
    return getattr(module, dataset)()


def _paradigm(name: str) -> Any:
    """Return MOABB's paradigm with the paper's band."""
    from moabb.paradigms import LeftRightImagery, MotorImagery

    band = {"fmin": 8, "fmax": 35}
    if name == "left-right":
        return LeftRightImagery(**band)
    if name == "right-feet":
        return MotorImagery(n_classes=2, events=["right_hand", "feet"], **band)
    events = ["left_hand", "right_hand", "feet"]
    return MotorImagery(n_classes=3, events=events, **band)


def main(
    dataset: Annotated[
        list[str] | None, typer.Option(help="MOABB data set; may be given again.")
    ] = None,
    protocol: Annotated[str, typer.Option(help=", ".join(PARADIGMS))] = "left-right",
    evaluation: Annotated[
        str, typer.Option(help=", ".join(EVALUATIONS))
    ] = "within-session",
    seed: Annotated[int, typer.Option(help="Of splits and searches.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="A small grid.")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV file for all scores.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of MOABB's stored results.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Compute stored results again.")
    ] = False,
) -> None:
    """Reproduce the paper's tables on MOABB's data (downloads them)."""
    try:
        table = evaluate(
            paper_pipelines(seed, quick, protocol),
            dataset or ["BNCI2014_001"],
            evaluation,
            protocol,
            random_state=seed,
            n_jobs=jobs,
            results_folder=results,
            overwrite=overwrite,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}")
        raise typer.Exit(1) from None
    if out is not None:
        table.to_csv(out, index=False)
    by_session = table.groupby(["dataset", "pipeline", "subject"])["score"].mean()
    means = 100 * by_session.groupby(["dataset", "pipeline"]).mean()
    published = PUBLISHED.get((evaluation, protocol), {})
    print(f"{'data set':16} {'pipeline':20} {'ours':>6} {'paper':>6}")
    for (name, pipeline), value in means.items():
        row = dict(zip(_ROWS, published.get(name.replace("-", "_"), ()), strict=False))
        known = f"{row[pipeline]:6.1f}" if pipeline in row else "     -"
        print(f"{name:16} {pipeline:20} {value:6.1f} {known}")
