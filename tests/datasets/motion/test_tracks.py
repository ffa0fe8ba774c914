"""Own tables of tracks: separators, names, orders, frame steps, gaps, errors."""

import numpy as np
import pytest

from manifoldkit.datasets import load_tracks
from manifoldkit.exceptions import DatasetNotFoundError


def table(step=1, begin=0, steps=12, agents=(1, 2)):
    return [
        (begin + step * t, k, t + 0.5 * k, -float(k))
        for t in range(steps)
        for k in agents
    ]


def write(tmp_path, rows, mark=" ", head=None, name="a.txt", ending="\n"):
    lines = [mark.join(map(str, row)) for row in rows]
    (tmp_path / name).write_text(ending.join(([head] if head else []) + lines))
    return tmp_path / name


@pytest.mark.parametrize(
    ("mark", "head"),
    [
        (" ", None),
        ("\t", None),
        (",", None),
        (", ", None),
        (";", None),
        ("  ", "# frame ped x y"),
        (",", "frame_id,track_id,x,y"),
        ("\t", "Frame\tPedestrian\tX\tY"),
        (" ", "frame ped pos_x pos_y"),
        (",", "\ufeffframe,agent,x,y"),
    ],
)
@pytest.mark.parametrize("step", [1, 6, 10])
def test_every_way_to_write_a_table_gives_the_same(tmp_path, mark, head, step):
    rows = table(step, begin=780)
    plain = load_tracks(write(tmp_path, table(), name="b.txt"), 4, 3)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    found = load_tracks(write(tmp_path, shuffled, mark, head), 4, 3)
    assert found.past.shape == (6, 2, 4, 2)
    np.testing.assert_array_equal(found.past, plain.past)
    np.testing.assert_array_equal(found.future, plain.future)
    assert found.frame.tolist() == [780 + step * t for t in range(6)]


def test_columns_by_name_and_place_and_in_space(tmp_path):
    rows = [(k, z, t, x, y) for t, k, x, y in table() for z in (7.0,)]
    head = "who,height,when,east,north"
    names = {"agent": "who", "z": "height", "frame": "when", "x": "east", "y": "north"}
    places = {"agent": 0, "z": 1, "frame": 2, "x": 3, "y": 4}
    file = write(tmp_path, rows, ",", head)
    a = load_tracks(file, 4, 3, columns=names)
    b = load_tracks(write(tmp_path, rows, name="c.txt"), 4, 3, columns=places)
    assert a.past.shape == (6, 2, 4, 3)
    assert (a.past[..., 2] == 7).all()
    np.testing.assert_array_equal(a.past, b.past)
    with pytest.raises(ValueError, match="no column for frame"):
        load_tracks(file, 4, 3)
    with pytest.raises(ValueError, match="columns: expected some of"):
        load_tracks(file, 4, 3, columns={"who": 0})


def test_gaps_are_not_bridged_and_phases_do_not_mix(tmp_path):
    rows = [row for row in table(10) if row[0] != 50]
    found = load_tracks(write(tmp_path, rows), 3, 2)
    assert found.frame.tolist() == [0, 60, 70]
    late = [(t + 5, 3, 0.0, 0.0) for t in range(0, 120, 10)]
    both = load_tracks(write(tmp_path, table(10) + late), 4, 3)
    assert both.mask.sum(1).tolist() == [2, 1] * 6
    assert load_tracks(write(tmp_path, table(10)), 4, 3, frame_step=20).mask.sum() == 0
    far = table(10) + table(10, begin=10**12)
    assert len(load_tracks(write(tmp_path, far), 4, 3).past) == 12


def test_neighbors_and_several_files(tmp_path):
    files = [write(tmp_path, table(s), name=f"{s}.txt") for s in (1, 10)]
    found = load_tracks(files, 4, 3)
    assert found.scene.tolist() == ["1"] * 6 + ["10"] * 6
    near = load_tracks(files[0], 4, 3, n_agents=2, radius=0.1)
    assert near.mask.sum(1).tolist() == [1] * 12


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (table(6) + table(10, begin=500, agents=(7,)), "steps of 6 .* and of 10"),
        ([*table(), (3, 1, 99.0, 0.0)], "agent 1 is at two places in frame 3"),
        ([*table(), (3.5, 1, 9.0, 0.0)], "whole numbers"),
        ([*table(), (3, 1, "nan", 0.0)], "finite"),
        ([*table(), (3, 1, "left", 0.0)], "in row 25"),
        ([row[:3] for row in table()], "found 3 columns"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, rows, match):
    with pytest.raises(ValueError, match=match):
        load_tracks(write(tmp_path, rows), 4, 3)


def test_files_without_rows_or_missing(tmp_path):
    assert load_tracks(write(tmp_path, []), 4, 3).past.shape == (0, 0, 4, 2)
    with pytest.raises(DatasetNotFoundError, match="none"):
        load_tracks(tmp_path / "none.txt", 4, 3)
    twice = table() + table()
    assert len(load_tracks(write(tmp_path, twice), 4, 3).past) == 6
