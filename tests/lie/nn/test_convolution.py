"""Group convolutions: the formulas, equivariance, kept kernels, errors."""

import copy
import pickle

import pytest
import torch

from manifoldkit.lie import SL, SO, GLPlus
from manifoldkit.lie.nn import (
    GroupConv2d,
    GroupProject2d,
    GroupSamples,
    LiftConv2d,
    LocalBox,
    SampledGroup,
)
from manifoldkit.lie.nn.kernels import kernel_grid, window_values

DOUBLE = {"dtype": torch.float64}
SMALL = {"hidden": 8, "n_hidden": 1, "w0": 3.0}
FORMS = [False, True, "depthwise"]


def draw(n, seed=0, group=None):
    group = GLPlus(2) if group is None else group
    generator = torch.Generator().manual_seed(seed)
    g, g_inv, log_weight = LocalBox(1.0, 0.5)(group, n, generator, torch.float64)
    return GroupSamples(group, g, g_inv, log_weight.softmax(0))


def window_of(layer, x):
    """Pixels at which a layer's kernel counts, for one sample's view of the grid."""
    return window_values(x, layer.window)


def test_lift_is_the_stated_sum():
    torch.manual_seed(0)
    samples, x = draw(3), torch.randn(2, 2, 6, 7, **DOUBLE)
    lift = LiftConv2d(2, 3, 3, window="smooth", **SMALL).double()
    out = lift(x, samples)
    assert out.shape == (2, 3, 3, 4, 5)
    expected = torch.zeros_like(out)
    grid = kernel_grid(3, **DOUBLE)
    for i, g in enumerate(samples.g):
        seen = (torch.linalg.inv(g) @ grid.T).T
        k = (
            lift.network(seen).unflatten(-1, (3, 2))
            * window_of(lift, seen)[:, None, None]
        )
        for p in range(9):
            row, column = divmod(p, 3)
            patch = x[:, :, row : row + 4, column : column + 5]
            expected[:, :, i] += torch.einsum("oc,bchw->bohw", k[p], patch) / g.det()
    torch.testing.assert_close(out, expected + lift.bias.view(-1, 1, 1, 1))


def kernel_at(conv, seen, relative):
    """Kernel values ``(P, out, in)`` of any form at one pair of samples."""
    shape = (conv.out_channels, conv.in_channels)
    if conv.separable is True:
        space = conv.spatial_network(seen).unflatten(-1, shape)
        return space * (1 + conv.network(relative))
    if conv.separable:
        mix = conv.network(relative).unflatten(-1, shape)
        return conv.spatial_network(seen)[..., None] * mix
    z = torch.cat([seen, relative.expand(len(seen), -1)], -1)
    return conv.network(z).unflatten(-1, shape)


@pytest.mark.parametrize("separable", FORMS)
@pytest.mark.parametrize("locality", [None, 0.7])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_group_correlation_is_the_stated_sum(separable, locality, reduction):
    """The determinant belongs to the input sample; the numbers of samples differ."""
    torch.manual_seed(0)
    fine, coarse = draw(3, 1), draw(2, 2)
    f = torch.randn(2, 4, 3, 5, 6, **DOUBLE)
    conv = GroupConv2d(
        4, 3, 3, separable=separable, locality=locality, reduction=reduction, **SMALL
    ).double()
    out = conv(f, fine, coarse)
    assert out.shape == (2, 3, 2, 3, 4)
    expected = torch.zeros_like(out)
    grid = kernel_grid(3, **DOUBLE)
    for i, g in enumerate(coarse.g):
        inverse = torch.linalg.inv(g)
        seen = (inverse @ grid.T).T
        relative = fine.group.coords(inverse @ fine.g)
        w = fine.weight
        if locality is not None:
            w = w * torch.exp(-relative.square().sum(-1) / (2 * locality**2))
            w = w / w.sum()
        w = w * (3 if reduction == "sum" else 1)
        for j, h in enumerate(fine.g):
            k = kernel_at(conv, seen, relative[j])
            k = k * (window_of(conv, seen)[:, None, None] * w[j] / h.det())
            for p in range(9):
                row, column = divmod(p, 3)
                patch = f[:, :, j, row : row + 3, column : column + 4]
                expected[:, :, i] += torch.einsum("oc,bchw->bohw", k[p], patch)
    torch.testing.assert_close(out, expected + conv.bias.view(-1, 1, 1, 1))


