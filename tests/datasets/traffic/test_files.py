"""Standard files of traffic research, in small fabricated copies."""

import numpy as np
import pytest

from manifoldkit.datasets import load_traffic
from manifoldkit.exceptions import DatasetNotFoundError

DAY = np.datetime64("2012-03-01T00:00", "ns")
VALUES = np.arange(12.0).reshape(4, 3)


def write_h5(file, values=VALUES, ids=("773869", "767541", "767542"), key="df", **kw):
    """A table as pandas writes it in its fixed format."""
    h5py = pytest.importorskip("h5py")
    index = kw.get("index")
    if index is None:
        index = (DAY + 5 * np.arange(len(values)) * np.timedelta64(1, "m")).astype(int)
    with h5py.File(file, "w") as store:
        group = store.create_group(key)
        group["axis0"] = np.array([i.encode() for i in ids])
        group["axis1"] = index
        group["axis1"].attrs["kind"] = kw.get("kind", b"datetime64")
        order = kw.get("order", range(len(ids)))
        group["block0_items"] = np.array([ids[k].encode() for k in order])
        group["block0_values"] = values[:, list(order)]
        if kw.get("second"):
            group["block1_values"] = values
    return file


@pytest.mark.parametrize("key", ["df", "speed", "t"])
def test_tables_of_pandas(tmp_path, key):
    file = write_h5(tmp_path / "metr-la.h5", key=key, order=(2, 0, 1))
    data = load_traffic(file)
    assert data.values.tolist() == VALUES.tolist()
    assert data.sensor_id.tolist() == [773869, 767541, 767542]
    assert data.start == np.datetime64("2012-03-01T00:00")
    assert data.name == "metr-la"
    assert (data.adjacency == 0).all()


def test_newer_pandas_counts_in_microseconds(tmp_path):
    index = np.array([0, 300_000_000, 900_000_000]) + 1_330_560_000_000_000
    file = write_h5(
        tmp_path / "a.h5", VALUES[:3], index=index, kind="datetime64[us]", ids="123"
    )
    data = load_traffic(file)
    assert data.start == np.datetime64("2012-03-01T00:00")
    assert np.isnan(data.values[2]).all()  # the row that is missing at 00:10
    assert data.values[3].tolist() == VALUES[2].tolist()


