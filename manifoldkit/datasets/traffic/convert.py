"""METR-LA week from its publishers' files."""

from pathlib import Path

import numpy as np

from manifoldkit.datasets.traffic.roads import distance_weights

_EDGES = 1722  # weights of the graph, the diagonal included

_TGCN = (
    "https://raw.githubusercontent.com/lehaifeng/T-GCN/"
    "219a2346f5bf68d54d91a948e7a41a08f9edc46b/data/"
)
_DCRNN = (
    "https://raw.githubusercontent.com/liyaguang/DCRNN/"
    "602afd9d767d3aa1c9b3eac51710d6aeee12c227/data/sensor_graph/"
)
_FILES: dict[str, tuple[str, str | None]] = {
    "los_speed.csv": (
        _TGCN,
        "7b732d86ae32b2930595becba28aff39dacbfb2197e250fc0332e1744ce2cbf4",
    ),
    # no checksum known: the graph that comes out is checked instead
    "distances_la_2012.csv": (_DCRNN, None),
    "graph_sensor_locations.csv": (
        _DCRNN,
        "eb8ea96e07358b45d0e4ba3b89c2673fa20c54af50150249e627389e749ade6f",
    ),
}


def metr_la_week() -> dict[str, np.ndarray]:
    """Download the three files and return the archive's arrays."""
    import pooch

    files = {
        name: Path(
            pooch.retrieve(
                address + name, f"sha256:{digest}" if digest else None, fname=name
            )
        )
        for name, (address, digest) in _FILES.items()
    }
    arrays = convert_metr_la_week(**{k.split(".")[0]: v for k, v in files.items()})
    edges = int((arrays["adjacency"] > 0).sum())
    if edges != _EDGES:
        raise ValueError(f"METR-LA: expected {_EDGES} weights, found {edges}")
    return arrays


def convert_metr_la_week(
    los_speed: Path, distances_la_2012: Path, graph_sensor_locations: Path
) -> dict[str, np.ndarray]:
    """Return the arrays of the archive from the publishers' files.

    Parameters
    ----------
    los_speed : Path
        One column a sensor, sensor ids in the first line.
    distances_la_2012 : Path
        Columns from, to, cost: road distances in meters.
    graph_sensor_locations : Path
        Columns index, sensor_id, latitude, longitude.

    Returns
    -------
    dict of str to ndarray
        Readings, weights of roads, places and ids of sensors, and the clock.

    Raises
    ------
    ValueError
        Another number of readings than of sensors, or a sensor without a place.
    """
    with open(los_speed, encoding="utf-8") as stream:
        sensor_id = np.array(stream.readline().strip().split(","), dtype=np.int64)
        values = np.loadtxt(stream, delimiter=",", dtype=np.float32, ndmin=2)
    edges = np.loadtxt(distances_la_2012, delimiter=",", skiprows=1, ndmin=2)
    adjacency = distance_weights(edges, sensor_id, None, 0.1).astype(np.float32)
    places = np.loadtxt(graph_sensor_locations, delimiter=",", skiprows=1, ndmin=2)
    n = len(sensor_id)
    if values.shape[1] != n:
        raise ValueError(f"METR-LA: {n} sensor ids, readings {values.shape}")
    row = {int(name): k for k, name in enumerate(places[:, 1])}
    if missing := set(sensor_id.tolist()) - row.keys():
        raise ValueError(f"METR-LA: no place of the sensors {sorted(missing)[:5]}")
    order = [row[int(name)] for name in sensor_id]
    return {
        "values": values[..., None],
        "adjacency": adjacency,
        "lat": places[order, 2],
        "lon": places[order, 3],
        "sensor_id": sensor_id,
        "start": np.array("2012-03-01T00:00", "datetime64[m]"),
        "step_minutes": np.array(5),
    }
