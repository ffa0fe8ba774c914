"""The ``manifoldkit`` command: ``demo``, ``list``, ``run``, ``data`` and ``bench``."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

import manifoldkit
from manifoldkit.exceptions import DatasetNotFoundError
from manifoldkit.experiments.catalog import DATASETS, EXPERIMENTS, Dataset

app = typer.Typer(
    help="Geometric and manifold learning: run the demo, experiments and benchmarks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="See and fetch the data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()


def _experiments(incomplete: str) -> list[str]:
    return [name for name in EXPERIMENTS if name.startswith(incomplete)]


def _datasets(incomplete: str) -> list[str]:
    return [name for name in DATASETS if name.startswith(incomplete)]


Out = Annotated[
    Path | None, typer.Option(help="Folder to write; default runs/NAME-TIME.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller, under a minute.")]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of folds, searches and simulations.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes.")]
Device = Annotated[str, typer.Option(help="Where torch models train: cpu or cuda.")]
Devices = Annotated[
    int,
    typer.Option(min=1, help="Devices, or processes on the CPU, to train on (DDP)."),
]


@contextmanager
def _plain_errors(
    out: Path | None = None, data: tuple[str, ...] = ()
) -> Iterator[None]:
    """Turn expected errors into one line, an interruption into a hint."""
    try:
        yield
    except KeyboardInterrupt:
        hint = f"; go on with --resume --out {out}" if out else ""
        console.print(f"\ninterrupted{hint}", style="yellow", soft_wrap=True)
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("MANIFOLDKIT_DEBUG"):
            raise
        text = str(error)
        if isinstance(error, DatasetNotFoundError) and _fetchable(data):
            text += f"\nfetch: {'; '.join(_fetchable(data))}"
        _stop(text)


def _stop(text: str) -> NoReturn:
    """Leave with one line."""
    console.print("error:", style="bold red", end=" ")
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def _fetchable(names: tuple[str, ...]) -> list[str]:
    """Return the commands for the data sets that are missing and can be downloaded."""
    from manifoldkit.datasets.archive import find_archive

    return [
        f"manifoldkit data fetch {name}"
        for name in names
        if DATASETS[name].download and not DATASETS[name].here(find_archive)
    ]


def _known(name: str, table: dict, kind: str) -> None:
    """Leave with the nearest name when there is no such one."""
    if name not in table:
        near = get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        _stop(f"no {kind} {name!r}; {hint} are: {', '.join(table)}")


def _version(value: bool) -> None:
    if value:
        print(f"manifoldkit {manifoldkit.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Geometric and manifold learning: run the demo, experiments and benchmarks."""


def _run(name: str, out: Path | None, resume: bool, **settings: Any) -> None:
    """Run an experiment by name, with one thread a process."""
    devices = settings.pop("devices", 1)
    if resume and out is None:
        out = _latest(name)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    out = out or Path("runs") / f"{name}-{stamp}"
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    if devices > 1:  # DDP's advice on unused parameters is for who writes the models
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    entry = EXPERIMENTS[name]
    if entry.data:
        _tell_absent_folder()
    with _plain_errors(out, entry.data):
        run: Callable = entry.load().run
        settings = _accepted(name, run, settings)
        if devices > 1 and not entry.ddp:
            able = ", ".join(key for key, other in EXPERIMENTS.items() if other.ddp)
            raise ValueError(
                f"devices: {name} has no training of its own that could be spread "
                f"over {devices} devices; these have: {able}"
            )
        _check_device(settings.get("device", "cpu"), devices)
        _check_folder(out, resume)
        try:
            if devices == 1:
                run(out, resume=resume, console=console, **settings)
            else:
                _run_on_devices(run, out, devices, resume=resume, **settings)
            _tell(out, settings.get("quick", False))
        finally:  # a folder that stayed empty is nothing that --resume should find
            with suppress(OSError):
                out.rmdir()


def _tell_absent_folder() -> None:
    """Say that the data folder that was named is not there."""
    from manifoldkit.datasets.archive import VARIABLE, absent_folder

    if absent := absent_folder():
        console.print(f"{VARIABLE}: {absent}", style="yellow", soft_wrap=True)
        warnings.filterwarnings("ignore", message="there is no folder")  # is said


