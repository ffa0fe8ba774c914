"""Checks of what the generators are asked for."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


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


def check_limits(**values: Any) -> None:
    """Raise unless all are a whole number, or the smallest and the largest of two."""
    for name, value in values.items():
        if isinstance(value, Integral) and not isinstance(value, bool):
            continue
        pair = isinstance(value, Sequence) and not isinstance(value, str)
        if not pair or len(value) != 2:
            raise TypeError(f"{name}: expected (smallest, largest), found {value!r}")
        check_counts(**{name: value[0]})
        check_counts(**{name: value[1]})
