"""Every public function of tensors: no crash without a message, no silent NaN.

A table gives valid arguments for each; the arguments are then made wrong one by one.
Functions of tensors check shapes and dtypes always, values only where that is their
job or where the user asks (``validate=True``): a NaN that is put in may come out.
"""

import importlib
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from function_cases import CASES, DECIDES, ELSEWHERE, NO_HALF, STRICT
from function_cases.draws import G
from hypothesis import given, settings
from hypothesis import strategies as st

from manifoldkit import (
    equivariant,
    graphs,
    lie,
    linalg,
    manifolds,
    optim,
    spd,
    statistics,
    testing,
)
from manifoldkit.equivariant import neighbors
from manifoldkit.lie import haar, losses, rotation

SURFACE = Path(__file__).resolve().parents[1] / "api_surface.json"


ROOMS = {
    "linalg": linalg,
    "lie": lie,
    "rotation": rotation,
    "losses": losses,
    "haar": haar,
    "manifolds": manifolds,
    "optim": optim,
    "spd": spd,
    "statistics": statistics,
    "equivariant": equivariant,
    "neighbors": neighbors,
    "graphs": graphs,
    "testing": testing,
}


def function(name):
    room, function = name.split(".")
    return getattr(ROOMS[room], function)


def call(name, **arguments):
    return function(name)(**arguments)


