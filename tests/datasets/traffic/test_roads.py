"""Graphs of sensors: what a matrix holds, tables of roads, units."""

import numpy as np
import pytest

from manifoldkit.datasets import load_traffic
from manifoldkit.datasets.traffic import distance_weights
from manifoldkit.datasets.traffic.roads import read_graph

PLACES = np.array([0, 1200.0, 2600, 5000, 9000])
METERS = np.abs(PLACES[:, None] - PLACES)


def weights(graph, sensors=None, **options):
    n = len(METERS) if sensors is None else len(sensors)
    return read_graph(graph, sensors, n, **options)[0]


def text(tmp_path, lines):
    file = tmp_path / "w.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def matrix_lines(matrix):
    return [",".join(map(str, row)) for row in matrix.tolist()]


@pytest.mark.parametrize("form", ["array", "npy", "csv", "named", "frame"])
def test_distances_become_weights_and_weights_stay(tmp_path, form):
    names = [*"abcde"]
    for matrix in (METERS, np.exp(-((METERS / 3000) ** 2)), (METERS > 3000) * 1.0):
        graph = matrix
        if form == "npy":
            graph = tmp_path / "w.npy"
            np.save(graph, matrix)
        elif form != "array":
            lines = matrix_lines(matrix)
            if form != "csv":
                lines = [",".join(names), *lines]
            if form == "frame":
                heads = ["", *names]
                lines = [f"{h},{line}" for h, line in zip(heads, lines, strict=True)]
            graph = text(tmp_path, lines)
        found = weights(graph)
        if matrix is METERS:
            expected = np.exp(-((METERS / METERS.std()) ** 2))
            expected[expected < 0.1] = 0
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        else:
            np.testing.assert_allclose(found, matrix, rtol=1e-6)


def test_the_weights_of_stgcn():
    """w = exp(-(d / 10 km)^2 / 0.1) where it is at least 0.5."""
    found = weights(METERS, sigma=1e4 * np.sqrt(0.1), cutoff=0.5)
    expected = np.exp(-((METERS / 1e4) ** 2) / 0.1)
    np.testing.assert_allclose(found, np.where(expected >= 0.5, expected, 0), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1, 1609.344, 1e9, 1e150])
def test_the_unit_of_distances_changes_nothing(scale):
    expected = weights(METERS)
    found = weights(METERS * scale, kind="distances")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    edges = [(0, 1, 3.0), (1, 2, 4.0), (2, 0, 9.0), (1, 1, 0.0)]
    scaled = [(i, j, d * scale) for i, j, d in edges]
    np.testing.assert_allclose(
        distance_weights(scaled, np.arange(3), None, 0.1),
        distance_weights(edges, np.arange(3), None, 0.1),
    )


def test_what_may_be_both_is_asked():
    with pytest.raises(ValueError, match="graph_kind='weights' or 'distances'"):
        weights(METERS / 1e4)
    assert weights(METERS / 1e4, kind="weights")[0, 4] == pytest.approx(0.9)
    ones = 1 - np.eye(5)
    assert (weights(ones) == ones).all()
    lanes = np.zeros((5, 5))
    lanes[[0, 1, 2], [1, 2, 3]] = 3
    assert (weights(lanes) == lanes).all()
    rng = np.random.default_rng(0)
    trips = rng.pareto(1.0, (5, 5)) * 100 * (1 - np.eye(5))  # no distances
    np.testing.assert_allclose(weights(trips), trips, rtol=1e-6)


def test_no_road_is_no_weight():
    d = METERS.copy()
    d[0, 4], d[4, 0] = np.inf, np.nan
    found = weights(d)
    assert found[0, 4] == found[4, 0] == 0
    assert (found.diagonal() == 1).all()
    with pytest.raises(ValueError, match="no negative distance"):
        weights(-METERS, kind="distances")


HEADS = {
    "from,to,cost": lambda i, j, d: f"{i},{j},{d}",
    "cost,to,from": lambda i, j, d: f"{d},{j},{i}",
    "rel_id,type,origin_id,destination_id,cost": lambda i, j, d: f"0,geo,{i},{j},{d}",
    "a,b,c": lambda i, j, d: f"{i},{j},{d}",
    "": lambda i, j, d: f"{i},{j},{d}",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("ids", [[7, 8, 9, 11, 12], [*"ABCDE"], ["7.0", *"BCDE"]])
def test_tables_of_roads_with_any_ids(tmp_path, head, ids):
    roads = [(0, 1, 300.0), (1, 2, 500.0), (3, 4, 100.0), (0, 4, 900.0)]
    lines = [HEADS[head](ids[i], ids[j], d) for i, j, d in roads]
    unknown = HEADS[head]("else", ids[0], 5.0)
    file = text(tmp_path, ([head] if head else []) + lines + [unknown])
    found = weights(file, np.array([str(i) for i in ids]))
    d = np.array([r[2] for r in roads])
    kernel = np.exp(-((d / d.std()) ** 2))
    expected = np.eye(5)
    for (i, j, _), w in zip(roads, kernel, strict=True):
        expected[i, j] = w if w >= 0.1 else 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_three_roads_of_three_sensors_are_no_matrix(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.ones((30, 3, 1)))
    file = text(tmp_path, ["0,1,300", "1,2,500", "2,0,100"])
    found = load_traffic(tmp_path / "a.npz", file, sigma=300.0).adjacency
    assert found[0, 1] == pytest.approx(np.exp(-1))
    file = text(tmp_path, ["0,1,1", "1,0,1", "1,1,0"])
    found = load_traffic(tmp_path / "a.npz", file).adjacency
    assert found.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_roads_that_are_weights(tmp_path):
    file = text(tmp_path, ["from,to,weight", "0,1,0.5", "3,2,2.0"])
    found = weights(file)
    assert found[0, 1] == 0.5
    assert found[3, 2] == 2
    assert found.sum() == 2.5
    assert weights(text(tmp_path, ["from,to", "0,1"])).sum() == 1


def test_a_graph_without_a_road_is_told(tmp_path):
    file = text(tmp_path, ["from,to,cost", "773869,767541,300"])
    with pytest.raises(ValueError, match=r"no road connects two.*sensors="):
        weights(file)
    close = [(0, 1, 300.0), (1, 2, 310.0)]
    with pytest.warns(UserWarning, match=r"width is the largest one.*sigma="):
        found = distance_weights(close, np.arange(3), None, 0.1)
    assert found[0, 1] > 0.3
    alike = [(0, 1, 0.1 + 0.2), (1, 2, 0.3)]
    found = distance_weights(alike, np.arange(3), None, 0.1)
    assert found[0, 1] == pytest.approx(np.exp(-1))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            distance_weights([(0, 1, bad)], np.arange(2), None, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "miles"}, "graph_kind"),
        ({"sigma": 0}, "sigma"),
        ({"cutoff": -1}, "cutoff"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        weights(METERS, **options)
