"""Samples of a group: where they lie, how they weigh, when they change."""

import copy
import math
import pickle

import pytest
import torch

from manifoldkit.lie import SL, SO, GLPlus
from manifoldkit.lie.nn import LocalBox, SampledGroup

DOUBLE = {"dtype": torch.float64}
GROUPS = [GLPlus(2), SL(2), SO(2), GLPlus(3), SL(3), SO(3)]


@pytest.mark.parametrize("group", GROUPS, ids=repr)
def test_local_box_gives_elements_and_their_inverses(group, generator):
    g, g_inv, log_weight = LocalBox(0.5, 0.3)(group, 50, generator, torch.float64)
    assert g.dtype == g_inv.dtype == log_weight.dtype == torch.float64
    assert log_weight.shape == (50,)
    eye = torch.eye(g.shape[-1], **DOUBLE).expand_as(g)
    torch.testing.assert_close(g @ g_inv, eye, atol=1e-12, rtol=0)
    assert group.belongs(g, 1e-9).all()
    v = group.coords(g)
    n_skew = g.shape[-1] * (g.shape[-1] - 1) // 2
    assert v[:, : v.shape[1] - n_skew].abs().le(0.3 + 1e-12).all()
    turn = v[:, v.shape[1] - n_skew :].abs() / math.sqrt(2)
    assert turn.le(0.5 + 1e-12).all()
    assert turn.max() > 0.4  # the box is filled


@pytest.mark.parametrize("group", [GLPlus(2), SL(2), SL(3)], ids=repr)
def test_weights_are_those_of_haar_measure(group, generator):
    """The integral of a bump does not change when the bump moves inside the box."""
    count = 200_000 if group.n == 2 else 60_000
    g, _, log_weight = LocalBox(1.2, 1.2)(group, count, generator, torch.float64)
    shift = LocalBox(0.3, 0.3)(group, 1, generator, torch.float64)[0]

    def integral(g):
        bump = torch.exp(-12 * group.coords(g).square().sum(-1))
        return (bump * log_weight.exp()).mean()

    there = torch.linalg.inv(shift) @ g
    # without weights it changes by two per cent or more
    rtol = 0.005 if g.shape[-1] == 2 else 0.06
    torch.testing.assert_close(integral(there), integral(g), rtol=rtol, atol=0)


@pytest.mark.parametrize(
    ("group", "form"),
    [
        (GLPlus(2), {"alpha": 4.0}),
        (SL(2), {"alpha": 0.25}),
        (SO(3), {"alpha": 2.0}),
        (GLPlus(2), {"angle": "periodic"}),
        (SO(2), {"angle": "periodic"}),
        (SL(2), {"convention": "rgenn"}),
    ],
    ids=repr,
)
def test_the_box_does_not_depend_on_the_form_of_coordinates(group, form):
    parts = []
    for other in (group, type(group)(group.n, **form)):
        generator = torch.Generator().manual_seed(0)
        parts.append(LocalBox(0.5, 0.3)(other, 20, generator, torch.float64))
    for plain, found in zip(*parts, strict=True):
        torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("angle", ["principal", "periodic"])
def test_distances_from_the_identity_grow_with_a_turn(angle):
    """Also where coordinates are cosine and sine, whose own length is always one."""
    group = SO(2)
    g = group.exp(group.hat(torch.tensor([[0.0], [0.5], [-1.0], [2.0]], **DOUBLE)))
    samples = SampledGroup(group, 4, g, angle=angle)()
    d = samples.square_distance(samples.relative(samples)[0])
    assert d[0] == pytest.approx(0, abs=1e-12)
    assert (d.diff() > 0.1).all()


def test_lattice_integrates_better_than_independent_points():
    group = GLPlus(2)

    def spread(n):
        means = []
        for seed in range(60):
            generator = torch.Generator().manual_seed(seed)
            v = group.coords(LocalBox()(group, n, generator, torch.float64)[0])
            means.append((v.cos().sum(-1)).mean())
        return torch.stack(means).std()

    assert spread(64) < 0.4 * spread(4) / math.sqrt(16) * 2


