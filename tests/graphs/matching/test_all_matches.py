"""Exact search of labeled, directed and parallel edges, against trying everything."""

import itertools
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms import isomorphism

from manifoldkit.graphs import ExactSolver

KINDS = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]


@pytest.fixture(params=["igraph", "networkx"])
def solver(request):
    pytest.importorskip(request.param)
    return request.param


def random_graph(rng, kind, n, p, labels, loops):
    """Few labels, so that there are matches and false ones."""
    g = kind()
    for v in range(n):
        g.add_node(v, **({"atom": "CO"[rng.integers(2)]} if labels else {}))
    pairs = itertools.product(range(n), repeat=2)
    for u, v in pairs:
        if (not g.is_directed() and u > v) or (u == v and not loops):
            continue
        for _ in range(1 + g.is_multigraph()):
            if rng.random() < p / (1 + g.is_multigraph()):
                g.add_edge(u, v, **({"bond": int(rng.integers(2))} if labels else {}))
    return g


def edges_between(g, u, v):
    """The multiset of what the edges from one node to another carry."""
    data = g.get_edge_data(u, v)
    if data is None:
        return Counter()
    rows = data.values() if g.is_multigraph() else [data]
    return Counter(row.get("bond") for row in rows)


def by_force(query, graph, induced):
    """Try all injections."""
    pairs = list(itertools.product(query, repeat=2))
    need = [edges_between(query, u, v) for u, v in pairs]
    found = set()
    for image in itertools.permutations(graph, len(query)):
        if any(query.nodes[v] != graph.nodes[image[v]] for v in query):
            continue
        have = (edges_between(graph, image[u], image[v]) for u, v in pairs)
        if all(
            (h == n) if induced else (h >= n) for h, n in zip(have, need, strict=True)
        ):
            found.add(image)
    return found


@pytest.mark.parametrize("induced", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_what_trying_everything_finds(solver, kind, induced):
    rng = np.random.default_rng(0)
    semantics = "induced" if induced else "monomorphism"
    exact, empty, total = ExactSolver(semantics, solver=solver), 0, 0
    for i in range(60):
        labels, loops = i % 2 == 1, i % 3 == 0
        size = int(rng.integers(1, 5)), int(rng.integers(3, 6))
        query = random_graph(rng, kind, size[0], 0.35, labels, loops)
        graph = random_graph(rng, kind, size[1], 0.5, labels, loops)
        expected = by_force(query, graph, induced)
        if size[0] > size[1]:
            assert not expected
        found = [tuple(image.tolist()) for image in exact.iter_matches(query, graph)]
        assert len(found) == len(set(found))
        assert set(found) == expected
        one = exact.solve(query, graph)
        assert one.status == ("verified" if expected else "rejected")
        assert one.mapping is None or tuple(one.mapping.tolist()) in expected
        empty, total = empty + (not expected), total + len(found)
    assert 5 < empty < 55
    assert total > 50


def random_tree(rng, kind, n):
    g = random_graph(rng, kind, n, 0.0, True, False)
    for v in range(1, n):
        g.add_edge(int(rng.integers(v)), v, bond=int(rng.integers(2)))
    return g


@pytest.mark.parametrize("semantics", ["induced", "monomorphism"])
@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
def test_counts_are_those_of_networkx(kind, semantics):
    """Larger graphs than can be tried, and the peer's own comparison of labels."""
    rng = np.random.default_rng(1)
    matcher = (
        isomorphism.DiGraphMatcher if kind is nx.DiGraph else (isomorphism.GraphMatcher)
    )
    total = 0
    for _ in range(15):
        query = random_tree(rng, kind, 3)
        graph = random_graph(rng, kind, 12, 0.3, True, False)
        peer = matcher(
            graph,
            query,
            isomorphism.categorical_node_match("atom", None),
            isomorphism.categorical_edge_match("bond", None),
        )
        name = {"induced": "isomorphisms", "monomorphism": "monomorphisms"}[semantics]
        expected = sum(1 for _ in getattr(peer, f"subgraph_{name}_iter")())
        found = ExactSolver(semantics).solve_all(query, graph)
        assert found.complete
        assert len(found.mappings) == expected
        total += expected
    assert total > 10


def test_symmetric_unlabeled_graphs_have_many_matches():
    found = ExactSolver().solve_all(nx.cycle_graph(5), nx.petersen_graph())
    assert len(found.mappings) == 12 * 10  # 5-cycles of the Petersen graph, turned
    assert found.status == "verified"
    assert found.mappings.shape == (120, 5)
    directed = nx.DiGraph([(0, 1), (1, 2), (2, 0)])
    assert len(ExactSolver().solve_all(directed, directed).mappings) == 3


def test_a_limit_ends_the_search(solver):
    exact = ExactSolver("monomorphism", solver=solver)
    query, graph = nx.path_graph(6), nx.complete_graph(40)
    found = exact.solve_all(query, graph, limit=7)
    assert found.mappings.shape == (7, 6)
    assert not found.complete
    few = exact.solve_all(nx.path_graph(2), nx.path_graph(3), limit=7)
    assert (len(few.mappings), few.complete) == (4, True)
    with pytest.raises(ValueError, match="limit"):
        exact.solve_all(query, graph, limit=0)


def test_a_budget_ends_the_search_and_keeps_what_was_found(solver):
    exact = ExactSolver("monomorphism", 50, solver=solver)
    found = exact.solve_all(nx.path_graph(9), nx.complete_graph(60))
    assert not found.complete
    assert found.status == "verified"
    assert len(found.mappings) > 10
    assert 0.05 <= found.seconds < 5
    with pytest.raises(TimeoutError, match="budget"):
        list(exact.iter_matches(nx.path_graph(9), nx.complete_graph(60)))


def test_trivial_queries(solver):
    exact = ExactSolver(solver=solver)
    assert exact.solve_all((0, []), (0, [])).mappings.shape == (1, 0)
    assert exact.solve_all((0, []), nx.path_graph(3)).mappings.shape == (1, 0)
    none = exact.solve_all(nx.path_graph(4), nx.path_graph(3))
    assert (none.status, none.mappings.shape) == ("rejected", (0, 4))
    assert len(exact.solve_all((2, []), (3, [])).mappings) == 6


def test_long_queries_need_no_recursion():
    found = ExactSolver().solve_all(nx.path_graph(1200), nx.path_graph(1200), 1)
    assert found.mappings.shape == (1, 1200)


def test_mappings_hold_node_numbers_in_the_order_of_the_graph():
    query = nx.DiGraph([("b", "a")])
    graph = nx.DiGraph([("x", "y"), ("z", "x")])
    order = list(graph)
    found = ExactSolver().solve_all(query, graph).mappings
    edges = {(order[u], order[v]) for u, v in found.tolist()}
    assert edges == set(graph.edges)
