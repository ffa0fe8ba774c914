"""Frame averaging: averages are those of the definition, and equivariant."""

import math
import warnings

import pytest
import torch
from frame_cases import CUBE, LINE, PLANE, SPINDLE, SQUARE, TETRAHEDRON, Backbone, cloud
from torch import nn

from manifoldkit.equivariant import FrameAveraging, pair_frame, pca_frame
from manifoldkit.testing import assert_equivariant, check_equivariance
from manifoldkit.testing.groups import random_orthogonal, random_rotation

GROUPS = ["O", "SO", "E", "SE"]


@pytest.mark.parametrize("group", [f"{g}({d})" for g in GROUPS for d in (2, 3)])
@pytest.mark.parametrize("frame", ["pca", "pair", "pca-det", "learned"])
def test_averages_are_equivariant(frame, group):
    d = int(group[-2])
    net = FrameAveraging(Backbone(d, d), group, out_types="position", frame=frame)
    kind = "position" if group.startswith(("E", "SE")) else "vector"
    net.in_types = (kind,)
    net.out_types = kind
    assert_equivariant(
        net, cloud(3, 6, d), kind, kind, f"S(n) x {group}", n=2,
        allow=["ILL-CONDITIONED"],
    )  # fmt: skip


def test_scale_and_translation_groups():
    net = FrameAveraging(Backbone(), "scale x E(3)", out_types="position")
    assert_equivariant(net, cloud(3, 6, 3), "position", "position", "scale x E(3)", n=2)
    only = FrameAveraging(Backbone(), "T(3)", out_types="position")
    assert_equivariant(only, cloud(3, 6, 3), "position", "position", "T(3)", n=2)
    report = check_equivariance(only, cloud(3, 6, 3), "position", "position", "SE(3)")
    assert report.verdict == "FAIL"


@pytest.mark.parametrize("frame", ["pca", "pair"])
def test_average_is_that_of_the_definition(frame):
    x, net = cloud(2, 5, 3), Backbone().double()
    wrapped = FrameAveraging(net, "SE(3)", out_types="position", frame=frame)
    f = (pca_frame if frame == "pca" else pair_frame)(x, "SE(3)")
    expected = torch.zeros_like(x)
    for b in range(2):
        for r, w in zip(f.R[b], f.log_weights[b].exp(), strict=True):
            expected[b] += w * (net((x[b] - f.t[b]) @ r) @ r.T + f.t[b])
    assert torch.allclose(wrapped(x), expected, atol=1e-13)


def test_averaged_vectors_keep_their_length_as_confidence():
    class Unit(nn.Module):
        def forward(self, x):
            return nn.functional.normalize(x + 0.3, dim=-1)

    y = FrameAveraging(Unit(), "E(3)", out_types="vector")(cloud(4, 6, 3))
    assert (y.norm(dim=-1) <= 1 + 1e-12).all()
    assert y.norm(dim=-1).std() > 1e-3


def test_batch_normalization_sees_all_frames_at_once():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x.flatten(0, 1)).reshape(x.shape)

    net = FrameAveraging(Normed(), "SE(3)", out_types="vector").double().train()
    assert_equivariant(
        net, cloud(3, 6, 3), "position", "vector", "SE(3)", n=2, mode="train"
    )


def test_chunks_and_loop_agree_with_folding():
    x = cloud(3, 6, 3)
    net = Backbone().double()
    options = {"group": "E(3)", "out_types": "position"}
    expected = FrameAveraging(net, **options)(x)
    for more in ({"chunk": 3}, {"fold": "loop"}, {"chunk": 100}):
        assert torch.allclose(FrameAveraging(net, **options, **more)(x), expected)


def test_unbatched_and_empty_batches():
    net = FrameAveraging(Backbone().double(), "E(3)", out_types="position")
    x = cloud(4, 6, 3)
    assert torch.allclose(net(x[0]), net(x)[0])
    assert net(x[:0]).shape == (0, 6, 3)
    pooled = FrameAveraging(Backbone(3, 2, pool=True).double(), "SE(3)")
    assert pooled(x[0]).shape == (2,)
    assert pooled(x[:0]).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(dtype):
    x = cloud(3, 6, 3)
    net = FrameAveraging(Backbone().double(), "SE(3)", out_types="position")
    expected = net(x)
    y = net.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert (y.double() - expected).abs().max() < 60 * torch.finfo(dtype).eps


