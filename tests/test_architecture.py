"""The house rules that a machine can hold: rooms, imports, names, sizes, notebooks.

``docs/architecture.md`` draws what the tables here say.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import manifoldkit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "manifoldkit"

# room -> rooms of the package that it may import; OPEN rooms are open to all
OPEN = {"exceptions", "_checks"}
ALLOWED = {
    "exceptions": set(),
    "_checks": set(),
    "_faces": {"linalg"},
    "linalg": set(),
    "manifolds": {"linalg"},
    "optim": {"manifolds", "linalg"},
    "statistics": {"manifolds", "linalg", "optim"},
    "spd": {"linalg", "manifolds", "optim", "_faces"},
    "lie": {"linalg", "manifolds", "_faces"},
    "equivariant": {"linalg", "manifolds", "_faces"},
    "graphs": {"linalg", "manifolds", "_faces"},
    "testing": {"linalg", "lie"},
    "datasets": set(),
}
FREE = {"experiments", "plotting", "cli", "__main__", "__init__"}  # may use everything

# inside a room: part (file or folder) -> parts that it may import
WITHIN = {
    "spd": {
        "hermitian": set(),
        "validation": {"hermitian"},
        "training": set(),
        "conditioning": set(),
        "gbw": {"conditioning", "hermitian"},
        "masked": {"gbw"},
        "batchnorm": {"conditioning", "gbw"},
        "layers": {"conditioning", "gbw"},
        "augmented": {"validation"},
        "pyriemann_bridge": {"gbw", "hermitian"},
        "clustering": {"pyriemann_bridge", "validation"},
        "estimators": {"gbw", "hermitian", "validation"},
        "networks": {"batchnorm", "conditioning", "layers"},
        "adaptation": {"batchnorm"},
        "eeg_network": {"layers", "networks"},
        "unit_free": {"validation"},
        "alignment": {"estimators", "pyriemann_bridge", "validation"},
        "pipelines": {"alignment", "augmented", "estimators", "unit_free"},
        "saved_pipelines": {
            *("alignment", "augmented", "estimators", "pyriemann_bridge", "unit_free"),
        },
        "classifier_inputs": {"augmented", "validation"},
        "classifier_answers": {"adaptation", "classifier_inputs", "networks"},
        "classifiers": {"classifier_answers", "networks", "training", "validation"},
        "embedding_selection": {"pipelines", "augmented"},
    },
    "equivariant": {
        "_clouds": set(),
        "batch_norms": set(),
        "eqmotion": set(),
        "neighbors": {"_clouds"},
        "frames": {"_clouds"},
        "risurconv": {"_clouds", "batch_norms", "neighbors"},
        "parot": {"_clouds", "batch_norms", "neighbors"},
        "point_clouds": {"_clouds", "neighbors", "frames", "risurconv", "parot"},
    },
    "graphs": {
        "modules": set(),
        "matching": set(),
        "monoid": {"modules"},
        "virtual": {"modules"},
        "forecast": {"modules", "virtual"},
    },
    "graphs/matching": {
        "labels": set(),
        "lad_worker": set(),
        "inputs": {"labels"},
        "sinkhorn": set(),
        "views": {"inputs", "labels"},
        "backtracking": {"views"},
        "worker": {"lad_worker", "views"},
        "exact": {"inputs", "labels", "views", "backtracking", "lad_worker", "worker"},
        "models": {"inputs"},
        "retrieval": {"inputs", "labels", "views", "exact", "models"},
    },
    "statistics": {
        "limits": set(),
        "base": {"limits"},
        "region": {"base"},
        "mean": {"base", "limits", "region"},
        "tangent_pca": {"base"},
        "regression": {"base"},
        "clustering": {"base"},
        "kernels": set(),
        "distributions": {"base", "limits"},
    },
    "lie": {
        "_arrays": set(),
        "basis": set(),
        "_guard": {"_arrays"},
        "closed_forms": {"_arrays"},
        "_proper": {"closed_forms"},
        "decompositions": {"_arrays", "_guard", "closed_forms"},
        "haar": {"basis", "closed_forms", "decompositions"},
        "groups": {
            *("_arrays", "_guard", "_proper", "basis"),
            *("closed_forms", "decompositions", "haar"),
        },
        "rotation": {"_arrays", "_proper", "closed_forms", "haar", "groups"},
        "nn": {"groups", "haar", "rotation"},
        "losses": {"_arrays", "_proper", "closed_forms", "groups", "rotation"},
    },
    # sub-rooms import the root files, never each other
    "datasets": {
        **{room: {"archive"} for room in ["eeg", "traffic", "points", "motion"]},
        **{room: {"archive"} for room in ["images", "graphs"]},
        "archive": set(),
        "set_tasks": set(),
    },
    "experiments": {
        "result": set(),
        "catalog": set(),
        "lightning_task": set(),
        "report": {"result"},
        "headlines": {"result"},
        "evaluation": {"catalog", "result"},
        "training": {"lightning_task"},
        "reproductions": {"catalog", "headlines", "result"},
        "spd": {"evaluation", "report", "result", "training"},
        "moabb_evaluation": {"spd"},  # the command's old place
        **{
            room: {"evaluation", "result", "training"}
            for room in ("lie", "motion", "points", "graphs")
        },
    },
}

# names of a room that moved down and kept their old place: place -> where it is now
MOVED = {
    "manifoldkit.graphs.matching.sinkhorn": "manifoldkit.linalg.balancing",
    "manifoldkit.optim.karcher": "manifoldkit.manifolds.means.karcher",
}

THIRD_PARTY = {  # what a room may import at all, where that is restricted
    "exceptions": set(),
    "_checks": set(),
    "linalg": {"torch", "lazy_loader"},
    "manifolds": {"torch", "geoopt", "lazy_loader"},
    "statistics": {"torch", "geoopt", "numpy", "scipy", "sklearn", "lazy_loader"},
    "datasets": {
        *("numpy", "scipy", "torch", "sklearn", "pooch", "mne", "moabb", "tqdm"),
        "filelock",  # one process at a time converts an archive
        *("igraph", "networkx"),  # exact ground truth of generated pairs
        "h5py",  # tables of traffic, read without pandas
        "lazy_loader",
    },
}
LATE = {"mne", "moabb", "matplotlib", "pyvista", "skorch", "lightning", "optuna"}
# files that are imported late themselves, so that they can be plain
EXEMPT = {
    "_faces/training.py": {"skorch"},
    "experiments/lightning_task.py": {"lightning"},
}


def source_files():
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    return ".".join(["manifoldkit", *path.relative_to(PACKAGE).with_suffix("").parts])


FILES = {module_of(path): path for path in source_files()}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Yield (module, is_at_top_level) for every import of a file, late ones too."""
    tree = parse(path)
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                package = inner in FILES or f"{inner}.__init__" in FILES
                yield (inner if package else node.module), id(node) in top


