"""Types reach the user: mypy, pyright and jedi see what the package offers.

A script as a user would write it is checked outside the checkout: every public name is
shown, good and bad calls of every room are made, types are asserted. Both checkers run
once a test run; mypy's cache stays in ``.mypy_cache/user``.
"""

import contextlib
import functools
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

import manifoldkit

ROOT = Path(__file__).resolve().parent.parent
SURFACE = json.loads((ROOT / "tests" / "api_surface.json").read_text())
ROOMS = [name for name in SURFACE if name != "manifoldkit"]
pytestmark = pytest.mark.timeout(900)  # mypy reads torch for a minute, the first time

START = """\
from typing import assert_type
import numpy as np
import torch
from torch import Tensor
from manifoldkit import datasets, equivariant, exceptions, graphs, lie, linalg
from manifoldkit import manifolds, optim, spd, statistics, testing
from manifoldkit.lie import haar, losses, nn, rotation
from manifoldkit.equivariant import neighbors
a, b = torch.eye(3), torch.eye(3)
net: torch.nn.Module = torch.nn.Linear(3, 3)
X, y = np.zeros((4, 3, 3)), np.zeros(4)
"""

# A call that both checkers accept, and the same with a keyword misspelt.
CALLS = [
    ("statistics.TangentPCA(n_components=2)", "statistics.TangentPCA(n_comps=2)"),
    ("spd.GBWMDM(power=1)", "spd.GBWMDM(powr=1)"),
    ("spd.GBWTangentSpace(power=1)", "spd.GBWTangentSpace(pwer=1)"),
    ("spd.SPDNetClassifier(max_epochs=3)", "spd.SPDNetClassifier(max_epoch=3)"),
    ("spd.gbw_distance(a, b, power=2)", "spd.gbw_distance(a, b, pwoer=2)"),
    ("spd.gbw_mean(a, max_iter=3)", "spd.gbw_mean(a, maxiter=3)"),
    ("spd.BiMap(3, 2, validate=True)", "spd.BiMap(3, 2, valid=True)"),
    ("spd.GBWBatchNorm(3, power=1.0)", "spd.GBWBatchNorm(3, powr=1.0)"),
    ("spd.AugmentedCovariances(order=2)", "spd.AugmentedCovariances(ordr=2)"),
    (
        "datasets.load_eeg_demo(task='imagined_fists_feet')",
        "datasets.load_eeg_demo(tsk='x')",
    ),
    ("datasets.make_traffic(n_days=2)", "datasets.make_traffic(days=2)"),
    ("datasets.make_point_clouds(8, noise=1)", "datasets.make_point_clouds(8, nois=1)"),
    ("datasets.make_n_body(8, seed=1)", "datasets.make_n_body(8, sed=1)"),
    (
        "equivariant.FrameAveraging(net, 'SE(3)', frame='pca')",
        "equivariant.FrameAveraging(net, 'SE(3)', fram='pca')",
    ),
    (
        "equivariant.PointCloudClassifier(max_epochs=1)",
        "equivariant.PointCloudClassifier(maxepochs=1)",
    ),
    (
        "equivariant.MotionForecaster(horizon=3)",
        "equivariant.MotionForecaster(horizont=3)",
    ),
    ("equivariant.pca_frame(a, 'SO(3)')", "equivariant.pca_frame(a, grp='SO(3)')"),
    ("neighbors.knn(a, b, k=2)", "neighbors.knn(a, b, kk=2)"),
    ("graphs.TrafficForecaster(history=3)", "graphs.TrafficForecaster(histroy=3)"),
    ("graphs.SubgraphRetriever(keep=3)", "graphs.SubgraphRetriever(keeps=3)"),
    ("graphs.sinkhorn(a, tau=0.1)", "graphs.sinkhorn(a, tua=0.1)"),
    (
        "graphs.LCMAggregation('gru', in_channels=3)",
        "graphs.LCMAggregation('gru', channels=3)",
    ),
    ("lie.SO(3, alpha=1.0)", "lie.SO(3, alhpa=1.0)"),
    ("lie.bch(a, b, order=2)", "lie.bch(a, b, oder=2)"),
    ("lie.polar(a, side='left')", "lie.polar(a, sides='left')"),
    (
        "rotation.rotation_6d_to_matrix(a, layout='rows')",
        "rotation.rotation_6d_to_matrix(a, layuot='rows')",
    ),
    (
        "losses.geodesic_loss(a, b, reduction='sum')",
        "losses.geodesic_loss(a, b, reduce='sum')",
    ),
    ("nn.GroupPool(space='mean')", "nn.GroupPool(spce='mean')"),
    ("linalg.powm(a, 0.5, validate=True)", "linalg.powm(a, 0.5, valdate=True)"),
    ("linalg.procrustes(a, b, special=True)", "linalg.procrustes(a, b, specail=True)"),
    ("linalg.rigid_fit(a, b, scale=True)", "linalg.rigid_fit(a, b, scael=True)"),
    ("manifolds.SPD('airm')", "manifolds.SPD(metrc='airm')"),
    (
        "manifolds.check_manifold(manifolds.Sphere(), 3, seed=1)",
        "manifolds.check_manifold(manifolds.Sphere(), 3, sed=1)",
    ),
    ("manifolds.FixedRank(m=3, n=3, r=1)", "manifolds.FixedRank(m=3, n=3, rank=1)"),
    ("optim.LoRALinear(4, 3, r=2)", "optim.LoRALinear(4, 3, rank=2)"),
    (
        "manifolds.parametrize(net, 'weight', manifolds.Sphere(), project=False)",
        "manifolds.parametrize(net, 'weight', manifolds.Sphere(), prject=False)",
    ),
    ("manifolds.Stiefel(retraction='qr')", "manifolds.Stiefel(retract='qr')"),
    (
        "optim.RiemannianAdam([a], lr=0.1, nonfinite='skip')",
        "optim.RiemannianAdam([a], lr=0.1, nonfinit='skip')",
    ),
    (
        "optim.karcher_mean(manifolds.SPD(), a, max_iter=3)",
        "optim.karcher_mean(manifolds.SPD(), a, maxiter=3)",
    ),
    (
        "optim.to_pymanopt(manifolds.Sphere(), torch.sum, (3,), dim=2)",
        "optim.to_pymanopt(manifolds.Sphere(), torch.sum, (3,), dmi=2)",
    ),
    ("testing.random_rotation(d=3)", "testing.random_rotation(dim=3)"),
    (
        "testing.check_equivariance(net, a, 'vector', 'vector', 'O(3)', seed=1)",
        "testing.check_equivariance(net, a, 'vector', 'vector', 'O(3)', sed=1)",
    ),
]

