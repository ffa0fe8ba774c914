"""Losses, averages and registration of rotations."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from manifoldkit.lie import losses, rotation
from manifoldkit.lie.nn import RotationHead


@pytest.fixture
def pair(generator):
    return rotation.random_rotation(2, 30, generator=generator, dtype=torch.float64)


def test_values_against_scipy_and_definitions(pair):
    a, b = pair
    angle = (rotation.to_scipy(a).inv() * rotation.to_scipy(b)).magnitude()
    ours = losses.geodesic_loss(a, b, reduction="none")
    torch.testing.assert_close(ours, torch.tensor(angle))
    torch.testing.assert_close(
        losses.chordal_loss(a, b, reduction="none"), 2 * 2**0.5 * (ours / 2).sin()
    )
    torch.testing.assert_close(losses.log_cosh_loss(a, b), (a - b).cosh().log().mean())
    p, q = rotation.matrix_to_quaternion(a), -rotation.matrix_to_quaternion(b)
    torch.testing.assert_close(
        losses.quaternion_loss(p, q, reduction="none"), 2 * (ours / 4).sin()
    )
    points = torch.randn(7, 3, dtype=torch.float64)
    add = (points @ a.mT - points @ b.mT).norm(dim=-1).mean()
    torch.testing.assert_close(losses.alignment_loss(a, b, points), add)
    torch.testing.assert_close(
        losses.geodesic_loss(a, b, reduction="sum", degrees=True),
        ours.sum() * 180 / math.pi,
    )


@pytest.mark.parametrize(
    "loss",
    [
        losses.geodesic_loss,
        losses.chordal_loss,
        losses.log_cosh_loss,
        losses.rotvec_loss,
    ],
)
def test_derivatives_are_finite_at_zero_and_at_half_turns(loss):
    for r in (torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0]))):
        a = r.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(a, torch.eye(3)), a)
        assert grad.isfinite().all()


def test_derivatives(pair):
    a, b = (x[:3].clone().requires_grad_() for x in pair)
    assert gradcheck(losses.geodesic_loss, (a, b))
    assert gradcheck(losses.chordal_loss, (a, b))


def test_means(generator):
    center = rotation.random_rotation(generator=generator, dtype=torch.float64)
    v = 0.4 * torch.randn(40, 3, dtype=torch.float64, generator=generator)
    r = center @ rotation.rotvec_to_matrix(v)
    scipy = Rotation.from_matrix(r.numpy()).mean().as_matrix()  # the chordal mean
    torch.testing.assert_close(losses.chordal_mean(r), torch.tensor(scipy))
    mean = losses.karcher_mean(r)
    residual = rotation.matrix_to_rotvec(mean.mT @ r).mean(0)
    assert residual.abs().max() < 1e-12
    weights = torch.zeros(40, dtype=torch.float64)
    weights[7] = 2.0
    torch.testing.assert_close(losses.chordal_mean(r, weights), r[7])
    torch.testing.assert_close(losses.karcher_mean(r, weights), r[7])
    with pytest.raises(ValueError, match="m, n, n"):
        losses.chordal_mean(torch.eye(3))


def test_registration_recovers_a_similarity(generator):
    x = torch.randn(2, 20, 3, dtype=torch.float64, generator=generator)
    r = rotation.random_rotation(2, generator=generator, dtype=torch.float64)
    t = torch.randn(2, 1, 3, dtype=torch.float64, generator=generator)
    y = 2.5 * x @ r.mT + t
    found = losses.register(x, y, scale=True)
    torch.testing.assert_close(found.r, r)
    torch.testing.assert_close(found.scale, torch.full((2,), 2.5, dtype=torch.float64))
    torch.testing.assert_close(found.t, t[:, 0])
    spoiled = y.clone()
    spoiled[:, 0] += 100
    weights = torch.ones(20, dtype=torch.float64)
    weights[0] = 0
    found = losses.register(x, spoiled, weights, scale=True)
    torch.testing.assert_close(found.r, r)
    assert (losses.register(x, y).scale == 1).all()
    with pytest.raises(ValueError, match="equal shapes"):
        losses.register(x, y[:, :3])


@pytest.mark.parametrize("rep", ["sixd", "svd", "stereo", "quaternion", "rotvec"])
def test_head_learns_and_starts_at_the_identity(rep):
    torch.manual_seed(0)
    head = RotationHead(8, rep)
    out = head(0.01 * torch.randn(5, 8))
    assert rotation.geodesic_distance(out, torch.eye(3)).max() < 0.1
    target = rotation.rotvec_to_matrix(torch.tensor([0.5, -1.0, 0.3]))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    x = torch.randn(16, 8)
    for _ in range(100):
        optimizer.zero_grad()
        loss = losses.chordal_loss(head(x), target, squared=True)
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_bad_input():
    with pytest.raises(ValueError, match="reduction"):
        losses.geodesic_loss(torch.eye(3), torch.eye(3), reduction="max")
    with pytest.raises(ValueError, match="b"):
        losses.chordal_loss(torch.eye(3), torch.eye(2))
    with pytest.raises(ValueError, match=r"\(\.\.\., 4\)"):
        losses.quaternion_loss(torch.zeros(3), torch.zeros(4))
