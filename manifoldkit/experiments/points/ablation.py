"""How the settings of RISurConv were chosen, on the training list alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.progress import Progress
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.evaluation import Store
from manifoldkit.experiments.points.settings import RECIPES, SMALL
from manifoldkit.experiments.points.shapes import (
    probabilities_among,
    with_further_shapes,
)

_BENT: dict = {**RECIPES["risurconv"], "model_options": SMALL, "max_epochs": 30}
_VIEWS: dict = {**_BENT, "stretch": 0.0, "mirror": False}
_SIGNED = {**SMALL, "unsigned_normals": False}
FURTHER = "and further shapes of the training list, 30 epochs"
#: RISurConv with mesh normals, one thing after another; 30 epochs, a third held out
ABLATION: dict[str, dict] = {
    "six views with noise": {**_VIEWS, "model_options": _SIGNED},
    "and normals without sign": _VIEWS,
    "and stretched to 1.25, mirrored": _BENT,
    "and 60 epochs": {**_BENT, "max_epochs": 60},
    FURTHER: _BENT,
}
#: the last and one change to it, with kinds of shapes held out that training never sees
KINDS: dict[str, dict] = {
    "the recipe": _BENT,
    "and a block of attention among the last centers": {
        **_BENT,
        "model_options": {**SMALL, "head": "tokens", "n_blocks": 1},
    },
    FURTHER: _BENT,
}
_DIVISIONS = 3


def ablate(
    store: Store, train: Any, device: str, bar: Progress
) -> list[dict[str, Any]]:
    """Return a row for each of :data:`ABLATION` and :data:`KINDS`."""
    total = len(ABLATION) + _DIVISIONS * len(KINDS)
    row = bar.add_task("ablation", total=total)
    divisions = [kinds_of(train, seed) for seed in range(_DIVISIONS)]
    tasks = (  # what is held out, contestants, divisions, numbers of votes
        ("a third", ABLATION, [third_of(train)], (1, 4)),
        (f"kinds of shapes, {_DIVISIONS} divisions", KINDS, divisions, (1, 4, 8)),
    )
    rows = []
    for part, contestants, parts, votes in tasks:
        task = f"ablation, {part} of psb12's training list held out"
        for name, settings in contestants.items():
            right: Counter = Counter()
            for seed, (fit, rest) in enumerate(parts):
                work = (settings, train, fit, rest, votes, device, seed)
                key = f"{task}: {name}" + (f", {seed}" if len(parts) > 1 else "")
                right.update(store.get(key, hold_out, *work, further=name == FURTHER))
                bar.advance(row)
            n = right.pop("clouds")
            rows.append(
                {"task": task, "method": name}
                | {key: count / n for key, count in right.items()}
                | {"clouds": n}
            )
    return rows


def third_of(clouds: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on and a third of each class to hold out."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return next(folds.split(clouds.X, clouds.y))


def kinds_of(
    clouds: Any, seed: int = 0, share: float = 0.45
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on, and rows of whole kinds of shapes to hold out.

    At most ``share`` of a class is held out; classes of one kind are not.
    """
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for label in range(len(clouds.class_names)):
        kinds, counts = np.unique(clouds.kind[clouds.y == label], return_counts=True)
        order, taken = rng.permutation(len(kinds)), 0
        for i in order if len(kinds) > 1 else ():
            if taken + counts[i] <= share * counts.sum():
                held.append(kinds[i])
                taken += counts[i]
    out = np.isin(clouds.kind, held)
    return np.flatnonzero(~out), np.flatnonzero(out)


def hold_out(
    settings: dict[str, Any],
    clouds: Any,
    fit: np.ndarray,
    rest: np.ndarray,
    votes: Sequence[int],
    device: str = "cpu",
    seed: int = 0,
    further: bool = False,
) -> dict[str, float]:
    """Train on the rows ``fit``; count the right answers on the turned ``rest``.

    With several votes also "log loss", summed over the clouds.
    """
    from manifoldkit.equivariant import PointCloudClassifier, rotate_clouds

    answers, train = np.unique(clouds.y), clouds
    if further:
        train = with_further_shapes(clouds)
        fit = np.concatenate([fit, np.arange(len(clouds.X), len(train.X))])
    y = clouds.y[rest]
    model = PointCloudClassifier(**settings, random_state=seed, device=device)
    with threadpool_limits(1):
        model.fit(train.X[fit], train.y[fit], normals=train.normals[fit])
        X, n = rotate_clouds(
            clouds.X[rest], "so3", normals=clouds.normals[rest], random_state=1
        )
        found: dict[str, float] = {"clouds": len(rest)}
        for n_votes in votes:
            model.set_params(n_votes=n_votes)
            table = probabilities_among(model, answers, X, n)
            found[f"votes: {n_votes}"] = int((answers[table.argmax(1)] == y).sum())
    if len(votes) > 2:
        chances = table[np.arange(len(y)), np.searchsorted(answers, y)]
        found["log loss"] = float(-np.log(chances + 1e-9).sum())
    return found