def of_package(path):
    """Yield the modules of the package that a file imports."""
    for module, _ in imports(path):
        if module.split(".")[0] == "manifoldkit" and module != "manifoldkit":
            yield module


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_rules(path):
    room, name = room_of(path), str(path.relative_to(PACKAGE))
    assert room in ALLOWED or room in FREE, f"{room}: add the room to ALLOWED"
    for module, top_level in imports(path):
        first, *rest = module.split(".")
        if first == "manifoldkit" and rest:
            allowed = ALLOWED.get(room, set(ALLOWED) | FREE) | {room} | OPEN
            assert rest[0] in allowed, f"{room} imports {rest[0]}"
        elif first != "manifoldkit" and first not in sys.stdlib_module_names:
            if room in THIRD_PARTY:
                assert first in THIRD_PARTY[room], f"{room} imports {module}"
            late = LATE - EXEMPT.get(name, set())
            assert not (top_level and first in late), f"{path}: import {first} late"
        if module.startswith("pyriemann.geometry"):
            assert path.name == "pyriemann_bridge.py"


@pytest.mark.parametrize("room", sorted(WITHIN))
def test_order_within_a_room(room):
    base, table = PACKAGE / room, WITHIN[room]
    prefix = "manifoldkit." + room.replace("/", ".") + "."
    for path in base.rglob("*.py"):
        part = path.relative_to(base).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in table, f"{room}/{part}: add it to WITHIN"
        for module in of_package(path):
            if module.startswith(prefix):
                other = module.removeprefix(prefix).split(".")[0]
                assert other in table[part] | {part}, f"{path} imports {module}"


