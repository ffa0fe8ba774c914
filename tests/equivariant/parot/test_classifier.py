"""PaRot: poses, losses, propagation, and both kinds of directions."""

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from manifoldkit.equivariant import (
    PaRotClassifier,
    PaRotSegmenter,
    orientation,
    relative_pose,
    scale_pose,
)
from manifoldkit.equivariant.parot.base import smoothed_cross_entropy
from manifoldkit.equivariant.parot.encoder import Disentangle, SiamesePatches
from manifoldkit.linalg.actions import haar_rotations

SMALL = {"n_patches": 16, "k_local": 10, "k_global": 12, "k_intra": 5}


def clouds(b=4, n=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, 3, generator=g, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


def rotations(*shape):
    count = int(torch.tensor(shape).prod())
    r = torch.from_numpy(Rotation.random(count, random_state=0).as_matrix())
    return r.view(*shape, 3, 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_parameter_counts_are_the_published_ones():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(Disentangle()) == 79_744
    assert count(PaRotClassifier(40)) == 1_630_888
    assert count(PaRotSegmenter(50)) == 1_534_738


def test_rotations_are_uniform():
    r = haar_rotations(20_000, torch.zeros(1, dtype=torch.float64), seeded())
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(r @ r.mT, eye.expand_as(r), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(20_000).double())
    # moments of Haar measure: E R = 0, E R_ij^2 = 1/3, E tr(R)^2 = 1
    assert r.mean(0).abs().max() < 0.02
    assert (r.square().mean(0) - 1 / 3).abs().max() < 0.01
    trace = r.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.square().mean()) - 1) < 0.04


def test_poses_equal_their_definition_and_are_invariant():
    a = rotations(6)
    offset = clouds(1, 3)[0]
    pose = relative_pose(a[:3], a[3:], offset)
    for i in range(3):
        u = offset[i] / offset[i].norm()
        want = [(a[3 + i] @ a[i].T).flatten(), a[i] @ u, a[3 + i] @ u]
        want = torch.cat([*want, offset[i].norm()[None]])
        torch.testing.assert_close(pose[i], want, rtol=0, atol=1e-12)
    r = rotations(1)[0]  # rows are axes: a turned cloud has axes a r
    turned = relative_pose(a[:3] @ r, a[3:] @ r, offset @ r)
    torch.testing.assert_close(turned, pose, rtol=0, atol=1e-12)
    seen = scale_pose(a[:3], a[3:], offset)
    for i in range(3):
        u = offset[i] / offset[i].norm()
        want = [offset[i].norm()[None], (a[i] @ a[3 + i].T).flatten(), a[i] @ u]
        torch.testing.assert_close(seen[i], torch.cat([*want, a[3 + i] @ u]))
    torch.testing.assert_close(scale_pose(a[:3] @ r, a[3:] @ r, offset @ r), seen)
    itself = relative_pose(a[:1], a[:1], torch.zeros(1, 3).double())
    assert not bool(itself[:, 9:].any())


def test_orientation_is_right_handed_for_batches_of_three():
    d = rotations(3, 3)[..., :2, :]
    full = orientation(d)
    torch.testing.assert_close(torch.linalg.det(full), torch.ones(3, 3).double())
    d.requires_grad_()
    third = orientation(d, detach_third=True)[..., 2, :].sum()
    assert not bool(torch.autograd.grad(third, d)[0].any())


def test_losses_of_exactly_equivariant_directions_vanish():
    """The direction loss moves branch two into the frame of branch one."""

    class Exact(torch.nn.Module):
        def forward(self, patches, with_code=True):
            d = F.normalize(patches[:, :2], dim=-1)
            return patches.norm(dim=-1)[:, :4], d

    siamese = SiamesePatches("learned", 2, True)
    siamese.net = Exact()
    patches = clouds(1, 60)[0].view(2, 5, 6, 3)
    out = siamese(patches, seeded())
    assert out.losses["dir"] < 1e-25
    assert out.losses["feat"] < 1e-25
    d = F.normalize(patches[:, :, :2], dim=-1)
    torch.testing.assert_close(out.directions, d, rtol=0, atol=1e-12)
    want = (d[..., 0, :] * d[..., 1, :]).sum(-1).square().mean()
    torch.testing.assert_close(out.losses["orth"], want)


