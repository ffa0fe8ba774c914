"""Labels of nodes and edges: one form for equal values, whatever library has them."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from manifoldkit.exceptions import InvalidValueError

#: What says where or in which split a node is, not what it is; compared if named only.
NOT_LABELS = frozenset({"pos", "y", "batch", "ptr"})


def is_label(name: Hashable) -> bool:
    """Whether an attribute of this name is compared without being named.

    >>> is_label("atom"), is_label("pos"), is_label("train_mask")
    (True, False, False)
    """
    return name not in NOT_LABELS and not str(name).endswith("mask")


def as_label(value: Any, where: str = "label") -> Hashable:
    """Return a value as one that equals what other libraries make of it.

    Arrays, tensors and lists become tuples, a sequence of one number or string that
    number or string, and floating-point numbers have single precision, in which PyG
    keeps them.

    Parameters
    ----------
    value : anything that can be hashed, or arrays and sequences of such
    where : str
        What messages call it.

    Raises
    ------
    TypeError, ValueError
        A value that cannot be hashed, such as a dictionary; NaN, which equals nothing.

    Examples
    --------
    >>> as_label(6), as_label([6.0]), as_label(np.array([1, 2])), as_label("C")
    (6, 6.0, (1, 2), 'C')
    """
    if value is None or isinstance(value, str | bytes | int):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return _single(value, where)
    if isinstance(value, list | tuple):
        if len(value) == 1:
            return as_label(value[0], where)
        return tuple([as_label(part, where) for part in value])
    if isinstance(value, set | frozenset):
        return frozenset(as_label(part, where) for part in value)
    try:
        hash(value)
    except TypeError:
        raise InvalidValueError(
            f"{where}: expected labels that can be compared and hashed (strings, "
            f"numbers, tuples), found {type(value).__name__}"
        ) from None
    if value != value:
        raise InvalidValueError(f"{where}: found NaN, which equals nothing")
    return value


def _single(value: float, where: str) -> float:
    if math.isnan(value):
        raise InvalidValueError(f"{where}: found NaN, which equals nothing")
    if value.is_integer() or not 1e-37 < abs(value) < 1e38:
        return value  # as it is: single precision would lose it
    return float(np.float32(value))


def label_rows(values: np.ndarray) -> list[Hashable]:
    """Return one label a row of a finite array of numbers.

    >>> label_rows(np.array([[1.0], [2.0]])), label_rows(np.eye(2))
    ([1.0, 2.0], [(1.0, 0.0), (0.0, 1.0)])
    """
    sizes = np.abs(values)
    round_ = (values != np.trunc(values)) & (sizes > 1e-37) & (sizes < 1e38)
    if round_.any():
        values = values.copy()
        values[round_] = values[round_].astype(np.float32)
    if values.shape[1] == 1:
        return values[:, 0].tolist()
    return [tuple(row) for row in values.tolist()]


def as_features(labels: Sequence[Hashable]) -> np.ndarray | None:
    """Return labels as rows of numbers, shape (n, d), if that is what they are.

    >>> as_features([1, 2.5]).tolist(), as_features(["C", "O"])
    ([[1.0], [2.5]], None)
    """
    rows = [label if isinstance(label, tuple) else (label,) for label in labels]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    exact = 2**53  # up to here integers are floating-point numbers
    if not all(
        isinstance(value, float) or (isinstance(value, int) and abs(value) <= exact)
        for row in rows
        for value in row
    ):
        return None
    values = np.array(rows, float).reshape(len(rows), len(rows[0]))
    return values if np.isfinite(values).all() else None


def names_option(value: Any, name: str) -> tuple[Hashable, ...] | None:
    """Return the names of attributes that a user chose; None for what graphs carry.

    Raises
    ------
    ValueError, TypeError
        Neither a name nor a sequence of names.

    Examples
    --------
    >>> names_option("atom", "node_attr"), names_option(None, "node_attr")
    (('atom',), None)
    """
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    good = isinstance(value, Iterable) and not isinstance(value, bytes | dict)
    names = tuple(value) if good else (object(),)
    if not all(isinstance(part, str) for part in names):
        raise InvalidValueError(
            f"{name}: expected the name of an attribute, several, or () for none, "
            f"found {value!r}"
        )
    return tuple(dict.fromkeys(names))


def compared_names(
    wanted: tuple[Hashable, ...] | None,
    query: Iterable[Hashable] | None,
    graph: Iterable[Hashable] | None,
    kind: str,
    name: str = "graph",
) -> tuple[Hashable, ...]:
    """Return which attributes are compared: those chosen, else all the query carries.

    Parameters
    ----------
    wanted : tuple of str, optional
        What the user chose.
    query, graph : collections of str, optional
        Attributes that the graphs carry; None where they have no node (no edge) that
        could carry one.
    kind : {"node", "edge"}
        Of what, for messages.
    name : str
        What messages call the graph.

    Raises
    ------
    ValueError
        An attribute that would be ignored, because one side lacks it.

    Examples
    --------
    >>> compared_names(None, ["atom"], ["atom", "charge"], "node")
    ('atom',)
    """
    have = None if query is None else set(query)
    if wanted is None:
        wanted = tuple(sorted(filter(is_label, have or ()), key=str))
    else:
        _refuse_missing(wanted, have, kind, "the query")
    _refuse_missing(wanted, None if graph is None else set(graph), kind, name)
    return wanted


def _refuse_missing(names: Iterable, there: set | None, kind: str, owner: str) -> None:
    lacking = [] if there is None else [name for name in names if name not in there]
    if lacking:
        found = sorted(map(str, there or ())) or "none"
        raise InvalidValueError(
            f"{owner} has no {kind} attribute {lacking[0]!r} to compare (it has "
            f"{found}); give both sides the attribute, choose others by {kind}_attr=, "
            f"or compare none with {kind}_attr=()"
        )
