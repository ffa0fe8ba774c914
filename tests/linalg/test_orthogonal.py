"""Polar decomposition and Procrustes alignment."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

from manifoldkit.linalg import polar, procrustes


def randn(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g)


@pytest.mark.parametrize(
    ("shape", "side"),
    [((3, 3), "left"), ((2, 3, 3), "right"), ((2, 5, 3), "right"), ((3, 5), "left")],
)
def test_polar_factors(shape, side):
    g = randn(*shape)
    p, r = polar(g, side)
    torch.testing.assert_close(p @ r if side == "left" else r @ p, g)
    gram = r @ r.mT if side == "left" else r.mT @ r
    torch.testing.assert_close(gram, torch.eye(3).to(g).expand_as(gram))
    assert (torch.linalg.eigvalsh(p) > 0).all()
    first = g if g.ndim == 2 else g[0]
    u, h = scipy.linalg.polar(first.numpy(), side=side)
    np.testing.assert_allclose(r if g.ndim == 2 else r[0], u, atol=1e-12)
    np.testing.assert_allclose(p if g.ndim == 2 else p[0], h, atol=1e-12)
    g = g.requires_grad_()
    assert gradcheck(lambda g: tuple(polar(g, side)), (g,), check_forward_ad=True)
    assert gradgradcheck(lambda g: tuple(polar(g, side)), (g,), check_fwd_over_rev=True)


def test_polar_derivative_at_repeated_singular_values():
    g = torch.eye(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda g: tuple(polar(g)), (g,))
    assert gradgradcheck(lambda g: tuple(polar(g)), (g,))


def test_polar_does_not_square_the_condition():
    u, v = (torch.linalg.qr(randn(4, 4, seed=i))[0] for i in (1, 2))
    s = torch.logspace(0, -7, 4, dtype=torch.float64)
    _, r = polar((u * s) @ v.T)
    torch.testing.assert_close(r, u @ v.T, rtol=0, atol=1e-8)
    torch.testing.assert_close(r @ r.T, torch.eye(4).to(r), rtol=0, atol=1e-14)


def test_polar_bad_matrix_half_precision_and_empty():
    g = randn(3, 2, 2)
    clean = polar(g).r
    g[1, 0, 0] = math.nan
    r = polar(g).r
    assert torch.equal(r[[0, 2]], clean[[0, 2]])
    assert r[1].isnan().all()
    assert polar(g.bfloat16()).p.dtype == torch.bfloat16
    assert polar(g[:0]).r.shape == (0, 2, 2)
    torch.testing.assert_close(vmap(lambda g: polar(g).r)(g[2:]), clean[2:])


def test_procrustes_agrees_with_scipy_and_recovers_rotations():
    a, b = randn(2, 7, 3, seed=1), randn(2, 7, 3, seed=2)
    r = procrustes(a, b)
    for i in range(2):
        expected, _ = scipy.linalg.orthogonal_procrustes(a[i].numpy(), b[i].numpy())
        np.testing.assert_allclose(r[i], expected, atol=1e-12)
    q = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    torch.testing.assert_close(procrustes(a, a @ q), q.expand(2, 3, 3))


def test_procrustes_special_agrees_with_scipy_even_for_mirrored_points():
    a, w = randn(9, 3, seed=1), randn(9, seed=3).abs()
    b = a * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64) + 0.1 * randn(
        9, 3, seed=2
    )
    r = procrustes(a, b, w, special=True)
    assert float(torch.linalg.det(r)) == pytest.approx(1)
    assert float(torch.linalg.det(procrustes(a, b, w))) == pytest.approx(-1)
    expected, _ = Rotation.align_vectors(b.numpy(), a.numpy(), weights=w.numpy())
    np.testing.assert_allclose(r.T, expected.as_matrix(), atol=1e-10)


@pytest.mark.parametrize("special", [False, True])
def test_procrustes_derivatives(special):
    inputs = [randn(2, 6, 3, seed=1), randn(2, 6, 3, seed=2), randn(6, seed=3).abs()]
    inputs = [t.requires_grad_() for t in inputs]
    f = lambda a, b, w: procrustes(a, b, w, special=special)  # noqa: E731
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


@pytest.mark.compile
def test_compiles():
    a, b = randn(5, 3, seed=1), randn(5, 3, seed=2)
    compiled = torch.compile(procrustes, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b), procrustes(a, b))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polar(torch.ones(2, 3), "right"), "m >= n"),
        (lambda: polar(torch.ones(3, 2)), "m <= n"),
        (lambda: polar(torch.eye(2), "up"), "side"),
        (lambda: polar(torch.ones(3)), r"\(3,\)"),
        (lambda: procrustes(torch.ones(4, 3), torch.ones(5, 3)), r"\(5, 3\)"),
        (
            lambda: procrustes(torch.eye(3), torch.eye(3), torch.ones(2)),
            r"shape \(\.\.\., 3\), one weight",
        ),
        (lambda: procrustes(torch.eye(3), torch.eye(3), -torch.ones(3)), "negative"),
        (lambda: procrustes(torch.eye(3), torch.eye(3), torch.zeros(3)), "all weights"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="floating-point"):
        polar(torch.eye(2).long())


def test_batches_that_do_not_broadcast_are_named():
    a, b = torch.ones(4, 3, 2), torch.ones(5, 3, 2)
    with pytest.raises(ValueError, match="a, b: expected batch shapes that broadcast"):
        procrustes(a, b)
    with pytest.raises(ValueError, match="a, b, weights: expected batch shapes"):
        procrustes(a, a, torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"weights: expected shape \(\.\.\., 3\)"):
        procrustes(a, a, torch.ones(4, 5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planar_points_have_derivatives(axis):
    """With one singular value of exactly zero the rotation is unique, and smooth."""
    a, b = randn(6, 3, seed=1), randn(6, 3, seed=2)
    a[:, axis] = 0
    b[:, (axis + 1) % 3] = 0
    assert torch.linalg.svdvals(a.mT @ b)[-1] == 0
    f = lambda a, b: procrustes(a, b, special=True)  # noqa: E731
    grads = torch.autograd.grad(
        f(a.requires_grad_(), b.requires_grad_()).square().mul(randn(3, 3)).sum(),
        (a, b),
    )
    assert all(torch.isfinite(g).all() for g in grads)
    step, h = randn(6, 3, seed=3), 1e-6
    r = randn(3, 3).requires_grad_()
    slope = (f(a + h * step, b) - f(a - h * step, b)).mul(r).sum() / (2 * h)
    (grad,) = torch.autograd.grad((f(a, b) * r.detach()).sum(), a)
    torch.testing.assert_close(
        (grad * step).sum(), slope.detach(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("s", [1e-3, 1e-7, 1e-13])
def test_small_singular_values_keep_their_derivative(s):
    """The turn in the plane of two small singular values is as steep as they say."""
    g = torch.diag(torch.tensor([1.0, s, s], dtype=torch.float64)).requires_grad_()
    turn = torch.zeros(3, 3, dtype=torch.float64)
    turn[1, 2], turn[2, 1] = 1.0, -1.0
    (grad,) = torch.autograd.grad((polar(g).r * turn).sum() / 2, g)
    torch.testing.assert_close((grad * turn).sum(), torch.tensor(1 / s).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_changes_nothing(dtype):
    a, b, w = (randn(6, 3, seed=i).to(dtype) for i in (1, 2, 3))
    w = w[:, 0].abs()
    expected = (
        procrustes(a, b, w),
        procrustes(a, b, w, special=True),
        polar(a, "right").r,
    )
    for scale in (1e-30, 1e-18, 1e18, 1e30):
        found = (
            procrustes(a * scale, b * scale, w),
            procrustes(a * scale, b * scale, w * scale, special=True),
            polar(a * scale, "right").r,
        )
        torch.testing.assert_close(found, expected)
        p = polar(a * scale, "right").p / scale
        torch.testing.assert_close(p, polar(a, "right").p)
