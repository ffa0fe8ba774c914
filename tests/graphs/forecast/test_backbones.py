import copy
import pickle

import pytest
import torch

from manifoldkit.datasets import make_traffic
from manifoldkit.graphs import (
    STGCN,
    GraphWaveNet,
    SemiAdaptiveAdjacency,
    TrafficForecaster,
)
from manifoldkit.graphs.forecast.linear import SharedLinear
from manifoldkit.graphs.forecast.norm import NodeBatchNorm, NodeLayerNorm
from manifoldkit.graphs.forecast.stgcn import ChebyshevConv
from manifoldkit.graphs.forecast.temporal import (
    Align,
    ByteDropout,
    TemporalConv,
    TemporalGate,
)
from manifoldkit.graphs.virtual import laplacian as laplacian_module
from manifoldkit.graphs.virtual.laplacian import ScaledLaplacian

N = 6


def road_graph(g):
    a = torch.rand(N, N, generator=g)
    return torch.where(a > 0.5, a, 0.0)


def adjacency(nv=2, **kw):
    g = torch.Generator().manual_seed(0)
    return SemiAdaptiveAdjacency(road_graph(g), nv, generator=g, **kw)


BACKBONES = {
    "stgcn": lambda a, **kw: STGCN(a, 12, 5, channels=(8, 4, 8), **kw),
    "stgcn per node": lambda a: STGCN(a, 12, 5, channels=(8, 4, 8), norm="node"),
    "gwnet": lambda a, **kw: GraphWaveNet(
        a, 12, 5, channels=4, skip_channels=8, end_channels=8, **kw
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("nv", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_gradients(name, nv, dtype):
    torch.manual_seed(0)
    model = BACKBONES[name](adjacency(nv)).to(dtype)
    x = torch.randn(2, 12, N, 3, dtype=dtype)
    out = model(x)
    assert out.shape == (2, 5, N)
    assert out.dtype == dtype
    out.sum().backward()
    for key, value in model.named_parameters():
        if value.numel():
            assert value.grad is not None, key
    if nv:
        assert model.adjacency.e1.grad.abs().sum() > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_samples_do_not_see_each_other(name):
    torch.manual_seed(0)
    model = BACKBONES[name](adjacency()).eval()
    x = torch.randn(3, 12, N, 3)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


def test_a_sparse_road_graph_gives_the_same_forecast():
    torch.manual_seed(0)
    road = road_graph(torch.Generator().manual_seed(0))
    dense, sparse = adjacency(), SemiAdaptiveAdjacency(road.to_sparse(), 2)
    model, other = STGCN(dense, 12, 5), STGCN(sparse, 12, 5)
    state = {k: v for k, v in model.state_dict().items() if "_road" not in k}
    other.load_state_dict(state, strict=False)
    x = torch.randn(2, 12, N, 3)
    torch.testing.assert_close(model.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-5)


def test_the_published_laplacian_of_a_fixed_graph(monkeypatch):
    g = torch.Generator().manual_seed(1)
    a = torch.rand(N, N, generator=g, dtype=torch.float64)
    a = torch.where(a > 0.6, a, 0.0)
    a[5] = a[:, 5] = 0  # isolated
    both = torch.maximum(a, a.T).fill_diagonal_(0)
    root = both.sum(1).clamp_min(1e-300) ** -0.5 * (both.sum(1) > 0)
    laplacian = torch.eye(N).double() - root[:, None] * both * root
    values = torch.linalg.eigvalsh(laplacian)
    expected = 2 * laplacian / values[-1] - torch.eye(N).double()
    x = torch.randn(2, 3, N, 4, generator=g, dtype=torch.float64)
    for road in (a, a.to_sparse()):
        product = ScaledLaplacian(SemiAdaptiveAdjacency(road, 0))
        torch.testing.assert_close(product(x), expected @ x)
        assert torch.autograd.gradcheck(product, x[:1, :1].clone().requires_grad_())
    monkeypatch.setattr(laplacian_module, "DENSE", 2)  # as for thousands of sensors
    large = ScaledLaplacian(SemiAdaptiveAdjacency(a.to_sparse(), mode="distance"))
    torch.testing.assert_close(large(x), expected @ x)
    with pytest.raises(ValueError, match="without virtual nodes"):
        STGCN(adjacency(), 12, 5, laplacian=True)
    with pytest.raises(ValueError, match="mode='adaptive' with 0"):
        STGCN(adjacency(0, mode="adaptive"), 12, 5, laplacian=True)


def test_stgcn_on_the_laplacian(tmp_path):
    torch.manual_seed(0)
    model = BACKBONES["stgcn"](adjacency(0), laplacian=True).eval()
    plain = BACKBONES["stgcn"](adjacency(0)).eval()
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "laplacian" not in k}
    )
    x = torch.randn(2, 12, N, 3)
    assert model(x).shape == (2, 5, N)
    assert not torch.allclose(model(x), plain(x))
    data = make_traffic(n_sensors=8, n_days=4, random_state=0)
    forecaster = TrafficForecaster(
        virtual_nodes=0,
        max_epochs=1,
        backbone_options={"channels": (8, 4, 8), "laplacian": True},
        random_state=0,
    ).fit(data)
    forecaster.save(tmp_path / "model")
    loaded = TrafficForecaster.load(tmp_path / "model")
    past = data.values[:12]
    expected = forecaster.predict(past, data.start)
    assert (loaded.predict(past, data.start) == expected).all()


def test_virtual_nodes_are_how_far_sensors_meet():
    """Without them, and normalized per node, a network sees as far as its hops."""
    chain = torch.diag(torch.ones(11), 1)
    chain = chain + chain.T
    x = torch.randn(1, 12, 12, 3)
    seen = {}
    for nv in (0, 1):
        torch.manual_seed(0)
        a = SemiAdaptiveAdjacency(chain, nv, mode="all_ones" if nv else "distance")
        for norm in ("node", "graph"):
            model = STGCN(a, 12, 3, channels=(8, 4, 8), order=2, norm=norm).eval()
            moved = x.clone()
            moved[:, :, -1] += 1
            change = (model(moved) - model(x))[0].abs().amax(0)
            seen[nv, norm] = bool(change[0] > 1e-7)
    assert seen == {
        (0, "node"): False,
        (0, "graph"): True,  # through the statistics of the normalization
        (1, "node"): True,
        (1, "graph"): True,
    }


def test_real_and_virtual_nodes_are_normalized_apart():
    torch.manual_seed(0)
    x = torch.randn(2, 5, N + 2, 4)
    moved = x.clone()
    moved[..., N:, :] *= 100
    for norm in (NodeLayerNorm(N, 2, 4), NodeBatchNorm(N, 2, 4)):
        torch.testing.assert_close(norm(x)[..., :N, :], norm(moved)[..., :N, :])
        plain = type(norm)(N, 0, 4)
        torch.testing.assert_close(plain(x[..., :N, :]), norm(x)[..., :N, :])
    whole = NodeLayerNorm(N, 2, 4)(x)
    torch.testing.assert_close(whole[..., N:, :].mean((-2, -1)), torch.zeros(2, 5))
    assert NodeLayerNorm(N, 2, 4)(x[..., :N, :]).shape == (2, 5, N, 4)


def test_chebyshev_terms():
    torch.manual_seed(0)
    p = torch.rand(N, N)
    x = torch.randn(2, N, 3)
    conv = ChebyshevConv(3, 4, order=3)
    terms = torch.cat([x, p @ x, (2 * p @ p - torch.eye(N)) @ x], -1)
    torch.testing.assert_close(conv(x, lambda x: p @ x), conv.linear(terms))
    with pytest.raises(ValueError, match="order"):
        ChebyshevConv(3, 4, 0)


def test_temporal_gate_by_its_formula():
    torch.manual_seed(0)
    gate = TemporalGate(3, 5, 3)
    x = torch.randn(2, 8, N, 3)
    w, b = gate.conv.conv.weight[..., 0], gate.conv.conv.bias
    taps = x.unfold(1, 3, 1)  # (B, T - 2, n, C, 3)
    p, q = (torch.einsum("btnck,ock->btno", taps, w) + b).chunk(2, -1)
    padded = torch.nn.functional.pad(x, (0, 2))[:, 2:]
    torch.testing.assert_close(gate(x), (p + padded) * q.sigmoid())
    assert TemporalConv(3, 4, 2, dilation=3)(x).shape == (2, 5, N, 4)
    assert Align(5, 2)(torch.zeros(1, 5)).shape == (1, 2)


def test_dropout_by_bytes():
    torch.manual_seed(0)
    layer, x = ByteDropout(0.25), torch.ones(400, 251)
    out = layer(x)
    assert out.eq(0).double().mean() == pytest.approx(0.25, abs=0.01)
    assert out.mean() == pytest.approx(1, abs=0.01)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(ByteDropout(0.0)(x), x)
    with pytest.raises(ValueError, match="dropout"):
        ByteDropout(1.0)


@pytest.mark.parametrize("name", BACKBONES)
def test_weights_are_drawn_again_and_copies_agree(name):
    torch.manual_seed(0)
    model = BACKBONES[name](adjacency()).eval()
    x = torch.randn(1, 12, N, 3)
    before = {k: v.clone() for k, v in model.named_parameters() if v.numel()}
    expected = model(x)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    model.reset_parameters()
    for key, value in model.named_parameters():
        if value.dim() > 1 and value.numel() and "norm" not in key:
            assert not torch.equal(value, before[key]), key
    for twin in twins:
        assert torch.equal(twin(x), expected)
    model.load_state_dict(twins[0].state_dict())
    assert torch.equal(model(x), expected)


@pytest.mark.compile
def test_the_compiler_takes_the_backbones():
    torch.compiler.reset()
    model = BACKBONES["stgcn"](adjacency()).eval()
    x = torch.randn(1, 12, N, 3)
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(x), model(x))


def test_long_and_short_histories():
    model = GraphWaveNet(adjacency(), 30, 5, channels=4, skip_channels=4)
    x = torch.randn(1, 30, N, 3)
    x2 = x.clone()
    x2[:, : 30 - model.receptive_field] += 1
    torch.testing.assert_close(model.eval()(x), model(x2))
    assert SharedLinear(3, 2)(x[:, :3]).shape == (1, 2, N)
    with pytest.raises(ValueError, match="at least 9 steps, found 8"):
        STGCN(adjacency(), 8, 2)
    with pytest.raises(ValueError, match="norm"):
        STGCN(adjacency(), 9, 2, norm="batch")
    with pytest.raises(ValueError, match="channels"):
        STGCN(adjacency(), 9, 2, channels=(8, 4))
