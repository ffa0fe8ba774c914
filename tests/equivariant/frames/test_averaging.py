"""Frame averaging: frames move with the input, averages are those of the definition."""

import itertools
import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from manifoldkit.equivariant import FrameAveraging, pair_frame, pca_frame
from manifoldkit.testing import assert_equivariant, check_equivariance
from manifoldkit.testing.groups import random_orthogonal, random_rotation

GROUPS = ["O", "SO", "E", "SE"]


def cloud(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


class Backbone(nn.Module):
    """Not equivariant to anything but the order of the points."""

    def __init__(self, n_in=3, n_out=3, pool=False, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(n_in, 16), nn.Linear(16, n_out)
        self.pool = pool

    def forward(self, x, *more, mask=None):
        h = torch.tanh(self.first(torch.cat([x, *more], -1)))
        if mask is not None:
            h = h * mask[..., None]
        if self.pool:
            return self.last(h.mean(-2))
        return self.last(h + h.mean(-2, keepdim=True))


CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).double()
TETRAHEDRON = torch.tensor(
    [[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [0, 0, 0]]
).double()
SQUARE = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]).double()
TURN = 2 * math.pi / 3
SPINDLE = torch.tensor(
    [[math.cos(k * TURN), math.sin(k * TURN), 0] for k in range(3)]
    + [[0, 0, 2.0], [0, 0, -2.0]],
    dtype=torch.float64,
)
PLANE = cloud(7, 3, seed=5) * torch.tensor([1.0, 1.0, 0.0])
LINE = cloud(7, 1, seed=6) * torch.tensor([1.0, 2.0, 0.5]).double()


# --- frames ---------------------------------------------------------------------


def as_set(r):
    """Return frames in a canonical order."""
    rows = sorted(tuple(round(v, 6) + 0.0 for v in m.flatten().tolist()) for m in r)
    return torch.tensor(rows)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("group", GROUPS)
def test_frames_move_with_the_cloud(group, d):
    if d == 1 and group in ("SO", "SE"):
        pytest.skip("no rotations of a line")
    x = cloud(9, d, seed=d)
    g = torch.Generator().manual_seed(d)
    mirrors = group in ("O", "E")
    q = random_orthogonal(d, g) if mirrors else random_rotation(d, g)
    t = cloud(d, seed=9) if group in ("E", "SE") else torch.zeros(d).double()
    name = f"{group}({d})"
    a, b = pca_frame(x, name), pca_frame(x @ q.T + t, name)
    assert a.R.shape == (2 ** (d - (not mirrors)), d, d)
    assert torch.allclose(as_set(q @ a.R), as_set(b.R), atol=1e-5)
    if group in ("E", "SE"):
        assert torch.allclose(a.t @ q.T + t, b.t)
    else:
        assert not a.t.any()
    if not mirrors:
        assert torch.allclose(torch.linalg.det(a.R), torch.ones(len(a.R)).double())
    assert torch.allclose(a.log_weights.exp().sum(), torch.ones(()).double())


def test_frames_ignore_order_of_points_and_masked_points():
    x = cloud(2, 8, 3)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    dirty = torch.where(mask[..., None], x, torch.nan)
    a, b = pca_frame(dirty, mask=mask), pca_frame(x[1, :5])
    assert torch.allclose(as_set(a.R[1]), as_set(b.R), atol=1e-5)
    p = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    c = pca_frame(x[:, p])
    assert torch.allclose(as_set(pca_frame(x).R[0]), as_set(c.R[0]), atol=1e-5)


def test_order_translation_scale_and_leading_dimensions():
    x = cloud(2, 3, 8, 3)
    a, b = pca_frame(x), pca_frame(x, order="descending")
    assert a.R.shape == (2, 3, 4, 3, 3)
    assert a.t.shape == (2, 3, 3)
    assert torch.allclose(a.R[..., 0].abs(), b.R[..., -1].abs())
    assert pca_frame(x, "T(3)").R.shape == (2, 3, 1, 3, 3)
    scaled = pca_frame(5 * x, "scale x E(3)")
    assert torch.allclose(scaled.scale, 5 * pca_frame(x, "scale x E(3)").scale)


