"""The Object File Format, as Geomview describes it: text and binary, all prefixes."""

import itertools
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit.datasets.points.meshes import Mesh

_KEYWORD = re.compile(rb"((?:ST|C|N|4|n)*)OFF")
_BOM = b"\xef\xbb\xbf"


class OffFile(NamedTuple):
    """All that an OFF file holds.

    Attributes
    ----------
    vertices : ndarray of float64, shape (n, 3)
        Corners; homogeneous coordinates (``4OFF``) are divided out.
    normals : ndarray of float64, shape (n, 3), or None
        Of ``NOFF``.
    colors : ndarray of float64, shape (n, 3) or (n, 4), or None
        Of ``COFF``, as written: 0 to 1, or 0 to 255.
    rest : ndarray of float64, shape (n, k)
        Texture coordinates (``STOFF``), or columns that no prefix announces.
    faces : ndarray of int64, shape (m, 3)
        Triangles.
    kind : str
        The keyword, such as "COFF" or "OFF BINARY".
    """

    vertices: np.ndarray
    normals: np.ndarray | None
    colors: np.ndarray | None
    rest: np.ndarray
    faces: np.ndarray
    kind: str


class _Layout(NamedTuple):
    """What stands in the row of a vertex, in this order."""

    coordinates: int
    homogeneous: bool
    normals: bool
    colors: bool
    texture: bool

    @property
    def least(self) -> int:
        """Numbers before the colors."""
        return self.coordinates + 3 * self.normals


def read_off(path: str | Path) -> Mesh:
    r"""Read a mesh in the Object File Format.

    Text and binary files are understood (binary ones are big endian, as Geomview says),
    with colors (``COFF``), normals (``NOFF``), texture coordinates (``STOFF``),
    homogeneous coordinates (``4OFF``) and their combinations; headers glued to the
    counts ("OFF8 6 0", as in ModelNet), comments and blank lines. Polygons are split
    into triangles around their first corner. :func:`read_cloud` returns normals and
    colors too.

    Parameters
    ----------
    path : str or Path
        File.

    Returns
    -------
    Mesh

    Raises
    ------
    ValueError
        The file is not OFF, ends early, has points of another dimension than three, or
        a face names no vertex. The message names the file.

    References
    ----------
    .. [1] Geomview manual, "OFF files", http://www.geomview.org/docs/html/OFF.html.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "square.off"
    >>> text = "OFF4 1 0  # glued\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"
    >>> _ = file.write_text(text)
    >>> read_off(file).faces
    array([[0, 1, 2],
           [0, 2, 3]])
    """
    found = parse_off(path)
    return Mesh(found.vertices, found.faces)


def is_off(data: bytes) -> bool:
    """Whether bytes begin as a file of this format does."""
    return _keyword(data) is not None


def parse_off(path: str | Path) -> OffFile:
    """Read all of an OFF file; raise ``ValueError`` as :func:`read_off` does."""
    path = Path(path)
    data = path.read_bytes()
    match = _keyword(data)
    if match is None:
        raise ValueError(
            f"{path}: expected a file that begins with OFF, or with one of its "
            f"variants such as COFF, found {data[:20]!r}"
        )
    prefix, end = match
    layout = _Layout(
        4 if "4" in prefix else 3, "4" in prefix, "N" in prefix, "C" in prefix,
        "ST" in prefix,
    )  # fmt: skip
    try:
        line, _, body = data[end:].partition(b"\n")
        if line.split(b"#")[0].split()[:1] == [b"BINARY"]:
            kind = f"{prefix}OFF BINARY"
            table, faces = _binary(body, layout, "n" in prefix)
        else:
            kind = f"{prefix}OFF"
            table, faces = _text(data[end:], layout, "n" in prefix)
        return _named(table, faces, layout, kind)
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{path}: {error}") from None


def _keyword(data: bytes) -> tuple[str, int] | None:
    """Prefix of the keyword, and where it ends."""
    start = len(_BOM) if data.startswith(_BOM) else 0
    while True:  # comments and blank lines
        rest = data[start:]
        start += len(rest) - len(rest.lstrip())
        if data[start : start + 1] != b"#":
            break
        line = data.find(b"\n", start)
        start = len(data) if line < 0 else line
    word = data[start : start + 9]
    if word[:1].islower():
        lower = re.match(rb"[a-z0-9]*?off", word)
        word = word if lower is None else lower.group().upper()
    match = _KEYWORD.match(word)
    return None if match is None else (match[1].decode(), start + match.end())


def _dimension(found: int) -> None:
    if found != 3:
        raise ValueError(
            f"expected points of three numbers, found nOFF of dimension {found}: "
            "project them, and write them with np.save"
        )


