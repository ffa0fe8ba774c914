"""The pickled graph of the traffic repositories: read as data, never run."""

import collections
import datetime
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from manifoldkit.datasets import load_traffic
from manifoldkit.datasets.traffic.pickles import read_sensor_graph

WEIGHTS = np.arange(9, dtype=np.float32).reshape(3, 3)
IDS = ["773869", "767541", "767542"]
CONTENT = [IDS, {s: k for k, s in enumerate(IDS)}, WEIGHTS]

# [["a", "b"], {"a": 0, "b": 1}, eye] as Python 2 and NumPy 1 write it, protocol 2
PYTHON2 = (
    b"\x80\x02]q\x01(]q\x02(U\x01aq\x03U\x01bq\x04e}q\x05(h\x03K\x00h\x04K\x01u"
    b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08"
    b"U\x01bq\x09\x87q\x0aRq\x0b(K\x01K\x02K\x02\x86q\x0ccnumpy\ndtype\nq\x0d"
    b"U\x02f4q\x0eK\x00K\x01\x87q\x0fRq\x10(K\x03U\x01<q\x11NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x12b\x89"
    b"U\x10\x00\x00\x80?\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?q\x13tq\x14be."
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("change", ["", "fortran", "double", "big", "array", "alone"])
def test_round_trip(tmp_path, protocol, change):
    weights = {
        "fortran": np.asfortranarray(WEIGHTS),
        "double": WEIGHTS.astype(float),
        "big": WEIGHTS.astype(">f4"),
    }.get(change, WEIGHTS)
    content = [IDS, CONTENT[1], weights]
    if change == "array":
        content[0] = np.array(IDS)
    file = tmp_path / "adj_mx.pkl"
    alone = change == "alone"
    file.write_bytes(pickle.dumps(weights if alone else content, protocol))
    graph = read_sensor_graph(file)
    assert graph.sensors == ([] if alone else IDS)
    np.testing.assert_array_equal(graph.weights, WEIGHTS)


def test_pickles_of_python_2(tmp_path):
    file = tmp_path / "adj_mx.pkl"
    file.write_bytes(PYTHON2)
    graph = read_sensor_graph(file)
    assert graph.sensors == ["a", "b"]
    assert graph.weights.tolist() == [[1, 0], [0, 1]]


class Payload:
    """A pickle of it calls a function with arguments."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(mark):
    touch = f"open({str(mark)!r}, 'w').close()"
    yield Payload(exec, touch)
    yield Payload(eval, touch)
    yield Payload(os.system, f"touch {mark}")
    yield Payload(subprocess.check_call, ["touch", str(mark)])
    yield Payload(Path.touch, mark)
    yield Payload(np.save, str(mark), 1)
    yield Payload(collections.OrderedDict)
    yield datetime.datetime(2024, 1, 1)
    yield np.array([Payload(exec, touch)], dtype=object)


@pytest.mark.parametrize("k", range(9))
@pytest.mark.parametrize("place", range(4))
def test_payloads_are_refused_and_not_run(tmp_path, k, place):
    mark = tmp_path / "mark"
    content = [[*IDS], dict(CONTENT[1]), WEIGHTS, None][: 3 + (place == 3)]
    content[place] = list(payloads(mark))[k]
    file = tmp_path / "adj_mx.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"only .* is read of a pickle"):
        read_sensor_graph(file)
    assert not mark.exists()
    assert not mark.with_suffix(".npy").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        pickle.dumps(CONTENT)[:-20],
        b"cbuiltins\nopen\n.",
        b"(S'x'\nibuiltins\nprint\n.",  # the opcode for an instance
        b"\x80\x02cnumpy.core.multiarray\nscalar\n}S'a'\nK\x01sb.",  # changes it
        b"\x80\x02Ppersistent\n.",
        b"\x80\x02cnumpy\ndtype\n(S'O8'\ntR.",
        b"\x80\x02c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
    ],
)
def test_broken_and_strange_pickles(tmp_path, raw):
    file = tmp_path / "adj_mx.pkl"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="is read of a pickle"):
        read_sensor_graph(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "expected .sensor ids, places, matrix., found dict"),
        (CONTENT[:2], "found a list of 2"),
        ([IDS[:2], {}, WEIGHTS], "2 x 2 weights"),
        ([IDS, {IDS[0]: 1}, WEIGHTS], "is row 0 of the list and row 1"),
        ([[1.5, 2, 3], {}, WEIGHTS], "ids of text or integers"),
        ([IDS, {}, np.array([["a"] * 3] * 3)], "expected 3 x 3 weights"),
    ],
)
def test_other_content(tmp_path, content, message):
    (tmp_path / "adj_mx.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_sensor_graph(tmp_path / "adj_mx.pkl")


def test_rows_come_in_the_order_of_the_readings(tmp_path):
    (tmp_path / "adj_mx.pkl").write_bytes(pickle.dumps(CONTENT))
    np.savez(tmp_path / "a.npz", data=np.ones((30, 3, 1)))
    data = load_traffic(tmp_path / "a.npz", tmp_path / "adj_mx.pkl")
    assert data.sensor_id.tolist() == [int(s) for s in IDS]
    np.testing.assert_array_equal(data.adjacency, WEIGHTS)
    (tmp_path / "a.csv").write_text(f"{IDS[2]},{IDS[0]}\n1.5,2.5\n")
    data = load_traffic(tmp_path / "a.csv", tmp_path / "adj_mx.pkl")
    np.testing.assert_array_equal(data.adjacency, WEIGHTS[np.ix_([2, 0], [2, 0])])
    again = load_traffic(tmp_path / "a.csv", CONTENT)
    np.testing.assert_array_equal(again.adjacency, data.adjacency)
    (tmp_path / "a.csv").write_text("5,6\n1.5,2.5\n")
    with pytest.raises(ValueError, match="graph: 5 is not in"):
        load_traffic(tmp_path / "a.csv", CONTENT)
