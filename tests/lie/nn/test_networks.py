"""The network on the affine group."""

import copy
import pickle

import pytest
import torch

from manifoldkit.lie import SL, SO, GLPlus
from manifoldkit.lie.nn import AffineResNet

SMALL = {"channels": 4, "n_samples": 3, "hidden": 8, "head": 12, "kernel_size": 3}


@pytest.mark.parametrize("group", [GLPlus(2), SL(2), SO(2)], ids=repr)
@pytest.mark.parametrize("separable", [False, True, "depthwise"])
def test_shapes_and_gradients(group, separable):
    torch.manual_seed(0)
    net = AffineResNet(5, in_channels=3, group=group, separable=separable, **SMALL)
    out = net(torch.randn(2, 3, 16, 18))
    assert out.shape == (2, 5)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_quarter_turns_change_nothing_exactly(pool, norm):
    """Lift, block, norms, pooling by two, both poolings: all of the network."""
    torch.manual_seed(0)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    c4 = torch.stack([torch.linalg.matrix_power(quarter, k) for k in range(4)])
    net = AffineResNet(
        **{**SMALL, "n_samples": 4}, group=SO(2), proposal=c4, angle="periodic",
        norm=norm, pool_space=pool, pool_group=pool, dropout=0.0, locality=0.8,
    ).double()  # fmt: skip
    x = torch.randn(2, 1, 18, 18, dtype=torch.float64)
    f, turned = (net.features(v)[0] for v in (x, x.rot90(1, (-2, -1))))
    expected = f.rot90(1, (-2, -1)).roll(-1, 2)
    torch.testing.assert_close(turned, expected, atol=1e-11, rtol=0)
    torch.testing.assert_close(net(x.rot90(1, (-2, -1))), net(x), atol=1e-11, rtol=0)


def test_stages_may_have_different_samples_and_channels():
    net = AffineResNet(
        **{**SMALL, "n_samples": (4, 2), "channels": (4, 6)}, n_eval=(5, 3)
    )
    f, coarse = net.features(torch.zeros(1, 1, 20, 20))
    assert f.shape[:3] == (1, 6, 2)
    assert len(coarse) == 2
    f, coarse = net.eval().features(torch.zeros(1, 1, 20, 20))
    assert f.shape[2] == len(coarse) == 3
    net.redraw((7, 6))
    assert net.features(torch.zeros(1, 1, 20, 20))[0].shape[2] == 6
    shared = AffineResNet(**SMALL, share_samples=True)
    assert len(shared.stages) == 1
    shared.eval().redraw(5)
    assert shared.features(torch.zeros(1, 1, 20, 20))[0].shape[2] == 5


def test_training_is_random_and_evaluation_is_not():
    torch.manual_seed(0)
    net = AffineResNet(**SMALL, dropout=0.0)
    x = torch.randn(2, 1, 16, 16)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    twin = AffineResNet(**SMALL, dropout=0.0, seed=5).eval()
    twin.load_state_dict(net.state_dict())
    for other in (twin, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(x), net(x))


def test_size_of_the_reference_configuration():
    """Lift, three dense group convolutions of 40 channels and the classifier."""
    kernels = {"GLPlus": 4, "SL": 3}
    for name, d in kernels.items():
        group = {"GLPlus": GLPlus(2), "SL": SL(2)}[name]
        net = AffineResNet(group=group, separable=False, affine_norm=False)
        inner = 2 * (60 * 60 + 60)
        lift = (2 * 60 + 60) + inner + 60 * 40 + 40
        conv = ((2 + d) * 60 + 60) + inner + 60 * 1600 + 1600
        head = 40 * 256 + 2 * 256 + 256 * 10 + 10
        assert sum(p.numel() for p in net.parameters()) == lift + 3 * conv + head


def test_learns_to_tell_a_bar_from_a_blob_however_it_lies():
    torch.manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 20)] * 2, indexing="ij")

    def images(n, turned):
        label = torch.arange(n) % 2
        angle = (torch.rand(n) - 0.5) * turned
        u = x * angle.cos().view(-1, 1, 1) + y * angle.sin().view(-1, 1, 1)
        v = y * angle.cos().view(-1, 1, 1) - x * angle.sin().view(-1, 1, 1)
        long = torch.where(label == 1, 4.0, 20.0).view(-1, 1, 1)
        return torch.exp(-long * u**2 - 40 * v**2)[:, None], label

    net = AffineResNet(
        2, channels=8, n_samples=2, hidden=16, head=0, dropout=0.0, share_samples=True,
        kernel_size=3, n_blocks=0, w0=3.0, norm="batch", n_eval=8, locality=0.5,
        lift_size=5, lift_stride=2,
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        batch, label = images(32, turned=0.0)
        loss = torch.nn.functional.cross_entropy(net(batch), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, label = images(200, turned=0.8)
    with torch.no_grad():
        correct = (net.eval()(batch).argmax(1) == label).float().mean()
    assert correct > 0.9


def test_bad_input():
    with pytest.raises(ValueError, match="norm"):
        AffineResNet(**SMALL, norm="instance")
    with pytest.raises(ValueError, match="x: expected floating-point images"):
        AffineResNet(**SMALL)(torch.zeros(2, 3, 16, 16))
