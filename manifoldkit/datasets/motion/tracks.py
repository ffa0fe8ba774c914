"""Tracks of agents in text files: rows "frame agent x y", cut into windows."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit._checks import check_count, check_counts, check_positive, optional
from manifoldkit.exceptions import DatasetNotFoundError

_KNOWN = {
    "frame": ("frame", "frame_id", "frame_number", "frameid", "time", "t", "timestamp"),
    "agent": (
        *("agent", "agent_id", "track", "track_id", "trackid", "id", "object_id"),
        *("pedestrian", "pedestrian_id", "ped", "ped_id", "person", "person_id"),
    ),
    "x": ("x", "pos_x", "x_center", "center_x", "px", "world_x", "x_m"),
    "y": ("y", "pos_y", "y_center", "center_y", "py", "world_y", "y_m"),
    "z": ("z", "pos_z", "z_center", "center_z", "pz", "world_z", "z_m"),
}
_ODD_SHARE = 0.1  # of steps that fit no common step: beyond it there is none


class TrackWindows(NamedTuple):
    """Windows of agents' tracks.

    Attributes
    ----------
    past : ndarray, shape (n_windows, n_agents, history, n_dims)
        Observed positions; NaN where there is no agent.
    future : ndarray, shape (n_windows, n_agents, horizon, n_dims)
        What follows.
    mask : ndarray of bool, shape (n_windows, n_agents)
        True where there is an agent.
    scene : ndarray of str, shape (n_windows,)
        File that a window is from.
    frame : ndarray of int, shape (n_windows,)
        Its first frame, as the file counts.
    """

    past: np.ndarray
    future: np.ndarray
    mask: np.ndarray
    scene: np.ndarray
    frame: np.ndarray


def load_tracks(
    files: str | Path | Sequence[str | Path],
    history: int,
    horizon: int,
    *,
    columns: Mapping[str, int | str] | None = None,
    frame_step: int | None = None,
    n_agents: int | None = None,
    radius: float = 5.0,
) -> TrackWindows:
    r"""Read tracks of agents from text files, and cut them into windows.

    A window is ``history + horizon`` frames one step apart, at every frame; an agent
    belongs to it when it was seen in all of them, so that gaps are never bridged.
    Rows may have any order and be separated by blanks, tabs, commas or semicolons.

    Parameters
    ----------
    files : str, Path or sequence of these
        Tables with a row for every agent in every frame; windows never cross files.
    history, horizon : int
        Observed and future steps.
    columns : mapping, optional
        Name or place (from 0 on) of "frame", "agent", "x", "y" and, in space, "z". By
        default known names of a first line with names (such as ``frame_id``,
        ``track_id``, ``x``), and without one the columns in this order.
    frame_step : int, optional
        Frames from one step to the next. By default each file's most common distance
        between an agent's frames, such as 10 where they count 780, 790, ...
    n_agents : int, optional
        Instead of whole windows, one sample for every agent of every window: the agent
        first, then its nearest ones at the last observed step, up to this number.
    radius : float, default=5.0
        Largest distance of those neighbors.

    Returns
    -------
    TrackWindows

    Raises
    ------
    ValueError
        A file that is no such table; an agent at two places in one frame; frames
        without a common step.
    DatasetNotFoundError
        A file is missing.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "crossing.csv"
    >>> rows = [f"{t},{k},{t}.5,{k}" for t in range(0, 100, 10) for k in (1, 2)]
    >>> _ = file.write_text("frame_id,track_id,x,y\n" + "\n".join(rows))
    >>> windows = load_tracks(file, history=4, horizon=5)
    >>> windows.past.shape, windows.frame.tolist()
    ((2, 2, 4, 2), [0, 10])
    """
    check_counts(history=history, horizon=horizon)
    optional(check_count)(frame_step, "frame_step")
    optional(check_count)(n_agents, "n_agents")
    check_positive(radius, "radius")
    dims = set()
    paths = [files] if isinstance(files, str | Path) else list(files)
    parts = []
    for path in map(Path, paths):
        rows = read_rows(path, columns)
        dims.add(rows.shape[1] - 2)
        if len(dims) > 1:
            raise ValueError(
                f"{path}: expected as many dimensions as the files before, found x, y"
                + (", z" if rows.shape[1] == 5 else "")
            )
        step = frame_step or common_step(rows, path)
        found = cut_windows(rows, history + horizon, step)
        parts += [(path.stem, frame, tracks) for frame, tracks in found]
    return TrackWindows(*pack_windows(parts, history, horizon, n_agents, radius))


def read_rows(file: Path, columns: Mapping[str, int | str] | None = None) -> np.ndarray:
    """Return the rows frame, agent, x, y(, z) of a text file, sorted by frame.

    Raises
    ------
    ValueError
        No table of numbers with these columns; an agent at two places in one frame.
    DatasetNotFoundError
        The file is missing.
    """
    if not file.is_file():
        raise DatasetNotFoundError(
            f"{file} is not there: expected a text file of rows 'frame agent x y'"
        )
    names, cells = _read_cells(file)
    if not cells.size:
        return np.empty((0, 4))
    places = _places(file, names, columns, cells.shape[1])
    rows = cells[:, places]
    bad = ~np.isfinite(rows).all(1)
    if bad.any() or (rows[:, 0] % 1).any() or (rows[:, 1] % 1).any():
        raise ValueError(
            f"{file}: expected rows 'frame agent x y' of finite numbers, with whole "
            "numbers of frame and agent, found "
            f"{rows[bad | (rows[:, :2] % 1).any(1)][0].tolist()}"
        )
    rows = np.unique(rows, axis=0)  # sorts, and drops rows that say the same twice
    twice = (np.diff(rows[:, :2], axis=0) == 0).all(1)
    if twice.any():
        frame, agent = rows[:-1][twice][0, :2]
        raise ValueError(f"{file}: agent {agent:g} is at two places in frame {frame:g}")
    return rows


def _read_cells(file: Path) -> tuple[list[str] | None, np.ndarray]:
    """Names of the columns, if the first line has them, and the table of numbers."""
    try:  # most files are that plain, and it is fast
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file
            return None, np.loadtxt(file, ndmin=2)
    except ValueError:
        pass
    text = file.read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "%"))]
    mark = next((m for m in (";", ",", "\t") if lines and m in lines[0]), None)
    # a blank behind a comma separates nothing more
    cut = csv.reader(lines, delimiter=mark) if mark in (",", ";") else None
    table = [[c.strip() for c in row] for row in cut] if cut else map(str.split, lines)
    table = [row[:-1] if row and not row[-1] else row for row in table]
    names = None
    if table and not any(map(_is_number, table[0])):
        names, table = table[0], table[1:]
    width = len(names or (table[0] if table else ()))
    for number, row in enumerate(table, 1 + (names is not None)):
        if len(row) != width or not all(map(_is_number, row)):
            raise ValueError(
                f"{file} is no table of numbers: expected {width} of them, 'frame "
                f"agent x y' in each row, found {' '.join(row)!r} in row {number}"
            )
    return names, np.array(table, dtype=float).reshape(len(table), width)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _places(
    file: Path,
    names: list[str] | None,
    columns: Mapping[str, int | str] | None,
    width: int,
) -> list[int]:
    """Places of frame, agent, x, y(, z) among the columns."""
    wanted = list(_KNOWN)
    if columns is None and names is None:
        if width not in (4, 5):
            raise ValueError(
                f"{file}: expected rows 'frame agent x y' or 'frame agent x y z', "
                f"found {width} columns; name them by a first line or columns="
            )
        return list(range(width))
    lower = [name.lower() for name in names or ()]
    given: dict[str, int | str] = {}
    if columns is not None:
        unknown = [k for k in columns if k not in wanted]
        if unknown:
            raise ValueError(f"columns: expected some of {wanted}, found {unknown}")
        given = dict(columns)
    else:
        for key, known in _KNOWN.items():
            name = next((name for name in known if name in lower), None)
            given |= {} if name is None else {key: name}
    missing = [k for k in wanted[:4] if k not in given]
    places = []
    for key in wanted:
        if key not in given:
            continue
        value = given[key]
        place = value if isinstance(value, int) else -1
        if isinstance(value, str) and value.lower() in lower:
            place = lower.index(value.lower())
        if not 0 <= place < width:
            missing.append(f"{key} ({value!r})")
        places.append(place)
    if missing:
        raise ValueError(
            f"{file}: found no column for {', '.join(missing)} among "
            f"{names or f'{width} without names'}; say which by columns="
        )
    return places


def common_step(rows: np.ndarray, file: Path) -> int:
    """Return how many frames lie between steps: an agent's most common distance.

    Raises
    ------
    ValueError
        Many distances are no multiple of it, so that the time between steps is none.
    """
    order = np.lexsort((rows[:, 0], rows[:, 1]))
    same = np.diff(rows[order, 1]) == 0
    gaps = np.diff(rows[order, 0])[same].astype(int)
    if not len(gaps):
        return 1
    values, counts = np.unique(gaps, return_counts=True)
    step = int(values[counts.argmax()])
    odd = values % step != 0
    if counts[odd].sum() > _ODD_SHARE * counts.sum():
        other = int(values[odd][counts[odd].argmax()])
        raise ValueError(
            f"{file}: frames count in steps of {step} ({counts.max()} times) and of "
            f"{other} ({counts[odd].max()} times); the time between two steps must be "
            "one: give frame_step=, or split the file"
        )
    return step


def cut_windows(
    rows: np.ndarray, length: int, step: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first frame and the complete tracks (n, length, d) of each window.

    Frames that differ by no multiple of the step share no window.
    """
    ids = np.unique(rows[:, 1])
    frames = rows[:, 0].astype(np.int64)
    found: list[tuple[int, np.ndarray]] = []
    for phase in np.unique(frames % step):
        own = frames % step == phase
        slot = frames[own] // step
        span = int(np.ptp(slot)) + 1
        if span > 100 * (len(slot) + length):  # far apart: no table of all of them
            parts = np.split(np.arange(len(slot)), np.nonzero(np.diff(slot) > 1)[0] + 1)
        else:
            parts = [np.arange(len(slot))]
        for part in parts:
            begin = int(slot[part].min())
            span = int(np.ptp(slot[part])) + 1
            places = np.full((len(ids), span, rows.shape[1] - 2), np.nan)
            who = np.searchsorted(ids, rows[own][part, 1])
            places[who, slot[part] - begin] = rows[own][part, 2:]
            seen = ~np.isnan(places[..., 0])
            for start in range(span - length + 1):
                whole = seen[:, start : start + length].all(1)
                if whole.any():
                    frame = (begin + start) * step + int(phase)
                    found.append((frame, places[whole, start : start + length]))
    yield from sorted(found, key=lambda window: window[0])