def test_smoothing_is_spread_over_the_other_classes():
    scores, y = torch.randn(6, 5, generator=seeded()), torch.arange(6) % 5
    target = torch.full((6, 5), 0.2 / 4).scatter(1, y[:, None], 0.8)
    want = -(target * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(scores, y, 0.2), want)


def test_total_is_the_weighted_sum():
    model = PaRotClassifier(5, loss_weights={"feat_local": 0.5}, **SMALL).double()
    losses = model.losses(clouds(), torch.arange(4), seeded())
    want = losses["cls"] + losses["dir_local"] + losses["dir_global"]
    want = want + 0.2 * losses["orth_local"] + 0.1 * losses["orth_global"]
    torch.testing.assert_close(losses["total"], want + 0.5 * losses["feat_local"])


def test_training_follows_the_generator_and_evaluation_needs_none():
    x, y = clouds(), torch.arange(4)
    model = PaRotClassifier(5, dropout=0.0, **SMALL).double()
    one, two = (model.losses(x, y, seeded(0))["total"] for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, model.losses(x, y, seeded(1))["total"])
    model.eval()
    assert torch.equal(model(x), model(x))
    assert set(model.losses(x, y)) == {"cls", "total"}


@pytest.mark.parametrize("directions", ["learned", "equivariant"])
def test_a_cloud_does_not_see_its_batch(directions):
    x = clouds(16)
    model = PaRotClassifier(5, directions=directions, **SMALL).double()
    model.losses(x, torch.arange(16) % 5)
    want = model.eval()(x)
    for b in (1, 2, 3, 4):
        torch.testing.assert_close(model(x[:b]), want[:b], rtol=0, atol=1e-9)


def test_equivariant_directions_make_it_exact():
    x, y = clouds(), torch.arange(4)
    r = rotations(4)
    shifts = {}
    for directions in ("learned", "equivariant"):
        torch.manual_seed(0)
        model = PaRotClassifier(5, directions=directions, **SMALL).double()
        model.losses(x, y, seeded())
        model.eval()
        with torch.no_grad():
            want, turned = model(x), model(x @ r.mT)
        shifts[directions] = float((turned - want).abs().max() / want.std())
    assert shifts["equivariant"] < 1e-9
    assert shifts["learned"] > 1e-4  # only learned


def test_every_parameter_gets_a_gradient():
    for directions in ("learned", "equivariant"):
        model = PaRotClassifier(5, directions=directions, **SMALL)
        model.losses(clouds().float(), torch.arange(4))["total"].backward()
        assert all(p.grad is not None for p in model.parameters())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("directions", ["learned", "equivariant"])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_tiny_and_degenerate_clouds_are_finite(directions, n):
    model = PaRotClassifier(3, directions=directions, **SMALL)
    for x in (clouds(4, n).float(), torch.zeros(4, n, 3)):
        model.zero_grad()
        loss = model.losses(x, torch.tensor([0, 1, 2, 0]))["total"]
        loss.backward()
        assert bool(loss.isfinite())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("directions", ["learned", "equivariant"])
def test_segmenter(directions):
    x, kind = clouds(3), torch.tensor([0, 1, 1])
    model = PaRotSegmenter(6, 2, directions=directions, **SMALL).double()
    parts = torch.randint(6, (3, 80), generator=seeded())
    losses = model.losses(x, parts, seeded(), category=kind)
    losses["total"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    want = model(x, category=kind)
    assert want.shape == (3, 80, 6)
    alone = model(x[1:2], category=kind[1:2])
    torch.testing.assert_close(alone, want[1:2], rtol=0, atol=1e-9)
    order = torch.randperm(80, generator=seeded())
    shuffled = model(x[:, order], category=kind)
    torch.testing.assert_close(shuffled, want[:, order], rtol=0, atol=1e-9)
    if directions == "equivariant":
        turned = model(x @ rotations(3).mT, category=kind)
        torch.testing.assert_close(turned, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "random"}, "directions: expected"),
        ({"loss_weights": {"extra": 1.0}}, "loss_weights: expected among"),
        ({"n_patches": 0}, "n_patches: expected an integer >= 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PaRotClassifier(5, **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[..., :2], ValueError, "x: expected points of shape"),
        (lambda x: x * torch.nan, ValueError, r"x\[0\] is not finite"),
        (lambda x: x.long(), TypeError, "x: expected floating-point"),
        (lambda x: x[:1], ValueError, "batch normalization needs more"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        PaRotClassifier(5, **SMALL).double()(change(clouds()))
