import json
import pickle

import networkx as nx
import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch_geometric.data import Data

from manifoldkit.datasets import make_subgraph_pairs
from manifoldkit.graphs import GraphCorpus, SubgraphRetriever
from manifoldkit.graphs.matching.inputs import as_graph
from manifoldkit.graphs.matching.retrieval.cascade import assignment

QUICK = {"max_epochs": 2, "steps_per_epoch": 3, "batch_size": 16, "random_state": 0}


@pytest.fixture(scope="module")
def pairs():
    return make_subgraph_pairs(
        12, 40, query_nodes=(7, 9), corpus_nodes=(9, 12), random_state=0
    )


@pytest.fixture(scope="module")
def fitted(pairs):
    retriever = SubgraphRetriever(rounds=2, layers=2, **QUICK)
    return retriever.fit(pairs.queries, pairs.corpus, pairs.relation)


def test_checking_everything_is_perfect(pairs):
    exact = SubgraphRetriever(model=None, verify="all").index(pairs.corpus)
    assert exact.score(pairs.queries, pairs.relation) == 1.0
    for query, truth in zip(pairs.queries, pairs.relation, strict=True):
        found = exact.search(query, k=40)
        assert sorted(found.ids.tolist()) == list(range(40))
        assert ((found.status == "verified") == truth[found.ids]).all()
        assert "unverified" not in found.status
        for i, image in zip(found.ids, found.alignment, strict=True):
            assert len(image) == (query[0] if truth[i] else 0)


@pytest.mark.parametrize("options", [{}, {"filter": None}, {"filter": "degree"}])
def test_verifying_down_the_ranking(fitted, pairs, options):
    top = clone(fitted).set_params(verify="top", **options)
    top.model_ = fitted.model_
    top.index(pairs.corpus)
    for query, truth in zip(pairs.queries, pairs.relation, strict=True):
        found = top.search(query, k=3)
        wanted = min(3, int(truth.sum()))
        assert (found.status[:wanted] == "verified").all()
        assert truth[found.ids[:wanted]].all()
        # among the verified, the network's order
        assert (np.diff(found.scores[:wanted]) <= 1e-9).all()


def test_rejected_graphs_never_hold_the_query(fitted, pairs):
    for query, truth in zip(pairs.queries, pairs.relation, strict=True):
        found = fitted.search(query, k=40)
        assert not truth[found.ids[found.status == "rejected"]].any()
        assert found.counts["filter"] == (found.status != "rejected").sum()
        assert set(found.seconds) == {"filter", "early"}
        assert found.timing["total"] == sum(found.seconds.values()) > 0


def test_the_order_is_that_of_the_networks_scores(fitted, pairs):
    query = pairs.queries[0]
    found = fitted.search(query, k=40)
    expected = fitted.model_.score_matrix([query], pairs.corpus)[0].numpy()
    alive = found.status == "unverified"
    np.testing.assert_allclose(
        found.scores[alive], expected[found.ids[alive]], rtol=1e-4, atol=1e-4
    )
    assert (np.diff(found.scores[alive]) <= 0).all()
    order = np.argsort(-fitted.relevance([query])[0], kind="stable")
    assert set(order[: alive.sum()]) == set(found.ids[alive])


def test_late_stage_passes_on_the_best(pairs):
    both = SubgraphRetriever(
        "isonetpp-edge", late="isonet-node", keep=5, rounds=2, layers=2, **QUICK
    ).fit(pairs.queries, pairs.corpus, pairs.relation)
    found = both.search(pairs.queries[0], k=40)
    assert found.counts["late"] <= 5
    assert found.counts["early"] == found.counts["late"]
    assert len(both.history_) == 2
    assert 0 < both.score(pairs.queries, pairs.relation) <= 1
    recall = both.recall(pairs.queries, pairs.relation)
    assert recall["filter"] == 1
    assert 0 < recall["late"] < 1
    with pytest.raises(ValueError, match="positive pair"):
        both.recall(pairs.queries, np.zeros_like(pairs.relation))


@pytest.mark.parametrize("model", ["isonet-edge", "isonet-node", "gmn"])
def test_other_networks(model, pairs):
    retriever = SubgraphRetriever(model, layers=2, **QUICK)
    retriever.fit(pairs.queries, pairs.corpus, pairs.relation)
    found = retriever.search(pairs.queries[0], k=2)
    assert len(found.alignment[0]) > 0


def test_forms_of_graphs(fitted, pairs):
    n, edges = pairs.queries[0]
    g = nx.empty_graph(n)
    g.add_edges_from(edges.tolist())
    index = torch.from_numpy(np.concatenate([edges, edges[:, ::-1]]).T.copy())
    forms = [(n, edges), g, Data(edge_index=index, num_nodes=n)]
    found = [fitted.search(form, k=5) for form in forms]
    for other in found[1:]:
        assert np.array_equal(other.ids, found[0].ids)
        np.testing.assert_allclose(other.scores, found[0].scores, rtol=1e-4, atol=1e-5)


