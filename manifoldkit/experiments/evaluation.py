"""What the experiments share: how a run begins, goes on, ends and is shown.

A module has its ``NAME``, the paper's figures and a function that measures;
:func:`experiment` makes the module's ``run`` of it.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from manifoldkit._checks import check_count
from manifoldkit.experiments.catalog import DATASETS
from manifoldkit.experiments.result import Result, command_line, environment, write_json

#: Cells of a table by heading: a format of the row's values, or a function of the row.
Columns = Mapping[str, str | Callable[[dict[str, Any]], str]]


class Store:
    """Finished pieces of a run, by key, in ``progress.json`` of its folder.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    settings : dict
        What a resumed run must agree in.
    resume : bool
        Read what an earlier run left.

    Raises
    ------
    ValueError
        The run to resume had other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool):
        self.file = folder / "progress.json"
        self.content: dict[str, Any] = {"settings": settings, "pieces": {}}
        if resume and self.file.exists():
            try:
                stored = json.loads(self.file.read_text(encoding="utf-8"))
                kept = stored["settings"], stored["pieces"]
            except (TypeError, KeyError, ValueError) as error:
                raise ValueError(
                    f"resume: {self.file} is not the progress of a run ({error!r})"
                ) from error
            if kept[0] != settings:
                raise ValueError(
                    f"resume: {self.file} belongs to a run with {stored['settings']}, "
                    f"asked for {settings}"
                )
            self.content = stored

    def get(
        self, key: str, compute: Callable[..., dict], /, *arguments: Any, **options: Any
    ) -> dict:
        """Return a stored piece, or compute and store it."""
        pieces = self.content["pieces"]
        if key not in pieces:
            start = time.perf_counter()
            pieces[key] = compute(*arguments, **options)
            self.content["seconds"] = self.seconds + time.perf_counter() - start
            write_json(self.file, self.content)
        return pieces[key]

    def by_seed(
        self,
        head: str,
        seeds: Sequence[int],
        compute: Callable[..., dict],
        /,
        *arguments: Any,
        **options: Any,
    ) -> list[dict]:
        """Return a piece a seed, which ``compute`` takes by keyword."""
        return [
            self.get(f"{head}, seed {s}", compute, *arguments, seed=s, **options)
            for s in seeds
        ]

    @property
    def seconds(self) -> float:
        """Time that the pieces took, also those of the run that was interrupted."""
        return self.content.get("seconds", 0.0)


@dataclass
class Run:
    """A run under way: what every experiment is given, and how it ends.

    Attributes
    ----------
    name, title : str
        Identifier and heading of the experiment.
    out : Path
        The folder of the run.
    quick : bool
        Whether a short run is asked for.
    seed : int
        The first seed.
    resume : bool
        Whether to go on with what is in the folder.
    console : rich Console
        Where to print.
    """

    name: str
    title: str
    out: Path
    quick: bool
    seed: int
    resume: bool
    console: Console
    _store: Store | None = field(default=None, repr=False)
    _missing: list[str] = field(default_factory=list, repr=False)

    def store(self, **settings: Any) -> Store:
        """Open the finished pieces.

        A resumed run must agree in ``quick``, ``seed`` and the settings given here.
        """
        agreed = {"quick": self.quick, "seed": self.seed} | settings
        self._store = Store(self.out, agreed, self.resume)
        if self.resume and not self._store.file.exists():
            self.say(f"nothing to resume in {self.out}: a new run")
        return self._store

    def seeds(self, count: int) -> list[int]:
        """Return so many seeds, one alone in a quick run."""
        check_count(count, "seeds")
        return [self.seed + i for i in range(1 if self.quick else count)]

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def missing(self, dataset: str, instead: str, reason: object = "") -> None:
        """Say, now and among the remarks, that data are not here and what is done.

        The policy of all experiments: a run says what is missing and how to get it,
        and goes on with the data that are here or with a simulation under its own
        name; where it has neither, it stops with ``DatasetNotFoundError``.

        Parameters
        ----------
        dataset : str
            A name of ``manifoldkit data list``.
        instead : str
            What this run does without it.
        reason : object, optional
            What the loader said; it is printed where there is no download.
        """
        entry = DATASETS[dataset]
        how = f"get it by: manifoldkit data fetch {dataset}"
        if not entry.download:
            how = str(reason) or "it has to be put into the data folder by hand"
        text = f"{dataset} ({entry.about}) is not on this machine; {how.rstrip('.')}."
        self._missing.append(f"{text} {instead}")
        self.say(self._missing[-1])

    def finish(
        self, metrics: list[dict], data: dict[str, Any], seeds: list[int], **told: Any
    ) -> Result:
        """Write ``result.json``; ``told`` are further fields of :class:`Result`."""
        told.setdefault("command", command_line(self.name, self.seed, self.quick))
        told["remarks"] = [*self._missing, *told.get("remarks", ())]
        result = Result(
            self.name,
            self.title,
            metrics,
            data=data,
            seeds=seeds,
            duration=0.0 if self._store is None else self._store.seconds,
            environment=environment(),
            **told,
        )
        result.save(self.out)
        return result


