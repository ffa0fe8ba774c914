"""How often every label is there: a graph needs as many as the query has of each."""

from collections import Counter, defaultdict
from collections.abc import Hashable

import numpy as np

from manifoldkit.graphs.matching.inputs import PlainGraph
from manifoldkit.graphs.matching.views import Terms, View

#: Labels of a block of graphs: (is of nodes, attribute) -> label -> [(graph, times)].
Table = dict[tuple[bool, Hashable], dict[Hashable, list[tuple[int, int]]]]
# an attribute of more different labels is hardly one; it is left to the exact check
_MOST = 65_536


def label_table(graphs: list[PlainGraph], start: int = 0) -> Table:
    """Count the labels of graphs, which are numbered from ``start``.

    Examples
    --------
    >>> from manifoldkit.graphs.matching.inputs import as_graph
    >>> label_table([as_graph((2, [(0, 1)]))])
    {}
    """
    found: Table = defaultdict(lambda: defaultdict(list))
    for i, graph in enumerate(graphs, start):
        for nodes, names in ((True, graph.node_names), (False, graph.edge_names)):
            for name in names or ():
                for label, times in _counts(graph, nodes, name).items():
                    found[nodes, name][label].append((i, times))
    return {key: dict(labels) for key, labels in found.items()}


def _counts(graph: PlainGraph, nodes: bool, name: Hashable) -> Counter:
    both: tuple = ((name,), ()) if nodes else ((), (name,))
    view = View(graph, Terms(bool(graph.directed), *both))
    return Counter(view.values if nodes else view.edge_values)


class LabelCounts:
    """Labels of a corpus.

    Parameters
    ----------
    tables : list of Table
        Of its blocks.
    length : int
        Number of graphs.
    """

    def __init__(self, tables: list[Table], length: int):
        self.length = length
        joined: Table = defaultdict(lambda: defaultdict(list))
        for table in tables:
            for key, labels in table.items():
                for label, rows in labels.items():
                    joined[key][label] += rows
        self._rows = {
            key: {label: np.array(rows).T for label, rows in labels.items()}
            for key, labels in joined.items()
            if len(labels) <= _MOST
        }
        self._left_out = joined.keys() - self._rows.keys()

    def restrict(
        self, passes: np.ndarray, query: PlainGraph, terms: Terms, edges: bool
    ) -> None:
        """Clear ``passes`` where a graph has fewer of a label than the query.

        Parameters
        ----------
        passes : ndarray of bool, shape (length,)
        query : PlainGraph
        terms : Terms
            What is compared.
        edges : bool
            Whether edges may be counted.
        """
        keys = [(True, name) for name in terms.nodes] if query.num_nodes else []
        if edges and len(query.arcs):
            keys += [(False, name) for name in terms.edges]
        for nodes, name in keys:
            if (nodes, name) in self._left_out:
                continue
            there = self._rows.get((nodes, name), {})
            for label, need in _counts(query, nodes, name).items():
                have = np.zeros(self.length, np.int64)
                if label in there:
                    at, times = there[label]
                    have[at] = times
                passes &= have >= need
