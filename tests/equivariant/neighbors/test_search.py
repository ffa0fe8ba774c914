"""Nearest neighbors and balls against brute force, and bad input."""

import numpy as np
import pytest
import torch

from manifoldkit.equivariant.neighbors import (
    ball_query,
    estimate_axes,
    farthest_point_sample,
    group,
    knn,
    pad_clouds,
    search,
    three_interpolate,
)


def cloud(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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


def test_strided_input_and_dtypes():
    x = cloud(2, 3, 40, dtype=torch.float32).mT
    dist, index = knn(x, x, 4)
    assert dist.dtype == torch.float32
    assert torch.equal(index, knn(x.contiguous(), x.contiguous(), 4)[1])
    assert np.array_equal(index[0, :, 0], np.arange(40))


def test_clouds_without_points_have_no_sample_and_no_neighbors():
    x = cloud(2, 4, 3)
    mask = torch.tensor([[True] * 4, [False] * 4])
    with pytest.raises(ValueError, match="every cloud"):
        farthest_point_sample(x, 2, mask=mask, pad="repeat")
    with pytest.raises(ValueError, match="every cloud"):
        ball_query(x, x, radius=1.0, k=2, mask=mask)