def c4(angle):
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], **DOUBLE)
    g = torch.stack([torch.linalg.matrix_power(quarter, k) for k in range(4)])
    return SampledGroup(SO(2), 4, g, angle=angle)


@pytest.mark.parametrize("separable", FORMS)
@pytest.mark.parametrize("window", ["hard", "smooth", "none"])
def test_quarter_turns_are_exact(separable, window):
    """rot90 of the input is rot90 of the output, rolled by -1 along the samples."""
    torch.manual_seed(0)
    sampled = c4("periodic")
    samples = sampled()
    form = {**SMALL, "window": window}
    lift = LiftConv2d(1, 3, 5, padding=1, **form).double()
    conv = GroupConv2d(
        3, 2, 5, separable=separable, coords_dim=sampled.coords_dim, **form
    ).double()
    project = GroupProject2d(2, 2, 3, **form).double()

    def through(x):
        f = lift(x, samples)
        h = conv(f.tanh(), samples)
        return f, h, project(h.tanh(), samples)

    x = torch.randn(2, 1, 11, 11, **DOUBLE)
    f, h, image = through(x)
    f_turned, h_turned, image_turned = through(x.rot90(1, (-2, -1)))
    for turned, plain in ((f_turned, f), (h_turned, h)):
        expected = plain.rot90(1, (-2, -1)).roll(-1, 2)
        torch.testing.assert_close(turned, expected, atol=1e-12, rtol=0)
    expected = image.rot90(1, (-2, -1))
    torch.testing.assert_close(image_turned, expected, atol=1e-12, rtol=0)
    assert (h - h.roll(-1, 2)).abs().max() > 1e-3  # the samples do differ


def test_translations_are_exact():
    torch.manual_seed(0)
    fine, coarse = draw(3, 1), draw(2, 2)
    lift = LiftConv2d(1, 4, 3, **SMALL).double()
    conv = GroupConv2d(4, 2, 3, separable=True, **SMALL).double()
    x = torch.zeros(1, 1, 14, 14, **DOUBLE)
    x[..., 5:8, 5:8] = torch.randn(3, 3, **DOUBLE)
    plain = conv(lift(x, fine), fine, coarse)
    moved = conv(lift(x.roll((2, -1), (-2, -1)), fine), fine, coarse)
    expected = plain.roll((2, -1), (-2, -1))
    torch.testing.assert_close(moved[..., 3:7, 3:7], expected[..., 3:7, 3:7])


def group_function(group, g):
    """A smooth function on the group that fades away from the identity."""
    v = group.coords(g)
    stretch = v[..., :-1].square().sum(-1)
    bend = torch.stack([1 + g[..., 0, 1], g[..., 0, 0] - g[..., 1, 0]], -1)
    return bend * torch.exp(-4 * stretch)[..., None]


def stochastic_error(group, n, scale, draws=24):
    """RMS difference between (k * L_h f)(h g) and scale (k * f)(g), relative."""
    torch.manual_seed(0)
    conv = GroupConv2d(
        2, 3, 1, coords_dim=group.coords(group.identity()).shape[-1], bias=False,
        kernel=fading_kernel, **SMALL,
    ).double()  # fmt: skip
    out = draw(4, 5, group)
    h = draw(1, 9, group).g[0]
    moved = GroupSamples(group, h @ out.g, out.g_inv @ h.inverse(), out.weight)
    error, size = [], []
    with torch.no_grad():
        for seed in range(draws):
            generator = torch.Generator().manual_seed(seed)
            wide = LocalBox(torch.pi, 1.2, points="random")
            g, g_inv, log_weight = wide(group, n, generator, torch.float64)
            inputs = GroupSamples(group, g, g_inv, log_weight.softmax(0))
            f = group_function(group, g).T[None, :, :, None, None]
            f_moved = group_function(group, h.inverse() @ g).T[None, :, :, None, None]
            plain = conv(f, inputs, out) * (1 if scale is None else scale(h))
            turned = conv(f_moved, inputs, moved)
            error.append((turned - plain).square().mean())
            size.append(plain.square().mean())
    return (torch.stack(error).mean() / torch.stack(size).mean()).sqrt().item()


