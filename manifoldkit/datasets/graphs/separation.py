"""Graphs that simple message passing cannot tell apart: EXP and graph8c."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit.datasets.archive import (
    VARIABLE,
    data_folder,
    find_archive,
    one_at_a_time,
    read_archive,
)
from manifoldkit.exceptions import DatasetNotFoundError

_EXP = "graph_separation/exp.npz"
_EXP_KEYS = ("node_ptr", "edge_ptr", "x", "edge_index", "y")
_GRAPH8C = "graph_separation/graph8c.g6"
_GRAPH8C_URL = "https://users.cecs.anu.edu.au/~bdm/data/graph8c.g6"
_GRAPH8C_SHA256 = "0002354f1ab3344a2706626a037ad15367bf23a2163aa68f552c3a169ca9a036"


class GraphSet(NamedTuple):
    """Graphs of a set, padded to the same number of nodes.

    Attributes
    ----------
    adjacency : array of uint8, shape (n_graphs, n, n)
        Symmetric adjacency matrices.
    mask : array of bool, shape (n_graphs, n)
        Nodes that exist.
    node_type : array of uint8, shape (n_graphs, n)
        Type of every node.
    y : array of int64, shape (n_graphs,)
        Labels; zeros where there are none.
    """

    adjacency: np.ndarray
    mask: np.ndarray
    node_type: np.ndarray
    y: np.ndarray


def fetch_exp(path: str | Path | None = None) -> GraphSet:
    """Return EXP: 600 pairs of graphs that color refinement does not tell apart.

    Graphs ``2 k`` and ``2 k + 1`` are a pair; they encode formulas, one satisfiable
    (label 1) and one not. The usual split is 0-199 validation, 200-399 test, the rest
    training.

    Parameters
    ----------
    path : str or Path, optional
        The archive ``exp.npz`` or the folder it is in; by default the data folders.

    Raises
    ------
    DatasetNotFoundError
        The archive is not on this machine; the authors publish pickles only, so it is
        not downloaded.

    References
    ----------
    Abboud et al., "The Surprising Power of Graph Neural Networks with Random Node
    Initialization", IJCAI 2021.
    """
    file = find_archive(_EXP, path)
    if file is None:
        raise DatasetNotFoundError(
            "EXP (exp.npz, 66 kB, made from github.com/ralphabb/GNN-RNI) is not on "
            f"this machine: name its folder by path= or {VARIABLE}"
        )
    arrays = read_archive(file, _EXP_KEYS)
    nodes, edges = arrays["node_ptr"], arrays["edge_ptr"]
    count, largest = len(nodes) - 1, int(np.diff(nodes).max())
    adjacency = np.zeros((count, largest, largest), np.uint8)
    mask = np.zeros((count, largest), bool)
    kind = np.zeros((count, largest), np.uint8)
    for i in range(count):
        size = nodes[i + 1] - nodes[i]
        mask[i, :size] = True
        kind[i, :size] = arrays["x"][nodes[i] : nodes[i + 1], 0]
        source, target = arrays["edge_index"][:, edges[i] : edges[i + 1]]
        adjacency[i, source, target] = 1
    return GraphSet(adjacency, mask, kind, arrays["y"].astype(np.int64))


def fetch_graph8c(path: str | Path | None = None, download: bool = True) -> GraphSet:
    """Return the 11117 connected graphs with 8 nodes, one of each isomorphism class.

    Parameters
    ----------
    path : str or Path, optional
        The file ``graph8c.g6`` or the folder it is in; by default the data folders.
    download : bool, default=True
        Fetch it from B. McKay's collection when it is not there.

    Raises
    ------
    DatasetNotFoundError
        The file is not on this machine and could not be downloaded.

    References
    ----------
    B. McKay, Combinatorial data, https://users.cecs.anu.edu.au/~bdm/data/graphs.html
    """
    file = find_archive(_GRAPH8C, path)
    if file is None and download:
        file = _download(path)
    if file is None:
        raise DatasetNotFoundError(
            f"graph8c.g6 (78 kB, {_GRAPH8C_URL}) is not on this machine: name its "
            f"folder by path= or {VARIABLE}, or fetch it with a network"
        )
    try:
        lines = Path(file).read_text(encoding="ascii").split()
        adjacency = np.stack([decode_graph6(line) for line in lines])
    except ValueError as error:
        raise ValueError(
            f"{file} is not a list of graphs in graph6 form ({error}); delete it and "
            "fetch it again"
        ) from error
    shape = adjacency.shape[:2]
    return GraphSet(
        adjacency,
        np.ones(shape, bool),
        np.zeros(shape, np.uint8),
        np.zeros(len(lines), np.int64),
    )


def decode_graph6(line: str) -> np.ndarray:
    """Return the adjacency matrix of a graph of up to 62 nodes in graph6 form.

    Parameters
    ----------
    line : str
        The size, then the upper triangle column by column, 6 bits a character.

    Returns
    -------
    ndarray of uint8, shape (n, n)

    Raises
    ------
    ValueError
        Something else than one such line.

    Examples
    --------
    >>> decode_graph6("Bw")
    array([[0, 1, 1],
           [1, 0, 1],
           [1, 1, 0]], dtype=uint8)
    """
    codes = np.frombuffer(line.encode(), np.uint8) - 63
    n = int(codes[0]) if len(codes) else 0
    bits = np.unpackbits(codes[1:, None], axis=1)[:, 2:].ravel()
    whole = len(codes) > 0 and codes.max() < 64
    if not whole or n > 62 or len(bits) // 6 != -(-n * (n - 1) // 2 // 6):
        raise ValueError(f"{line!r} is not a graph of up to 62 nodes in graph6 form")
    column, row = np.tril_indices(n, -1)  # column by column of the upper triangle
    adjacency = np.zeros((n, n), np.uint8)
    adjacency[row, column] = bits[: len(row)]
    return adjacency | adjacency.T


def _download(path: str | Path | None) -> Path | None:
    import pooch

    folder = data_folder(path) / "graph_separation"
    try:
        with one_at_a_time(folder / "graph8c.g6"):
            file = pooch.retrieve(
                _GRAPH8C_URL,
                f"sha256:{_GRAPH8C_SHA256}",
                path=folder,
                fname="graph8c.g6",
            )
    except Exception:  # whatever the network and pooch raise
        return None
    return Path(file)
