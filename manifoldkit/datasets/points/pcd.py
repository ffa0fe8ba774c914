"""The Point Cloud Data format of PCL: text, binary, and compressed binary."""

import struct
from pathlib import Path

import numpy as np

_KINDS = {"F": "f", "I": "i", "U": "u"}
_LISTS = ("FIELDS", "SIZE", "TYPE", "COUNT")


def read_pcd(path: Path, data: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """Read the fields of a PCD file.

    Returns
    -------
    kind : str
        "PCD (ascii)", "PCD (binary)" or "PCD (binary_compressed)".
    columns : dict of ndarray
        The fields; one of several numbers is an array (n, k). Packed colors become
        "red", "green", "blue" (and "alpha" of "rgba").

    Raises
    ------
    ValueError
        A header that is none, or a file that ends early.
    """
    try:
        header, body = _header(data)
        dtype = _dtype(header)
        n = int(header.get("POINTS", ["-1"])[0])
        if n < 0:
            n = int(header["WIDTH"][0]) * int(header.get("HEIGHT", ["1"])[0])
        kind = header["DATA"][0].lower()
        if kind == "ascii":
            columns = _text(body, dtype, n)
        elif kind == "binary":
            columns = _rows(body, dtype, n)
        elif kind == "binary_compressed":
            columns = _fields(_decompressed(body), dtype, n)
        else:
            raise ValueError(f"expected a known kind of DATA, found {kind!r}")
    except KeyError as error:
        raise ValueError(f"{path}: PCD header without a line {error}") from None
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{path}: not a whole PCD file: {error}") from None
    return f"PCD ({kind})", _colors(columns)


def _header(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at)
        if end < 0:
            raise ValueError("expected a line DATA, found none")
        words = data[at:end].decode("latin-1").split("#", 1)[0].split()
        at = end + 1
        if words:
            header[words[0].upper()] = words[1:]
    return header, data[at:]


def _dtype(header: dict[str, list[str]]) -> np.dtype:
    names, sizes, kinds = (header[key] for key in _LISTS[:3])
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ValueError("expected FIELDS, SIZE, TYPE and COUNT of one length")
    seen: set[str] = set()
    fields = []
    for i, (name, size, kind, count) in enumerate(
        zip(names, sizes, kinds, counts, strict=True)
    ):
        if kind.upper() not in _KINDS:
            raise ValueError(f"expected TYPE F, I or U, found {kind!r}")
        # padding is named "_", as often as it occurs
        unique = f"_{i}" if name == "_" or name in seen else name
        seen.add(unique)
        number = f"<{_KINDS[kind.upper()]}{int(size)}"
        fields.append((unique, number, (int(count),)))
    return np.dtype(fields)


def _column(values: np.ndarray) -> np.ndarray:
    """One number a point as a vector, in the machine's byte order."""
    values = values[:, 0] if values.shape[1] == 1 else values
    return values.astype(values.dtype.newbyteorder("="))


def _named(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: _column(v) for k, v in columns.items() if not k.startswith("_")}


def _text(body: bytes, dtype: np.dtype, n: int) -> dict[str, np.ndarray]:
    rows = [line.split() for line in body.decode("latin-1").splitlines()]
    rows = [row for row in rows if row][:n]
    if len(rows) < n:
        raise ValueError(f"expected {n} points, found {len(rows)}")
    columns, at = {}, 0
    for name in dtype.names or ():
        base, (count,) = dtype[name].base, dtype[name].shape
        words = [row[at : at + count] for row in rows]
        at += count
        if any(len(part) < count for part in words):
            raise ValueError(f"a point has no field {name!r}")
        if base.kind == "f":
            values = np.array(words, np.float64).astype(base)
        else:
            values = np.array([[int(w) for w in part] for part in words]).astype(base)
        columns[name] = values.reshape(n, count)
    return _named(columns)


def _rows(body: bytes, dtype: np.dtype, n: int) -> dict[str, np.ndarray]:
    if len(body) < n * dtype.itemsize:
        raise ValueError(f"expected {n * dtype.itemsize} bytes, found {len(body)}")
    table = np.frombuffer(body, dtype, n)
    return _named({name: table[name] for name in dtype.names or ()})


def _fields(body: bytes, dtype: np.dtype, n: int) -> dict[str, np.ndarray]:
    """Compressed files hold one field after the other."""
    if len(body) < n * dtype.itemsize:
        raise ValueError(f"expected {n * dtype.itemsize} bytes, found {len(body)}")
    columns, at = {}, 0
    for name in dtype.names or ():
        base, (count,) = dtype[name].base, dtype[name].shape
        values = np.frombuffer(body, base, n * count, at)
        columns[name] = values.reshape(n, count)
        at += values.nbytes
    return _named(columns)


def _decompressed(body: bytes) -> bytes:
    """Undo LZF: runs of literals, and copies of what came before."""
    packed, size = struct.unpack_from("<2I", body)
    data = body[8 : 8 + packed]
    if len(data) < packed:
        raise ValueError(f"expected {packed} compressed bytes, found {len(data)}")
    out, at = bytearray(), 0
    while at < packed:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        back = len(out) - ((control & 31) << 8) - data[at] - 1
        at += 1
        if back < 0:
            raise ValueError("a compressed block refers to what is not there")
        end = back + length + 2
        if end <= len(out):
            out += out[back:end]
        else:  # the copy overlaps what it writes: it repeats
            piece = bytes(out[back:])
            out += (piece * (-(-(length + 2) // len(piece))))[: length + 2]
    if len(out) != size:
        raise ValueError(f"expected {size} bytes after decompression, found {len(out)}")
    return bytes(out)


def _colors(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Colors packed into one number of 32 bits, taken apart."""
    found: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if name not in ("rgb", "rgba") or values.ndim != 1:
            found[name] = values
            continue
        bits = values.view(np.uint32) if values.itemsize == 4 else values
        bits = bits.astype(np.uint32)
        channels = {"red": 16, "green": 8, "blue": 0}
        if name == "rgba":
            channels["alpha"] = 24
        for channel, shift in channels.items():
            found[channel] = (bits >> shift & 255).astype(np.uint8)
    return found
