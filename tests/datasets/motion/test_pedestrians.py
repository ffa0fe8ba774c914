"""ETH-UCY: windows of fabricated tracks, and the published counts."""

import os
from pathlib import Path

import numpy as np
import pytest

from manifoldkit.datasets import fetch_eth_ucy, load_eth_ucy
from manifoldkit.datasets.motion.pedestrians import SCENES
from manifoldkit.exceptions import DatasetNotFoundError

ROOT = Path(os.environ.get("MANIFOLDKIT_DATA", "")) / "eth_ucy"
real = pytest.mark.skipif(
    not (ROOT / "biwi_eth.txt").exists(),
    reason="ETH-UCY is not in the folder MANIFOLDKIT_DATA",
)
# windows, agents, agents of train and val, constant velocity ADE and FDE
PUBLISHED = {
    "eth": (253, 364, 30307, 5422, 1.075, 2.282),
    "hotel": (445, 1197, 29676, 5203, 0.319, 0.614),
    "univ": (947, 24334, 9874, 2800, 0.524, 1.165),
    "zara1": (705, 2356, 28577, 5184, 0.427, 0.952),
    "zara2": (998, 5910, 26076, 4262, 0.324, 0.724),
}


@real
@pytest.mark.parametrize("subset", PUBLISHED)
def test_counts_and_constant_velocity(subset):
    windows, agents, train, val, ade, fde = PUBLISHED[subset]
    test = load_eth_ucy(ROOT, subset, "test")
    assert len(test.past) == windows
    assert test.mask.sum() == agents
    past, future = test.past[test.mask], test.future[test.mask]
    k = np.arange(1, 13)[:, None]
    pred = past[:, -1:] + k * (past[:, -1:] - past[:, -2:-1])
    error = np.linalg.norm(pred - future, axis=-1)
    assert error.mean() == pytest.approx(ade, abs=5e-4)
    assert error[:, -1].mean() == pytest.approx(fde, abs=5e-4)
    assert load_eth_ucy(ROOT, subset, "train").mask.sum() == train
    assert load_eth_ucy(ROOT, subset, "val").mask.sum() == val


@real
def test_fetch_finds_the_files_by_the_variable():
    a, b = fetch_eth_ucy("eth", "test"), load_eth_ucy(ROOT, "eth", "test")
    np.testing.assert_array_equal(a.past, b.past)


@real
def test_samples_around_each_agent():
    whole = load_eth_ucy(ROOT, "zara1", "test")
    alone = load_eth_ucy(ROOT, "zara1", "test", n_agents=1)
    np.testing.assert_array_equal(alone.past[:, 0], whole.past[whole.mask])
    three = load_eth_ucy(ROOT, "zara1", "test", n_agents=3, radius=2.0)
    assert len(three.past) == whole.mask.sum()
    np.testing.assert_array_equal(three.future[:, 0], alone.future[:, 0])
    gap = np.linalg.norm(three.past[:, :, -1] - three.past[:, :1, -1], axis=-1)
    assert np.nanmax(gap) <= 2.0
    assert (np.diff(np.where(three.mask, gap, 9.0), axis=1) >= 0).all()
    assert np.isnan(three.past[~three.mask]).all()


