"""The ``manifoldkit`` command: ``demo``, ``list``, ``run``, ``data`` and ``bench``."""

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Column, Table

import manifoldkit

app = typer.Typer(
    help="Geometric and manifold learning: run the demo, experiments and benchmarks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="See and fetch the data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()


class _Experiment(NamedTuple):
    module: str
    about: str
    paper: str
    cost: str
    archives: tuple[str, ...]


class _Dataset(NamedTuple):
    loader: str
    about: str
    archive: str


EXPERIMENTS = {
    "eeg_demo": _Experiment(
        "eeg_demo",
        "motor imagery: plain and augmented covariances",
        "Carrara and Papadopoulo 2024",
        "1-2 min",
        ("eeg/physionet_mi_S001.npz",),
    ),
    "augmented_covariance": _Experiment(
        "augmented_covariance",
        "order and lag on PhysioNet and MAMEM, over seeds",
        "Carrara and Papadopoulo 2024",
        "10-20 min",
        ("eeg/physionet_mi_S001.npz", "eeg/mamem_ssvep_U001.npz"),
    ),
    "spd_networks": _Experiment(
        "spd_networks",
        "SPD batch normalisations on MAMEM and ill-conditioned matrices",
        "Wang et al. 2025",
        "40-60 min",
        ("eeg/mamem_ssvep_U001.npz",),
    ),
    "rotation_continuity": _Experiment(
        "rotation_continuity",
        "rotation representations: continuous ones against the others",
        "Zhou et al. 2019",
        "12-20 min",
        (),
    ),
    "affine_images": _Experiment(
        "affine_images",
        "group convolutions against a plain network on deformed digits",
        "Mironenco and Forré 2024",
        "10-12 min",
        ("images/mnist8k.npz", "images/affine_mnist_test.npz"),
    ),
    "point_cloud_rotations": _Experiment(
        "point_cloud_rotations",
        "rotation-invariant point clouds: trained upright, tested turned",
        "Zhang et al. 2024 (RISurConv), 2023 (PaRot)",
        "2-3 h",
        ("pointclouds/psb_train.npz", "pointclouds/psb_test.npz"),
    ),
    "particle_motion": _Experiment(
        "particle_motion",
        "EqMotion on springs and charges, beside other networks",
        "Xu et al. 2023",
        "25-40 min",
        (),
    ),
    "pedestrian_motion": _Experiment(
        "pedestrian_motion",
        "EqMotion on ETH-UCY, one scene left out at a time",
        "Xu et al. 2023",
        "4-8 min",
        ("eth_ucy/biwi_eth.txt",),
    ),
    "graph_separation": _Experiment(
        "graph_separation",
        "graph frames on graphs that message passing cannot tell apart",
        "Puny et al. 2022",
        "10-20 min",
        ("graph_separation/exp.npz", "graph_separation/graph8c.g6"),
    ),
    "subgraph_retrieval": _Experiment(
        "subgraph_retrieval",
        "IsoNet++ on five sets of molecules, beside filter and exact solver",
        "Ramachandran et al. 2024",
        "20-40 min",
        ("subgraph_retrieval/aids.npz",),
    ),
    "monoid_sets": _Experiment(
        "monoid_sets",
        "learned monoids on functions of sets, at sizes beyond training",
        "Ong and Veličković 2022",
        "20-30 min",
        (),
    ),
    "monoid_graphs": _Experiment(
        "monoid_graphs",
        "aggregations in message passing on six graph tasks",
        "Ong and Veličković 2022",
        "6-10 min",
        (),
    ),
    "traffic_virtual_nodes": _Experiment(
        "traffic_virtual_nodes",
        "long-term traffic forecasts with and without virtual nodes",
        "Cao et al. 2025",
        "50-70 min",
        ("traffic/metr_la_week.npz", "traffic/denhaag_2019_11.npz"),
    ),
}
DATASETS = {
    "physionet_mi": _Dataset(
        "fetch_physionet_mi",
        "PhysioNet motor movement/imagery, 109 subjects",
        "eeg/physionet_mi_S{:03d}.npz",
    ),
    "mamem": _Dataset(
        "fetch_mamem", "MAMEM SSVEP II, 11 subjects", "eeg/mamem_ssvep_U{:03d}.npz"
    ),
    "mnist": _Dataset("fetch_mnist", "MNIST, 8000 images", "images/mnist8k.npz"),
    "affine_mnist": _Dataset(
        "fetch_affine_mnist",
        "MNIST test images under affine maps (ours)",
        "images/affine_mnist_test.npz",
    ),
    "eth_ucy": _Dataset(
        "fetch_eth_ucy", "ETH-UCY pedestrians, five scenes", "eth_ucy/biwi_eth.txt"
    ),
    "exp": _Dataset(
        "fetch_exp",
        "600 pairs of graphs alike under color refinement",
        "graph_separation/exp.npz",
    ),
    "graph8c": _Dataset(
        "fetch_graph8c",
        "all connected graphs with 8 nodes",
        "graph_separation/graph8c.g6",
    ),
    "subgraph_pairs": _Dataset(
        "fetch_subgraph_pairs",
        "which molecules contain which fragments (AIDS)",
        "subgraph_retrieval/aids.npz",
    ),
    "metr_la": _Dataset(
        "fetch_metr_la",
        "METR-LA, one week of 207 highway sensors",
        "traffic/metr_la_week.npz",
    ),
    "the_hague": _Dataset(
        "fetch_the_hague",
        "The Hague, one month of 123 lane sensors",
        "traffic/denhaag_2019_11.npz",
    ),
}

Out = Annotated[
    Path | None, typer.Option(help="Folder to write; default runs/NAME-TIME.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller, under a minute.")]
Seed = Annotated[int, typer.Option(help="Seed of folds, searches and simulations.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes.")]
Device = Annotated[str, typer.Option(help="Where torch models train: cpu or cuda.")]
Devices = Annotated[int, typer.Option(min=1, help="Devices to train on (DDP).")]


@contextmanager
def _plain_errors(out: Path | None = None):
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
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


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


def _run(name: str, out: Path | None, resume: bool, **settings) -> None:
    """Run an experiment by name, with one thread a process."""
    if resume and out is None:
        out = _latest(name)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    out = out or Path("runs") / f"{name}-{stamp}"
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    with _plain_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        module = f"manifoldkit.experiments.{EXPERIMENTS[name].module}"
        run: Callable = importlib.import_module(module).run
        run(out, resume=resume, console=console, **_accepted(name, run, settings))


def _accepted(name: str, run: Callable, settings: dict) -> dict:
    """Keep what an experiment takes; refuse what the user set and it cannot use."""
    defaults = {"jobs": 2, "device": "cpu", "devices": 1}
    takes = inspect.signature(run).parameters
    for key in settings.keys() - takes.keys():
        if settings[key] != defaults.get(key):
            raise ValueError(f"{name} takes no --{key}: it has no use for it")
    return {key: value for key, value in settings.items() if key in takes}


def _latest(name: str) -> Path:
    folders = sorted(Path("runs").glob(f"{name}-*"))
    if not folders:
        console.print(f"error: no run of {name} to resume in ./runs; give --out")
        raise typer.Exit(1)
    return folders[-1]


@app.command()
def demo(
    quick: Quick = False,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    jobs: Jobs = 2,
) -> None:
    """Classify motor-imagery EEG; print a table, write figures and a report."""
    _run("eeg_demo", out, resume, quick=quick, seed=seed, jobs=jobs)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment of `manifoldkit list`.")],
    quick: Quick = False,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    jobs: Jobs = 2,
    device: Device = "cpu",
    devices: Devices = 1,
) -> None:
    """Run an experiment by name."""
    if name not in EXPERIMENTS:
        console.print(
            f"error: no experiment {name!r}; there are: {', '.join(EXPERIMENTS)}"
        )
        raise typer.Exit(1)
    settings = {"jobs": jobs, "device": device, "devices": devices}
    _run(name, out, resume, quick=quick, seed=seed, **settings)


