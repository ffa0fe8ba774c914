"""Directions, loops, parallel edges and labels of a graph as JSON holds them."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

from manifoldkit.exceptions import InvalidValueError
from manifoldkit.graphs.matching.inputs import Details, PlainGraph, check_attributes
from manifoldkit.graphs.matching.views import Traits, traits_of


def record_of(graph: PlainGraph, name: str) -> dict[str, Any] | None:
    """Return what a graph has beyond links and features, or None if nothing.

    Raises
    ------
    ValueError, TypeError
        Labels that are no strings, numbers or tuples and sets of such; names of
        attributes that are no strings.

    Examples
    --------
    >>> from manifoldkit.graphs.matching.inputs import as_graph
    >>> record_of(as_graph((2, [(0, 1)])), "graph") is None
    True
    """
    if graph.details is None:
        return None
    check_attributes(graph, name)
    directed, arcs, nodes, arc_labels, either = graph.details
    record: dict[str, Any] = {"directed": directed}
    if either:
        record["either"] = sorted(map(str, either))
    if arcs is not graph.edges and not np.array_equal(arcs, graph.edges):
        record["arcs"] = arcs.tolist()
    for key, labels in (("nodes", nodes), ("arc_labels", arc_labels)):
        if labels:
            record[key] = {
                str(k): [_to_json(v, f"{name}: {k}") for v in values]
                for k, values in labels.items()
            }
    return record


def with_record(graph: PlainGraph, record: dict[str, Any] | None) -> PlainGraph:
    """Invert :func:`record_of`."""
    if record is None:
        return graph
    arcs = graph.edges
    if "arcs" in record:
        arcs = np.array(record["arcs"], np.int64).reshape(-1, 2)
    labels = [
        {
            k: [_from_json(v) for v in values]
            for k, values in record.get(key, {}).items()
        }
        for key in ("nodes", "arc_labels")
    ]
    either = frozenset(record.get("either", ()))
    details = Details(record["directed"], arcs, labels[0], labels[1], either)
    return graph._replace(details=details)


_TYPES: dict[str, tuple[type, Callable, Callable]] = {
    "tuple": (tuple, list, tuple),
    "set": (frozenset, lambda v: sorted(v, key=repr), frozenset),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "complex": (complex, lambda v: [v.real, v.imag], lambda v: complex(*v)),
}


def _to_json(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    for name, (kind, pack, _) in _TYPES.items():
        if isinstance(value, kind):
            packed = pack(value)
            if name in ("tuple", "set"):
                packed = [_to_json(part, where) for part in packed]
            return {name: packed}
    raise InvalidValueError(
        f"{where}: expected labels that files hold (strings, numbers, tuples and sets "
        f"of such), found {value!r}"
    )


def _from_json(value: Any) -> Hashable:
    if not isinstance(value, dict):
        return value
    ((name, packed),) = value.items()
    if name in ("tuple", "set"):
        packed = [_from_json(part) for part in packed]
    return _TYPES[name][2](packed)


class Kind(NamedTuple):
    """What some graphs of a corpus carry, and the first of them."""

    traits: Traits
    first: int


def kinds_of(graphs: Iterable[PlainGraph]) -> list[Kind]:
    """Return the different traits of the graphs of a corpus."""
    found: dict[Traits, int] = {}
    for i, graph in enumerate(graphs):
        found.setdefault(traits_of(graph), i)
    return [Kind(*item) for item in found.items()]


def named(kinds: list[Kind]) -> list[tuple[Traits, str]]:
    """Return the traits with what messages call the first graph that has them."""
    return [(traits, f"corpus[{first}]") for traits, first in kinds]


def kinds_to_json(kinds: list[Kind]) -> list:
    """Return kinds as JSON holds them."""
    return [
        [
            traits.directed,
            *(
                None if names is None else sorted(map(str, names))
                for names in (traits.nodes, traits.edges, traits.either)
            ),
            first,
        ]
        for traits, first in kinds
    ]


def kinds_from_json(rows: list) -> list[Kind]:
    """Invert :func:`kinds_to_json`."""
    found = []
    for directed, nodes, edges, either, first in rows:
        n, e = (None if names is None else frozenset(names) for names in (nodes, edges))
        found.append(Kind(Traits(directed, n, e, frozenset(either)), first))
    return found