@pytest.mark.parametrize("group", ["SE(3)", "E(3)", "SE(2)", "E(2)", "SO(3)", "O(2)"])
def test_pair_frames_are_rotations_with_weights(group):
    d = int(group[-2])
    x = cloud(2, 5, d)
    frame = pair_frame(x, group)
    size = {2: 5, 3: 20}[d] * (2 if group[0] in "EO" else 1)
    assert frame.R.shape == (2, size, d, d)
    eye = torch.eye(d).double().expand(2, size, d, d)
    assert torch.allclose(frame.R @ frame.R.mT, eye)
    assert torch.allclose(frame.log_weights.exp().sum(1), torch.ones(2).double())
    assert not frame.degenerate.any()


# --- the average ----------------------------------------------------------------


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


TYPES = {
    "scalar": (1, "scalar"), "vector": (3, "vector"),
    "pseudovector": (3, "pseudovector"),
    "matrix": (9, "matrix"), "sym_matrix": (9, "sym_matrix"), "spd": (9, "spd"),
    "covariance": (9, "covariance"), "normal": (3, "normal"),
    "2x0e+1x1o+1x1e+1x2e": (13, "2x0e+1x1o+1x1e+1x2e"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_output_types(kind):
    size, name = TYPES[kind]
    net = Backbone(3, size, pool=True)

    def shaped(x):
        o = net(x)
        if size != 9:
            return o
        m = o.unflatten(-1, (3, 3))
        if kind == "matrix":
            return m
        return m @ m.mT + torch.eye(3).to(m)

    wrapped = FrameAveraging(shaped, "E(3)", out_types=name)
    x = cloud(3, 6, 3)
    # only unregistered tensors of a closure are not cast: give the module
    report = check_equivariance(
        wrapped, x, "position", name if kind != "scalar" else "scalar", "E(3)", n=3,
        modules=[net], dtypes=["float64"],
    )  # fmt: skip
    assert report.passed, report.summary()
    if kind == "spd":
        net.double()
        assert (torch.linalg.eigvalsh(wrapped(x)) > 0).all()


def test_vector_types_agree_with_irreps():
    net, x = Backbone().double(), cloud(3, 6, 3)
    a = FrameAveraging(net, "E(3)", out_types="vector")(x)
    b = FrameAveraging(net, "E(3)", out_types="1x1o")(x)
    assert (a - b).abs().max() < 1e-12


SHAPES = {
    "vector": (3,), "pseudovector": (3,), "normal": (3,), "matrix": (3, 3),
    "sym_matrix": (3, 3), "spd": (3, 3), "covariance": (3, 3), "1x0e+1x2e": (6,),
    "node_scalar": (2,),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_input_types(kind):
    """Every type that comes out can also go in, beside the points of the frame."""
    x, v = cloud(2, 6, 3), cloud(2, 6, *SHAPES[kind], seed=1)
    if kind in ("sym_matrix", "spd", "covariance"):
        v = v @ v.mT
    size = math.prod(SHAPES[kind])
    net = Backbone(3 + size, 3)

    def mixed(x, v):
        v = v.flatten(2) if v.ndim == 4 else v
        return net(x, v.abs() if kind == "normal" else v)

    if kind == "normal":  # a sign of its own a normal: an even function of it

        def mixed(x, v):
            return net(x, (v[..., :, None] * v[..., None, :])[..., 0])

    framed = FrameAveraging(mixed, "E(3)", ("position", kind), "vector")
    assert_equivariant(
        framed, (x, v), ("position", kind), "vector", "S(n) x E(3)", n=2,
        modules=[net], dtypes=["float64"],
    )  # fmt: skip


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


def test_several_inputs_share_one_frame():
    x, v, s = cloud(3, 6, 3), cloud(3, 6, 3, seed=1), cloud(3, 6, 2, seed=2)
    kinds = ("position", "vector", "node_scalar")
    net = FrameAveraging(Backbone(8, 3), "E(3)", kinds, "vector", frame_from=(0, 1))
    assert_equivariant(net, (x, v, s), kinds, "vector", "S(n) x E(3)", n=2)
    tracks = cloud(3, 5, 4, 3, seed=3)
    moving = FrameAveraging(Backbone(), "SE(3)", out_types="position", point_dim=-3)
    assert_equivariant(moving, tracks, "position@", "position@", "SE(3)", n=2)


def test_dicts_dataclasses_and_tuples():
    x, v = cloud(3, 6, 3), cloud(3, 6, 3, seed=1)

    @dataclass
    class State:
        place: torch.Tensor
        speed: torch.Tensor

    net = Backbone(6, 3).double()
    types = {"place": "position", "speed": "vector"}
    plain = FrameAveraging(net, "E(3)", ("position", "vector"), "vector")(x, v)
    by_name = FrameAveraging(
        lambda s: net(s["place"], s["speed"]), "E(3)", types, "vector"
    )
    assert torch.allclose(by_name({"place": x, "speed": v}), plain)
    typed = FrameAveraging(
        lambda s: {"u": net(s.place, s.speed)}, "E(3)", types, {"u": "vector"}
    )
    assert torch.allclose(typed(State(x, v))["u"], plain)
    pair = FrameAveraging(
        lambda x, v: (net(x, v), net(x, v)[..., 0]),
        "E(3)", ("position", "vector"), ("vector", "node_scalar"),
    )  # fmt: skip
    assert torch.allclose(pair(x, v)[0], plain)


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


def test_graphs_of_torch_geometric():
    data = pytest.importorskip("torch_geometric.data")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    class Messages(nn.Module):
        def forward(self, g):
            i, j = g.edge_index
            h = net(torch.cat([g.pos, g.x], -1))
            out = torch.zeros_like(h).index_add(0, j, torch.tanh(h[i]))
            return {"force": out, "energy": torch.zeros(
                int(g.batch.max()) + 1, 1, dtype=out.dtype
            ).index_add(0, g.batch, out[:, :1])}  # fmt: skip

    graphs = []
    for n in (4, 6, 5):
        edges = torch.combinations(torch.arange(n)).T
        graphs.append(
            data.Data(
                pos=cloud(n, 3, seed=n), x=cloud(n, 2, seed=n + 9), edge_index=edges
            )
        )
    wrapped = FrameAveraging(
        Messages(), "E(3)", {"pos": "position", "x": "node_scalar"},
        {"force": "vector", "energy": "scalar"}, chunk=3,
    )  # fmt: skip
    together = wrapped(data.Batch.from_data_list(graphs))
    alone = wrapped(graphs[1])
    assert torch.allclose(together["force"][4:10], alone["force"])
    assert torch.allclose(together["energy"][1:2], alone["energy"])
    q = random_orthogonal(3, torch.Generator().manual_seed(1))
    moved = [
        data.Data(pos=g.pos @ q.T + 2, x=g.x, edge_index=g.edge_index) for g in graphs
    ]
    turned = wrapped(data.Batch.from_data_list(moved))
    assert torch.allclose(turned["force"], together["force"] @ q.T)
    assert torch.allclose(turned["energy"], together["energy"])

    joined = data.Data(**data.Batch.from_data_list(graphs).to_dict())  # no num_graphs
    assert torch.allclose(wrapped(joined)["energy"], together["energy"])
    joined.batch = joined.batch.flip(0)
    with pytest.raises(ValueError, match="batch: expected sorted numbers"):
        wrapped(joined)
    three = FrameAveraging(Messages(), "E(3)", ("vector", "scalar", "vector"), "scalar")
    with pytest.raises(ValueError, match="in_types: name the attributes"):
        three(graphs[0])


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


# --- degenerate spectra ---------------------------------------------------------

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


def test_pair_frame_is_continuous_at_the_cube():
    net = Backbone().double()
    step = 1e-6 * cloud(8, 3, seed=4)
    smooth = FrameAveraging(net, "SE(3)", out_types="vector", frame="pair")
    jumpy = FrameAveraging(net, "SE(3)", out_types="vector", on_degenerate="ignore")
    assert (smooth(CUBE + step) - smooth(CUBE)).abs().max() < 1e-4
    assert (jumpy(CUBE + step) - jumpy(CUBE)).abs().max() > 1e-3


def test_drawn_pairs_are_right_in_expectation():
    x = cloud(1, 12, 3)
    net = Backbone().double()
    torch.manual_seed(0)
    exact = FrameAveraging(net, out_types="vector", frame="pair")(x)
    some = FrameAveraging(net, out_types="vector", frame="pair", n_pairs=40)
    draws = torch.stack([some(x) for _ in range(200)])
    error = draws.std(0) / math.sqrt(200) + 1e-9
    assert ((draws.mean(0) - exact).abs() / error).max() < 5


def test_collinear_pairs_raise_or_fall_back():
    with pytest.raises(ValueError, match="line"):
        pair_frame(LINE, on_collinear="raise")
    assert pair_frame(LINE).log_weights.isfinite().sum() == 4


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


# --- gradients ------------------------------------------------------------------


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


# --- bad input ------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("backbone", "out_types", "error", "message"),
    [
        (lambda x: None, "scalar", TypeError, "NoneType"),
        (lambda x: x.argmax(-1), "scalar", TypeError, "averaged"),
        (lambda x: x.sum(), "scalar", ValueError, "items"),
        (lambda x: x[..., :2], "vector", ValueError, "vector"),
        (lambda x: (x, x), "vector", ValueError, "out_types"),
        (lambda x: {"a": x}, {"b": "vector"}, ValueError, "out_types"),
        (lambda x: {"a": "text"}, {"a": "vector"}, TypeError, "str"),
        (lambda x: x, "velocity", ValueError, "unknown type"),
        (lambda x: x, "1x2e", ValueError, "components"),
    ],
)
def test_bad_backbones(backbone, out_types, error, message):
    with pytest.raises(error, match=message):
        FrameAveraging(backbone, out_types=out_types)(cloud(2, 5, 3))


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


def test_inputs_that_do_not_belong_together():
    def first(x, v):
        return x

    apart = FrameAveraging(first, "SE(3)", ("position", "vector"), "vector")
    joint = FrameAveraging(
        first, "SE(3)", ("position", "vector"), "vector", frame_from=(0, 1)
    )
    with pytest.raises(ValueError, match=r"inputs\[1\]: expected 3 coordinates"):
        apart(cloud(2, 5, 3), cloud(2, 5, 2))
    with pytest.raises(ValueError, match="expected 3 coordinates"):
        joint(cloud(2, 5, 3), cloud(2, 5, 2))
    with pytest.raises(ValueError, match=r"inputs\[1\]: expected a batch of 2"):
        apart(cloud(2, 5, 3), cloud(3, 5, 3))
    with pytest.raises(ValueError, match="expected a batch of 2"):
        joint(cloud(2, 5, 3), cloud(3, 5, 3))
    with pytest.raises(TypeError, match="ndarray"):
        apart(cloud(2, 5, 3).numpy(), cloud(2, 5, 3))
    mixed = joint(cloud(2, 5, 3).float(), cloud(2, 5, 3, seed=1))
    assert mixed.dtype == torch.float32  # values keep their dtype, frames are float64


def test_finite_groups_are_groups():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    half = torch.stack([torch.eye(2), turn @ turn])
    options = {"in_types": ("vector",), "out_types": "vector", "frame": "group"}
    FrameAveraging(nn.Identity(), half, **options)(cloud(2, 5, 2))
    with pytest.raises(ValueError, match="products"):
        FrameAveraging(nn.Identity(), torch.stack([torch.eye(2), turn]), **options)
    with pytest.raises(ValueError, match="orthogonal"):
        FrameAveraging(nn.Identity(), 2 * half, **options)
    with pytest.raises(ValueError, match="matrices"):
        FrameAveraging(nn.Identity(), turn, **options)
    with pytest.raises(ValueError, match="size 3"):
        FrameAveraging(nn.Identity(), half, **options)(cloud(2, 5, 3))
    with pytest.raises(ValueError, match="frame='group'"):
        FrameAveraging(nn.Identity(), half)


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


@pytest.mark.parametrize("build", [pca_frame, pair_frame])
def test_vectors_have_the_leading_dimensions_of_the_points(build):
    x, v = cloud(2, 3, 5, 3), cloud(2, 3, 4, 3)
    whole = build(x, vectors=v)
    assert torch.allclose(build(x[1, 2], vectors=v[1, 2]).R, whole.R[1, 2])
    none = build(x, vectors=v[:, :, :0])
    assert torch.equal(none.R, build(x).R)
    with pytest.raises(ValueError, match="vectors: expected a batch of"):
        build(x, vectors=v[0])
    with pytest.raises(ValueError, match="vectors_mask: expected booleans"):
        build(x, vectors=v, vectors_mask=torch.ones(2, 3, 5, dtype=torch.bool))


def test_learned_axes_of_half_precision_points():
    net = FrameAveraging(
        lambda x: x, out_types="position", frame="learned", on_degenerate="ignore"
    )
    x = cloud(2, 6, 3).bfloat16()
    assert net(x).dtype == torch.bfloat16
    assert torch.allclose(net(x), x, atol=0.05)


def test_numbers_of_draws_and_pairs():
    with pytest.raises(ValueError, match="draws"):
        pca_frame(cloud(5, 3), draws=0)
    with pytest.raises(ValueError, match="n_pairs"):
        pair_frame(cloud(5, 3), n_pairs=0)
