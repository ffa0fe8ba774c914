"""Where data archives are found, and how they are read and stored.

An archive is a compressed NumPy file without pickles. It is looked for in the
``path=`` the user gives, then in the folder named by the environment variable
``MANIFOLDKIT_DATA``, then in the user's cache folder; downloads go to the first of
these that is set.
"""

import contextlib
import os
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from filelock import FileLock

from manifoldkit.exceptions import DatasetNotFoundError, MissingExtraError

#: What loaders return with ``return_X_y=True``.
Arrays = tuple[np.ndarray, np.ndarray]

VARIABLE = "MANIFOLDKIT_DATA"
_UNREADABLE = (
    *(OSError, ValueError, TypeError, EOFError, MemoryError, AttributeError),
    *(zipfile.BadZipFile, zlib.error),
)


class Source(NamedTuple):
    """What a message needs to say about an archive that is not there.

    Attributes
    ----------
    relative : str
        Path of the archive below a data folder.
    publisher : str
        Address of the originals.
    how : str
        How to get it.
    size : int or None
        Bytes of the archive, where they are known.
    sha256 : str or None
        Checksum of the archive, where it is known.
    """

    relative: str
    publisher: str
    how: str
    size: int | None = None
    sha256: str | None = None


def data_folder(path: str | Path | None = None) -> Path:
    """Return the folder that archives are stored in.

    >>> import os
    >>> str(data_folder("somewhere"))
    'somewhere'
    """
    if path is not None:
        path = Path(path).expanduser()
        return path.parent if path.suffix == ".npz" else path
    return data_folders()[0]


def data_folders(path: str | Path | None = None) -> list[Path]:
    """Return the folders that archives are looked for in, the first one first."""
    if path is not None:
        return [data_folder(path)]
    import pooch

    cache = Path(pooch.os_cache("manifoldkit"))
    named = os.environ.get(VARIABLE)
    return [Path(named).expanduser(), cache] if named else [cache]


def absent_folder(path: str | Path | None = None) -> str:
    """Return words on a data folder that was named and is not there, else nothing.

    >>> absent_folder("nowhere")
    'there is no folder nowhere'
    >>> absent_folder(".")
    ''
    """
    named = path is not None or os.environ.get(VARIABLE)
    folder = data_folder(path)
    return f"there is no folder {folder}" if named and not folder.is_dir() else ""


def find_archive(relative: str, path: str | Path | None = None) -> Path | None:
    """Return the archive's file, or None.

    Parameters
    ----------
    relative : str
        Path below a data folder, such as ``"eeg/physionet_mi_S001.npz"``.
    path : str or Path, optional
        The file itself, or a folder that holds it (with or without its sub-folder).
        Given, no other place is searched.
    """
    if path is not None and Path(path).expanduser().is_file():
        return Path(path).expanduser()
    for folder in data_folders(path):
        for candidate in (folder / relative, folder / Path(relative).name):
            if candidate.is_file():
                return candidate
    return None


@contextlib.contextmanager
def open_archive(file: Path) -> Iterator[Any]:
    """Open an archive whose arrays are read one by one, in the ``with`` block.

    Raises
    ------
    ValueError
        The file, or an array that is read, is damaged, no archive of arrays, or larger
        than the memory.
    """
    try:
        with (
            open(file, "rb") as stream,  # NumPy leaves a file it cannot parse open
            np.load(stream, allow_pickle=False) as archive,
        ):
            yield archive
    except _UNREADABLE as error:
        raise ValueError(
            f"{file} cannot be read as a data archive ({error}); "
            "delete it and fetch it again"
        ) from error


def read_array(file: Path) -> np.ndarray:
    """Read the array of an ``.npy`` file.

    Raises
    ------
    ValueError
        The file is damaged, holds pickled objects or something else.
    """
    try:
        with open(file, "rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as an array ({error})") from error