@pytest.fixture
def folder(tmp_path):
    """Every scene: pedestrian 1 at frames 0-29, 2 at 5-29 with a gap, 3 at 8-29."""
    rows = []
    for t in range(30):
        rows += [f"{t} 1 {t} 0"]
        rows += [f"{t} 2 {t} 1"] if t >= 5 and t != 12 else []
        rows += [f"{t} 3 {t} 50"] if t >= 8 else []
    for scene in SCENES:
        (tmp_path / f"{scene}.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_an_agent_belongs_to_a_window_when_it_is_seen_throughout(folder):
    windows = load_eth_ucy(folder, "eth", "test")
    assert windows.frame.tolist() == list(range(11))
    assert windows.mask.sum(1).tolist() == [1] * 8 + [2] * 3
    assert set(windows.scene) == {"biwi_eth"}
    assert windows.past[9, 1, :, 1].tolist() == [50.0] * 8
    short = load_eth_ucy(folder, "eth", "test", history=2, horizon=3)
    assert short.past.shape[2:] == (2, 2)
    assert short.mask.sum(1)[13:].tolist() == [3] * 13


def test_neighbors_lie_within_the_radius(folder):
    pairs = load_eth_ucy(folder, "univ", "test", 3, 5.0, history=2, horizon=3)
    assert pairs.past.shape[1] == 3
    assert pairs.mask.sum(1).max() == 2  # pedestrian 3 is 49 m away
    far = load_eth_ucy(folder, "univ", "test", 3, 99.0, history=2, horizon=3)
    assert far.mask.sum(1).max() == 3


def test_training_leaves_the_scene_out(folder):
    windows = load_eth_ucy(folder, "univ", "train")
    assert "students001" not in windows.scene
    assert len(set(windows.scene)) == 6
    assert len(load_eth_ucy(folder, "univ", "val").past) == 0


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="subset"):
        load_eth_ucy(folder, "zara3", "test")
    with pytest.raises(ValueError, match="split"):
        load_eth_ucy(folder, "eth", "valid")
    with pytest.raises(ValueError, match="n_agents"):
        load_eth_ucy(folder, "eth", "test", n_agents=0)
    with pytest.raises(ValueError, match="radius"):
        load_eth_ucy(folder, "eth", "test", radius=0)
    (folder / "biwi_eth.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="frame pedestrian x y"):
        load_eth_ucy(folder, "eth", "test")
    with pytest.raises(DatasetNotFoundError, match=r"biwi_eth\.txt"):
        load_eth_ucy(tmp_path / "none", "eth", "test")
    with pytest.raises(DatasetNotFoundError, match="path="):
        fetch_eth_ucy("eth", "test", path=tmp_path / "none", download=False)


def test_download_writes_the_informative_columns(tmp_path, monkeypatch):
    import pooch

    def retrieve(url, known_hash, path, fname):
        assert known_hash.startswith("sha256:")
        Path(path).mkdir(parents=True, exist_ok=True)
        start = 20 if fname.endswith("_val.txt") else 0
        rows = [
            f"{t}.0 1.0 Pedestrian" + 10 * " -1.0" + f" {t}.5 -1.0 2.0 -1.0"
            for t in range(start, start + 20)
        ]
        file = Path(path) / fname
        file.write_text("\n".join(rows))
        return str(file)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    windows = fetch_eth_ucy("eth", "test", path=tmp_path)
    assert windows.past[0, 0, :, 0].tolist() == [t + 0.5 for t in range(8)]
    assert (
        len((tmp_path / "eth_ucy" / "crowds_zara03.txt").read_text().split("\n")) == 41
    )


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import pooch

    def retrieve(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DatasetNotFoundError, match="no network"):
        fetch_eth_ucy("eth", "test", path=tmp_path)


@pytest.mark.parametrize("step", [6, 10])
@pytest.mark.parametrize("split", ["train", "val"])
def test_any_frame_step_gives_the_same_windows_and_cuts(tmp_path, step, split):
    times = np.arange(60)
    (tmp_path / "plain").mkdir()
    (tmp_path / "stepped").mkdir()
    for scene, (cut, _) in SCENES.items():
        begin = {"biwi_eth": 78, "crowds_zara02": 1}.get(scene, 0)
        t = np.r_[begin, cut - 30 + times]
        rows = np.stack([t, np.ones(61), t / 2, np.zeros(61)], 1)
        np.savetxt(tmp_path / "plain" / f"{scene}.txt", rows)
        np.savetxt(tmp_path / "stepped" / f"{scene}.txt", rows * [step, 1, 1, 1])
    a = load_eth_ucy(tmp_path / "plain", "univ", split)
    b = load_eth_ucy(tmp_path / "stepped", "univ", split)
    assert len(a.past) == 6 * 11
    np.testing.assert_array_equal(b.past, a.past)
    np.testing.assert_array_equal(b.frame, step * a.frame)