def test_same_seed_same_samples():
    samples = [SampledGroup(SL(2), 5, seed=3).eval()() for _ in range(2)]
    torch.testing.assert_close(samples[0].g, samples[1].g, atol=0, rtol=0)
    other = SampledGroup(SL(2), 5, seed=4).eval()()
    assert not torch.equal(samples[0].g, other.g)


def test_when_samples_change():
    torch.manual_seed(0)
    step = SampledGroup(SL(2), 4, n_eval=9)
    assert not torch.equal(step().g, step().g)
    assert len(step()) == 4
    epoch = SampledGroup(SL(2), 4, resample="epoch")
    first = epoch().g
    assert epoch().g is first
    assert not torch.equal(epoch.train()().g, first)
    never = SampledGroup(SL(2), 4, resample="never")
    assert never().g is never.eval()().g
    for group in (step, epoch, never):
        group.eval()
        assert torch.equal(group().g, group().g)
    assert len(step()) == 9


def test_training_draws_follow_the_global_seed():
    group = SampledGroup(GLPlus(2), 4)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(group().g)
    assert torch.equal(*draws)


def test_evaluation_survives_state_dict_copy_pickle_and_dtype():
    group = SampledGroup(GLPlus(2), 4, n_eval=6, seed=1).eval()
    other = SampledGroup(GLPlus(2), 4, n_eval=6, seed=2).eval()
    assert not torch.equal(other().g, group().g)
    other.load_state_dict(group.state_dict())
    for twin in (other, copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        torch.testing.assert_close(twin().g, group().g)
        torch.testing.assert_close(twin().weight, group().weight)
    assert group.double()().g.dtype == torch.float64
    assert group.train()().g.dtype == torch.float64


def test_redraw_for_more_samples():
    group = SampledGroup(GLPlus(2), 4).eval()
    group.redraw(32)
    assert len(group()) == 32
    assert group().weight.sum().item() == pytest.approx(1, abs=1e-6)
    before = group().g
    group.redraw(seed=9)
    assert len(group()) == 32
    assert not torch.equal(group().g, before)


def test_weights_sum_to_one_in_every_form():
    draws = {
        kind: SampledGroup(GLPlus(2), 16, "lognormal", weighting=kind, seed=2).eval()()
        for kind in ("haar", "none", "clipped")
    }
    for samples in draws.values():
        assert samples.weight.sum().item() == pytest.approx(1, abs=1e-6)
    assert draws["none"].weight.max().item() == pytest.approx(1 / 16)
    assert draws["clipped"].weight.max() <= draws["haar"].weight.max() + 1e-7


def test_fixed_elements(generator):
    g = SO(2).from_coords(torch.arange(4.0)[:, None])
    samples = SampledGroup(SO(2), 4, g)()
    assert torch.equal(samples.g, g)
    assert samples.weight.tolist() == [0.25] * 4


def test_relative_coordinates_depend_on_the_quotient_only(generator):
    group = GLPlus(2)
    sampled = SampledGroup(group, 6).double().eval()
    samples = sampled()
    h = LocalBox()(group, 1, generator, torch.float64)[0]
    moved = type(samples)(
        group, h @ samples.g, samples.g_inv @ h.inverse(), samples.weight
    )
    torch.testing.assert_close(moved.relative(moved), samples.relative(samples))
    own = samples.relative(samples).diagonal().T
    torch.testing.assert_close(own, torch.zeros_like(own), atol=1e-6, rtol=0)
    assert sampled.coords_dim == 4
    assert SampledGroup(SO(2), 3, angle="periodic").coords_dim == 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n": 0}, "n: "),
        ({"n_eval": 0}, "n_eval"),
        ({"resample": "always"}, "resample"),
        ({"weighting": "uniform"}, "weighting"),
        ({"angle": "degrees"}, "angle"),
        ({"proposal": torch.eye(2).expand(3, 2, 2)}, "proposal: expected 4 elements"),
        ({"proposal": torch.eye(2).expand(4, 2, 2), "n_eval": 8}, "n_eval=None"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SampledGroup(GLPlus(2), **{"n": 4, **kwargs})


def test_bad_box():
    with pytest.raises(ValueError, match="angle"):
        LocalBox(4.0)
    with pytest.raises(ValueError, match="log_scale"):
        LocalBox(0.5, -1.0)
    with pytest.raises(ValueError, match="points"):
        LocalBox(points="grid")
