import json

import numpy as np
import pytest

from manifoldkit.graphs import GraphCorpus


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
    with pytest.raises(ValueError, match=r"graphs\[1\]: self loop"):
        GraphCorpus.write(tmp_path, [(1, []), (2, [(1, 1)])])
