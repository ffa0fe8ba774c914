"""A corpus on disk, of which only what is looked at is in memory."""

import contextlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from manifoldkit.graphs.matching.exact import check_directed
from manifoldkit.graphs.matching.inputs import PlainGraph, as_graph
from manifoldkit.graphs.matching.retrieval.records import (
    Kind,
    kinds_from_json,
    kinds_to_json,
    record_of,
    with_record,
)
from manifoldkit.graphs.matching.views import Traits, traits_of

_FORMAT = "manifoldkit.graphs.GraphCorpus"
_LABELED = f"{_FORMAT} with attributes"  # what knows _FORMAT only must not read it
_ARRAYS = {"num_nodes": np.int32, "num_edges": np.int32, "edges": np.int32}
_EXTRA = {"attributes": np.uint8, "attributes_end": np.int64}
_OWN_FOLDER = re.compile(r"\.corpus-[\w.-]+")


class GraphCorpus(Sequence):
    """Graphs in a folder of plain binary files, read through memory maps.

    Behaves as a list of graphs, with all that these carry: features, labels,
    directions, loops and parallel edges.

    Parameters
    ----------
    folder : str or Path
        What :meth:`write` made.

    Raises
    ------
    ValueError
        The folder holds something else, or files of a wrong length.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> corpus = GraphCorpus.write(folder, [(2, [(0, 1)]), (3, [(0, 1), (1, 2)])])
    >>> len(corpus), corpus[1].edges.tolist()
    (2, [[0, 1], [1, 2]])
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        header = _read_header(self.folder)
        while True:
            try:
                self._open(header)
                return
            except (ValueError, OSError):
                again = _read_header(self.folder)
                if again == header:
                    raise
                header = again  # it was replaced while its files were opened

    def _open(self, header: dict[str, Any]) -> None:
        self._files = self.folder / header.get("folder", "")
        count = header["graphs"]
        self.num_nodes = self._map("num_nodes", (count,))
        self.num_edges = self._map("num_edges", (count,))
        self._edges = self._map("edges", (header["edges"], 2))
        self._start = np.concatenate([[0], np.cumsum(self.num_edges, dtype=np.int64)])
        if self._start[-1] != header["edges"]:
            raise ValueError(f"{self.folder}: the numbers of edges do not add up")
        self._records = self._record_end = None
        if header["format"] == _LABELED:
            self._record_end = self._map("attributes_end", (count,))
            size = int(self._record_end[-1]) if count else 0
            self._records = self._map("attributes", (size,))
            self.kinds = kinds_from_json(header["kinds"])
        else:
            self.kinds = self._plain_kinds()

    def _plain_kinds(self) -> list[Kind]:
        """What graphs without attributes carry: nothing, at their nodes and edges."""
        found: list[Kind] = []
        none: frozenset = frozenset()
        for nodes in (False, True):
            for edges in (False, True):
                which = ((self.num_nodes > 0) == nodes) & (
                    (self.num_edges > 0) == edges
                )
                if which.any():
                    both = (none if nodes else None, none if edges else None)
                    found.append(Kind(Traits(False, *both), int(which.argmax())))
        return found

    def _map(self, name: str, shape: tuple) -> np.ndarray:
        file, dtype = self._files / f"{name}.bin", np.dtype((_ARRAYS | _EXTRA)[name])
        size = file.stat().st_size if file.exists() else -1
        if size != dtype.itemsize * int(np.prod(shape)):
            raise ValueError(f"{file}: expected an array of shape {shape}")
        if size == 0:
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype, "r", shape=shape)

    @classmethod
    def write(
        cls, folder: str | Path, graphs: Iterable, *, directed: bool | None = None
    ) -> Self:
        """Store graphs one by one; an iterator of any length does.

        A corpus that is there already is replaced when the new one is whole: until
        then, and if writing is interrupted or ``graphs`` raises, readers find the old
        one, and those that have it open keep it. So ``graphs`` may come from that very
        corpus.

        Parameters
        ----------
        folder : str or Path
            Made if it is not there.
        graphs : iterable of graphs
            PyG Data, networkx graphs or pairs (num_nodes, edges).
        directed : bool, optional
            As for :class:`~manifoldkit.graphs.ExactSolver`.

        Returns
        -------
        GraphCorpus

        Raises
        ------
        TypeError, ValueError
            Not graphs; labels that are no strings, numbers, or tuples and sets of such.
        """
        folder, directed = Path(folder), check_directed(directed)
        folder.mkdir(parents=True, exist_ok=True)
        owner = re.sub(r"[^\w-]", "_", socket.gethostname())
        beside = folder / f".corpus-{owner}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        beside.mkdir()
        try:
            header = _write_files(beside, graphs, directed)
            _put_in_place(folder, beside, header)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            _draft(beside).unlink(missing_ok=True)
            raise
        _remove_left_over(folder, owner)
        return cls(folder)

    def __len__(self) -> int:
        return len(self.num_nodes)

    @overload
    def __getitem__(self, i: int) -> PlainGraph: ...
    @overload
    def __getitem__(self, i: slice) -> list[PlainGraph]: ...
    def __getitem__(self, i: Any) -> Any:
        """Return a graph, or a list of graphs for a slice."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"graph {i} of a corpus of {len(self)}")
        i = int(i) % len(self)
        edges = np.asarray(self._edges[self._start[i] : self._start[i + 1]])
        graph = PlainGraph(int(self.num_nodes[i]), edges.astype(np.int64))
        if self._records is None or self._record_end is None:
            return graph
        start = int(self._record_end[i - 1]) if i else 0
        return _unpacked(graph, self._records[start : self._record_end[i]].tobytes())


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / "corpus.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a corpus of graphs: {error}") from error
    if not isinstance(header, dict) or header.get("format") not in (_FORMAT, _LABELED):
        raise ValueError(f"{folder} does not hold a {_FORMAT}")
    own = header.get("folder", "")
    if own and not (isinstance(own, str) and _OWN_FOLDER.fullmatch(own)):
        raise ValueError(f"{folder}: corpus.json names files elsewhere, {own!r}")
    return header


