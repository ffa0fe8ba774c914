"""The bootstrap script: one clear sentence for each thing that can be missing."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "dev.py"


@pytest.fixture
def dev(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("dev", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    return module


@pytest.fixture
def calls(dev, monkeypatch):
    """Record the commands instead of running them; creating a venv makes its Python."""
    recorded = []

    def call(command, cwd=None):
        recorded.append(command)
        if "venv" in command:
            dev.PYTHON.parent.mkdir(parents=True)
            dev.PYTHON.touch()
        return 0

    monkeypatch.setattr(dev.subprocess, "call", call)
    return recorded


def test_sets_up_once_torch_first_and_alone(dev, calls, monkeypatch):
    monkeypatch.delenv("MANIFOLDKIT_TORCH", raising=False)
    dev.main(["test", "-k", "linalg"])
    venv, torch, package, tests = calls
    assert venv[1:3] == ["-m", "venv"]
    assert torch[-1] == "torch==2.13.0"
    assert package[-2:] == ["-e", ".[test]"]
    assert tests[1:3] == ["-m", "pytest"]
    assert tests[-2:] == ["-k", "linalg"]
    dev.main(["test"])
    assert len(calls) == 5  # the stamp spares the set-up
    (dev.ROOT / "pyproject.toml").write_text("[project]\nname = 'changed'\n")
    dev.main(["test"])
    assert len(calls) == 8


def test_torch_requirement_may_carry_pip_options(dev, calls, monkeypatch):
    monkeypatch.setenv("MANIFOLDKIT_TORCH", "torch==2.9 --index-url ADDRESS")
    dev.main(["demo"])
    assert calls[1][-3:] == ["torch==2.9", "--index-url", "ADDRESS"]


def test_missing_venv_module_gives_one_sentence(dev, monkeypatch):
    monkeypatch.setattr(dev.subprocess, "call", lambda *a, **k: 1)
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        dev.main(["demo"])
    assert not dev.VENV.exists()


def test_old_python_gives_one_sentence(dev, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer"):
        dev.main(["demo"])


def test_failure_of_a_step_ends_with_its_code(dev, calls, monkeypatch):
    dev.PYTHON.parent.mkdir(parents=True)
    dev.PYTHON.touch()
    monkeypatch.setattr(dev.subprocess, "call", lambda *a, **k: 3)
    with pytest.raises(SystemExit) as error:
        dev.main(["test"])
    assert error.value.code == 3
    assert not list(dev.VENV.glob(".stamp*"))


@pytest.mark.parametrize("argv", [[], ["unknown"]])
def test_unknown_command_lists_the_commands(dev, argv):
    with pytest.raises(
        SystemExit, match=r"(?s)demo.*test.*lint.*docs.*bench.*clean"
    ) as e:
        dev.main(argv)
    assert "\n" in str(e.value.code)
