"""Names of domains: checked, and the rows of each."""

from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: A domain's name; None is the one that has no name.
Domain = str | int | None


def check_domains(domains: ArrayLike | None, n: int) -> list[Domain]:
    """Return one name a matrix, strings or integers; None for all without ``domains``.

    Parameters
    ----------
    domains : array-like of shape (n,) or None
        Names.
    n : int
        Number of matrices.

    Raises
    ------
    TypeError
        A name that is neither a string nor an integer, or both kinds at once.
    ValueError
        Another number of names.

    Examples
    --------
    >>> check_domains(np.array(["anna", "ben"]), 2)
    ['anna', 'ben']
    """
    if domains is None:
        return [None] * n
    given = np.asarray(domains, dtype=object)
    if given.shape != (n,):
        raise ValueError(
            f"domains: expected shape ({n},), one name a matrix, "
            f"found shape {given.shape}"
        )
    names: list[Domain] = [_name(value, i) for i, value in enumerate(given)]
    kinds = sorted({type(name).__name__ for name in names})
    if len(kinds) > 1:
        raise TypeError(f"domains: expected names of one kind, found {kinds}")
    return names


def _name(value: Any, i: int) -> str | int:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    raise TypeError(f"domains[{i}]: expected a string or an integer, found {value!r}")


def check_kind(names: Iterable[Domain], known: Iterable[Domain]) -> None:
    """Raise ``TypeError`` where names are of another kind than the fitted ones.

    The subject 1 and the subject "1" would else pass for two people.
    """
    found = {type(name) for name in names if name is not None}
    before = {type(name) for name in known if name is not None}
    if found and before and found != before:
        kinds = [next(iter(kind)).__name__ for kind in (before, found)]
        raise TypeError(
            f"domains: expected names of kind {kinds[0]} as in fit, found {kinds[1]}"
        )


def rows_of(names: list[Domain]) -> Iterator[tuple[Domain, np.ndarray]]:
    """Yield each domain, in the order of appearance, with its rows.

    >>> [(name, rows.tolist()) for name, rows in rows_of(["b", "a", "b"])]
    [('b', [0, 2]), ('a', [1])]
    """
    rows: dict[Domain, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    for name, found in rows.items():
        yield name, np.array(found)
