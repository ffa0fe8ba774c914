"""Retrieval of the graphs that contain a query, behind scikit-learn's interface."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_random_state
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit._faces.estimator import TorchFace
from manifoldkit._faces.files import read_content, read_tensors
from manifoldkit.graphs.matching.exact import ExactSolver
from manifoldkit.graphs.matching.inputs import (
    PlainGraph,
    as_graph,
    as_graphs,
    check_simple,
)
from manifoldkit.graphs.matching.models.base import MatchingNetwork
from manifoldkit.graphs.matching.models.packed import PackedGraphs
from manifoldkit.graphs.matching.retrieval.cascade import Cascade, SearchResult
from manifoldkit.graphs.matching.retrieval.corpus import GraphCorpus
from manifoldkit.graphs.matching.retrieval.files import corpus_tensors, stored_corpus
from manifoldkit.graphs.matching.retrieval.filters import CountFilter
from manifoldkit.graphs.matching.retrieval.metrics import (
    RetrievalScores,
    retrieval_scores,
)
from manifoldkit.graphs.matching.retrieval.settings import (
    SETTINGS,
    check_relation,
    make_network,
)
from manifoldkit.graphs.matching.retrieval.training import hold_out, train

_OPTIONS = (  # of the training of the networks
    *("lr", "weight_decay", "schedule", "clip", "margin", "max_epochs", "device"),
    *("steps_per_epoch", "batch_size", "max_seconds", "patience", "verbose"),
)


_TERMS = ("node_attr", "edge_attr", "directed")


class SubgraphRetriever(TorchFace, BaseEstimator):
    """Search a corpus for the graphs that contain a query.

    Stages, each of which may be left out: a sound filter by counts, which never rejects
    a graph that holds the query; scores of a late-interaction network, of which the
    best go on; scores of an early-interaction network; an exact check within a time
    budget. For graphs of about 20 nodes the exact check of everything that passes the
    filter, ``model=None, verify="all"``, is both faster and better than any network;
    networks rank where graphs are so large that exact answers time out, or where
    "almost contained" is what is looked for.

    Parameters
    ----------
    model : str or None, default="isonetpp-node"
        "isonetpp-node", "isonetpp-edge", "isonet-node", "isonet-edge", "gmn" or None.
    late : {"isonet-node", "isonet-edge"} or None, default=None
        A cheaper network that chooses what ``model`` sees.
    keep : int, default=500
        How many graphs go on from the late stage.
    filter : str or None, default="motif6"
        "degree", "motif4" to "motif9" (:class:`CountFilter`), or None.
    verify : {None, "top", "all"}, default=None
        Exact checks: down the ranking until ``k`` graphs are verified, or of all that
        pass the filter.
    verify_budget_ms : float, optional
        Time for one pair; what is not decided stays "unverified". Default no limit.
    solver : {"auto", "igraph", "networkx"}, default="auto"
        Who answers exactly, see :class:`~manifoldkit.graphs.ExactSolver`.
    semantics : {"induced", "monomorphism"}, default="induced"
        Whether edges of the corpus graph between images of unlinked nodes forbid a
        match. Filter, networks and solver follow it.
    node_attr, edge_attr : str or sequence of str, optional
        Attributes that filter and exact checks compare; default all that a query
        carries, ``()`` none. Networks read ``x`` and ``edge_attr`` only.
    directed : bool, optional
        How edges are read, see :class:`~manifoldkit.graphs.ExactSolver`. Networks
        refuse directed graphs, loops and parallel edges.
    rounds, layers : int, default=3, 5
        Alignments of IsoNet++, and message passing steps in each.
    lr, weight_decay : float, default=3e-3, 5e-4
        Learning rate and weight decay of Adam.
    schedule : bool, default=False
        Learning rate that rises and falls once over ``max_epochs``.
    clip : float, default=1.0
        Largest norm of the gradient.
    margin : float, default=0.5
        Distance that the ranking loss asks for between positives and negatives.
    max_epochs, steps_per_epoch, batch_size : int, default=100, 200, 128
        An epoch is ``steps_per_epoch`` batches of pairs.
    max_seconds : float, optional
        Ends training of a network after the epoch that passes it.
    early_stopping : bool, default=True
        Validate on MAP after every epoch, stop when it has not improved for
        ``patience`` epochs and keep the best weights.
    validation_fraction : float, default=0.2
        Share of the queries, unless ``fit`` is given ``validation``.
    patience : int, default=20
        Epochs without improvement.
    device : str, default="cpu"
        Where the networks are trained and applied.
    n_jobs : int, optional
        Processes that count for the filter and answer queries (joblib).
    random_state : int, RandomState instance or None, default=None
        Draws the weights, the batches and the validation share.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
    model_, late_ : MatchingNetwork or None
        The networks.
    history_ : list of dict
        One row an epoch of ``model``: ``epoch``, ``train_loss``, ``valid_map``,
        ``dur``.
    n_indexed_ : int
        Graphs in the index.

    Examples
    --------
    >>> from manifoldkit.datasets import make_molecule_graphs
    >>> corpus = make_molecule_graphs(50, random_state=0)
    >>> ring = (6, [(i, (i + 1) % 6) for i in range(6)])
    >>> retriever = SubgraphRetriever(model=None, verify="all").index(corpus)
    >>> found = retriever.search(ring, k=3)
    >>> found.status.tolist()
    ['verified', 'verified', 'verified']
    """

    _format = "manifoldkit.graphs.SubgraphRetriever"
    _settings = SETTINGS
    model_: MatchingNetwork | None
    late_: MatchingNetwork | None
    cascade_: Cascade

    def __init__(
        self,
        model: str | None = "isonetpp-node",
        *,
        late: str | None = None,
        keep: int = 500,
        filter: str | None = "motif6",
        verify: str | None = None,
        verify_budget_ms: float | None = None,
        solver: str = "auto",
        semantics: str = "induced",
        node_attr: str | Sequence[str] | None = None,
        edge_attr: str | Sequence[str] | None = None,
        directed: bool | None = None,
        rounds: int = 3,
        layers: int = 5,
        lr: float = 3e-3,
        weight_decay: float = 5e-4,
        schedule: bool = False,
        clip: float = 1.0,
        margin: float = 0.5,
        max_epochs: int = 100,
        steps_per_epoch: int = 200,
        batch_size: int = 128,
        max_seconds: float | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        patience: int = 20,
        device: str = "cpu",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.model = model
        self.late = late
        self.keep = keep
        self.filter = filter
        self.verify = verify
        self.verify_budget_ms = verify_budget_ms
        self.solver = solver
        self.semantics = semantics
        self.node_attr = node_attr
        self.edge_attr = edge_attr
        self.directed = directed
        self.rounds = rounds
        self.layers = layers
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.clip = clip
        self.margin = margin
        self.max_epochs = max_epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.max_seconds = max_seconds
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, queries: Any, corpus: Any, relation: ArrayLike, validation: Any = None
    ) -> Self:
        """Train the networks and index the corpus.

        Parameters
        ----------
        queries, corpus : list of graphs
            PyG Data, networkx graphs or pairs (num_nodes, edges); the corpus may also
            be a :class:`GraphCorpus`.
        relation : array-like, shape (n_queries, n_corpus)
            One where the corpus graph contains the query, else zero.
        validation : (queries, relation), optional
            What early stopping watches; default a share of the queries.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Settings or shapes that do not fit; with networks, graphs that are directed
            or have loops or parallel edges; no positive or no negative pair.
        MissingExtraError
            skorch is not installed.
        """
        self._check_settings()
        queries = as_graphs(queries, "queries", self.directed)
        relation = check_relation(relation, len(queries), len(corpus))
        self.model_ = self.late_ = None
        self.history_: list[dict] = []
        if self.model is not None or self.late is not None:
            for i, query in enumerate(queries):
                check_simple(query, f"queries[{i}]")
            self._train(queries, corpus, relation, validation)
        return self.index(corpus)

    def _check_settings(self) -> None:
        super()._check_settings()
        self._solver()
        if self.filter is not None:
            CountFilter(self.filter, self.semantics)

    def _solver(self) -> ExactSolver:
        budget = self.verify_budget_ms
        return ExactSolver(self.semantics, budget, self.solver, **self._terms())

    def _terms(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _TERMS}

    def _train(self, queries, corpus, relation, validation) -> None:
        """Train the networks that there are to be, the late one first."""
        rng = check_random_state(self.random_state)
        held = None
        if self.early_stopping and validation is not None:
            found = as_graphs(validation[0], "validation")
            truth = check_relation(validation[1], len(found), len(corpus), "validation")
            held = found, truth
        elif self.early_stopping:
            share = self.validation_fraction
            (queries, relation), held = hold_out(queries, relation, share, rng)
        if relation.all() or not relation.any():
            raise ValueError(
                "relation: expected positive and negative pairs to learn from"
            )
        stored = PackedGraphs(corpus[:], device=self.device, name="corpus")
        asked = PackedGraphs(queries, device=self.device, name="queries")
        watched = None
        if held is not None:
            watched = PackedGraphs(held[0], device=self.device), held[1]
        options = {key: getattr(self, key) for key in _OPTIONS}
        for name in ("late", "model"):
            kind = getattr(self, name)
            if kind is None:
                continue
            seed = int(rng.randint(2**31 - 1))
            network = make_network(self, kind, asked.node_dim, asked.edge_dim, seed)
            rows = train(network, asked, stored, relation, watched, options, seed)
            setattr(self, f"{name}_", network)
            if name == "model" or not self.history_:
                self.history_ = rows

    def index(self, corpus: Any) -> Self:
        """Take in the corpus to search; one other than that of ``fit`` is fine.

        Parameters
        ----------
        corpus : list of graphs or GraphCorpus
            A :class:`GraphCorpus` stays on disk; only counts of it are in memory.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            Settings that do not fit; not a list of graphs.
        NotFittedError
            ``model`` or ``late`` names a network that was not trained.
        """
        self._check_settings()
        if not isinstance(corpus, GraphCorpus):
            corpus = as_graphs(corpus, "corpus", self.directed)
        for name in ("model", "late"):
            asked, there = getattr(self, name), getattr(self, f"{name}_", None)
            if asked is not None and there is None:
                raise NotFittedError(
                    f"{name}={asked!r} has no weights yet: call fit or "
                    "load first, or search without networks with model=None"
                )
        begin = time.perf_counter()
        self.n_indexed_ = len(corpus)
        self.filter_ = None
        if self.filter is not None:
            self.filter_ = CountFilter(self.filter, self.semantics, **self._terms())
            self.filter_.fit(corpus, self.n_jobs)
        if hasattr(self, "cascade_"):
            self.cascade_.solver.close()
        self.cascade_ = Cascade(
            corpus,
            filter=self.filter_,
            late=getattr(self, "late_", None),
            early=getattr(self, "model_", None),
            keep=self.keep,
            verify=self.verify,
            solver=self._solver(),
        )
        self.index_seconds_ = time.perf_counter() - begin
        return self

    def search(self, query: Any, k: int = 10) -> SearchResult:
        """Return the ``k`` graphs most likely to contain a query.

        An empty query is contained in every graph; a query larger than a graph is
        rejected there.

        Parameters
        ----------
        query : graph
        k : int

        Returns
        -------
        SearchResult
            Verified graphs first, then unverified, then rejected ones, each by score.

        Raises
        ------
        NotFittedError
            There is no index.
        TypeError, ValueError
            Not a graph; ``k`` below 1.
        """
        self._check_indexed()
        check_count(k, "k")
        return self.cascade_.search(as_graph(query, "query", self.directed), int(k))

    def search_many(self, queries: Any, k: int = 10) -> list[SearchResult]:
        """Search for several queries, in ``n_jobs`` processes."""
        return self._answers("search", self._read(queries), k)

    def relevance(self, queries: Any, k: int = 20) -> np.ndarray:
        """Return the order that a search gives the whole corpus, as numbers.

        With ``verify="top"`` exact checks end at ``k`` verified graphs, as in a search.

        Returns
        -------
        ndarray of float64, shape (n_queries, n_corpus)
            Higher is better; equal for graphs that nothing tells apart.
        """
        return self._relevance(self._read(queries), k)

    def _relevance(self, queries: list[PlainGraph], k: int) -> np.ndarray:
        rows = self._answers("relevance", queries, k)
        return np.stack(rows) if rows else np.zeros((0, self.n_indexed_))

    def _read(self, queries: Any) -> list[PlainGraph]:
        """Read the queries, once: what is inside takes plain graphs."""
        self._check_indexed()
        return as_graphs(queries, "queries", self.directed)

    def _answers(self, what: str, queries: list[PlainGraph], k: int) -> list:
        """Answer query by query, in ``n_jobs`` processes if there are several."""
        check_count(k, "k")
        answer = getattr(self.cascade_, what)
        if self.n_jobs in (None, 1) or len(queries) < 2:
            return [answer(query, k) for query in queries]
        return Parallel(self.n_jobs)(delayed(answer)(query, k) for query in queries)

    def evaluate(self, queries: Any, relation: Any, k: int = 20) -> RetrievalScores:
        """Return MAP, HITS and precision at ``k`` against the truth.

        Queries without positives or without negatives are left out and counted.
        """
        plain = self._read(queries)
        relation = check_relation(relation, len(plain), self.n_indexed_)
        return retrieval_scores(self._relevance(plain, k), relation, k)

    def recall(self, queries: Any, relation: Any) -> dict[str, float]:
        """Return the share of the positives that each stage lets through.

        Returns
        -------
        dict
            "filter", which is 1 as the filter is sound, and "late" with a late stage.
        """
        plain = self._read(queries)
        relation = check_relation(relation, len(plain), self.n_indexed_)
        if not relation.any():
            raise ValueError("relation: expected a positive pair, found none")
        stages = [self.cascade_.passed(query) for query in plain]
        return {
            name: float(np.stack([s[name] for s in stages])[relation].mean())
            for name in stages[0]
        }

    def score(self, queries: Any, relation: Any) -> float:
        """Return the mean average precision."""
        return self.evaluate(queries, relation).map

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, sizes = {}, {}
        for name in ("model_", "late_"):
            network = getattr(self, name, None)
            if network is not None:
                for key, value in network.state_dict().items():
                    tensors[f"{name}.{key}"] = value
                sizes[name] = network.input_dims
        history = getattr(self, "history_", [])
        content: dict[str, Any] = {"input_dims": sizes, "history": history}
        corpus = self.cascade_.corpus
        if isinstance(corpus, GraphCorpus):
            content["corpus"] = str(corpus.folder.resolve())
        else:
            stored, labels = corpus_tensors(corpus)
            tensors, content = tensors | stored, content | labels
        return tensors, content

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> Self:
        """Read what :meth:`save` wrote, and index its corpus again.

        Parameters
        ----------
        path : str or Path
            Without the suffix.
        device : str, optional
            Where the networks go; default where they were trained.

        Returns
        -------
        A fitted retriever.

        Raises
        ------
        FileNotFoundError
            There is none.
        ValueError
            The files hold something else.
        """
        content, tensors = read_content(path, cls._format), read_tensors(path)
        retriever = cls(**content["params"])
        retriever.device = device or retriever.device
        retriever._restore(content, tensors)
        return retriever

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.history_ = content["history"]
        for name, (nodes, edges) in content["input_dims"].items():
            network = make_network(self, getattr(self, name[:-1]), nodes, edges, 0)
            start = f"{name}."
            network.load_state_dict(
                {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
            )
            setattr(self, name, network.eval())
        self.index(stored_corpus(content, tensors))

    def __sklearn_tags__(self) -> Tags:
        """Graphs are no table, and ``fit`` takes queries, a corpus and a relation."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags._skip_test = False, True
        return tags

    def _check_indexed(self) -> None:
        if not hasattr(self, "cascade_"):
            raise NotFittedError("This SubgraphRetriever has no index: fit or index")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cascade_")
