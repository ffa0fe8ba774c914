"""Readers of the usual point-cloud sets, in the layouts they are published in."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit._checks import check_choice, check_count
from manifoldkit.datasets.archive import open_hdf5
from manifoldkit.datasets.points.meshes import sample_mesh
from manifoldkit.datasets.points.off import read_off
from manifoldkit.datasets.points.princeton import ShapeSet
from manifoldkit.exceptions import DatasetNotFoundError

_SPLITS = ("train", "test")
_SCAN_SUFFIXES = {
    "OBJ": "",
    "PB_T25": "_augmented25_norot",
    "PB_T25_R": "_augmented25rot",
    "PB_T50_R": "_augmentedrot",
    "PB_T50_RS": "_augmentedrot_scale75",
}
_SHAPENET_PARTS = (4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3)
_SHAPENET_NAMES = (
    *("airplane", "bag", "cap", "car", "chair", "earphone", "guitar", "knife"),
    *("lamp", "laptop", "motorbike", "mug", "pistol", "rocket", "skateboard", "table"),
)


class PartSet(NamedTuple):
    """Point clouds with a part label a point.

    Attributes
    ----------
    X : list of ndarray of float32, shape (n_points_i, 3)
        Points.
    parts : list of ndarray of int64, shape (n_points_i,)
        Part of each point, numbered over all categories.
    category : ndarray of int64, shape (n_clouds,)
        Index into ``category_names``.
    normals : list of ndarray or None
        Unit normals.
    category_names : tuple of str
        Names of the categories.
    category_parts : dict of int to tuple of int
        Parts of each category.
    """

    X: list[np.ndarray]
    parts: list[np.ndarray]
    category: np.ndarray
    normals: list[np.ndarray] | None
    category_names: tuple[str, ...]
    category_parts: dict[int, tuple[int, ...]]


def load_modelnet(
    folder: str | Path,
    split: str = "train",
    *,
    n_points: int = 1024,
    random_state: int = 0,
) -> ShapeSet:
    """Read ModelNet10 or ModelNet40.

    Parameters
    ----------
    folder : str or Path
        Unpacked download, in one of three layouts: ``modelnet40_ply_hdf5_2048`` (no
        normals), ``modelnet40_normal_resampled`` (text files with normals and lists of
        both sets), or the meshes, ``class/train/*.off``.
    split : {"train", "test"}
        Official list.
    n_points : int, default=1024
        The first points of each file; sampled by area from meshes.
    random_state : int, default=0
        Seed of the sampling of meshes.

    Returns
    -------
    ShapeSet
        As stored: no centering and no scaling. ``model_id`` counts the files.

    Raises
    ------
    DatasetNotFoundError
        The folder has none of these layouts.
    ValueError
        An unknown split; files that are damaged or of another form.
    MissingExtraError
        h5py is needed and not installed.
    """
    folder = _existing(folder)
    check_choice(split, _SPLITS, "split")
    check_count(n_points, "n_points")
    lists = folder / f"{split}_files.txt"
    if lists.exists():
        names = (folder / "shape_names.txt").read_text().split()
        files = [folder / Path(f).name for f in lists.read_text().split()]
        parts = [_read_hdf5(file, ("data", "label")) for file in files]
        x = np.concatenate([part["data"] for part in parts])[:, :n_points]
        y = np.concatenate([part["label"].ravel() for part in parts])
        return _shapes(list(x), y, None, names)
    for number in (40, 10):
        lists = folder / f"modelnet{number}_{split}.txt"
        if lists.exists():
            names = (folder / f"modelnet{number}_shape_names.txt").read_text().split()
            return _resampled(folder, lists.read_text().split(), names, n_points)
    names = sorted(p.parent.name for p in folder.glob(f"*/{split}"))
    if not names:
        raise DatasetNotFoundError(
            f"{folder}: expected {split}_files.txt, modelnet40_{split}.txt or folders "
            f"CLASS/{split}, found none. Publisher: https://modelnet.cs.princeton.edu/"
        )
    return _sampled(folder, split, names, n_points, random_state)


def _resampled(
    folder: Path, models: list[str], names: list[str], n_points: int
) -> ShapeSet:
    rows, labels = [], []
    for model in models:
        name = model.rsplit("_", 1)[0]
        rows.append(_read_text(folder / name / f"{model}.txt", ",", 6)[:n_points])
        labels.append(names.index(name))
    x, normals = [row[:, :3] for row in rows], [row[:, 3:6] for row in rows]
    return _shapes(x, np.array(labels), normals, names)


def _sampled(
    folder: Path, split: str, names: list[str], n_points: int, random_state: int
) -> ShapeSet:
    rng = np.random.RandomState(random_state)
    x, normals, labels = [], [], []
    for label, name in enumerate(names):
        for file in sorted((folder / name / split).glob("*.off")):
            points, directions = sample_mesh(read_off(file), n_points, rng)
            x.append(points)
            normals.append(directions)
            labels.append(label)
    return _shapes(x, np.array(labels), normals, names)


