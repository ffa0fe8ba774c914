import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from manifoldkit.graphs import PackedGraphs


@pytest.fixture
def graphs(random_graphs):
    return [*random_graphs(0, 6), (3, []), (1, []), (0, [])]


def test_batches_hold_the_matrices(graphs):
    packed = PackedGraphs(graphs, dtype=torch.float64)
    index = [5, 0, 6, 0, 8]
    batch = packed.batch(index, edges=True)
    for row, i in enumerate(index):
        n, edges = graphs[i]
        g = nx.empty_graph(n)
        g.add_edges_from(np.asarray(edges).reshape(-1, 2).tolist())
        expected = np.zeros(batch.adjacency.shape[1:])
        expected[:n, :n] = nx.to_numpy_array(g) if n else 0
        assert (batch.adjacency[row].numpy() == expected).all()
        incidence = batch.incidence[row]
        assert (incidence.sum(1)[: len(edges)] == 2).all()
        assert not incidence[len(edges) :].any()
        meeting = incidence.T @ incidence
        torch.testing.assert_close(
            meeting - torch.diag(meeting.diagonal()), batch.adjacency[row]
        )
        assert int(batch.size[row]) == n
        assert batch.edge_sum[row, :, 0].tolist() == expected.sum(1).tolist()


def test_features_are_packed():
    index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    attr = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    graph = Data(x=torch.arange(6.0).view(3, 2), edge_index=index, edge_attr=attr)
    batch = PackedGraphs([graph]).batch([0], edges=True)
    assert batch.x[0].tolist() == graph.x.tolist()
    assert batch.edge_sum[0].tolist() == [[1, 0], [1, 2], [0, 2]]


def test_widths_must_agree():
    one = Data(x=torch.ones(2, 3), edge_index=torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="one width"):
        PackedGraphs([one, (2, [(0, 1)])])


def test_moving_keeps_the_graphs(graphs):
    packed = PackedGraphs(graphs)
    assert packed.to("cpu") is packed
    double = packed.to(dtype=torch.float64)
    assert double.batch([0]).x.dtype == torch.float64
    assert np.array_equal(double.edges(0), graphs[0][1])
