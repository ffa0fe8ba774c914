"""Standard files of traffic research, read from where the user keeps them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manifoldkit.datasets.archive import open_archive, open_hdf5
from manifoldkit.datasets.traffic.data import (
    TrafficData,
    distance_weights,
    local_times,
    regularize_series,
)
from manifoldkit.exceptions import DatasetNotFoundError


class _Table(NamedTuple):
    values: np.ndarray
    sensors: np.ndarray | None
    timestamps: np.ndarray | None


def load_traffic(
    readings: str | Path,
    graph: str | Path | np.ndarray | None = None,
    *,
    sensors: str | Path | None = None,
    places: str | Path | None = None,
    start: Any = None,
    step_minutes: int = 5,
    channel: int = 0,
    null_value: float | None = None,
    sigma: float | None = None,
    cutoff: float = 0.1,
    split: tuple = (0.7, 0.1, 0.2),
    name: str | None = None,
) -> TrafficData:
    """Read METR-LA, PEMS-BAY, PEMS03/04/07/08, LargeST and files like these.

    Nothing is unpickled: a graph that is only there as ``.pkl`` has to be saved as
    ``.npy`` first.

    Parameters
    ----------
    readings : str or Path
        ``.h5``: table of pandas, as ``metr-la.h5``, ``pems-bay.h5`` and LargeST's
        ``ca_his_raw_2019.h5`` (needs h5py).
        ``.npz``: array ``data`` (T, N, F), as ``PEMS04.npz``; or LargeST's ``his.npz``
        with ``mean`` and ``std``, whose scaling is undone.
        ``.csv``: one column a sensor, ids in the first line, optionally time stamps in
        the first column.
    graph : str, Path or array, optional
        Weights (N, N), row listens to column, as array, ``.npy`` (LargeST's
        ``sd_rn_adj.npy``) or ``.csv``; or road distances as ``.csv`` with the columns
        from, to, distance (``distances_la_2012.csv``, ``PEMS04.csv``), which become
        weights by a Gaussian kernel. Default no roads.
    sensors : str or Path, optional
        Text file of sensor ids, in order (``graph_sensor_ids.txt``, ``PEMS03.txt``).
        Columns of ``readings`` that it does not list are left out.
    places : str or Path, optional
        ``.csv`` with columns for id, latitude and longitude (``sd_meta.csv``,
        ``graph_sensor_locations.csv``).
    start : datetime64, optional
        Time of the first row; default what the file says, else Monday 2018-01-01.
    step_minutes : int, default=5
        Minutes between rows. Rows at irregular times are put on this grid; see
        :func:`regularize_series`.
    channel : int, default=0
        Channel that is read of an ``.npz`` file: flow, occupancy, speed.
    null_value : float, optional
        The reading that means "missing" (0 in most of these files).
    sigma : float, optional
        Width of the kernel; default the standard deviation of the distances.
    cutoff : float, default=0.1
        Smallest weight of the kernel that is kept.
    split : tuple
        Shares, or rows, of training, validation and test.
    name : str, optional
        Default the file's name.

    Returns
    -------
    TrafficData

    Raises
    ------
    DatasetNotFoundError
        A file is missing.
    ValueError
        A file is not what it should be.
    MissingExtraError
        h5py is not installed.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "PEMS04.npz"
    >>> np.savez(file, data=np.ones((300, 3, 3)))
    >>> load_traffic(file, np.eye(3), null_value=0)
    TrafficData('PEMS04', 300 rows of 5 min, 3 sensors)
    """
    file = _existing(readings)
    readers = {".h5": _read_h5, ".hdf5": _read_h5, ".csv": _read_csv}
    if file.suffix == ".npz":
        table = _read_npz(file, channel)
    elif file.suffix in readers:
        table = readers[file.suffix](file)
    else:
        raise ValueError(
            f"readings: expected a file .h5, .npz or .csv, found {file.name}"
        )
    table = _order(table, sensors)
    values, begin = table.values, start
    if null_value is not None:
        values = np.where(values == null_value, np.nan, values)
    if table.timestamps is not None:
        values, first = regularize_series(values, table.timestamps, step_minutes)
        begin = first if begin is None else begin
    begin = local_times("2018-01-01T00:00" if begin is None else begin, "start").item()
    n = values.shape[1]
    weights = _read_graph(graph, n, table.sensors, sigma, cutoff)
    lat, lon = _read_places(places, table.sensors)
    return TrafficData(
        values.astype(np.float32),
        weights,
        np.datetime64(begin, "m"),
        step_minutes,
        name=name or file.stem,
        provenance=f"file {file.name} of the user",
        split=split,
        sensor_id=table.sensors,
        lat=lat,
        lon=lon,
    )


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DatasetNotFoundError(f"{file} is not there")
    if file.suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{file.name}: pickles are not read, because they can run code; save the "
            "matrix with numpy.save"
        )
    return file


def _read_h5(file: Path) -> _Table:
    """Read the fixed format of pandas without pandas."""
    with open_hdf5(file) as store:
        # a group of arrays has keys, an array has none
        groups = [
            g for g in store.values() if hasattr(g, "keys") and "block0_values" in g
        ]
        if len(groups) != 1:
            raise ValueError(
                f"{file}: expected one table of pandas (fixed format), found "
                f"{len(groups)} among {sorted(store)}"
            )
        group = groups[0]
        if "block1_values" in group:
            raise ValueError(f"{file}: expected columns of one type, found several")
        values = np.asarray(group["block0_values"])
        items = np.asarray(group["block0_items"])
        axis = np.asarray(group["axis0"])
        index = np.asarray(group["axis1"])
        unit = str(group["axis1"].attrs.get("kind", ""))
    if items.tolist() != axis.tolist():  # blocks keep an order of their own
        place = {item: k for k, item in enumerate(items.tolist())}
        values = values[:, [place[item] for item in axis.tolist()]]
    return _Table(values, _names(axis), _stamps(index, unit))


def _stamps(index: np.ndarray, kind: str) -> np.ndarray | None:
    """Return the index as time stamps; pandas stores integers of some unit."""
    if index.dtype.kind not in "iu" or not len(index):
        return None
    units = {"datetime64[us]": "us", "datetime64[ms]": "ms", "datetime64[s]": "s"}
    for name, unit in units.items():
        if name in kind:
            return index.astype(f"datetime64[{unit}]")
    # without a unit only nanoseconds since 1970 are that large
    return index.astype("datetime64[ns]") if index.max() > 10**16 else None


def _names(axis: np.ndarray) -> np.ndarray:
    """Return sensor ids as integers where they are, else as strings."""
    if axis.dtype.kind in "iu":
        return axis
    words = [w.decode() if isinstance(w, bytes) else str(w) for w in axis.tolist()]
    words = [word.strip().strip('"') for word in words]
    if all(word.lstrip("-").isdigit() for word in words):
        return np.array(words, dtype=np.int64)
    return np.array(words)


def _read_npz(file: Path, channel: int) -> _Table:
    with open_archive(file) as archive:
        arrays = {k: archive[k] for k in ("data", "mean", "std") if k in archive}
    if "data" not in arrays:
        raise ValueError(f"{file}: expected an array 'data', found none")
    data = arrays["data"]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 or not 0 <= channel < data.shape[2]:
        raise ValueError(
            f"{file}: expected data of shape (time, sensors, channels) with channel "
            f"{channel}, found {data.shape}"
        )
    values = data[..., channel].astype(np.float64)
    if channel == 0 and {"mean", "std"} <= arrays.keys():
        values = values * float(arrays["std"]) + float(arrays["mean"])
    return _Table(values, None, None)


def _read_csv(file: Path) -> _Table:
    try:
        lines = file.read_text(encoding="utf-8").splitlines() or [""]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text ({error})") from error
    header = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:] if line.strip()]
    if not rows or {len(row) for row in rows} != {len(header)}:
        raise ValueError(
            f"{file}: expected a header of sensor ids and rows of as many columns"
        )
    stamps = None
    if not _is_number(rows[0][0]):
        try:
            stamps = local_times([row[0] for row in rows])
        except ValueError:
            raise ValueError(
                f"{file}: expected numbers or time stamps without a zone in the first "
                f"column, found {rows[0][0]!r}"
            ) from None
        header, rows = header[1:], [row[1:] for row in rows]
    try:
        values = np.array([[float(cell or "nan") for cell in row] for row in rows])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return _Table(values, _names(np.array(header)), stamps)


def _is_number(word: str) -> bool:
    try:
        float(word or "nan")
    except ValueError:
        return False
    return True


def _order(table: _Table, sensors: str | Path | None) -> _Table:
    """Bring the columns into the order of a list of sensors."""
    if sensors is None:
        return table
    words = _existing(sensors).read_text(encoding="utf-8").replace(",", " ").split()
    wanted = _names(np.array(words))
    if table.sensors is None:
        if len(wanted) != table.values.shape[1]:
            raise ValueError(
                f"sensors: expected {table.values.shape[1]} ids, found {len(wanted)}"
            )
        return table._replace(sensors=wanted)
    place = {str(s): k for k, s in enumerate(table.sensors)}
    missing = [str(s) for s in wanted if str(s) not in place]
    if missing:
        raise ValueError(f"sensors: the readings have no column {missing[0]}")
    columns = [place[str(s)] for s in wanted]
    return _Table(table.values[:, columns], wanted, table.timestamps)


def _read_graph(
    graph: str | Path | np.ndarray | None,
    n: int,
    sensors: np.ndarray | None,
    sigma: float | None,
    cutoff: float,
) -> np.ndarray:
    if graph is None:
        return np.zeros((n, n), dtype=np.float32)
    if isinstance(graph, np.ndarray):
        weights = graph
    else:
        file = _existing(graph)
        if file.suffix == ".npy":
            weights = np.load(file, allow_pickle=False)
        elif file.suffix == ".csv":
            weights = _csv_graph(file, n, sensors, sigma, cutoff)
        else:
            raise ValueError(f"graph: expected .npy or .csv, found {file.name}")
    if weights.shape != (n, n):
        raise ValueError(
            f"graph: expected {n} x {n} weights for {n} sensors, found {weights.shape}"
        )
    return weights.astype(np.float32)


def _csv_graph(
    file: Path, n: int, sensors: np.ndarray | None, sigma: float | None, cutoff: float
) -> np.ndarray:
    with open(file, encoding="utf-8") as stream:
        head = stream.readline()
    skip = 0 if _is_number(head.split(",")[0]) else 1
    table = np.loadtxt(file, delimiter=",", skiprows=skip, ndmin=2)
    if skip == 0 and table.shape == (n, n) and n != 3:
        return table
    if table.shape[1] != 3:
        raise ValueError(
            f"{file}: expected {n} x {n} weights, or rows from, to, distance; found "
            f"shape {table.shape}"
        )
    names = np.arange(n) if sensors is None else np.asarray(sensors)
    return distance_weights(table, names, sigma, cutoff)


def _read_places(
    places: str | Path | None, sensors: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if places is None:
        return None, None
    file = _existing(places)
    lines = file.read_text(encoding="utf-8").splitlines()
    header = [word.strip().lower() for word in lines[0].split(",")]

    def column(*names: str) -> int:
        for name in names:
            if name in header:
                return header.index(name)
        raise ValueError(f"{file}: expected a column {names[0]!r}, found {header}")

    who, lat = column("sensor_id", "id"), column("latitude", "lat")
    lon = column("longitude", "lng", "lon")
    rows = [line.split(",") for line in lines[1:] if line.strip()]
    place = {row[who].strip(): (float(row[lat]), float(row[lon])) for row in rows}
    listed = [row[who].strip() for row in rows]
    names = listed if sensors is None else [str(s) for s in sensors]
    missing = [name for name in names if name not in place]
    if missing:
        raise ValueError(f"{file}: no place of sensor {missing[0]}")
    found = np.array([place[name] for name in names])
    return found[:, 0], found[:, 1]
