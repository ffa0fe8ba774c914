"""A corpus on disk, of which only what is looked at is in memory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from manifoldkit.graphs.matching.inputs import PlainGraph, as_graph

_FORMAT = "manifoldkit.graphs.GraphCorpus"
_ARRAYS = {"num_nodes": np.int32, "num_edges": np.int32, "edges": np.int32}


class GraphCorpus(Sequence):
    """Graphs in a folder of plain binary files, read through memory maps.

    Behaves as a list of graphs; features are not stored.

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
        try:
            header = json.loads((self.folder / "corpus.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} is not a corpus of graphs: {error}") from error
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ValueError(f"{folder} does not hold a {_FORMAT}")
        self.num_nodes = self._map("num_nodes", (header["graphs"],))
        self.num_edges = self._map("num_edges", (header["graphs"],))
        self._edges = self._map("edges", (header["edges"], 2))
        self._start = np.concatenate([[0], np.cumsum(self.num_edges, dtype=np.int64)])
        if self._start[-1] != header["edges"]:
            raise ValueError(f"{folder}: the numbers of edges do not add up")

    def _map(self, name: str, shape: tuple) -> np.ndarray:
        file, dtype = self.folder / f"{name}.bin", np.dtype(_ARRAYS[name])
        size = file.stat().st_size if file.exists() else -1
        if size != dtype.itemsize * int(np.prod(shape)):
            raise ValueError(f"{file}: expected an array of shape {shape}")
        if size == 0:
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype, "r", shape=shape)

    @classmethod
    def write(cls, folder: str | Path, graphs: Iterable) -> Self:
        """Store graphs one by one; an iterator of any length does."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        count = edges = 0
        files = {k: open(folder / f"{k}.bin", "wb") for k in _ARRAYS}  # noqa: SIM115
        try:
            for i, given in enumerate(graphs):
                graph = as_graph(given, f"graphs[{i}]")
                for key, value in (
                    ("num_nodes", graph.num_nodes),
                    ("num_edges", len(graph.edges)),
                    ("edges", graph.edges),
                ):
                    files[key].write(np.asarray(value, _ARRAYS[key]).tobytes())
                count, edges = count + 1, edges + len(graph.edges)
        finally:
            for file in files.values():
                file.close()
        header = {"format": _FORMAT, "graphs": count, "edges": edges}
        (folder / "corpus.json").write_text(json.dumps(header) + "\n")
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
        return PlainGraph(int(self.num_nodes[i]), edges.astype(np.int64))


def blocks(graphs: Sequence, size: int = 4096) -> Iterator[tuple[int, Sequence]]:
    """Cut a sequence into pieces that fit into memory, each with its first index."""
    for start in range(0, len(graphs), size):
        yield start, graphs[start : start + size]
