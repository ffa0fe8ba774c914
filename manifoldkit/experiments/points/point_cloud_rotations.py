"""Point clouds trained upright and shown turned: shapes, parts, robustness."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from rich.progress import Progress
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.evaluation import Run, Store, experiment, progress_bar
from manifoldkit.experiments.points.ablation import ablate
from manifoldkit.experiments.points.changes import robustness
from manifoldkit.experiments.points.floor import make_floor
from manifoldkit.experiments.points.parts import segment_parts
from manifoldkit.experiments.points.settings import (
    CONTESTANTS,
    FURTHER_SHAPES,
    MORE_CLASSES,
    QUICK,
    TOGETHER,
    make_estimator,
)
from manifoldkit.experiments.points.shapes import (
    probabilities_among,
    with_further_shapes,
)
from manifoldkit.experiments.result import Result, source

if TYPE_CHECKING:
    from manifoldkit.equivariant import PointCloudClassifier

NAME = "point_cloud_rotations"
TITLE = "Rotation-invariant point clouds: Princeton shapes, parts, robustness"

FLOOR = "histograms and SVM (floor)"
PAPER = [
    {"method": "RISurConv", "ModelNet40, so3": "96.0", "ScanObjectNN": "93.1"},
    {"method": "PaRot", "ModelNet40, so3": "91.0", "ScanObjectNN": "82.1"},
]


PROTOCOL = (
    "Official training list; the official test list's half that is here. 512 of 1024 "
    "points; a training cloud has six versions (other points, noise 0.005, stretched "
    "along its principal axes by up to 1.25, half of them mirrored except for the "
    "plain PointNets), random sizes, Adam with a cosine rate, 30 epochs of RISurConv, "
    "60 of PaRot, 15 of PointNet; last epoch, never one chosen on the test list; "
    "scores averaged over four versions of the test cloud. PaRot with learned "
    "directions does not learn from such versions (38 % after 60 epochs); its row has "
    "one version, one vote and 25 epochs. In a row of networks that vote, their mean "
    "probability decides; no network is in two committees of one size. Networks of "
    "reduced size. 'Further shapes': trained on all 904 clouds of the training list, "
    "those outside the twelve classes as 61 base classes that are never answered; "
    "tried once, after the other rows were known, with nothing else changed. Settings "
    "chosen on the training list (ablation below). An earlier recipe, with points of "
    "versions at random and one version for a whole batch, was tested as well: 77.9 % "
    "with mesh normals (81.5, 78.2, 74.1), 72.7 % stretched to 1.6 (two seeds), PaRot "
    "67.6 % after 40 epochs. Trained without rotation unless the row says so; 'about "
    "one axis' and 'turned' are one random rotation a test cloud. RISurConv and PaRot "
    "with equivariant directions compute the same from a turned cloud, so training on "
    "rotations would be the same run. Mean over as many seeds as the row says, from "
    "the first one on; spread is the standard deviation over seeds; one cloud is 0.5 "
    "points, the standard error of a row from the test clouds alone about 2.7 points."
)


@experiment(NAME, TITLE)
def run(this: Run, *, device: str = "cpu") -> Result:
    """Train every network upright, test it upright and turned.

    Parameters
    ----------
    quick : bool, default=False
        Three classes, three networks, few epochs.
    seed : int, default=0
        First of three seeds (of one, if quick).
    """
    store, quick = this.store(), this.quick
    torch.set_num_threads(1)
    data, provenance = load(this)
    metrics: list[dict] = []
    with progress_bar(this.console) as bar:
        for subset, clouds in data.items():
            metrics += _classify(this, store, subset, clouds, device, bar)
        parts = segment_parts(store, this.seed, quick, device, bar)
        chosen_on = data["psb12"][0] if "psb12" in data and not quick else None
        ablation = [] if chosen_on is None else ablate(store, chosen_on, device, bar)
    changes = "one change to turned test clouds, psb12, no votes"
    curves = [
        {"task": changes, "method": name} | row
        for name in CONTESTANTS
        for row in [_curve(store, name, this.seed)]
        if row
    ]
    return this.finish(
        metrics + parts + curves + ablation,
        protocol=PROTOCOL,
        data=provenance,
        seeds=this.seeds(3),
        paper=PAPER,
        paper_note=(
            "per cent overall accuracy of the released codes on other data, chosen on "
            "their test sets; RISurConv's attends across the test batch"
        ),
        remarks=_remarks(metrics),
    )


def load(this: Run) -> tuple[dict[str, tuple], dict[str, Any]]:
    """Training and test clouds by subset; simulated ones where Princeton's are not."""
    from manifoldkit.datasets import fetch_point_clouds, make_point_clouds
    from manifoldkit.exceptions import DatasetNotFoundError

    quick = this.quick
    subsets = ("psb12",) if quick else ("psb12", "psb21")
    try:
        data = {
            name: (fetch_point_clouds(name, "train"), fetch_point_clouds(name, "test"))
            for name in subsets
        }
    except DatasetNotFoundError as error:
        this.missing("point_clouds", "Simulated shapes stand in.", error)
        sizes = (120, 90) if quick else (320, 200)
        made = tuple(
            make_point_clouds(n, 1024, noise=0.01, random_state=i)
            for i, n in enumerate(sizes)
        )
        return {"simulated": made}, {
            "simulated": source("make_point_clouds, eight shapes")
        }
    if quick:
        data = {"psb12": tuple(_some(clouds, 3) for clouds in data["psb12"])}
    citation = "Shilane, Min, Kazhdan, Funkhouser, SMI 2004"
    return data, {
        name: source(
            f"Princeton Shape Benchmark, {len(train.X)} training and "
            f"{len(test.X)} test clouds, {len(train.class_names)} classes",
            citation,
            is_real=True,
        )
        for name, (train, test) in data.items()
    }