# What a checker must infer: an expression and its type.
INFERENCES = {
    "spd.SPDNetClassifier().fit(X, y)": "spd.SPDNetClassifier",
    "spd.SPDNetClassifier.load('model')": "spd.SPDNetClassifier",
    "spd.GBWMDM().fit(X, y)": "spd.GBWMDM",
    "spd.GBWTangentSpace().fit(X)": "spd.GBWTangentSpace",
    "spd.AugmentedCovariances().fit(X)": "spd.AugmentedCovariances",
    "spd.gbw_distance(a, b)": "Tensor",
    "spd.gbw_geodesic(a, b, 0.5)": "Tensor",
    "spd.augmented_covariance(a)": "Tensor",
    "datasets.make_traffic(8, 2)": "datasets.TrafficData",
    "datasets.make_point_clouds(8)": "datasets.PointClouds",
    "datasets.load_eeg_demo()": "datasets.EEGEpochs",
    "datasets.fetch_physionet_mi()": "datasets.EEGEpochs",
    "equivariant.pca_frame(a)": "equivariant.Frame",
    "equivariant.MotionForecaster().fit(X)": "equivariant.MotionForecaster",
    "equivariant.PointCloudClassifier().fit(X, y)": "equivariant.PointCloudClassifier",
    "equivariant.ade(a, b)": "Tensor",
    "graphs.sinkhorn(a)": "Tensor",
    "graphs.TrafficForecaster().fit(X)": "graphs.TrafficForecaster",
    "graphs.TrafficForecaster.load('model')": "graphs.TrafficForecaster",
    "lie.bch(a, b)": "Tensor",
    "lie.sym_exp(a)": "Tensor",
    "lie.SO(3).exp(a)": "Tensor",
    "rotation.rotation_6d_to_matrix(a)": "Tensor",
    "losses.geodesic_loss(a, b)": "Tensor",
    "linalg.polar(a)": "linalg.Polar",
    "linalg.rigid_fit(a, b)": "linalg.RigidFit",
    "linalg.rigid_fit(a, b, scale=True)": "linalg.SimilarityFit",
    "linalg.eigh(a)": "tuple[Tensor, Tensor]",
    "linalg.logm(a)": "Tensor",
    "manifolds.SPD().expmap(a, b)": "Tensor",
    "manifolds.SPD().dist(a, b)": "Tensor",
    "optim.LoRALinear.from_linear(torch.nn.Linear(4, 3))": "optim.LoRALinear",
    "manifolds.check_manifold(manifolds.Sphere(), 3)": "manifolds.ManifoldReport",
    "optim.karcher_mean(manifolds.SPD(), a)": "optim.KarcherMean",
    "testing.random_rotation(3)": "Tensor",
    "testing.check_equivariance(net, a, 'vector', 'vector')": (
        "testing.EquivarianceReport"
    ),
}


