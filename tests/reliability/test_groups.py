"""Every method of every Lie group against wrong elements and vectors."""

import inspect
import re

import pytest
import torch

from manifoldkit import lie

GROUPS = {
    "GLPlus": lambda: lie.GLPlus(3),
    "SL": lambda: lie.SL(3),
    "SO": lambda: lie.SO(3),
    "SO in the plane": lambda: lie.SO(2),
    "SPDSpace": lambda: lie.SPDSpace(3),
    "Scale": lie.Scale,
    "Affine": lambda: lie.Affine(2, lie.GLPlus(2)),
}
OTHERS = {"identity", "sample", "belongs", "join"}  # of sizes, any value, two parts


def arguments(group, method):
    """Valid arguments, by name, for four elements."""
    generator = torch.Generator().manual_seed(0)
    g = group.sample(4, generator=generator, dtype=torch.float64)[0]
    h = group.sample(4, generator=generator, dtype=torch.float64)[0]
    x = group.log(g)
    size = g.shape[-1] - isinstance(group, lie.Affine)
    valid = {"g": g, "h": h, "t": 0.3, "x": x}
    if method == "act":
        valid["x"] = g if isinstance(group, lie.SPDSpace) else g.new_ones(4, size)
    if method in ("hat", "from_coords"):
        valid["v"] = group.vee(x) if method == "hat" else group.coords(g)
    wanted = inspect.signature(getattr(group, method)).parameters.values()
    return {p.name: valid[p.name] for p in wanted if p.default is p.empty}


def wrong(x):
    yield from [("a string", "nonsense"), ("None", None), ("ragged", [[1.0], [2, 3]])]
    yield from [("scalar", x.new_ones(())), ("last axis gone", x[..., 0])]
    yield from [("longer", torch.cat([x, x[..., :1]], -1)), ("shorter", x[..., 1:])]
    yield from [("three elements", x[:3]), ("no columns", x[..., :0])]
    yield from [("whole", x.long()), ("complex", x.to(torch.complex128))]
    yield from [("bfloat16", x.bfloat16()), ("float32", x.float()), ("none", x[:0])]
    yield from [("NaN", x * float("nan")), ("zeros", 0 * x), ("huge", 1e8 * x)]


def methods(group):
    for name in dir(group):
        member = getattr(group, name)
        if not name.startswith("_") and callable(member) and name not in OTHERS:
            yield name


@pytest.mark.parametrize("name", GROUPS)
def test_methods_name_what_is_wrong(name):
    group = GROUPS[name]()
    for method in methods(group):
        call, valid = getattr(group, method), arguments(group, method)
        result = call(**valid)
        parts = result if isinstance(result, tuple) else (result,)
        assert not any(part.isnan().any() for part in parts)
        for argument, value in valid.items():
            if not isinstance(value, torch.Tensor):
                continue
            for what, bad in wrong(value):
                case = f"{method}, {argument}: {what}"
                try:
                    call(**(valid | {argument: bad}))
                except (ValueError, TypeError) as error:
                    text = str(error)
                    said = re.search(r"(^|[\s,(])[ghxvt](:|,|\[| is )", text)
                    assert said, (case, text)
                except Exception as error:
                    raise AssertionError(f"{case}: {type(error).__name__}") from error