def test_far_from_the_origin():
    x = cloud(3, 6, 3)
    net = FrameAveraging(Backbone(), "SE(3)", out_types="vector").double()
    far = (x + 1e6).float()
    expected = net(far.double())
    assert (net.float()(far) - expected).abs().max() < 1e-3


def test_masks_and_invariant_arguments():
    x = cloud(3, 6, 3)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1:, 4:] = False
    net = FrameAveraging(
        Backbone(3, 2, pool=True), "SE(3)", invariant_args=("mask",)
    ).double()

    def call(x, mask):
        x = torch.where(mask[..., None], x, torch.nan)
        return net(torch.nan_to_num(x, nan=7.0), mask=mask)

    with torch.no_grad():
        y = call(x, mask)
        other = x.clone()
        other[~mask] = 3.0
        assert torch.allclose(call(other, mask), y)

    class Weighted(nn.Module):
        def forward(self, x, charge=None):
            return (x.square() * charge[..., None]).sum((-1, -2))

    charged = FrameAveraging(Weighted(), "SE(3)", invariant_args=("charge",))
    q = cloud(3, 6, seed=4)
    centered = x - x.mean(1, keepdim=True)
    assert torch.allclose(charged(x, charge=q), Weighted()(centered, q))


@pytest.mark.parametrize(
    ("group", "kind", "shape"),
    [("C4", "image", (2, 6, 6)), ("D4", "image", (2, 6, 6)),
     ("octahedral", "volume", (2, 4, 4, 4))],
)  # fmt: skip
def test_finite_groups_on_grids(group, kind, shape):
    weight = cloud(*shape[1:], seed=7)
    net = FrameAveraging(
        lambda x: torch.tanh(weight.to(x) * x).roll(1, -1), group, (kind,), kind,
        frame="group",
    )  # fmt: skip
    assert_equivariant(net, cloud(*shape), kind, kind, group, n=2)


def test_finite_groups_and_haar_draws_on_points():
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turns = torch.stack([torch.matrix_power(quarter, k) for k in range(4)])
    net = FrameAveraging(Backbone(2, 2), turns, ("vector",), "vector", frame="group")
    assert_equivariant(net, cloud(2, 5, 2), "vector", "vector", "SO(2)",
                       elements="rotation", n=1)  # fmt: skip
    torch.manual_seed(0)
    many = FrameAveraging(
        Backbone(3, 1, pool=True).double(), "SO(3)", frame="group", mode=4000
    )
    x = cloud(2, 5, 3)
    q = random_rotation(3, torch.Generator().manual_seed(2))
    assert torch.allclose(many(x), many(x @ q.T), atol=0.03)


def test_stochastic_frames_are_right_in_expectation():
    torch.manual_seed(0)
    net = FrameAveraging(
        Backbone().double(), "SE(3)", out_types="vector", frame="pca-stochastic"
    )
    x = cloud(2, 6, 3)
    net.eval()
    exact = net(x)
    assert torch.equal(net(x), exact)
    net.train()
    draws = net(x.repeat(400, 1, 1)).unflatten(0, (400, 2))  # each its own axes
    assert draws.std(0).max() > 0
    error = draws.std(0) / 20 + 1e-9
    assert ((draws.mean(0) - exact).abs() / error).max() < 5
    some = FrameAveraging(net.backbone, "E(3)", out_types="vector", mode=3)
    report = check_equivariance(
        some,
        x,
        "position",
        "vector",
        "E(3)",
        n=1,
        expectation=32,
        dtypes=["float64"],
        elements=["generic", "reflection"],
    )
    assert report.passed, report.summary()


def test_shared_noise_keeps_exactness():
    torch.manual_seed(0)
    noisy = nn.Sequential(nn.Linear(3, 32), nn.Dropout(0.5), nn.Linear(32, 3)).double()
    net = FrameAveraging(noisy, "SE(3)", out_types="vector", share_noise=True).train()
    x = cloud(2, 6, 3)
    assert_equivariant(
        net, x, "position", "vector", "SE(3)", n=2, mode="train", fixed_noise=True
    )


