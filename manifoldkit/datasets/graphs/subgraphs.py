"""Which graphs contain which: the subgraph retrieval benchmark, and a generator."""

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_counts,
    check_interval,
    check_limits,
)
from manifoldkit.datasets.archive import Source, obtain, read_archive
from manifoldkit.exceptions import MissingExtraError

Graph = tuple[int, np.ndarray]

SUBGRAPH_SETS = ("aids", "mutag", "ptc_fm", "ptc_fr", "ptc_mm", "ptc_mr")
_SPLITS = ("train", "val", "test")
_COMMIT = "b1f911c0db228708d26a1bee9cb7e81e64d76896"
_PUBLISHER = f"https://raw.githubusercontent.com/structlearning/isonetpp/{_COMMIT}/"
#: SHA-256 of the seven originals of a set, one after the other in the order of _names
SHA256 = {
    "aids": "6668d6abaf84c58c7d3a416db9059d5d6392e00078acba8d80b5801994cb85ac",
    "mutag": "1d00f2ebc8390678e44148a99e92cfbf8c524147b4a841112ae63d35772018b8",
    "ptc_fm": "104d82b68a9aaa022ae1b395647e5ddfdaf9c734445dee14b33e2ed293e73193",
    "ptc_fr": "0d4c61ebec7a5a6c68fa01a42d2e024282aff042d3f24c4e683038dd58eacb27",
    "ptc_mm": "54a9b33c27099c60968650cf9a47239f53ba97e4b8306cb69e18a35fe0dd2693",
    "ptc_mr": "35ebe0689b685b1e69c0445be34be8ddafc2e1b58e0c48831cd27a33c8b50c0b",
}
_KEYS = (
    *("query_num_nodes", "query_edges", "query_edge_ptr", "query_split"),
    *("corpus_num_nodes", "corpus_edges", "corpus_edge_ptr", "relation"),
)


class SubgraphPairs(NamedTuple):
    """Queries, a corpus, and which graph of the corpus contains which query.

    Attributes
    ----------
    queries, corpus : list of (num_nodes, edges)
        Edges are arrays of shape (n_edges, 2), each edge once.
    relation : array of bool, shape (n_queries, n_corpus)
        True where the corpus graph contains the query.
    split : array of str, shape (n_queries,)
        "train", "val" or "test".
    """

    queries: list[Graph]
    corpus: list[Graph]
    relation: np.ndarray
    split: np.ndarray

    def part(self, split: str) -> tuple[list[Graph], np.ndarray]:
        """Return the queries of a split and their rows of the relation."""
        check_choice(split, _SPLITS, "split")
        at = np.flatnonzero(self.split == split)
        return [self.queries[i] for i in at], self.relation[at]


def fetch_subgraph_pairs(
    name: str = "aids", *, path: str | Path | None = None, download: bool = True
) -> SubgraphPairs:
    """Load a set of the subgraph retrieval benchmark, downloading it on first use.

    300 queries (180 training, 45 validation, 75 test) and 800 corpus graphs of up to 20
    nodes: connected, unlabeled parts of molecules. A corpus graph is relevant when the
    query is isomorphic to one of its node-induced subgraphs; every pair is labeled, and
    73 to 228 graphs are relevant to a query. The originals are pickles; they are
    checked by SHA-256 and read by an unpickler that admits plain containers only.

    Parameters
    ----------
    name : {"aids", "mutag", "ptc_fm", "ptc_fr", "ptc_mm", "ptc_mr"}
        Set of molecules.
    path : str or Path, optional
        The archive or its folder; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Allow the download (1 MB).

    Returns
    -------
    SubgraphPairs

    Raises
    ------
    ValueError
        Unknown name, or a file that is something else.
    DatasetNotFoundError
        Not on this machine, and the download is not allowed or failed.

    References
    ----------
    Ramachandran et al., "Iteratively refined early interaction alignment for subgraph
    matching based graph retrieval", NeurIPS 2024; molecules from Morris et al.,
    "TUDataset", 2020.

    Examples
    --------
    >>> pairs = fetch_subgraph_pairs("aids")  # doctest: +SKIP
    >>> pairs.relation.shape, round(pairs.relation.mean(), 3)  # doctest: +SKIP
    ((300, 800), 0.171)
    """
    check_choice(name, SUBGRAPH_SETS, "name")
    source = Source(
        f"subgraph_retrieval/{name}.npz",
        f"{_PUBLISHER}large_dataset/splits",
        "Call fetch_subgraph_pairs with a network.",
        45_000,
    )
    file = obtain(source, lambda: download_pickles(name), path, download)
    return _unpacked(read_archive(file, _KEYS))


