"""Frames of second moments and group elements: they move with the cloud."""

import pytest
import torch
from frame_cases import cloud
from torch import nn

from manifoldkit.equivariant import FrameAveraging, pair_frame, pca_frame
from manifoldkit.testing.groups import random_orthogonal, random_rotation


def as_set(r):
    """Return frames in a canonical order."""
    rows = sorted(tuple(round(v, 6) + 0.0 for v in m.flatten().tolist()) for m in r)
    return torch.tensor(rows)


GROUPS = ["O", "SO", "E", "SE"]


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("group", GROUPS)
def test_frames_move_with_the_cloud(group, d):
    if d == 1 and group in ("SO", "SE"):
        pytest.skip("no rotations of a line")
    x = cloud(9, d, seed=d)
    g = torch.Generator().manual_seed(d)
    mirrors = group in ("O", "E")
    q = random_orthogonal(d, g) if mirrors else random_rotation(d, g)
    t = cloud(d, seed=9) if group in ("E", "SE") else torch.zeros(d).double()
    name = f"{group}({d})"
    a, b = pca_frame(x, name), pca_frame(x @ q.T + t, name)
    assert a.R.shape == (2 ** (d - (not mirrors)), d, d)
    assert torch.allclose(as_set(q @ a.R), as_set(b.R), atol=1e-5)
    if group in ("E", "SE"):
        assert torch.allclose(a.t @ q.T + t, b.t)
    else:
        assert not a.t.any()
    if not mirrors:
        assert torch.allclose(torch.linalg.det(a.R), torch.ones(len(a.R)).double())
    assert torch.allclose(a.log_weights.exp().sum(), torch.ones(()).double())


def test_frames_ignore_order_of_points_and_masked_points():
    x = cloud(2, 8, 3)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    dirty = torch.where(mask[..., None], x, torch.nan)
    a, b = pca_frame(dirty, mask=mask), pca_frame(x[1, :5])
    assert torch.allclose(as_set(a.R[1]), as_set(b.R), atol=1e-5)
    p = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    c = pca_frame(x[:, p])
    assert torch.allclose(as_set(pca_frame(x).R[0]), as_set(c.R[0]), atol=1e-5)


def test_order_translation_scale_and_leading_dimensions():
    x = cloud(2, 3, 8, 3)
    a, b = pca_frame(x), pca_frame(x, order="descending")
    assert a.R.shape == (2, 3, 4, 3, 3)
    assert a.t.shape == (2, 3, 3)
    assert torch.allclose(a.R[..., 0].abs(), b.R[..., -1].abs())
    assert pca_frame(x, "T(3)").R.shape == (2, 3, 1, 3, 3)
    scaled = pca_frame(5 * x, "scale x E(3)")
    assert torch.allclose(scaled.scale, 5 * pca_frame(x, "scale x E(3)").scale)


@pytest.mark.parametrize("build", [pca_frame, pair_frame])
def test_vectors_have_the_leading_dimensions_of_the_points(build):
    x, v = cloud(2, 3, 5, 3), cloud(2, 3, 4, 3)
    whole = build(x, vectors=v)
    assert torch.allclose(build(x[1, 2], vectors=v[1, 2]).R, whole.R[1, 2])
    none = build(x, vectors=v[:, :, :0])
    assert torch.equal(none.R, build(x).R)
    with pytest.raises(ValueError, match="vectors: expected a batch of"):
        build(x, vectors=v[0])
    with pytest.raises(ValueError, match="vectors_mask: expected booleans"):
        build(x, vectors=v, vectors_mask=torch.ones(2, 3, 5, dtype=torch.bool))


def test_numbers_of_draws_and_pairs():
    with pytest.raises(ValueError, match="draws"):
        pca_frame(cloud(5, 3), draws=0)
    with pytest.raises(ValueError, match="n_pairs"):
        pair_frame(cloud(5, 3), n_pairs=0)


def test_finite_groups_are_groups():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    half = torch.stack([torch.eye(2), turn @ turn])
    options = {"in_types": ("vector",), "out_types": "vector", "frame": "group"}
    FrameAveraging(nn.Identity(), half, **options)(cloud(2, 5, 2))
    with pytest.raises(ValueError, match="products"):
        FrameAveraging(nn.Identity(), torch.stack([torch.eye(2), turn]), **options)
    with pytest.raises(ValueError, match="orthogonal"):
        FrameAveraging(nn.Identity(), 2 * half, **options)
    with pytest.raises(ValueError, match="matrices"):
        FrameAveraging(nn.Identity(), turn, **options)
    with pytest.raises(ValueError, match="size 3"):
        FrameAveraging(nn.Identity(), half, **options)(cloud(2, 5, 3))
    with pytest.raises(ValueError, match="frame='group'"):
        FrameAveraging(nn.Identity(), half)
