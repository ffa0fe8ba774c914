"""The graph of the sensors: weights, distances, tables of roads, pickled lists."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from manifoldkit._checks import check_choice, check_interval, check_order
from manifoldkit.datasets.archive import read_array
from manifoldkit.datasets.traffic.pickles import (
    SensorGraph,
    named_graph,
    read_sensor_graph,
)
from manifoldkit.datasets.traffic.text import (
    is_missing,
    is_number,
    name,
    names,
    numbers,
    read_cells,
)

_FROM = ("from", "from_id", "from_sensor", "source", "src", "origin", "origin_id")
_TO = ("to", "to_id", "to_sensor", "target", "dst", "destination", "destination_id")
_COST = ("cost", "distance", "dist", "length", "meters", "miles", "km")
_WEIGHT = ("weight", "w", "weights")
KINDS = ("auto", "weights", "distances")


def read_graph(
    graph: Any,
    sensors: np.ndarray | None,
    n: int,
    *,
    kind: str = "auto",
    sigma: float | None = None,
    cutoff: float = 0.1,
) -> tuple[Any, np.ndarray | None]:
    """Return the weights (N, N) of a graph, and the names of the sensors.

    Parameters
    ----------
    graph : str, Path, array, sparse matrix, list or None
        See :func:`~manifoldkit.datasets.load_traffic`.
    sensors : ndarray of shape (n,), optional
        Names, in the order that is wanted.
    n : int
        Number of sensors.
    kind : {"auto", "weights", "distances"}
        What a matrix holds.
    sigma, cutoff : float
        Of the Gaussian kernel.
    """
    check_choice(kind, KINDS, "graph_kind")
    check_interval(cutoff, "cutoff", 0, 1)
    if sigma is not None:
        check_interval(sigma, "sigma", 0, ends="()")
    if graph is None:
        return np.zeros((n, n), dtype=np.float32), sensors
    what = "graph"
    if isinstance(graph, (str, Path)):
        file = Path(graph).expanduser()
        what, suffix = str(file), file.suffix.lower()
        if suffix in (".csv", ".tsv", ".rel"):
            rows = read_cells(file)
            table = _road_table(rows, file, n, sensors, sigma, cutoff)
            if table is not None:
                return table.astype(np.float32), sensors
            graph = _matrix(rows, file, n)
        elif suffix == ".npy":
            graph = read_array(file)
        elif suffix in (".pkl", ".pickle"):
            graph = read_sensor_graph(file)
        else:
            raise ValueError(f"graph: expected .npy, .csv or .pkl, found {file.name}")
    elif _is_named(graph):
        graph = named_graph(list(graph[0]), graph[1], graph[2], "graph")
    if isinstance(graph, SensorGraph):
        graph, sensors = _in_order(graph, sensors, what)
    if not hasattr(graph, "tocoo"):
        graph = np.asarray(graph)
    if graph.shape != (n, n) or graph.dtype.kind not in "fiub":
        raise ValueError(
            f"graph: expected {n} x {n} weights for {n} sensors, found {graph.shape} "
            f"of {graph.dtype}"
        )
    if isinstance(graph, np.ndarray) and _are_distances(graph, kind, what):
        graph = matrix_weights(graph, sigma, cutoff)
    return graph.astype(np.float32), sensors


def _is_named(graph: Any) -> bool:
    """Tell whether this is [ids, places, matrix]."""
    several = isinstance(graph, (list, tuple)) and len(graph) == 3
    return several and isinstance(graph[1], Mapping)


def _in_order(
    graph: SensorGraph, sensors: np.ndarray | None, what: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bring named weights into the order of the sensors."""
    if not graph.sensors:
        return graph.weights, sensors
    if sensors is None:
        return graph.weights, names([str(s) for s in graph.sensors])
    listed = [name(str(s)) for s in graph.sensors]
    order = check_order((name(str(s)) for s in sensors), listed, "graph", what)
    return graph.weights[np.ix_(order, order)], sensors