def test_the_order_within_rooms_has_no_circle():
    for room, table in WITHIN.items():
        done = set()
        while len(done) < len(table):
            ready = {part for part in table.keys() - done if table[part] <= done}
            assert ready, f"{room}: {sorted(table.keys() - done)} import each other"
            done |= ready


def test_no_circle_among_files():
    """Late imports counted: an import moved into a function hides a circle only."""
    edges = {
        name: {m for m in of_package(path) if m in FILES and m != name}
        for name, path in FILES.items()
    }
    done = set()
    while len(done) < len(edges):
        ready = {name for name in edges.keys() - done if edges[name] <= done}
        left = sorted(edges.keys() - done)
        assert ready, f"these files import each other: {left}"
        done |= ready


def test_no_underscore_name_crosses_a_room():
    for path in source_files():
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = node.module.split(".")
            if parts[0] != "manifoldkit":
                continue
            same = parts[1:2] == [room_of(path)]
            names = [a.name for a in node.names if a.name.startswith("_")]
            names = [n for n in names if n not in {"_checks", "_faces"}]
            assert same or not names, f"{path} imports {names} of {node.module}"
            private = [p for p in parts[1:] if p.startswith("_")]
            assert same or set(private) <= {"_checks", "_faces"}, f"{path}: {parts}"


def test_tests_use_plain_names():
    """What a test needs of a room has a name without underscore, or a public face."""
    pattern = re.compile(r"manifoldkit[\w.]*\._[a-z]\w*|import _[a-z]\w*")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found = [m for m in pattern.findall(text) if "_checks" not in m]
        found = [m for m in found if "_faces" not in m]
        assert path.name == "test_architecture.py" or not found, f"{path}: {found}"


def test_nothing_imports_the_top_floor():
    for path in source_files():
        if room_of(path) in FREE:
            continue
        for module, _ in imports(path):
            assert module.split(".")[1:2] not in [[room] for room in FREE], path


def test_skorch_has_one_place():
    users = {
        str(path.relative_to(PACKAGE))
        for path in source_files()
        if any(module.split(".")[0] == "skorch" for module, _ in imports(path))
    }
    assert users == {"_faces/training.py"}


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
    "statistics": {"geoopt"},
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


def stubs():
    return sorted(PACKAGE.rglob("__init__.pyi"))


@pytest.mark.parametrize("path", stubs(), ids=lambda p: str(p.parent.relative_to(ROOT)))
def test_a_stub_is_the_only_list_of_names(path):
    """Each line is ``from .file import name as name``; the name is defined there."""
    package = ".".join(path.parent.relative_to(ROOT).parts)
    module = importlib.import_module(package)
    init = ast.parse((path.parent / "__init__.py").read_text(encoding="utf-8"))
    assert not any("_EXPORTS" in ast.dump(node) for node in init.body)
    for node in parse(path).body:
        if isinstance(node, ast.AnnAssign):  # __version__
            continue
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        for alias in node.names:
            assert alias.name == alias.asname, f"{path}: {alias.name}"
            assert alias.name in module.__all__
            value = getattr(module, alias.name)
            home = f"{package}.{node.module}" if node.module else package
            if node.module and callable(value) and value.__module__ in FILES:
                home = MOVED.get(home, home)
                assert value.__module__ == home, f"{path}: {alias.name} is elsewhere"
        if node.module:  # a file of that name would hide the value once it is imported
            names = {alias.name for alias in node.names}
            files = {p.stem for p in path.parent.iterdir()}
            assert not names & files, f"{path}: {names & files} name files too"


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_name_leaves_a_signpost_only(old):
    """The old file imports from a room below and defines nothing."""
    docstring, *lines = parse(FILES[old]).body
    assert isinstance(docstring, ast.Expr)
    for line in lines:
        assert isinstance(line, ast.ImportFrom)
        assert MOVED[old].startswith(f"{line.module}.")
        assert line.module.split(".")[1] in ALLOWED[old.split(".")[1]]


def test_packages_have_stubs_where_they_have_names():
    for path in PACKAGE.rglob("__init__.py"):
        text = path.read_text(encoding="utf-8")
        lazy = "attach_stub" in text
        assert lazy == path.with_suffix(".pyi").exists(), path
        assert "import_module" not in text, path


