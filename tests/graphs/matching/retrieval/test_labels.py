"""Labels of nodes and edges through filter, search, files and networks."""

import networkx as nx
import numpy as np
import pytest
import torch
from networkx.algorithms import isomorphism
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from manifoldkit.graphs import (
    CountFilter,
    ExactSolver,
    GraphCorpus,
    IsoNet,
    SubgraphRetriever,
)


def molecule(rng, n, kind=nx.Graph):
    """A labeled tree with a few edges more."""
    g = kind()
    for v in range(n):
        g.add_node(v, atom="CNO"[rng.choice(3, p=[0.7, 0.15, 0.15])])
    for v in range(1, n):
        g.add_edge(int(rng.integers(max(0, v - 3), v)), v)
    for u, v in rng.integers(n, size=(2, 2)):
        if u != v:
            g.add_edge(int(u), int(v))
    for edge in g.edges.values():
        edge["bond"] = int(rng.integers(1, 3))
    return g


def holds(graph, query, semantics):
    matcher = (
        isomorphism.DiGraphMatcher if graph.is_directed() else isomorphism.GraphMatcher
    )(
        graph,
        query,
        isomorphism.categorical_node_match("atom", None),
        isomorphism.categorical_edge_match("bond", None),
    )
    if semantics == "induced":
        return matcher.subgraph_is_isomorphic()
    return matcher.subgraph_is_monomorphic()


@pytest.fixture(
    scope="module", params=[nx.Graph, nx.DiGraph], ids=["plain", "directed"]
)
def molecules(request):
    rng = np.random.default_rng(0)
    corpus = [molecule(rng, int(rng.integers(7, 11)), request.param) for _ in range(30)]
    queries = []
    for i in range(10):
        part = sorted(nx.bfs_tree(corpus[i].to_undirected(), 0))[: 3 + i % 3]
        queries.append(corpus[i].subgraph(part).copy())
    return queries, corpus


def on_disk(corpus, folder):
    return GraphCorpus.write(folder, corpus)


def as_pyg(corpus, folder):
    return [from_networkx(g) for g in corpus]


@pytest.mark.parametrize("semantics", ["induced", "monomorphism"])
@pytest.mark.parametrize("form", [None, on_disk, as_pyg], ids=["memory", "disk", "pyg"])
@pytest.mark.parametrize("filter", [None, "motif5"])
def test_what_is_verified_is_what_networkx_finds(
    molecules, semantics, form, filter, tmp_path
):
    queries, corpus = molecules
    given = corpus if form is None else form(corpus, tmp_path)
    exact = SubgraphRetriever(None, verify="all", filter=filter, semantics=semantics)
    exact.index(given)
    ignoring = SubgraphRetriever(
        None, verify="all", semantics=semantics, node_attr=(), edge_attr=()
    ).index(given)
    verified = more = 0
    for query in queries:
        truth = [holds(graph, query, semantics) for graph in corpus]
        found = exact.search(query, 30)
        assert [truth[i] for i in found.ids] == (found.status == "verified").tolist()
        verified += sum(truth)
        more += (ignoring.search(query, 30).status == "verified").sum()
    assert 10 <= verified < more


@pytest.mark.parametrize("semantics", ["induced", "monomorphism"])
def test_the_filter_counts_labels_and_rejects_no_match(molecules, semantics):
    queries, corpus = molecules
    counts = CountFilter("motif4", semantics).fit(corpus)
    blind = CountFilter("motif4", semantics, node_attr=(), edge_attr=()).fit(corpus)
    found, without = counts.admits_all(queries), blind.admits_all(queries)
    truth = np.array([[holds(g, q, semantics) for g in corpus] for q in queries])
    assert found[truth].all()
    assert (found <= without).all()
    assert found.sum() < without.sum()


def test_directions_that_are_open_are_not_counted_against_a_match():
    """PyG lists an undirected edge once a direction; a query may need both."""
    both = torch.tensor([[0, 1], [1, 0]])
    corpus = [Data(edge_index=both, edge_attr=torch.ones(2), num_nodes=2)]
    corpus.append(Data(edge_index=both[:, :1], edge_attr=torch.ones(1), num_nodes=2))
    query = nx.DiGraph()
    query.add_edge("a", "b", edge_attr=1)
    query.add_edge("b", "a", edge_attr=1)
    exact = SubgraphRetriever(None, verify="all").index(corpus)
    assert exact.search(query, 2).status.tolist() == ["verified", "rejected"]
    single = nx.DiGraph()
    single.add_edge("a", "b", edge_attr=1)
    loose = SubgraphRetriever(None, verify="all", semantics="monomorphism")
    found = loose.index(corpus).search(single, 2)
    assert found.status.tolist() == ["verified", "verified"]