def _some(clouds: Any, n_classes: int) -> Any:
    keep = np.flatnonzero(clouds.y < n_classes)
    keep = np.concatenate([keep[clouds.y[keep] == c][:20] for c in range(n_classes)])
    return clouds._replace(
        X=clouds.X[keep], y=clouds.y[keep], normals=clouds.normals[keep]
    )


def _wanted(subset: str, quick: bool) -> dict[str, int]:
    """Return the seeds of every contestant on a set."""
    if quick:
        return dict.fromkeys(QUICK, 1)
    if subset == "psb21":
        return MORE_CLASSES
    seeds = {name: settings[3] for name, settings in CONTESTANTS.items()}
    if subset == "simulated":  # there are no others
        return {name: n for name, n in seeds.items() if name not in FURTHER_SHAPES}
    return seeds


def _classify(
    this: Run, store: Store, subset: str, clouds: tuple, device: str, bar: Progress
) -> list[dict[str, Any]]:
    """Train and test every contestant on a set; return a row for each."""
    train, test = clouds
    wanted = _wanted(subset, this.quick)
    row = bar.add_task(subset, total=sum(wanted.values()))
    floor = store.get(f"{subset} floor", _floor, train, test)
    found: dict[str, list[dict]] = {name: [] for name in wanted}
    fits = [(this.seed + i, name) for name, n in wanted.items() for i in range(n)]
    fits.sort(key=lambda fit: wanted[fit[1]] == 1)  # single ones last
    for k, name in fits:
        work = (name, train, test, k, this.quick, device, this.out / "part.pt")
        piece = store.get(f"{subset} {name} seed {k}", train_and_test, *work)
        found[name].append(piece)
        bar.advance(row)
    for name, sizes in TOGETHER.items():
        for size in sizes if name in found else ():
            together = votes(found[name], size, train.y, test.y)
            found[f"{name}, {size} networks voting"] = together
    rows = [
        {
            "task": f"{subset}, {len(train.class_names)} classes",
            "method": name,
            "seeds": len(pieces),
            "upright": _mean(pieces, "upright"),
            "about one axis": _mean(pieces, "one axis"),
            "turned": _mean(pieces, "turned"),
            "spread": float(np.std([p["turned"] for p in pieces])),
            "class mean, turned": _mean(pieces, "balanced"),
            "turned, no votes": _mean(pieces, "no votes"),
            "same label": _mean(pieces, "agreement"),
            "minutes a fit": _mean(pieces, "seconds") / 60,
        }
        for name, pieces in found.items()
        if pieces
    ]
    return [*rows, {"task": rows[0]["task"], "method": FLOOR} | floor]


def votes(
    pieces: list[dict[str, Any]], members: int, known: ArrayLike, y: np.ndarray
) -> list[dict[str, Any]]:
    """Return pieces of committees: the mean of their members' probabilities decides."""
    rows = []
    for i in range(0, len(pieces) - members + 1, members):
        part = pieces[i : i + members]
        probabilities = {
            shown: np.mean([p["probabilities"][shown] for p in part], 0)
            for shown in part[0]["probabilities"]
        }
        labels = {k: np.unique(known)[p.argmax(1)] for k, p in probabilities.items()}
        seconds = sum(piece["seconds"] for piece in part)
        rows.append(_score(y, labels) | {"seconds": seconds})
    return rows


