import copy
import pickle

import pytest
import torch
from torch_geometric.nn import GCNConv

from manifoldkit.graphs import VirtualNodeMPNN, VirtualNodeState, layer_sensitivity


def test_a_state_is_a_sum_over_its_own_graph():
    torch.manual_seed(0)
    layer = VirtualNodeState(4).double()
    h, v = torch.randn(5, 4).double(), torch.randn(2, 4).double()
    batch = torch.tensor([0, 1, 0, 1, 1])
    out, state = layer(h, v, batch)
    for g in range(2):
        own = batch == g
        expected = v[g] + layer.mlp(v[g] + h[own].sum(0))
        torch.testing.assert_close(state[g], expected)
        torch.testing.assert_close(out[own], h[own] + expected)
        alone, _ = layer(h[own], v[g : g + 1], torch.zeros(int(own.sum())).long())
        torch.testing.assert_close(alone, out[own])


def test_weights_are_drawn_again():
    torch.manual_seed(0)
    net = VirtualNodeMPNN([GCNConv(4, 4), GCNConv(4, 4)], 4)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.start += 1
    net.reset_parameters()
    after = net.state_dict()
    assert torch.equal(after["start"], torch.zeros(4))
    for key in ("layers.0.lin.weight", "exchanges.0.mlp.0.weight"):
        assert not torch.equal(before[key], after[key])
    twin = pickle.loads(pickle.dumps(net))
    x, edges = torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])
    assert torch.equal(twin(x, edges), net(x, edges))


def test_mean_does_not_know_the_size():
    torch.manual_seed(0)
    layer = VirtualNodeState(4, reduce="mean")
    h, v = torch.randn(3, 4), torch.zeros(1, 4)
    _, small = layer(h, v, torch.zeros(3, dtype=torch.int64))
    _, large = layer(h.repeat(2, 1), v, torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(small, large)
    with pytest.raises(ValueError, match="reduce"):
        VirtualNodeState(4, reduce="max")


def test_it_carries_information_across_a_path():
    torch.manual_seed(0)
    first = torch.arange(9)
    edges = torch.cat(
        [torch.stack([first, first + 1]), torch.stack([first + 1, first])], 1
    )
    net = VirtualNodeMPNN([GCNConv(4, 4), GCNConv(4, 4)], 4).eval()
    x = torch.randn(10, 4)
    with_state = layer_sensitivity(lambda x: net(x, edges), x).matrix
    plain = layer_sensitivity(
        lambda x: net.layers[1](torch.relu(net.layers[0](x, edges)), edges), x
    ).matrix
    assert plain[0, 9] == 0
    assert with_state[0, 9] > 0
    batch = torch.tensor([0] * 5 + [1] * 5)
    apart = layer_sensitivity(
        lambda x: net(x, edges[:, (batch[edges[0]] == batch[edges[1]])], batch=batch), x
    ).matrix
    assert (apart[:5, 5:] == 0).all()
    assert net(x[:0], edges[:, :0], batch=batch[:0]).shape == (0, 4)