@contextlib.contextmanager
def open_hdf5(file: Path) -> Iterator[Any]:
    """Open an HDF5 file whose arrays are read in the ``with`` block.

    Raises
    ------
    MissingExtraError
        h5py is not installed.
    ValueError
        The file is damaged or something else.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("reading HDF5 files", "h5py", "points") from None
    try:
        store = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{file} cannot be read as HDF5 ({error})") from error
    with store:
        yield store


def read_archive(
    file: Path, keys: Collection[str] = (), *, only: bool = False
) -> dict[str, np.ndarray]:
    """Read the arrays of an archive, which must have some keys.

    Parameters
    ----------
    file : Path
        The archive.
    keys : collection of str
        What has to be there.
    only : bool, default=False
        Read no other arrays.

    Raises
    ------
    ValueError
        The file is truncated, tampered with, holds pickled objects or lacks a key.
    """
    with open_archive(file) as archive:
        arrays = {k: archive[k] for k in archive.files if not only or k in keys}
    missing = sorted(set(keys) - arrays.keys())
    if missing:
        refuse(file, f"it has no {', '.join(missing)}")
    return arrays


def refuse(file: Path, what: str) -> NoReturn:
    """Raise ``ValueError``: the content of a file is not what it should be."""
    raise ValueError(f"{file} is not the archive expected: {what}")


def check_array(
    file: Path,
    name: str,
    array: np.ndarray,
    shape: tuple[int | None, ...],
    kinds: str | tuple[str, ...] = "iuf",
) -> None:
    """Refuse an array of an archive that has another shape or type, or is not finite.

    Parameters
    ----------
    file : Path
        The archive, for the message.
    name : str
        The array, for the message.
    array : ndarray
        What was found.
    shape : tuple of int or None
        The shape expected; None stands for any length.
    kinds : str or tuple of str, default="iuf"
        Letters of NumPy's kinds, or names of types, that are good.
    """
    pairs = zip(shape, array.shape, strict=False)
    fits = len(shape) == array.ndim and all(a in (None, b) for a, b in pairs)
    if not fits or not {array.dtype.kind, array.dtype.name} & set(kinds):
        words = {"iuf": "numbers", "iu": "integers", "U": "text"}
        what = words.get("".join(kinds), " or ".join(kinds))
        wanted = ", ".join("n" if length is None else str(length) for length in shape)
        refuse(
            file,
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected {what} "
            f"of shape ({wanted})",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        refuse(file, f"{name} is not finite")


def write_archive(file: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Store arrays as an archive, all or nothing.

    The file is written beside its final place and renamed when it is complete, so
    that neither an interruption nor a second process ever leaves or sees half a file.

    Raises
    ------
    OSError
        The folder cannot be written; the message says what to set instead.
    """
    # a name of its own, not mkstemp, whose files only their owner may read
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        with _plain_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as stream:
                np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
    finally:
        # after a failure only; its own failure must not hide the first one
        with contextlib.suppress(OSError):
            temporary.unlink()
    return file


@contextlib.contextmanager
def _plain_write_errors(file: Path) -> Iterator[None]:
    """Turn errors of writing into one that says what to set instead."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"cannot write {file} ({error.strerror or error}); give path= or set "
            f"{VARIABLE} to a folder that can be written"
        ) from error


def obtain(
    source: Source,
    convert: Callable[[], dict[str, np.ndarray]],
    path: str | Path | None = None,
    download: bool = True,
) -> Path:
    """Return the archive, downloading, converting and storing it if it is not there.

    Parameters
    ----------
    source : Source
        The archive.
    convert : callable
        Downloads the originals and returns the archive's arrays.
    path : str or Path, optional
        See :func:`find_archive`.
    download : bool, default=True
        Allow the download.

    Raises
    ------
    DatasetNotFoundError
        Not there, and the download is not allowed or failed.
    MissingExtraError
        The download needs a package that is not installed.
    OSError
        The folder cannot be written.
    """
    found = find_archive(source.relative, path)
    if found is not None:
        return found
    absent = absent_folder(path)
    target = data_folder(path) / source.relative
    if path is not None and Path(path).suffix == ".npz":
        target = Path(path).expanduser()
    if not download:
        raise DatasetNotFoundError(_describe(source, target, "download=False", absent))
    with one_at_a_time(target):
        if target.is_file():  # of another process, which this one waited for
            return target
        try:
            arrays = convert()
        except ImportError:
            raise
        except Exception as error:  # whatever the network and the downloader raise
            reason = (
                "the download or its conversion failed: "
                f"{type(error).__name__}: {error}"
            )
            raise DatasetNotFoundError(
                _describe(source, target, reason, absent)
            ) from error
        return write_archive(target, arrays)


@contextlib.contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process at a time make a file; the others wait, then find it.

    The folder is made, and tried, before a long download and not after it. A process
    that dies gives its turn up.

    Raises
    ------
    OSError
        The folder cannot be written; the message says what to set instead.
    """
    with _plain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    lock = target.with_name(f".{target.name}.lock")
    try:
        with FileLock(lock):
            yield
    finally:  # who waits holds the file open; who comes next finds what was made
        with contextlib.suppress(OSError):
            lock.unlink()


def _describe(source: Source, target: Path, reason: str, absent: str) -> str:
    reason += absent and f"; {absent}"
    size = f", {source.size / 1e6:.1f} MB" if source.size else ""
    checksum = f", SHA-256 {source.sha256}" if source.sha256 else ""
    return (
        f"{Path(source.relative).name}{size}{checksum} is not in {target.parent} "
        f"({reason}). Publisher: {source.publisher}. {source.how} Or put the archive "
        f"into {target.parent}, or name its folder by path= or {VARIABLE}."
    )
