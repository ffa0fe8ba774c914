"""Graph frames: relabeling changes nothing, counts are right, averages are exact."""

import itertools
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from manifoldkit.equivariant import GraphFrameAveraging, graph_frame
from manifoldkit.equivariant.frames.graph_frames import (
    enumerate_orders,
    sample_orders,
    spectral_rows,
)
from manifoldkit.testing import assert_equivariant


def random_graphs(count, n, seed=0, p=0.5):
    g = torch.Generator().manual_seed(seed)
    a = (torch.rand(count, n, n, generator=g) < p).double().triu(1)
    return a + a.mT


def reorder(a, p):
    b = torch.arange(len(a))[:, None]
    return a[b[..., None], p[:, :, None], p[:, None, :]]


def shuffles(count, n, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=g) for _ in range(count)])


class Flat(nn.Module):
    """As dependent on the order of the nodes as can be."""

    def __init__(self, n, out=3, features=0):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(n * n + n * features, 16), nn.Tanh(), nn.Linear(16, out)
        )

    def forward(self, a, x=None):
        flat = a.flatten(1)
        if x is not None:
            flat = torch.cat([flat, x.flatten(1)], 1)
        return self.net(flat)


def sorted_rows(a, mask=None):
    rows = spectral_rows(a, mask)
    frame = graph_frame(a, mask=mask)
    b = torch.arange(len(a))[:, None]
    return rows[b, frame.order]


def check_relabelings(a, times, mask=None):
    """Count graphs whose sorted rows change when the nodes are relabeled."""
    reference, wrong = sorted_rows(a, mask), 0
    for seed in range(times):
        p = shuffles(*a.shape[:2], seed)
        other = None if mask is None else mask.gather(1, p)
        again = sorted_rows(reorder(a, p), other)
        if mask is not None:
            again, ref = again[:, : int(mask.sum(1).min())], None
            ref = reference[:, : again.shape[1]]
            wrong += int((again != ref).flatten(1).any(1).sum())
        else:
            wrong += int((again != reference).flatten(1).any(1).sum())
    return wrong


def test_rows_do_not_depend_on_labels_or_eigenvectors():
    assert check_relabelings(random_graphs(40, 7), 20) == 0
    disconnected = torch.block_diag(*random_graphs(3, 4, seed=1))[None]
    assert check_relabelings(disconnected, 20) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("MANIFOLDKIT_DATA", "")) / "graph_separation").is_dir(),
    reason="needs the graph separation data in MANIFOLDKIT_DATA",
)
def test_published_graphs_under_a_hundred_relabelings():
    from manifoldkit.datasets import fetch_exp, fetch_graph8c

    eight = torch.from_numpy(fetch_graph8c().adjacency[::55]).double()
    assert check_relabelings(eight, 100) == 0
    exp = fetch_exp()
    a = torch.from_numpy(exp.adjacency[:200]).double()
    assert check_relabelings(a, 100, torch.from_numpy(exp.mask[:200])) == 0


@pytest.mark.parametrize(
    ("graph", "size"),
    [
        (torch.zeros(4, 4), 24),  # empty
        (torch.ones(5, 5) - torch.eye(5), 120),  # complete
        (torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]), 2),  # path
        (torch.zeros(1, 1), 1),
        (torch.block_diag(torch.ones(3, 3) - torch.eye(3), torch.zeros(2, 2)), 12),
    ],
)
def test_number_of_orders(graph, size):
    frame = graph_frame(graph)
    assert math.isclose(float(frame.log_size.exp()), size)
    orders = enumerate_orders(frame.order, frame.block)
    assert len(orders) == size == len({tuple(o.tolist()) for o in orders})


def test_exact_average_is_that_over_all_sorting_orders():
    a = random_graphs(6, 5, seed=2)
    a[0] = torch.ones(5, 5) - torch.eye(5)
    net = Flat(5).double()
    got = GraphFrameAveraging(net)(a)
    for i in range(len(a)):
        rows = spectral_rows(a[i : i + 1])[0].tolist()
        best = sorted(rows)
        values = [
            net(a[i][list(p)][:, list(p)][None])[0]
            for p in itertools.permutations(range(5))
            if [rows[k] for k in p] == best
        ]
        assert torch.allclose(got[i], torch.stack(values).mean(0), atol=1e-12)


@pytest.mark.parametrize(
    ("out_type", "kind"),
    [("invariant", "scalar"), ("nodes", "node_scalar"), ("edges", "edge_scalar")],
)
def test_averages_are_equivariant(out_type, kind):
    n, features = 5, 2
    size = {"invariant": 3, "nodes": n, "edges": n * n}[out_type]
    shape = {"invariant": (3,), "nodes": (n,), "edges": (n, n)}[out_type]
    flat = Flat(n, size, features)

    def backbone(a, x):
        return flat(a, x).unflatten(1, shape)

    net = GraphFrameAveraging(backbone, out_type)
    a = random_graphs(4, n, seed=3)
    x = torch.randn(4, n, features, generator=torch.Generator().manual_seed(1))
    assert_equivariant(
        net, (a, x), ("edge_scalar", "node_scalar"), kind, "S(n)", n=4,
        modules=[flat], dtypes=["float64"],
    )  # fmt: skip


