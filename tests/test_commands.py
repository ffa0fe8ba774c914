"""Every command that is shown anywhere names things that exist.

Read are the pages, the notebooks' text, and the docstrings and messages of all Python
files. Nothing is run: what the commands do is tested where they are defined.
"""

import ast
import inspect
import json
import re
import shlex
import tomllib
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import typer

from manifoldkit import cli

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
START = r"(?:\w+=(?:\"[^\"]*\"|\S+) )?(?:manifoldkit|python3?|pip|pytest) (?=\S)"


def files():
    """Return what a reader may see, without what is generated or installed."""
    for pattern in ("*.md", "docs/**/*.md", "datasets/*.md", "notebooks/*.ipynb"):
        yield from ROOT.glob(pattern)
    for folder in ("manifoldkit", "examples", "benchmarks", "docs"):
        yield from (ROOT / folder).rglob("*.py")
    yield ROOT / "dev.py"
    yield from (ROOT / "docs" / "results").glob("*/result.json")


def prose(file):
    """Return the text of a file in which commands are shown, piece by piece."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    if file.suffix == ".json":
        return [f"`{json.loads(text)['command']}`"]
    if file.suffix == ".py":
        strings = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        return [node.value for node in strings if isinstance(node.value, str)]
    return [text]


def commands_in(text):
    """Return the commands of one text: in code spans, in blocks, on lines alone."""
    fence = r"^ *```console\n(.*?)^ *```"
    blocks = re.findall(fence, text, re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    rest = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    lines += re.findall(rf"^ {{4,}}({START}.*)$", rest, re.M)
    lines += [" ".join(span.split()) for span in re.findall(r"`+([^`]+)`+", rest)]
    lines += re.findall(r"pip install \"[^\"]+\"", rest)
    found = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return list(dict.fromkeys(line for line in found if re.match(START, line)))


def shown():
    for file in sorted(set(files())):
        if "_build" in file.parts:
            continue
        for text in prose(file):
            for line in commands_in(text):
                yield pytest.param(line, id=f"{file.relative_to(ROOT)}: {line}")


@cache
def dev():
    spec = spec_from_file_location("dev", ROOT / "dev.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_manifoldkit(words):
    """Let the command line itself read the words; then look the names up."""
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            known = {"--help", *(o for p in command.params for o in p.opts)}
            assert set(words) <= known
            return
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    numbers = [re.sub(r"^\$\w+$", "1", word) for word in words]
    if command.name in ("list", "run", "fetch") and words == []:
        return  # the command is named, not shown
    try:
        context = command.make_context(command.name, numbers)
    except Exception as error:  # of click, or of typer's copy of it
        raise AssertionError(str(error)) from error
    name = context.params.get("name")
    if command.name in ("run", "list"):
        assert name in {*cli.EXPERIMENTS, "NAME", None}
    elif command.name == "fetch":
        assert name in {*cli.DATASETS, "NAME", None}
    if (context.params.get("devices") or 1) > 1:
        assert cli.EXPERIMENTS[name].ddp
    if context.params.get("device") not in (None, "cpu"):
        source = inspect.getsource(cli.EXPERIMENTS[name].load())
        assert "device" in source


def check_pytest(words):
    """The files and markers exist."""
    markers = {
        m.split(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
    }
    for word, value in zip(words, [*words[1:], None], strict=False):
        if word == "-m":
            assert value in markers
        elif word.endswith(".py"):
            assert (ROOT / word).exists(), word


def check_benchmarks(words):
    from benchmarks.__main__ import benchmarks

    options = {"--write", "--render"}
    assert {w for w in words if w.startswith("-")} <= options
    names = set(words) - options - {"NAME", "[NAME", "...]", "[--write]", "[--render]"}
    assert names <= set(benchmarks())


def check_dev(words):
    if not words:
        return
    name, *rest = words
    assert name in {*dev().COMMANDS, "clean"}, f"no dev.py {name}"
    if name in ("test", "notebooks"):
        check_pytest(rest)
    elif name == "bench":
        check_benchmarks(rest)
    else:
        assert not rest


def check_script(file, options):
    """Look whether a script is there and has the options (``--name`` in its text)."""
    assert file.exists(), file
    text = file.read_text(encoding="utf-8")
    for option in options:
        if option.startswith("--") and option != "--help":
            name = option[2:]
            assert f'"{option}"' in text or f"    {name}: " in text, option


def check_python(words):
    if words[0] == "-c":
        compile(words[1], "<shown>", "exec")
    elif words[0] != "-m":
        if words[0].endswith("dev.py"):
            check_dev(words[1:])
        else:
            check_script(ROOT / words[0], words[1:])
    elif words[1] == "benchmarks":
        check_benchmarks(words[2:])
    elif words[1].startswith("manifoldkit."):
        module = import_module(words[1])
        command = getattr(module, "main", module)  # a command may live elsewhere
        check_script(Path(inspect.getsourcefile(command)), words[2:])
    elif words[1] == "manifoldkit":
        check_manifoldkit(words[2:])
    else:
        assert words[1] in {"venv", "pip", "build", "sphinx", "pytest"}


def check_pip(words):
    """The extras that are asked for exist."""
    assert words[0] in {"install", "wheel"}
    extras = set(PROJECT["project"]["optional-dependencies"])
    for word in words[1:]:
        if match := re.match(r"(?:\.|manifoldkit|dist/\S+)\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= extras | {"NAME", "extra"}, word


CHECKS = {
    "manifoldkit": check_manifoldkit,
    "python": check_python,
    "python3": check_python,
    "pip": check_pip,
    "pytest": check_pytest,
}


@pytest.mark.parametrize("line", shown())
def test_shown_command_names_what_exists(line):
    words = shlex.split(line)
    words = words[1:] if "=" in words[0] else words
    CHECKS[words[0]](words[1:])


def test_commands_are_found_and_wrong_ones_refused():
    text = """
    Try `manifoldkit run nothing` or ``python -m benchmarks nothing``.

        python examples/nothing.py --option

    ```console
    python3 dev.py nothing   # a comment
    ```
    """
    found = commands_in(text)
    assert sorted(found) == [
        "manifoldkit run nothing",
        "python -m benchmarks nothing",
        "python examples/nothing.py --option",
        "python3 dev.py nothing",
    ]
    wrong = ["manifoldkit demo --devices 2", "manifoldkit run eeg_demo --devices 2"]
    wrong += ["manifoldkit lst", "python examples/ddp_spdnet.py --nodes 2"]
    wrong += ['pip install "manifoldkit[nothing]"', "python3 dev.py test -m quick"]
    for line in [*found, *wrong]:
        with pytest.raises(AssertionError):
            test_shown_command_names_what_exists(line)
    assert len(list(shown())) > 60
