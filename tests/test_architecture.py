"""The house rules that a machine can hold: imports, lazy loading, names, notebooks."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import manifoldkit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "manifoldkit"

# room -> rooms of the package it may import (exceptions are open to all)
ALLOWED = {
    "exceptions": set(),
    "linalg": set(),
    "manifolds": {"linalg"},
    "optim": {"manifolds", "linalg"},
    "spd": {"linalg", "manifolds", "optim"},
    "lie": {"linalg", "manifolds"},
    "equivariant": {"linalg", "manifolds"},
    "graphs": {"linalg", "manifolds"},
    "testing": {"linalg", "lie"},
    "datasets": set(),
}
FREE = {"experiments", "plotting", "cli", "__main__"}  # may use everything
THIRD_PARTY = {  # what a room may import at all, where that is restricted
    "exceptions": set(),
    "linalg": {"torch"},
    "manifolds": {"torch", "geoopt"},
    "datasets": {
        *("numpy", "scipy", "torch", "sklearn", "pooch", "mne", "moabb", "tqdm"),
        *("igraph", "networkx"),  # exact ground truth of generated pairs
        "h5py",  # tables of traffic, read without pandas
    },
}
LATE = {"mne", "moabb", "matplotlib", "pyvista", "skorch", "lightning", "optuna"}


def source_files():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path):
    """Yield (module, is_at_top_level) for every import of a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, id(node) in top
            if node.module == "manifoldkit":
                for alias in node.names:
                    yield f"manifoldkit.{alias.name}", id(node) in top


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_rules(path):
    room = room_of(path)
    if room.startswith("_") and room != "__main__":
        return  # the package itself and its lazy names
    assert room in ALLOWED or room in FREE, f"{room}: add the room to ALLOWED"
    for module, top_level in imports(path):
        first, *rest = module.split(".")
        if first == "manifoldkit" and rest and not rest[0].startswith("_"):
            other = rest[0]
            allowed = ALLOWED.get(room, set(ALLOWED) | FREE) | {room, "exceptions"}
            assert other in allowed, f"{room} imports {other}"
        elif first != "manifoldkit" and first not in sys.stdlib_module_names:
            if room in THIRD_PARTY:
                assert first in THIRD_PARTY[room], f"{room} imports {module}"
            assert not (top_level and first in LATE), f"{path}: import {first} late"
        if module.startswith("pyriemann.geometry"):
            assert path.name == "pyriemann_bridge.py"


def test_nothing_imports_the_top_floor():
    for path in source_files():
        if room_of(path) in FREE | {"__init__"}:
            continue
        for module, _ in imports(path):
            assert module.split(".")[1:2] not in [[room] for room in FREE], path


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_is_light():
    heavy = "torch numpy scipy sklearn geoopt pyriemann torch_geometric e3nn"
    code = (
        "import sys, manifoldkit, manifoldkit.exceptions\n"
        f"print([m for m in {heavy.split()} if m in sys.modules])"
    )
    assert run_python(code) == "[]"


# what a room is built on, of the libraries that only some rooms need
NEEDS = {
    "linalg": set(),
    "datasets": set(),
    "manifolds": {"geoopt"},
    "optim": {"geoopt"},
    # pyriemann imports matplotlib itself; layers hold points of geoopt manifolds
    "spd": {"geoopt", "matplotlib"},
    "lie": set(),
    "equivariant": set(),
    "graphs": {"torch_geometric"},
    "testing": {"e3nn"},
}


@pytest.mark.parametrize("room", sorted(NEEDS))
def test_each_room_imports_without_optional_dependencies(room):
    blocked = (LATE | {"torch_geometric", "e3nn", "geoopt"}) - NEEDS[room]
    code = (
        "import sys, importlib\n"
        f"blocked = {sorted(blocked)}\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        f"module = importlib.import_module('manifoldkit.{room}')\n"
        "[getattr(module, name) for name in module.__all__]\n"
        "print('ok')"
    )
    assert run_python(code) == "ok"


def public_names():
    names = {"manifoldkit": sorted(manifoldkit.__all__)}
    for room in manifoldkit.__all__:
        module = getattr(manifoldkit, room)
        if hasattr(module, "__path__"):
            names[module.__name__] = sorted(module.__all__)
    return names


def test_public_names_are_a_visible_decision():
    """A name that goes away or appears must be edited in api_surface.json too."""
    recorded = json.loads((ROOT / "tests" / "api_surface.json").read_text())
    assert public_names() == recorded


def test_public_names_exist_and_are_documented():
    for module_name, names in public_names().items():
        module = importlib.import_module(module_name)
        for name in names:
            value = getattr(module, name)
            if not name.startswith("__"):
                assert value.__doc__, f"{module_name}.{name} has no docstring"


def test_library_raises_rather_than_asserts():
    for path in source_files():
        tree = ast.parse(path.read_text())
        found = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
        assert not found, f"{path}: assert at lines {found}"


def test_files_stay_readable():
    for path in source_files():
        lines = len(path.read_text().splitlines())
        assert lines <= 520, f"{path} has {lines} lines: split it by idea"


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.name)
def test_notebooks_are_committed_without_outputs(path):
    assert path.stat().st_size < 100_000
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], f"{path.name}: clear the outputs"
            assert cell["execution_count"] is None
