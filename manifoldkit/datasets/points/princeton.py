"""Point clouds of the Princeton Shape Benchmark."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit._checks import check_choice
from manifoldkit.datasets.archive import Source, data_folder, obtain, read_archive
from manifoldkit.datasets.points.meshes import farthest_points, sample_mesh
from manifoldkit.datasets.points.off import read_off
from manifoldkit.exceptions import DatasetNotFoundError

_KEYS = ("xyz", "normal", "model_id", "base", "base_names")
_SUBSETS = ("psb12", "psb21", "base")
_ORIGINALS = "psb_v1"
_PUBLISHER = "https://shape.cs.princeton.edu/benchmark/"
_SIZES = {"train": 7_089_010, "test": 3_681_158}
_SHA256 = {
    "train": "b143a0bc602f0cc6ee7058233b73f23b9b36dcbddf0c49f757be555e0d68557a",
    "test": "aa57364c35f4a959581fcb542512b53d5bf7c078bdc0bca8c526be92d12b4cba",
}
_N_DRAWN, _N_POINTS = 4096, 1024
_SMALLEST_CLASS = 10
# base classes, as "name|parent", of the twelve merged ones
_MERGED = {
    "airplane": (
        *("F117|airplane", "biplane|airplane", "commercial|airplane"),
        *("fighter_jet|airplane", "glider|airplane", "multi_fuselage|airplane"),
        "stealth_bomber|airplane",
    ),
    "car": ("antique_car|car", "race_car|car", "sedan|car", "sports_car|car"),
    "gun": ("handgun|gun", "rifle|gun"),
    "head": ("face|body_part", "head|body_part"),
    "helicopter": ("helicopter|aircraft",),
    "human": ("human_arms_out|human", "human|biped", "walking|human"),
    "plant": (
        *("bush|plant", "flower_with_stem|plant", "flowers|plant"),
        "potted_plant|plant",
    ),
    "seat": (
        *("bench|seat", "couch|seat", "desk_chair|seat"),
        *("dining_chair|chair", "stool|chair"),
    ),
    "ship": (
        *("large_sail_boat|sailboat", "sailboat_with_oars|sailboat"),
        *("sailboat|sea_vessel", "ship|sea_vessel"),
    ),
    "sword": ("sword|blade",),
    "table": ("rectangular|table", "round|table", "single_leg|round"),
    "tree": ("barren|tree", "conical|tree", "palm|tree", "tree|plant"),
}


class ShapeSet(NamedTuple):
    """Labeled point clouds with normals.

    Attributes
    ----------
    X : ndarray of float32, shape (n_clouds, n_points, 3)
        Points.
    y : ndarray of int64, shape (n_clouds,)
        Index into ``class_names``.
    normals : ndarray of float32, shape (n_clouds, n_points, 3) or None
        Unit normals.
    class_names : tuple of str
        Names of the classes.
    model_id : ndarray of int64, shape (n_clouds,)
        Number of the model in the original set.
    kind : ndarray of int64, shape (n_clouds,), or None
        Finer class, where the set has one: Princeton's base class.
    """

    X: np.ndarray
    y: np.ndarray
    normals: np.ndarray | None
    class_names: tuple[str, ...]
    model_id: np.ndarray
    kind: np.ndarray | None = None


def fetch_point_clouds(
    subset: str = "psb12",
    split: str = "train",
    *,
    path: str | Path | None = None,
) -> ShapeSet:
    """Load clouds of 1024 points of the Princeton Shape Benchmark.

    There is no checksum of the original download that we could verify, so nothing is
    downloaded: put the benchmark's unpacked folder ``psb_v1`` into the data folder, and
    it is converted on first use.

    Parameters
    ----------
    subset : {"psb12", "psb21", "base"}
        Twelve merged classes, the 21 base classes with at least ten training models
        that both official lists share, or everything by its base class (161 in both
        lists together, many of few models and in one list only).
    split : {"train", "test"}
        Official lists.
    path : str or Path, optional
        Archive or folder; default the folder in ``MANIFOLDKIT_DATA``, then the user's
        cache.

    Returns
    -------
    ShapeSet
        Clouds are centered with largest radius 1. Signs of normals are those of the
        meshes, and not consistent.

    Raises
    ------
    DatasetNotFoundError
        Neither archive nor originals are there.
    ValueError
        Unknown subset or split.

    References
    ----------
    .. [1] P. Shilane, P. Min, M. Kazhdan, T. Funkhouser, "The Princeton Shape
       Benchmark", SMI 2004.

    Examples
    --------
    >>> clouds = fetch_point_clouds("psb12", "train")  # doctest: +SKIP
    >>> clouds.X.shape  # doctest: +SKIP
    (450, 1024, 3)
    """
    check_choice(subset, _SUBSETS, "subset")
    check_choice(split, _SIZES, "split")
    source = Source(
        f"pointclouds/psb_{split}.npz",
        _PUBLISHER,
        f"Unpack psb_v1.zip there as {_ORIGINALS}/.",
        _SIZES[split],
        _SHA256[split],
    )
    file = obtain(source, lambda: convert_princeton(_originals(path), split), path)
    arrays = read_archive(file, (*_KEYS, subset, f"{subset}_names"))
    member = arrays[subset] >= 0
    normals = arrays["normal"][member].astype(np.float32) / 127
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    return ShapeSet(
        arrays["xyz"][member].astype(np.float32) / 32767,
        arrays[subset][member].astype(np.int64),
        normals / np.maximum(length, 1e-6),
        tuple(str(name) for name in arrays[f"{subset}_names"]),
        arrays["model_id"][member].astype(np.int64),
        arrays["base"][member].astype(np.int64),
    )


def _originals(path: str | Path | None) -> Path:
    for folder in (data_folder(path), data_folder(path) / "pointclouds"):
        if (folder / _ORIGINALS).is_dir():
            return folder / _ORIGINALS
    raise DatasetNotFoundError(f"no folder {_ORIGINALS} in {data_folder(path)}")


def read_classification(file: str | Path) -> dict[str, list[int]]:
    """Read one of the benchmark's ``.cla`` files: models of each "name|parent".

    Raises
    ------
    ValueError
        Not such a file.
    """
    words = Path(file).read_text().split()
    if words[:1] != ["PSB"]:
        raise ValueError(f"{file}: expected a file that begins with PSB")
    classes: dict[str, list[int]] = {}
    at = 4
    try:
        while at < len(words):
            name, parent, count = words[at], words[at + 1], int(words[at + 2])
            models = [int(word) for word in words[at + 3 : at + 3 + count]]
            if len(models) < count:
                raise IndexError
            if models:
                classes[f"{name}|{parent}"] = models
            at += 3 + count
    except (ValueError, IndexError):
        raise ValueError(f"{file}: a class ends early") from None
    return classes


def convert_princeton(folder: str | Path, split: str) -> dict[str, np.ndarray]:
    """Turn the benchmark's meshes into the arrays of the archive.

    4096 points by area, the 1024 farthest of them, centered, largest radius 1.

    Parameters
    ----------
    folder : str or Path
        ``psb_v1``, with ``benchmark/classification/v1/base`` and ``benchmark/db``.
    split : {"train", "test"}
        Official list.
    """
    folder = Path(folder)
    lists = folder / "benchmark" / "classification" / "v1" / "base"
    both = {s: read_classification(lists / f"{s}.cla") for s in ("train", "test")}
    names = sorted({*both["train"], *both["test"]})
    shared = [
        name
        for name in names
        if len(both["train"].get(name, ())) >= _SMALLEST_CLASS and name in both["test"]
    ]
    merged = list(_MERGED)
    of_base = {base: merged.index(m) for m, bases in _MERGED.items() for base in bases}
    rows = []
    for name, models in both[split].items():
        own = shared.index(name) if name in shared else -1
        labels = names.index(name), own, of_base.get(name, -1)
        for model in models:
            file = folder / "benchmark" / "db" / f"{model // 100}" / f"m{model}"
            rows.append((*_cloud(file / f"m{model}.off", model), model, *labels))
    points, normals, *numbers = zip(*rows, strict=True)
    model_id, base, psb21, psb12 = (np.array(column, np.int16) for column in numbers)
    return {
        "xyz": np.round(32767 * np.stack(points)).astype(np.int16),
        "normal": np.round(127 * np.stack(normals)).astype(np.int8),
        "model_id": model_id,
        "base": base,
        "psb21": psb21,
        "psb12": psb12,
        "base_names": np.array(names),
        "psb21_names": np.array(shared),
        "psb12_names": np.array(merged),
    }


def _cloud(file: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    points, normals = sample_mesh(read_off(file), _N_DRAWN, random_state=seed)
    keep = farthest_points(points, _N_POINTS)
    keep = np.random.RandomState(seed).permutation(keep)
    points = points[keep] - points[keep].mean(0)
    return points / np.linalg.norm(points, axis=1).max(), normals[keep]
