import json
import subprocess
import sys
import time

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from manifoldkit.graphs import GraphCorpus
from manifoldkit.graphs.matching.inputs import as_graph
from manifoldkit.graphs.matching.views import traits_of


def test_reads_what_it_wrote(tmp_path, random_graphs):
    graphs = [*random_graphs(0, 10), (2, []), (0, [])]
    written = GraphCorpus.write(tmp_path / "a" / "b", iter(graphs))
    for corpus in (written, GraphCorpus(tmp_path / "a" / "b")):
        assert len(corpus) == 12
        for i, (n, edges) in enumerate(graphs):
            assert corpus[i].num_nodes == n
            assert np.array_equal(corpus[i].edges, np.reshape(edges, (-1, 2)))
        assert corpus[-1].num_nodes == 0
        assert [g.num_nodes for g in corpus[2:5]] == [n for n, _ in graphs[2:5]]
        with pytest.raises(IndexError):
            corpus[12]


def test_an_empty_corpus(tmp_path):
    assert len(GraphCorpus.write(tmp_path, [])) == 0


@pytest.mark.parametrize("harm", ["missing", "text", "other", "cut"])
def test_what_is_no_corpus_is_refused(tmp_path, harm, random_graphs):
    GraphCorpus.write(tmp_path, random_graphs(0, 3))
    header = tmp_path / "corpus.json"
    if harm == "missing":
        header.unlink()
    elif harm == "text":
        header.write_text("no")
    elif harm == "other":
        header.write_text(json.dumps({"format": "other"}))
    else:
        (tmp_path / "edges.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=str(tmp_path)):
        GraphCorpus(tmp_path)


def test_a_bad_graph_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"graphs\[1\]: edges name nodes"):
        GraphCorpus.write(tmp_path, [(1, []), (2, [(1, 2)])])
    assert not list(tmp_path.iterdir())


def graphs_with_everything():
    molecule = nx.Graph()
    molecule.add_node("c", atom="C", place=(1, "a"), tags={"x", "y"}, charge=0.1)
    molecule.add_node("o", atom="O", x=[1.0, 2.0])
    molecule.add_edge("c", "o", bond=1, stereo=None, raw=b"\x00", z=1 + 2j)
    parallel = nx.MultiDiGraph([(0, 1), (0, 1), (1, 0), (1, 1)])
    index = torch.tensor([[0, 1], [1, 0]])
    features = Data(
        x=torch.rand(2, 3), edge_index=index, edge_attr=torch.ones(2), kind=["a", "b"]
    )
    one_way = Data(x=torch.rand(2, 1), edge_index=index[:, :1], edge_attr=torch.ones(1))
    return [molecule, parallel, (3, [(0, 1)]), features, one_way, (2, []), (0, [])]


def same(a, b):
    assert (a.num_nodes, a.edges.tolist()) == (b.num_nodes, b.edges.tolist())
    for key in ("x", "edge_attr"):
        left, right = getattr(a, key), getattr(b, key)
        assert (left is None) == (right is None)
        assert left is None or np.array_equal(left, right)
    assert a.directed is b.directed
    assert a.arcs.tolist() == b.arcs.tolist()
    assert traits_of(a) == traits_of(b)
    if a.details is not None:
        assert a.details[2:] == b.details[2:]


def test_keeps_labels_features_directions_and_parallel_edges(tmp_path):
    graphs = graphs_with_everything()
    corpus = GraphCorpus.write(tmp_path, graphs)
    for given, stored in zip(graphs, GraphCorpus(tmp_path), strict=True):
        same(as_graph(given), stored)
    assert {kind.traits for kind in corpus.kinds} == {
        traits_of(as_graph(graph)) for graph in graphs
    }
    same(corpus[-3], as_graph(graphs[4]))


def test_labels_that_files_do_not_hold_are_named(tmp_path):
    g = nx.Graph()
    g.add_node(0, atom=object())
    with pytest.raises(ValueError, match=r"graphs\[0\]: atom: expected labels"):
        GraphCorpus.write(tmp_path, [g])


def test_an_iterator_that_fails_leaves_the_old_corpus(tmp_path, random_graphs):
    GraphCorpus.write(tmp_path, random_graphs(0, 5))

    def broken():
        yield from random_graphs(1, 3)
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        GraphCorpus.write(tmp_path, broken())
    assert sorted(tmp_path.iterdir()) == before
    sizes = [n for n, _ in random_graphs(0, 5)]
    assert [g.num_nodes for g in GraphCorpus(tmp_path)] == sizes


def test_a_corpus_can_be_filtered_into_its_own_folder(tmp_path, random_graphs):
    graphs = random_graphs(0, 60)
    corpus = GraphCorpus.write(tmp_path, graphs)
    for least in (5, 7):  # from the plain files, and from files of a rewrite
        kept = [n for n, _ in graphs if n >= least]
        corpus = GraphCorpus.write(
            tmp_path, (g for g in corpus if g.num_nodes >= least)
        )
        assert [g.num_nodes for g in corpus] == kept
        assert [g.num_nodes for g in GraphCorpus(tmp_path)] == kept
    assert len(list(tmp_path.iterdir())) == 2  # header and files of the last


def test_readers_keep_the_old_corpus_until_they_open_again(tmp_path, random_graphs):
    old, new = random_graphs(0, 20), random_graphs(1, 30)
    GraphCorpus.write(tmp_path, old)
    reader, during = GraphCorpus(tmp_path), []

    def stream():
        for i, graph in enumerate(new):
            if i == 15:
                during.append(len(GraphCorpus(tmp_path)))
            yield graph

    GraphCorpus.write(tmp_path, stream())
    assert during == [20]
    assert [g.edges.tolist() for g in reader] == [e.tolist() for _, e in old]
    assert [g.edges.tolist() for g in GraphCorpus(tmp_path)] == [
        e.tolist() for _, e in new
    ]


KILLED = """
import itertools, sys
from manifoldkit.graphs import GraphCorpus
corpus = GraphCorpus(sys.argv[1])
print("started", flush=True)
for turn in itertools.count():
    corpus = GraphCorpus.write(sys.argv[1], [corpus[i % 9] for i in range(2000)])
    print(turn, flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing(tmp_path, random_graphs):
    """At times spread over a rewrite, found by looking at how long one takes."""
    graphs = random_graphs(0, 9)
    GraphCorpus.write(tmp_path, graphs)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    for wait in (0.0, 0.03, 0.1):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "started\n"
        time.sleep(wait)
        child.kill()
        child.communicate()
        corpus = GraphCorpus(tmp_path)
        assert len(corpus) in (9, 2000)
        for i in range(len(corpus)):
            assert np.array_equal(corpus[i].edges, graphs[i % 9][1])
    GraphCorpus.write(tmp_path, graphs)  # which also clears up
    assert len(list(tmp_path.iterdir())) == 2


def test_a_header_names_no_files_elsewhere(tmp_path, random_graphs):
    GraphCorpus.write(tmp_path / "a", random_graphs(0, 3))
    header = tmp_path / "a" / "corpus.json"
    content = json.loads(header.read_text())
    for path in ("..", "/etc", ".corpus-/../.."):
        header.write_text(json.dumps(content | {"folder": path}))
        with pytest.raises(ValueError, match="elsewhere"):
            GraphCorpus(tmp_path / "a")
