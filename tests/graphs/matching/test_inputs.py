import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from manifoldkit.graphs.matching.inputs import as_graph, as_graphs


def edge_set(graph):
    return {frozenset(edge) for edge in graph.edges.tolist()}


def test_all_forms_of_a_graph_agree():
    g = nx.petersen_graph()
    forms = [g, from_networkx(g), (10, list(g.edges)), (10, np.array(g.edges))]
    graphs = [as_graph(form) for form in forms]
    assert all(graph.num_nodes == 10 for graph in graphs)
    assert all(edge_set(graph) == edge_set(graphs[0]) for graph in graphs)
    assert all(len(graph.edges) == 15 for graph in graphs)


def test_names_of_networkx_nodes_do_not_matter():
    g = nx.Graph([("a", "b"), ("b", "c")])
    assert as_graph(g).edges.tolist() == [[0, 1], [1, 2]]


def test_repeated_edges_count_once_and_keep_their_order():
    graph = as_graph((3, [(2, 1), (0, 1), (1, 2), (1, 0)]))
    assert graph.edges.tolist() == [[2, 1], [0, 1]]


def test_features_stay_with_their_edges():
    index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    attr = torch.tensor([5.0, 5.0, 7.0, 7.0])
    graph = as_graph(Data(x=torch.eye(3), edge_index=index, edge_attr=attr))
    assert graph.edge_attr.tolist() == [[5.0], [7.0]]
    assert graph.x.shape == (3, 3)


@pytest.mark.parametrize("graph", [(0, []), (1, []), (4, [])])
def test_small_and_edgeless_graphs(graph):
    assert as_graph(graph).edges.shape == (0, 2)


@pytest.mark.parametrize(
    ("graph", "match"),
    [
        ((2, [(0, 2)]), "nodes 0 to 1"),
        ((2, [(-1, 0)]), "nodes 0 to 1"),
        ((-1, []), "number of nodes"),
        ((3, [(0.5, 1.0)]), "integer edges"),
        ((3, np.zeros((2, 5), int)), "transpose"),
        (
            Data(
                x=torch.full((2, 1), torch.nan),
                edge_index=torch.tensor([[0, 1], [1, 0]]),
            ),
            "not finite",
        ),
        (
            Data(
                x=torch.ones(3, 1),
                edge_index=torch.tensor([[0, 1], [1, 0]]),
                num_nodes=2,
            ),
            "x with 2 rows",
        ),
        (
            Data(
                edge_attr=torch.tensor([1.0, 2.0]),
                edge_index=torch.tensor([[0, 1], [1, 0]]),
                num_nodes=2,
            ),
            r"edge_attr differs between listings of the edge \(1, 0\)",
        ),
    ],
)
def test_bad_graphs_are_named(graph, match):
    with pytest.raises(ValueError, match=match):
        as_graph(graph)


@pytest.mark.parametrize("graph", [7, "graph", np.zeros((3, 3)), None])
def test_what_is_no_graph(graph):
    with pytest.raises(TypeError, match="expected a PyG Data"):
        as_graph(graph)


def test_the_bad_one_of_a_list_is_named():
    with pytest.raises(ValueError, match=r"corpus\[1\]"):
        as_graphs([(2, []), (2, [(1, 2)])], "corpus")
    with pytest.raises(TypeError, match="list of graphs"):
        as_graphs(nx.path_graph(3), "corpus")
