#!/usr/bin/env python3
"""Set up and run manifoldkit from a checkout: ``python3 dev.py demo`` or ``test``.

Standard library only. Everything is installed into ``.venv`` beside this file:
torch first and alone, from the requirement in ``MANIFOLDKIT_TORCH`` (default
``torch==2.13.0``; pip options such as ``--index-url ADDRESS`` may follow it), then
this package with the extra that the command needs. Further arguments are passed on.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
COMMANDS = {  # name: (extra, what it does, the command lines run in the environment)
    "demo": ("viz", "classify motor-imagery EEG, write figures and a report",
             ["-m manifoldkit demo"]),
    "test": ("test", "run the test suite", ["-m pytest -q -n 2 --dist worksteal"]),
    "lint": ("dev", "check style and types",
             ["-m ruff check .", "-m ruff format --check .", "-m mypy"]),
    "docs": ("docs", "build the documentation into docs/_build/html",
             ["-m sphinx -W --keep-going -b html docs docs/_build/html"]),
    "notebooks": ("test", "execute the notebooks in fast mode",
                  ["-m pytest -q -m notebook tests/test_notebooks.py"]),
    "bench": ("test", "measure the ratio benchmarks against their peers",
              ["-m benchmarks"]),
    "dist": ("dev", "build the sdist, and from it the wheel, into dist",
             ["-m build"]),
}  # fmt: skip


def stop(message):
    """Leave with one sentence."""
    sys.exit(f"dev.py: {message}")


def call(*args):
    """Run the environment's Python; a failure ends this script with its code."""
    code = subprocess.call([str(PYTHON), *args], cwd=ROOT)
    if code:
        sys.exit(code)


def install(extra):
    """Bring ``.venv`` up to date with pyproject.toml; a stamp makes reruns instant."""
    torch = os.environ.get("MANIFOLDKIT_TORCH", "torch==2.13.0")
    state = (ROOT / "pyproject.toml").read_text() + torch + extra
    digest = hashlib.sha256(state.encode()).hexdigest()
    stamp = VENV / f".stamp-{extra}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    if not PYTHON.exists():
        code = subprocess.call([sys.executable, "-m", "venv", str(VENV)])
        if code:
            shutil.rmtree(VENV, ignore_errors=True)
            stop("cannot create .venv; on Debian: apt-get install python3-venv")
    print(f"dev.py: installing {torch} and manifoldkit[{extra}] into .venv", flush=True)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*pip, *shlex.split(torch))
    call(*pip, "-e", f".[{extra}]")
    stamp.write_text(digest)


def main(argv):
    """Do the command, or list the commands."""
    if sys.version_info < (3, 11):  # noqa: UP036 (the sentence is for older ones)
        stop("Python 3.11 or newer is needed, this is " + sys.version.split()[0])
    name = argv[0] if argv else ""
    if name == "clean":
        shutil.rmtree(VENV, ignore_errors=True)
    elif name in COMMANDS:
        extra, _, lines = COMMANDS[name]
        if name == "demo" and "--download" in argv:
            extra += ",eeg"  # MNE reads the recordings
        install(extra)
        for line in lines:
            call(*line.split(), *(argv[1:] if line is lines[-1] else []))
    else:
        rows = [f"  {key:10} {value[1]}" for key, value in COMMANDS.items()]
        rows.append(f"  {'clean':10} remove .venv")
        stop("give one of these commands:\n" + "\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
