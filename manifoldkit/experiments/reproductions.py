"""``docs/reproductions.md`` from the committed results.

``python -m manifoldkit.experiments.reproductions`` in a checkout reads
``docs/results/*/result.json`` and writes the page, so that it cannot drift from runs.
"""

from pathlib import Path

from manifoldkit.experiments.result import Result

_HEAD = """# Reproductions

Generated from `docs/results/*/result.json` by
`python -m manifoldkit.experiments.reproductions`; do not edit. Every row comes from a
run; what could not be run here is said to be so.
"""


def render(folder: Path) -> str:
    """Return the page for the results below a folder."""
    files = sorted(folder.glob("*/result.json"))
    return "\n".join([_HEAD, *(_section(Result.load(file)) for file in files)])


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
        parts += [
            "**Published** (per cent; other data sets, so not comparable row by row).",
            _table(result.paper),
        ]
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
    """One line a task and pipeline."""
    table = []
    for row in rows:
        line = {
            "task": row["task"],
            "pipeline": row["pipeline"],
            "accuracy": f"{row['accuracy']:.1%}",
            "95 % interval": f"{row['low']:.1%} to {row['high']:.1%}",
            "spread": f"{row['spread']:.1%}",
            "trials": row["n"],
            "chance": f"{row['chance']:.1%}",
        }
        table.append(line)
    return _table(table)


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
