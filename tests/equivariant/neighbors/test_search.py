"""Neighborhood operations against brute force, and their behavior on bad input."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant.neighbors import (
    ball_query,
    estimate_axes,
    farthest_point_sample,
    group,
    knn,
    pad_clouds,
    sampling,
    search,
    three_interpolate,
)


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


def test_masked_and_ragged_clouds_equal_each_alone():
    sizes = (12, 30, 21)
    x = cloud(sum(sizes), 3)
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    dense, mask, offsets = pad_clouds(x, batch)
    ragged = farthest_point_sample(x, 9, batch=batch)
    padded = farthest_point_sample(dense, 9, mask=mask)
    dist, index = knn(x, x, 5, query_batch=batch, ref_batch=batch)
    for i, part in enumerate(x.split(sizes)):
        alone = farthest_point_sample(part, 9)
        assert torch.equal(ragged[i] - offsets[i], alone)
        assert torch.equal(padded[i], alone)
        d, near = knn(part, part, 5)
        rows = slice(int(offsets[i]), int(offsets[i]) + sizes[i])
        assert torch.equal(index[rows] - offsets[i], near)
        assert torch.equal(dist[rows], d)
    short = farthest_point_sample(x, 15, batch=batch, pad="repeat")
    assert torch.equal(short[0, 12:], short[0, :3])
    assert len(set(short[1].tolist())) == 15


@pytest.mark.parametrize("find", [search.knn_tree, search.knn_dense])
def test_nearest_equal_brute_force_with_ties_by_index(find):
    # a lattice is full of equal distances
    x = torch.cartesian_prod(*[torch.arange(4.0)] * 3).double()[None]
    x = x[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    dist, index = find(x, x, 9, None)
    full = (x[0][:, None] - x[0]).square().sum(-1)
    want = full.sort(dim=-1, stable=True)
    torch.testing.assert_close(dist[0], want.values[:, :9].sqrt())
    assert torch.equal(index[0], want.indices[:, :9])


def test_nearest_on_both_paths_agree_and_respect_masks():
    x, query = cloud(3, 70, 3), cloud(3, 20, 3, seed=1)
    mask = torch.rand(3, 70, generator=torch.Generator().manual_seed(2)) > 0.3
    tree = search.knn_tree(query, x, 6, mask)
    dense = search.knn_dense(query, x, 6, mask)
    assert torch.equal(tree[1], dense[1])
    assert bool(mask.gather(1, tree[1].flatten(1)).all())
    torch.testing.assert_close(tree[0], dense[0], rtol=0, atol=1e-14)


def test_ball_query_follows_the_rule():
    x, query, r, k = cloud(2, 40, 3), cloud(2, 15, 3, seed=1), 0.9, 6
    index = ball_query(query, x, r, k)
    for b in range(2):
        for q in range(15):
            gap = (x[b] - query[b, q]).norm(dim=-1)
            hits = torch.nonzero(gap < r).flatten().tolist()[:k]
            want = hits + [hits[0] if hits else int(gap.argmin())] * (k - len(hits))
            assert index[b, q].tolist() == want


def test_group_and_interpolation():
    x, f = cloud(2, 30, 3), cloud(2, 30, 5, seed=1)
    index = torch.randint(30, (2, 7, 4), generator=torch.Generator().manual_seed(0))
    picked = group(f, index)
    assert torch.equal(picked[1, 3], f[1][index[1, 3]])
    query = cloud(2, 9, 3, seed=3)
    out = three_interpolate(query, x, f)
    gap = torch.cdist(query, x)
    near, at = gap.topk(3, largest=False)
    weight = 1 / (near**2 + 1e-8)
    weight = weight / weight.sum(-1, keepdim=True)
    torch.testing.assert_close(out, (weight[..., None] * group(f, at)).sum(-2))
    torch.testing.assert_close(three_interpolate(x, x, f), f, rtol=0, atol=1e-5)
    assert three_interpolate(query, x[:, :2], f[:, :2]).shape == (2, 9, 5)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: three_interpolate(query, x, v), (f,))


def test_axes_are_normals_and_turn_with_the_cloud():
    u = cloud(1, 300, 3)
    u = u / u.norm(dim=-1, keepdim=True)
    x = u * torch.tensor([1.0, 0.8, 0.6])
    axes, gap = estimate_axes(x, 24)
    normal = u / torch.tensor([1.0, 0.8, 0.6])
    normal = normal / normal.norm(dim=-1, keepdim=True)
    assert (axes * normal).sum(-1).median() > 0.97  # outward as well
    assert bool((gap > 0.05).double().mean() > 0.95)
    r = rotation(3)
    turned, _ = estimate_axes(x @ r.T, 24)
    torch.testing.assert_close(turned, axes @ r.T, rtol=0, atol=1e-9)
    unsigned, _ = estimate_axes(x, 24, orient="none")
    torch.testing.assert_close(
        (unsigned * axes).sum(-1).abs(), torch.ones(1, 300).double()
    )


def test_axes_of_degenerate_clouds_are_finite():
    axes, gap = estimate_axes(torch.zeros(5, 3))
    assert torch.equal(axes, torch.tensor([0.0, 0.0, 1.0]).expand(5, 3))
    line = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    axes, gap = estimate_axes(line, 5)
    assert bool(axes.isfinite().all())
    assert bool((gap.abs() < 1e-6).all())
    assert bool(estimate_axes(torch.ones(1, 3))[0].isfinite().all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: farthest_point_sample(x[..., :2], 3),
            "x: expected points of",
        ),
        (lambda x: farthest_point_sample(x, 50), r"m: expected at most 20 points"),
        (lambda x: farthest_point_sample(x, 0), "m: expected an integer >= 1"),
        (lambda x: farthest_point_sample(x, 3, start="left"), "start: expected"),
        (lambda x: farthest_point_sample(x, 3, start=20), "start: expected an index"),
        (lambda x: farthest_point_sample(x, 3, start=1.5), "start: expected an index"),
        (lambda x: farthest_point_sample(x, 3, pad="zero"), "pad: expected"),
        (lambda x: farthest_point_sample(x * torch.nan, 3), r"x\[0\] is not finite"),
        (lambda x: knn(x, x, 21), "k: expected at most 20"),
        (lambda x: knn(x[:1], x, 3), "query: expected as many clouds"),
        (lambda x: knn(x, x, 3, query_batch=torch.zeros(2)), "expected both or none"),
        (lambda x: ball_query(x, x, -1.0, 3), "radius: expected a positive"),
        (lambda x: three_interpolate(x, x, x[:, :3]), "features: expected one row"),
        (lambda x: group(x, torch.zeros(3, 2).long()), "x, index: expected shapes"),
        (lambda x: estimate_axes(x, orient="up"), "orient: expected"),
        (
            lambda x: farthest_point_sample(x, 3, mask=torch.ones(2, 20)),
            "mask: expected booleans",
        ),
        (
            lambda x: farthest_point_sample(x[0], 3, batch=torch.tensor([1, 0] * 10)),
            "batch: expected sorted",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(cloud(2, 20, 3))


def test_integers_are_refused():
    with pytest.raises(TypeError, match="x: expected floating-point numbers"):
        farthest_point_sample(torch.zeros(5, 3, dtype=torch.int64), 2)


def test_strided_input_and_dtypes():
    x = cloud(2, 3, 40, dtype=torch.float32).mT
    dist, index = knn(x, x, 4)
    assert dist.dtype == torch.float32
    assert torch.equal(index, knn(x.contiguous(), x.contiguous(), 4)[1])
    assert np.array_equal(index[0, :, 0], np.arange(40))


def test_the_first_point_has_to_be_there_in_every_cloud():
    x, batch = cloud(4, 3), torch.tensor([0, 1, 1, 1])
    with pytest.raises(ValueError, match="start: expected a point that every cloud"):
        farthest_point_sample(x, 1, start=2, batch=batch)  # would be of the other one
    mask = torch.tensor([[False, True, True, True]])
    with pytest.raises(ValueError, match="start: expected a point that every cloud"):
        farthest_point_sample(x[None], 2, start=0, mask=mask)
    assert farthest_point_sample(x[None], 2, 1, mask=mask)[0, 0] == 1


def test_clouds_without_points_have_no_sample_and_no_neighbors():
    x = cloud(2, 4, 3)
    mask = torch.tensor([[True] * 4, [False] * 4])
    with pytest.raises(ValueError, match="every cloud"):
        farthest_point_sample(x, 2, mask=mask, pad="repeat")
    with pytest.raises(ValueError, match="every cloud"):
        ball_query(x, x, radius=1.0, k=2, mask=mask)