def test_mixed_libraries_share_x_and_edge_attr():
    """Single precision of one side is no difference."""
    g = nx.Graph()
    g.add_node("a", x=[0.1, 1])
    g.add_node("b", x=[0.2, 1])
    g.add_edge("a", "b", edge_attr=0.3)
    other = from_networkx(g)
    assert other.x.dtype == torch.float32
    solver = ExactSolver()
    for query, graph in ((g, other), (other, g), (g, g), (other, other)):
        assert solver.solve(query, graph).status == "verified"
    g.nodes["a"]["x"] = [0.1, 2]
    for query, graph in ((g, other), (other, g)):
        assert solver.solve(query, graph).status == "rejected"


def labeled(**names):
    g = nx.Graph()
    g.add_node(0, **names)
    return g


def test_labels_that_would_be_ignored_are_refused(tmp_path):
    corpus = [labeled(element="C"), labeled(element="O")]
    solver = ExactSolver()
    with pytest.raises(ValueError, match="graph has no node attribute 'atom'"):
        solver.solve(labeled(atom="C"), corpus[0])
    for given in (corpus, GraphCorpus.write(tmp_path, corpus), [(1, []), corpus[0]]):
        for verify in (None, "all"):
            for filter in (None, "degree"):
                search = SubgraphRetriever(None, filter=filter, verify=verify)
                search.index(given)
                with pytest.raises(ValueError, match=r"corpus\[0\] has no node"):
                    search.search(labeled(atom="C"))
    with pytest.raises(ValueError, match="the query has no node attribute 'atm'"):
        ExactSolver(node_attr="atm").solve(corpus[0], corpus[1])
    assert ExactSolver(node_attr=()).solve(*corpus).status == "verified"
    # a query without labels asks for none, and an empty graph has none to lack
    assert solver.solve((1, []), corpus[0]).status == "verified"
    assert solver.solve(corpus[0], nx.Graph()).status == "rejected"


def test_chosen_names_and_what_is_no_label():
    a = labeled(atom="C", charge=1, pos=(0.0, 1.0))
    b = labeled(atom="C", charge=2, pos=(3.0, 1.0))
    assert ExactSolver().solve(a, b).status == "rejected"
    for names in ("atom", ["atom"], ("atom",)):
        assert ExactSolver(node_attr=names).solve(a, b).status == "verified"
    assert ExactSolver(node_attr=["pos", "atom"]).solve(a, b).status == "rejected"


def test_a_missing_label_is_none_and_matches_none():
    g = nx.path_graph(2)
    g.nodes[0]["atom"] = "C"
    assert ExactSolver().solve(g, g).status == "verified"
    other = nx.path_graph(2)
    nx.set_node_attributes(other, "C", "atom")
    assert ExactSolver().solve(g, other).status == "rejected"


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        ("C", "C", "c"),
        (6, np.int64(6), 7),
        (6, 6.0, 6.5),
        ([1, 0], (1, 0), (0, 1)),
        (np.array([1.0, 0.5]), torch.tensor([1.0, 0.5]), [1.0, 0.25]),
        ({"a", "b"}, frozenset(["b", "a"]), {"a"}),
        (None, None, 0),
        (True, 1, False),
        (1e-50, 1e-50, 2e-50),
        (2**60, 2**60, 2**60 + 1),
    ],
)
@pytest.mark.parametrize("name", ["atom", "x"])
def test_equal_values_are_equal_labels(name, value, same, other):
    solver = ExactSolver()
    graph = labeled(**{name: value})
    assert solver.solve(labeled(**{name: same}), graph).status == "verified"
    assert solver.solve(labeled(**{name: other}), graph).status == "rejected"


@pytest.mark.parametrize("value", [np.nan, {"a": 1}, [np.nan, 1.0]])
def test_values_that_are_no_labels_are_named(value):
    with pytest.raises(ValueError, match=r"graph: atom: (found NaN|expected labels)"):
        ExactSolver().solve((1, []), labeled(atom=value))