class RunFunction(Protocol):
    """The function ``run`` of an experiment; options are its own."""

    def __call__(
        self,
        out: str | Path,
        *,
        quick: bool = False,
        seed: int = 0,
        resume: bool = False,
        console: Console | None = None,
        **options: Any,
    ) -> Result:
        """Measure, write ``result.json`` into a folder, and print."""


_SHARED = {  # parameters that a docstring need not describe, in their order
    "out": ("str or Path", "Folder for ``result.json``."),
    "quick": ("bool, default=False", "Smaller, under a minute."),
    "seed": ("int, default=0", "First seed."),
    "jobs": ("int, default=2", "Processes."),
    "resume": ("bool, default=False", "Go on with an interrupted run in ``out``."),
    "device": ('str, default="cpu"', "Where torch models train."),
    "console": ("rich Console, optional", "Where to print."),
}


def experiment(
    name: str,
    title: str,
    columns: Columns | None = None,
    show: Callable[[Result, Run], None] | None = None,
) -> Callable[[Callable[..., Result]], RunFunction]:
    """Make the function ``run`` of an experiment of one that measures.

    What is decorated takes a :class:`Run` and its own options by keyword, and returns
    what :meth:`Run.finish` gave. The new function takes ``out``, ``quick``, ``seed``,
    ``resume`` and ``console`` besides these options, and says so in its signature and
    docstring. In the end the result is shown, with the origin of its data.

    Parameters
    ----------
    name, title : str
        Identifier and heading of the experiment.
    columns : mapping of str to str or callable, optional
        Headings and cells of the printed table.
    show : callable, optional
        Prints a result in another way than as a table and its remarks.

    Examples
    --------
    >>> @experiment("sum", "A sum", {"n": "{n}", "sum": "{sum:.2f}"})
    ... def run(this, *, largest: int = 3):
    ...     '''Add numbers up.'''
    ...     store = this.store()
    ...     total = store.get("all", lambda n: {"sum": sum(range(n))}, largest + 1)
    ...     return this.finish([{"n": largest} | total], {}, this.seeds(1))
    >>> signature(run)  # doctest: +ELLIPSIS
    <Signature (out: ..., *, quick: bool = False, ..., largest: int = 3) -> ...Result>
    >>> import tempfile
    >>> run(tempfile.mkdtemp(), console=Console(quiet=True), largest=4).metrics
    [{'n': 4, 'sum': 10}]
    """

    def decorate(measure: Callable[..., Result]) -> RunFunction:
        def run(
            out: str | Path,
            *,
            quick: bool = False,
            seed: int = 0,
            resume: bool = False,
            console: Console | None = None,
            **options: Any,
        ) -> Result:
            console = console or Console()
            check_count(seed, "seed", 0)
            this = Run(name, title, Path(out), quick, seed, resume, console)
            result = measure(this, **options)
            if show is not None:
                show(result, this)
            else:
                show_table(result, columns, console)
            show_sources(result, console)
            return result

        *shared, _ = signature(run).parameters.values()
        _, *own = signature(measure).parameters.values()
        takes = [*shared, *own]
        whole = signature(run).replace(parameters=takes)
        update_wrapper(run, measure, ("__module__", "__name__", "__qualname__"))
        run.__doc__ = describe(measure.__doc__ or "", takes)
        vars(run)["__signature__"] = whole
        return run

    return decorate


def describe(text: str, takes: Sequence[Parameter]) -> str:
    """Add the shared parameters that a docstring does not describe, and what returns.

    A parameter that it does describe keeps its own words, in the common order.
    """
    mark = "Parameters\n----------\n"
    head, _, rest = cleandoc(text).partition(mark)
    own, _, tail = rest.partition("\n\n")
    names = [parameter.name for parameter in takes]
    entries = {
        name: f"{name} : {kind}\n    {about}"
        for name, (kind, about) in _SHARED.items()
        if name in names
    }
    described = [entry for entry in re.split(r"\n(?=\w)", own) if entry]
    entries |= {entry.partition(" :")[0]: entry for entry in described}
    listed = mark + "\n".join(entries.values())
    parts = [head.rstrip(), listed, "Returns\n-------\nResult", tail]
    return "\n\n".join(part for part in parts if part)


def show_table(result: Result, columns: Columns | None, console: Console) -> None:
    """Print the rows of a result that have something to show, and its remarks."""
    if columns is not None:
        table = Table(*columns)
        for row in result.metrics:
            cells = [_cell(form, row) for form in columns.values()]
            if any(cells):
                table.add_row(*cells)
        console.print(table)
    for remark in result.remarks:
        console.print(f"- {remark}", highlight=False)


def show_sources(result: Result, console: Console) -> None:
    """Print where the data of a result are from, and which of them are real."""
    if not result.data:
        return
    table = Table("data", "kind", "origin")
    for name, entry in result.data.items():
        kind = "real" if entry["is_real"] else "SIMULATED"
        table.add_row(name, kind, f"{entry['provenance']} ({entry['citation']})")
    console.print(table)


def _cell(form: str | Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    """Return a cell; an empty one where the row lacks the value or has no number."""
    try:
        return form.format_map(row) if isinstance(form, str) else form(row)
    except (KeyError, TypeError, ValueError):
        return ""


def progress_bar(console: Console) -> Progress:
    """Return a progress display that is silent where nobody watches."""
    return Progress(
        TextColumn("{task.description:<52}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
