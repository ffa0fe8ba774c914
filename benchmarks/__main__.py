"""Run every benchmark module and print, or write, one table.

``python -m benchmarks [NAME ...] [--write]``; ``--write`` updates
``docs/performance.md``. A module has ``run()``, which returns rows with the keys
``case``, ``ours_s``, ``peer``, ``peer_s``, ``ratio`` (ours / peer, so below one is
faster) and optionally ``target`` and ``note``.
"""

import argparse
import importlib
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COLUMNS = ("case", "ours", "peer", "peer's time", "ours / peer", "target", "note")


def milliseconds(seconds):
    """Format a duration."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def markdown(rows):
    """Format the rows of one module."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = (
            row["case"],
            milliseconds(row["ours_s"]),
            row["peer"],
            milliseconds(row["peer_s"]) if row["peer_s"] else "",
            f"{row['ratio']:.2g}" if row["ratio"] else "",
            str(row.get("target", "")),
            str(row.get("note", "")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def environment():
    """Say what was measured on."""
    packages = ("torch", "numpy", "scipy", "pyriemann", "moabb")
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, {names}, one thread"  # noqa: E501


def main():
    """Run the modules that are asked for, all by default."""
    found = sorted(p.stem for p in ROOT.glob("*.py"))
    names = [n for n in found if n not in ("__init__", "__main__", "timing")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--write", action="store_true", help="update the docs page")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"unknown {sorted(unknown)}; there are: {', '.join(names)}")
    parts = [
        "# Performance",
        "Ratios to a peer measured in the same run: one thread, the contestants "
        "interleaved, medians. Below one, manifoldkit is faster. The machine is a "
        "small shared one; only the ratios mean something.",
        "Made by `python3 dev.py bench --write`: " + environment() + ".",
    ]
    for name in arguments.names or names:
        module = importlib.import_module(f"benchmarks.{name}")
        table = markdown(module.run())
        title = (module.__doc__ or name).splitlines()[0].rstrip(".")
        parts += [f"## {title}", f"`python -m benchmarks {name}`", table]
        print(f"\n{title}\n{table}", flush=True)
    if arguments.write:
        page = ROOT.parent / "docs" / "performance.md"
        page.write_text("\n\n".join(parts) + "\n")
        print(f"\nwrote {page}")


if __name__ == "__main__":
    main()
