"""What is shipped: the wheel has the package and nothing else, the sdist the checkout.

``python3 dev.py dist`` makes both by ``build``; here the build backend is called alone,
which needs no network.
"""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import manifoldkit

pytest.importorskip("hatchling", reason="needs hatchling (extra test)")
ROOT = Path(__file__).resolve().parent.parent
NAME = f"manifoldkit-{manifoldkit.__version__}"
STRAY = ("__pycache__", ".pyc", "_build/", "docs/generated/", ".ipynb_checkpoints")
STRAY += ("docs/tutorials/0", "docs/tutorials/1", "/runs/", ".venv", ".npz", ".hypoth")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both; return their names and contents, ``{name: bytes}`` each."""
    target = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(target / f"{NAME}-py3-none-any.whl") as archive:
        wheel = {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(target / f"{NAME}.tar.gz") as archive:
        files = [m for m in archive.getmembers() if m.isfile()]
        sdist = {
            m.name.removeprefix(f"{NAME}/"): archive.extractfile(m).read()
            for m in files
        }
    return wheel, sdist


def test_wheel_has_the_package_and_nothing_else(built):
    wheel, _ = built
    package = ROOT / "manifoldkit"
    files = [*package.rglob("*.py"), *package.rglob("*.pyi")]
    expected = {p.relative_to(ROOT).as_posix() for p in files}
    expected.add("manifoldkit/py.typed")
    rest = set(wheel) - expected
    assert expected <= set(wheel)
    assert all(name.startswith(f"{NAME}.dist-info/") for name in rest), rest


def test_wheel_says_what_it_is(built):
    wheel, _ = built
    metadata = Parser().parsestr(wheel[f"{NAME}.dist-info/METADATA"].decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Version"] == manifoldkit.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata.get_payload().startswith("# manifoldkit")
    extras = set(project["optional-dependencies"])
    assert set(metadata.get_all("Provides-Extra")) == extras
    entry = wheel[f"{NAME}.dist-info/entry_points.txt"].decode()
    assert "manifoldkit = manifoldkit.cli:app" in entry
    assert f"{NAME}.dist-info/licenses/LICENSE" in wheel


def test_sdist_has_what_the_tests_and_the_pages_need(built):
    _, sdist = built
    for name in ("README.md", "LICENSE", "CITATION.cff", "dev.py", "pyproject.toml"):
        assert name in sdist
    for folder in ("manifoldkit", "tests", "benchmarks", "examples"):
        files = (ROOT / folder).rglob("*.py")
        assert {p.relative_to(ROOT).as_posix() for p in files} <= set(sdist)
    assert "docs/results/eeg_demo/result.json" in sdist
    assert "notebooks/00_tour.ipynb" in sdist
    assert ".ci/run" in sdist


def test_nothing_stray_is_shipped(built):
    places = map(re.escape, {str(ROOT), sys.prefix})
    of_this_machine = re.compile(rf"(?<![\w.])({'|'.join(places)})/".encode())
    for files in built:
        for name, content in files.items():
            if not name.startswith("tests/saved_models/"):
                assert not any(part in f"/{name}" for part in STRAY), name
            assert len(content) < 1_500_000, name
            assert not of_this_machine.search(content), name


def test_versions_agree():
    version = manifoldkit.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## {version} - " in changes or "\n## Unreleased\n" in changes
