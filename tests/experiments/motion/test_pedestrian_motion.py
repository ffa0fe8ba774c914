import numpy as np
import pytest
import torch

from manifoldkit.experiments.motion import pedestrian_motion as experiment

SCENES = (
    *("biwi_eth", "biwi_hotel", "students001", "students003", "uni_examples"),
    *("crowds_zara01", "crowds_zara02", "crowds_zara03"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Scenes in which two people walk side by side and one turns around."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(6):
        start, speed = rng.uniform(-3, 3, 2), rng.normal(0, 0.3, 2)
        for t in range(60):
            x, y = start + speed * t * (1 if person % 3 else np.cos(t / 9))
            rows.append((t, person, x, y))
    rows.sort()
    text = "\n".join(f"{t} {p} {x:.4f} {y:.4f}" for t, p, x, y in rows)
    root = tmp_path / "data" / "eth_ucy"
    root.mkdir(parents=True)
    for scene in SCENES:
        (root / f"{scene}.txt").write_text(text + "\n")
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "data"))
    return tmp_path


def test_samples_are_centered_on_the_first_agent(folder):
    tracks, mask = experiment.samples("eth", "test")
    assert tracks.shape[1:] == (2, 20, 2)
    assert (tracks[:, 0, 7] == 0).all()
    assert mask[:, 0].all()
    assert tracks.isfinite().all()
    assert len(experiment.samples("eth", "train", limit=7)[0]) == 7


def test_loss_and_score_take_the_best_mode():
    tracks = torch.zeros(3, 2, 20, 2)
    mask = torch.ones(3, 2, dtype=torch.bool)

    class Modes(torch.nn.Module):
        def forward(self, x, mask):
            pred = torch.stack([torch.full((len(x), 2, 12, 2), v) for v in (3.0, 4.0)])
            return type("Output", (), {"pred": pred.permute(1, 2, 0, 3, 4)})()

    model = Modes()
    expected = 3 * 2**0.5
    loss = experiment.best_of_modes(model, (tracks, mask))
    assert float(loss) == pytest.approx(expected)
    assert experiment.score(model, tracks, mask)["min_fde"] == pytest.approx(expected)


def test_constant_velocity_on_a_straight_line():
    tracks = torch.arange(20.0)[:, None].expand(5, 2, 20, 2)
    assert experiment.constant_velocity(tracks)["constant_velocity_ade"] < 1e-5


def test_a_quick_run(folder, monkeypatch):
    monkeypatch.setattr(experiment, "N_MODES", 2)
    monkeypatch.setattr(experiment, "BATCH", 16)
    # windows of training scenes end before the published cuts, so all train
    train = experiment.samples("eth", "train")
    monkeypatch.setattr(
        experiment, "samples", lambda subset, *_: tuple(a[:40] for a in train)
    )
    result = experiment.run(folder / "run", quick=True, subsets=("eth", "hotel"))
    assert [row["subset"] for row in result.metrics] == ["eth", "hotel"]
    assert all(np.isfinite(row["min_ade"]) for row in result.metrics)
    assert result.data["ETH-UCY"]["is_real"]


def test_scenes_and_seeds_are_averaged():
    runs = [
        {
            "min_ade": ade,
            "min_fde": 2 * ade,
            "constant_velocity_ade": 1.0,
            "constant_velocity_fde": 2.0,
            "agents": 7,
            "train_seconds": 60.0,
        }
        for ade in (0.2, 0.4)
    ]
    rows = [experiment.mean_of_runs(subset, runs) for subset in ("eth", "hotel")]
    assert rows[0]["min_ade"] == pytest.approx(0.3)
    assert rows[0]["agents"] == 7
    mean = experiment.mean_of_scenes(rows)
    assert mean["min_fde_per_seed"] == [0.4, 0.8]
    text = " ".join(experiment.remarks_on([*rows, mean]))
    assert "By seed: 0.200 / 0.400, 0.400 / 0.800." in text
    assert "1.0 minutes a scene" in text