def test_inputs_are_not_modified():
    x = cloud(3, 6, 3)
    before = x.clone()
    for frame in ("pca", "pair", "learned"):
        FrameAveraging(Backbone().double(), out_types="vector", frame=frame).double()(x)
    pca_frame(x)
    assert torch.equal(x, before)


CLOUDS = {
    "generic": (cloud(7, 3), True), "planar": (PLANE, True), "collinear": (LINE, True),
    "one point": (cloud(1, 3), True), "two points": (cloud(2, 3), True),
    "duplicates": (cloud(1, 3).expand(4, 3), True),
    "cube": (CUBE, False), "tetrahedron": (TETRAHEDRON, False),
    "square": (SQUARE, False), "spindle": (SPINDLE, False),
}  # fmt: skip


def error_of(net, x):
    g = torch.Generator().manual_seed(3)
    worst = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            q, t = random_orthogonal(3, g), torch.randn(3, generator=g).double()
            worst = max(worst, float((net(x @ q.T + t) - net(x) @ q.T).abs().max()))
    return worst


@pytest.mark.parametrize("name", CLOUDS)
def test_table_of_degenerate_clouds(name):
    x, fine = CLOUDS[name]
    net = FrameAveraging(Backbone().double(), "E(3)", out_types="vector")
    assert bool(pca_frame(x, "E(3)").degenerate) is not fine
    error = error_of(net, x)
    assert (error < 1e-12) if fine else (error > 1e-3)
    paired = FrameAveraging(
        Backbone().double(), "E(3)", out_types="vector", on_degenerate="pair"
    )
    assert error_of(paired, x) < 1e-12
    whole = FrameAveraging(
        Backbone().double(), "E(3)", out_types="vector", frame="pair"
    )
    assert error_of(whole, x) < 1e-12


def test_line_with_velocities_is_flagged():
    v = cloud(7, 3, seed=8)
    net = FrameAveraging(
        Backbone(6, 3).double(), "E(3)", ("position", "vector"), "vector",
        on_degenerate="raise",
    )  # fmt: skip
    with pytest.raises(ValueError, match="relative gap"):
        net(LINE, v)
    joint = FrameAveraging(
        Backbone(6, 3).double(), "E(3)", ("position", "vector"), "vector",
        frame_from=(0, 1), on_degenerate="raise",
    )  # fmt: skip
    joint(LINE, v)


def test_policies_for_degenerate_clouds():
    batch = torch.stack([CUBE, cloud(8, 3)])
    options = {"group": "SE(3)", "out_types": "vector"}
    net = Backbone().double()
    with pytest.warns(UserWarning, match="1 of 2 inputs"):
        FrameAveraging(net, **options)(batch)
    with pytest.raises(ValueError, match=r"inputs\[0\]"):
        FrameAveraging(net, **options, on_degenerate="raise")(batch)
    FrameAveraging(net, **options, on_degenerate="ignore")(batch)
    mixed = FrameAveraging(net, **options, on_degenerate="pair")(batch)
    assert torch.allclose(mixed[1], FrameAveraging(net, **options)(batch[1]))
    pair = FrameAveraging(net, **options, frame="pair")(batch[0])
    assert torch.allclose(mixed[0], pair)


def test_signs_of_sums_of_components_are_not_equivariant():
    """The rule that looks alike, as a control of third moments."""

    def uneven(x):
        return torch.tanh(x + 0.3)

    def by_sums(x):
        z = x - x.mean(1, keepdim=True)
        axes = torch.linalg.eigh(z.mT @ z).eigenvectors
        axes = axes * axes.sum(1, keepdim=True).sign()
        return uneven(z @ axes) @ axes.mT

    def by_moments(x):
        net = FrameAveraging(uneven, "O(3)", ("vector",), "vector", "pca-det")
        return net(x - x.mean(1, keepdim=True))

    x = cloud(4, 7, 3)
    kinds = "position", "vector", "O(3)"
    assert check_equivariance(by_sums, x, *kinds, n=4).verdict == "FAIL"
    assert_equivariant(by_moments, x, *kinds, n=4)


