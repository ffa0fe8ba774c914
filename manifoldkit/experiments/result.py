"""What an experiment returns, and how it is stored beside its figures."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

_PACKAGES = ("manifoldkit", "torch", "numpy", "scipy", "scikit-learn", "pyriemann")


@dataclass(frozen=True)
class Result:
    """The outcome of an experiment, plain enough to be read as JSON.

    Attributes
    ----------
    name, title : str
        Identifier and heading.
    metrics : list of dict
        One row a method, with counts, means and intervals. The page of reproductions
        shows every plain value; lists (one value a subject or seed) are only stored.
    protocol : str
        Splits, selection, what the interval means.
    data : dict
        Provenance of each data set: name, whether it is real, citation.
    seeds : list of int
        Seeds in use.
    paper : list of dict
        Published figures to stand beside ours, with their source.
    paper_note : str
        Units of the published figures, and how far they can be compared.
    remarks : list of str
        Honest words computed from the numbers or about the protocol.
    command : str
        What regenerates the result.
    duration : float
        Seconds.
    environment : dict
        Versions and machine.
    """

    name: str
    title: str
    metrics: list[dict[str, Any]]
    protocol: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    paper: list[dict[str, Any]] = field(default_factory=list)
    paper_note: str = "per cent; other data sets, so not comparable row by row"
    remarks: list[str] = field(default_factory=list)
    command: str = ""
    duration: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json`` into a folder, all or nothing; return the file."""
        return write_json(Path(folder) / "result.json", asdict(self))

    @classmethod
    def load(cls, file: str | Path) -> "Result":
        """Read a ``result.json`` (or the folder that holds it).

        Raises
        ------
        ValueError
            The file is not a stored result.
        """
        file = Path(file)
        file = file / "result.json" if file.is_dir() else file
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file} is not a stored result: {error}") from error


def is_first_process() -> bool:
    """Whether this process writes: the only one, or the first of several (DDP)."""
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return int(rank) == 0


def write_json(file: Path, content: Any) -> Path:
    """Write JSON to a file, all or nothing; the first of several processes does."""
    if not is_first_process():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(".part", file.name, file.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(content, stream, indent=2, ensure_ascii=False, default=_plain)
            stream.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return file


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays into JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be stored in a result")


def environment() -> dict[str, Any]:
    """Return versions and machine, without anything that names the user.

    >>> sorted(environment())[:3]
    ['cores', 'machine', 'packages']
    """
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": packages,
    }


def command_line(name: str, seed: int, quick: bool) -> str:
    """Return the command that regenerates a result.

    >>> command_line("eeg_demo", 3, quick=True)
    'manifoldkit run eeg_demo --seed 3 --quick'
    """
    return f"manifoldkit run {name} --seed {seed}" + (" --quick" if quick else "")


def source(
    provenance: str, citation: str = "this project", is_real: bool = False
) -> dict[str, Any]:
    """Return what a result says about data, made by this project unless told."""
    return {"provenance": provenance, "citation": citation, "is_real": is_real}


def origin(data: Any) -> dict[str, Any]:
    """Return what a result says about a data set of :mod:`manifoldkit.datasets`."""
    return source(data.provenance, data.citation, data.is_real)


def wilson_interval(correct: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a proportion.

    Parameters
    ----------
    correct : float
        Successes; an average over repetitions may be fractional.
    total : int
        Independent trials.
    z : float, default=1.96
        Normal quantile, 1.96 for 95 %.

    Returns
    -------
    low, high : float

    Raises
    ------
    ValueError
        No trials, or more successes than trials.

    Examples
    --------
    >>> low, high = wilson_interval(24, 30)
    >>> round(low, 3), round(high, 3)
    (0.627, 0.905)
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(
            f"correct, total: expected 0 <= correct <= total, found {correct}, {total}"
        )
    p = correct / total
    center = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    half /= 1 + z * z / total
    return max(center - half, 0.0), min(center + half, 1.0)


def student_interval(
    values: Sequence[float] | np.ndarray,
) -> tuple[float, float, float]:
    """Return standard deviation and Student's 95 % interval of a mean.

    Student's, because subjects are few: not 1.96 standard errors.

    >>> spread, low, high = student_interval([0.3, 0.4, 0.5])
    >>> round(spread, 3), round(low, 3), round(high, 3)
    (0.1, 0.152, 0.648)
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"values: expected two numbers or more, found {values}")
    spread, mean = float(array.std(ddof=1)), float(array.mean())
    half = float(student_t.ppf(0.975, len(array) - 1)) * spread / len(array) ** 0.5
    return spread, mean - half, mean + half
