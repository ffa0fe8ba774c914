"""Run every benchmark module; print a table each, or write the page and its figure.

``python -m benchmarks [NAME ...] [--write]``. A module of this folder with a function
``run`` is a benchmark, found by itself. ``run()`` returns rows with the keys ``case``,
``ours_s``, ``peer``, ``peer_s``, ``ratio`` (ours / peer, so below one is faster) and
optionally ``target`` and ``note``. With ``--write`` the results of each module are
stored as soon as they are there, so that an interrupted run keeps what it has, and a
run of some modules leaves the others as they are. ``--render`` measures nothing.
"""

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from benchmarks import report


def benchmarks(folder=report.ROOT):
    """Return the names of the modules that define ``run``."""
    files = sorted(Path(folder).glob("*.py"))
    return [p.stem for p in files if "\ndef run(" in p.read_text(encoding="utf-8")]


def measure(name):
    """Run one benchmark; return what is stored of it."""
    module = importlib.import_module(f"benchmarks.{name}")
    rows = [
        {key: row.get(key, "") for key in ("case", "peer", "target", "note")}
        | {key: _number(row[key]) for key in ("ours_s", "peer_s", "ratio")}
        for row in module.run()
    ]
    title = (module.__doc__ or name).splitlines()[0].rstrip(".")
    return {"title": title, "environment": report.environment(), "rows": rows}


def _number(value):
    return float(value) if value else None


def main(arguments=None):
    """Run the modules that are asked for, all by default."""
    names = benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--write", action="store_true", help="update page and figure")
    parser.add_argument(
        "--render", action="store_true", help="page and figure from what is stored"
    )
    arguments = parser.parse_args(arguments)
    if unknown := set(arguments.names) - set(names):
        parser.error(f"unknown {sorted(unknown)}; there are: {', '.join(names)}")
    if arguments.render:
        report.write(report.load())
        return 0
    failed = []
    for name in arguments.names or names:
        try:
            entry = measure(name)
        except Exception:  # the others shall still run
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"\n{entry['title']}\n{report.table(entry['rows'])}", flush=True)
        if arguments.write:
            stored = report.load()
            report.write(
                {k: v for k, v in stored.items() if k in names} | {name: entry}
            )
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
