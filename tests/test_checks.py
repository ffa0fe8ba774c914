"""Laws of the plain checks: one rule for integers, named arguments, exact ends."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest

from manifoldkit import _checks as checks
from manifoldkit.exceptions import InvalidValueError

NAN, INF = float("nan"), float("inf")
NO_INTEGERS = [2.5, 3.0, None, True, np.True_, "3", NAN, INF, [3], np.float64(3), 3j]
NO_NUMBERS = [None, True, np.True_, "3", [3.0], 3j, np.ones(2)]

# every way to ask for an integer of at least 1 or 2
INTEGER_CHECKS = {
    "check_count": lambda v: checks.check_count(v, "layers"),
    "check_count least": lambda v: checks.check_count(v, "layers", 2),
    "check_counts": lambda v: checks.check_counts(layers=v),
    "check_limits": lambda v: checks.check_limits(v, "layers"),
    "check_limits first": lambda v: checks.check_limits((v, 5), "layers"),
    "check_limits last": lambda v: checks.check_limits((3, v), "layers"),
    "count()": lambda v: checks.count()(v, "layers"),
    "count(2)": lambda v: checks.count(2)(v, "layers"),
    "check_settings": lambda v: checks.check_settings(
        SimpleNamespace(layers=v), {"layers": checks.count()}
    ),
}
NUMBER_CHECKS = {
    "check_numbers": lambda v: checks.check_numbers(rate=v),
    "check_positive": lambda v: checks.check_positive(v, "rate"),
    "check_interval": lambda v: checks.check_interval(v, "rate", 0),
    "check_interval bounded": lambda v: checks.check_interval(v, "rate", 0, 9, "()"),
    "positive": lambda v: checks.positive(v, "rate"),
    "interval()": lambda v: checks.interval(0, 9)(v, "rate"),
    "check_settings": lambda v: checks.check_settings(
        SimpleNamespace(rate=v), {"rate": checks.positive}
    ),
}


def refusal(check, value):
    with pytest.raises(InvalidValueError) as caught:
        check(value)
    error = caught.value
    assert isinstance(error, ValueError)
    assert isinstance(error, TypeError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    return str(error)


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("name", INTEGER_CHECKS)
def test_one_sentence_for_what_is_no_integer(name, value):
    message = refusal(INTEGER_CHECKS[name], value)
    least = 2 if "2" in name or "least" in name else 1
    assert message.startswith(f"layers: expected an integer >= {least}")
    assert repr(value) in message


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_integers_without_a_bound_get_the_sentence_without_one(value):
    message = refusal(lambda v: checks.check_integers(seed=v), value)
    assert message == f"seed: expected an integer, found {value!r}"


@pytest.mark.parametrize("name", INTEGER_CHECKS)
def test_integers_out_of_range_get_the_same_sentence(name):
    for value in (0, -1, np.int64(-7)):
        assert "layers: expected an integer >=" in refusal(INTEGER_CHECKS[name], value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.int32(3)], ids=repr)
@pytest.mark.parametrize("name", INTEGER_CHECKS)
def test_integers_of_numpy_are_integers(name, value):
    INTEGER_CHECKS[name](value)
    checks.check_integers(layers=value)
    assert checks.is_integer(value)
    plain = checks.check_count(value, "layers")
    assert type(plain) is int
    assert plain == 3


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", NUMBER_CHECKS)
def test_what_is_no_number_is_refused_by_name(name, value):
    assert re.match(
        r"rate: expected a (positive )?number", refusal(NUMBER_CHECKS[name], value)
    )
    assert not checks.is_number(value)


@pytest.mark.parametrize("value", [NAN, INF, -INF, np.float32("nan")], ids=repr)
@pytest.mark.parametrize("name", NUMBER_CHECKS)
def test_numbers_are_finite(name, value):
    assert refusal(NUMBER_CHECKS[name], value).startswith("rate: expected a ")


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.float64(2), np.int8(1)])
@pytest.mark.parametrize("name", NUMBER_CHECKS)
def test_numbers_of_numpy_are_numbers(name, value):
    NUMBER_CHECKS[name](value)
    assert type(checks.check_positive(value, "rate")) is float
    assert type(checks.check_interval(value, "rate", 0)) is float


INTERVAL_CHECKS = [
    lambda v, ends: checks.check_interval(v, "share", 0, 1, ends),
    lambda v, ends: checks.interval(0, 1, ends)(v, "share"),
]


@pytest.mark.parametrize("check", INTERVAL_CHECKS)
@pytest.mark.parametrize(
    ("ends", "low", "high"),
    [
        ("[]", True, True),
        ("[)", True, False),
        ("(]", False, True),
        ("()", False, False),
    ],
)
def test_ends_of_intervals(check, ends, low, high):
    table = {-0.1: False, 0: low, 0.5: True, 1: high, 1.1: False}
    for value, good in table.items():
        if good:
            assert check(value, ends) == value
        else:
            message = refusal(lambda v: check(v, ends), value)
            interval = f"{ends[0]}0, 1{ends[1]}"
            assert message == f"share: expected a number in {interval}, found {value!r}"


@pytest.mark.parametrize(
    ("ends", "sign", "good"), [("[]", ">=", True), ("()", ">", False)]
)
def test_intervals_without_an_upper_end(ends, sign, good):
    def call(value):
        return checks.check_interval(value, "decay", 0, ends=ends)

    assert call(1e300) == 1e300
    assert refusal(call, -1) == f"decay: expected a number {sign} 0, found -1"
    assert "found inf" in refusal(call, INF)
    if good:
        assert call(0) == 0
    else:
        assert "found 0" in refusal(call, 0)


def test_positive_leaves_zero_out():
    message = refusal(lambda v: checks.check_positive(v, "radius"), 0)
    assert message == "radius: expected a positive number, found 0"


def test_choices():
    assert checks.check_choice("a", ("a", "b"), "kind") == "a"
    assert checks.one_of("a", None)(None, "kind") is None
    for call in (
        lambda v: checks.check_choice(v, iter(("a", "b")), "kind"),
        lambda v: checks.one_of("a", "b")(v, "kind"),
    ):
        expected = "kind: expected one of ('a', 'b'), found 'c'"
        assert refusal(call, "c") == expected
        assert "found None" in refusal(call, None)


@pytest.mark.parametrize(
    "values", [(), (1, 1), (10,), (-1,), (True,), (2.5,), (2.0,), "12", 3, None, ("1",)]
)
def test_selections_of_numbers(values):
    def call(value):
        return checks.check_selection(value, range(10), "digits")

    assert call([3, np.int64(8)]) == (3, 8)
    assert call(range(3)) == (0, 1, 2)
    expected = f"digits: expected some of 0..9, each once, found {values!r}"
    assert refusal(call, values) == expected


def test_selections_of_names():
    def call(value):
        return checks.check_selection(value, {"a": 1, "b": 2, "c": 3}, "kinds", least=2)

    assert call(iter("ac")) == ("a", "c")
    for bad in (("a",), ("a", "a"), ("a", "d"), "ab"):
        expected = "kinds: expected 2 or more of ('a', 'b', 'c'), each once, found"
        assert refusal(call, bad) == f"{expected} {bad!r}"


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (4, (4, 4)),
        ((4, 4), (4, 4)),
        ([2, 9], (2, 9)),
        (np.array([2, 9]), (2, 9)),
        (np.int64(3), (3, 3)),
    ],
    ids=repr,
)
def test_limits(value, limits):
    found = checks.check_limits(value, "sizes")
    assert found == limits
    assert {type(end) for end in found} == {int}


@pytest.mark.parametrize(
    "value",
    [
        (5, 2),
        (0, 3),
        (1, 2, 3),
        (1,),
        (),
        "12",
        {1: 2, 2: 3},
        {1, 2},
        np.array(3),
        (1, 2.5),
    ],
    ids=repr,
)
def test_what_is_no_pair_of_limits(value):
    message = refusal(lambda v: checks.check_limits(v, "sizes"), value)
    assert message.startswith("sizes: expected an integer >= 1 or (smallest, largest)")
    assert repr(value) in message


def test_settings_name_the_attribute():
    rules = {
        "layers": checks.count(),
        "rate": checks.positive,
        "share": checks.interval(0, 1, "[)"),
        "kind": checks.one_of("mean", "sum"),
        "epochs": checks.optional(checks.count(0)),
    }
    good = {"layers": 2, "rate": 0.1, "share": 0, "kind": "sum", "epochs": None}
    checks.check_settings(SimpleNamespace(**good), rules)
    checks.check_settings(SimpleNamespace(**good | {"epochs": 0}), rules)
    wrong = {"layers": 0, "rate": 0, "share": 1, "kind": "max", "epochs": -1}
    for name, value in wrong.items():
        owner = SimpleNamespace(**good | {name: value})
        message = refusal(lambda o: checks.check_settings(o, rules), owner)
        assert message.startswith(f"{name}: expected ")
        assert message.endswith(f"found {value!r}")
    with pytest.raises(AttributeError, match="kind"):
        checks.check_settings(SimpleNamespace(), {"kind": checks.one_of("mean")})


def test_only_the_standard_library():
    import ast
    from pathlib import Path

    tree = ast.parse(Path(checks.__file__).read_text(encoding="utf-8"))
    modules = {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert modules <= {"collections", "numbers", "typing", "manifoldkit"}
