"""Rigid motions and similarities between clouds of points."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from manifoldkit.linalg import procrustes, rigid_fit


def randn(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=g)


def rotations(*batch, n=3, seed=1):
    return procrustes(randn(*batch, n, n, seed=seed), randn(*batch, n, n), special=True)


def cost(x, y, w, r, t, scale=1.0):
    return (w * (scale * x @ r.mT + t - y).square().sum(-1)).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_motion_is_found_again(n, dtype):
    x = randn(4, 2, 9, n).to(dtype)
    r, t = rotations(4, 2, n=n).to(dtype), randn(4, 2, n, seed=3).to(dtype)
    bound = 100 * torch.finfo(dtype).eps
    found = rigid_fit(x, x @ r.mT + t[..., None, :])
    torch.testing.assert_close(found.r, r, rtol=0, atol=bound)
    torch.testing.assert_close(found.t, t, rtol=0, atol=bound)
    s = torch.linspace(0.1, 5, 8, dtype=dtype).reshape(4, 2)
    moved = s[..., None, None] * x @ r.mT + t[..., None, :]
    found = rigid_fit(x, moved, scale=True)
    torch.testing.assert_close(found.scale, s, rtol=bound, atol=0)
    torch.testing.assert_close(found.r, r, rtol=0, atol=bound)
    torch.testing.assert_close(found.t, t, rtol=0, atol=5 * bound)


def test_agrees_with_scipy():
    x, y, w = randn(12, 3), randn(12, 3, seed=5), randn(12, seed=6).abs()
    found = rigid_fit(x, y, w)
    x_mean, y_mean = ((w[:, None] * z).sum(0) / w.sum() for z in (x, y))
    peer, _ = Rotation.align_vectors(
        (y - y_mean).numpy(), (x - x_mean).numpy(), weights=w.numpy()
    )
    peer = torch.from_numpy(peer.as_matrix())
    torch.testing.assert_close(found.r, peer, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.t, y_mean - found.r @ x_mean)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("reflections", [False, True])
def test_nothing_near_is_better(scale, reflections):
    x, y, w = randn(6, 7, 3), randn(6, 7, 3, seed=5), randn(6, 7, seed=6).abs()
    best = rigid_fit(x, y, w, scale=scale, reflections=reflections)
    det = torch.linalg.det(best.r)
    assert (det > 0).all() or reflections
    s = best.scale[:, None, None] if scale else torch.ones(6, 1, 1).double()
    least = cost(x, y, w, best.r, best.t[:, None], s)
    for seed in range(20):
        a = 0.1 * randn(6, 3, 3, seed=seed)
        r = best.r @ torch.linalg.matrix_exp(a - a.mT)
        t = best.t + 0.1 * randn(6, 3, seed=seed)
        near = s * (1 + 0.1 * randn(6, 1, 1, seed=seed)) if scale else s
        assert (cost(x, y, w, r, t[:, None], near) >= least).all()
    if reflections:
        rotation = rigid_fit(x, y, w, scale=scale)
        s = rotation.scale[:, None, None] if scale else 1.0
        proper = cost(x, y, w, rotation.r, rotation.t[:, None], s)
        assert (least <= proper + 1e-12).all()


def test_a_mirror_image_needs_a_reflection():
    x = randn(8, 3)
    mirror = x * torch.tensor([1.0, 1.0, -1.0])
    assert torch.linalg.det(rigid_fit(x, mirror).r) > 0
    found = rigid_fit(x, mirror, reflections=True)
    torch.testing.assert_close(x @ found.r.mT + found.t, mirror)


@pytest.mark.parametrize("unit", [1e-140, 1e-9, 1e9, 1e140])
def test_units_change_nothing(unit):
    x, y = randn(9, 3), randn(9, 3, seed=4)
    plain, other = (rigid_fit(x, y * f, scale=True) for f in (1.0, unit))
    torch.testing.assert_close(other.r, plain.r)
    torch.testing.assert_close(other.scale, plain.scale * unit)
    torch.testing.assert_close(other.t, plain.t * unit)
    both = rigid_fit(x * unit, y * unit)
    torch.testing.assert_close(both.r, plain.r)
    torch.testing.assert_close(both.t / unit, rigid_fit(x, y).t)


def test_weights_of_pairs():
    x, y = randn(5, 3), randn(5, 3, seed=4)
    w = torch.tensor([1.0, 2.0, 3.0, 1.0, 0.0]).double()
    repeated = [0, 1, 1, 2, 2, 2, 3]
    want = rigid_fit(x[repeated], y[repeated], scale=True)
    wild = y.clone()
    wild[4] = torch.tensor([math.nan, math.inf, 1e300])
    for factor, target in ((1.0, y), (7e-9, wild)):
        found = rigid_fit(x, target, factor * w, scale=True)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b)


def test_company_and_broadcast():
    x, y = randn(4, 6, 3), randn(6, 3, seed=4)
    alone = [rigid_fit(x[i], y, scale=True) for i in range(4)]
    x[1, 0, 0] = math.nan
    r, t, s = rigid_fit(x, y, scale=True)
    assert r[1].isnan().all()
    for i in (0, 2, 3):
        for a, b in zip((r[i], t[i], s[i]), alone[i], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)
    assert rigid_fit(x[:0], y, scale=True).scale.shape == (0,)


def test_gradients():
    x, y, w = randn(2, 5, 3), randn(2, 5, 3, seed=4), randn(2, 5, seed=6).abs() + 0.1
    leaves = [z.requires_grad_() for z in (x, y, w)]
    for options in ({}, {"scale": True}, {"scale": True, "reflections": True}):
        assert gradcheck(
            lambda *z, o=options: tuple(rigid_fit(*z, **o)),
            leaves,
            check_forward_ad=True,
        )


def test_half_precision_computes_in_float32():
    x, y = randn(6, 3).bfloat16(), randn(6, 3, seed=4).bfloat16()
    found, wide = rigid_fit(x, y), rigid_fit(x.float(), y.float())
    assert found.r.dtype == torch.bfloat16
    assert torch.equal(found.r, wide.r.bfloat16())


def test_bad_input():
    x, y = randn(2, 5, 3), randn(2, 5, 3, seed=4)
    cases = [
        (lambda: rigid_fit(x, y[..., :2]), "source and target"),
        (lambda: rigid_fit(x[:, :0], y[:, :0]), "source: expected at least one"),
        (lambda: rigid_fit(x, y, torch.ones(4).double()), "weights"),
        (lambda: rigid_fit(x, y, -torch.ones(5).double()), "weights"),
        (lambda: rigid_fit(x, y[:1].expand(3, 5, 3)), "broadcast"),
    ]
    for call, what in cases:
        with pytest.raises(ValueError, match=what):
            call()
    with pytest.raises(TypeError, match="target"):
        rigid_fit(x, y.long())
    x[1] = x[1, :1] * 1e6
    with pytest.raises(ValueError, match=r"source\[1\].*coincide"):
        rigid_fit(x, y, scale=True)
    assert rigid_fit(x, y).r.isfinite().all()
