"""Backbones and virtual nodes under export, compilation and torch.func."""

import pytest
import torch
from torch_geometric.nn import GCNConv

from manifoldkit.graphs import (
    STGCN,
    GraphWaveNet,
    SemiAdaptiveAdjacency,
    VirtualNodeMPNN,
    VirtualNodeState,
)

EDGES = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])


def roads(**options):
    return SemiAdaptiveAdjacency(torch.ones(5, 5), num_virtual=2, **options)


WAVES = {"channels": 4, "skip_channels": 4, "end_channels": 4, "blocks": 1}
NETWORKS = {
    "STGCN": lambda: STGCN(roads(), 9, 3, channels=(4, 2, 4), out_channels=4),
    "STGCN laplacian": lambda: STGCN(
        SemiAdaptiveAdjacency(torch.ones(5, 5), mode="distance"),
        *(9, 3),
        channels=(4, 2, 4),
        out_channels=4,
        laplacian=True,
    ),
    "GraphWaveNet": lambda: GraphWaveNet(roads(gate=True), 4, 3, layers=2, **WAVES),
    "GraphWaveNet, long history": lambda: GraphWaveNet(
        roads(bidirectional=True), 9, 3, layers=1, **WAVES
    ),
}


def build(name):
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    steps = 4 if name == "GraphWaveNet" else 9
    return net, lambda batch: torch.randn(batch, steps, 5, 3)


def mpnn():
    torch.manual_seed(0)
    layers = [GCNConv(4, 4, add_self_loops=False) for _ in range(2)]
    return VirtualNodeMPNN(layers, 4).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_agree_at_any_batch_size(name):
    net, draw = build(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, (draw(3),), dynamic_shapes=({0: batch},))
    for size in (2, 5, 17):
        x = draw(size)
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


def test_an_exported_virtual_state_agrees():
    net, batch = VirtualNodeState(4).eval(), torch.tensor([0, 0, 1, 1, 1])
    inputs = torch.randn(5, 4), torch.randn(2, 4), batch
    program = torch.export.export(net, inputs)
    for a, b in zip(program.module()(*inputs), net(*inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_training_over_changing_batch_sizes(name):
    net, draw = build(name)
    twin, _ = build(name)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager")
    for part in (net, twin):  # dropout draws differ
        part.train()
        for child in part.modules():
            if hasattr(child, "kept"):
                child.kept = 256
    for size in (4, 7, 3):
        x = draw(size)
        gaps = []
        for network in (compiled, twin):
            network.zero_grad()
            out = network(x)
            out.square().sum().backward()
            gaps.append(out.detach())
        torch.testing.assert_close(*gaps, rtol=1e-4, atol=1e-4)
        for a, b in zip(net.parameters(), twin.parameters(), strict=True):
            if a.grad is not None or b.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_samples_by_torch_func(name):
    net, draw = build(name)
    params = {k: v.detach() for k, v in net.named_parameters()}
    x, target = draw(4), torch.randn(4, 3, 5)

    def loss(weights, sample, wanted):
        out = torch.func.functional_call(net, weights, (sample[None],))
        return (out[0] - wanted).square().mean()

    vmapped = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, x, target)
    for k in range(4):
        value = loss(dict(net.named_parameters()), x[k], target[k])
        names, weights = zip(*net.named_parameters(), strict=True)
        grads = torch.autograd.grad(
            value, weights, allow_unused=True, materialize_grads=True
        )
        for parameter, expected in zip(names, grads, strict=True):
            torch.testing.assert_close(
                vmapped[parameter][k], expected, rtol=1e-3, atol=1e-5
            )
    step = torch.randn_like(x)
    _, tangent = torch.func.jvp(net, (x,), (step,))
    _, pull = torch.func.vjp(net, x)
    other = torch.randn_like(tangent)
    torch.testing.assert_close(
        (tangent * other).sum(), (pull(other)[0] * step).sum(), rtol=1e-3, atol=1e-4
    )


def test_virtual_states_by_torch_func():
    net, x = mpnn(), torch.randn(3, 5, 4)
    together = torch.func.vmap(lambda h: net(h, EDGES))(x)
    torch.testing.assert_close(together, torch.stack([net(h, EDGES) for h in x]))
    step = torch.randn_like(x[0])
    _, tangent = torch.func.jvp(lambda h: net(h, EDGES), (x[0],), (step,))
    _, pull = torch.func.vjp(lambda h: net(h, EDGES), x[0])
    torch.testing.assert_close(
        (tangent * tangent).sum(), (pull(tangent)[0] * step).sum(), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_an_average_of_weights_acts_in_evaluation(name):
    net, draw = build(name)
    torch.manual_seed(5)
    other = NETWORKS[name]().eval()
    x = draw(2)
    with torch.no_grad():
        net(x)
        for own, new in zip(net.parameters(), other.parameters(), strict=True):
            own.data.copy_(new.data)
        torch.testing.assert_close(net(x), other(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_in_is_nan_out(name, bad):
    net, draw = build(name)
    x = draw(3)
    clean = net(x)
    for step in range(x.shape[1]):
        spoiled = x.clone()
        spoiled[1, step, 2, 0] = bad
        out = net(spoiled)
        assert not out[1].isfinite().all(), step
        torch.testing.assert_close(out[[0, 2]], clean[[0, 2]])