def make_subgraph_pairs(
    n_queries: int = 40,
    n_corpus: int = 200,
    *,
    query_nodes: int | tuple[int, int] = (9, 13),
    corpus_nodes: int | tuple[int, int] = (14, 20),
    rings: float = 1.5,
    semantics: str = "induced",
    random_state: int | None = None,
) -> SubgraphPairs:
    """Simulate molecule-like graphs and queries, with the exact relation.

    Corpus graphs are :func:`make_molecule_graphs`; every query is a connected induced
    part of one of them, so that it has a positive. The relation is decided for every
    pair by an exact solver: igraph's LAD if it is installed, else networkx, which is
    about a hundred times slower.

    Parameters
    ----------
    n_queries, n_corpus : int
        Numbers of graphs.
    query_nodes, corpus_nodes : int or pair of int
        Number of nodes; a pair is the smallest and the largest of uniform sizes.
    rings : float
        Mean number of edges beyond a tree.
    semantics : {"induced", "monomorphism"}
        Whether further edges between the image's nodes forbid a match.
    random_state : int, optional
        Seed.

    Returns
    -------
    SubgraphPairs
        Split 6 : 2 : 2.

    Raises
    ------
    TypeError, ValueError
        Numbers that are not whole, or out of range; unknown semantics.

    Examples
    --------
    >>> pairs = make_subgraph_pairs(5, 10, random_state=0)
    >>> pairs.relation.shape, bool(pairs.relation.any(1).all())
    ((5, 10), True)
    """
    check_choice(semantics, ("induced", "monomorphism"), "semantics")
    check_counts(n_queries=n_queries, n_corpus=n_corpus)
    query_nodes = check_limits(query_nodes, "query_nodes")
    corpus_nodes = check_limits(corpus_nodes, "corpus_nodes")
    if query_nodes[1] > corpus_nodes[0]:
        raise ValueError(
            "query_nodes, corpus_nodes: expected queries no larger than any corpus "
            f"graph, found {query_nodes} and {corpus_nodes}"
        )
    rng = np.random.default_rng(random_state)
    corpus = make_molecule_graphs(
        n_corpus, nodes=corpus_nodes, rings=rings, random_state=rng
    )
    queries = []
    for _ in range(n_queries):
        source = corpus[rng.integers(n_corpus)]
        size = int(rng.integers(query_nodes[0], query_nodes[1] + 1))
        queries.append(_connected_part(source, size, rng))
    relation = contains_exactly(queries, corpus, semantics == "induced")
    share = (np.arange(n_queries) + 0.5) / n_queries
    split = np.array(_SPLITS)[np.searchsorted([0.6, 0.8], share)]
    return SubgraphPairs(queries, corpus, relation, split)


def make_molecule_graphs(
    n_graphs: int,
    *,
    nodes: int | tuple[int, int] = (14, 20),
    rings: float = 1.5,
    random_state: int | np.random.Generator | None = None,
) -> list[Graph]:
    """Simulate connected graphs of degree at most 4, like skeletons of molecules.

    A random tree in which a new node prefers recent ones (chains with branches), and a
    Poisson number of further edges that close rings of 5 or 6 nodes where they can.

    Parameters
    ----------
    n_graphs : int
        Number of graphs.
    nodes : int or pair of int
        Number of nodes; a pair is the smallest and the largest of uniform sizes.
    rings : float
        Mean number of rings.
    random_state : int or numpy Generator, optional
        Seed.

    Returns
    -------
    list of (num_nodes, edges)

    Raises
    ------
    TypeError, ValueError
        Numbers that are not whole, or out of range.

    Examples
    --------
    >>> graphs = make_molecule_graphs(3, random_state=0)
    >>> [len(edges) >= n - 1 for n, edges in graphs]
    [True, True, True]
    """
    check_count(n_graphs, "n_graphs")
    low, high = check_limits(nodes, "nodes")
    check_interval(rings, "rings", 0)
    rng = np.random.default_rng(random_state)
    sizes = rng.integers(low, high + 1, n_graphs)
    extra = rng.poisson(rings, n_graphs)
    return [_molecule(int(n), int(k), rng) for n, k in zip(sizes, extra, strict=True)]


