"""Text files of rows and columns: separators, quotes, decimal commas, missing cells."""

import csv
import re
from pathlib import Path

import numpy as np

_MISSING = {"", "nan", "na", "n/a", "null", "none", "-"}
_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_INTEGER = re.compile(r"\d+")


def read_cells(file: Path) -> list[list[str]]:
    """Return the cells of a text file, row by row, without empty lines.

    The separator is the first of ``;``, tab and ``,`` that the first lines have, else
    white space. With ``;`` or tabs a comma is the decimal mark.

    Raises
    ------
    ValueError
        The file is no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text ({error})") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("#"):
        lines[0] = lines[0].lstrip("# ")  # as numpy.savetxt writes a header
    mark = next((m for m in ";\t," if any(m in line for line in lines[:5])), None)
    if mark is None:
        return [line.split() for line in lines]
    rows = [[c.strip() for c in row] for row in csv.reader(lines, delimiter=mark)]
    if mark == ",":
        return rows
    return [[_with_point(cell) for cell in row] for row in rows]


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell


def is_number(cell: str) -> bool:
    """Tell whether a cell is a number, or missing.

    >>> [is_number(cell) for cell in ("1e3", "", "NA", "s1")]
    [True, True, True, False]
    """
    try:
        float(cell)
    except ValueError:
        return is_missing(cell)
    return True


def is_missing(cell: str) -> bool:
    """Tell whether a cell is one of the usual words for "missing"."""
    return cell.lower() in _MISSING


def is_integer(cell: str) -> bool:
    """Tell whether a cell is a whole number without sign, point or exponent."""
    return _INTEGER.fullmatch(cell) is not None


def numbers(rows: list[list[str]], file: Path) -> np.ndarray:
    """Return cells as floats, NaN where they are missing.

    Raises
    ------
    ValueError
        A cell that is no number.
    """
    try:
        return np.array(
            [[float("nan" if is_missing(c) else c) for c in row] for row in rows]
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def names(words: list[str]) -> np.ndarray:
    """Return sensor ids as integers where all are, else as strings.

    >>> names(["7", "9.0"]), names(["7", "A9"])
    (array([7, 9]), array(['7', 'A9'], dtype='<U2'))
    """
    words = [name(word) for word in words]
    if all(word.lstrip("-").isdigit() for word in words):
        return np.array(words, dtype=np.int64)
    return np.array(words)


def name(word: str) -> str:
    """Return a sensor id without quotes, and without the ``.0`` of a float.

    >>> name("773869.0"), name('"A 9"')
    ('773869', 'A 9')
    """
    word = str(word).strip().strip('"')
    whole, point, rest = word.partition(".")
    return whole if point and whole.isdigit() and not rest.strip("0") else word
