"""The Princeton Shape Benchmark: a small fabricated one, and the archives."""

import numpy as np
import pytest

from manifoldkit.datasets import fetch_point_clouds
from manifoldkit.datasets.points.princeton import read_classification
from manifoldkit.exceptions import DatasetNotFoundError


def princeton(folder):
    """A benchmark of two classes with tetrahedra for models."""
    base = folder / "psb_v1" / "benchmark" / "classification" / "v1" / "base"
    base.mkdir(parents=True)
    for split, first in (("train", 0), ("test", 20)):
        numbers = "\n".join(str(first + i) for i in range(10))
        text = f"PSB 1\n3 20\n\naircraft 0 0\n\nfighter_jet airplane 10\n{numbers}\n\n"
        more = "\n".join(str(first + 10 + i) for i in range(10))
        (base / f"{split}.cla").write_text(text + f"sedan car 10\n{more}\n")
    for model in range(40):
        place = folder / "psb_v1" / "benchmark" / "db" / "0" / f"m{model}"
        place.mkdir(parents=True)
        corners = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
        faces = "3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
        (place / f"m{model}.off").write_text(f"OFF\n4 4 6\n{corners}{faces}")


def test_princeton_is_converted_from_the_originals(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="Unpack psb_v1"):
        fetch_point_clouds(path=tmp_path)
    princeton(tmp_path)
    clouds = fetch_point_clouds("psb12", "test", path=tmp_path)
    assert clouds.X.shape == (20, 1024, 3)
    assert {clouds.class_names[i] for i in clouds.y} == {"airplane", "car"}
    assert len(set(zip(clouds.y, clouds.kind, strict=True))) == 2
    radius = np.linalg.norm(clouds.X, axis=2).max(1)
    np.testing.assert_allclose(radius, 1, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(clouds.normals, axis=2), 1, atol=1e-5)
    assert (tmp_path / "pointclouds" / "psb_test.npz").exists()
    both = fetch_point_clouds("psb21", "test", path=tmp_path)
    assert both.class_names == ("fighter_jet|airplane", "sedan|car")
    every = fetch_point_clouds("base", "test", path=tmp_path)
    assert every.class_names == both.class_names
    np.testing.assert_array_equal(every.y, clouds.kind)
    with pytest.raises(ValueError, match="subset: expected one of"):
        fetch_point_clouds("psb")
    with pytest.raises(ValueError, match="split: expected one of"):
        fetch_point_clouds(split="val")


def test_classification_files(tmp_path):
    file = tmp_path / "a.cla"
    file.write_text("PSB 1\n1 2\n\ncar 0 2\n5\n")
    with pytest.raises(ValueError, match="a class ends early"):
        read_classification(file)
    file.write_text("OFF")
    with pytest.raises(ValueError, match="begins with PSB"):
        read_classification(file)


def test_archives_have_the_described_sizes():
    try:
        train = fetch_point_clouds("psb12", "train")
    except DatasetNotFoundError:
        pytest.skip("the archive is not here")
    assert train.X.shape == (450, 1024, 3)
    assert len(fetch_point_clouds("psb12", "test").X) == 216
    assert len(fetch_point_clouds("psb21", "train").class_names) == 21
    assert len(fetch_point_clouds("base", "train").X) == 904
    assert np.linalg.norm(train.X, axis=2).max() == pytest.approx(1, abs=1e-3)
