"""The code blocks of the README run; tests/test_docs.py has those of the pages."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md"]


def blocks():
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
            line = text[: match.start()].count("\n") + 2
            yield pytest.param(match[1], id=f"{page.name}:{line}")


@pytest.mark.parametrize("code", blocks())
def test_python_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "<block>", "exec"), {"__name__": "__block__"})


def test_commands_named_in_the_readme_exist():
    dev = (ROOT / "dev.py").read_text()
    commands = re.findall(r"python3 dev\.py (\w+)", (ROOT / "README.md").read_text())
    assert {"demo", "test"} <= set(commands)
    for command in commands:
        assert f'"{command}"' in dev


def test_ci_calls_the_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "python3 dev.py test" in script.read_text()
