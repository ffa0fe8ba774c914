"""Random graphs of many kinds and what algorithms say about them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from manifoldkit._checks import check_count, check_limits

_Rng = np.random.RandomState
_Edges = np.ndarray  # shape (n_edges, 2), one direction


class GraphTasks(NamedTuple):
    """Graphs side by side with targets for nodes and graphs.

    Attributes
    ----------
    x : ndarray of float32, shape (n_nodes, 2)
        A random number in [0, 1) and a mark of the source node.
    edge_index : ndarray of int64, shape (2, n_edges)
        Source and target of every edge, both directions.
    batch : ndarray of int64, shape (n_nodes,)
        Graph of each node.
    y_node : ndarray of float32, shape (n_nodes, 3)
        Distance to the source (-1 without a path), eccentricity in the node's component
        and ``(D - A) x`` for the random number x.
    y_graph : ndarray of float32, shape (n_graphs, 3)
        Connected or not, diameter (of the largest component by diameter), spectral
        radius of A.
    kind : ndarray of str, shape (n_graphs,)
        How the graph was drawn.
    """

    x: np.ndarray
    edge_index: np.ndarray
    batch: np.ndarray
    y_node: np.ndarray
    y_graph: np.ndarray
    kind: np.ndarray


NODE_TASKS = ("distance", "eccentricity", "laplacian")
GRAPH_TASKS = ("connected", "diameter", "spectral radius")


def make_graph_tasks(
    n_graphs: int = 100,
    n_nodes: int | tuple[int, int] = (15, 24),
    *,
    random_state: int | _Rng | None = None,
) -> GraphTasks:
    """Draw random graphs and compute six properties by exact algorithms.

    The multi-task benchmark of principal neighborhood aggregation, generated anew:
    Erdos-Renyi, Barabasi-Albert, grid, caveman, tree, ladder, path, star, caterpillar
    and lobster graphs in equal numbers, relabeled at random.

    Parameters
    ----------
    n_graphs : int, default=100
        Number of graphs.
    n_nodes : int or pair of int
        Nodes of a graph; a pair is the smallest and the largest of uniform sizes.
    random_state : int, RandomState or None
        Seed.

    Returns
    -------
    GraphTasks

    Raises
    ------
    ValueError, TypeError
        Numbers that are not whole, no graphs, or fewer than four nodes.

    References
    ----------
    Corso et al., "Principal Neighbourhood Aggregation for Graph Nets", NeurIPS 2020.

    Examples
    --------
    >>> graphs = make_graph_tasks(10, (8, 12), random_state=0)
    >>> graphs.y_graph.shape, len(set(graphs.kind))
    ((10, 3), 10)
    """
    check_count(n_graphs, "n_graphs")
    low, high = check_limits(n_nodes, "n_nodes", least=4)
    rng = check_random_state(random_state)
    kinds = np.array(list(_KINDS))[np.arange(n_graphs) % len(_KINDS)]
    kinds = kinds[rng.permutation(n_graphs)]
    sizes = rng.randint(low, high + 1, n_graphs)
    starts = np.cumsum(sizes) - sizes
    parts = [_graph(kind, n, rng) for kind, n in zip(kinds, sizes, strict=True)]
    x, edges, y_node, y_graph = zip(*parts, strict=True)
    return GraphTasks(
        x=np.concatenate(x).astype(np.float32),
        edge_index=np.concatenate(
            [e + s for e, s in zip(edges, starts, strict=True)], axis=1
        ),
        batch=np.repeat(np.arange(n_graphs), sizes),
        y_node=np.concatenate(y_node).astype(np.float32),
        y_graph=np.array(y_graph, np.float32),
        kind=kinds,
    )


def _graph(
    kind: str, n: int, rng: _Rng
) -> tuple[np.ndarray, _Edges, np.ndarray, tuple[float, float, float]]:
    """Return features, edges and both kinds of targets of one graph."""
    label = rng.permutation(n)
    adjacency = np.zeros((n, n))
    i, j = label[np.asarray(_KINDS[kind](n, rng), int).reshape(-1, 2)].T
    adjacency[i, j] = adjacency[j, i] = 1
    np.fill_diagonal(adjacency, 0)
    source = rng.randint(n)
    x = np.stack([rng.uniform(size=n), np.arange(n) == source], 1)
    y_node, y_graph = graph_targets(adjacency, x[:, 0], source)
    return x, np.stack(np.nonzero(adjacency)), y_node, y_graph


def graph_targets(
    adjacency: np.ndarray, signal: np.ndarray, source: int
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Return the targets of the nodes and of one graph.

    Parameters
    ----------
    adjacency : ndarray of shape (n, n)
        Symmetric, zeros and ones.
    signal : ndarray of shape (n,)
        The number at every node.
    source : int
        The node that distances are measured from.

    Examples
    --------
    >>> path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> nodes, graph = graph_targets(path, np.array([1.0, 0.0, 0.0]), 0)
    >>> nodes[:, 0].tolist(), nodes[:, 1].tolist(), nodes[:, 2].tolist()
    ([0.0, 1.0, 2.0], [2.0, 1.0, 2.0], [1.0, -1.0, 0.0])
    """
    from scipy.sparse.csgraph import shortest_path

    distance = shortest_path(adjacency, directed=False, unweighted=True)
    reached = np.isfinite(distance)
    eccentricity = np.where(reached, distance, 0).max(1)
    laplacian = adjacency.sum(1) * signal - adjacency @ signal
    radius = float(np.abs(np.linalg.eigvalsh(adjacency.astype(float))).max())
    from_source = np.where(reached[source], distance[source], -1)
    nodes = np.stack([from_source, eccentricity, laplacian], 1)
    return nodes, (float(reached.all()), float(eccentricity.max()), radius)


