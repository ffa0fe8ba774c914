"""The pickled sensor graph of traffic research, ``adj_mx.pkl``, without running it.

A pickle is a program: it may name any function of Python and have it called. The reader
below knows the five names by which NumPy describes an array and puts stand-ins of its
own in their place, which only write down what they are told. Every other name is
refused before anything is done with it.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np


class SensorGraph(NamedTuple):
    """Weights with the names of their rows.

    Attributes
    ----------
    sensors : list of str or int
        Names in the order of the rows; empty where the file has none.
    weights : ndarray, shape (N, N)
    """

    sensors: list
    weights: np.ndarray


_CODE = re.compile(r"[fiubUS]\d{1,4}|float|int|bool")


class _Dtype:
    """What the pickle says of a dtype: its code, then its byte order."""

    def __init__(self, code: str, *_: Any):
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """What the pickle says of an array: shape, dtype, order and bytes."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _filled(data, dtype, shape, "F" if fortran else "C")


def _filled(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a type")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)  # type: ignore


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> _Array:
    out = _Array()
    out.array = _filled(data, dtype, shape, order)
    return out


def _encoded(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise pickle.UnpicklingError(f"text in {codec!r}")
    return text.encode("latin1")


def _scalar(dtype: Any, data: Any) -> Any:
    return _filled(data, dtype, ())[()]


class _Call:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a function with a state")


_STANDINS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # only passed on to _reconstruct
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Call(_encoded),
}
for _room in ("numpy.core", "numpy._core"):
    _STANDINS[f"{_room}.multiarray", "_reconstruct"] = _Call(lambda *_: _Array())
    _STANDINS[f"{_room}.multiarray", "scalar"] = _Call(_scalar)
    _STANDINS[f"{_room}.numeric", "_frombuffer"] = _Call(_from_buffer)


class _Reader(pickle.Unpickler):
    """Build lists, dicts, text, numbers and NumPy's arrays, and refuse the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDINS:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return _STANDINS[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("a persistent id")


def read_sensor_graph(file: Path) -> SensorGraph:
    """Read ``[sensor ids, {id: row}, matrix]``, or a matrix alone, from a pickle.

    Nothing of the file is executed: names other than those of NumPy's arrays are
    refused. Pickles of Python 2 are read too.

    Parameters
    ----------
    file : Path
        Such as ``adj_mx.pkl`` of DCRNN and Graph WaveNet.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    try:
        with open(file, "rb") as stream:
            content = _Reader(stream, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise whatever it likes
        raise ValueError(
            f"{file}: only [sensor ids, places, matrix] is read of a pickle, because "
            f"pickles can run code; found {error or type(error).__name__}. If you "
            "trust the file, load it yourself and save the matrix with numpy.save"
        ) from None
    if isinstance(content, _Array):
        content = [[], {}, content]
    if isinstance(content, (list, tuple)) and len(content) == 3:
        sensors, places, matrix = content
        if isinstance(sensors, _Array) and sensors.array is not None:
            sensors = sensors.array.tolist()
        fits = isinstance(sensors, (list, tuple)) and isinstance(places, Mapping)
        if fits and isinstance(matrix, _Array) and matrix.array is not None:
            return named_graph(list(sensors), places, matrix.array, str(file))
    raise ValueError(
        f"{file}: expected [sensor ids, places, matrix], found {_outline(content)}"
    )


def named_graph(
    sensors: list, places: Mapping, matrix: np.ndarray, name: str
) -> SensorGraph:
    """Return weights with their names, after a look at whether they fit.

    Raises
    ------
    ValueError
        A matrix of another size than the list of names, or a name in another place.

    Examples
    --------
    >>> named_graph(["7", "9"], {"7": 0, "9": 1}, np.eye(2), "graph").sensors
    ['7', '9']
    """
    matrix = np.asarray(matrix)
    n = len(sensors) or len(matrix)
    if not all(isinstance(sensor, (str, int, np.integer)) for sensor in sensors):
        raise ValueError(f"{name}: expected sensor ids of text or integers")
    if matrix.shape != (n, n) or matrix.dtype.kind not in "fiub":
        raise ValueError(
            f"{name}: expected {n} x {n} weights for {n} sensor ids, found "
            f"{matrix.dtype} of shape {matrix.shape}"
        )
    for row, sensor in enumerate(sensors):
        if places and places.get(sensor) != row:
            raise ValueError(
                f"{name}: sensor {sensor!r} is row {row} of the list and row "
                f"{places.get(sensor)} of the places"
            )
    return SensorGraph(sensors, matrix)


def _outline(content: Any) -> str:
    if isinstance(content, (list, tuple)):
        kinds = ", ".join(type(part).__name__.strip("_") for part in content[:4])
        return f"a {type(content).__name__} of {len(content)}: {kinds}"
    return type(content).__name__.strip("_")
