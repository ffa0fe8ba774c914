"""The separation experiment: its network, its controls, and a quick run."""

import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from manifoldkit.experiments.graphs import graph_separation as experiment
from manifoldkit.experiments.result import Result

needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("MANIFOLDKIT_DATA", "")) / "graph_separation").is_dir(),
    reason="needs the graph separation data in MANIFOLDKIT_DATA",
)


def two_triangles_and_a_hexagon():
    """The smallest pair that color refinement does not tell apart."""
    a = torch.zeros(2, 6, 6, dtype=torch.float64)
    for i, j in ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)):
        a[0, i, j] = a[0, j, i] = 1
    for i in range(6):
        a[1, i, (i + 1) % 6] = a[1, (i + 1) % 6, i] = 1
    return a, torch.ones(2, 6, dtype=torch.bool)


def test_plain_network_is_blind_and_frames_are_not():
    from manifoldkit.equivariant import GraphFrameAveraging

    a, mask = two_triangles_and_a_hexagon()
    x = experiment.node_features(a, mask, torch.zeros(2, 6))
    torch.manual_seed(0)
    plain = experiment.PositionalGIN(3, 0, pool="sum").double().eval()
    with torch.no_grad():
        blind = plain(a, x)
        torch.testing.assert_close(blind[0], blind[1])
        placed = experiment.PositionalGIN(3, 6, pool="sum").double().eval()
        net = GraphFrameAveraging(placed, max_exact=1000)
        seen, copies = net(a, x), net(*experiment.relabeled(a, x, mask, 0))
    torch.testing.assert_close(copies, seen)
    assert (seen[0] - seen[1]).abs().max() > 1e-6


def test_exact_frames_do_not_help_layers_that_see_closed_neighborhoods():
    """Two graphs of 8 nodes whose A + I differ by an order of the rows."""
    from manifoldkit.datasets.graphs.separation import decode_graph6
    from manifoldkit.equivariant import GraphFrameAveraging

    lines = ("GCzfes", "GEirus")
    a = torch.stack([torch.from_numpy(decode_graph6(v)) for v in lines]).double()
    x = experiment.node_features(
        a, torch.ones(2, 8, dtype=torch.bool), torch.zeros(2, 8)
    )
    distance = {}
    for eps in (0.0, 0.1):
        torch.manual_seed(0)
        net = experiment.PositionalGIN(3, 8, torch.tanh, "sum", eps).double().eval()
        with torch.no_grad():
            z = GraphFrameAveraging(net)(a, x)
        distance[eps] = float((z[0] - z[1]).abs().sum())
    assert distance[0.0] < 1e-12
    assert distance[0.1] > 1e-5


def test_relabeled_graphs_are_isomorphic_and_keep_padding_last():
    a, mask = two_triangles_and_a_hexagon()
    mask[:, 5] = False
    a[:, 5] = a[:, :, 5] = 0
    x = experiment.node_features(a, mask, torch.zeros(2, 6))
    other, features = experiment.relabeled(a, x, mask, 1)
    assert (features[..., 0] == x[..., 0]).all()
    torch.testing.assert_close(other.sum(-1), features[..., 2])
    spectra = [torch.linalg.eigvalsh(v) for v in (a, other)]
    torch.testing.assert_close(*spectra)


@needs_data
@pytest.mark.slow
def test_quick_run(tmp_path):
    result = experiment.run(tmp_path, quick=True, console=Console(quiet=True))
    assert Result.load(tmp_path).name == experiment.NAME
    by = {(m["task"], m["method"]): m for m in result.metrics}
    exact = by["graph8c", "FA-GIN+ID, all orders, eps 0.1"]
    assert exact["not_beyond_copies"] == 0
    assert exact["largest_copy"] < 1e-10
    assert by["EXP-classify", "GA-GIN+ID"]["epochs"] == 2
    assert by["EXP", "GIN"]["similar"] == by["EXP", "GIN"]["pairs"]
