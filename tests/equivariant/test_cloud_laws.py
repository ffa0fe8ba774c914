"""Laws of the modules that take clouds: units, precisions, empty batches."""

import pytest
import torch

from manifoldkit import equivariant as eq
from manifoldkit.equivariant import neighbors
from manifoldkit.equivariant.neighbors.search import knn_dense
from manifoldkit.equivariant.parot.directions import EquivariantDirections

RIS = {"sizes": (16, 8), "neighbors": (8, 8), "channels": (8, 8, 16), "lra_k": 8}
PARTS = {**RIS, "channels": (8, 16), "up_neighbors": (8, 8)}
PAROT = {
    **{"n_patches": 16, "k_local": 8, "k_global": 8, "k_intra": 4},
    **{"emb_dims": 16, "n_blocks": 1},
}
NETWORKS = {
    "risurconv": lambda: eq.RISurConvClassifier(3, n_blocks=1, **RIS),
    "risurconv parts": lambda: eq.RISurConvSegmenter(4, 0, **PARTS),
    "parot": lambda: eq.PaRotClassifier(3, **PAROT),
    "parot exact": lambda: eq.PaRotClassifier(3, directions="equivariant", **PAROT),
    "parot parts": lambda: eq.PaRotSegmenter(4, 0, **PAROT),
}
SCALES = [1e-300, 1e-160, 1e-30, 1e-9, 1e9, 1e30, 1e160, 1e300]