def test_directed_and_undirected_graphs_are_not_compared():
    arc, edge = nx.DiGraph([(0, 1)]), nx.Graph([(0, 1)])
    solver = ExactSolver()
    with pytest.raises(ValueError, match="the query has directed edges, graph undir"):
        solver.solve(arc, edge)
    with pytest.raises(ValueError, match="graph has directed edges, the query undir"):
        solver.solve(edge, arc)
    search = SubgraphRetriever(None, verify="all").index([edge, arc])
    with pytest.raises(ValueError, match=r"the query has directed edges, corpus\[0\]"):
        search.search(arc)
    with pytest.raises(ValueError, match="directed"):
        ExactSolver(directed=False).solve(edge, arc)
    directed = ExactSolver(directed=True)
    assert directed.solve((2, [(1, 0)]), arc).status == "verified"
    assert directed.solve((2, [(1, 0), (0, 1)]), arc).status == "rejected"
    assert directed.solve(edge, (2, [(1, 0), (0, 1)])).status == "verified"
    with pytest.raises(ValueError, match="directed: expected"):
        ExactSolver(directed="yes")


def test_a_retriever_is_stored_with_its_labels(molecules, tmp_path):
    queries, corpus = molecules
    exact = SubgraphRetriever(None, verify="all", node_attr=["atom"], edge_attr=[])
    exact.index(corpus).save(tmp_path / "r")
    loaded = SubgraphRetriever.load(tmp_path / "r")
    assert loaded.get_params() == exact.get_params()
    for query in queries:
        a, b = exact.search(query, 30), loaded.search(query, 30)
        assert a.status.tolist() == b.status.tolist()
        assert a.ids.tolist() == b.ids.tolist()


def test_networks_say_what_they_do_not_read():
    net = IsoNet("node", layers=1)
    with pytest.warns(UserWarning, match=r"nothing of \['atom'\]"):
        net.score_pairs([labeled(atom="C")], [labeled(atom="O")])
    for graph, match in (
        (nx.DiGraph([(0, 1)]), r"queries\[0\]: directed"),
        (nx.Graph([(0, 0), (0, 1)]), "self loop at node 0"),
        (nx.MultiGraph([(0, 1), (0, 1)]), "parallel edges"),
    ):
        with pytest.raises(ValueError, match=match):
            net.score_pairs([graph], [(1, [])])
    # numbers that are named as features are features, in whatever library
    g = nx.path_graph(3)
    nx.set_node_attributes(g, {v: [float(v), 1.0] for v in g}, "x")
    wide = IsoNet("node", layers=1, node_dim=2)
    pair = [wide.score_pairs([q], [q]) for q in (g, from_networkx(g))]
    assert torch.equal(*pair)


def test_what_may_be_of_nodes_or_of_edges():
    """PyG tells attributes apart by their length only."""
    cycle = nx.DiGraph([(0, 1), (1, 2), (2, 0)])
    nx.set_edge_attributes(cycle, {(0, 1): 1, (1, 2): 2, (2, 0): 2}, "bond")
    path = nx.DiGraph([(0, 1), (1, 2)])
    nx.set_edge_attributes(path, {(0, 1): 1, (1, 2): 2}, "bond")
    a, b = from_networkx(cycle), from_networkx(path)
    loose = ExactSolver("monomorphism")
    for query in (b, path):
        assert loose.solve(query, a).status == "verified"
    with pytest.raises(ValueError, match="'bond' may be of either"):
        loose.solve(a, a)
    # the others of a corpus tell, or the user does
    other = cycle.copy()
    nx.set_edge_attributes(other, {(1, 2): 1}, "bond")
    corpus = [a, b, from_networkx(other)]
    found = SubgraphRetriever(None, verify="all").index(corpus).search(a, 3)
    assert found.status.tolist() == ["verified", "rejected", "rejected"]
    named = ExactSolver(edge_attr="bond")
    answers = [named.solve(a, graph).status for graph in corpus]
    assert answers == ["verified", "rejected", "rejected"]


@pytest.mark.parametrize("value", [7, b"atom", {"atom": 1}, [1], [["atom"]]])
@pytest.mark.parametrize("name", ["node_attr", "edge_attr"])
def test_bad_names(name, value):
    for make in (ExactSolver, CountFilter):
        with pytest.raises(ValueError, match=f"{name}: expected the name"):
            make(**{name: value})
    with pytest.raises(ValueError, match=f"{name}: expected the name"):
        SubgraphRetriever(None, **{name: value}).index([])