# What is public


def contents(module):
    """Return the public names of a module, from its stub or of its own file."""
    if hasattr(module, "__path__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]


def public():
    """Return what is public: the recorded names, and those of modules among them."""
    found = []
    for room, names in SURFACE.items():
        module = importlib.import_module(room)
        for name in names:
            value = getattr(module, name)
            found.append(f"{room}.{name}")
            if inspect.ismodule(value) and f"{room}.{name}" not in SURFACE:
                found += [f"{room}.{name}.{inner}" for inner in contents(value)]
    return found


def value_of(name):
    """Return the value of a public name."""
    return functools.reduce(getattr, name.split(".")[1:], manifoldkit)


# Results of classes of other libraries: mypy knows nothing of those without types,
# pyright reads their code where they are installed.
FOREIGN = {
    "manifoldkit.lie.rotation.to_scipy",
    "manifoldkit.manifolds.as_parameter",
    "manifoldkit.manifolds.attach",
    "manifoldkit.manifolds.manifold_of",
    "manifoldkit.optim.to_pymanopt",
    "manifoldkit.spd.load_pipeline",
    "manifoldkit.spd.make_acm_classifier",
    "manifoldkit.spd.make_gbw_kmeans",
}

# The script, and what the checkers say about its lines


def reveals():
    return [name for name in public() if name != "manifoldkit.__version__"]


def script():
    """Return the lines of the script: (kind, what it is about, text)."""
    lines = [("start", "", text) for text in START.splitlines()]
    modules = {name.rpartition(".")[0] for name in reveals()}
    lines += [("start", "", f"import {module}") for module in sorted(modules)]
    lines += [("reveal", name, f"reveal_type({name})") for name in reveals()]
    lines += [
        ("unknown", room, f"from {room} import no_such_name  # noqa")
        for room in SURFACE
    ]
    for good, bad in CALLS:
        lines += [("good", good, good), ("bad", bad, bad)]
    for code, type_ in INFERENCES.items():
        lines.append(("infer", code, f"assert_type({code}, {type_})"))
    return lines


def run_mypy(file):
    """Return (line, severity, message) of every remark."""
    line = [sys.executable, "-m", "mypy", "--config-file", "", "--no-error-summary"]
    line += ["--follow-imports", "silent", "--ignore-missing-imports"]
    line += ["--cache-dir", str(ROOT / ".mypy_cache" / "user"), str(file)]
    done = subprocess.run(
        line,
        cwd=file.parent,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr + done.stdout
    found = re.findall(r"^\w+\.py:(\d+): (\w+): (.*)$", done.stdout, re.M)
    return [(int(number), severity, text) for number, severity, text in found]


def run_pyright(file):
    """Return (line, severity, message) of every remark."""
    settings = {"include": [file.name], "extraPaths": [str(ROOT)]}
    (file.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    line = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(file.parent)]
    done = subprocess.run(
        [*line, "--pythonpath", sys.executable],
        cwd=file.parent,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return [
        (said["range"]["start"]["line"] + 1, said["severity"], said["message"])
        for said in json.loads(done.stdout)["generalDiagnostics"]
    ]


def once(tmp_path_factory, name, work):
    """Return what ``work(folder)`` gives; of several processes, one does it."""
    folder, lock = tmp_path_factory.getbasetemp(), contextlib.nullcontext()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
        lock = pytest.importorskip("filelock").FileLock(folder / f"{name}.lock")
    with lock:
        result = folder / name / "said.json"
        if not result.exists():
            (folder / name).mkdir(exist_ok=True)
            result.write_text(json.dumps(work(folder / name)))
        return json.loads(result.read_text())


@pytest.fixture(
    scope="session", params=[run_mypy, run_pyright], ids=lambda run: run.__name__[4:]
)
def said(request, tmp_path_factory):
    """Return what a checker says: ``{(kind, about): [(severity, message), ...]}``."""
    name = request.param.__name__.removeprefix("run_")
    if find_spec(name) is None:
        pytest.skip(f"needs {name} (extra test)")

    def work(folder):
        file = folder / "user_script.py"
        file.write_text("".join(f"{text}\n" for _, _, text in script()))
        return request.param(file)

    remarks = defaultdict(list)
    lines = script()
    for number, severity, message in once(tmp_path_factory, name, work):
        remarks[lines[number - 1][:2]].append((severity, message))
    return remarks


def errors(said, kind, about):
    return [text for severity, text in said[kind, about] if severity == "error"]


def test_the_script_itself_is_clean(said):
    assert not errors(said, "start", "")


def revealed(said, name):
    """Return the type that a checker shows for a public name."""
    texts = [text for _, text in said["reveal", name]]
    found = re.search(r'(?:Revealed type|Type of ".*") is "(.*)"', "".join(texts), re.S)
    return found[1] if found else f"nothing, but says {texts}"


def is_known(name, shown):
    """Whether a type is one, and what a function returns too."""
    if shown.startswith("nothing") or shown in ("Any", "Unknown"):
        return False
    result = shown.split("->")[-1].strip()
    if name in FOREIGN and result in ("Any", "Unknown"):
        return True
    lost = shown.startswith(("def (*Any, **Any)", "(...)"))
    return not lost and result != "Any" and "Unknown" not in result


def test_no_public_name_is_any(said):
    """Neither bare, nor as what a function returns or a class makes."""
    shown = {name: revealed(said, name) for name in reveals()}
    unknown = [f"{k}: {v}" for k, v in shown.items() if not is_known(k, v)]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize("room", SURFACE)
def test_an_unknown_name_is_refused(said, room):
    assert any("no_such_name" in text for text in errors(said, "unknown", room))


def test_calls_name_every_room():
    used = {bad.partition(".")[0] for _, bad in CALLS}
    assert used >= {room.partition(".")[2] for room in ROOMS}


@pytest.mark.parametrize(("good", "bad"), CALLS, ids=[bad for _, bad in CALLS])
def test_a_wrong_keyword_is_refused(said, good, bad):
    accepted, refused = errors(said, "good", good), errors(said, "bad", bad)
    assert not accepted
    assert refused, f"{bad} is accepted"


@pytest.mark.parametrize("code", INFERENCES)
def test_types_are_inferred(said, code):
    found = errors(said, "infer", code)
    assert not found


# Annotations


def functions_of(cls):
    """Yield (name, function) of what a class offers, unless others wrote it."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != "manifoldkit":
            continue
        for name, value in vars(base).items():
            if isinstance(value, staticmethod | classmethod):
                value = value.__func__
            elif isinstance(value, property):
                value = value.fget
            elif isinstance(value, functools.cached_property):
                value = value.func
            offered = name in ("__init__", "__call__") or not name.startswith("_")
            if offered and inspect.isfunction(value):
                yield f"{base.__module__}.{base.__qualname__}.{name}", value


def unannotated(function):
    """Return the parameters of a function that have no annotation, and "return"."""
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is empty and name not in ("self", "cls")
    ]
    constructor = function.__name__ == "__init__"
    if signature.return_annotation is empty and not constructor:
        missing.append("return")
    return missing


@pytest.mark.parametrize("room", [*ROOMS, "manifoldkit.exceptions"])
def test_annotations_are_complete(room):
    missing = {}
    for name in public():
        value = value_of(name)
        if not name.startswith(f"{room}."):
            continue
        if inspect.isclass(value):
            found = dict(functions_of(value))
        else:
            found = {name: value} if inspect.isfunction(value) else {}
        for label, function in found.items():
            if gaps := unannotated(function):
                missing[label] = gaps
    assert not missing, "\n".join(f"{k}: {', '.join(v)}" for k, v in missing.items())


def test_the_rule_for_annotations_notices():
    def bare(x, *args, y: int = 0): ...

    class Bare:
        def __init__(self, x): ...

    assert unannotated(bare) == ["x", "args", "return"]
    assert unannotated(Bare.__init__) == ["x"]


# Editors


@pytest.fixture(scope="module")
def editor():
    """Return a function that opens code in jedi, as an editor does."""
    jedi = pytest.importorskip("jedi", reason="needs jedi (extra test)")
    project = jedi.Project("/", added_sys_path=[str(ROOT)], smart_sys_path=False)
    environment = jedi.InterpreterEnvironment()
    return functools.partial(jedi.Script, project=project, environment=environment)


@pytest.mark.parametrize("room", SURFACE)
@pytest.mark.parametrize("way", ["attribute", "import"])
def test_an_editor_completes_public_names(editor, room, way):
    code = f"import {room}\n{room}." if way == "attribute" else f"from {room} import "
    offered = {completion.name for completion in editor(code).complete()}
    assert set(SURFACE[room]) <= offered


SIGNATURES = {
    "from manifoldkit.spd import SPDNetClassifier\nSPDNetClassifier(": "max_epochs",
    "from manifoldkit import spd\nspd.gbw_distance(": "power",
    "import manifoldkit as mk\nmk.datasets.load_eeg_demo(": "return_X_y",
    "from manifoldkit.equivariant import FrameAveraging\nFrameAveraging(": "frame",
    "from manifoldkit.lie import rotation\nrotation.encode(": "rep",
    "from manifoldkit.graphs import TrafficForecaster\nTrafficForecaster(": "history",
    "from manifoldkit.optim import karcher_mean\nkarcher_mean(": "max_iter",
}


@pytest.mark.parametrize("code", SIGNATURES)
def test_an_editor_shows_signatures(editor, code):
    found = editor(code).get_signatures()  # several where it is overloaded
    assert found
    for signature in found:
        assert SIGNATURES[code] in [parameter.name for parameter in signature.params]


def test_an_editor_completes_methods(editor):
    code = "from manifoldkit.spd import GBWMDM\nGBWMDM()."
    offered = {completion.name for completion in editor(code).complete()}
    assert {"fit", "predict", "power"} <= offered


# What all this costs at import


def test_import_loads_the_standard_library_and_lazy_loader_only():
    code = (
        "import sys; before = set(sys.modules); import manifoldkit\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "EAGER_IMPORT"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["lazy_loader", "manifoldkit"]
