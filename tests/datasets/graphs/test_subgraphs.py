"""Subgraph pairs: safe reading of the originals, exact relations, simulation."""

import os
import pickle

import networkx as nx
import numpy as np
import pytest

from manifoldkit.datasets import (
    fetch_subgraph_pairs,
    make_molecule_graphs,
    make_subgraph_pairs,
)
from manifoldkit.datasets.archive import find_archive
from manifoldkit.datasets.graphs import subgraphs
from manifoldkit.exceptions import DatasetNotFoundError

ARCHIVE = find_archive("subgraph_retrieval/aids.npz")


class Harmful:
    """Runs a command when it is unpickled by the ordinary unpickler."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_malicious_file_is_refused_and_does_nothing(tmp_path):
    target = tmp_path / "made"
    content = pickle.dumps([Harmful(target)])
    with pytest.raises(ValueError, match="not allowed"):
        subgraphs.read_pickled(content)
    assert not target.exists()


@pytest.mark.parametrize(
    "value", [eval, print, nx.DiGraph([(0, 1)]), np.zeros(3), Exception("x")]
)
def test_anything_but_containers_and_graphs_is_refused(value):
    with pytest.raises(ValueError, match="refused"):
        subgraphs.read_pickled(pickle.dumps({"pos": [value]}))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", b"no pickle", b"\x80\x04N.."[:3]]
)
def test_what_is_no_pickle_is_refused(content):
    with pytest.raises(ValueError, match="refused"):
        subgraphs.read_pickled(content)


def test_containers_and_graphs_are_read():
    relation = {0: {"pos": [1, 2], "neg": []}}
    assert subgraphs.read_pickled(pickle.dumps(relation)) == relation
    graph = nx.petersen_graph()
    read = subgraphs.read_pickled(pickle.dumps([graph]))[0]
    assert read.edges() == list(graph.edges)
    assert not isinstance(read, nx.Graph)


def published(rng):
    """Files as the authors write them: a corpus, then queries and relation by split."""
    graphs = [nx.path_graph(int(n)) for n in rng.integers(2, 6, 10)]
    files, truth = [pickle.dumps(graphs[:4])], []
    for part in (graphs[4:6], graphs[6:8], graphs[8:]):
        rows = rng.random((len(part), 4)) < 0.5
        truth.append(rows)
        relation = {
            i: {"pos": np.flatnonzero(r).tolist(), "neg": np.flatnonzero(~r).tolist()}
            for i, r in enumerate(rows)
        }
        files += [pickle.dumps(part), pickle.dumps(relation)]
    return graphs, files, np.concatenate(truth)


def test_the_originals_become_an_archive(monkeypatch, tmp_path):
    import hashlib

    graphs, files, truth = published(np.random.default_rng(0))
    digest = hashlib.sha256(b"".join(files)).hexdigest()
    monkeypatch.setitem(subgraphs.SHA256, "aids", digest)
    monkeypatch.setattr(
        subgraphs,
        "download_pickles",
        lambda name: subgraphs.convert_pickles(name, files),
    )
    pairs = fetch_subgraph_pairs("aids", path=tmp_path)
    assert (tmp_path / "subgraph_retrieval" / "aids.npz").exists()
    assert np.array_equal(pairs.relation, truth)
    assert pairs.split.tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    for graph, (n, edges) in zip(graphs, pairs.corpus + pairs.queries, strict=True):
        assert n == graph.number_of_nodes()
        assert edges.tolist() == [list(e) for e in graph.edges]
    queries, relation = pairs.part("val")
    assert len(queries) == 2
    assert np.array_equal(relation, truth[2:4])


def test_changed_originals_are_refused():
    files = published(np.random.default_rng(0))[1]
    with pytest.raises(ValueError, match="checksum"):
        subgraphs.convert_pickles("aids", files)


def test_not_here_and_no_download(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"aids\.npz"):
        fetch_subgraph_pairs("aids", path=tmp_path, download=False)


@pytest.mark.skipif(ARCHIVE is None, reason="the archive is not on this machine")
def test_the_archive():
    pairs = fetch_subgraph_pairs("aids", download=False)
    assert (len(pairs.queries), len(pairs.corpus)) == (300, 800)
    assert pairs.relation.sum() == 41_001
    assert [(pairs.split == s).sum() for s in ("train", "val", "test")] == [180, 45, 75]
    assert max(n for n, _ in pairs.corpus) == 20
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(300, size=4), rng.integers(800, size=4)
    exact = subgraphs.contains_exactly(
        [pairs.queries[i] for i in rows], [pairs.corpus[j] for j in columns], True
    )
    assert np.array_equal(exact, pairs.relation[np.ix_(rows, columns)])


def test_simulated_graphs_look_like_molecules():
    graphs = make_molecule_graphs(100, nodes=(5, 25), random_state=0)
    for n, edges in graphs:
        g = nx.empty_graph(n)
        g.add_edges_from(edges.tolist())
        assert nx.is_connected(g)
        assert max(dict(g.degree).values()) <= 4
        assert g.number_of_edges() == len(edges) >= n - 1
    again = make_molecule_graphs(100, nodes=(5, 25), random_state=0)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(graphs, again, strict=True))


def test_both_solvers_decide_alike(monkeypatch):
    pytest.importorskip("igraph")
    sizes = {"query_nodes": (5, 6), "corpus_nodes": (7, 9)}
    for semantics in ("induced", "monomorphism"):
        pairs = make_subgraph_pairs(8, 12, **sizes, semantics=semantics, random_state=1)
        other = subgraphs.contains_by_networkx(
            pairs.queries, pairs.corpus, semantics == "induced"
        )
        assert np.array_equal(pairs.relation, other)
        assert pairs.relation.any(1).all()
        assert 0 < pairs.relation.mean() < 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: fetch_subgraph_pairs("zinc"), "name"),
        (lambda: make_subgraph_pairs(0), "n_queries"),
        (lambda: make_subgraph_pairs(semantics="both"), "semantics"),
        (lambda: make_subgraph_pairs(query_nodes=(9, 30)), "no larger than"),
        (lambda: make_subgraph_pairs(query_nodes=(5, 4)), "query_nodes"),
        (lambda: make_molecule_graphs(0), "n_graphs"),
        (lambda: make_molecule_graphs(1, nodes=(0, 3)), "nodes"),
        (lambda: make_molecule_graphs(1, rings=-1), "rings"),
        (lambda: make_subgraph_pairs(3, 5, random_state=0).part("all"), "split"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