def test_early_stopping_keeps_the_best_weights(pairs):
    options = QUICK | {"max_epochs": 6, "patience": 2, "steps_per_epoch": 2}
    retriever = SubgraphRetriever("isonet-node", layers=2, filter=None, **options)
    held = pairs.queries[:5], pairs.relation[:5]
    retriever.fit(pairs.queries[5:], pairs.corpus, pairs.relation[5:], held)
    best = max(row["valid_map"] for row in retriever.history_)
    assert retriever.score(*held) == pytest.approx(best)
    again = clone(retriever).fit(
        pairs.queries[5:], pairs.corpus, pairs.relation[5:], held
    )
    assert again.history_[-1]["valid_map"] == retriever.history_[-1]["valid_map"]


def test_time_ends_a_training(pairs):
    options = QUICK | {"max_epochs": 1000}
    retriever = SubgraphRetriever("isonet-node", layers=1, max_seconds=0.01, **options)
    retriever.fit(pairs.queries, pairs.corpus, pairs.relation)
    assert len(retriever.history_) < 5
    assert all("train_loss" in row for row in retriever.history_)


def test_save_and_load(fitted, pairs, tmp_path):
    fitted.save(tmp_path / "r")
    assert {p.name for p in tmp_path.iterdir()} == {"r.json", "r.safetensors"}
    loaded = SubgraphRetriever.load(tmp_path / "r")
    query = pairs.queries[1]
    a, b = fitted.search(query, 5), loaded.search(query, 5)
    assert np.array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5)
    assert loaded.get_params() == fitted.get_params()
    (tmp_path / "r.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="does not hold"):
        SubgraphRetriever.load(tmp_path / "r")
    with pytest.raises(FileNotFoundError):
        SubgraphRetriever.load(tmp_path / "none")


def test_features_are_saved_with_the_corpus(tmp_path):
    index = torch.tensor([[0, 1], [1, 0]])
    graphs = [Data(x=torch.tensor([[a], [1.0]]), edge_index=index) for a in (1.0, 2.0)]
    SubgraphRetriever(model=None, verify="all").index(graphs).save(tmp_path / "r")
    loaded = SubgraphRetriever.load(tmp_path / "r")
    assert loaded.search(graphs[1], 2).status.tolist() == ["verified", "rejected"]


def test_graphs_with_and_without_features_stay_apart_on_disk(tmp_path):
    index = torch.tensor([[0, 1], [1, 0]])
    named = Data(x=torch.tensor([[3.0], [4.0]]), edge_index=index)
    corpus = [(2, [(0, 1)]), named, (1, [])]
    SubgraphRetriever(model=None, verify="all").index(corpus).save(tmp_path / "r")
    loaded = SubgraphRetriever.load(tmp_path / "r")
    kept = [graph.x for graph in loaded.cascade_.corpus]
    assert [x is None for x in kept] == [True, False, True]
    assert kept[1].tolist() == [[3.0], [4.0]]


def test_what_is_not_plain_is_not_saved(pairs, tmp_path):
    seeded = SubgraphRetriever(model=None, random_state=np.random.RandomState(0))
    with pytest.raises(TypeError, match="random_state"):
        seeded.index(pairs.corpus).save(tmp_path / "r")
    assert not list(tmp_path.iterdir())


def test_pickles_and_parallel_queries(fitted, pairs):
    copy = pickle.loads(pickle.dumps(fitted))
    copy.set_params(n_jobs=2)
    with parallel_config(backend="threading"):  # processes take seconds to start
        several = copy.search_many(pairs.queries[:3], 4)
        relevance = copy.relevance(pairs.queries[:2])
    for query, found in zip(pairs.queries[:3], several, strict=True):
        assert np.array_equal(found.ids, fitted.search(query, 4).ids)
    np.testing.assert_array_equal(relevance, fitted.relevance(pairs.queries[:2]))


def test_a_corpus_on_disk(fitted, pairs, tmp_path):
    disk = clone(fitted)
    disk.model_ = fitted.model_
    disk.set_params(verify="top").index(GraphCorpus.write(tmp_path, pairs.corpus))
    memory = clone(disk)
    memory.model_ = fitted.model_
    memory.index(pairs.corpus)
    a, b = disk.search(pairs.queries[0], 5), memory.search(pairs.queries[0], 5)
    assert np.array_equal(a.ids, b.ids)
    disk.save(tmp_path / "saved")
    loaded = SubgraphRetriever.load(tmp_path / "saved")
    assert np.array_equal(loaded.search(pairs.queries[0], 5).ids, a.ids)


def test_large_corpora_are_encoded_as_they_are_asked_for(fitted, pairs, monkeypatch):
    from manifoldkit.graphs.matching.retrieval import cascade

    expected = fitted.search(pairs.queries[0], 6)
    monkeypatch.setattr(cascade, "IN_MEMORY", 10)
    other = clone(fitted)
    other.model_ = fitted.model_
    found = other.index(pairs.corpus).search(pairs.queries[0], 6)
    assert np.array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


class CountsItsReads:
    """A graph as PyG has them that knows how often its edges were asked for."""

    num_nodes, reads = 2, 0

    @property
    def edge_index(self):
        self.reads += 1
        return torch.tensor([[0, 1], [1, 0]])


def test_every_graph_is_read_once(pairs):
    alone = CountsItsReads()
    as_graph(alone)
    query, corpus = CountsItsReads(), [CountsItsReads() for _ in range(3)]
    retriever = SubgraphRetriever(None, verify="all").index(corpus)
    for _ in range(2):
        query.reads = 0
        retriever.search(query)
        assert query.reads == alone.reads
    query.reads = 0
    retriever.evaluate([query, (2, [])], [[1, 0, 1], [1, 1, 1]])
    assert query.reads == alone.reads
    assert [graph.reads for graph in corpus] == [alone.reads] * 3


def test_a_budget_leaves_pairs_unverified():
    corpus = [nx.random_regular_graph(6, 200, seed=s) for s in range(2)]
    query = nx.random_regular_graph(5, 40, seed=7)
    retriever = SubgraphRetriever(
        model=None,
        verify="all",
        verify_budget_ms=20,
        solver="networkx",
        semantics="monomorphism",
        filter="degree",
    ).index(corpus)
    assert set(retriever.search(query, 2).status) == {"unverified"}


def test_empty_and_oversized_queries(fitted, pairs):
    assert (fitted.search((0, []), 3).status == "unverified").all()
    plain = SubgraphRetriever(model=None, filter=None).index(pairs.corpus)
    assert (plain.search(nx.path_graph(30), 3).status == "rejected").all()
    exact = SubgraphRetriever(model=None, verify="all").index(pairs.corpus)
    assert (exact.search((0, []), 3).status == "verified").all()


def test_queries_without_positives_are_skipped_and_counted(pairs):
    exact = SubgraphRetriever(model=None, verify="all").index(pairs.corpus)
    queries = [*pairs.queries[:2], nx.complete_graph(6)]
    relation = np.concatenate([pairs.relation[:2], np.zeros((1, 40), bool)])
    found = exact.evaluate(queries, relation)
    assert (found.n_queries, found.n_skipped) == (2, 1)


def test_assignment_of_unequal_sets():
    plan = np.array([[0.9, 0.1], [0.8, 0.7], [0.1, 0.2]])
    assert assignment(plan).tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "gnn"}, "model"),
        ({"late": "isonetpp-node"}, "late"),
        ({"verify": "some"}, "verify"),
        ({"filter": "motif"}, "kind"),
        ({"keep": 0}, "keep"),
        ({"batch_size": 1}, "batch_size"),
        ({"max_epochs": 1.5}, "max_epochs"),
        ({"rounds": 0}, "rounds"),
        ({"lr": -1.0}, "lr"),
        ({"margin": np.nan}, "margin"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"verify_budget_ms": -1}, "budget_ms"),
        ({"semantics": "both"}, "semantics"),
        ({"solver": "none"}, "solver"),
    ],
)
def test_bad_settings_are_named_in_fit(options, match, pairs):
    retriever = SubgraphRetriever(**options)
    with pytest.raises(ValueError, match=match):
        retriever.fit(pairs.queries, pairs.corpus, pairs.relation)


