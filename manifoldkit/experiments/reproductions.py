"""``docs/reproductions.md`` from the committed results.

``python -m manifoldkit.experiments.reproductions`` in a checkout reads
``docs/results/*/result.json`` and writes the page, so that it cannot drift from runs.
Experiments of the command line without a stored run are listed as unreproduced.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

from manifoldkit.experiments.catalog import EXPERIMENTS, Experiment
from manifoldkit.experiments.headlines import HEADLINES, n_seeds, ours, published
from manifoldkit.experiments.result import Result

_HEAD = """# Reproductions

Generated from `docs/results/*/result.json` by
`python -m manifoldkit.experiments.reproductions`; do not edit. Every row comes from a
run; what could not be run here is said to be so.

## Overview

One figure of each experiment; in brackets its 95 % interval, or the range over seeds.
A dash: the publication's figure is not stored with the run, or is for other data. The
sections have all rows, the protocols and what differs from the papers.
"""


def render(folder: Path, experiments: dict[str, Experiment] | None = None) -> str:
    """Return the page for the results below a folder.

    Parameters
    ----------
    folder : Path
        Has a ``NAME/result.json`` for each stored run.
    experiments : dict, optional
        What there is to reproduce; default: the experiments of the command line.
    """
    experiments = EXPERIMENTS if experiments is None else experiments
    results = [Result.load(file) for file in sorted(folder.glob("*/result.json"))]
    missing = [name for name in experiments if name not in {r.name for r in results}]
    parts = [_HEAD]
    if results:
        parts.append(_table([_overview(r, experiments) for r in results]) + "\n")
    if missing:
        parts.append(_unreproduced({name: experiments[name] for name in missing}))
    return "\n".join([*parts, *map(_section, results)])


def _overview(result: Result, experiments: dict[str, Experiment]) -> dict:
    """One line of the table at the top."""
    row = {
        "experiment": f"[{result.name}](#{anchor(result.title)})",
        "method of": experiments[result.name].paper
        if result.name in experiments
        else "",
    }
    headline = HEADLINES.get(result.name)
    if headline is None:
        row |= {"figure": "see the section"}
    else:
        row |= {
            "figure": headline.what,
            "ours": ours(result, headline),
            "paper": published(result, headline),
            "differs": headline.comparable,
        }
    return row | {
        "seeds": n_seeds(result, headline),
        "time": f"{result.duration / 60:.0f} min",
        "command": f"`{result.command}`",
    }


def anchor(title: str) -> str:
    """Return the anchor that Markdown gives a heading.

    >>> anchor("SPD networks: a, b")
    'spd-networks-a-b'
    """
    kept = (c for c in title.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def _unreproduced(entries: dict[str, Experiment]) -> str:
    rows = [
        {
            "experiment": name,
            "method of": entry.paper,
            "cost": entry.cost,
            "command": f"`manifoldkit run {name}`",
        }
        for name, entry in entries.items()
    ]
    return (
        "**Unreproduced**: these experiments can be run, and no run of them is stored "
        f"here.\n\n{_table(rows)}\n"
    )


def _section(result: Result) -> str:
    parts = [
        f"## {result.title}",
        f"Command: `{result.command}` ({result.duration / 60:.0f} min, "
        f"{_environment(result.environment)}).",
        f"**Protocol.** {result.protocol} Seeds: {', '.join(map(str, result.seeds))}.",
        "**Data.**",
        "\n".join(f"- {k}: {_data(v)}" for k, v in result.data.items()),
        "**Ours.**",
        _metrics(result.metrics),
    ]
    if result.paper:
        parts += [f"**Published** ({result.paper_note}).", _table(result.paper)]
    if result.remarks:
        parts += ["**Remarks.**", "\n".join(f"- {text}" for text in result.remarks)]
    return "\n\n".join(parts) + "\n"


def _data(entry: dict) -> str:
    kind = "real" if entry["is_real"] else "SIMULATED"
    return f"{entry['provenance']} ({kind}; {entry['citation']})"


def _environment(entry: dict) -> str:
    packages = entry.get("packages", {})
    named = ", ".join(f"{k} {v}" for k, v in packages.items())
    return (
        f"{entry.get('cores', '?')} cores, Python {entry.get('python', '?')}, {named}"
    )


def _metrics(rows: list[dict]) -> str:
    """One line a task and method; a new table where the columns change."""
    lines = [_accuracy_line(row) if "chance" in row else _line(row) for row in rows]
    groups = [list(group) for _, group in groupby(lines, key=tuple)]
    return "\n\n".join(_table(group) for group in groups)


def _accuracy_line(row: dict) -> dict:
    line = {
        "task": row["task"],
        "pipeline": row["pipeline"],
        "accuracy": f"{row['accuracy']:.1%}",
        "95 % interval": f"{row['low']:.1%} to {row['high']:.1%}",
        "spread": f"{row['spread']:.1%}",
    }
    if row.get("roc_auc") is not None:
        line["ROC AUC"] = f"{row['roc_auc']:.3f}"
    if "n" in row:
        line["trials"] = row["n"]
    elif "per_target" in row:  # subjects or sessions that were left out in turn
        line["left out"] = len(row["per_target"])
    return {**line, "chance": f"{row['chance']:.1%}"}


def _line(row: dict) -> dict:
    """The plain values of any other row, floats to four digits, nothing for None."""
    plain = {k: v for k, v in row.items() if not isinstance(v, list | dict)}
    return {k.replace("_", " "): _cell(v) for k, v in plain.items()}


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def _table(rows: list[dict]) -> str:
    """Return a Markdown table; a row may lack a column that others have."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += [
        "| " + " | ".join(str(row.get(k, "")) for k in keys) + " |" for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the page of the checkout in the working directory."""
    folder = Path("docs")
    if not (folder / "results").is_dir():
        raise SystemExit("docs/results not found: run this in a checkout")
    page = folder / "reproductions.md"
    page.write_text(render(folder / "results"), encoding="utf-8")
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
