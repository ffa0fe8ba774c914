"""The Object File Format with all its prefixes, as text and binary."""

import itertools
import struct

import numpy as np
import pytest

from manifoldkit.datasets import read_cloud, read_off

SQUARE = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
EXTRA = {"4": (2,), "N": (0, 0, 1), "C": (255, 0, 0, 255), "ST": (0.5, 0.25)}
PREFIXES = [
    "".join(p)
    for n in range(5)
    for p in itertools.combinations(("ST", "C", "N", "4"), n)
]


def rows(prefix):
    """Vertices in Geomview's order: coordinates, normal, color, texture."""
    scale = 2 if "4" in prefix else 1
    return [
        [scale * v for v in point]
        + [v for key, values in EXTRA.items() if key in prefix for v in values]
        for point in SQUARE
    ]


def text(prefix, head="\n", counts="4 1 0\n"):
    lines = [" ".join(map(str, row)) for row in rows(prefix)]
    return f"{prefix}OFF{head}{counts}" + "\n".join(lines) + "\n4 0 1 2 3 1 0 0\n"


def binary(prefix, ndim=None):
    data = f"{prefix}OFF BINARY\n".encode()
    data += b"" if ndim is None else struct.pack(">i", ndim)
    data += struct.pack(">3i", 4, 2, 0)
    data += np.array(rows(prefix), ">f4").tobytes()
    data += struct.pack(">6i4f", 4, 0, 1, 2, 3, 4, 1, 0, 0, 1)  # a face with a color
    return data + struct.pack(">5i", 3, 0, 1, 2, 0)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["text", "binary"])
def test_every_prefix(tmp_path, prefix, form):
    file = tmp_path / "a.off"
    wanted = [[0, 1, 2], [0, 2, 3]]
    if form == "text":
        file.write_text(text(prefix))
    else:
        file.write_bytes(binary(prefix))
        wanted = [*wanted, [0, 1, 2]]
    mesh = read_off(file)
    np.testing.assert_array_equal(mesh.vertices, SQUARE)
    assert mesh.faces.tolist() == wanted
    found = read_cloud(file)
    assert (found.normals is not None) == ("N" in prefix)
    assert (found.colors is not None) == ("C" in prefix)
    assert set(found.columns) == ({"s", "t"} if "ST" in prefix else set())
    for name, value in (("normals", "N"), ("colors", "C")):
        if value in prefix:
            assert getattr(found, name).tolist() == [list(EXTRA[value])] * 4
    if "ST" in prefix:
        assert found.columns["t"].tolist() == [0.25] * 4
    assert len(found.faces) == len(wanted)


@pytest.mark.parametrize(
    "data",
    [
        text("", head=" ", counts="4 1 0\n"),
        text("", head="", counts="4 1 0\n"),
        text("", head=" # comment\n\n# another\n", counts="4 1  # no edges\n"),
        text("", head="\n", counts="4\n1\n0\n"),
        text("", head="\r\n", counts="4 1 0\r\n").replace("\n", "\r\n"),
        "\ufeff" + text(""),
        "# made by hand\n\n" + text(""),
        text("").replace("OFF", "off"),
        text("C").replace("COFF", "coff"),
        text("N").replace("NOFF", "noff"),
        text("").replace("OFF", "nOFF\n3"),
        text("").replace("OFF", "nOFF 3"),
        text("4").replace("4OFF", "4nOFF\n3"),
        text("").replace("0 0 0\n", "0 0 0 9 9 9\n"),  # colors that are not announced
        text("C").replace(" 255\n", "\n"),  # three numbers a color
    ],
)
def test_text_as_programs_write_it(tmp_path, data):
    file = tmp_path / "a.off"
    file.write_bytes(data.encode("utf-8"))
    mesh = read_off(file)
    np.testing.assert_array_equal(mesh.vertices, SQUARE)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_binary_of_three_dimensions(tmp_path):
    (tmp_path / "a.off").write_bytes(binary("n", ndim=3))
    np.testing.assert_array_equal(read_off(tmp_path / "a.off").vertices, SQUARE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"OFF BINARY\n\0\0\0\3", "the binary file ends early"),
        (binary("N")[:-3], "the binary file ends early"),
        (binary("")[:60], "the binary file ends early, or is not big endian"),
        (b"OFF BINARY\n" + struct.pack("<3i", 4, 1, 0), "not big endian"),
        (binary("").replace(b"\0\0\0\3\0", b"\0\0\0\x7f\0"), "expected corners|early"),
        (text("").replace("OFF", "nOFF\n5").encode(), "nOFF of dimension 5"),
        (binary("n", ndim=4), "nOFF of dimension 4"),
        (text("4").replace(" 2\n", " 0\n").encode(), "lies at infinity"),
        (text("N").replace("0 0 0 0 0 1", "0 0 0").encode(), "or more numbers a vert"),
        (text("C").replace(" 255 0 0 255", "").encode(), "expected 6 or more numbers"),
        (b"OFF\n", "expected counts"),
        (b"OFF\n-1 0 0\n", "expected -1 vertices"),
        (b"OOF\n3 0 0\n", "begins with OFF"),
        (b"ply\n", "begins with OFF"),
    ],
)
def test_what_is_refused(tmp_path, data, message):
    (tmp_path / "a.off").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_off(tmp_path / "a.off")
    assert "a.off" in str(caught.value)