def load_scanobjectnn(
    folder: str | Path,
    split: str = "train",
    *,
    variant: str = "PB_T50_RS",
    background: bool = True,
) -> ShapeSet:
    """Read ScanObjectNN.

    Parameters
    ----------
    folder : str or Path
        Unpacked ``h5_files``, with ``main_split`` and ``main_split_nobg``.
    split : {"train", "test"}
        Official list.
    variant : {"OBJ", "PB_T25", "PB_T25_R", "PB_T50_R", "PB_T50_RS"}
        Unperturbed objects, or one of the perturbed sets; the last is the hardest.
    background : bool, default=True
        With the scanned surroundings ("OBJ_BG" in papers, for "OBJ"), or without
        ("OBJ_ONLY").

    Returns
    -------
    ShapeSet
        2048 points as stored, no normals; class names are numbers.

    Raises
    ------
    DatasetNotFoundError
        The files are not there.
    ValueError
        An unknown split or variant; files that are damaged or of another form.
    MissingExtraError
        h5py is not installed.
    """
    check_choice(split, _SPLITS, "split")
    check_choice(variant, _SCAN_SUFFIXES, "variant")
    part = "main_split" if background else "main_split_nobg"
    stem = "training" if split == "train" else "test"
    name = f"{stem}_objectdataset{_SCAN_SUFFIXES[variant]}.h5"
    file = _existing(folder) / part / name
    if not file.exists():
        raise DatasetNotFoundError(
            f"{file} is not there. Publisher (after signing a form): "
            "https://hkust-vgd.github.io/scanobjectnn/"
        )
    arrays = _read_hdf5(file, ("data", "label"))
    names = [str(i) for i in range(15)]
    return _shapes(list(arrays["data"]), arrays["label"].ravel(), None, names)


def load_shapenet_part(folder: str | Path, split: str = "train") -> PartSet:
    """Read ShapeNetPart.

    Parameters
    ----------
    folder : str or Path
        Unpacked ``shapenetcore_partanno_segmentation_benchmark_v0_normal`` (text files
        with normals), or ``shapenet_part_seg_hdf5_data`` (no normals).
    split : {"train", "val", "test", "trainval"}
        Official lists.

    Returns
    -------
    PartSet
        Points as stored; 16 categories, 50 parts.

    Raises
    ------
    DatasetNotFoundError
        The folder has neither layout, or a file is missing.
    ValueError
        An unknown split; files that are damaged or of another form.
    MissingExtraError
        h5py is needed and not installed.
    """
    folder = _existing(folder)
    check_choice(split, ("train", "val", "test", "trainval"), "split")
    wanted = ("train", "val") if split == "trainval" else (split,)
    if (folder / "train_test_split").is_dir():
        rows = list(_part_texts(folder, wanted))
        x = [row[:, :3].astype(np.float32) for row, _ in rows]
        normals = [row[:, 3:6].astype(np.float32) for row, _ in rows]
        parts = [row[:, 6].astype(np.int64) for row, _ in rows]
        category = np.array([kind for _, kind in rows], dtype=np.int64)
        return _parts(x, parts, category, normals)
    arrays = list(_part_hdf5(folder, wanted))
    x = [c for a in arrays for c in a["data"].astype(np.float32)]
    parts = [c for a in arrays for c in a["pid"].astype(np.int64)]
    category = np.concatenate([a["label"].ravel() for a in arrays]).astype(np.int64)
    return _parts(x, parts, category, None)


def _part_texts(
    folder: Path, wanted: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, int]]:
    table = (folder / "synsetoffset2category.txt").read_text().splitlines()
    kinds = {}
    for name, offset in (line.split() for line in table if line.strip()):
        kinds[offset] = _SHAPENET_NAMES.index(name.lower())
    for part in wanted:
        file = folder / "train_test_split" / f"shuffled_{part}_file_list.json"
        for entry in json.loads(file.read_text()):
            offset, model = entry.split("/")[-2:]
            yield _read_text(folder / offset / f"{model}.txt", None, 7), kinds[offset]


def _part_hdf5(
    folder: Path, wanted: tuple[str, ...]
) -> Iterator[dict[str, np.ndarray]]:
    for part in wanted:
        lists = folder / f"{part}_hdf5_file_list.txt"
        if not lists.exists():
            raise DatasetNotFoundError(
                f"{folder}: expected train_test_split/ or {lists.name}, found neither. "
                "Publisher: https://shapenet.org/"
            )
        for name in lists.read_text().split():
            yield _read_hdf5(folder / Path(name).name, ("data", "label", "pid"))


def _parts(
    x: list[np.ndarray],
    parts: list[np.ndarray],
    category: np.ndarray,
    normals: list[np.ndarray] | None,
) -> PartSet:
    ends = np.cumsum((0, *_SHAPENET_PARTS)).tolist()
    owned = {i: tuple(range(*pair)) for i, pair in enumerate(pairwise(ends))}
    return PartSet(x, parts, category, normals, _SHAPENET_NAMES, owned)


def _shapes(
    x: list[np.ndarray],
    y: np.ndarray,
    normals: list[np.ndarray] | None,
    names: list[str],
) -> ShapeSet:
    sizes = {len(cloud) for cloud in x}
    if len(sizes) != 1:
        raise ValueError(f"expected clouds of one size, found {sorted(sizes)} points")
    return ShapeSet(
        np.stack(x).astype(np.float32),
        np.asarray(y).astype(np.int64),
        None if normals is None else np.stack(normals).astype(np.float32),
        tuple(names),
        np.arange(len(x)),
    )


def _existing(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetNotFoundError(f"folder: {folder} is not there")
    return folder


def _read_text(file: Path, delimiter: str | None, columns: int) -> np.ndarray:
    rows = np.loadtxt(file, delimiter=delimiter, ndmin=2)
    if rows.shape[1] < columns:
        raise ValueError(f"{file}: expected {columns} columns, found {rows.shape[1]}")
    return rows


def _read_hdf5(file: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not file.exists():
        raise DatasetNotFoundError(f"{file} is not there")
    with open_hdf5(file) as content:
        missing = [key for key in keys if key not in content]
        if missing:
            raise ValueError(f"{file}: expected the arrays {keys}, missing {missing}")
        return {key: content[key][()] for key in keys}