def tensors(value):
    """All numbers of a result as tensors."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        yield torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, float):
        yield torch.tensor(value)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


def has_nan(value):
    return any(bool(t.isnan().any()) for t in tensors(value) if t.is_floating_point())


def assert_says(error, name, what):
    """A message of ours, which names an argument of the function and a value."""
    names = "|".join(map(re.escape, inspect.signature(function(name)).parameters))
    text = str(error)
    # scikit-learn's check_random_state, and calling what is not callable
    known = "RandomState|Seed must be|not callable"
    pattern = rf"(^|[\s,(])({names})(:|,|\[| is | of )|{known}"
    assert re.search(pattern, text), (what, text)


def of_tensor(x):
    """Wrong or odd values for an argument that is a tensor."""
    yield from [("a string", "nonsense"), ("an object", object()), ("None", None)]
    yield "ragged", [[1.0], [2.0, 3.0]]
    yield "scalar", x.new_ones(())
    yield "first axis gone", x[0]
    yield "last axis gone", x[..., 0]
    yield "two more axes", x[None, None]
    yield "longer", torch.cat([x, x[..., :1]], -1)
    yield "shorter", x[..., 1:]
    yield "flat and empty", x.reshape(-1)[:0]
    yield "no columns", x[..., :0]
    if x.ndim > 1:
        yield "one more row", torch.cat([x, x[..., :1, :]], -2)
        yield "no rows", x[..., :0, :]
    yield "whole numbers", x.long()
    yield "booleans", x.bool()
    yield "complex", x.to(torch.complex128)
    yield "NumPy", x.numpy()
    if x.is_floating_point():
        for value in (float("nan"), float("inf")):
            bad = x.clone()
            bad.view(-1)[0] = value
            yield str(value), bad
        yield "zeros", torch.zeros_like(x)
        yield "ones", torch.ones_like(x)
        yield "negative", -x
        yield "1e8 times", 1e8 * x
        yield "1e-8 times", 1e-8 * x
        yield "float32", x.float()
        yield "bfloat16", x.bfloat16()
    else:
        yield "negative", ~x if x.dtype == torch.bool else -x - 1
        yield "too large", x + 100
        yield "floats", x.double()


def variants(value):
    """Names and values to put in the place of a valid argument."""
    if isinstance(value, torch.Tensor):
        yield from of_tensor(value)
    elif isinstance(value, np.ndarray):
        for what, wrong in of_tensor(torch.from_numpy(value)):
            if what != "bfloat16":
                yield what, wrong.numpy() if isinstance(wrong, torch.Tensor) else wrong
    elif isinstance(value, int):
        yield from [("None", None), ("zero", 0), ("negative", -1), ("large", 1000)]
        yield from [("a fraction", 1.5), ("NaN", float("nan")), ("a string", "3")]
    elif isinstance(value, float):
        yield from [("None", None), ("NaN", float("nan")), ("a string", "3")]
    elif isinstance(value, str):
        yield from [("None", None), ("another", "nonsense"), ("a number", 3)]
    else:
        yield from [("None", None), ("a string", "nonsense"), ("an object", object())]


def public_functions():
    for module, names in json.loads(SURFACE.read_text()).items():
        room = module.removeprefix("manifoldkit.")
        if room not in ("manifoldkit", "datasets", "exceptions"):
            values = importlib.import_module(module)
            for name in names:
                if inspect.isfunction(getattr(values, name)):
                    yield room, name


def test_every_public_function_is_in_the_table():
    for room, name in public_functions():
        known = f"{room}.{name}" in CASES or f"{room}.{name}" in ELSEWHERE
        assert known, f"{room}.{name}: add it to CASES"


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    batch=st.sampled_from([(), (1,), (3,), (0,), (2, 2), (2, 0)]),
    n=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore::manifoldkit.exceptions.ConvergenceWarning")
def test_valid_arguments_give_numbers(name, batch, n, seed):
    G.manual_seed(seed)
    arguments = CASES[name](batch, n)
    try:
        result = call(name, **arguments)
    except ValueError as error:  # sizes that the function does not take, and says so
        assert_says(error, name, (batch, n))
        assert n == 1 or 0 in batch or len(batch) > 1
    else:
        # as in torch, the mean of no losses is not a number
        assert not has_nan(result) or (name.startswith("losses.") and 0 in batch)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::manifoldkit.exceptions.ConvergenceWarning")
def test_wrong_arguments_are_named(name):
    G.manual_seed(0)
    valid = CASES[name]((3,), 3)
    for argument, value in valid.items():
        for what, wrong in variants(value):
            case = f"{argument}: {what}"
            try:
                result = call(name, **(valid | {argument: wrong}))
            except (ValueError, TypeError, NotImplementedError) as error:
                assert_says(error, name, case)
            except Exception as error:
                raise AssertionError(f"{case}: {type(error).__name__}") from error
            else:
                empty = 0 in getattr(wrong, "shape", ())
                allowed = what in ("nan", "inf", "NaN") or name in STRICT or empty
                assert allowed or not has_nan(result), case


@pytest.mark.parametrize("name", [name for name, strict in STRICT.items() if strict])
def test_what_is_outside_the_domain_is_refused_on_demand(name):
    G.manual_seed(0)
    valid = CASES[name]((3,), 3)
    argument = next(iter(valid))
    for what, wrong in of_tensor(valid[argument]):
        if what in ("nan", "inf", "zeros", "ones", "negative", "last axis gone"):
            try:
                result = call(name, **(valid | {argument: wrong}), **STRICT[name])
            except (ValueError, TypeError) as error:
                assert_says(error, name, what)
            else:
                assert not has_nan(result), what


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_precision_matrix(name, dtype):
    """The result has the input's dtype and is right to its rounding."""
    G.manual_seed(1)
    exact = CASES[name]((3,), 3)
    narrow = {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in exact.items()
    }
    if not any(isinstance(v, torch.Tensor) for v in narrow.values()):
        pytest.skip("takes NumPy arrays")
    if dtype is torch.bfloat16 and name in NO_HALF:
        with pytest.raises(TypeError, match="expected float32 or float64, found"):
            call(name, **narrow)
        return
    # the same rounded numbers in double, so that only the computation is compared
    wide = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in narrow.items()
    }
    G.manual_seed(2)
    found = list(tensors(call(name, **narrow)))
    G.manual_seed(2)
    expected = list(tensors(call(name, **wide)))
    assert len(found) == len(expected)
    floating = [
        (f, e)
        for f, e in zip(found, expected, strict=True)
        if f.is_floating_point() and f.shape == e.shape
    ]
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    for f, e in floating:
        assert not f.isnan().any()
        if name not in DECIDES and f.numel():
            size = max(1.0, float(e.abs().max()))
            assert float((f.double() - e).abs().max()) <= tolerance * size
