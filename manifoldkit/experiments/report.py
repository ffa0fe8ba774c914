"""A run as one self-contained HTML page."""

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from manifoldkit.experiments.result import Result

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 980px; margin: 2rem auto;
  padding: 0 1.2rem; color: #222; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; width: 100%; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e5e5e5; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.best td { font-weight: 600; background: #f2f7fb; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .92rem; }
.kind { display: inline-block; padding: 0 .5rem; border-radius: .6rem; color: white;
  font-size: .85rem; background: #009E73; } .kind.simulated { background: #D55E00; }
code { background: #f4f4f4; padding: .1rem .3rem; border-radius: 3px; }
"""


def write_report(result: Result, figures: dict[str, Path], file: Path) -> Path:
    """Write a result with its figures as one HTML file without outside resources.

    Parameters
    ----------
    result : Result
        With rows as :mod:`manifoldkit.experiments.spd.eeg_demo` makes them.
    figures : dict of str to Path
        Captions and PNG files.
    file : Path
        Where to write.

    Returns
    -------
    Path
        ``file``.
    """
    parts = [
        f"<h1>{escape(result.title)}</h1>",
        f"<p>Made by <code>{escape(result.command)}</code> in "
        f"{result.duration:.0f} s.</p>",
        "<h2>Data</h2>",
        *(_data(name, entry) for name, entry in result.data.items()),
        "<h2>Scores</h2>",
        *_tables(result),
        "<h2>What the numbers say, and what they do not</h2>",
        "<ul>",
        *(f"<li>{escape(remark)}</li>" for remark in result.remarks),
        "</ul>",
        "<h2>Figures</h2>",
        *(_figure(caption, path) for caption, path in figures.items()),
        "<h2>Protocol</h2>",
        f"<p>{escape(result.protocol)}</p>",
        "<h2>Environment</h2>",
        f"<p>{escape(_environment(result.environment))}</p>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(result.title)}</title><style>{_CSS}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    file.write_text(page, encoding="utf-8")
    return file


def task_heading(result: Result, task: str) -> str:
    """Return the task's name with the kind of its data, for tables and figures."""
    kind = "real" if result.data[task]["is_real"] else "simulated"
    return task if task.startswith(kind) else f"{task}, {kind}"


def _data(name: str, entry: dict) -> str:
    kind = "real" if entry["is_real"] else "simulated"
    return (
        f'<p><b>{escape(name)}</b> <span class="kind {kind}">{kind}</span> '
        f"{escape(entry['provenance'])}. <i>{escape(entry['citation'])}.</i></p>"
    )


def show_latency(row: dict[str, Any]) -> str:
    """Return median and 95 % point of a row in milliseconds, or a dash.

    >>> show_latency({"latency_median": 0.0042, "latency_p95": 0.0105})
    '4.2 / 10.5 ms'
    >>> show_latency({})
    '-'
    """
    if "latency_median" not in row:
        return "-"
    return f"{1e3 * row['latency_median']:.1f} / {1e3 * row['latency_p95']:.1f} ms"


def _tables(result: Result) -> Iterator[str]:
    """Yield one table a task."""
    names = ["pipeline", "correct", "accuracy", "95 % interval", "ROC AUC", "fit time"]
    names.append("one trial, median / p95")
    head = "".join(f"<th>{name}</th>" for name in names)
    for task in dict.fromkeys(row["task"] for row in result.metrics):
        rows = [row for row in result.metrics if row["task"] == task]
        best = max(row["accuracy"] for row in rows)
        body = "".join(
            f'<tr class="{"best" if row["accuracy"] == best else ""}">'
            f"<td>{escape(row['pipeline'])}</td>"
            f"<td>{row['correct']}/{row['total']}</td>"
            f"<td>{row['accuracy']:.1%}</td>"
            f"<td>{row['low']:.1%} to {row['high']:.1%}</td>"
            f"<td>{_number(row.get('roc_auc'))}</td>"
            f"<td>{1e3 * row['fit_seconds']:.0f} ms</td>"
            f"<td>{show_latency(row)}</td></tr>"
            for row in rows
        )
        first = rows[0]
        yield (
            f"<table><caption>{escape(task_heading(result, task))}: {first['n']} "
            f"trials, chance {first['chance']:.1%}, told apart above "
            f"{first['chance_bound']:.1%}"
            f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _figure(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _environment(entry: dict) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in entry.get("packages", {}).items())
    rest = ", ".join(f"{k} {v}" for k, v in entry.items() if k != "packages")
    return f"{rest}; {packages}"
