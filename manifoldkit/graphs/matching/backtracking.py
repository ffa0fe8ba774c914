"""Search for all images of a graph in another, with sets of nodes as bits."""

from collections.abc import Callable, Iterator

import numpy as np

from manifoldkit.graphs.matching.views import Relation, View, candidates, covers

_CHECK_EVERY = 256


def embeddings(
    query: View,
    graph: View,
    induced: bool,
    check: Callable[[], None] = lambda: None,
) -> Iterator[list[int]]:
    """Yield every image of a query in a graph, one by one.

    Every node of the query keeps the set of nodes that it may still go to; a choice
    for one narrows the sets of all others at once, and the node with the smallest set
    is next (forward checking). Labels, directions and parallel edges are in the sets.

    Parameters
    ----------
    query, graph : View
        Under equal terms.
    induced : bool
        Whether links of the graph between images of unlinked nodes forbid a match.
    check : callable
        Called now and then; may raise to end the search.

    Yields
    ------
    list of int
        The image of each node of the query.

    References
    ----------
    R. Haralick, G. Elliott, "Increasing tree search efficiency for constraint
    satisfaction problems", Artificial Intelligence 1980.

    Examples
    --------
    >>> from manifoldkit.graphs.matching.inputs import as_graph
    >>> from manifoldkit.graphs.matching.views import Terms
    >>> path, triangle = (2, [(0, 1)]), (3, [(0, 1), (1, 2), (0, 2)])
    >>> views = [View(as_graph(g), Terms(False)) for g in (path, triangle)]
    >>> sum(1 for _ in embeddings(*views, induced=True))
    6
    """
    check()
    n = query.graph.num_nodes
    if n == 0:
        yield []
        return
    start = _start(query, graph, induced)
    if start is None:
        return
    allowed = {
        relation: _allowed(graph, relation, induced)
        for relation in {r for row in query.relations for r in row.values()}
    }
    links = [{b: allowed[r] for b, r in row.items()} for row in query.relations]
    apart = [~mask for mask in graph.neighbors] if induced else None
    degree = [len(row) for row in links]

    def narrow(domains: dict[int, int], a: int, t: int, bit: int) -> dict | None:
        near, away = links[a], None if apart is None else apart[t]
        out = {}
        for b, mask in domains.items():
            if b == a:
                continue
            mask &= ~bit
            if b in near:
                mask &= near[b][t]
            elif away is not None:
                mask &= away
            if not mask:
                return None
            out[b] = mask
        return out

    def first(domains: dict[int, int]) -> int:
        return min(domains, key=lambda b: (domains[b].bit_count(), -degree[b], b))

    image, steps = [0] * n, 0
    node = first(start)
    stack = [(node, start, start[node])]
    while stack:
        node, domains, open_ = stack.pop()
        if not open_:
            continue
        steps += 1
        if steps % _CHECK_EVERY == 0:
            check()
        bit = open_ & -open_
        stack.append((node, domains, open_ ^ bit))
        image[node] = bit.bit_length() - 1
        if len(domains) == 1:
            yield image.copy()
            continue
        narrowed = narrow(domains, node, image[node], bit)
        if narrowed is not None:
            following = first(narrowed)
            stack.append((following, narrowed, narrowed[following]))


def _start(query: View, graph: View, induced: bool) -> dict[int, int] | None:
    """Return where each node may go by label, loops and number of neighbors."""
    rows = candidates(query, graph, induced)
    have = np.array([mask.bit_count() for mask in graph.neighbors], np.int64)
    domains: dict[int, int] = {}
    known: dict[int, int] = {}  # by number of neighbors, where labels say nothing
    for a in range(query.graph.num_nodes):
        need = len(query.relations[a])
        if rows is None:
            if need not in known:
                known[need] = _bits(have >= need)
            domains[a] = known[need]
        else:
            fits = np.zeros(len(have), bool)
            fits[rows[a]] = True
            domains[a] = _bits(fits & (have >= need))
        if not domains[a]:
            return None
    return domains


def _bits(chosen: np.ndarray) -> int:
    return int.from_bytes(np.packbits(chosen, bitorder="little").tobytes(), "little")


def _allowed(graph: View, need: Relation, induced: bool) -> list[int]:
    """Return of each node, as bits, those whose links to it stand for a relation."""
    out = [0] * graph.graph.num_nodes
    for have, masks in graph.by_relation.items():
        pairs = zip(have, need, strict=True)
        if all(covers(*pair, induced) for pair in pairs):
            out = [a | b for a, b in zip(out, masks, strict=True)]
    return out
