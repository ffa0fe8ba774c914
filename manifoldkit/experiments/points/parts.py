"""Part segmentation of generated shapes, trained upright and shown turned."""

from statistics import fmean, pstdev
from typing import Any

from rich.progress import Progress
from threadpoolctl import threadpool_limits

from manifoldkit.experiments.evaluation import Store
from manifoldkit.experiments.points.settings import PATCHES

#: name of the row: (options of the network, its name)
_NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "RISurConv": (
        {
            "sizes": (256, 128, 64, 32),
            "neighbors": (8, 16, 16, 16),
            "channels": (32, 64, 128, 256),
            "up_neighbors": (16, 16, 8, 8),
        },
        "risurconv",
    ),
    "PaRot, equivariant directions": (
        {**PATCHES, "directions": "equivariant"},
        "parot",
    ),
    "PointNet": ({"width": 0.5}, "pointnet"),
}


def segment_parts(
    store: Store, seed: int, quick: bool, device: str, bar: Progress
) -> list[dict[str, Any]]:
    """Segment generated mugs, airplanes and tables; return a row a network."""
    names, n_seeds = (["PointNet"], 1) if quick else ([*_NETWORKS], 3)
    row = bar.add_task("parts", total=n_seeds * len(names))
    rows = []
    for name in names:
        pieces = []
        for k in range(seed, seed + n_seeds):
            work = (name, k, quick, device)
            pieces.append(store.get(f"parts {name} seed {k}", _train_parts, *work))
            bar.advance(row)
        means = {key: fmean(piece[key] for piece in pieces) for key in pieces[0]}
        turned = [piece["instance mIoU, turned"] for piece in pieces]
        rows.append(
            {"task": "parts of generated shapes", "method": name, "seeds": n_seeds}
            | means
            | {"spread, turned": pstdev(turned)}
        )
    return rows


def _train_parts(name: str, seed: int, quick: bool, device: str) -> dict[str, float]:
    """Fit one network; return its overlaps with the parts of upright and turned."""
    from manifoldkit.datasets import make_point_clouds
    from manifoldkit.equivariant import PointCloudSegmenter, part_iou, rotate_clouds

    shapes = ("mug", "airplane", "table")
    n_train, n_test, n_points = (30, 15, 128) if quick else (180, 90, 512)
    train = make_point_clouds(n_train, n_points, shapes=shapes, random_state=0)
    test = make_point_clouds(n_test, n_points, shapes=shapes, random_state=1)
    options, network = _NETWORKS[name]
    fitted = PointCloudSegmenter(
        network,
        model_options=options,
        max_epochs=3 if quick else 15,
        device=device,
        random_state=seed,
    )
    with threadpool_limits(1):
        fitted.fit(train.X, train.parts, category=train.y, normals=train.normals)
        X, n = rotate_clouds(test.X, "so3", normals=test.normals, random_state=1)
        scores = {}
        for key, points, directions in (
            ("upright", test.X, test.normals),
            ("turned", X, n),
        ):
            predicted = fitted.predict(points, category=test.y, normals=directions)
            overlap = part_iou(test.parts, predicted, test.y, fitted.parts_)
            scores[f"instance mIoU, {key}"] = overlap["instance"]
            scores[f"class mIoU, {key}"] = overlap["class"]
    return scores