def _molecule(n: int, rings: int, rng: np.random.Generator) -> Graph:
    neighbors: list[list[int]] = [[] for _ in range(n)]
    draws = rng.random(n)
    edges: list[tuple[int, int]] = []

    def link(u: int, v: int) -> None:
        edges.append((u, v))
        neighbors[u].append(v)
        neighbors[v].append(u)

    def full(v: int) -> bool:
        return len(neighbors[v]) >= 4

    for v in range(1, n):
        u = v - 1 - int(4 * draws[v] ** 3)  # mostly the last node, or an older one
        while u < 0 or full(u):
            u = v - 1 if u < 0 else u - 1
        link(u, v)
    for start in rng.integers(n, size=rings).tolist():
        far = [v for v in _nodes_at(neighbors, start, (4, 5)) if not full(v)]
        if far and not full(start):
            link(start, far[int(rng.integers(len(far)))])
    return n, np.array(edges, np.int64).reshape(-1, 2)


def _nodes_at(neighbors: list[list[int]], start: int, depths: Sequence[int]) -> list:
    """Return nodes at these distances."""
    seen, layer, found = {start}, [start], []
    for depth in range(1, max(depths) + 1):
        fresh = (w for v in layer for w in neighbors[v] if w not in seen)
        layer = list(dict.fromkeys(fresh))
        seen.update(layer)
        if depth in depths:
            found += layer
    return found


def _connected_part(graph: Graph, size: int, rng: np.random.Generator) -> Graph:
    """Return the subgraph induced by a random connected set of nodes."""
    n, edges = graph
    neighbors: list[list[int]] = [[] for _ in range(n)]
    for u, v in edges.tolist():
        neighbors[u].append(v)
        neighbors[v].append(u)
    chosen = [int(rng.integers(n))]
    while len(chosen) < size:
        border = sorted({w for v in chosen for w in neighbors[v]} - set(chosen))
        chosen.append(border[int(rng.integers(len(border)))])
    place = {v: i for i, v in enumerate(rng.permutation(chosen).tolist())}
    inside = [(place[u], place[v]) for u, v in edges.tolist() if {u, v} <= place.keys()]
    return size, np.array(inside, np.int64).reshape(-1, 2)


def contains_exactly(
    queries: list[Graph], corpus: list[Graph], induced: bool
) -> np.ndarray:
    """Decide every pair; a boolean matrix (n_queries, n_corpus)."""
    try:
        import igraph
    except ImportError:
        return contains_by_networkx(queries, corpus, induced)
    left, right = (
        [igraph.Graph(n, edges.tolist()) for n, edges in graphs]
        for graphs in (queries, corpus)
    )
    found = np.zeros((len(left), len(right)), bool)
    for i, q in enumerate(left):
        for j, c in enumerate(right):
            if q.vcount() <= c.vcount():
                found[i, j] = c.subisomorphic_lad(q, induced=induced)
    return found


def contains_by_networkx(
    queries: list[Graph], corpus: list[Graph], induced: bool
) -> np.ndarray:
    """Decide as :func:`contains_exactly` does, slowly, without igraph."""
    try:
        import networkx as nx
    except ImportError:
        raise MissingExtraError("make_subgraph_pairs", "networkx", "graphs") from None

    def graph(n: int, edges: np.ndarray) -> "nx.Graph":
        made = nx.empty_graph(n)
        made.add_edges_from(edges.tolist())
        return made

    left, right = ([graph(*g) for g in graphs] for graphs in (queries, corpus))
    test = f"subgraph_is_{'isomorphic' if induced else 'monomorphic'}"
    found = np.zeros((len(left), len(right)), bool)
    for i, q in enumerate(left):
        for j, c in enumerate(right):
            matcher = nx.algorithms.isomorphism.GraphMatcher(c, q)
            found[i, j] = getattr(matcher, test)()
    return found