@app.command("list")
def list_experiments() -> None:
    """List the experiments: paper, cost and whether their data are here."""
    from manifoldkit.datasets.archive import find_archive

    table = Table(Column("name", no_wrap=True), "what", "paper", "cost", "data")
    for name, entry in EXPERIMENTS.items():
        missing = [a for a in entry.archives if find_archive(a) is None]
        there = "here" if not missing else f"missing: {', '.join(missing)}"
        table.add_row(name, entry.about, entry.paper, entry.cost, there)
    console.print(table)


@data_app.command("list")
def data_list() -> None:
    """List the data sets and which subjects are on this machine."""
    from manifoldkit.datasets.archive import data_folder, find_archive

    table = Table(Column("name", no_wrap=True), "what", "here")
    for name, entry in DATASETS.items():
        table.add_row(name, entry.about, _present(entry.archive, find_archive))
    console.print(table)
    console.print(f"data folder: {data_folder()}", soft_wrap=True)


def _present(archive: str, find_archive: Callable) -> str:
    """Say whether an archive, or which subjects of a family, are here."""
    if "{" not in archive:
        return "yes" if find_archive(archive) else "no"
    here = [s for s in range(1, 110) if find_archive(archive.format(s))]
    return "subjects " + ", ".join(map(str, here)) if here else "no"


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A data set of `manifoldkit data list`.")],
    subject: Annotated[
        list[int] | None, typer.Option(help="Subjects; may be given again. Default 1.")
    ] = None,
) -> None:
    """Download a data set into the data folder (EEG needs the extra `eeg`)."""
    if name not in DATASETS:
        console.print(f"error: no data set {name!r}; there are: {', '.join(DATASETS)}")
        raise typer.Exit(1)
    with _plain_errors():
        datasets = importlib.import_module("manifoldkit.datasets")
        load = getattr(datasets, DATASETS[name].loader)
        if "{" in DATASETS[name].archive:
            console.print(load(subject or [1]), soft_wrap=True)
        elif subject:
            raise ValueError(f"{name} has no subjects: leave --subject out")
        else:
            load()
            console.print(f"{name} is in the data folder")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench(context: typer.Context) -> None:
    """Measure the ratio benchmarks against their peers (from a checkout)."""
    if not Path("benchmarks/__main__.py").exists():
        console.print(
            "error: the benchmarks are in a checkout of the repository, not in the "
            "installed package: run this command there",
            soft_wrap=True,
        )
        raise typer.Exit(1)
    code = subprocess.call([sys.executable, "-m", "benchmarks", *context.args])
    raise typer.Exit(code)
