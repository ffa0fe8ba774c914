import itertools
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from joblib import parallel_config
from networkx.algorithms.isomorphism import GraphMatcher

from manifoldkit.graphs import CountFilter, GraphCorpus
from manifoldkit.graphs.matching.inputs import as_graph
from manifoldkit.graphs.matching.retrieval.motifs import motif_counts


def to_networkx(graph):
    g = nx.empty_graph(graph[0])
    g.add_edges_from(np.asarray(graph[1]).reshape(-1, 2).tolist())
    return g


def table(found, graph):
    rows = found.graph == graph
    return Counter(
        dict(zip(found.kind[rows].tolist(), found.times[rows].tolist(), strict=True))
    )


def test_counts_are_those_of_all_subsets(random_graphs):
    graphs = random_graphs(0, 8, 5, 9, 0.4)
    found = motif_counts([as_graph(g) for g in graphs], 5)
    for i, graph in enumerate(graphs):
        g = to_networkx(graph)
        for size in range(1, 6):
            subsets = [
                s
                for s in itertools.combinations(g, size)
                if nx.is_connected(g.subgraph(s))
            ]
            rows = (found.graph == i) & (found.size == size)
            assert found.times[rows].sum() == len(subsets)
            kinds = {tuple(sorted(d for _, d in g.subgraph(s).degree)) for s in subsets}
            assert rows.sum() >= len(kinds)


def test_all_connected_graphs_of_up_to_six_nodes_are_told_apart():
    atlas = [
        g
        for g in nx.graph_atlas_g()
        if 1 <= g.number_of_nodes() <= 6 and nx.is_connected(g)
    ]
    plain = [as_graph(g) for g in atlas]
    found = motif_counts(plain, 6)
    kinds = [
        found.kind[(found.graph == i) & (found.size == g.num_nodes)]
        for i, g in enumerate(plain)
    ]
    assert len({int(k[0]) for k in kinds}) == len(atlas) == 143


def test_relabeling_changes_nothing(random_graphs):
    rng = np.random.default_rng(0)
    graphs = random_graphs(1, 6, 8, 9)
    shuffled = [(n, rng.permutation(n)[e]) for n, e in graphs]
    a, b = (motif_counts([as_graph(g) for g in s], 6) for s in (graphs, shuffled))
    assert all(table(a, i) == table(b, i) for i in range(6))


def test_graphs_of_more_than_64_nodes():
    ladder = nx.convert_node_labels_to_integers(nx.grid_2d_graph(50, 2))
    found = motif_counts([as_graph(ladder), as_graph(nx.path_graph(3))], 4)
    counts = found.times[(found.graph == 0) & (found.size == 4)]
    squares = 49
    assert squares in counts.tolist()
    assert found.times[(found.graph == 0) & (found.size == 2)].tolist() == [148]


@pytest.mark.parametrize("limit", [100_000, 12])
@pytest.mark.parametrize("semantics", ["induced", "monomorphism"])
@pytest.mark.parametrize("kind", ["degree", "motif4", "motif6"])
def test_never_rejects_a_graph_that_holds_the_query(
    kind, semantics, limit, random_graphs
):
    corpus = random_graphs(2, 30, 4, 9, 0.35)
    queries = random_graphs(3, 20, 2, 6, 0.5)
    found = CountFilter(kind, semantics, limit).fit(corpus).admits_all(queries)
    rejected = 0
    for (i, q), (j, c) in itertools.product(enumerate(queries), enumerate(corpus)):
        matcher = GraphMatcher(to_networkx(c), to_networkx(q))
        holds = (
            matcher.subgraph_is_isomorphic()
            if semantics == "induced"
            else matcher.subgraph_is_monomorphic()
        )
        assert found[i, j] or not holds
        rejected += not found[i, j]
    assert rejected > 50


def test_larger_motifs_reject_more(random_graphs):
    corpus, queries = random_graphs(4, 40, 8, 10, 0.3), random_graphs(5, 15, 6, 7, 0.3)
    passed = [
        CountFilter(kind).fit(corpus).admits_all(queries).sum()
        for kind in ("degree", "motif4", "motif6")
    ]
    assert passed[0] > passed[1] > passed[2]


def test_blocks_workers_and_disk_give_the_same(random_graphs, tmp_path, monkeypatch):
    from manifoldkit.graphs.matching.retrieval import filters

    corpus, query = random_graphs(6, 25), random_graphs(7, 1, 4, 4)[0]
    whole = CountFilter("motif5").fit(corpus)
    cut = filters.blocks
    monkeypatch.setattr(filters, "blocks", lambda graphs: cut(graphs, 7))
    pieces = CountFilter("motif5").fit(corpus)
    with parallel_config(backend="threading"):  # processes take seconds to start
        disk = CountFilter("motif5").fit(GraphCorpus.write(tmp_path, corpus), n_jobs=2)
    for other in (pieces, disk):
        assert np.array_equal(other.counts_, whole.counts_)
        assert np.array_equal(other.admits(query), whole.admits(query))


def test_queries_with_what_the_corpus_lacks():
    corpus = [nx.path_graph(6), nx.path_graph(4)]
    for query in (nx.star_graph(7), nx.cycle_graph(3), nx.path_graph(9)):
        assert not CountFilter("motif4").fit(corpus).admits(query).any()
    assert CountFilter("motif4").fit(corpus).admits((0, [])).all()
    assert CountFilter("motif4").fit(corpus).admits((1, [])).all()


def star(leaves):
    return leaves + 1, np.stack([np.zeros(leaves, int), np.arange(1, leaves + 1)], 1)


@pytest.mark.parametrize("part", [60_000, 65_535, 65_536, 69_999, 70_000])
def test_counts_beyond_16_bits_reject_nothing(part):
    """Edges, walks, nodes and degrees of large graphs, in a table of small integers."""
    counts = CountFilter("degree").fit([star(70_000), star(50_000)])
    assert counts.admits(star(part)).tolist() == [True, False]
    assert counts.slack(star(part))[0] == 0


@pytest.mark.parametrize("leaves", [100, 362, 363, 399])
def test_motifs_beyond_16_bits_reject_nothing(leaves):
    """A star of n leaves has n (n - 1) / 2 paths of three nodes: 65341 for 362."""
    counts = CountFilter("motif3").fit([star(400)])
    assert counts.admits(star(leaves)).all()
    assert counts.slack(star(leaves)).tolist() == [0]


def test_slack_ranks_without_training():
    corpus = [nx.path_graph(6), nx.cycle_graph(6), nx.star_graph(5)]
    slack = CountFilter("motif4").fit(corpus).slack(nx.path_graph(5))
    assert slack[0] == 0
    assert slack[2] < 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: CountFilter("motif0"), "motif1"),
        (lambda: CountFilter("motif10"), "motif1"),
        (lambda: CountFilter(6), "motif1"),
        (lambda: CountFilter("degree", "both"), "semantics"),
        (lambda: CountFilter().admits((1, [])), "fit the filter"),
        (lambda: motif_counts([], 0), "size"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
