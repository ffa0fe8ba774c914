"""EqMotion under the checker: E(D) x S(N), class by class, in two precisions."""

import pytest
import torch

from manifoldkit.datasets import simulate_particles
from manifoldkit.equivariant import EqMotion, MotionForecaster
from manifoldkit.testing import check_equivariance

OUT = ("position", "edge_scalar", "node_scalar", "vector")


def tracks(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).cumsum(-2)


VARIANTS = {
    "plain": {},
    "20 modes": {"n_modes": 4, "n_categories": 4, "n_null": 2},
    "mean": {"normalize_neighbors": "mean"},
    "atan2": {"angle": "atan2"},
    "no cosine transform": {"use_dct": False},
    "rescaled": {"rescale": "speed"},
    "sharp": {"category_activation": None},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("d", [2, 3])
def test_untrained(name, d):
    torch.manual_seed(1)
    model = EqMotion(6, 5, 8, 6, 3, **VARIANTS[name])
    report = check_equivariance(
        lambda x: tuple(model(x)),
        tracks(4, 5, 6, d),
        "position",
        OUT,
        f"S(n) x E({d})",
        n=2,
    )
    assert report.passed, report.summary()


def test_rescaled_model_under_scaling():
    torch.manual_seed(1)
    model = EqMotion(6, 5, 8, 6, 2, rescale="radius", dtype=torch.float64)
    x = tracks(3, 4, 6, 3)
    report = check_equivariance(
        lambda x: model(x).pred, x, "vector", "vector", "scale", n=2
    )
    assert report.passed, report.summary()
    plain = EqMotion(6, 5, 8, 6, 2, rescale=None)
    report = check_equivariance(
        lambda x: plain(x).pred, x, "vector", "vector", "scale", n=2
    )
    assert not report.passed


def test_trained():
    data = simulate_particles("springs", 60, steps=4000, every=200)
    forecaster = MotionForecaster(
        hidden=16,
        channels=12,
        n_layers=2,
        max_epochs=15,
        lr=5e-3,
        batch_size=20,
        random_state=0,
    ).fit(data.loc[:, :, :18])
    model = forecaster.net_.module_.network
    x = torch.as_tensor(data.loc[:8, :, :9]).float()
    report = check_equivariance(
        lambda x: tuple(model(x)), x, "position", OUT, "S(n) x E(3)", n=3
    )
    assert report.passed, report.summary()


def test_padding_and_masks():
    torch.manual_seed(1)
    model = EqMotion(6, 5, 8, 6, 2)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    # displacements, because the place of an agent that is not there is zero
    report = check_equivariance(
        lambda x, mask: (model(x, mask).pred - x[:, :, -1:]) * mask[..., None, None],
        (tracks(3, 4, 6, 3), mask),
        ("position", "mask"),
        "vector",
        "S(n) x E(3)",
        n=2,
    )
    assert report.passed, report.summary()


def test_named_agents_keep_the_space_symmetry_only():
    torch.manual_seed(1)
    model = EqMotion(6, 5, 8, 6, 2, n_agents=4)
    x = tracks(3, 4, 6, 3)
    assert check_equivariance(
        lambda x: model(x).pred, x, "position", "position", "E(3)", n=2
    ).passed
    assert not check_equivariance(
        lambda x: model(x).pred, x, "position", "position", "S(n) x E(3)", n=2
    ).passed


def test_the_checker_sees_that_speed_differences_are_no_symmetry():
    torch.manual_seed(1)
    model = EqMotion(6, 5, 8, 6, 2, dtype=torch.float64)
    x = tracks(2, 3, 6, 3).double()
    boost = torch.arange(6.0, dtype=torch.float64)[:, None] * torch.ones(3).double()
    future = torch.arange(6.0, 11.0, dtype=torch.float64)[:, None]
    gap = model(x + boost).pred - model(x).pred - future
    assert gap.abs().max() > 1e-2
