"""Set tasks against brute force."""

import functools
import operator

import numpy as np
import pytest

from manifoldkit.datasets import make_set_tasks

BRUTE = {
    "minimum": min,
    "second_minimum": lambda v: sorted(v)[1] if len(v) > 1 else 63,
    "xor": lambda v: functools.reduce(operator.xor, v),
    "median": lambda v: sorted(v)[(len(v) - 1) // 2],
}


def number(bits):
    return (bits @ (1 << np.arange(bits.shape[1])[::-1])).astype(int)


@pytest.mark.parametrize("task", BRUTE)
@pytest.mark.parametrize("spread", [False, True])
def test_answers_and_prefixes(task, spread):
    sets = make_set_tasks(task, 60, (1, 9), bits=6, spread=spread, random_state=0)
    assert sets.X.dtype == sets.y.dtype == np.float32
    np.testing.assert_array_equal(number(sets.X), sets.values)
    answers, prefixes = number(sets.y), number(sets.prefixes)
    assert set(sets.sizes) == set(range(1, 10))
    assert sets.values.max() < 64
    for s, size in enumerate(sets.sizes):
        mine = sets.values[sets.batch == s].tolist()
        assert len(mine) == size
        assert answers[s] == BRUTE[task](mine)
        found = prefixes[sets.batch == s].tolist()
        assert found == [BRUTE[task](mine[: i + 1]) for i in range(size)]


def test_spread_sets_have_small_answers():
    def median_of_answers(spread):
        sets = make_set_tasks("minimum", 2000, 4, spread=spread, random_state=0)
        return np.median(number(sets.y))

    assert median_of_answers(True) < 0.2 * median_of_answers(False)


def test_seeds_repeat():
    first, again = (make_set_tasks("xor", 20, random_state=3) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task": "mode"}, "task"),
        ({"sizes": 0}, "sizes"),
        ({"sizes": (5, 2)}, "sizes"),
        ({"n_sets": 0}, "n_sets"),
        ({"bits": 17}, "bits"),
    ],
)
def test_bad_input(settings, name):
    with pytest.raises(ValueError, match=name):
        make_set_tasks(**settings)