def test_bad_data(pairs, fitted):
    retriever = SubgraphRetriever(**QUICK)
    with pytest.raises(ValueError, match=r"relation: expected shape .* \(12, 40\)"):
        retriever.fit(pairs.queries, pairs.corpus, pairs.relation[:, :5])
    for odd in (np.nan, -1, 2):  # a missing label is no label
        relation = pairs.relation.astype(float)
        relation[0, 0] = odd
        with pytest.raises(ValueError, match="relation: expected zeros and ones"):
            retriever.fit(pairs.queries, pairs.corpus, relation)
    with pytest.raises(ValueError, match="positive and negative"):
        SubgraphRetriever(early_stopping=False).fit(
            pairs.queries, pairs.corpus, np.ones((12, 40))
        )
    with pytest.raises(ValueError, match="early_stopping"):
        retriever.fit(pairs.queries[:1], pairs.corpus, pairs.relation[:1])
    with pytest.raises(ValueError, match="directed"):
        retriever.fit([nx.DiGraph([(0, 1)])], pairs.corpus, pairs.relation[:1])
    with pytest.raises(ValueError, match="k: "):
        fitted.search(pairs.queries[0], 0)
    with pytest.raises(NotFittedError):
        SubgraphRetriever().search(pairs.queries[0])
    with pytest.raises(NotFittedError, match="no weights"):
        SubgraphRetriever().index(pairs.corpus)
