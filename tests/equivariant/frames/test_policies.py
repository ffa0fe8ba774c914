"""Random elements, units, values that are not finite, tracing, and wrong options."""

import pytest
import torch
from torch import nn

from manifoldkit.equivariant import (
    FrameAveraging,
    FrameGNN,
    FramePointNet,
    GraphFrameAveraging,
    LocalFrames,
    PointNetBackbone,
    RadialAxes,
    graph_frame,
    pair_frame,
    pca_frame,
)
from manifoldkit.equivariant.frames.graph_frames import spectral_rows

F64 = torch.float64


def cloud(*shape, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize(("group", "size"), [("SE(3)", 4), ("E(3)", 8)])
def test_elements_are_drawn_without_replacement(group, size):
    x = cloud(5, 9, 3)
    whole = FrameAveraging(network(), group, out_types="vector")
    drawn = FrameAveraging(network(), group, out_types="vector", mode=size)
    for _ in range(3):  # all of them are the whole frame, in any order
        torch.testing.assert_close(drawn(x), whole(x))


def test_random_signs_do_not_mirror():
    x = cloud(3, 20, 9)
    rotations = pca_frame(x, "SE(9)", draws=40).R
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(3, 40).double())
    signs = torch.linalg.det(pca_frame(x, "E(9)", draws=40).R).sign()
    assert (signs < 0).any()
    assert (signs > 0).any()
    first = pca_frame(x, "SE(9)", draws=400).R
    turned = (first * first[:, :1]).sum(-2).round()  # each axis points either way
    assert ((turned > 0).double().mean(1) - 0.5).abs().max() < 0.2 + 0.31


@pytest.mark.parametrize("unit", [1e-36, 1e-9, 1e9, 1e36])
@pytest.mark.parametrize("group", ["SE(3)", "O(3)"])
def test_frames_do_not_depend_on_the_unit(unit, group):
    x = cloud(4, 12, 3, dtype=torch.float32)
    for build in (pca_frame, pair_frame):
        one, other = build(x, group), build(x * unit, group)
        torch.testing.assert_close(other.R, one.R, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other.gap, one.gap, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            other.log_weights.exp(), one.log_weights.exp(), atol=1e-4, rtol=1e-4
        )
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    assert pca_frame(line * unit, group, extra_vectors=True).degenerate


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_frames_hold_the_whole_range_of_double_precision(unit):
    x = cloud(2, 7, 3)
    torch.testing.assert_close(pca_frame(x * unit).R, pca_frame(x).R)
    torch.testing.assert_close(pair_frame(x * unit).R, pair_frame(x).R)


@pytest.mark.parametrize("frame", ["pca", "pair", "pca-det", "learned"])
@pytest.mark.parametrize("unit", [1e-36, 1e-9, 1e9, 1e36])
def test_groups_with_scalings_do_not_see_the_unit(frame, unit):
    net = FrameAveraging(network(), "scale x SE(3)", out_types="position", frame=frame)
    x = cloud(3, 8, 3)
    torch.testing.assert_close(net.double()(x * unit) / unit, net(x))


@pytest.mark.parametrize("unit", [1e-9, 1e36])
def test_neighborhoods_do_not_depend_on_the_unit(unit):
    torch.manual_seed(0)
    net = LocalFrames(4, 3)
    for layer in (net.net[0], net.net[2], net.out):
        nn.init.zeros_(layer.bias)  # then the network is homogeneous
    x = cloud(2, 30, 3, dtype=torch.float32)
    torch.testing.assert_close(net(x * unit) / unit, net(x), rtol=1e-3, atol=1e-3)
    axes = RadialAxes(2)
    torch.testing.assert_close(axes(x * unit) / unit, axes(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", ["SE(3)", "O(3)"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_and_stays_alone(group, bad):
    x = cloud(3, 6, 3)
    dirty = x.clone()
    dirty[1, 2, 0] = bad
    for build in (pca_frame, pair_frame):
        clean, found = build(x, group), build(dirty, group)
        assert found.R[1, found.log_weights[1].exp() > 0].isnan().any()
        torch.testing.assert_close(found.R[[0, 2]], clean.R[[0, 2]])
    net = FrameAveraging(network(), group, out_types="vector", validate=False)
    assert net(dirty)[1].isnan().any()
    torch.testing.assert_close(net(dirty)[[0, 2]], net(x)[[0, 2]])


@pytest.mark.parametrize(
    "net",
    [
        FramePointNet("vectors", width=0.05),
        FramePointNet("vectors", frames="local", width=0.05, k=4, n_vectors=2),
        PointNetBackbone(width=0.05),
        LocalFrames(4, 2),
        FrameAveraging(nn.Linear(3, 3)),
    ],
    ids=["global", "local", "backbone", "frames", "averaging"],
)
def test_training_refuses_what_would_spoil_running_statistics(net):
    x = cloud(3, 9, 3, dtype=torch.float32)
    x[1, 4] = torch.nan
    with pytest.raises(ValueError, match=r"\[1\] is not finite"):
        net.train()(x)
    assert all(b.isfinite().all() for b in net.buffers())


def test_masked_points_do_not_spoil_running_statistics():
    net = PointNetBackbone(width=0.05).train()
    x, mask = cloud(2, 9, 3, dtype=torch.float32), torch.ones(2, 9).bool()
    mask[1, 5:] = False
    x[1, 5:] = torch.nan
    net(x, mask)
    assert all(b.isfinite().all() for b in net.buffers())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"out_types": "positions"}, "out_types: unknown type 'positions'.*position"),
        ({"in_types": ("position", "vektor")}, "in_types: unknown type 'vektor'"),
        ({"in_types": {"pos": "point"}}, "in_types: unknown type 'point'"),
        ({"out_types": 3}, "out_types: unknown type 3"),
        ({"group": "SE3"}, "unknown group 'SE3'"),
        ({"group": "octahedron", "frame": "group"}, "'octahedral'"),
        ({"group": "SO(3)", "frame": "group"}, "give mode="),
        ({"frame": "pcs"}, "frame: expected one of"),
        ({"gap_tol": -1.0}, "gap_tol"),
        ({"n_pairs": 0}, "n_pairs"),
        ({"point_dim": 1}, "point_dim"),
    ],
)
def test_wrong_options_fail_at_construction(options, match):
    with pytest.raises(ValueError, match=match):
        FrameAveraging(nn.Linear(3, 3), **options)


