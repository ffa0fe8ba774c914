"""How the settings of RISurConv were chosen, on the training list alone."""

from functools import partial

import numpy as np
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.evaluation import Store
from manifoldkit.experiments.point_cloud_settings import SMALL

_VIEWS: dict = {
    "model": "risurconv",
    "n_points": 512,
    "n_views": 6,
    "jitter": 0.005,
    "model_options": SMALL,
}
_SIGNED = {**SMALL, "unsigned_normals": False}
_BENT: dict = {**_VIEWS, "stretch": 0.25, "mirror": True}
#: RISurConv with mesh normals, one thing after another; 30 epochs, a third held out
ABLATION: dict[str, dict] = {
    "six views with noise": {**_VIEWS, "model_options": _SIGNED},
    "and normals without sign": _VIEWS,
    "and stretched to 1.25, mirrored": _BENT,
}
#: the last with kinds of shapes held out that training never sees
KINDS = {"normals without sign, stretched to 1.25": _BENT}


def ablate(store: Store, train, device: str, bar) -> list[dict]:
    """Return a row for each of :data:`ABLATION` and :data:`KINDS`."""
    row = bar.add_task("ablation", total=len(ABLATION) + len(KINDS))
    tasks = (  # what is held out, contestants, the split, numbers of votes
        ("a third", ABLATION, third_of, (1, 4)),
        ("kinds of shapes", KINDS, kinds_of, (1, 4, 8)),
    )
    rows = []
    for part, contestants, split, votes in tasks:
        task = f"ablation, {part} of psb12's training list held out"
        fit, rest = split(train)
        for name, settings in contestants.items():
            job = partial(hold_out, settings, train, fit, rest, votes, device)
            right = dict(store.get(f"{task}: {name}", job))
            bar.advance(row)
            n = right.pop("clouds")
            rows.append(
                {"task": task, "method": name}
                | {key: count / n for key, count in right.items()}
                | {"clouds": n}
            )
    return rows


def third_of(clouds) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on and a third of each class to hold out."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return next(folds.split(clouds.X, clouds.y))


def kinds_of(clouds, share: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on, and rows of whole kinds of shapes to hold out.

    At most ``share`` of a class is held out; classes of one kind are not.
    """
    rng = np.random.default_rng(0)
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
    settings: dict, clouds, fit, rest, votes, device: str = "cpu", epochs: int = 30
) -> dict[str, int]:
    """Train on the rows ``fit``; return the right answers on the turned ``rest``."""
    from manifoldkit.equivariant import PointCloudClassifier, rotate_clouds

    model = PointCloudClassifier(
        **settings, max_epochs=epochs, random_state=0, device=device
    )
    with threadpool_limits(1):
        model.fit(clouds.X[fit], clouds.y[fit], normals=clouds.normals[fit])
        X, n = rotate_clouds(
            clouds.X[rest], "so3", normals=clouds.normals[rest], random_state=1
        )
        right = {"clouds": len(rest)}
        for n_votes in votes:
            predicted = model.set_params(n_votes=n_votes).predict(X, n)
            right[f"votes: {n_votes}"] = int((predicted == clouds.y[rest]).sum())
    return right