def _write_files(
    folder: Path, graphs: Iterable, directed: bool | None
) -> dict[str, Any]:
    """Write the arrays; return the header that belongs to them."""
    count = edges = end = 0
    kinds: dict[Traits, int] = {}
    labeled = False
    with contextlib.ExitStack() as stack:
        files = {
            k: stack.enter_context(open(folder / f"{k}.bin", "wb"))
            for k in (*_ARRAYS, *_EXTRA)
        }
        for i, given in enumerate(graphs):
            name = f"graphs[{i}]"
            graph = as_graph(given, name, directed)
            packed = _packed(graph, name)
            end += len(packed)
            for key, value in (
                ("num_nodes", graph.num_nodes),
                ("num_edges", len(graph.edges)),
                ("edges", graph.edges),
                ("attributes_end", end),
            ):
                dtype = (_ARRAYS | _EXTRA)[key]
                files[key].write(np.asarray(value, dtype).tobytes())
            files["attributes"].write(packed)
            kinds.setdefault(traits_of(graph), i)
            labeled = labeled or len(packed) > 0
            count, edges = count + 1, edges + len(graph.edges)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    header: dict[str, Any] = {"format": _FORMAT, "graphs": count, "edges": edges}
    if labeled:
        rows = kinds_to_json([Kind(*item) for item in kinds.items()])
        return header | {"format": _LABELED, "kinds": rows}
    for key in _EXTRA:
        (folder / f"{key}.bin").unlink()
    return header


def _put_in_place(folder: Path, beside: Path, header: dict[str, Any]) -> None:
    """Make the header name the new files, at one stroke; remove the old ones."""
    target = folder / "corpus.json"
    old = None
    with contextlib.suppress(ValueError):
        old = _read_header(folder)
    if not target.exists() and _claim(folder / "edges.bin"):
        for file in beside.iterdir():  # nobody reads them before there is a header
            os.replace(file, folder / file.name)
        beside.rmdir()
    else:
        header = header | {"folder": beside.name}
    draft = _draft(beside)
    with open(draft, "w") as stream:
        stream.write(json.dumps(header) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, target)
    if old is None:
        return
    if old.get("folder"):
        shutil.rmtree(folder / old["folder"], ignore_errors=True)
    elif header.get("folder"):
        for key in (*_ARRAYS, *_EXTRA):
            with contextlib.suppress(OSError):
                (folder / f"{key}.bin").unlink()


def _draft(beside: Path) -> Path:
    return beside.with_name(f"{beside.name}.json")


def _claim(file: Path) -> bool:
    """Whether no other writer has this file; now it is ours."""
    try:
        file.open("xb").close()
    except FileExistsError:
        return False
    return True


def _remove_left_over(folder: Path, owner: str) -> None:
    """Remove what writers on this machine left that were killed."""
    used = _read_header(folder).get("folder")
    pattern = re.compile(rf"\.corpus-{re.escape(owner)}-(\d+)-[0-9a-f]+(\.json)?")
    for path in folder.glob(".corpus-*"):
        match = pattern.fullmatch(path.name)
        if match is None or path.name == used or _is_alive(int(match[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there a signal of zero would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _packed(graph: PlainGraph, name: str) -> bytes:
    """Return attributes as a line of JSON and the numbers of the features."""
    record, numbers = record_of(graph, name), b""
    content: dict[str, Any] = {} if record is None else {"details": record}
    for key in ("x", "edge_attr"):
        values = getattr(graph, key)
        if values is not None:
            content[key] = list(values.shape)
            numbers += np.asarray(values, "<f8").tobytes()
    return json.dumps(content).encode() + b"\n" + numbers if content else b""


def _unpacked(graph: PlainGraph, packed: bytes) -> PlainGraph:
    """Invert :func:`_packed`."""
    if not packed:
        return graph
    line, _, numbers = packed.partition(b"\n")
    content, start = json.loads(line), 0
    for key in ("x", "edge_attr"):
        if key in content:
            size = int(np.prod(content[key]))
            values = np.frombuffer(numbers, "<f8", size, start)
            values = values.reshape(content[key]).astype(float)
            if key == "x":
                graph = graph._replace(x=values)
            else:
                graph = graph._replace(edge_attr=values)
            start += 8 * size
    return with_record(graph, content.get("details"))


def blocks(graphs: Sequence, size: int = 4096) -> Iterator[tuple[int, Sequence]]:
    """Cut a sequence into pieces that fit into memory, each with its first index."""
    for start in range(0, len(graphs), size):
        yield start, graphs[start : start + size]
