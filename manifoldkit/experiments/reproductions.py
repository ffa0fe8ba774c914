"""``docs/reproductions.md`` from the committed results.

``python -m manifoldkit.experiments.reproductions`` in a checkout reads
``docs/results/*/result.json`` and writes the page, so that it cannot drift from runs.
"""

from itertools import groupby
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
            f"**Published** ({result.paper_note}).",
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
    """One line a task and method; a new table where the columns change."""
    lines = [_accuracy_line(row) if "chance" in row else _line(row) for row in rows]
    groups = [list(group) for _, group in groupby(lines, key=tuple)]
    return "\n\n".join(_table(group) for group in groups)


def _accuracy_line(row: dict) -> dict:
    return {
        "task": row["task"],
        "pipeline": row["pipeline"],
        "accuracy": f"{row['accuracy']:.1%}",
        "95 % interval": f"{row['low']:.1%} to {row['high']:.1%}",
        "spread": f"{row['spread']:.1%}",
        "trials": row["n"],
        "chance": f"{row['chance']:.1%}",
    }


def _line(row: dict) -> dict:
    """The plain values of any other row, floats to four digits, nothing for None."""
    plain = {k: v for k, v in row.items() if not isinstance(v, list | dict)}
    return {k.replace("_", " "): _cell(v) for k, v in plain.items()}


def _cell(value):
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