def _score(y: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Score the labels of "upright", "one axis", "turned" and "no votes" clouds."""
    right = {shown: float(np.mean(found == y)) for shown, found in labels.items()}
    return right | {
        "balanced": float(balanced_accuracy_score(y, labels["turned"])),
        "agreement": float(np.mean(labels["turned"] == labels["upright"])),
    }


def _mean(pieces: list[dict], key: str) -> float:
    return float(np.mean([piece[key] for piece in pieces]))


def _floor(train: Any, test: Any) -> dict[str, float]:
    from manifoldkit.equivariant import rotate_clouds

    model = make_floor().fit(train.X, train.y)
    turned, _ = rotate_clouds(test.X, "so3", random_state=1)
    predicted, plain = model.predict(turned), model.predict(test.X)
    about, _ = rotate_clouds(test.X, "z", random_state=1)
    return {
        "upright": float(np.mean(plain == test.y)),
        "about one axis": float(np.mean(model.predict(about) == test.y)),
        "turned": float(np.mean(predicted == test.y)),
        "class mean, turned": float(balanced_accuracy_score(test.y, predicted)),
        "same label": float(np.mean(predicted == plain)),
    }


def train_and_test(
    name: str,
    train: Any,
    test: Any,
    seed: int,
    quick: bool,
    device: str,
    checkpoint: str | Path,
) -> dict[str, Any]:
    """Fit one network; return its scores, and curves for the first seed."""
    from manifoldkit.equivariant import rotate_clouds

    model, normals = make_estimator(name, seed, quick, device, checkpoint)
    answers = np.unique(train.y)
    if name in FURTHER_SHAPES:
        train = with_further_shapes(train)
    with threadpool_limits(1):
        seconds = _fit(model, train, normals, Path(checkpoint))
        given = test.normals if normals else None
        shown = {"upright": (test.X, given)}
        for key, group in (("one axis", "z"), ("turned", "so3")):
            shown[key] = rotate_clouds(test.X, group, normals=given, random_state=1)
        score = partial(probabilities_among, model, answers)
        probabilities = {k: score(*seen) for k, seen in shown.items()}
        n_votes, X, n = model.n_votes, *shown["turned"]
        model.set_params(n_votes=1)
        probabilities["no votes"] = score(X, n)
        model.set_params(n_votes=n_votes)
        labels = {k: answers[p.argmax(1)] for k, p in probabilities.items()}
        found: dict[str, Any] = _score(test.y, labels) | {"seconds": seconds}
        if name in TOGETHER:
            rounded = {k: p.round(4).tolist() for k, p in probabilities.items()}
            found["probabilities"] = rounded
        if seed == 0 and name not in FURTHER_SHAPES:
            found["curve"] = robustness(model, X, n, test.y)
    return found


def _fit(
    model: "PointCloudClassifier", train: Any, normals: bool, checkpoint: Path
) -> float:
    """Fit a classifier, on from its checkpoint; return the seconds it took."""
    start = time.perf_counter()
    given = train.normals if normals else None
    try:
        model.fit(train.X, train.y, normals=given)
    except ValueError as error:
        if "belongs to other data" not in str(error):
            raise
        checkpoint.unlink()  # left by the piece before
        model.fit(train.X, train.y, normals=given)
    seconds = time.perf_counter() - start
    checkpoint.unlink(missing_ok=True)
    return seconds


def _curve(store: Store, name: str, seed: int) -> dict[str, float]:
    piece = store.content["pieces"].get(f"psb12 {name} seed {seed}", {})
    return piece.get("curve", {})


def _remarks(metrics: list[dict]) -> list[str]:
    remarks = []
    for task in dict.fromkeys(row["task"] for row in metrics):
        rows = {row["method"]: row for row in metrics if row["task"] == task}
        floor = rows.pop(FLOOR)
        for name, row in rows.items():
            gap = 100 * (row["turned"] - floor["turned"])
            loss = 100 * (row["upright"] - row["turned"])
            verdict = "above" if gap > 0 else "BELOW"
            remarks.append(
                f"{task}: {name} reaches {row['turned']:.1%} on turned clouds "
                f"({loss:+.1f} points lost by turning), {abs(gap):.1f} points "
                f"{verdict} histograms with a support vector machine."
            )
    return remarks