def _tell(out: Path, quick: bool) -> None:
    """Say where the result is, and how much a quick run means."""
    if not (out / "result.json").exists():
        return
    from manifoldkit.experiments.result import is_first_process

    if not is_first_process():
        return
    if quick:
        console.print(
            "--quick: little data, short training; take figures from a full run",
            highlight=False,
        )
    files = sorted(p.name for p in out.iterdir() if p.is_file())
    console.print(f"{out}: {', '.join(files)}", highlight=False, soft_wrap=True)


def _run_on_devices(run: Callable, out: Path, devices: int, **settings: Any) -> None:
    """Run with DDP: Lightning starts this command once more for every other device."""
    from manifoldkit.experiments.result import is_first_process
    from manifoldkit.experiments.training import use_devices

    # the other processes are told the folder, which may have the time in its name
    if not any(argument.startswith("--out") for argument in sys.argv):
        sys.argv += ["--out", str(out)]
    if str(settings.get("device", "cpu")).startswith("cuda"):
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    quiet = console if is_first_process() else Console(quiet=True)
    with use_devices(devices):
        run(out, console=quiet, **settings)


def _accepted(name: str, run: Callable, settings: dict) -> dict:
    """Keep what an experiment takes; refuse what the user set and it cannot use."""
    defaults = {"jobs": 2, "device": "cpu"}
    takes = inspect.signature(run).parameters
    for key in settings.keys() - takes.keys():
        if settings[key] != defaults.get(key):
            raise ValueError(f"{name} takes no --{key}: it has no use for it")
    return {key: value for key, value in settings.items() if key in takes}


def _check_device(device: str, devices: int) -> None:
    """Refuse a device that torch does not know or find, before the data are read."""
    if device == "cpu":
        return
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise ValueError(f"device: expected cpu, cuda or cuda:N, found {device!r}")
    import torch

    count = torch.cuda.device_count()
    if count < max(devices, int(match[1] or 0) + 1):
        raise ValueError(
            f"device: {device} is asked for, on {devices} device(s), and torch "
            f"{torch.__version__} finds {count} CUDA device(s) here"
        )


