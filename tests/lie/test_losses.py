"""Losses, averages and registration of rotations."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck

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


PAIRED = [
    losses.geodesic_loss,
    losses.chordal_loss,
    losses.log_cosh_loss,
    losses.rotvec_loss,
]


@pytest.mark.parametrize("loss", PAIRED)
def test_transforms_of_losses(loss, pair):
    a, b = (x[:3].clone().requires_grad_() for x in pair)

    def each(a, b):
        return loss(a, b, reduction="none")

    vmapped = torch.func.vmap(each)(a, b)
    torch.testing.assert_close(vmapped, each(a, b))
    v = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)

    def turned(v):
        return each(a.detach() @ rotation.rotvec_to_matrix(v), b.detach())

    assert gradcheck(turned, v, check_forward_ad=True)
    assert gradgradcheck(turned, v)


def test_half_precision_and_autocast(pair):
    """Computed in float32 and returned in the dtype of the input."""
    a, b = (x[:5].float() for x in pair)
    low = a.bfloat16(), b.bfloat16()
    points = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    cases = [(f, ()) for f in PAIRED] + [(losses.alignment_loss, (points,))]
    for loss, more in cases:
        out = loss(*low, *more)
        assert out.dtype == torch.bfloat16
        wide = loss(low[0].float(), low[1].float(), *more)
        torch.testing.assert_close(out, wide.bfloat16(), rtol=0, atol=0)
        expected = loss(a, b, *more)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(loss(a, b, *more), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        for mean in (losses.chordal_mean, losses.karcher_mean):
            middle = mean(a)
            assert (middle @ middle.mT - torch.eye(3)).abs().max() < 0.02
            assert middle.dtype == torch.float32
    assert losses.chordal_mean(low[0]).dtype == torch.bfloat16


def test_derivatives_of_means_and_registration(generator):
    r = rotation.rotvec_to_matrix(
        0.3 * torch.randn(4, 3, dtype=torch.float64, generator=generator)
    )
    v = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)

    def moved(v):
        return r @ rotation.rotvec_to_matrix(v)

    for mean in (losses.chordal_mean, losses.karcher_mean):
        assert gradcheck(lambda v, mean=mean: mean(moved(v)), v)
        back = torch.func.vmap(mean)(r.expand(2, 4, 3, 3))
        torch.testing.assert_close(back[1], mean(r))
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    y = (x @ r[0].mT + 0.1 * x.flip(0)).requires_grad_()
    assert gradcheck(lambda y: losses.register(x, y, scale=True), y)


def test_other_sizes(generator):
    for n in (2, 4):
        a, b = rotation.random_rotation(
            2, 5, n=n, generator=generator, dtype=torch.float64
        )
        for loss in PAIRED[:3]:
            assert loss(a, b) > 0
            assert loss(a, a).abs() < 1e-7
        torch.testing.assert_close(losses.karcher_mean(a[:1]), a[0])


@pytest.mark.parametrize("rep", ["sixd", "svd", "rotvec"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_head_of_every_size_and_dtype(rep, n):
    head = RotationHead(4, rep, n, dtype=torch.float64)
    out = head(torch.randn(2, 3, 4, dtype=torch.float64))
    assert out.shape == (2, 3, n, n)
    eye = torch.eye(n, dtype=torch.float64)
    assert (out @ out.mT - eye).abs().max() < 1e-13
    assert head(torch.randn(0, 4, dtype=torch.float64)).shape == (0, n, n)
    single = RotationHead(4, rep, n)
    with torch.autocast("cpu", torch.bfloat16):
        assert single(torch.randn(5, 4)).shape == (5, n, n)


def test_head_under_transforms():
    head = RotationHead(4)
    x = torch.randn(6, 4)
    torch.testing.assert_close(torch.func.vmap(head)(x), head(x))
    parameters = dict(head.named_parameters())

    def loss(parameters):
        out = torch.func.functional_call(head, parameters, (x,))
        return losses.geodesic_loss(out, torch.eye(3))

    gradients = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    for ours, plain in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.compile
@pytest.mark.parametrize("rep", ["sixd", "stereo"])
def test_head_compiles_without_graph_breaks(rep):
    torch.compiler.reset()
    head = RotationHead(4, rep)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 4)
    torch.testing.assert_close(compiled(x), head(x))
    losses.geodesic_loss(compiled(x), torch.eye(3)).backward()
    ours = head.linear.weight.grad.clone()
    head.zero_grad()
    losses.geodesic_loss(head(x), torch.eye(3)).backward()
    torch.testing.assert_close(ours, head.linear.weight.grad)


@pytest.mark.compile
def test_losses_compile_without_graph_breaks(pair):
    a, b = (x.float() for x in pair)
    for loss in PAIRED:
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(a, b), loss(a, b))


def test_bad_input():
    with pytest.raises(ValueError, match="broadcast"):
        losses.chordal_loss(torch.eye(3).expand(2, 3, 3), torch.eye(3).expand(3, 3, 3))
    with pytest.raises(TypeError, match="a: expected floating"):
        losses.geodesic_loss(torch.eye(3).int(), torch.eye(3))
    with pytest.raises(ValueError, match="square"):
        losses.chordal_mean(torch.zeros(4, 2, 3))
    with pytest.raises(ValueError, match="points: expected"):
        losses.alignment_loss(torch.eye(3), torch.eye(3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="N >= 1"):
        losses.register(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="weights"):
        losses.chordal_mean(torch.eye(3).expand(4, 3, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="no representation"):
        RotationHead(4, "quaternion", 4)
    r = torch.eye(3).expand(2, 3, 3).clone()
    r[1] = torch.nan
    value = losses.geodesic_loss(r, torch.eye(3), reduction="none")
    assert value[0] == 0
    assert value[1].isnan()
    with pytest.raises(ValueError, match="reduction"):
        losses.geodesic_loss(torch.eye(3), torch.eye(3), reduction="max")
    with pytest.raises(ValueError, match="b"):
        losses.chordal_loss(torch.eye(3), torch.eye(2))
    with pytest.raises(ValueError, match=r"\(\.\.\., 4\)"):
        losses.quaternion_loss(torch.zeros(3), torch.zeros(4))


def test_every_problem_of_a_batch_has_its_own_weights(generator):
    """Also where as many items as dimensions make other shapes fit by chance."""
    r = rotation.random_rotation(2, 3, generator=generator, dtype=torch.float64)
    x, y = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[1.0, 2.0, 3.0], [5.0, 1.0, 0.0]])
    for f in (losses.chordal_mean, losses.karcher_mean):
        found = f(r, weights)
        for k in range(2):
            torch.testing.assert_close(found[k], f(r[k], weights[k]))
    fit = losses.register(x, y, weights, scale=True)
    for k in range(2):
        one = losses.register(x[k], y[k], weights[k], scale=True)
        for a, b in zip(fit, one, strict=True):
            torch.testing.assert_close(a[k], b)
    with pytest.raises(ValueError, match="weights, r: expected batch shapes"):
        losses.chordal_mean(r, weights.repeat(2, 1)[:3])
    with pytest.raises(ValueError, match="steps: expected an integer >= 0"):
        losses.karcher_mean(r, steps=-1)
