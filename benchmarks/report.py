"""The page and the figure of the benchmarks, from ``benchmarks/results.json``."""

import json
import os
import platform
import re
import statistics
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from manifoldkit.experiments.reproductions import anchor

ROOT = Path(__file__).resolve().parent
STORE = ROOT / "results.json"
PAGE = ROOT.parent / "docs" / "performance.md"
FIGURE = ROOT.parent / "docs" / "_static" / "performance.svg"
COLUMNS = ("case", "ours", "peer", "peer's time", "ours / peer", "target", "note")
PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "pyriemann", "geoopt", "spd_learn"),
    *("torch-geometric", "e3nn", "roma", "moabb"),
)
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def environment():
    """Say what was measured on."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "date": str(date.today()),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "python": platform.python_version(),
        "packages": packages,
    }


def share_of_target(row):
    """Return the measured value over its target (one and below: met), or None.

    A target is a ratio to the peer (``"<= 0.3"``, ``"0.56, aim 0.33"``) or a time
    (``"2 s"``).

    >>> share_of_target({"ours_s": 1.0, "ratio": 0.25, "target": "<= 0.5"})
    0.5
    >>> share_of_target({"ours_s": 1.0, "ratio": None, "target": "2 s"})
    0.5
    """
    found = re.match(r"[<=\s]*([\d.]+)\s*(us|ms|s)?\b", str(row.get("target", "")))
    if not found:
        return None
    value = row["ours_s"] / UNITS[found[2]] if found[2] else row["ratio"]
    return value / float(found[1]) if value else None


def time_of(seconds):
    """Format a duration.

    >>> time_of(0.5), time_of(2e-6), time_of(3.0)
    ('500.00 ms', '2.00 us', '3.00 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size / (100 if unit == "ms" else 1):
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds / 1e-6:.2f} us"


def table(rows):
    """Format the rows of one module."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = (
            row["case"],
            time_of(row["ours_s"]) if row["ours_s"] else "",
            row["peer"],
            time_of(row["peer_s"]) if row["peer_s"] else "",
            f"{row['ratio']:.2g}" if row["ratio"] else "",
            str(row.get("target", "")),
            str(row.get("note", "")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(results):
    """Return one line a benchmark: how many cases, how they stand."""
    lines = [
        "| benchmark | cases | median ratio | faster than the peer | targets met |",
        "|---|---|---|---|---|",
    ]
    for entry in results.values():
        ratios = [row["ratio"] for row in entry["rows"] if row["ratio"]]
        shares = [s for s in map(share_of_target, entry["rows"]) if s is not None]
        met = sum(share <= 1 for share in shares)
        lines.append(
            f"| [{entry['title']}](#{anchor(entry['title'])}) | {len(entry['rows'])} | "
            + (f"{statistics.median(ratios):.2g}" if ratios else "")
            + " | "
            + (
                f"{sum(r < 1 for r in ratios)} of {len(ratios)}"
                if ratios
                else "no peer"
            )
            + " | "
            + (f"{met} of {len(shares)} |" if shares else "none set |")
        )
    return "\n".join(lines)


def missed(results):
    """Return the targets that were not reached, the farthest first."""
    found = []
    for entry in results.values():
        for row in entry["rows"]:
            share = share_of_target(row)
            if share and share > 1:
                value = f"{row['ratio']:.2g}" if row["ratio"] else ""
                value = value or time_of(row["ours_s"])
                text = f"- {row['case']} (against {row['peer']}): " * bool(row["peer"])
                text = text or f"- {row['case']}: "
                found.append((share, f"{text}{value}, target {row['target']}"))
    return "\n".join(text for _, text in sorted(found, reverse=True))


def measured_on(entry):
    """Say when and with what a benchmark was measured."""
    e = entry["environment"]
    packages = ", ".join(f"{k} {v}" for k, v in e["packages"].items())
    cores = f", {e['cores']} cores" if e.get("cores") else ""
    threads = "one thread" if e["threads"] == 1 else f"{e['threads']} threads"
    return (
        f"{e['date']}, {threads}, {e['machine']}{cores}, Python {e['python']}, "
        + packages
    )


def render(results):
    """Return the page."""
    some = max(results.values(), key=lambda entry: entry["environment"]["date"])
    parts = [
        "# Performance",
        "Ratios to a peer measured in the same run: one thread, the contestants "
        "interleaved, medians. Below one, manifoldkit is faster. The machine is a "
        "small shared one; only the ratios mean something.",
        "Made by `python3 dev.py bench --write` from `benchmarks/results.json`; do not "
        f"edit. Measured on {measured_on(some)}; a section that was measured "
        "otherwise says so.",
        "![Every case as a dot: its time over that of the peer, and over its target]"
        "(_static/performance.svg)",
        summary(results),
    ]
    if behind := missed(results):
        parts += ["## Targets not reached", behind]
    for name, entry in results.items():
        parts += [f"## {entry['title']}", f"`python -m benchmarks {name}`"]
        if measured_on(entry) != measured_on(some):
            parts.append(f"Measured on {measured_on(entry)}.")
        parts.append(table(entry["rows"]))
    return "\n\n".join(parts) + "\n"


def draw(results, file):
    """Draw every case as a dot: ratio to the peer, and share of its target."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from manifoldkit import plotting

    blue, red, *_, gray = plotting.PALETTE
    names = list(results)
    with plotting.style(), rc_context({"svg.hashsalt": "performance"}):
        figure = Figure(figsize=(10, 1.6 + 0.36 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for place, name in enumerate(names):
            rows = results[name]["rows"]
            heights = [place + 0.5 * ((0.618 * k) % 1 - 0.5) for k in range(len(rows))]
            for row, height in zip(rows, heights, strict=True):
                share = share_of_target(row)
                color = gray if share is None else blue if share <= 1 else red
                look = {"color": color, "ms": 5, "alpha": 0.75, "mec": "none"}
                if row["ratio"]:
                    left.plot(row["ratio"], height, "o", **look)
                if share:
                    right.plot(share, height, "o", **look)
        left.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        left.set_ylim(len(names) - 0.4, -0.6)
        left.set(
            xlabel="time / time of the peer (left is faster)", title="against peers"
        )
        right.set(xlabel="measured / target (left is met)", title="against targets")
        for ax in (left, right):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            ax.axvline(1, color="black", lw=1)
        colors = {"target met": blue, "target missed": red, "no target": gray}
        for label, color in colors.items():
            left.plot([], [], "o", color=color, label=label, mec="none")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center",
                      ncols=3)  # fmt: skip
        figure.savefig(file, metadata={"Date": None})


def load():
    """Return the stored results of all benchmarks, by name."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}


def write(results):
    """Store the results, and make page and figure from them."""
    results = dict(sorted(results.items()))
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    STORE.write_text(text, encoding="utf-8")
    PAGE.write_text(render(results), encoding="utf-8")
    draw(results, FIGURE)
