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


def test_the_two_commands_come_first():
    commands = re.findall(r"^python3 dev\.py (\w+)", PAGES[0].read_text(), re.M)
    assert commands[:2] == ["demo", "test"]


def test_ci_calls_the_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "python3 dev.py test" in script.read_text()
