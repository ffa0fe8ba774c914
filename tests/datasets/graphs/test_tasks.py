"""Graph tasks against networkx."""

import networkx
import numpy as np
import pytest

from manifoldkit.datasets import make_graph_tasks


@pytest.fixture(scope="module")
def graphs():
    return make_graph_tasks(60, (4, 20), random_state=0)


def each(graphs):
    for g in range(len(graphs.kind)):
        nodes = np.flatnonzero(graphs.batch == g)
        graph = networkx.DiGraph()
        graph.add_nodes_from(nodes)
        mine = np.isin(graphs.edge_index[0], nodes)
        graph.add_edges_from(graphs.edge_index[:, mine].T)
        yield g, nodes, graph


def test_targets_of_nodes_and_graphs(graphs):
    for g, nodes, directed in each(graphs):
        graph = directed.to_undirected()
        assert directed.number_of_edges() == 2 * graph.number_of_edges()
        assert networkx.number_of_selfloops(graph) == 0
        source = nodes[graphs.x[nodes, 1] == 1].item()
        distance = networkx.single_source_shortest_path_length(graph, source)
        expected = [distance.get(node, -1) for node in nodes]
        np.testing.assert_array_equal(graphs.y_node[nodes, 0], expected)
        components = [graph.subgraph(c) for c in networkx.connected_components(graph)]
        eccentricity = {}
        for component in components:
            eccentricity |= networkx.eccentricity(component)
        expected = [eccentricity[node] for node in nodes]
        np.testing.assert_array_equal(graphs.y_node[nodes, 1], expected)
        laplacian = networkx.laplacian_matrix(graph, nodes).toarray()
        np.testing.assert_allclose(
            graphs.y_node[nodes, 2], laplacian @ graphs.x[nodes, 0], atol=1e-5
        )
        connected, diameter, radius = graphs.y_graph[g]
        assert connected == networkx.is_connected(graph)
        assert diameter == max(eccentricity.values())
        adjacency = networkx.to_numpy_array(graph)
        assert radius == pytest.approx(np.linalg.norm(adjacency, 2), abs=1e-5)


def test_kinds_are_what_they_say(graphs):
    assert all((graphs.kind == kind).sum() == 6 for kind in set(graphs.kind))
    trees = {"tree", "path", "star", "caterpillar", "lobster"}
    for g, nodes, directed in each(graphs):
        graph, kind = directed.to_undirected(), graphs.kind[g]
        if kind in trees:
            assert networkx.is_tree(graph)
        degrees = sorted(d for _, d in graph.degree)
        if kind == "star":
            assert degrees[-1] == len(nodes) - 1
        if kind == "path":
            assert degrees[-1] <= 2
        if kind in ("grid", "ladder"):
            assert networkx.is_connected(graph)
            assert networkx.is_bipartite(graph)
            assert degrees[-1] <= 4 - (kind == "ladder")
        if kind == "caterpillar":
            spine = graph.subgraph(n for n, d in graph.degree if d > 1)
            assert all(d <= 2 for _, d in spine.degree)


def test_seeds_repeat_and_bad_input():
    first, again = (make_graph_tasks(10, 8, random_state=3) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="n_nodes"):
        make_graph_tasks(10, 3)
    with pytest.raises(ValueError, match="n_graphs"):
        make_graph_tasks(0)


@pytest.mark.parametrize("sizes", [np.int64(8), np.array([6, 9]), [6, 9]])
def test_sizes_may_be_numbers_of_numpy(sizes):
    made = make_graph_tasks(3, sizes, random_state=0)
    counts = np.bincount(made.batch)
    assert counts.min() >= np.min(sizes)
    assert counts.max() <= np.max(sizes)