def _erdos_renyi(n: int, rng: _Rng) -> _Edges:
    i, j = np.triu_indices(n, 1)
    return np.stack([i, j], 1)[rng.uniform(size=len(i)) < rng.uniform(0.05, 0.4)]


def _barabasi_albert(n: int, rng: _Rng) -> _Edges:
    import networkx

    new = rng.randint(1, min(4, n - 1))
    graph = networkx.barabasi_albert_graph(n, new, seed=int(rng.randint(1 << 30)))
    return np.array(graph.edges)


def _grid(n: int, rng: _Rng) -> _Edges:
    width = rng.randint(2, max(int(n**0.5), 2) + 1)
    node = np.arange(n)
    right = node[(node % width < width - 1) & (node + 1 < n)]
    below = node[node + width < n]
    return np.concatenate(
        [np.stack([right, right + 1], 1), np.stack([below, below + width], 1)]
    )


def _caveman(n: int, rng: _Rng) -> _Edges:
    """Cliques; half of the time joined to a ring."""
    clique = rng.randint(2, max(n // 2, 3))
    i, j = np.triu_indices(n, 1)
    inside = np.stack([i, j], 1)[i // clique == j // clique]
    if rng.uniform() < 0.5:
        return inside
    first = np.arange(0, n, clique)
    return np.concatenate([inside, np.stack([first, np.roll(first, 1)], 1)])


def _tree(n: int, rng: _Rng) -> _Edges:
    child = np.arange(1, n)
    return np.stack([child, (rng.uniform(size=n - 1) * child).astype(int)], 1)


def _ladder(n: int, rng: _Rng) -> _Edges:
    node = np.arange(n)
    rungs = np.stack([node[:-1:2], node[1::2]], 1)
    return np.concatenate([np.stack([node[:-2], node[2:]], 1), rungs])


def _path(n: int, rng: _Rng) -> _Edges:
    return np.stack([np.arange(n - 1), np.arange(1, n)], 1)


def _star(n: int, rng: _Rng) -> _Edges:
    return np.stack([np.zeros(n - 1, int), np.arange(1, n)], 1)


def _caterpillar(n: int, rng: _Rng) -> _Edges:
    spine = rng.randint(2, n)
    legs = np.stack([np.arange(spine, n), rng.randint(0, spine, n - spine)], 1)
    return np.concatenate([_path(spine, rng), legs])


def _lobster(n: int, rng: _Rng) -> _Edges:
    """A caterpillar with one more node at some of the legs."""
    body = rng.randint(3, n)
    spine = rng.randint(2, body)
    legs = np.stack([np.arange(spine, body), rng.randint(0, spine, body - spine)], 1)
    claws = np.stack([np.arange(body, n), rng.randint(spine, body, n - body)], 1)
    return np.concatenate([_path(spine, rng), legs, claws])


_KINDS: dict[str, Callable[[int, _Rng], _Edges]] = {
    draw.__name__.removeprefix("_"): draw
    for draw in (
        *(_erdos_renyi, _barabasi_albert, _grid, _caveman, _tree),
        *(_ladder, _path, _star, _caterpillar, _lobster),
    )
}