def _are_distances(matrix: np.ndarray, kind: str, what: str) -> bool:
    """Tell distances from weights: those grow where these fall.

    Distances are zero on the diagonal, positive elsewhere (infinite or NaN where there
    is no road), and no way is longer than a detour.
    """
    if kind != "auto":
        return kind == "distances"
    d = matrix.astype(np.float64)
    reached = ~np.eye(len(d), dtype=bool) & np.isfinite(d)
    if d.diagonal().any() or not reached.any() or np.isin(d[reached], (0, 1)).all():
        return False
    part = np.where(np.isfinite(d), d, np.inf)[:200, :200]
    detour = np.stack([(row[:, None] + part).min(0) for row in part])
    # a few zeros are sensors that share a place
    if (d[reached] <= 0).mean() > 0.05 or (part > 1.01 * detour).mean() > 0.1:
        return False
    if d[reached].max() > 1:
        return True
    raise ValueError(
        f"{what}: a matrix of zeros on the diagonal and numbers up to 1 elsewhere may "
        "hold weights or distances: say graph_kind='weights' or 'distances'"
    )


def matrix_weights(
    distance: np.ndarray, sigma: float | None, cutoff: float
) -> np.ndarray:
    """Turn a matrix of distances into weights by a thresholded Gaussian kernel.

    Infinite and NaN distances are no roads. The width defaults to the standard
    deviation of all finite distances.

    Raises
    ------
    ValueError
        Negative distances.

    Examples
    --------
    >>> matrix_weights(np.array([[0, 2.0], [np.inf, 0]]), 2.0, cutoff=0.1).round(3)
    array([[1.   , 0.368],
           [0.   , 1.   ]])
    """
    d = np.where(np.isfinite(distance), distance, np.inf).astype(np.float64)
    if (d < 0).any():
        raise ValueError("graph: expected no negative distance")
    finite, out = np.isfinite(d), np.eye(len(d))
    off = ~np.eye(len(d), dtype=bool)
    if (off & finite).any():
        out[finite] = _kernel(d[finite], off[finite], sigma, cutoff)
    return out


def _kernel(
    d: np.ndarray, off: np.ndarray, sigma: float | None, cutoff: float
) -> np.ndarray:
    """Return the weights of distances, of which some are between different sensors."""
    largest = float(d.max()) or 1.0
    if sigma is not None:
        width = sigma
    else:
        # dividing first keeps the squares of very small and very large distances
        width = float(np.std(d / largest)) * largest
        if width < largest * 1e-6:  # all alike: their own length
            width = largest
    with np.errstate(over="ignore"):  # too far is weight zero
        weight = np.exp(-((d / width) ** 2))
        if sigma is None and off.any() and not (weight[off] >= cutoff).any():
            warnings.warn(
                f"graph: all distances are far beyond their standard deviation, "
                f"{width:g}, so the kernel's width is the largest one, {largest:g}; "
                "say another one by sigma=",
                stacklevel=4,
            )
            weight = np.exp(-((d / largest) ** 2))
    return np.where(weight >= cutoff, weight, 0)


def distance_weights(
    edges: Iterable[Any],
    sensors: np.ndarray,
    sigma: float | None,
    cutoff: float,
) -> np.ndarray:
    """Turn rows from, to, distance into weights by a thresholded Gaussian kernel.

    Rows of sensors that are not listed are left out; the width defaults to the
    standard deviation of the distances that are left. Ids are compared as text.

    Raises
    ------
    ValueError
        Rows, and none of them between two sensors; distances that are negative or no
        numbers.

    Examples
    --------
    >>> edges = [("7", "9", 1.0), ("9", "7", 3.0), ("7", "A", 2.0)]
    >>> distance_weights(edges, np.array([7, 9]), sigma=1.0, cutoff=0.1).round(3)
    array([[1.   , 0.368],
           [0.   , 1.   ]])
    """
    links = _known_links(edges, sensors)
    weights = np.eye(len(sensors))
    if not links:
        return weights
    i, j, d = (np.array(column) for column in zip(*links, strict=True))
    if not (np.isfinite(d) & (d >= 0)).all():
        raise ValueError("graph: expected distances that are finite and not negative")
    weights[i, j] = _kernel(d, i != j, sigma, cutoff)
    return weights


