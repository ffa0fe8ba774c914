"""EXP and graph8c: what their files hold."""

import os
from pathlib import Path

import numpy as np
import pytest

from manifoldkit.datasets import fetch_exp, fetch_graph8c
from manifoldkit.datasets.graphs.separation import decode_graph6
from manifoldkit.exceptions import DatasetNotFoundError

needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("MANIFOLDKIT_DATA", "")) / "graph_separation").is_dir(),
    reason="needs the graph separation data in MANIFOLDKIT_DATA",
)


@needs_data
def test_exp_holds_600_pairs():
    data = fetch_exp()
    sizes = data.mask.sum(1)
    assert data.adjacency.shape == (1200, 64, 64)
    assert (sizes.min(), sizes.max(), sizes.sum()) == (32, 64, 53336)
    assert data.adjacency.sum() == 132260
    assert (data.adjacency == data.adjacency.transpose(0, 2, 1)).all()
    assert not data.adjacency.diagonal(axis1=1, axis2=2).any()
    assert (data.y == np.tile([1, 0], 600)).all()
    assert (sizes[::2] == sizes[1::2]).all()


@needs_data
def test_graph8c_holds_all_connected_graphs():
    data = fetch_graph8c()
    assert data.adjacency.shape == (11117, 8, 8)
    reach = np.linalg.matrix_power(data.adjacency.astype(float) + np.eye(8), 8)
    assert (reach > 0).all()
    assert len(np.unique(data.adjacency.reshape(11117, -1), axis=0)) == 11117


def test_graph6_agrees_with_networkx():
    networkx = pytest.importorskip("networkx")
    for seed in range(5):
        graph = networkx.gnp_random_graph(9, 0.4, seed=seed)
        line = networkx.to_graph6_bytes(graph, header=False).decode().strip()
        assert (decode_graph6(line) == networkx.to_numpy_array(graph)).all()
    with pytest.raises(ValueError, match="graph6"):
        decode_graph6("I")
    for line in ("", "Bww", "B!", "B\n"):  # no size, too long, no letters of the form
        with pytest.raises(ValueError, match="in graph6 form"):
            decode_graph6(line)


def test_files_are_read_where_they_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MANIFOLDKIT_DATA", raising=False)
    with pytest.raises(DatasetNotFoundError, match="EXP"):
        fetch_exp(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="graph8c"):
        fetch_graph8c(tmp_path, download=False)
    (tmp_path / "graph8c.g6").write_text("Bw\nBW\n")
    assert fetch_graph8c(tmp_path).adjacency.shape == (2, 3, 3)
    np.savez(
        tmp_path / "exp.npz",
        node_ptr=np.array([0, 2, 5]),
        edge_ptr=np.array([0, 2, 4]),
        x=np.ones((5, 1), np.int8),
        edge_index=np.array([[0, 1, 0, 2], [1, 0, 2, 0]]),
        y=np.array([1, 0]),
    )
    data = fetch_exp(tmp_path)
    assert data.mask.sum(1).tolist() == [2, 3]
    assert data.adjacency[1, 0, 2] == 1
