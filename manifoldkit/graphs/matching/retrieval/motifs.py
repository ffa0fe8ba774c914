"""Counts of connected induced subgraphs, for many graphs at once."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from manifoldkit._checks import check_count
from manifoldkit.graphs.matching.inputs import PlainGraph

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class MotifCounts(NamedTuple):
    """How often each graph has each kind of connected induced subgraph.

    Attributes
    ----------
    graph, kind, times : ndarray, shape (n_entries,)
        Sparse table; kinds are numbers that isomorphic subgraphs share (and that very
        different ones could share too, which only adds their counts).
    size : ndarray, shape (n_entries,)
        Nodes of the kind.
    depth : ndarray, shape (n_graphs,)
        Largest size up to which a graph was counted.
    """

    graph: np.ndarray
    kind: np.ndarray
    times: np.ndarray
    size: np.ndarray
    depth: np.ndarray


def motif_counts(
    graphs: list[PlainGraph], size: int = 6, limit: int = 100_000
) -> MotifCounts:
    """Count connected induced subgraphs of up to ``size`` nodes by kind.

    Sets of nodes are bit masks, extended by the rule of the ESU enumeration (Wernicke
    2006), under which every connected set arises once; all sets of a block of graphs
    advance together.

    Parameters
    ----------
    graphs : list of PlainGraph
    size : int
        Largest number of nodes, at least 1.
    limit : int
        A graph with more connected sets of some size is not counted at that size nor
        above it.

    Returns
    -------
    MotifCounts

    Raises
    ------
    ValueError
        ``size`` below 1.

    References
    ----------
    S. Wernicke, "Efficient detection of network motifs", IEEE/ACM TCBB 2006.

    Examples
    --------
    >>> import numpy as np
    >>> triangle = PlainGraph(3, np.array([[0, 1], [1, 2], [2, 0]]))
    >>> motif_counts([triangle], 3).times.tolist()
    [3, 3, 1]
    """
    check_count(size, "size")
    parts, depth = [], np.full(len(graphs), size)
    for index in _blocks(graphs):
        for level, graph, kind in _enumerate(graphs, index, size, limit, depth):
            order = np.lexsort((kind, graph))
            graph, kind = graph[order], kind[order]
            new = np.ones(len(graph), bool)
            new[1:] = (graph[1:] != graph[:-1]) | (kind[1:] != kind[:-1])
            first = np.flatnonzero(new)
            count = np.diff(np.append(first, len(graph)))
            parts.append((graph[first], kind[first], count, np.full(len(first), level)))
    if not parts:
        empty = np.zeros(0, np.int64)
        return MotifCounts(empty, empty.astype(np.uint64), empty, empty, depth)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return MotifCounts(columns[0], columns[1], columns[2], columns[3], depth)


def _blocks(graphs: list[PlainGraph]) -> Iterator[np.ndarray]:
    """Group graphs of similar size, so that masks are short and memory is bounded."""
    sizes = np.array([g.num_nodes for g in graphs], np.int64)
    order = np.argsort(sizes, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < len(order)
            and sizes[order[start:stop]].sum() + sizes[order[stop]] <= 20_000
            and sizes[order[stop]] <= max(64, 2 * sizes[order[start]])
        ):
            stop += min(64, len(order) - stop)
        stop = min(stop, len(order))
        yield order[start:stop]
        start = stop


def _enumerate(
    graphs: list[PlainGraph],
    index: np.ndarray,
    size: int,
    limit: int,
    depth: np.ndarray,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (level, graph of each set, kind of each set); lower ``depth`` meanwhile."""
    n = max((graphs[i].num_nodes for i in index), default=0)
    if n == 0:
        return
    words = (n + 63) // 64
    adjacency = np.zeros((len(index), n, words * 64), bool)
    for row, i in enumerate(index):
        u, v = graphs[i].edges.T
        adjacency[row, u, v] = adjacency[row, v, u] = True
    masks = _pack(adjacency)  # (graphs, n, words)
    single = _pack(np.eye(n, words * 64, dtype=bool))  # (n, words)
    above = _pack(np.triu(np.ones((n, words * 64), bool), 1))
    graph = np.repeat(np.arange(len(index)), [graphs[i].num_nodes for i in index])
    root = np.concatenate([np.arange(graphs[i].num_nodes) for i in index])
    members = root[:, None]
    inside, near = single[root], masks[graph, root]
    extension = near & above[root]
    for level in range(1, size + 1):
        crowded = np.bincount(graph, minlength=len(index)) > limit
        if crowded.any():
            depth[index[crowded]] = np.minimum(depth[index[crowded]], level - 1)
            keep = ~crowded[graph]
            graph, root, members = graph[keep], root[keep], members[keep]
            inside, near, extension = inside[keep], near[keep], extension[keep]
        if not len(graph):
            return
        yield level, index[graph], _kinds(adjacency, graph, members)
        if level == size:
            return
        parent, new = _bits(extension)
        graph, root = graph[parent], root[parent]
        members = np.concatenate([members[parent], new[:, None]], 1)
        reached = inside[parent] | near[parent]
        fresh = masks[graph, new] & ~reached & above[root]
        extension = (extension[parent] & above[new]) | fresh
        inside = inside[parent] | single[new]
        near = near[parent] | masks[graph, new]


def _pack(bits: np.ndarray) -> np.ndarray:
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return packed.view("<u8")


def _bits(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, bit) of every bit that is set."""
    rows, bits = [], []
    step = max(1, (1 << 24) // (64 * masks.shape[1]))
    for start in range(0, len(masks), step):
        block = np.ascontiguousarray(masks[start : start + step]).view(np.uint8)
        row, bit = np.nonzero(np.unpackbits(block, axis=-1, bitorder="little"))
        rows.append(row + start)
        bits.append(bit)
    return np.concatenate(rows), np.concatenate(bits)


def _kinds(adjacency: np.ndarray, graph: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return a number for each set that does not depend on the order of its nodes.

    Color refinement that starts from degrees and triangles and mixes 64-bit integers.
    """
    k = members.shape[1]
    rows = graph[:, None, None], members[:, :, None], members[:, None, :]
    inside = adjacency[rows].astype(np.uint8)
    degree = inside.sum(-1, dtype=np.uint64)
    if k <= 2:
        return np.full(len(graph), k, np.uint64)
    two = np.einsum("sij,sjk->sik", inside, inside)
    color = degree * np.uint64(64) + (two * inside).sum(-1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(min(3, k - 2)):
            mixed = _scramble(color, 0)
            heard = np.zeros_like(mixed)
            for j in range(k):
                heard += inside[:, :, j] * mixed[:, j, None]
            color = _scramble(color, 1) + heard
        return _scramble(_scramble(color, 2).sum(1) + np.uint64(k), 0)


def _scramble(x: np.ndarray, which: int) -> np.ndarray:
    """Mix the bits of 64-bit integers (a step of splitmix)."""
    x = (x + np.uint64(which + 1)) * np.uint64(_MIX[which])
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[(which + 1) % 3])
    return x ^ (x >> np.uint64(27))
