"""Checks of plain values: choices, integers, numbers, intervals.

Standard library only, so that every room can use them. One rule for integers: a
number that is no integer (2.5, ``True``, ``None``) and an integer out of range get the
same sentence, in an error that is both a ``ValueError`` and a ``TypeError``.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

from manifoldkit.exceptions import InvalidValueError

Option = TypeVar("Option")


def check_choice(value: Option, options: Iterable[Option], name: str) -> Option:
    """Return ``value`` if it is one of the options, else raise.

    >>> check_choice("mean", ("mean", "sum"), "reduction")
    'mean'
    """
    options = tuple(options)
    if value not in options:
        raise InvalidValueError(f"{name}: expected one of {options}, found {value!r}")
    return value


def check_selection(
    values: Any, options: Iterable[Option], name: str, least: int = 1
) -> tuple[Option, ...]:
    """Return values that are ``least`` or more of the options, each once, else raise.

    Options that are a ``range`` take integers only, so that ``True`` is not 1.

    >>> check_selection([3, 8], range(10), "digits")
    (3, 8)
    >>> check_selection("38", range(10), "digits")
    Traceback (most recent call last):
    manifoldkit.exceptions.InvalidValueError: digits: ... some of 0..9, ... found '38'
    """
    numbers = isinstance(options, range)
    pool: Any = options if isinstance(options, range) else tuple(options)
    several = isinstance(values, Iterable) and not isinstance(values, str)
    found: tuple[Any, ...] = tuple(values) if several else ()
    known = all((is_integer(v) or not numbers) and v in pool for v in found)
    if known and len(set(found)) == len(found) >= least:
        return tuple(int(v) for v in found) if numbers else found  # type: ignore[misc]
    some = "some" if least == 1 else f"{least} or more"
    raise InvalidValueError(
        f"{name}: expected {some} of {f'{pool[0]}..{pool[-1]}' if numbers else pool}, "
        f"each once, found {found if several else values!r}"
    )


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number; booleans are none.

    >>> is_integer(3), is_integer(True), is_integer(3.0)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real number; booleans are none.

    >>> is_number(3.5), is_number("3"), is_number(True)
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_count(value: Any, name: str, least: int = 1) -> int:
    """Return an integer of at least ``least``, else raise.

    >>> check_count(3, "n_layers")
    3
    """
    if not is_integer(value) or value < least:
        raise InvalidValueError(
            f"{name}: expected an integer >= {least}, found {value!r}"
        )
    return int(value)


def check_counts(**values: Any) -> None:
    """Raise unless all values are integers of at least one.

    >>> check_counts(hidden=8, layers=2)
    """
    for name, value in values.items():
        check_count(value, name)


def check_integers(**values: Any) -> None:
    """Raise unless all are integers; how large is the caller's.

    >>> check_integers(n_graphs=0)
    """
    for name, value in values.items():
        if not is_integer(value):
            raise InvalidValueError(f"{name}: expected an integer, found {value!r}")


def check_numbers(**values: Any) -> None:
    """Raise unless all are finite real numbers.

    >>> check_numbers(snr=-3.0)
    """
    for name, value in values.items():
        if not is_number(value):
            raise InvalidValueError(f"{name}: expected a number, found {value!r}")
        if not math.isfinite(float(value)):
            raise InvalidValueError(
                f"{name}: expected a finite number, found {value!r}"
            )


def check_positive(value: Any, name: str) -> float:
    """Return a positive finite number, else raise.

    >>> check_positive(2, "radius")
    2.0
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise InvalidValueError(f"{name}: expected a positive number, found {value!r}")
    return float(value)


