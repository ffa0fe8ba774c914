"""Windows of molecular dynamics, cut from fabricated trajectories."""

import numpy as np
import pytest

from manifoldkit.datasets import md17_windows


@pytest.fixture
def file(tmp_path):
    t = np.arange(800.0)[:, None, None]
    atoms = np.array([[0.0, 0, 0], [1.5, 0, 0], [1.5, 1.0, 0]])
    np.savez(tmp_path / "ethanol.npz", R=atoms + t, z=np.array([6, 8, 1]))
    return tmp_path / "ethanol.npz"


def test_windows_of_heavy_atoms(file):
    train = md17_windows(file, "train", history=2, horizon=3, gap=10, stride=20)
    assert train.numbers.tolist() == [6, 8]
    assert train.past.shape == (23, 2, 2, 3)  # starts 0, 20, .., 440 of 500 steps
    assert train.past[1, 0, :, 0].tolist() == [20.0, 30.0]
    assert train.future[1, 0, :, 0].tolist() == [40.0, 50.0, 60.0]
    assert train.bonds.tolist() == [[False, True], [True, False]]


def test_splits_never_overlap(file):
    options = {"history": 2, "horizon": 2, "gap": 5, "stride": 1}
    ends = {}
    for split in ("train", "val", "test"):
        windows = md17_windows(file, split, **options)
        both = np.concatenate([windows.past, windows.future], 2)[:, 0, :, 0]
        ends[split] = both.min(), both.max()
    assert ends["train"][1] < ends["val"][0]
    assert ends["val"][1] < ends["test"][0]
    assert ends["test"][1] == 799


def test_drawing_windows_and_hydrogens(file):
    options = {"history": 2, "horizon": 2, "gap": 5, "stride": 1, "hydrogens": True}
    a = md17_windows(file, max_windows=7, random_state=3, **options)
    b = md17_windows(file, max_windows=7, random_state=3, **options)
    assert a.past.shape == (7, 3, 2, 3)
    np.testing.assert_array_equal(a.past, b.past)


def test_errors(file, tmp_path):
    with pytest.raises(ValueError, match="split"):
        md17_windows(file, "dev")
    with pytest.raises(ValueError, match="a window needs"):
        md17_windows(file, "val", gap=50)
    np.savez(tmp_path / "x.npz", R=np.zeros((5, 2, 3)))
    with pytest.raises(
        ValueError, match=r"x\.npz is not the archive expected: it has no z"
    ):
        md17_windows(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("counts", "error"),
    [
        ({"horizon": 0}, ValueError),
        ({"horizon": -1}, ValueError),
        ({"max_windows": 0}, ValueError),
        ({"history": 1.5}, TypeError),
    ],
)
def test_counts_out_of_range(file, counts, error):
    with pytest.raises(error, match=next(iter(counts))):
        md17_windows(file, **counts)
