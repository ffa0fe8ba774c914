"""Readings from text files as people have them."""

import warnings

import numpy as np
import pytest

from manifoldkit.datasets import load_traffic

RNG = np.random.default_rng(0)
SPEED = np.round(60 + RNG.standard_normal((20, 3)), 1)
STAMPS = np.datetime64("2020-01-01T00:00:00") + 300 * np.arange(20).astype("m8[s]")
ROWS = [",".join(f"{v:.1f}" for v in row) for row in SPEED]
TIMED = [f"{t},{row}" for t, row in zip(STAMPS, ROWS, strict=True)]
NUMBERED = [f"{k},{row}" for k, row in enumerate(ROWS)]
IDS = [773869, 767541, 767542]
LONG = [
    (str(t), sensor, f"{SPEED[k, i]:.1f}")
    for k, t in enumerate(STAMPS)
    for i, sensor in enumerate(IDS)
]


def load(tmp_path, lines, name="a.csv", **options):
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return load_traffic(tmp_path / name, **options)


WIDE = {
    "no header": (ROWS, None),
    "ids": (["773869,767541,767542", *ROWS], IDS),
    "small ids": (["7,8,11", *ROWS], [7, 8, 11]),
    "names": (["a,b,c", *ROWS], ["a", "b", "c"]),
    "a comment": (["# a,b,c", *ROWS], ["a", "b", "c"]),
    "quotes": (['"a, west",b,c', *ROWS], ["a, west", "b", "c"]),
    "row numbers": ([",a,b,c", *NUMBERED], ["a", "b", "c"]),
    "row numbers and ids": ([",773869,767541,767542", *NUMBERED], IDS),
    "row numbers of R": (["a,b,c", *NUMBERED], ["a", "b", "c"]),
    "a named index": (["index,a,b,c", *NUMBERED], ["a", "b", "c"]),
    "times": (["time,a,b,c", *TIMED], ["a", "b", "c"]),
    "times without a name": ([",a,b,c", *TIMED], ["a", "b", "c"]),
    "times, no header": (TIMED, None),
    "times last": (
        ["a,b,c,Date", *(f"{r},{t}" for r, t in zip(ROWS, STAMPS, strict=True))],
        ["a", "b", "c"],
    ),
    "row numbers and times": (
        [",time,a,b,c", *(f"{k},{row}" for k, row in enumerate(TIMED))],
        ["a", "b", "c"],
    ),
    "date and time": (
        ["date,time,a,b,c", *(row.replace("T", ",") for row in TIMED)],
        ["a", "b", "c"],
    ),
    "semicolons": (
        ["t;a;b;c", *(row.replace(",", ";").replace(".", ",") for row in TIMED)],
        ["a", "b", "c"],
    ),
    "tabs": (["a\tb\tc", *(row.replace(",", "\t") for row in ROWS)], ["a", "b", "c"]),
    "spaces": (["a b c", *(row.replace(",", " ") for row in ROWS)], ["a", "b", "c"]),
    "a mark of order": (["\ufeffa,b,c", *ROWS], ["a", "b", "c"]),
    "numbered steps": (["timestep,a,b,c", *NUMBERED], ["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", WIDE)
def test_one_column_a_sensor(tmp_path, kind):
    lines, ids = WIDE[kind]
    data = load(tmp_path, lines)
    np.testing.assert_allclose(data.values, SPEED, rtol=1e-6)
    assert (None if data.sensor_id is None else data.sensor_id.tolist()) == ids
    timed = "T" in lines[-1] or "date" in lines[0]
    assert data.start == np.datetime64("2020-01-01" if timed else "2018-01-01")


def columns(order, header):
    rows = [",".join(str(row[k]) for k in order) for row in LONG]
    return [header, *rows] if header else rows


LONGS = {
    "time, sensor, value": columns((0, 1, 2), "time,sensor,value"),
    "sensor, time, speed": columns((1, 0, 2), "station_id,Timestamp,avg_speed"),
    "value first": columns((2, 1, 0), "flow,detector,datetime"),
    "no header": columns((0, 1, 2), None),
    "unusual names": columns((2, 0, 1), "wie_schnell,wann,wo"),
    "row numbers": [
        ",time,sensor,value",
        *(f"{k},{row}" for k, row in enumerate(columns((0, 1, 2), None))),
    ],
    "a type": [
        "dyna_id,type,time,entity_id,traffic_speed",
        *(f"{k},state,{row}" for k, row in enumerate(columns((0, 1, 2), None))),
    ],
    "places": [
        "time,sensor,lat,lon,value",
        *(f"{t},{s},52.0,5.0,{v}" for t, s, v in LONG),
    ],
}


@pytest.mark.parametrize("kind", LONGS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_one_row_a_reading(tmp_path, kind, shuffle):
    lines = LONGS[kind]
    if shuffle:
        head = lines[: 0 if kind == "no header" else 1]
        body = lines[len(head) :]
        order = np.random.default_rng(1).permutation(len(body))
        if "," in lines[0] and lines[0].split(",")[0] in ("", "dyna_id"):
            head = [h.replace("dyna_id", "index") for h in head]
            order = np.sort(order)  # an index counts
        lines = head + [body[k] for k in order]
    data = load(tmp_path, lines)
    assert data.sensor_id.tolist() == sorted(IDS)
    order = np.argsort(IDS)
    np.testing.assert_allclose(data.values, SPEED[:, order], rtol=1e-6)
    assert data.start == np.datetime64("2020-01-01")


def test_gaps_of_single_sensors_are_missing_readings(tmp_path):
    lines = [row for k, row in enumerate(columns((0, 1, 2), None)) if k != 4]
    data = load(tmp_path, ["time,sensor,value", *lines])
    expected = SPEED.copy()
    expected[1, 1] = np.nan
    np.testing.assert_allclose(data.values, expected[:, np.argsort(IDS)], rtol=1e-6)
    (tmp_path / "ids.txt").write_text(" ".join(map(str, IDS)))
    data = load_traffic(tmp_path / "a.csv", sensors=tmp_path / "ids.txt")
    np.testing.assert_allclose(data.values, expected, rtol=1e-6)


def test_every_logger_may_be_off_in_its_own_way(tmp_path):
    jitter = np.random.default_rng(0).integers(-5, 6, len(LONG)).astype("m8[s]")
    lines = [
        f"{np.datetime64(t) + j},{s},{v}"
        for (t, s, v), j in zip(LONG, jitter, strict=True)
    ]
    data = load(tmp_path, ["time,sensor,value", *lines])
    np.testing.assert_allclose(data.values, SPEED[:, np.argsort(IDS)], rtol=1e-6)


def test_several_readings_a_row(tmp_path):
    lines = ["timestep,location,flow,occupy,speed"]
    lines += [f"{k + 1},{i},{k},{0.5},{60 + i}" for k in range(9) for i in range(2)]
    with pytest.warns(UserWarning, match=r"flow.*the first is read"):
        data = load(tmp_path, lines)
    assert data.values.tolist() == [[k, k] for k in range(9)]
    for channel in (2, "speed"):
        data = load(tmp_path, lines, channel=channel)
        assert data.values.tolist() == [[60, 61]] * 9
    with pytest.raises(ValueError, match="channel: expected one of"):
        load(tmp_path, lines, channel="count")
    with pytest.raises(ValueError, match="channel 3"):
        load(tmp_path, lines, channel=3)
    with pytest.raises(ValueError, match="have the same step"):
        load(tmp_path, [*lines, lines[-1]], channel=1)


def test_a_line_that_may_be_ids_or_readings_is_not_guessed(tmp_path):
    counts = np.random.default_rng(0).integers(10, 90, (9, 3))
    counts[0] = 30, 41, 52
    lines = [",".join(map(str, row)) for row in counts]
    with pytest.raises(ValueError, match="header=True or header=False"):
        load(tmp_path, lines)
    assert load(tmp_path, lines, header=False).values.tolist() == counts.tolist()
    data = load(tmp_path, lines, header=True)
    assert data.values.tolist() == counts[1:].tolist()
    assert data.sensor_id.tolist() == [30, 41, 52]
    counts[0] = 41  # no two sensors have one id
    lines[0] = "41,41,41"
    assert load(tmp_path, lines).values.tolist() == counts.tolist()
    assert load(tmp_path, ["0,1,2", *lines]).sensor_id.tolist() == [0, 1, 2]


def test_row_numbers_without_a_name_are_told(tmp_path):
    with pytest.warns(UserWarning, match="counts the rows"):
        data = load(tmp_path, NUMBERED)
    np.testing.assert_allclose(data.values, SPEED, rtol=1e-6)


def test_clocks_of_text_files(tmp_path):
    zoned = ["time,a", *(f"{t}Z,{k}" for k, t in enumerate(STAMPS))]
    with pytest.raises(ValueError, match=r"without a zone.*say the zone"):
        load(tmp_path, zoned)
    data = load(tmp_path, zoned, tz="America/Los_Angeles")
    assert data.start == np.datetime64("2019-12-31T16:00")
    epoch = [f"{t.astype(int)},{k}" for k, t in enumerate(STAMPS)]
    with pytest.raises(ValueError, match="count from 1970 in UTC"):
        load(tmp_path, ["timestamp,a", *epoch])
    again = load(tmp_path, ["timestamp,a", *epoch], tz="America/Los_Angeles")
    assert again.start == data.start
    assert np.array_equal(again.values, data.values)
    pems = [f"{t:%m/%d/%Y %H:%M:%S},{k}" for k, t in enumerate(STAMPS.tolist())]
    with pytest.raises(ValueError, match="day and month"):  # 01/01 is fine, 01/02 not
        load(tmp_path, ["Timestamp,400001", *pems, "01/02/2020 00:00:00,1"])
    assert load(tmp_path, ["Timestamp,400001", *pems]).start == STAMPS[0]


@pytest.mark.parametrize("word", ["", "NaN", "NA", "null", "None", "-"])
def test_words_for_missing(tmp_path, word):
    data = load(tmp_path, ["a,b", f"{word},1.5", "2.5,3.5"])
    assert np.isnan(data.values[0, 0])
    assert data.values[1].tolist() == [2.5, 3.5]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b", "1,2,3,4"], "rows of as many columns"),
        (["a,b"], "rows of as many columns"),
        (["time,a", "2020-01-01,1", "soon,2"], "expected a time stamp, found 'soon'"),
        (["time,sensor,value", "2020-01-01,a,x"], "channel 0"),
    ],
)
def test_broken_tables(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, lines)


def test_nothing_of_a_user_is_lost_in_silence(tmp_path):
    """Every reading of a file is in the table, or a warning or an error says so."""
    rng = np.random.default_rng(1)
    for seed in range(30):
        table = np.round(rng.uniform(1, 99, (6, 1 + seed % 4)), seed % 3)
        lines = [",".join(f"{v:g}" for v in row) for row in table]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                data = load(tmp_path, lines)
            except (ValueError, UserWarning):
                continue
        np.testing.assert_allclose(data.values, table, rtol=1e-6)
