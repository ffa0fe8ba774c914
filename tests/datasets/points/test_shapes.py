"""Readers of the usual sets, on small fabricated files in their layouts."""

import json

import numpy as np
import pytest

from manifoldkit.datasets import load_modelnet, load_scanobjectnn, load_shapenet_part
from manifoldkit.exceptions import DatasetNotFoundError

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)


def hdf5(file, **arrays):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as content:
        for name, value in arrays.items():
            content[name] = value


def test_modelnet_hdf5(tmp_path):
    x = RNG.standard_normal((5, 2048, 3)).astype(np.float32)
    hdf5(tmp_path / "a0.h5", data=x[:3], label=np.array([[0], [1], [1]], np.uint8))
    hdf5(tmp_path / "a1.h5", data=x[3:], label=np.array([[1], [0]], np.uint8))
    (tmp_path / "train_files.txt").write_text("data/set/a0.h5\ndata/set/a1.h5\n")
    (tmp_path / "shape_names.txt").write_text("airplane\nbathtub\n")
    clouds = load_modelnet(tmp_path, "train")
    assert clouds.X.shape == (5, 1024, 3)
    np.testing.assert_array_equal(clouds.X, x[:, :1024])
    assert clouds.y.tolist() == [0, 1, 1, 1, 0]
    assert clouds.normals is None
    assert clouds.class_names == ("airplane", "bathtub")


def test_modelnet_resampled(tmp_path):
    names = ["night_stand", "airplane"]
    for name in names:
        (tmp_path / name).mkdir()
        np.savetxt(
            tmp_path / name / f"{name}_0001.txt", RNG.random((60, 6)), delimiter=","
        )
    (tmp_path / "modelnet40_shape_names.txt").write_text("airplane\nnight_stand\n")
    (tmp_path / "modelnet40_test.txt").write_text("night_stand_0001\nairplane_0001\n")
    clouds = load_modelnet(tmp_path, "test", n_points=50)
    assert clouds.X.shape == clouds.normals.shape == (2, 50, 3)
    assert clouds.y.tolist() == [1, 0]


def test_modelnet_meshes(tmp_path):
    for name in ("chair", "table"):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "a.off").write_text(
            "OFF3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
        )
    clouds = load_modelnet(tmp_path, n_points=20)
    assert clouds.X.shape == (2, 20, 3)
    np.testing.assert_allclose(clouds.normals, [[[0, 0, 1]] * 20] * 2)
    assert clouds.class_names == ("chair", "table")


def test_scanobjectnn(tmp_path):
    x = RNG.standard_normal((3, 2048, 3)).astype(np.float32)
    name = "test_objectdataset_augmentedrot_scale75.h5"
    hdf5(tmp_path / "main_split" / name, data=x, label=np.array([3, 14, 0]))
    clouds = load_scanobjectnn(tmp_path, "test")
    np.testing.assert_array_equal(clouds.X, x)
    assert clouds.y.tolist() == [3, 14, 0]
    hdf5(
        tmp_path / "main_split_nobg" / "training_objectdataset.h5",
        data=x,
        label=[0, 1, 2],
    )
    assert len(load_scanobjectnn(tmp_path, variant="OBJ", background=False).X) == 3
    with pytest.raises(DatasetNotFoundError, match="is not there"):
        load_scanobjectnn(tmp_path, "train")
    with pytest.raises(ValueError, match="variant: expected one of"):
        load_scanobjectnn(tmp_path, variant="hard")
    hdf5(tmp_path / "main_split" / "test_objectdataset.h5", data=x)
    with pytest.raises(ValueError, match=r"missing \['label'\]"):
        load_scanobjectnn(tmp_path, "test", variant="OBJ")


def test_shapenet_part_texts(tmp_path):
    (tmp_path / "synsetoffset2category.txt").write_text(
        "Mug\t03797390\nTable\t04379243\n"
    )
    lists = tmp_path / "train_test_split"
    lists.mkdir()
    for offset, model, part, n in (
        ("03797390", "m1", 36, 9),
        ("04379243", "t1", 47, 7),
    ):
        (tmp_path / offset).mkdir()
        rows = np.column_stack([RNG.random((n, 6)), np.full(n, part)])
        np.savetxt(tmp_path / offset / f"{model}.txt", rows)
    (lists / "shuffled_train_file_list.json").write_text(
        json.dumps(["shape_data/04379243/t1"])
    )
    (lists / "shuffled_val_file_list.json").write_text(
        json.dumps(["shape_data/03797390/m1"])
    )
    parts = load_shapenet_part(tmp_path, "trainval")
    assert [len(x) for x in parts.X] == [7, 9]
    assert parts.category.tolist() == [15, 11]
    assert parts.category_parts[15] == (47, 48, 49)
    assert parts.category_parts[11] == (36, 37)
    assert sum(len(p) for p in parts.category_parts.values()) == 50
    assert all(
        set(row) <= set(parts.category_parts[int(kind)])
        for row, kind in zip(parts.parts, parts.category, strict=True)
    )


def test_shapenet_part_hdf5(tmp_path):
    hdf5(
        tmp_path / "ply_data_test0.h5",
        data=RNG.random((2, 20, 3)),
        label=np.array([[0], [4]]),
        pid=np.array([[0] * 20, [12] * 20]),
    )
    (tmp_path / "test_hdf5_file_list.txt").write_text("ply_data_test0.h5\n")
    parts = load_shapenet_part(tmp_path, "test")
    assert parts.category.tolist() == [0, 4]
    assert parts.normals is None
    with pytest.raises(DatasetNotFoundError, match="expected train_test_split/"):
        load_shapenet_part(tmp_path, "train")


def test_missing_folders_and_layouts(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="is not there"):
        load_modelnet(tmp_path / "none")
    with pytest.raises(DatasetNotFoundError, match="expected train_files"):
        load_modelnet(tmp_path)
    with pytest.raises(ValueError, match="split: expected one of"):
        load_modelnet(tmp_path, "val")