def _text(data: bytes, layout: _Layout, counted: bool):
    """Rows of the vertices, and faces, of a text file."""
    lines = [line.split("#", 1)[0] for line in data.decode("latin-1").splitlines()]
    rows = [line.split() for line in lines if line.strip()]

    n_vertices, n_faces = _counts(rows, counted)
    if min(n_vertices, n_faces) < 0 or len(rows) < n_vertices + n_faces:
        raise ValueError(
            f"expected {n_vertices} vertices and {n_faces} faces, found "
            f"{len(rows)} lines"
        )
    body = rows[:n_vertices]
    width = min(map(len, body), default=layout.least)
    if width < layout.least or (layout.colors and width < layout.least + 3):
        short = next(row for row in body if len(row) == width)
        raise ValueError(
            f"expected {layout.least + 3 * layout.colors} or more numbers a vertex, "
            f"found {' '.join(short)!r}"
        )
    table = np.array([row[:width] for row in body], np.float64).reshape(-1, width)
    return table, _triangles(rows[n_vertices : n_vertices + n_faces])


def _counts(rows: list[list[str]], counted: bool) -> tuple[int, int]:
    """Take the counts off the rows: on the keyword's line, or on lines of their own."""
    wanted, taken = 2 + counted, list[int]()
    rest: list[str] = []
    while len(taken) < wanted:
        if not rows:
            raise ValueError("expected counts of vertices and faces, found none")
        row = rows.pop(0)
        row, rest = row[: wanted - len(taken)], row[wanted - len(taken) :]
        taken += [int(word) for word in row]
    if not rest and rows and len(rows[0]) == 1:
        rows.pop(0)  # the number of edges, which may be left out
    if counted:
        _dimension(taken[0])
    return taken[-2], taken[-1]


def _triangles(rows: list[list[str]]) -> np.ndarray:
    """Fans of all polygons; lines and points are left out."""
    found = []
    for row in rows:
        size = int(row[0])
        corners = [int(word) for word in row[1 : 1 + size]]
        if len(corners) < size:
            raise ValueError(f"a face of {size} corners lists {len(corners)}")
        found += _fan(corners)
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _fan(corners: list[int]) -> list[tuple[int, int, int]]:
    return [(corners[0], a, b) for a, b in itertools.pairwise(corners[1:])]


def _binary(data: bytes, layout: _Layout, counted: bool):
    """Rows of the vertices, and faces, of a binary file: big endian throughout."""
    at = 0
    if counted:
        _dimension(*struct.unpack_from(">i", data))
        at = 4
    early = "the binary file ends early"
    if len(data) < at + 12:
        raise ValueError(f"{early}: expected three counts, found {len(data)} bytes")
    n_vertices, n_faces, _ = struct.unpack_from(">3i", data, at)
    at += 12
    width = layout.least + 4 * layout.colors + 2 * layout.texture
    size = 4 * width * n_vertices
    if min(n_vertices, n_faces) < 0 or len(data) < at + size + 8 * n_faces:
        raise ValueError(
            f"{early}, or is not big endian: expected {n_vertices} vertices and "
            f"{n_faces} faces, found {len(data)} bytes"
        )
    table = np.frombuffer(data, ">f4", width * n_vertices, at).reshape(-1, width)
    words = np.frombuffer(data, ">i4", (len(data) - at - size) // 4, at + size).tolist()
    found, place = [], 0
    for _ in range(n_faces):
        n = words[place] if place < len(words) else -1
        if n < 0 or place + n + 1 >= len(words):
            raise ValueError(f"{early}, or a face has no corners")
        found += _fan(words[place + 1 : place + 1 + n]) if n else []
        place += n + 2 + max(words[place + n + 1], 0)  # the face's color is skipped
    if place > len(words):
        raise ValueError(early)
    return table.astype(np.float64), np.array(found, dtype=np.int64).reshape(-1, 3)


def _named(table: np.ndarray, faces: np.ndarray, layout: _Layout, kind: str) -> OffFile:
    vertices, at = table[:, :3], layout.coordinates
    if layout.homogeneous:
        weight = table[:, 3:4]
        if not weight.all():
            raise ValueError("a vertex of 4OFF lies at infinity: its last number is 0")
        vertices = vertices / weight
    if not np.isfinite(vertices).all():
        raise ValueError("a vertex is not finite")
    n = len(vertices)
    if len(faces) and not (faces.min() >= 0 and faces.max() < n):
        raise ValueError(
            f"expected corners from 0 to {n - 1}, found {faces.min()} to {faces.max()}"
        )
    normals = table[:, at : at + 3] if layout.normals else None
    rest, colors = table[:, layout.least :], None
    if layout.colors:
        end = max(rest.shape[1] - 2 * layout.texture, 3)
        colors, rest = rest[:, : min(end, 4)], rest[:, min(end, 4) :]
    return OffFile(vertices, normals, colors, rest, faces, kind)
