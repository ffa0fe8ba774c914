"""Farthest points against the naive loop."""

import importlib.util

import pytest
import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant.neighbors import farthest_point_sample, sampling


def cloud(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive_fps(x, m, start):
    chosen = [start]
    while len(chosen) < m:
        gap = (x[:, None] - x[chosen]).norm(dim=-1).amin(1)
        gap[chosen] = -1
        chosen.append(int(gap.argmax()))
    return torch.tensor(chosen)


def rotation(seed=0):
    return torch.from_numpy(Rotation.random(random_state=seed).as_matrix())


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("start", ["farthest", 7])
def test_farthest_points_equal_the_naive_loop(fast, start, monkeypatch):
    if fast and importlib.util.find_spec("torch_quickfps") is None:
        pytest.skip("torch-quickfps is not installed")
    if not fast:
        monkeypatch.setattr(sampling, "sample", sampling.sample_loop)
    x = cloud(3, 90, 3)
    index = farthest_point_sample(x, 40, start=start)
    for row, points in zip(index, x, strict=True):
        first = start
        if start == "farthest":
            first = int((points - points.mean(0)).norm(dim=1).argmax())
        assert torch.equal(row, naive_fps(points, 40, first))


def test_farthest_points_do_not_depend_on_pose_or_order():
    x = cloud(2, 80, 3)
    index = farthest_point_sample(x, 30)
    assert torch.equal(farthest_point_sample(x @ rotation().T + 3, 30), index)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    again = farthest_point_sample(x[:, order], 30)
    assert torch.equal(order[again], index)


@pytest.mark.parametrize("fast", [True, False])
def test_duplicates_come_last_and_never_twice(fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(sampling, "sample", sampling.sample_loop)
    x = cloud(1, 10, 3).repeat(1, 3, 1)
    index = farthest_point_sample(x, 25)[0]
    assert len(set(index.tolist())) == 25
    assert len(set((index[:10] % 10).tolist())) == 10
    assert len(set(farthest_point_sample(torch.zeros(6, 3), 6).tolist())) == 6


def test_integers_are_refused():
    with pytest.raises(TypeError, match="x: expected floating-point numbers"):
        farthest_point_sample(torch.zeros(5, 3, dtype=torch.int64), 2)


def test_the_first_point_has_to_be_there_in_every_cloud():
    x, batch = cloud(4, 3), torch.tensor([0, 1, 1, 1])
    with pytest.raises(ValueError, match="start: expected a point that every cloud"):
        farthest_point_sample(x, 1, start=2, batch=batch)  # would be of the other one
    mask = torch.tensor([[False, True, True, True]])
    with pytest.raises(ValueError, match="start: expected a point that every cloud"):
        farthest_point_sample(x[None], 2, start=0, mask=mask)
    assert farthest_point_sample(x[None], 2, 1, mask=mask)[0, 0] == 1