def test_broken_tables(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as store:
        store["x"] = 1
        store.create_group("y")
    with pytest.raises(ValueError, match="one table of pandas"):
        load_traffic(tmp_path / "a.h5")
    file = write_h5(tmp_path / "b.h5", second=True)
    with pytest.raises(ValueError, match="columns of one type"):
        load_traffic(file)


def test_pems_archives_with_distances(tmp_path):
    values = np.arange(2 * 4 * 3 * 2.0).reshape(8, 3, 2)
    np.savez(tmp_path / "PEMS04.npz", data=values)
    (tmp_path / "PEMS04.csv").write_text("from,to,cost\n0,1,300\n1,2,500\n2,0,100\n")
    data = load_traffic(
        tmp_path / "PEMS04.npz", tmp_path / "PEMS04.csv", channel=1, sigma=300
    )
    assert data.values.tolist() == values[..., 1].tolist()
    assert data.adjacency[0, 1] == pytest.approx(np.exp(-1))
    assert data.adjacency[1, 0] == 0
    assert data.adjacency.diagonal().tolist() == [1, 1, 1]
    assert data.start == np.datetime64("2018-01-01T00:00")
    with pytest.raises(ValueError, match="channel 2"):
        load_traffic(tmp_path / "PEMS04.npz", channel=2)


def test_pems03_names_its_sensors(tmp_path):
    np.savez(tmp_path / "PEMS03.npz", data=VALUES[..., None])
    (tmp_path / "PEMS03.txt").write_text("313344\n313349\n313350\n")
    (tmp_path / "PEMS03.csv").write_text("from,to,distance\n313344,313350,0.5\n")
    data = load_traffic(
        tmp_path / "PEMS03.npz",
        tmp_path / "PEMS03.csv",
        sensors=tmp_path / "PEMS03.txt",
    )
    assert data.adjacency[0, 2] == pytest.approx(np.exp(-1))
    (tmp_path / "short.txt").write_text("1,2")
    with pytest.raises(ValueError, match="expected 3 ids, found 2"):
        load_traffic(tmp_path / "PEMS03.npz", sensors=tmp_path / "short.txt")


def test_largest_files(tmp_path):
    raw = np.random.default_rng(0).uniform(0, 400, (6, 2))
    scaled = (raw - 130.0) / 70.0
    clock = np.zeros((6, 2, 2))
    np.savez(
        tmp_path / "his.npz",
        data=np.concatenate([scaled[..., None], clock], -1),
        mean=130.0,
        std=70.0,
    )
    np.save(tmp_path / "sd_rn_adj.npy", np.array([[1, 0.5], [0, 1]]))
    (tmp_path / "sd_meta.csv").write_text(
        "ID,Lat,Lng,District\n1100103,32.5,-117.1,11\n1100105,32.6,-117.0,11\n"
    )
    data = load_traffic(
        tmp_path / "his.npz",
        tmp_path / "sd_rn_adj.npy",
        places=tmp_path / "sd_meta.csv",
        start="2019-01-01",
        step_minutes=15,
        split=(0.6, 0.2, 0.2),
    )
    np.testing.assert_allclose(data.values, raw, rtol=1e-5)
    assert data.adjacency[0, 1] == 0.5
    assert data.lat.tolist() == [32.5, 32.6]
    assert data.start == np.datetime64("2019-01-01T00:00")


def test_text_tables(tmp_path):
    (tmp_path / "a.csv").write_text("s1,s2\n1,2\n3,\n0,6\n")
    data = load_traffic(tmp_path / "a.csv", np.eye(2), null_value=0)
    assert np.isnan(data.values).tolist() == [
        [False, False],
        [False, True],
        [True, False],
    ]
    assert data.sensor_id.tolist() == ["s1", "s2"]
    (tmp_path / "b.csv").write_text(
        "time,7,8\n2020-01-01 00:00:00,1,2\n2020-01-01 00:10:00,3,4\n"
    )
    data = load_traffic(tmp_path / "b.csv")
    assert data.values.shape == (3, 2)
    assert data.start == np.datetime64("2020-01-01")
    (tmp_path / "ids.txt").write_text("8")
    assert load_traffic(
        tmp_path / "b.csv", sensors=tmp_path / "ids.txt"
    ).values.tolist()[0] == [2]
    (tmp_path / "ids.txt").write_text("9")
    with pytest.raises(ValueError, match="9 is not in the readings"):
        load_traffic(tmp_path / "b.csv", sensors=tmp_path / "ids.txt")


def test_a_matrix_of_weights_as_text(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n1,2\n")
    (tmp_path / "w.csv").write_text("1,0.5\n0,1\n")
    assert load_traffic(tmp_path / "a.csv", tmp_path / "w.csv").adjacency.tolist() == [
        [1, 0.5],
        [0, 1],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n", "rows of as many columns"),
        ("1,2\n3\n", "rows of as many columns"),
        ("1,2\nx,3\n", "numbers or time stamps"),
        ("1,2\n2024-01-01T00:00Z,3\n", "without a zone"),
        ("1,2\n3,x\n", "could not convert"),
    ],
)
def test_broken_text(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_traffic(tmp_path / "a.csv")


def test_other_broken_files(tmp_path):
    good = tmp_path / "a.csv"
    good.write_text("1,2\n1,2\n")
    with pytest.raises(DatasetNotFoundError):
        load_traffic(tmp_path / "none.csv")
    (tmp_path / "adj_mx.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match="pickles can run code"):
        load_traffic(good, tmp_path / "adj_mx.pkl")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(ValueError, match="readings: expected a file"):
        load_traffic(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="graph: expected"):
        load_traffic(good, tmp_path / "a.txt")
    with pytest.raises(ValueError, match="2 x 2 weights"):
        load_traffic(good, np.eye(3))
    (tmp_path / "w.csv").write_text("1,2,3,4\n")
    with pytest.raises(ValueError, match="from, to, distance"):
        load_traffic(good, tmp_path / "w.csv")
    (tmp_path / "a.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be read"):
        load_traffic(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", other=np.ones(3))
    with pytest.raises(ValueError, match="array 'data'"):
        load_traffic(tmp_path / "b.npz")
    (tmp_path / "p.csv").write_text("id,lat\n1,2\n")
    with pytest.raises(ValueError, match="column 'longitude'"):
        load_traffic(good, places=tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("id,lat,lon\n1,2,3\n")
    with pytest.raises(ValueError, match="places: 2 is not in"):
        load_traffic(good, places=tmp_path / "p.csv")
