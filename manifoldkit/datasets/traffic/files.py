"""Standard files of traffic research, read from where the user keeps them."""

from datetime import tzinfo
from pathlib import Path
from typing import Any

import numpy as np

from manifoldkit._checks import check_count, check_order
from manifoldkit.datasets.archive import open_archive, open_hdf5, read_array
from manifoldkit.datasets.traffic.clock import (
    local_times,
    regularize_series,
    wall_clock,
)
from manifoldkit.datasets.traffic.data import TrafficData
from manifoldkit.datasets.traffic.roads import read_graph
from manifoldkit.datasets.traffic.tables import Table, read_table
from manifoldkit.datasets.traffic.text import names, numbers, read_cells
from manifoldkit.exceptions import DatasetNotFoundError


def load_traffic(
    readings: str | Path,
    graph: Any = None,
    *,
    sensors: str | Path | None = None,
    places: str | Path | None = None,
    start: Any = None,
    step_minutes: int = 5,
    channel: int | str = 0,
    null_value: float | None = None,
    sigma: float | None = None,
    cutoff: float = 0.1,
    split: tuple = (0.7, 0.1, 0.2),
    name: str | None = None,
    header: bool | None = None,
    tz: str | tzinfo | None = None,
    graph_kind: str = "auto",
) -> TrafficData:
    r"""Read METR-LA, PEMS-BAY, PEMS03/04/07/08, LargeST and files like these.

    Nothing of a file is executed.

    Parameters
    ----------
    readings : str or Path
        ``.h5``: table of pandas, as ``metr-la.h5``, ``pems-bay.h5`` and LargeST's
        ``ca_his_raw_2019.h5`` (needs h5py).
        ``.npz``: array ``data`` (T, N, F), as ``PEMS04.npz``; or LargeST's ``his.npz``
        with ``mean`` and ``std``, whose scaling is undone. ``.npy``: that array.
        ``.csv``, ``.tsv``: one column a sensor, with or without a line of ids, a column
        of times and row numbers (as pandas writes); or one row a reading with columns
        for time, sensor and value, in any order. Separators are commas, semicolons
        (with decimal commas, too) or tabs.
    graph : str, Path, array, sparse matrix or list, optional
        Weights (N, N), row listens to column, as array, ``.npy`` (LargeST's
        ``sd_rn_adj.npy``) or ``.csv``; or distances (N, N), as
        ``PeMSD7_W_228.csv``; or roads as ``.csv`` with the columns from, to, distance
        (``distances_la_2012.csv``, ``PEMS04.csv``), ids as numbers or text, or from,
        to, weight. Distances become weights by a Gaussian kernel. Or
        ``[ids, places, matrix]``, the list or the file ``adj_mx.pkl``, of which nothing
        but this content is read; its rows are brought into the order of the readings.
        Default no roads.
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
    channel : int or str, default=0
        Channel that is read of an ``.npz`` file (flow, occupancy, speed), or column of
        a table with one row a reading, by number or name.
    null_value : float, optional
        The reading that means "missing" (0 in most of these files).
    sigma : float, optional
        Width of the kernel :math:`\exp(-(d/\sigma)^2)`, in the unit of the distances;
        default their standard deviation, as DCRNN does, whatever the unit.
        STGCN's is 3162 for meters, with ``cutoff=0.5``.
    cutoff : float, default=0.1
        Smallest weight of the kernel that is kept.
    split : tuple
        Shares, or rows, of training, validation and test.
    name : str, optional
        Default the file's name.
    header : bool, optional
        Whether the first line of a ``.csv`` holds names; default what it looks like,
        and an error where it may be either.
    tz : str or tzinfo, optional
        Zone of the sensors' clock. Needed where the file's times have a zone or count
        from 1970; see :func:`regularize_series` for daylight saving.
    graph_kind : {"auto", "weights", "distances"}
        What a matrix holds; "auto" takes it for distances if they look like those:
        zero on the diagonal alone, and no way longer than a detour.

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
    suffix = file.suffix.lower()
    check_count(step_minutes, "step_minutes")
    if suffix in (".npz", ".npy"):
        table = _read_numpy(file, channel)
    elif suffix in (".h5", ".hdf5"):
        table = _read_h5(file, tz)
    elif suffix in (".csv", ".tsv", ".dyna"):
        table = read_table(
            file, header=header, step_minutes=step_minutes, channel=channel, tz=tz
        )
    else:
        raise ValueError(
            f"readings: expected a file .h5, .npz, .npy or .csv, found {file.name}"
        )
    table = _order(table, sensors)
    values, begin = table.values, table.start if start is None else start
    if null_value is not None:
        values = np.where(values == null_value, np.nan, values)
    if table.timestamps is not None:
        values, first = regularize_series(values, table.timestamps, step_minutes, tz=tz)
        begin = first if begin is None else begin
    begin = local_times("2018-01-01T00:00" if begin is None else begin, "start", tz)
    if isinstance(graph, (str, Path)):
        graph = _existing(graph)
    weights, ids = read_graph(
        graph,
        table.sensors,
        values.shape[1],
        kind=graph_kind,
        sigma=sigma,
        cutoff=cutoff,
    )
    lat, lon = _read_places(places, ids)
    return TrafficData(
        values.astype(np.float32),
        weights,
        np.datetime64(begin.item(), "m"),
        step_minutes,
        name=name or file.stem,
        provenance=f"file {file.name} of the user",
        split=split,
        sensor_id=ids,
        lat=lat,
        lon=lon,
    )


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DatasetNotFoundError(f"{file} is not there")
    return file


def _read_h5(file: Path, tz: str | tzinfo | None) -> Table:
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
        zone = group["axis1"].attrs.get("tz")
    if items.tolist() != axis.tolist():  # blocks keep an order of their own
        place = {item: k for k, item in enumerate(items.tolist())}
        values = values[:, [place[item] for item in axis.tolist()]]
    stamps = _stamps(index, unit)
    if zone is not None and stamps is not None:  # the index is UTC then
        own = zone.decode() if isinstance(zone, bytes) else str(zone)
        stamps = wall_clock(stamps, own if tz is None else tz)
    return Table(values, _axis_names(axis), stamps)


def _axis_names(axis: np.ndarray) -> np.ndarray:
    if axis.dtype.kind in "iu":
        return axis
    words = axis.tolist()
    return names([w.decode() if isinstance(w, bytes) else str(w) for w in words])


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


def _read_numpy(file: Path, channel: int | str) -> Table:
    if file.suffix.lower() == ".npy":
        arrays = {"data": read_array(file)}
    else:
        with open_archive(file) as archive:
            arrays = {k: archive[k] for k in ("data", "mean", "std") if k in archive}
    if "data" not in arrays:
        raise ValueError(f"{file}: expected an array 'data', found none")
    data = arrays["data"]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 or channel not in range(data.shape[2]):
        raise ValueError(
            f"{file}: expected data of shape (time, sensors, channels) with channel "
            f"{channel}, found {data.shape}"
        )
    values = data[..., int(channel)].astype(np.float64)
    if channel == 0 and {"mean", "std"} <= arrays.keys():
        values = values * float(arrays["std"]) + float(arrays["mean"])
    return Table(values, None, None)


def _order(table: Table, sensors: str | Path | None) -> Table:
    """Bring the columns into the order of a list of sensors."""
    if sensors is None:
        return table
    words = _existing(sensors).read_text(encoding="utf-8").replace(",", " ").split()
    wanted = names(words)
    if table.sensors is None:
        if len(wanted) != table.values.shape[1]:
            raise ValueError(
                f"sensors: expected {table.values.shape[1]} ids, found {len(wanted)}"
            )
        return table._replace(sensors=wanted)
    columns = check_order(wanted, table.sensors, "sensors", "the readings")
    return table._replace(values=table.values[:, columns], sensors=wanted)


def _read_places(
    places: str | Path | None, sensors: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if places is None:
        return None, None
    file = _existing(places)
    lines = read_cells(file)
    header = [word.lower() for word in lines[0]] if lines else []

    def column(*names: str) -> int:
        for name in names:
            if name in header:
                return header.index(name)
        raise ValueError(f"{file}: expected a column {names[0]!r}, found {header}")

    who, lat = column("sensor_id", "id"), column("latitude", "lat")
    lon = column("longitude", "lng", "lon")
    rows = [row for row in lines[1:] if len(row) == len(header)]
    listed = names([row[who] for row in rows])
    order = np.arange(len(rows))
    if sensors is not None:
        order = np.array(check_order(sensors, listed, "places", str(file)), dtype=int)
    found = numbers([[row[lat], row[lon]] for row in rows], file)[order]
    return found[:, 0], found[:, 1]