def test_fixed_signs_use_one_frame():
    seen = []

    def spy(x):
        seen.append(len(x))
        return x

    FrameAveraging(spy, "SE(3)", out_types="vector", frame="pca-det")(cloud(3, 6, 3))
    assert seen == [3]
    seen.clear()
    symmetric = torch.cat([cloud(3, 6, 3), -cloud(3, 6, 3)], 1)  # no third moments
    FrameAveraging(spy, "E(3)", out_types="vector", frame="pca-det")(symmetric)
    assert seen == [24]


def test_gradients_with_and_without_the_frame():
    x = cloud(2, 6, 3)
    net = Backbone(3, 1, pool=True)
    full = FrameAveraging(net, "E(3)", detach_frame=False)
    report = assert_equivariant(
        full, x, "position", "scalar", "E(3)", n=2, gradient=True,
        dtypes=["float64"], rtol=1e-9,
    )  # fmt: skip
    assert any(c.name.startswith("gradient") for c in report.checks)
    cut = FrameAveraging(net, "E(3)")
    report = check_equivariance(
        cut, x, "position", "scalar", "E(3)", n=1, gradient=True, dtypes=["float64"]
    )
    wrong = {c.name for c in report.checks if c.verdict != "PASS"}
    assert wrong == {"gradient against differences"}


@pytest.mark.parametrize("frame", ["pca", "pair", "learned"])
def test_gradcheck_through_frames(frame):
    x = cloud(1, 5, 3).requires_grad_()
    net = FrameAveraging(
        Backbone().double(), "SE(3)", out_types="position", frame=frame,
        detach_frame=False,
    ).double()  # fmt: skip
    assert torch.autograd.gradcheck(net, (x,))


def test_gradients_are_finite_at_the_cube():
    for frame in ("pca", "pair"):
        x = CUBE.clone()[None].requires_grad_()
        net = FrameAveraging(
            Backbone(3, 1, pool=True).double(), "E(3)", frame=frame,
            detach_frame=False, on_degenerate="ignore",
        )  # fmt: skip
        (grad,) = torch.autograd.grad(net(x).sum(), x)
        assert grad.isfinite().all()


