"""PaRot: what it computes, its invariance, and both kinds of directions."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant import PaRotClassifier, PaRotSegmenter
from manifoldkit.equivariant.parot.encoder import Disentangle

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
