import itertools
import pickle
import time

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from manifoldkit.graphs import ExactSolver

SOLVERS = ["igraph", "networkx"]


@pytest.fixture(params=SOLVERS)
def solver(request):
    if request.param == "igraph":
        pytest.importorskip("igraph")
    return request.param


def by_force(query, graph, induced):
    """Try all injections."""
    n, edges = query
    m, others = graph
    a, b = np.zeros((n, n), bool), np.zeros((m, m), bool)
    for matrix, rows in ((a, edges), (b, others)):
        matrix[rows[:, 0], rows[:, 1]] = matrix[rows[:, 1], rows[:, 0]] = True
    for image in itertools.permutations(range(m), n):
        part = b[np.ix_(image, image)]
        if (part == a).all() if induced else (part >= a).all():
            return True
    return False


@pytest.mark.parametrize("semantics", ["induced", "monomorphism"])
def test_agrees_with_trying_everything(solver, semantics, random_graphs):
    exact, induced = ExactSolver(semantics, solver=solver), semantics == "induced"
    queries, corpus = random_graphs(0, 12, 2, 4, 0.5), random_graphs(1, 8, 3, 6, 0.4)
    answers = set()
    for query, graph in itertools.product(queries, corpus):
        found = exact.solve(query, graph)
        expected = query[0] <= graph[0] and by_force(query, graph, induced)
        assert found.status == ("verified" if expected else "rejected")
        answers.add(found.status)
        if expected:
            image = nx.Graph(graph[1].tolist())
            g = nx.empty_graph(query[0])
            g.add_edges_from(query[1].tolist())
            assert len(set(found.mapping.tolist())) == query[0]
            for u, v in itertools.combinations(range(query[0]), 2):
                linked = image.has_edge(found.mapping[u], found.mapping[v])
                assert linked or not g.has_edge(u, v)
                assert not (induced and linked and not g.has_edge(u, v))
    assert len(answers) == 2


def test_trivial_queries(solver):
    exact = ExactSolver(solver=solver)
    assert exact.solve((0, []), (0, [])).status == "verified"
    assert exact.solve((1, []), nx.path_graph(3)).status == "verified"
    assert exact.solve((2, []), nx.complete_graph(3)).status == "rejected"
    assert exact.solve((2, []), nx.path_graph(3)).status == "verified"
    assert exact.solve(nx.path_graph(4), nx.path_graph(3)).status == "rejected"
    two = nx.disjoint_union(nx.path_graph(2), nx.path_graph(2))
    assert exact.solve(two, nx.path_graph(5)).status == "verified"
    assert exact.solve(two, nx.path_graph(4)).status == "rejected"


def hard_pair():
    """A dense part of a strongly regular graph with one edge moved."""
    graph = nx.convert_node_labels_to_integers(nx.line_graph(nx.complete_graph(13)))
    rng = np.random.default_rng(0)
    query = nx.convert_node_labels_to_integers(
        graph.subgraph(rng.permutation(78)[:34]).copy()
    )
    edge = next(iter(query.edges))
    query.remove_edge(*edge)
    return query, graph


def test_a_budget_ends_the_search(solver):
    query, graph = hard_pair()
    with ExactSolver("induced", 30, solver) as exact:
        begin = time.perf_counter()
        found = exact.solve(query, graph)
        assert found.status in ("unknown", "rejected")
        assert found.seconds < 2
        assert time.perf_counter() - begin < 60
        # the next pair is answered as if nothing had happened
        large = nx.path_graph(100)
        with ExactSolver("induced", 60_000, solver) as patient:
            assert patient.solve(nx.path_graph(5), large).status == "verified"


def test_time_out_is_unknown():
    star, grid = (
        nx.random_regular_graph(5, 40, seed=0),
        nx.random_regular_graph(6, 300, seed=1),
    )
    found = ExactSolver("monomorphism", 20, "networkx").solve(star, grid)
    assert found.status == "unknown"
    assert found.mapping is None
    assert 0.02 <= found.seconds < 2


def featured(n, edges, x, attr=None):
    both = np.array(edges + [(v, u) for u, v in edges]).T
    return Data(
        x=torch.tensor(x)[:, None].float(),
        edge_index=torch.from_numpy(both),
        edge_attr=None if attr is None else torch.tensor(attr + attr)[:, None].float(),
        num_nodes=n,
    )


def test_features_restrict_the_match(solver):
    exact = ExactSolver(solver=solver)
    chain = featured(3, [(0, 1), (1, 2)], [1.0, 2.0, 1.0])
    assert exact.solve(featured(2, [(0, 1)], [1.0, 2.0]), chain).status == "verified"
    assert exact.solve(featured(2, [(0, 1)], [1.0, 1.0]), chain).status == "rejected"
    assert exact.solve(featured(2, [(0, 1)], [1.0, 3.0]), chain).status == "rejected"
    bonds = featured(3, [(0, 1), (1, 2)], [1.0, 1.0, 1.0], [1.0, 2.0])
    for bond, status in ((2.0, "verified"), (3.0, "rejected")):
        query = featured(2, [(0, 1)], [1.0, 1.0], [bond])
        assert exact.solve(query, bonds).status == status


def test_prepared_graphs_and_pickles(solver):
    exact = pickle.loads(pickle.dumps(ExactSolver("monomorphism", solver=solver)))
    query, graph = exact.prepare(nx.cycle_graph(4)), exact.prepare(nx.complete_graph(5))
    assert exact.solve(query, graph).status == "verified"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"semantics": "both"}, "semantics"),
        ({"budget_ms": 0}, "budget_ms"),
        ({"solver": "cplex"}, "solver"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(ValueError, match=match):
        ExactSolver(**options)