def _unpacked(arrays: dict[str, np.ndarray]) -> SubgraphPairs:
    def graphs(side: str) -> list[Graph]:
        edges = arrays[f"{side}_edges"].astype(np.int64)
        parts = np.split(edges, arrays[f"{side}_edge_ptr"][1:-1])
        counts = arrays[f"{side}_num_nodes"].tolist()
        return [(n, part.copy()) for n, part in zip(counts, parts, strict=True)]

    split = np.array(_SPLITS)[arrays["query_split"]]
    return SubgraphPairs(
        graphs("query"), graphs("corpus"), arrays["relation"] == 1, split
    )


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, numbers and strings, and the state of networkx graphs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("networkx.classes.graph", "Graph"):
            return _GraphState  # its attributes, none of its code
        if (module, name) == ("builtins", "dict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


class _GraphState:
    """What a pickled networkx graph holds."""

    _adj: dict

    def edges(self) -> list[tuple[int, int]]:
        """Return every edge once, in the order in which networkx lists them."""
        seen: set[int] = set()
        found = []
        for u, others in self._adj.items():
            found += [(u, v) for v in others if v not in seen]
            seen.add(u)
        return found


def read_pickled(content: bytes) -> Any:
    """Read a pickle that may hold plain containers and networkx graphs only.

    Raises
    ------
    ValueError
        It names anything else, whose code would run on loading, or is no pickle.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(f"refused to read a pickled file: {error}") from error


def _names(name: str) -> list[str]:
    stem = f"{name}240k"
    kinds = ("query_subgraphs", "rel_nx_is_subgraph_iso")
    queries = [f"{s}/{s}_{stem}_{kind}.pkl" for s in _SPLITS for kind in kinds]
    return [f"{stem}_corpus_subgraphs.pkl", *queries]


def download_pickles(name: str) -> dict[str, np.ndarray]:
    """Download the originals of a set and return the arrays of its archive."""
    import pooch

    address = f"{_PUBLISHER}large_dataset/splits/"
    files = [
        Path(pooch.retrieve(address + part, None, fname=Path(part).name)).read_bytes()
        for part in _names(name)
    ]
    return convert_pickles(name, files)


def convert_pickles(name: str, files: list[bytes]) -> dict[str, np.ndarray]:
    """Check the seven originals of a set and return the arrays of its archive.

    Raises
    ------
    ValueError
        The checksum differs, or a file holds more than plain containers and graphs.
    """
    digest = hashlib.sha256(b"".join(files)).hexdigest()
    if digest != SHA256[name]:
        raise ValueError(
            f"{name}: checksum {digest} is not that of the published files"
        )
    corpus, *rest = (read_pickled(content) for content in files)
    queries = [graph for part in rest[0::2] for graph in part]
    relation = np.full((len(queries), len(corpus)), -1, np.int8)
    answers = [part[i] for part in rest[1::2] for i in range(len(part))]
    for row, answer in enumerate(answers):
        relation[row, answer["pos"]], relation[row, answer["neg"]] = 1, 0
    split = np.repeat(np.arange(3), [len(part) for part in rest[0::2]])
    arrays = {"query_split": split.astype(np.int8), "relation": relation}
    for side, graphs in (("query", queries), ("corpus", corpus)):
        edges = [np.array(g.edges(), np.int16).reshape(-1, 2) for g in graphs]
        arrays[f"{side}_num_nodes"] = np.array([len(g._adj) for g in graphs], np.int16)
        arrays[f"{side}_edges"] = np.concatenate(edges)
        arrays[f"{side}_edge_ptr"] = np.cumsum([0, *map(len, edges)], dtype=np.int32)
    return arrays