PAGES = ["README.md", "CONTRIBUTING.md"]
FOLDERS = ["docs", "notebooks", "examples", "benchmarks", "datasets"]


def shown_imports():
    """Yield (file, module, name) of what docs, notebooks, benchmarks import of us."""
    files = [ROOT / page for page in PAGES]
    for folder in FOLDERS:
        for suffix in ("*.md", "*.py", "*.ipynb"):
            files += [
                p for p in (ROOT / folder).rglob(suffix) if "_build" not in p.parts
            ]
    pattern = re.compile(
        r"from (manifoldkit[\w.]*) import (?:\(([^)]*)\)|([\w ,]+))", re.MULTILINE
    )
    for path in files:
        text = path.read_text(encoding="utf-8").replace('\\n",\n    "', "\n")
        for module, many, few in pattern.findall(text):
            for name in re.findall(r"(\w+)(?: as \w+)?\s*(?:,|$)", (many or few) + ","):
                yield path, module, name


def test_pages_use_public_paths_only():
    """A name is taken from a package that lists it, or from an experiment."""
    for path, module, name in shown_imports():
        where = f"{path.relative_to(ROOT)}: from {module} import {name}"
        value = importlib.import_module(module)
        free = module.split(".")[1:2] in (["experiments"], ["plotting"], ["cli"])
        if not free and module != "manifoldkit.exceptions":
            listed = getattr(value, "__all__", None)
            inside = hasattr(value, "__path__")
            modules = ("manifoldkit.lie.haar", "manifoldkit.lie.losses")
            public = module in modules or (inside and name in listed)
            assert public or module == "manifoldkit", where
        assert hasattr(value, name) or module == "manifoldkit", where


def test_library_raises_rather_than_asserts():
    for path in source_files():
        found = [n.lineno for n in ast.walk(parse(path)) if isinstance(n, ast.Assert)]
        assert not found, f"{path}: assert at lines {found}"


def test_files_stay_readable():
    for folder, most in (("manifoldkit", 500), ("tests", 600)):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= most, f"{path} has {lines} lines: split it by idea"


def test_rooms_stay_small():
    for folder in [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())]:
        files = list(folder.glob("*.py"))
        assert len(files) <= 18, f"{folder} has {len(files)} files: give them rooms"


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.name)
def test_notebooks_are_committed_without_outputs(path):
    assert path.stat().st_size < 100_000
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], f"{path.name}: clear the outputs"
            assert cell["execution_count"] is None


DOCS = ROOT / "docs"


def drawn_arrows():
    """Yield (room, room it may import) of the drawing; ``*`` is every room."""
    text = (DOCS / "_static" / "architecture.svg").read_text(encoding="utf-8")
    for start, end in re.findall(r'data-from="([^"]+)" data-to="([^"]+)"', text):
        yield from ((a, b) for a in start.split() for b in end.split())


def test_the_drawing_shows_the_rooms_and_what_they_may_import():
    text = (DOCS / "_static" / "architecture.svg").read_text(encoding="utf-8")
    top = {room for room in FREE if not room.startswith("__")}
    assert set(re.findall(r'data-room="(\w+)"', text)) == set(ALLOWED) | top
    assert set(re.findall(r'class="name"[^>]*>(\w+)', text)) == set(ALLOWED) | top
    wanted = {(a, b) for a, rooms in ALLOWED.items() for b in rooms}
    assert set(drawn_arrows()) == wanted | {(room, "*") for room in top}


def test_the_page_names_every_room_and_part():
    """Parts stand in an order in which each imports only those before it."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert "_static/architecture.svg" in text
    names = set(re.findall(r"`([^`]+)`", text))
    assert names >= set(ALLOWED) | {room for room in FREE if not room.startswith("__")}
    rows = text.partition("## Inside a room")[2]
    for room, table in WITHIN.items():
        pattern = rf"^\| `{room.replace('/', '.')}` \| (.*) \|$"
        (row,) = re.findall(pattern, rows, re.M)
        floors = [set(re.findall(r"`(\w+)`", floor)) for floor in row.split(";")]
        assert set().union(*floors) == set(table), room
        below = set()
        for floor in floors:
            for part in floor:
                assert table[part] <= below, f"{room}: {part} stands too early"
            below |= floor
