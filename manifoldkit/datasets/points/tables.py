"""Tables of points: text with or without a header, and NumPy's files."""

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]
_COMMENTS = ("#", "//", "!")
_UNIT = 0.02  # how far lengths of normals may be from 1
_AXES = ("x", "y", "z")
_NORMAL = ("nx", "ny", "nz")
_COLOR = ("red", "green", "blue")


def read_text(
    path: Path, data: bytes, names: Sequence[str] | None
) -> tuple[str, Columns]:
    """Read points, one a line, with any of the usual separators.

    Returns
    -------
    kind : str
        What the lines were found to be.
    columns : dict of ndarray
        By the header's names, the given ones, or guessed ones.

    Raises
    ------
    ValueError
        Not numbers, or lines of different lengths; the line is named.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{path}: neither text nor a format that is known; {_WAY_OUT}")
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
    header, rows = _split(lines)
    if not rows:
        raise ValueError(f"{path}: expected points, found no line of numbers")
    first = rows[0][1]
    mark = ";" if ";" in first else "," if "," in first else None
    table = _cells(path, rows, mark)
    counted = ""
    if header is None and len(table) > 1 and len(table[0]) == 1 != len(table[1]):
        counted = _check_count_line(path, rows, table)
        rows, table = rows[1:], table[1:]
    width = len(table[-1])
    for (line, _), row in zip(rows, table, strict=True):
        if len(row) != width:
            raise ValueError(
                f"{path}, line {line}: expected {width} columns as in the last line, "
                f"found {len(row)}"
            )
    columns = [_column(path, rows, table, j) for j in range(width)]
    label = {";": "semicolons", ",": "commas", None: "spaces"}[mark]
    kind = f"text, {label}{counted}"
    if names is None and header is not None:
        found = [w for w in re.split(r"[,;]" if mark else r"\s+", header)]
        found = [word.strip().strip("\"'") for word in found]
        if len(found) != width:
            raise ValueError(
                f"{path}: the header names {len(found)} columns, the lines have "
                f"{width}; {_NAME_THEM}"
            )
        return f"{kind}, header", dict(zip(found, columns, strict=True))
    if any(column.dtype.kind not in "fiu" for column in columns[:3]):
        raise ValueError(
            f"{path}, line {rows[0][0]}: expected numbers, found {first!r}"
        )
    return kind, named(path, columns, names)


_NAME_THEM = "name them by columns=, such as ['x', 'y', 'z', 'label']"
_WAY_OUT = "read it with the library of its format, and save an array (n, 3) by np.save"


def _split(lines: list[tuple[int, str]]) -> tuple[str | None, list[tuple[int, str]]]:
    """The header, if there is one, and the lines that follow."""
    header: str | None = None
    rows: list[tuple[int, str]] = []
    for number, line in lines:
        bare = line
        comment = line.startswith(_COMMENTS)
        if comment:
            bare = line.lstrip("#/! ")
            if not rows and header is None and _names_axes(bare):
                header = bare
            continue
        if line and not rows and header is None and _is_header(line):
            header = line
        elif line:
            rows.append((number, line))
    return header, rows


def _words(line: str) -> list[str]:
    return [w.strip().strip("\"'") for w in re.split(r"[,;]|\s+", line) if w.strip()]


def _names_axes(line: str) -> bool:
    return {canonical(word) for word in _words(line)} >= set(_AXES)


def _is_header(line: str) -> bool:
    """No number at all: a line of data has at least its point."""
    return not any(_is_number(word) for word in _words(line))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _cells(
    path: Path, rows: list[tuple[int, str]], mark: str | None
) -> list[list[str]]:
    table = []
    for _, line in rows:
        line = re.sub(r"\s(#|//).*", "", line)
        if mark == ";":
            line = line.replace(",", ".")  # a decimal comma
        cells = [cell.strip().strip("\"'") for cell in line.split(mark)]
        if cells and not cells[-1]:  # a separator ends the line
            cells.pop()
        table.append(cells)
    return table


def _check_count_line(
    path: Path, rows: list[tuple[int, str]], table: list[list[str]]
) -> str:
    """The first line says how many points there are (.pts, .xyz)."""
    if not table[0][0].isdigit() or int(table[0][0]) != len(table) - 1:
        raise ValueError(
            f"{path}, line {rows[0][0]}: expected the number of points, "
            f"{len(table) - 1}, found {table[0][0]!r}"
        )
    return ", count"


def _column(
    path: Path, rows: list[tuple[int, str]], table: list[list[str]], j: int
) -> np.ndarray:
    """Numbers where all are, else text; an odd one out is named."""
    words = [row[j] for row in table]
    try:
        values = np.array(words, np.float64)
    except ValueError:
        numbers = [_is_number(word) for word in words]
        if any(numbers) and sum(numbers) > len(words) / 2:
            odd = numbers.index(False)
            raise ValueError(
                f"{path}, line {rows[odd][0]}: expected a number in column {j + 1}, "
                f"found {words[odd]!r}"
            ) from None
        return np.array(words)
    whole = all(re.fullmatch(r"[+-]?\d+", word) for word in words)
    return values.astype(np.int64) if whole and j > 2 else values


def read_npy(
    path: Path, data: bytes, names: Sequence[str] | None
) -> tuple[str, Columns]:
    """Read an array (n, k), or one with named fields; nothing is unpickled."""
    return "NPY", _array(path, _load(path, data), names)


def _load(path: Path, data: bytes) -> Any:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error):
            raise ValueError(
                f"{path}: holds Python objects, which are not loaded because that can "
                "run a program; save plain arrays, one file a cloud"
            ) from None
        raise ValueError(f"{path}: not a whole NumPy file: {error}") from None
    except (EOFError, zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: not a whole NumPy file: {error}") from None


def _array(path: Path, values: np.ndarray, names: Sequence[str] | None) -> Columns:
    if values.dtype.names:
        return {name: values[name].reshape(-1) for name in values.dtype.names}
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
        hint = ""
        if values.ndim == 3:
            hint = "; these are several clouds: np.load gives them all"
        raise ValueError(
            f"{path}: expected numbers of shape (n, 3) or wider, found {values.dtype} "
            f"of shape {values.shape}{hint}"
        )
    return named(path, list(values.T), names)


def read_npz(
    path: Path, data: bytes, names: Sequence[str] | None
) -> tuple[str, Columns]:
    """Read arrays by name: points, and what else has a row for each of them."""
    with _load(path, data) as archive:
        try:
            arrays = {key: archive[key] for key in archive.files}
        except ValueError as error:
            if "pickle" not in str(error):
                raise ValueError(f"{path}: not a whole NumPy file: {error}") from None
            raise ValueError(
                f"{path}: holds Python objects, which are not loaded because that can "
                "run a program; save plain arrays"
            ) from None
    if not all(isinstance(values, np.ndarray) for values in arrays.values()):
        raise ValueError(
            f"{path}: expected arrays, found a ZIP archive of {', '.join(arrays)}; "
            "unpack it"
        )
    if len(arrays) == 1:
        return "NPZ", _array(path, next(iter(arrays.values())), names)
    return "NPZ", _joined(path, arrays, names)


_POINTS = ("points", "xyz", "pos", "position", "positions", "coord", "coords")
_ALSO = ("vertices", "x", "cloud", "point", "data", "arr_0")
_OTHERS = {
    **dict.fromkeys(("normals", "normal", "norm", "norms", "n"), _NORMAL),
    **dict.fromkeys(("colors", "color", "rgb", "colours", "colour"), _COLOR),
}


def _joined(
    path: Path, arrays: dict[str, np.ndarray], names: Sequence[str] | None
) -> Columns:
    by_name = {key.lower(): key for key in arrays}
    found = [
        by_name[k]
        for k in (*_POINTS, *_ALSO)
        if k in by_name and arrays[by_name[k]].ndim == 2
    ]
    if not found:
        if all(axis in by_name for axis in _AXES):
            return dict(arrays)
        shapes = ", ".join(f"{k} {v.shape}" for k, v in arrays.items())
        raise ValueError(
            f"{path}: expected an array (n, 3) named 'points' or 'xyz', found {shapes}"
        )
    columns = _array(path, arrays[found[0]], names)
    n = len(arrays[found[0]])
    for key, values in arrays.items():
        if key == found[0] or not values.ndim or len(values) != n:
            continue
        parts = _OTHERS.get(key.lower())
        if parts and values.ndim == 2 and values.shape[1] in (3, 4):
            columns |= dict(zip((*parts, "alpha"), values.T, strict=False))
        else:  # "y" stands for labels beside "X", not for a coordinate
            name = "label" if key.lower() in ("y", "target", "targets") else key
            columns[f"{name}_" if name in columns else name] = values
    return columns


def named(
    path: Path, columns: list[np.ndarray], names: Sequence[str] | None
) -> Columns:
    """Columns by given names, or by what their values can be."""
    if names is not None:
        if isinstance(names, str) or len(names) != len(columns):
            raise ValueError(
                f"columns: expected a name for each of the {len(columns)} columns of "
                f"{path}, found {names!r}"
            )
        return dict(zip(names, columns, strict=True))
    if len(columns) < 3:
        raise ValueError(
            f"{path}: expected three or more columns, found {len(columns)}"
        )
    guessed = list(_AXES)
    while len(guessed) < len(columns):
        block = columns[len(guessed) : len(guessed) + 3]
        last = len(columns) - len(guessed) == 1
        if len(block) == 3 and _are_normals(block) and "nx" not in guessed:
            guessed += _NORMAL
        elif len(block) == 3 and _are_colors(block) and "red" not in guessed:
            guessed += _COLOR
        elif last and guessed[-1] == "blue" and np.all(block[0] == 255):
            guessed.append("alpha")
        elif last and _are_labels(block[0]):
            guessed.append("label")
        else:
            guessed.append(f"column_{len(guessed)}")
    return dict(zip(guessed, columns, strict=True))


def _are_normals(block: list[np.ndarray]) -> bool:
    if any(column.dtype.kind not in "fiu" for column in block):
        return False
    length = np.sqrt(sum(column.astype(np.float64) ** 2 for column in block))
    there = length[np.isfinite(length) & (length > 0)]
    return bool(len(there)) and bool(np.mean(np.abs(there - 1) < _UNIT) > 0.9)


def _are_colors(block: list[np.ndarray]) -> bool:
    if any(column.dtype.kind not in "fiu" for column in block):
        return False
    values = np.stack(block).astype(np.float64)
    whole = np.isfinite(values).all() and (values == np.round(values)).all()
    return bool(whole and values.min() >= 0 and 1 < values.max() <= 255)


def _are_labels(column: np.ndarray) -> bool:
    if column.dtype.kind not in "fiu":
        return column.dtype.kind == "U"
    values = column.astype(np.float64)
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


_ALIASES = {
    **{f"{p}{s}{i}": axis for p in ("points", "point", "coords") for s in (":", "_")
       for i, axis in enumerate(_AXES)},
    **{f"{p}{s}{i}": axis for p in ("normals", "normal") for s in (":", "_")
       for i, axis in enumerate(_NORMAL)},
    **{f"{p}{axis}": axis for p in ("p", "p_", "pos_", "coord_", "point_", "position_")
       for axis in _AXES},
    **{f"{p}{axis}": f"n{axis}" for p in ("n_", "normal_", "normal", "norm_")
       for axis in _AXES},
    **{f"{p}{color}": color for p in ("diffuse_", "color_", "") for color in
       (*_COLOR, "alpha")},
    **{"r": "red", "g": "green", "b": "blue", "a": "alpha"},
    **dict.fromkeys(
        ("label", "labels", "class", "classes", "classification", "part", "parts",
         "scalar_label", "scalar_classification", "seg", "segment", "semantic",
         "semantic_label", "sem_label", "y_label", "category"), "label"),
}  # fmt: skip


def canonical(name: str) -> str:
    """The usual name of a column, by what programs call it."""
    lower = name.strip().lower()
    return _ALIASES.get(lower, lower)