def test_other_options_of_the_room_are_checked():
    with pytest.raises(ValueError, match="on_collinear"):
        pair_frame(cloud(5, 3), on_collinear="pac")
    with pytest.raises(ValueError, match="tol"):
        GraphFrameAveraging(nn.Flatten(), tol=-1.0)
    with pytest.raises(ValueError, match="width"):
        PointNetBackbone(width=0.0)
    with pytest.raises(ValueError, match="n_layers"):
        FrameGNN(n_layers=0)
    with pytest.raises(TypeError, match="backbone"):
        FrameAveraging("pointnet")
    net = FrameAveraging(network(), out_types="vector", invariant_args="mask")
    assert net.invariant_args == ("mask",)


def test_dtypes_are_converted_or_named():
    x = cloud(2, 9, 3, dtype=torch.float32)
    backbone = PointNetBackbone(width=0.05).eval()
    assert backbone(x.double()).dtype == F64
    assert backbone(x.half()).dtype == torch.float16
    assert LocalFrames(3, 2)(x.double()).dtype == F64
    net = FrameGNN(n_vectors=4, n_layers=1, n_inputs=1, n_edge=1)
    assert net(x.double()).dtype == F64
    with pytest.raises(TypeError, match=r"expected float64.*found float32"):
        FrameAveraging(network())(x)
    with pytest.raises(TypeError, match="int64"):
        FrameAveraging(network())(torch.ones(2, 5, 3).long())


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_orders_of_nodes_do_not_depend_on_the_unit_of_weights(unit):
    path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).double()
    features = torch.tensor([[1.0], [2.0], [3.0]]).double()
    for kind in (None, features):
        other = None if kind is None else kind * unit
        a, b = graph_frame(path, kind), graph_frame(path * unit, other)
        assert torch.equal(a.order, b.order)
        torch.testing.assert_close(a.log_size, b.log_size)
    ring = torch.roll(torch.eye(4), 1, 0)
    ring = (ring + ring.T).double()
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double()
    rooted = GraphFrameAveraging(net, individualize=True)
    torch.testing.assert_close(rooted(ring[None] * unit) / unit, rooted(ring[None]))


def test_padding_does_not_change_which_rows_are_equal():
    path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).double()
    padded = torch.zeros(1, 6, 6).double()
    padded[0, :3, :3] = path
    mask = torch.arange(6)[None] < 3
    for tol in (1e-6, 0.4):  # of the size of the graph's own spectrum, 0, 1, 3
        frame, alone = (
            graph_frame(padded, mask=mask, tol=tol),
            graph_frame(path, tol=tol),
        )
        assert torch.equal(frame.order[0, :3], alone.order)
        torch.testing.assert_close(frame.log_size[0], alone.log_size)
        rows = spectral_rows(padded, mask, tol=tol)[0, :3]
        own = spectral_rows(path[None], tol=tol)[0]
        assert torch.equal(
            rows[:, rows.any(0)][:, : own.any(0).sum()], own[:, own.any(0)]
        )


CASES = [
    {},
    {"frame": "pair"},
    {"frame": "pca-det"},
    {"frame": "learned"},
    {"on_degenerate": "pair"},
    {"group": "octahedral", "frame": "group"},
    {"out_types": "normal"},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_torch_func_and_export_give_what_eager_gives(options):
    options = {"out_types": "position", "detach_frame": False} | options
    net = FrameAveraging(network(), **options).double().eval()
    x, t = cloud(2, 6, 3), cloud(2, 6, 3, seed=1)

    def total(z):
        return (net(z) ** 3).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), gradient)
    slope = torch.func.jvp(total, (x,), (t,))[1]
    torch.testing.assert_close(slope, (gradient * t).sum())
    both = torch.stack([x, 2 * x + 1])
    torch.testing.assert_close(
        torch.func.vmap(net)(both), torch.stack([net(z) for z in both])
    )
    each = torch.stack([torch.func.grad(total)(z) for z in both])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(both), each)
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(net, (x,), dynamic_shapes=(({0: batch},),)).module()
    more = cloud(5, 6, 3, seed=2)
    torch.testing.assert_close(graph(more), net(more))


def test_graphs_of_any_number_of_orders_are_not_traced():
    net = GraphFrameAveraging(nn.Flatten())
    ring = torch.roll(torch.eye(4), 1, 0)
    ring = (ring + ring.T).expand(2, 1, 4, 4)
    with pytest.raises(RuntimeError):  # its docstring says so
        torch.func.vmap(net)(ring)
