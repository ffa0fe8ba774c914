"""What the published reference code gets wrong, one test each: ours must not.

The numbers are those of a list that was made by running that code.
"""

import inspect
import math

import pytest
import torch

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie import SL, SO, GLPlus, SPDSpace, polar_log
from manifoldkit.lie.nn import AffineResNet, GroupConv2d, GroupSamples, SampledGroup
from manifoldkit.lie.nn.kernels import kernel_grid

DOUBLE = {"dtype": torch.float64}
SMALL = {"hidden": 8, "n_hidden": 1, "w0": 3.0}


def test_1_elements_and_inverses_do_not_share_memory():
    sampled = SampledGroup(GLPlus(2), 5, n_eval=5, seed=1).double().eval()
    other = SampledGroup(GLPlus(2), 5, n_eval=5, seed=2).double().eval()
    sampled.load_state_dict(other.state_dict())  # copies into the buffers in place
    assert sampled.g.data_ptr() != sampled.g_inv.data_ptr()
    torch.testing.assert_close(sampled.g, other.g)
    sampled.redraw(7)
    for g, g_inv in ((sampled.g, sampled.g_inv), (other.g, other.g_inv)):
        eye = torch.eye(2, **DOUBLE).expand_as(g)
        torch.testing.assert_close(g @ g_inv, eye, atol=1e-6, rtol=0)


def test_2_every_layer_is_told_the_samples_its_input_lives_on():
    net = AffineResNet(channels=4, n_samples=(4, 2), hidden=8, head=0, kernel_size=3)
    seen = {}
    for name, module in net.named_modules():
        if isinstance(module, GroupConv2d):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: args[1:]})
            )
    net(torch.zeros(1, 1, 16, 16))
    fine, coarse = seen["last"]
    assert (len(fine), len(coarse)) == (4, 2)
    for i in range(2):
        assert seen[f"blocks.0.convs.{i}"] == (fine,)


@pytest.mark.parametrize("separable", [False, True, "depthwise"])
def test_3_numbers_of_samples_differ_and_the_determinant_is_the_inputs(separable):
    """A kernel that does not see the input sample: moving it only divides by det."""
    torch.manual_seed(0)
    group = GLPlus(2)
    out = SampledGroup(group, 2).double().eval()()

    class SpaceOnly(torch.nn.Linear):
        def forward(self, z):
            return super().forward(z[..., :1] * (z.shape[-1] != group.coords_dim) + 1)

    conv = GroupConv2d(
        2, 3, 3, separable=separable, kernel=lambda _, n, a: SpaceOnly(1, n)
    ).double()
    torch.nn.init.zeros_(conv.bias)
    f = torch.randn(1, 2, 1, 3, 3, **DOUBLE)
    found = []
    for size in (1.0, 3.0):
        g = size * torch.eye(2, **DOUBLE)[None]
        found.append(conv(f, GroupSamples(group, g, g / size**2, torch.ones(1)), out))
    assert found[0].shape == (1, 3, 2, 1, 1)
    torch.testing.assert_close(found[1], found[0] / 9)


def test_4_equidistant_angles_are_distinct_and_one_of_them_is_zero():
    for n in (1, 4, 10):
        angles = SO(2).coords(SO(2).sample(n, "equidistant", **DOUBLE)[0]) / 2**0.5
        gaps = (angles - angles.T).abs()
        gaps = torch.minimum(gaps, 2 * math.pi - gaps) + 9 * torch.eye(n)
        assert gaps.min() > 2 * math.pi / n - 1e-9
        assert angles.abs().min() < 1e-12


def test_5_hat_exp_and_log_of_so2_agree():
    group = SO(2)
    x = torch.tensor([[0.0, -0.7], [0.7, 0.0]], **DOUBLE)
    turn = torch.tensor(0.7, **DOUBLE)
    g = group.exp(x)
    expected = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()])
    torch.testing.assert_close(g, expected.view(2, 2))
    torch.testing.assert_close(group.log(g), x)
    torch.testing.assert_close(group.from_coords(group.vee(x)), g)
    torch.testing.assert_close(group.coords(g), turn[None] * 2**0.5)


@pytest.mark.parametrize("group", [GLPlus(2), SL(2), SO(2)], ids=repr)
def test_6_coordinates_are_continuous_at_the_identity(group):
    v = group.coords(group.identity(**DOUBLE))
    for sign in (-1, 1):
        near = group.exp(sign * group.hat(torch.full((len(v),), 1e-6, **DOUBLE)))
        assert (group.coords(near) - v).abs().max() < 1e-5


def test_7_negative_determinants_are_refused():
    flip = torch.diag(torch.tensor([1.0, -1.0]))
    with pytest.raises(NotOnManifoldError):
        GLPlus(2).coords(flip, validate="raise")
    assert GLPlus(2).coords(flip).isnan().all()
    elements = torch.stack([torch.eye(2), flip])
    with pytest.raises(ValueError, match=r"proposal: .* found others at \[1\]"):
        SampledGroup(GLPlus(2), 2, elements)


def test_8_gradients_are_finite_at_conformal_and_at_stretched_matrices():
    for dtype, stretch in ((torch.float64, 1e8), (torch.float32, 1e5)):
        g = torch.stack(
            [
                torch.eye(2, dtype=dtype),
                torch.tensor([[1.0, -2.0], [2.0, 1.0]], dtype=dtype),
                torch.diag(torch.tensor([stretch, 1.0], dtype=dtype)),
            ]
        ).requires_grad_()
        log_p, r = polar_log(g)
        assert log_p.isfinite().all()
        (log_p.square().sum() + r.sum()).backward()
        assert g.grad.isfinite().all()


@pytest.mark.parametrize("group", [GLPlus(2), SL(2)], ids=repr)
def test_9_windows_look_at_space_alone_whatever_the_group(group):
    samples = SampledGroup(group, 6).double().eval()()
    conv = GroupConv2d(
        1, 1, 7, coords_dim=group.coords_dim, window="hard", **SMALL
    ).double()
    conv.network = torch.nn.Linear(2 + group.coords_dim, 1).double()
    torch.nn.init.zeros_(conv.network.weight)
    torch.nn.init.ones_(conv.network.bias)
    inside = samples.local(kernel_grid(7, **DOUBLE)).norm(dim=-1) <= 1
    with torch.no_grad():
        kernel = conv.kernel_at(samples, samples).view(6, 6, 49)
    for j in range(6):
        assert torch.equal(kernel[:, j] != 0, inside)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_10_batches_keep_their_shape_in_every_dimension(n):
    torch.manual_seed(0)
    for group in (SO(n), SPDSpace(n), SL(n), GLPlus(n)):
        v = 0.3 * torch.randn(2, 3, group.dim, **DOUBLE)
        x = group.hat(v)
        assert group.exp(x).shape == x.shape == (2, 3, n, n)
        torch.testing.assert_close(group.vee(x), v)
        torch.testing.assert_close(group.exp(x)[1, 2], group.exp(x[1, 2]))


def test_11_everything_runs_on_the_cpu_unless_told_otherwise():
    from manifoldkit.experiments.lie.affine_images import run

    assert inspect.signature(run).parameters["device"].default == "cpu"
    net = AffineResNet(channels=4, n_samples=2, hidden=8, head=0, kernel_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.zeros(1, 1, 16, 16)).device.type == "cpu"