def _check_folder(out: Path, resume: bool) -> None:
    """Make the folder; keep a run that is there from being written over."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: cannot write to {out}: {error.strerror}") from None
    other = int(os.environ.get("LOCAL_RANK", "0"))  # shares the folder of the first
    if other:
        return
    if resume:  # the run says so where there is nothing
        return
    for file in ("progress.json", "result.json"):
        if (out / file).exists():
            raise ValueError(
                f"out: {out} holds a run ({file}); go on with it by --resume, or name "
                "another folder"
            )


def _latest(name: str) -> Path:
    folders = sorted(Path("runs").glob(f"{name}-*"))
    if not folders:
        _stop(f"no run of {name} to resume in ./runs; give --out")
    return folders[-1]


@app.command()
def demo(
    quick: Quick = False,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    jobs: Jobs = 2,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch real recordings first (about 30 MB)."),
    ] = False,
) -> None:
    """Classify motor-imagery EEG; print a table, write figures and a report."""
    if download:
        with _plain_errors():
            EXPERIMENTS["eeg_demo"].load().fetch_recordings()
    _run("eeg_demo", out, resume, quick=quick, seed=seed, jobs=jobs)


@app.command()
def run(
    name: Annotated[
        str,
        typer.Argument(
            help="An experiment of `manifoldkit list`.", autocompletion=_experiments
        ),
    ],
    quick: Quick = False,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    jobs: Jobs = 2,
    device: Device = "cpu",
    devices: Devices = 1,
) -> None:
    """Run an experiment by name."""
    _known(name, EXPERIMENTS, "experiment")
    settings = {"jobs": jobs, "device": device, "devices": devices}
    _run(name, out, resume, quick=quick, seed=seed, **settings)


@app.command("list")
def list_experiments(
    name: Annotated[
        str | None,
        typer.Argument(help="Say more about one.", autocompletion=_experiments),
    ] = None,
) -> None:
    """List the experiments: paper, cost and whether their data are here."""
    if name is not None:
        _known(name, EXPERIMENTS, "experiment")
        _describe(name)
        return
    columns = (Column(key, no_wrap=True) for key in ("cost", "data"))
    table = Table(Column("name", no_wrap=True), "what", *columns, box=SIMPLE_HEAD)
    for key, entry in EXPERIMENTS.items():
        what = f"{entry.about}\n[dim]{entry.paper}[/dim]"
        table.add_row(key, what, entry.cost, _presence(entry.data).split(":")[0])
    console.print(table)
    console.print(
        "cost: a full run on two idle cores; with --quick less than a minute\n"
        "manifoldkit list NAME says more about one",
        highlight=False,
    )


def _presence(data: tuple[str, ...]) -> str:
    from manifoldkit.datasets.archive import find_archive

    if not data:
        return "simulated"
    missing = [name for name in data if not DATASETS[name].here(find_archive)]
    return f"missing: {', '.join(missing)}" if missing else "here"


def _describe(name: str) -> None:
    """Print what there is to know about one experiment."""
    entry = EXPERIMENTS[name]
    takes = inspect.signature(entry.load().run).parameters
    options = [f"--{o}" for o in ("jobs", "device") if o in takes]
    options += ["--devices"] if entry.ddp else []
    lines = [
        (name, entry.about),
        ("paper", entry.paper),
        ("cost", f"{entry.cost} on two idle cores; --quick: less than a minute"),
        ("options", ", ".join(["--quick, --seed, --out, --resume", *options])),
        ("data", ", ".join(entry.data) + f" ({_presence(entry.data)})"),
        ("fetch", "; ".join(_fetchable(entry.data))),
        ("run", f"manifoldkit run {name}"),
    ]
    for key, text in lines:
        if text.strip(" ()") and text != " (simulated)":
            console.print(f"{key + ':':<10} {text}", highlight=False, soft_wrap=True)


@data_app.command("list")
def data_list() -> None:
    """List the data sets, which are on this machine and what needs them."""
    from manifoldkit.datasets.archive import data_folder, find_archive

    names, users = Column("name", no_wrap=True), Column("used by", no_wrap=True)
    table = Table(names, "what", "here", users, box=SIMPLE_HEAD)
    for name, entry in DATASETS.items():
        used_by = [key for key, other in EXPERIMENTS.items() if name in other.data]
        here = _present(entry, find_archive)
        table.add_row(name, entry.about, here, "\n".join(used_by))
    console.print(table)
    console.print(f"data folder: {data_folder()}", soft_wrap=True)
    _tell_absent_folder()


def _present(entry: Dataset, find_archive: Callable) -> str:
    """Say whether the archives, or which subjects of a family, are here."""
    if not entry.has_subjects:
        found = sum(find_archive(archive) is not None for archive in entry.archives)
        whole = found == len(entry.archives)
        part = f"{found} of {len(entry.archives)} files"
        return "yes" if whole else part if found else "no"
    family = entry.archives[0]
    here = [s for s in range(1, 110) if find_archive(family.format(s))]
    return f"subjects {_ranges(here)}" if here else "no"


def _ranges(numbers: list[int]) -> str:
    """Return sorted numbers as ranges.

    >>> _ranges([1, 2, 3, 5, 8, 9])
    '1-3, 5, 8-9'
    """
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="A data set of `manifoldkit data list`.", autocompletion=_datasets
        ),
    ],
    subject: Annotated[
        list[int] | None, typer.Option(help="Subjects; may be given again. Default 1.")
    ] = None,
) -> None:
    """Download a data set into the data folder (EEG needs the extra `eeg`)."""
    _known(name, DATASETS, "data set")
    with _plain_errors():
        datasets = importlib.import_module("manifoldkit.datasets")
        entry = DATASETS[name]
        load = getattr(datasets, entry.loader)
        if entry.has_subjects:
            console.print(load(subject or [1]), soft_wrap=True)
        elif subject:
            raise ValueError(f"{name} has no subjects: leave --subject out")
        else:
            for arguments in entry.calls:
                load(**arguments)
            console.print(f"{name} is in the data folder")


def _benchmarks(incomplete: str) -> list[str]:
    files = Path("benchmarks").glob(f"{incomplete}*.py")
    found = [f.stem for f in files if "\ndef run(" in f.read_text(encoding="utf-8")]
    return sorted(found)


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Modules of benchmarks/; all by default.", autocompletion=_benchmarks
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Store; update page and figure.")
    ] = False,
    render: Annotated[
        bool, typer.Option("--render", help="Page and figure from what is stored.")
    ] = False,
) -> None:
    """Measure the ratio benchmarks against their peers (from a checkout)."""
    if not Path("benchmarks/__main__.py").exists():
        _stop(
            "the benchmarks are in a checkout of the repository, not in the "
            "installed package: run this command there"
        )
    known = _benchmarks("")
    for name in names or []:
        _known(name, dict.fromkeys(known), "benchmark")
    options = [*(names or []), *["--write"] * write, *["--render"] * render]
    code = subprocess.call([sys.executable, "-m", "benchmarks", *options])
    raise typer.Exit(code)