def fading_kernel(n_in, n_out, scale):
    """A random smooth kernel with compact support, for practical purposes."""

    class Fading(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Linear(n_in, n_out)

        def forward(self, z):
            stretch = z[..., 2:-1].square().sum(-1, keepdim=True)
            return torch.sin(self.mix(z)) * torch.exp(-4 * stretch) * z[..., -1:].cos()

    return Fading()


def test_stochastic_equivariance_error_of_sl2_falls_as_one_over_root_n():
    sizes = (256, 1024, 4096)
    errors = [stochastic_error(SL(2), n, None) for n in sizes]
    slope = (
        torch.tensor([e for e in errors]).log().diff().mean() / torch.tensor(4.0).log()
    )
    assert -0.65 < slope.item() < -0.35, errors
    assert errors[-1] < 0.2, errors


def test_determinant_of_the_input_sample_makes_gl2_equivariant():
    """With one pixel, moving the function by h divides the sum by |det h|."""
    error = stochastic_error(GLPlus(2), 2048, lambda h: 1 / h.det(), draws=8)
    wrong = stochastic_error(GLPlus(2), 2048, lambda h: h.det(), draws=8)
    assert error < 0.3 < wrong


def calls_of(network):
    count = []
    network.register_forward_hook(lambda *_: count.append(1))
    return count


def test_kernels_are_kept_in_evaluation_and_renewed_when_anything_changes():
    torch.manual_seed(0)
    sampled = SampledGroup(GLPlus(2), 3)
    conv = GroupConv2d(2, 2, 3, separable=True, **SMALL)
    count = calls_of(conv.network)
    f = torch.randn(2, 2, 3, 5, 5)
    conv.eval()
    sampled.eval()

    def run():
        with torch.no_grad():
            return conv(f, sampled())

    first = run()
    assert torch.equal(run(), first)
    assert len(count) == 1
    optimizer = torch.optim.SGD(conv.parameters(), lr=1e-3)
    conv(f, sampled()).square().sum().backward()  # gradients: not kept
    assert len(count) == 2
    optimizer.step()
    assert not torch.equal(run(), first)
    assert len(count) == 3
    sampled.redraw(seed=7)
    changed = run()
    assert len(count) == 4
    conv.double()
    with torch.no_grad():
        torch.testing.assert_close(conv(f.double(), sampled()).float(), changed)
    assert len(count) == 5
    conv.float()
    run()
    conv.load_state_dict({k: v * 0.5 for k, v in conv.state_dict().items()})
    assert not torch.allclose(run(), changed)
    with torch.inference_mode():
        inside = conv(f, sampled())
    assert torch.equal(run(), inside)


def test_copies_and_pickles_leave_the_kept_kernels_out():
    sampled = SampledGroup(GLPlus(2), 3).eval()
    lift = LiftConv2d(1, 2, 3, **SMALL).eval()
    x = torch.randn(1, 1, 6, 6)
    with torch.no_grad():
        expected = lift(x, sampled())
        assert lift.kept is not None
        for twin in (copy.deepcopy(lift), pickle.loads(pickle.dumps(lift))):
            assert twin.kept is None
            assert torch.equal(twin(x, sampled()), expected)


@pytest.mark.parametrize("separable", FORMS)
def test_gradients(separable):
    torch.manual_seed(0)
    fine, coarse = draw(2, 1), draw(2, 2)
    lift = LiftConv2d(1, 2, 3, window="smooth", **SMALL).double()
    conv = GroupConv2d(2, 2, 3, separable=separable, **SMALL).double()
    project = GroupProject2d(2, 1, 1, **SMALL).double()
    x = torch.randn(1, 1, 6, 6, **DOUBLE, requires_grad=True)

    def through(x, *_):
        return project(conv(lift(x, fine), fine, coarse), coarse)

    weights = [lift.network.layers[0].weight, conv.network.layers[0].weight]
    assert torch.autograd.gradcheck(through, (x, *weights))


def test_strides_padding_and_empty_batches():
    samples = draw(2)
    lift = LiftConv2d(1, 4, 5, stride=2, padding=2, **SMALL).double()
    f = lift(torch.zeros(0, 1, 13, 9, **DOUBLE), samples)
    assert f.shape == (0, 4, 2, 7, 5)
    for separable in FORMS:
        conv = GroupConv2d(4, 2, 3, separable=separable, stride=2, padding=1, **SMALL)
        assert conv.double()(f, samples).shape == (0, 2, 2, 4, 3)
    assert GroupProject2d(4, 2, 3, **SMALL).double()(f, samples).shape == (0, 2, 5, 3)


def test_sums_start_with_the_size_of_means():
    """With ``n_samples`` the output of a sum does not grow with their number."""
    torch.manual_seed(0)
    sizes = []
    for n in (4, 64):
        conv = GroupConv2d(8, 8, 3, reduction="sum", n_samples=n, hidden=32, bias=False)
        f = torch.randn(4, 8, n, 3, 3)
        sizes.append(conv(f, draw(n)).std().item())
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_autocast_keeps_kernels_in_full_precision():
    samples = SampledGroup(GLPlus(2), 3).eval()()
    conv = GroupConv2d(2, 2, 3, **SMALL)
    f = torch.randn(1, 2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(f, samples)
        assert conv.evaluate(samples, samples).dtype == torch.float32
    assert out.dtype in (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.float(), conv(f, samples), atol=0.03, rtol=0.03)


@pytest.mark.compile
@pytest.mark.slow
def test_compiles_without_graph_breaks():
    samples = SampledGroup(GLPlus(2), 3).eval()()
    conv = GroupConv2d(2, 2, 3, separable=True, **SMALL)
    f = torch.randn(1, 2, 3, 5, 5)
    compiled = torch.compile(
        lambda f: conv(f, samples), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(f), conv(f, samples))


def test_errors_say_what_was_expected():
    samples = SampledGroup(GLPlus(2), 3)()
    lift, conv = LiftConv2d(1, 4, 3, **SMALL), GroupConv2d(4, 2, 3, **SMALL)
    with pytest.raises(
        ValueError, match=r"x: .*\(B, 1, H, W\), found .*\(2, 3, 8, 8\)"
    ):
        lift(torch.zeros(2, 3, 8, 8), samples)
    with pytest.raises(ValueError, match="found uint8"):
        lift(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), samples)
    with pytest.raises(ValueError, match=r"f: .*\(B, 4, 3, H, W\), found .*\(2, 4, 5,"):
        conv(torch.zeros(2, 4, 5, 8, 8), samples)
    flat = SampledGroup(SO(2), 3)()
    with pytest.raises(ValueError, match=r"expected 4 coordinates .* found 1"):
        conv(torch.zeros(2, 4, 3, 8, 8), flat)
    for kwargs, message in (
        ({"window": "round"}, "window"),
        ({"separable": "spatial"}, "separable"),
        ({"reduction": "max"}, "reduction"),
        ({"locality": 0.0}, "locality"),
        ({"stride": 0}, "stride"),
        ({"kernel": "box"}, "kernel"),
    ):
        with pytest.raises(ValueError, match=message):
            GroupConv2d(4, 2, 3, **kwargs)
