"""The Polygon File Format: text, binary of both byte orders, and lists.

The maintained reader of it, plyfile, is under the GPL; others keep a mesh and drop
columns such as labels. So these are lines of our own.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2"},
    **{"int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8"},
    **{"float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


class _Property(NamedTuple):
    """One column; a list has a type for its length too."""

    name: str
    kind: str
    length: str | None


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


def read_ply(path: Path, data: bytes) -> tuple[str, dict[str, np.ndarray], np.ndarray]:
    """Read the vertices and faces of a PLY file.

    Returns
    -------
    kind : str
        "PLY (ascii)", "PLY (binary little endian)" or "PLY (binary big endian)".
    columns : dict of ndarray
        Properties of the vertices; a list is an array (n, k), or of arrays.
    faces : ndarray of int64, shape (m, 3)
        Triangles.

    Raises
    ------
    ValueError
        A header that is none, or a file that ends early.
    """
    try:
        order, elements, body = _header(data)
        tables = _binary(body, elements, order) if order else _text(body, elements)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a whole PLY file: {error}") from None
    if "vertex" not in tables:
        raise ValueError(
            f"{path}: expected an element 'vertex', found {sorted(tables) or 'none'}"
        )
    name = next(word for word, sign in _ORDERS.items() if sign == order)
    return f"PLY ({name.replace('_', ' ')})", tables["vertex"], _faces(path, tables)


def _header(data: bytes) -> tuple[str, list[_Element], bytes]:
    order: str | None = None
    elements: list[_Element] = []
    at = 0
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            raise ValueError("expected a line end_header, found none")
        words = data[at:end].decode("latin-1").split()
        at = end + 1
        if words[:1] == ["end_header"]:
            break
        if words[:1] == ["format"]:
            if words[1] not in _ORDERS:
                raise ValueError(f"expected a known format, found {words[1]!r}")
            order = _ORDERS[words[1]]
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:2] == ["property", "list"]:
            length, kind = _type(words[2]), _type(words[3])
            elements[-1].properties.append(_Property(words[4], kind, length))
        elif words[:1] == ["property"]:
            elements[-1].properties.append(_Property(words[2], _type(words[1]), None))
    if order is None:
        raise ValueError("expected a line format, found none")
    return order, elements, data[at:]


def _type(word: str) -> str:
    if word not in _TYPES:
        raise ValueError(f"expected a type such as float, found {word!r}")
    return _TYPES[word]


def _text(body: bytes, elements: list[_Element]) -> dict[str, dict[str, np.ndarray]]:
    lines = [line for line in body.decode("latin-1").splitlines() if line.strip()]
    tables, at = {}, 0
    for element in elements:
        rows = [line.split() for line in lines[at : at + element.rows]]
        at += element.rows
        if len(rows) < element.rows:
            raise ValueError(
                f"expected {element.rows} lines of element {element.name!r}, found "
                f"{len(rows)}"
            )
        tables[element.name] = _text_columns(element, rows)
    return tables


def _text_columns(element: _Element, rows: list[list[str]]) -> dict[str, np.ndarray]:
    place = [0] * len(rows)
    columns = {}
    for prop in element.properties:
        if prop.length is None:
            words: list[Any] = [row[i] for row, i in zip(rows, place, strict=True)]
            columns[prop.name] = _numbers(words, prop.kind)
            place = [i + 1 for i in place]
            continue
        sizes = [int(row[i]) for row, i in zip(rows, place, strict=True)]
        ends = [i + 1 + n for i, n in zip(place, sizes, strict=True)]
        if any(end > len(row) for row, end in zip(rows, ends, strict=True)):
            raise ValueError(f"a list {prop.name!r} ends early")
        columns[prop.name] = _lists(
            [
                _numbers(row[i + 1 : end], prop.kind)
                for row, i, end in zip(rows, place, ends, strict=True)
            ]
        )
        place = ends
    return columns


def _numbers(words: list[str], kind: str) -> np.ndarray:
    if kind[0] == "f":
        return np.array(words, np.float64).astype(kind)
    return np.array([int(float(word)) for word in words], np.int64).astype(kind)


def _lists(rows: list[np.ndarray]) -> np.ndarray:
    """Lists of one length as an array, others as an array of arrays."""
    if len({len(row) for row in rows}) == 1:
        return np.stack(rows)
    columns = np.empty(len(rows), object)
    columns[:] = rows
    return columns


def _binary(
    body: bytes, elements: list[_Element], order: str
) -> dict[str, dict[str, np.ndarray]]:
    tables, at = {}, 0
    for element in elements:
        tables[element.name], at = _binary_columns(body, at, element, order)
    return tables


def _binary_columns(
    body: bytes, at: int, element: _Element, order: str
) -> tuple[dict[str, np.ndarray], int]:
    """Read an element at once if its lists have the lengths of the first row."""
    if not element.rows or not element.properties:
        return {prop.name: np.empty(0) for prop in element.properties}, at
    fields: list[tuple[Any, ...]] = []
    place = at
    for i, prop in enumerate(element.properties):
        if prop.length is None:
            fields.append((f"{i}", order + prop.kind))
            place += int(prop.kind[1])
            continue
        n = _length(body, place, prop, order)
        fields.append((f"n{i}", order + prop.length))
        fields.append((f"{i}", order + prop.kind, (n,)))
        place += int(prop.length[1]) + n * int(prop.kind[1])
    dtype = np.dtype(fields)
    end = at + dtype.itemsize * element.rows
    lists = [i for i, prop in enumerate(element.properties) if prop.length]
    if end <= len(body):
        table = np.frombuffer(body, dtype, element.rows, at)
        if all((table[f"n{i}"] == table[f"n{i}"][0]).all() for i in lists):
            names = enumerate(prop.name for prop in element.properties)
            return {name: _native(table[f"{i}"]) for i, name in names}, end
    if not lists:
        raise ValueError(
            f"expected {end - at} bytes of element {element.name!r}, found "
            f"{len(body) - at}"
        )
    return _row_by_row(body, at, element, order)


def _length(body: bytes, at: int, prop: _Property, order: str) -> int:
    if at + int(str(prop.length)[1]) > len(body):
        raise ValueError(f"a list {prop.name!r} ends early")
    n = int(np.frombuffer(body, order + str(prop.length), 1, at)[0])
    if n < 0 or at + n * int(prop.kind[1]) > len(body):
        raise ValueError(f"a list {prop.name!r} of {n} items ends early")
    return n


def _row_by_row(
    body: bytes, at: int, element: _Element, order: str
) -> tuple[dict[str, np.ndarray], int]:
    found: list[list[np.ndarray]] = [[] for _ in element.properties]
    for _ in range(element.rows):
        for column, prop in zip(found, element.properties, strict=True):
            n = 1
            if prop.length is not None:
                n = _length(body, at, prop, order)
                at += int(prop.length[1])
            end = at + n * int(prop.kind[1])
            if end > len(body):
                raise ValueError(f"element {element.name!r} ends early")
            column.append(np.frombuffer(body, order + prop.kind, n, at))
            at = end
    columns = {}
    for column, prop in zip(found, element.properties, strict=True):
        rows = [_native(row) for row in column]
        columns[prop.name] = (
            np.concatenate(rows) if prop.length is None else _lists(rows)
        )
    return columns, at


def _native(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder("="))


def _faces(path: Path, tables: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """Fans of all polygons."""
    table = tables.get("face", {})
    corners = table.get("vertex_indices", table.get("vertex_index"))
    if corners is None or not len(corners):
        return np.empty((0, 3), np.int64)
    if corners.dtype != object:
        fan = [corners[:, [0, i, i + 1]] for i in range(1, corners.shape[1] - 1)]
        faces = np.stack(fan, 1).reshape(-1, 3) if fan else np.empty((0, 3))
    else:
        faces = np.array(
            [(c[0], a, b) for c in corners for a, b in itertools.pairwise(c[1:])]
        ).reshape(-1, 3)
    faces = faces.astype(np.int64)
    n = len(next(iter(tables["vertex"].values()), ()))
    if len(faces) and not (faces.min() >= 0 and faces.max() < n):
        raise ValueError(
            f"{path}: expected corners from 0 to {n - 1}, found {faces.min()} to "
            f"{faces.max()}"
        )
    return faces
