"""Functions of sets of bit vectors, for any size of the set."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from manifoldkit._checks import check_choice, check_count, check_limits

_LARGEST = 16  # bits of a value


class SetTask(NamedTuple):
    """Ragged sets of bit vectors and what is asked about each.

    Attributes
    ----------
    X : ndarray of float32, shape (n_elements, bits)
        Elements as bits, the most significant first, sets side by side.
    batch : ndarray of int64, shape (n_elements,)
        Set of each element.
    y : ndarray of float32, shape (n_sets, bits)
        The answer as bits.
    prefixes : ndarray of float32, shape (n_elements, bits)
        The answer for the elements of the same set up to and including this one.
    values : ndarray of int64, shape (n_elements,)
        Elements as numbers.
    sizes : ndarray of int64, shape (n_sets,)
        Number of elements of each set.
    """

    X: np.ndarray
    batch: np.ndarray
    y: np.ndarray
    prefixes: np.ndarray
    values: np.ndarray
    sizes: np.ndarray


def make_set_tasks(
    task: str = "second_minimum",
    n_sets: int = 1000,
    sizes: int | tuple[int, int] = (2, 16),
    *,
    bits: int = 8,
    spread: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> SetTask:
    """Draw sets of random numbers and compute a function of each.

    Numbers are uniform on ``0, ..., 2^bits - 1``, with repetitions. All functions but
    the median are folds of a commutative monoid with a small state, so a learned
    operator can carry them to sets larger than those it was trained on.

    Parameters
    ----------
    task : {"minimum", "second_minimum", "xor", "median"}
        The smallest number; the second smallest with repetitions, ``2^bits - 1`` if
        there is only one; the parity of every bit; the lower median, which no fold with
        a small state gives.
    n_sets : int, default=1000
        Number of sets.
    sizes : int or pair of int
        Size of the sets; a pair is the smallest and the largest of uniform sizes.
    bits : int, default=8
        Bits of a number, at most 16.
    spread : bool, default=False
        Draw the numbers of every set below a bound of its own, uniform in the
        logarithm: small sets then have small answers as large sets do.
    random_state : int, RandomState or None
        Seed.

    Returns
    -------
    SetTask

    Raises
    ------
    ValueError, TypeError
        Unknown task, numbers that are not whole, sizes below one, more than 16 bits or
        fewer than one.

    References
    ----------
    Ong and Velickovic, "Learnable Commutative Monoids for Graph Neural Networks",
    LoG 2022 (the second minimum).

    Examples
    --------
    >>> sets = make_set_tasks("minimum", 2, 3, bits=4, random_state=0)
    >>> sets.values.tolist(), sets.y.tolist()
    ([12, 15, 5, 0, 3, 11], [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    """
    check_choice(task, _TASKS, "task")
    check_count(n_sets, "n_sets")
    low, high = check_limits(sizes, "sizes")
    if check_count(bits, "bits") > _LARGEST:
        raise ValueError(f"bits: expected 1 to {_LARGEST}, found {bits}")
    rng = check_random_state(random_state)
    counts = rng.randint(low, high + 1, n_sets)
    bound: int | np.ndarray = 1 << bits
    if spread:
        bound = np.ceil(2.0 ** rng.uniform(0, bits, (n_sets, 1))).astype(np.int64)
    padded = rng.randint(0, bound, (n_sets, int(counts.max())))
    there = np.arange(padded.shape[1]) < counts[:, None]
    prefixes = _TASKS[task](padded, (1 << bits) - 1)
    values = padded[there]
    return SetTask(
        X=to_bits(values, bits),
        batch=np.repeat(np.arange(n_sets), counts),
        y=to_bits(prefixes[np.arange(n_sets), counts - 1], bits),
        prefixes=to_bits(prefixes[there], bits),
        values=values,
        sizes=counts,
    )


def to_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return numbers as bits, the most significant first.

    Examples
    --------
    >>> to_bits(np.array([6]), 4)
    array([[0., 1., 1., 0.]], dtype=float32)
    """
    places = np.arange(bits - 1, -1, -1)
    return (values[..., None] >> places & 1).astype(np.float32)


def _second_minimum(values: np.ndarray, largest: int) -> np.ndarray:
    first = np.full(len(values), largest)
    second, out = first, np.empty_like(values)
    for i, column in enumerate(values.T):
        second = np.minimum(second, np.maximum(first, column))
        first = np.minimum(first, column)
        out[:, i] = second
    return out


def _median(values: np.ndarray, largest: int) -> np.ndarray:
    ends = range(1, values.shape[1] + 1)
    middle = [np.sort(values[:, :n], 1)[:, (n - 1) // 2] for n in ends]
    return np.stack(middle, 1)


_TASKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "minimum": lambda values, _: np.minimum.accumulate(values, 1),
    "second_minimum": _second_minimum,
    "xor": lambda values, _: np.bitwise_xor.accumulate(values, 1),
    "median": _median,
}
