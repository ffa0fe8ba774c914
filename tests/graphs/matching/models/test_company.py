"""A pair's score depends on that pair alone, in whatever form and company."""

import networkx as nx
import numpy as np
import pytest
import torch

from manifoldkit.graphs import GMNMatch, IsoNet, IsoNetPP, SubgraphRetriever
from manifoldkit.graphs.matching.models.packed import PackedGraphs

MODELS = {
    "isonetpp-node": lambda **o: IsoNetPP("node", rounds=2, layers=2, **o),
    "isonetpp-edge": lambda **o: IsoNetPP("edge", rounds=2, layers=2, **o),
    "isonetpp-induced": lambda **o: IsoNetPP(
        "node", rounds=2, layers=1, semantics="induced", **o
    ),
    "isonet-node": lambda **o: IsoNet("node", layers=2, **o),
    "isonet-edge": lambda **o: IsoNet("edge", layers=2, semantics="induced", **o),
    "gmn": lambda **o: GMNMatch(layers=2, **o),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().double().eval()


def with_features(graph, scale, rng):
    g = nx.convert_node_labels_to_integers(graph)
    for v in g:
        g.nodes[v]["x"] = (scale * rng.standard_normal(2)).tolist()
    for edge in g.edges:
        g.edges[edge]["edge_attr"] = float(scale * rng.standard_normal())
    return g


def odd_company():
    """Graphs that are much larger, denser, emptier than the others, or disconnected."""
    return [nx.complete_graph(9), nx.path_graph(40), (1, []), (9, []), (0, [])]


@pytest.mark.filterwarnings("ignore:queries. .*without any edge")
def test_scores_in_company_are_scores_alone(model, random_graphs):
    queries, corpus = random_graphs(0, 5, 2, 5), random_graphs(1, 5, 5, 9)
    alone = model.score_pairs(queries, corpus)
    both = [*queries, *odd_company()], [*odd_company(), *corpus]
    where = [(i, 5 + i) for i in range(5)]
    others = [(i, 9 - i) for i in range(10)]
    found = model.score_pairs(*both, [*where, *others])
    assert found.isfinite().all()
    torch.testing.assert_close(found[:5], alone, rtol=1e-9, atol=1e-9)
    matrix = model.score_matrix(*both)
    torch.testing.assert_close(matrix[:5, 5:].diagonal(), alone, rtol=1e-9, atol=1e-9)
    turned = matrix.flip(1).diagonal()
    torch.testing.assert_close(turned, found[5:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_features_of_one_graph_do_not_reach_another(name, random_graphs):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = MODELS[name](node_dim=2).double().eval()
    pairs = [
        [with_features(nx.Graph(g[1].tolist()), scale, rng) for g in graphs]
        for graphs, scale in (
            (random_graphs(0, 3, 3, 5), 1.0),
            (random_graphs(1, 3, 5, 9), 1.0),
            (random_graphs(2, 2, 5, 9), 1e6),
        )
    ]
    queries, corpus, wild = pairs
    expected = model.score_matrix(queries, corpus)
    found = model.score_matrix([*wild, *queries], [*corpus, *wild])
    torch.testing.assert_close(found[2:, :3], expected, rtol=1e-9, atol=1e-9)
    assert found.isfinite().all()


def test_the_order_of_nodes_and_edges_does_not_matter(model, random_graphs):
    rng = np.random.default_rng(0)
    queries, corpus = random_graphs(0, 4, 3, 5), random_graphs(1, 4, 6, 9)

    def shuffled(graph):
        n, edges = graph
        order = rng.permutation(n)
        return n, order[edges][rng.permutation(len(edges))][:, ::-1]

    found = model.score_matrix(*([*map(shuffled, g)] for g in (queries, corpus)))
    expected = model.score_matrix(queries, corpus)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["isonetpp-node", "isonetpp-edge", "isonet-node", "gmn"]
)
def test_gradients_of_torch_func_are_those_of_autograd(name, random_graphs):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    packed = [
        PackedGraphs(random_graphs(seed, 3, 3, 6), dtype=torch.float64)
        for seed in (0, 1)
    ]
    batches = tuple(side.batch([0, 2], model.kind == "edge") for side in packed)

    def loss(weights):
        return torch.func.functional_call(model, weights, batches)[0].sum()

    found = torch.func.grad(loss)(dict(model.named_parameters()))
    model(*batches)[0].sum().backward()
    for key, value in model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(found[key], value.grad, rtol=1e-6, atol=1e-8)


def test_a_search_of_odd_queries_and_corpora(random_graphs):
    """Empty graphs, no edges, isolated nodes, more asked for than there is."""
    corpus = [*random_graphs(0, 4), *odd_company(), nx.Graph([("a", "b")])]
    exact = SubgraphRetriever(None, verify="all").index(corpus)
    for query in (*odd_company(), nx.Graph([("x", "y")]), (3, [(0, 1)])):
        found = exact.search(query, k=1000)
        assert sorted(found.ids.tolist()) == list(range(len(corpus)))
        assert set(found.status) <= {"verified", "rejected"}
    assert len(SubgraphRetriever(None).index([]).search((1, []), 5).ids) == 0
    for ragged in ((3, [(0, 1), (2,)]), (3, [(0, 1, 2)]), (3, [("a", "b")])):
        with pytest.raises(ValueError, match="query: expected integer edges"):
            exact.search(ragged)