def pack_windows(
    parts: Sequence[tuple[str, int, np.ndarray]],
    history: int,
    horizon: int,
    n_agents: int | None,
    radius: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return past, future, mask, scene and frame of windows, padded to one size."""
    windows, names, frames = [], [], []
    for scene, frame, tracks in parts:
        own = [tracks]
        if n_agents is not None:
            own = list(_around_each(tracks, n_agents, radius, history))
        windows += own
        names += [scene] * len(own)
        frames += [frame] * len(own)
    width = n_agents or max(map(len, windows), default=0)
    dims = max((tracks.shape[-1] for tracks in windows), default=2)
    data = np.full((len(windows), width, history + horizon, dims), np.nan)
    mask = np.zeros((len(windows), width), dtype=bool)
    for k, tracks in enumerate(windows):
        data[k, : len(tracks)] = tracks
        mask[k, : len(tracks)] = True
    past, future = data[:, :, :history].copy(), data[:, :, history:].copy()
    return past, future, mask, np.array(names), np.array(frames, dtype=int)


def _around_each(
    tracks: np.ndarray, n_agents: int, radius: float, history: int
) -> Iterator[np.ndarray]:
    """Yield for each agent its own track and those of its nearest ones."""
    last = tracks[:, history - 1]
    distance = np.linalg.norm(last[:, None] - last[None], axis=-1)
    np.fill_diagonal(distance, -1)  # the agent itself comes first
    for row in distance:
        order = np.argsort(row, kind="stable")[:n_agents]
        yield tracks[order[row[order] <= radius]]