def points(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def network(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


@pytest.mark.parametrize("unit", SCALES)
def test_searches_do_not_know_the_unit(unit):
    x = points(60, 3, dtype=torch.float64)
    query = points(20, 3, dtype=torch.float64, seed=1)
    dist, index = neighbors.knn(query, x, 5)
    again, same = neighbors.knn(unit * query, unit * x, 5)
    assert torch.equal(index, same)
    torch.testing.assert_close(again / unit, dist, rtol=1e-14, atol=0)
    assert torch.equal(
        neighbors.farthest_point_sample(x, 30),
        neighbors.farthest_point_sample(unit * x, 30),
    )
    assert torch.equal(
        neighbors.ball_query(query, x, 0.8, 4),
        neighbors.ball_query(unit * query, unit * x, 0.8 * unit, 4),
    )
    axes, gap = neighbors.estimate_axes(x, 9)
    turned, wide = neighbors.estimate_axes(unit * x, 9)
    torch.testing.assert_close(turned, axes)
    torch.testing.assert_close(wide, gap)
    f = points(60, 2, dtype=torch.float64, seed=2)
    torch.testing.assert_close(
        neighbors.three_interpolate(unit * query, unit * x, f),
        neighbors.three_interpolate(query, x, f),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("unit", [1e-37, 1e-30, 1e-9, 1e9, 1e30, 1e36])
def test_float32_searches_do_not_know_the_unit(unit):
    x = points(60, 3)
    dist, index = neighbors.knn(x, x, 5)
    again, same = neighbors.knn(unit * x, unit * x, 5)
    assert torch.equal(index, same)
    torch.testing.assert_close(again.double() / unit, dist.double(), rtol=1e-5, atol=0)


def test_one_cloud_far_larger_than_another():
    x = points(2, 40, 3, dtype=torch.float64)
    mixed = x * torch.tensor([1e-250, 1e250], dtype=x.dtype)[:, None, None]
    assert torch.equal(neighbors.knn(mixed, mixed, 4)[1], neighbors.knn(x, x, 4)[1])
    for search in (neighbors.farthest_point_sample,):
        assert torch.equal(search(mixed, 20), search(x, 20))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e9, 1e30])
def test_invariants_but_the_length_have_no_unit(unit, unsigned):
    center, n_p = points(2, 5, 3, dtype=torch.float64)
    around, n_i = points(2, 5, 9, 3, dtype=torch.float64, seed=1)
    n_p, n_i = (torch.nn.functional.normalize(v, dim=-1) for v in (n_p, n_i))
    options = {"unsigned": unsigned}
    want, order = eq.surface_features(center, around, n_p, n_i, **options)
    found, same = eq.surface_features(unit * center, unit * around, n_p, n_i, **options)
    assert torch.equal(order, same)
    torch.testing.assert_close(found[..., 0] / unit, want[..., 0])
    torch.testing.assert_close(found[..., 1:], want[..., 1:], rtol=0, atol=1e-5)
    net = eq.RISurConvClassifier(3, unsigned_normals=unsigned, **RIS)
    x = points(2, 40, 3, dtype=torch.float64)
    pairs = zip(
        net.precompute(x).levels(), net.precompute(unit * x).levels(), strict=True
    )
    for a, b in pairs:
        assert torch.equal(a.index, b.index)
        torch.testing.assert_close(b.features[..., 0] / unit, a.features[..., 0])
        torch.testing.assert_close(
            b.features[..., 1:], a.features[..., 1:], rtol=0, atol=1e-5
        )


def test_what_is_not_finite_is_named():
    good, bad = points(2, 20, 3), points(2, 20, 3)
    bad[1, 4] = torch.nan
    f = points(2, 20, 4)
    for call in (
        lambda x: neighbors.knn(x, good, 2),
        lambda x: neighbors.knn(good, x, 2),
        lambda x: neighbors.ball_query(x, good, 1.0, 2),
        lambda x: neighbors.ball_query(good, x, 1.0, 2),
        lambda x: neighbors.farthest_point_sample(x, 2),
        lambda x: neighbors.estimate_axes(x),
        lambda x: neighbors.three_interpolate(x, good, f),
        lambda x: neighbors.three_interpolate(good, x, f),
    ):
        with pytest.raises(ValueError, match=r"\[1\] is not finite"):
            call(bad)
    f[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"features\[1, 3, 2\] is not finite"):
        neighbors.three_interpolate(good, good, f)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_bad_clouds_leave_no_trace_in_running_statistics(name):
    net, x = network(name), points(3, 40, 3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    bad = x.clone()
    bad[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"x\[1\] is not finite"):
        net(bad)
    large = x.clone()
    large[2] *= 1e36
    with pytest.raises(ValueError, match=r"x\[2\]: expected coordinates up to 3e\+15"):
        net(large)
    with pytest.raises(ValueError, match="x: "):
        net(x[:0])
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_graph_that_is_not_finite_is_not_trained_on():
    net = network("risurconv")
    graph = net.precompute(points(3, 40, 3))
    graph.down[1].features[2, 0, 0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x\[2\] is not finite"):
        net(graph)
    layer = eq.RISurConvLayer(8, 4, 2, 8)
    features = points(3, 40, 2)
    features[1] = torch.inf
    with pytest.raises(ValueError, match=r"features\[1\] is not finite"):
        layer(points(3, 40, 3), features=features)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_empty_batches_and_other_precisions(name):
    net, x = network(name).eval(), points(3, 40, 3)
    want = net(x)
    empty = net(x[:0])
    assert empty.shape == (0, *want.shape[1:])
    assert empty.dtype == torch.float32
    torch.testing.assert_close(net(x.double()), want)
    half = net(x.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, net(x.half().float()))
    assert net.double()(x).dtype == torch.float64
    with pytest.raises(TypeError, match="expected floating-point numbers, found a int"):
        net((10 * x).long())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_torch_func_gives_the_gradients_of_autograd(name, training):
    """Reverse mode; vmap reads values and forward mode lacks kernels of torch's."""
    # other networks of PaRot draw rotations in training
    net = network("parot exact" if training and "parot" in name else name)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    net.train(training)
    for block in getattr(net, "blocks", ()):
        block.eval()  # their dropout draws
    x = points(3, 40, 3)
    params = dict(net.named_parameters())
    buffers = {k: v.clone() for k, v in net.named_buffers()}

    def loss(values, x):
        state = (values, {k: v.clone() for k, v in buffers.items()})
        return torch.func.functional_call(net, state, (x,)).square().sum()

    found = torch.func.grad(loss)(params, x)
    want = torch.autograd.grad(loss(params, x), list(params.values()))
    for (key, value), other in zip(found.items(), want, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=key)


def test_both_directions_of_the_axis_count_the_same():
    net = network("risurconv").eval()
    graph = net.precompute(points(3, 40, 3))
    singles = [
        net.features(
            type(graph)(graph.down, graph.whole.map(lambda t, i=i: t[:, i : i + 1]))
        )
        for i in (0, 1)
    ]
    assert (singles[0] - singles[1]).abs().max() > 1e-4
    swapped = type(graph)(graph.down, graph.whole.map(lambda t: t.flip(1)))
    torch.testing.assert_close(net.features(swapped), net.features(graph))
    net.blocks = torch.nn.ModuleList()
    graph = graph.to(dtype=torch.float32)
    h = net.levels(graph)[-1]
    level = graph.whole
    pooled = [
        net.whole(level.map(lambda t, i=i: t[:, i : i + 1]), h)[:, 0] for i in (0, 1)
    ]
    torch.testing.assert_close(net.features(graph), (pooled[0] + pooled[1]) / 2)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e12])
def test_exact_directions_are_orthonormal_and_turn(unit):
    torch.manual_seed(0)
    net = EquivariantDirections().double()
    patches = points(6, 12, 3, dtype=torch.float64)
    local, axes = net(unit * patches)
    eye = torch.eye(2, dtype=torch.float64).expand(6, 2, 2)
    torch.testing.assert_close(axes @ axes.mT, eye, rtol=0, atol=1e-12)
    first, _ = net(patches)
    torch.testing.assert_close(local / unit, first, rtol=1e-9, atol=1e-9)
    turn = torch.linalg.qr(points(3, 3, dtype=torch.float64, seed=3))[0]
    turn = turn * torch.linalg.det(turn)
    same, turned = net(unit * patches @ turn.T)
    torch.testing.assert_close(turned, axes @ turn.T)
    torch.testing.assert_close(same, local)


def test_the_plain_search_orders_as_the_tree():
    x = points(2, 30, 3, dtype=torch.float64).round(decimals=0)  # many ties
    dist, index = neighbors.knn(x, x, 6)
    plain = knn_dense(x, x, 6, None)
    assert torch.equal(index, plain[1])
    torch.testing.assert_close(dist, plain[0])


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_exported_networks_equal_eager_ones_at_any_batch_size(name, strict):
    net, x = network(name).eval(), points(5, 40, 3)
    clouds = torch.export.Dim("clouds", min=2, max=64)
    program = torch.export.export(
        net, (x[:2],), strict=strict, dynamic_shapes=({0: clouds},)
    )
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.slow
def test_a_network_exports():
    net, x = network("parot").eval(), points(2, 30, 3)
    program = torch.export.export(net, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.compile
@pytest.mark.slow
def test_compiled_training_takes_batches_of_any_size():
    net = network("parot")
    compiled = torch.compile(net, backend="eager")
    for n in (4, 6, 8):
        assert compiled(points(n, 40, 3)).shape == (n, 3)
