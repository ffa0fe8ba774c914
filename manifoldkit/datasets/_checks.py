"""Checks of what the generators are asked for."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


def check_counts(**values: Any) -> None:
    """Raise ``TypeError`` unless all are whole numbers; how large is the caller's.

    Examples
    --------
    >>> check_counts(n_graphs=3)
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name}: expected an integer, found {value!r}")


def check_numbers(**values: Any) -> None:
    """Raise unless all are finite real numbers."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name}: expected a number, found {value!r}")
        if not math.isfinite(float(value)):
            raise ValueError(f"{name}: expected a finite number, found {value!r}")


def check_limits(value: Any, name: str, least: int = 1) -> tuple[int, int]:
    """Return the smallest and the largest size; a single number is both.

    Raises
    ------
    TypeError
        Neither a whole number nor a pair of them.
    ValueError
        Below ``least``, or the wrong way round.

    Examples
    --------
    >>> check_limits(5, "sizes"), check_limits((2, 16), "sizes")
    ((5, 5), (2, 16))
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        low = high = int(value)
    else:
        pair = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
        if not pair or len(value) != 2:
            raise TypeError(f"{name}: expected (smallest, largest), found {value!r}")
        for end in value:
            check_counts(**{name: end})
        low, high = (int(end) for end in value)
    if not least <= low <= high:
        raise ValueError(
            f"{name}: expected {least} <= smallest <= largest, found ({low}, {high})"
        )
    return low, high