def test_weights_features_chunks_and_given_frames():
    a = random_graphs(5, 5, seed=4) * 0.7
    x = torch.randn(5, 5, 2, generator=torch.Generator().manual_seed(2)).double()
    net = Flat(5, 3, 2).double()
    whole = GraphFrameAveraging(net)
    y = whole(a, x)
    p = shuffles(5, 5, 0)
    moved = x[torch.arange(5)[:, None], p]
    assert torch.allclose(whole(reorder(a, p), moved), y)
    assert torch.allclose(GraphFrameAveraging(net, chunk=2)(a, x), y)
    assert torch.allclose(whole(a, x, frame=whole.frame_of(a, x)), y)


def test_padding_changes_nothing():
    a = random_graphs(3, 4, seed=5)
    padded = torch.full((3, 6, 6), torch.nan).double()
    padded[:, 1:5, 1:5] = a
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, 1:5] = True

    def backbone(a):
        weight = torch.arange(1, 5).double().outer(torch.arange(2, 6).double()).cos()
        return (a[:, :4, :4] * weight).sum((1, 2)).tanh()[:, None]

    net = GraphFrameAveraging(backbone)
    symmetric = torch.nan_to_num(padded)
    assert torch.allclose(net(symmetric, mask=mask), net(a))
    assert torch.allclose(net(padded, mask=mask), net(a))


def test_large_frames_are_sampled_without_bias():
    torch.manual_seed(0)
    a = torch.block_diag(*random_graphs(2, 3, seed=6), torch.zeros(2, 2))[None]
    net = Flat(8, 2).double()
    exact = GraphFrameAveraging(net, max_exact=10_000)(a)
    drawn = GraphFrameAveraging(net, max_exact=0, samples=3000)(a)
    assert torch.allclose(drawn, exact, atol=0.05)
    frame = graph_frame(a)
    orders = sample_orders(frame, 200)[0]
    rows = spectral_rows(a)[0]
    assert (rows[orders] == rows[orders[:1]]).all()
    assert len({tuple(o.tolist()) for o in orders}) > 1


def circulant(n, skip):
    a = torch.zeros(n, n).double()
    for i in range(n):
        for step in (1, skip):
            a[i, (i + step) % n] = a[(i + step) % n, i] = 1
    return a


def test_frames_of_circular_skip_links_are_all_orders():
    skips = (2, 3, 4, 5, 6, 9, 11, 12, 13, 16)
    frame = graph_frame(torch.stack([circulant(41, k) for k in skips]))
    everything = torch.full((10,), math.lgamma(42)).double()
    assert torch.allclose(frame.log_size, everything)


def test_roots_tell_vertex_transitive_graphs_apart():
    a = torch.stack([circulant(11, 2), circulant(11, 3)])
    assert (graph_frame(a).log_size > math.log(1e6)).all()  # all nodes alike
    net = GraphFrameAveraging(Flat(11, 2).double(), individualize=True)
    y = net(a)
    copies = net(reorder(a, shuffles(2, 11, 1)))
    assert torch.allclose(copies, y, atol=1e-10)
    assert (y[0] - y[1]).abs().max() > 1e-4


def test_empty_batches_and_single_nodes():
    net = GraphFrameAveraging(Flat(4, 2).double())
    assert net(torch.zeros(0, 4, 4).double()).shape == (0, 2)
    assert GraphFrameAveraging(Flat(1, 2).double())(torch.zeros(3, 1, 1).double()).shape


def test_gradients_reach_the_weights_of_edges():
    a = random_graphs(1, 4, seed=7) * torch.rand(4, 4).double()
    a = ((a + a.mT) / 2).requires_grad_()
    y = GraphFrameAveraging(Flat(4, 1).double())(a)
    (grad,) = torch.autograd.grad(y.sum(), a)
    assert grad.abs().sum() > 0


def test_bad_input():
    directed = torch.triu(torch.ones(1, 4, 4), 1)
    with pytest.raises(ValueError, match="directed"):
        graph_frame(directed)
    assert graph_frame(directed, symmetrize=True).order.shape == (1, 4)
    with pytest.raises(ValueError, match="features"):
        graph_frame(torch.zeros(1, 4, 4), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="shape"):
        graph_frame(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="out_type"):
        GraphFrameAveraging(nn.Identity(), "graphs")
    with pytest.raises(ValueError, match="samples"):
        GraphFrameAveraging(nn.Identity(), samples=0)
    with pytest.raises(TypeError, match="backbone"):
        GraphFrameAveraging(lambda a: None)(torch.zeros(1, 3, 3))