def test_second_derivatives_through_axes():
    x = cloud(1, 5, 3).requires_grad_()
    net = FrameAveraging(
        Backbone(3, 1, pool=True).double(), "SE(3)", detach_frame=False
    )
    assert torch.autograd.gradgradcheck(net, (x,), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "SU(3)"}, "unknown group"),
        ({"group": "SO(1)"}, "2 dimensions"),
        ({"group": "E(9)"}, "stochastic"),
        ({"frame": "qr"}, "frame"),
        ({"mode": "half"}, "mode"),
        ({"mode": 0}, "mode"),
        ({"chunk": -1}, "chunk"),
        ({"fold": "no"}, "fold"),
        ({"order": "random"}, "order"),
        ({"on_degenerate": "hope"}, "on_degenerate"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FrameAveraging(nn.Identity(), **options)


def test_bad_inputs():
    net = FrameAveraging(nn.Identity(), "SE(3)", out_types="vector")
    with pytest.raises(ValueError, match="3 coordinates"):
        net(cloud(2, 5, 2))
    with pytest.raises(TypeError, match="floating"):
        net(torch.ones(2, 5, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="points"):
        net(torch.ones(3))
    with pytest.raises(ValueError, match="in_types"):
        net(cloud(2, 5, 3), cloud(2, 5, 3))
    with pytest.raises(ValueError, match="mask"):
        net(cloud(2, 5, 3), mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="frame_from"):
        FrameAveraging(nn.Identity(), frame_from=3)(cloud(2, 5, 3))
    with pytest.raises(ValueError, match="pair"):
        pair_frame(cloud(2, 5, 4), "SE(4)")
    with pytest.raises(TypeError, match="tensor"):
        net([1.0])
    assert net(cloud(2, 5, 3).mT.contiguous().mT).shape == (2, 5, 3)  # not contiguous


@pytest.mark.parametrize("frame", ["pca", "pair", "pca-det", "learned"])
def test_no_points_no_clouds_and_single_steps(frame):
    net = FrameAveraging(nn.Identity(), "E(3)", out_types="vector", frame=frame)
    net.double()
    assert net(torch.zeros(0, 4, 3).double()).shape == (0, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no points: no axes
        assert net(torch.zeros(2, 0, 3).double()).shape == (2, 0, 3)
    tracks = FrameAveraging(
        nn.Identity(), "E(3)", out_types="position", frame=frame, point_dim=-3
    ).double()
    one = cloud(2, 5, 1, 3)
    assert torch.allclose(tracks(one), one)


@pytest.mark.parametrize("content", [7.0, math.nan, math.inf])
def test_content_of_masked_points_is_irrelevant(content):
    x, v = cloud(3, 6, 3), cloud(3, 6, 3, seed=1)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1:, 4:] = False

    def total(x, v):  # looks at every point, masked or not
        return torch.tanh(x + 0.1).sum(1) + torch.sin(v).sum(1)

    for frame in ("pca", "pair", "learned"):
        net = FrameAveraging(
            total, "SE(3)", ("position", "vector"), "vector", frame, (0, 1)
        ).double()
        clean = net(x, v, mask=mask)
        dirty = [torch.where(mask[..., None], u, content) for u in (x, v)]
        assert torch.equal(net(*dirty, mask=mask), clean)


@pytest.mark.parametrize("frame", ["pca", "pair", "pca-det", "learned"])
def test_coincident_points_have_finite_gradients(frame):
    x = cloud(2, 1, 3).expand(2, 4, 3).clone()
    x[1, 0] += 1.0  # a line
    x.requires_grad_()
    net = FrameAveraging(
        Backbone(), "SE(3)", out_types="vector", frame=frame, detach_frame=False,
        on_degenerate="ignore",
    ).double()  # fmt: skip
    y = net(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert grad.isfinite().all()


def test_values_that_are_not_finite():
    x = cloud(3, 5, 3)
    x[1, 2, 0] = torch.nan
    net = FrameAveraging(Backbone().double(), out_types="vector").eval()
    with pytest.raises(ValueError, match="not finite"):
        net(x)
    free = FrameAveraging(
        net.backbone, out_types="vector", validate=False, on_degenerate="ignore"
    )
    y = free(x)
    assert y[1].isnan().all()
    assert torch.allclose(y[[0, 2]], net(x[[0, 2]]))
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2] = False
    assert net(x, mask=mask)[[0, 2]].isfinite().all()


def test_high_dimensions_by_drawn_signs():
    net = FrameAveraging(Backbone(10, 10).double(), "E(10)", out_types="vector", mode=4)
    assert net(cloud(2, 30, 10)).shape == (2, 30, 10)


def test_all_points_masked_stays_finite():
    x = cloud(2, 5, 3).requires_grad_()
    mask = torch.zeros(2, 5, dtype=torch.bool)
    net = FrameAveraging(
        Backbone().double(), "SE(3)", out_types="vector", detach_frame=False
    )
    y = net(torch.where(mask[..., None], x, 0.0), mask=mask)
    assert y.isfinite().all()
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.isfinite().all()


@pytest.mark.compile
@pytest.mark.parametrize("frame", ["pca", "pair", "learned"])
def test_wrapper_is_one_graph_for_the_compiler(frame):
    net = FrameAveraging(Backbone(), "E(3)", out_types="position", frame=frame)
    x = cloud(2, 5, 3).float()
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), net(x), atol=1e-6)


@pytest.mark.parametrize(("group", "size", "d"), [("C4", 4, 2), ("octahedral", 24, 3)])
def test_random_elements_of_a_finite_group(group, size, d):
    seen = []

    def backbone(x):
        seen.append(len(x) // 2)
        return x

    def net(**options):
        return FrameAveraging(
            backbone, group, out_types="vector", frame="group", **options
        )

    x = cloud(2, 5, d)
    one, some = net(mode="stochastic"), net(mode=3)
    for module in (one, some, net(mode=99)):
        for training in (True, False):
            module.train(training)(x)
    assert seen == [1, size, 3, 3, size, size]
    draws = torch.stack([one.train()(x) for _ in range(20)])
    assert torch.allclose(draws, x.expand_as(draws), atol=1e-12)  # each is exact here