def _known_links(
    edges: Iterable[Any], sensors: np.ndarray
) -> list[tuple[int, int, float]]:
    place = {name(str(s)): k for k, s in enumerate(sensors)}
    rows = [(name(str(i)), name(str(j)), float(d)) for i, j, d in edges]
    links = [(place[i], place[j], d) for i, j, d in rows if i in place and j in place]
    if rows and not links:
        i, j, _ = rows[0]
        raise ValueError(
            f"graph: no road connects two of the sensors; roads are from {i!r} to "
            f"{j!r}, sensors are {', '.join(list(place)[:3])}, ...: say the sensors of "
            "the columns by sensors="
        )
    return links


def _road_table(
    rows: list[list[str]],
    file: Path,
    n: int,
    sensors: np.ndarray | None,
    sigma: float | None,
    cutoff: float,
) -> np.ndarray | None:
    """Return the weights of a table from, to, distance; None for a matrix."""
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(f"{file}: expected rows of as many columns")
    head = [word.lower() for word in rows[0]]
    columns = _named(head)
    body = rows[1:]
    if columns is None:
        if _is_matrix(rows, n, sensors):
            return None
        headless = is_number(head[-1])  # ids may be text
        if len(head) != 3:
            raise ValueError(
                f"{file}: expected {n} x {n} weights, or rows from, to, distance; "
                f"found {len(rows)} rows of {len(head)} columns"
            )
        columns, body = (0, 1, 2), rows if headless else body
    if not body:
        raise ValueError(f"{file}: expected rows from, to, distance, found none")
    start, end, cost = columns
    edges = [(r[start], r[end], r[cost] if cost is not None else "1") for r in body]
    try:
        links = [(i, j, float(d)) for i, j, d in edges]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    known = np.arange(n) if sensors is None else sensors
    if cost is not None and head[cost] not in _WEIGHT:
        return distance_weights(links, known, sigma, cutoff)
    weights = np.zeros((n, n))
    for i, j, w in _known_links(links, known):
        weights[i, j] = w
    return weights


def _is_matrix(rows: list[list[str]], n: int, sensors: np.ndarray | None) -> bool:
    """Tell a matrix, maybe with a line and a column of names, from a table."""
    width, named = len(rows[0]), len(rows) == n + 1
    if named and width == n + 1 and is_missing(rows[0][0]):
        return True
    body = rows[1:] if named else rows
    square = len(body) == width == n and (named or all(map(is_number, rows[0])))
    return square and (n != 3 or not _are_three_roads(body, sensors))


def _are_three_roads(rows: list[list[str]], sensors: np.ndarray | None) -> bool:
    """Tell three roads among three sensors from a matrix, which looks the same."""
    ids = {str(s) for s in (range(3) if sensors is None else sensors)}
    alike = len({rows[k][k] for k in range(3)}) == 1
    return not alike and {name(w) for row in rows for w in row[:2]} <= ids


def _matrix(rows: list[list[str]], file: Path, n: int) -> Any:
    """Return a matrix, with the names of its columns where it has some."""
    if len(rows) == n:
        return numbers(rows, file)
    head = rows[0][-n:]
    matrix = numbers([row[-n:] for row in rows[1:]], file)
    listed = [name(word) for word in head]
    counted = listed == [str(k) for k in range(n)]
    return SensorGraph([] if counted else listed, matrix)


def _named(head: list[str]) -> tuple[int, int, int | None] | None:
    """Return the columns from, to and distance by their names."""

    def find(options: tuple[str, ...]) -> int | None:
        return next((head.index(word) for word in options if word in head), None)

    start, end, cost = find(_FROM), find(_TO), find(_COST + _WEIGHT)
    if start is None or end is None:
        return None
    if cost is None and len(head) > 2:
        others = [k for k in range(len(head)) if k not in (start, end)]
        cost = others[0] if len(others) == 1 else None
    return start, end, cost