def check_interval(
    value: Any, name: str, low: float, high: float = math.inf, ends: str = "[]"
) -> float:
    """Return a number of an interval, else raise.

    Parameters
    ----------
    value : number
        What was given; NaN is in no interval.
    name : str
        The argument, for the message.
    low, high : float
        The ends.
    ends : {"[]", "()", "[)", "(]"}
        Which ends belong to it, as in mathematical notation. An infinite end never
        does.

    Examples
    --------
    >>> check_interval(0.2, "validation_fraction", 0, 1, "()")
    0.2
    >>> check_interval(-1, "weight_decay", 0)
    Traceback (most recent call last):
    manifoldkit.exceptions.InvalidValueError: weight_decay: expected ..., found -1
    """
    good = is_number(value) and math.isfinite(value)
    good = good and (value >= low if ends[0] == "[" else value > low)
    good = good and (value <= high if ends[1] == "]" else value < high)
    if good:
        return float(value)
    if high == math.inf:
        sign = ">=" if ends[0] == "[" else ">"
        raise InvalidValueError(
            f"{name}: expected a number {sign} {low:g}, found {value!r}"
        )
    raise InvalidValueError(
        f"{name}: expected a number in {ends[0]}{low:g}, {high:g}{ends[1]}, "
        f"found {value!r}"
    )


def check_order(
    wanted: Iterable[Any], listed: Iterable[Any], name: str, there: str
) -> list[int]:
    """Return where each wanted label is listed; labels are compared as text.

    Parameters
    ----------
    wanted, listed : iterable
        Labels, such as sensor ids.
    name : str
        The argument that wants them, for the message.
    there : str
        Where they are looked for, for the message.

    Examples
    --------
    >>> check_order(["9", "7"], [7, 8, 9], "sensors", "the readings")
    [2, 0]
    >>> check_order([5], [7, 8, 9], "sensors", "the readings")
    Traceback (most recent call last):
    manifoldkit.exceptions.InvalidValueError: sensors: 5 is not in the readings
    """
    places: dict[str, int] = {}
    for row, label in enumerate(listed):
        if places.setdefault(str(label), row) != row:
            raise InvalidValueError(f"{name}: {label} is in {there} more than once")
    out = []
    for label in wanted:
        if str(label) not in places:
            raise InvalidValueError(f"{name}: {label} is not in {there}")
        out.append(places[str(label)])
    return out


def check_limits(value: Any, name: str, least: int = 1) -> tuple[int, int]:
    """Return the smallest and the largest size; a single integer is both.

    >>> check_limits(5, "sizes"), check_limits((2, 16), "sizes")
    ((5, 5), (2, 16))
    >>> check_limits((5, 2), "sizes")
    Traceback (most recent call last):
    manifoldkit.exceptions.InvalidValueError: sizes: expected ..., found (5, 2)
    """
    pair = (value, value) if is_integer(value) else value
    # what has no order, or an order of keys, is no pair of limits
    if hasattr(pair, "__getitem__") and not isinstance(pair, Mapping):
        ends = list(pair) if getattr(pair, "shape", True) else []
        if (
            len(ends) == 2
            and all(map(is_integer, ends))
            and least <= ends[0] <= ends[1]
        ):
            return int(ends[0]), int(ends[1])
    raise InvalidValueError(
        f"{name}: expected an integer >= {least} or (smallest, largest) of such, "
        f"found {value!r}"
    )


#: A rule takes a value and the argument's name; it raises where the value is bad.
Rule = Callable[[Any, str], Any]

positive: Rule = check_positive


def count(least: int = 1) -> Rule:
    """Rule for integers of at least ``least``."""
    return lambda value, name: check_count(value, name, least)


def interval(low: float, high: float = math.inf, ends: str = "[]") -> Rule:
    """Rule for the numbers of an interval, see :func:`check_interval`."""
    return lambda value, name: check_interval(value, name, low, high, ends)


def one_of(*options: Any) -> Rule:
    """Rule for a choice."""
    return lambda value, name: check_choice(value, options, name)


def optional(rule: Rule) -> Rule:
    """Rule that lets ``None`` pass too."""
    return lambda value, name: None if value is None else rule(value, name)


def check_settings(owner: Any, rules: Mapping[str, Rule]) -> None:
    """Check attributes of an object by a table of rules.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> check_settings(SimpleNamespace(layers=2), {"layers": count()})
    >>> check_settings(SimpleNamespace(layers=2.5), {"layers": count()})
    Traceback (most recent call last):
    manifoldkit.exceptions.InvalidValueError: layers: expected ..., found 2.5
    """
    for name, rule in rules.items():
        rule(getattr(owner, name), name)
