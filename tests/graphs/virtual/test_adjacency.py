import copy
import os
import pickle
import warnings

import numpy as np
import pytest
import torch

from manifoldkit.graphs import (
    SemiAdaptiveAdjacency,
    gaussian_kernel_adjacency,
    normalize_adjacency,
    receptive_field,
    semi_adaptive_adjacency,
)

N, NV, D = 7, 3, 4


def road(n=N, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(n, n, generator=g, dtype=dtype)
    return torch.where(a > 0.6, a, 0.0)


def embeddings(n=N + NV, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, D, generator=g, dtype=torch.float64)


def make(a=None, seed=2, **kw):
    kw = {"num_virtual": NV, "embed_dim": D} | kw
    a = road() if a is None else a
    return SemiAdaptiveAdjacency(a, generator=torch.Generator().manual_seed(seed), **kw)


def test_the_learned_links_go_one_way():
    e1, e2 = embeddings()
    a = semi_adaptive_adjacency(road(), e1, e2, mode="adaptive")
    expected = torch.relu(e1 @ e2.T - e2 @ e1.T)
    torch.testing.assert_close(a, expected)
    assert not ((a > 0) & (a.T > 0)).any()
    assert (a.diagonal() == 0).all()
    off = ~torch.eye(N + NV, dtype=torch.bool)
    assert ((a > 0) | (a.T > 0))[off].all()


def test_semi_keeps_the_roads_and_learns_the_rest():
    e1, e2 = embeddings()
    whole = semi_adaptive_adjacency(road(), e1, e2, mode="adaptive")
    semi = semi_adaptive_adjacency(road(), e1, e2)
    assert (semi[:N, :N] == road()).all()
    assert (semi[:N, N:] == whole[:N, N:]).all()
    assert (semi[N:] == whole[N:]).all()


def test_threshold_ones_and_distance():
    e1, e2 = embeddings()
    cut = semi_adaptive_adjacency(road(), e1, e2, threshold=1.0)
    links = cut[:N, N:]
    assert ((links == 0) | (links >= 1)).all()
    assert (links > 0).any()
    ones = semi_adaptive_adjacency(road(), e1[: N + 1], e2[: N + 1], mode="all_ones")
    assert (ones[:N, N] == 1).all()
    assert (ones[N, :N] == 1).all()
    assert ones[N, N] == 0
    assert semi_adaptive_adjacency(road(), e1, e2, mode="distance").shape == (N, N)


def test_normalizations_by_their_definitions():
    a = road()
    plus = a + torch.eye(N, dtype=a.dtype)
    torch.testing.assert_close(
        normalize_adjacency(a, "row"), plus / plus.sum(1)[:, None]
    )
    r, c = plus.sum(1), plus.sum(0)
    expected = plus / (r[:, None] * c).sqrt()
    torch.testing.assert_close(normalize_adjacency(a, "sym"), expected)
    assert (normalize_adjacency(a, "none", self_loops=False) == a).all()


def test_gradients_reach_the_embeddings():
    e1, e2 = embeddings()
    e1.requires_grad_()
    e2.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: normalize_adjacency(semi_adaptive_adjacency(road(), x, y)),
        (e1, e2),
    )


OPTIONS = [
    {},
    {"normalize": "sym"},
    {"normalize": "none"},
    {"gate": True},
    {"bidirectional": True},
    {"mode": "all_ones"},
    {"mode": "distance"},
    {"num_virtual": 0},
    {"threshold": 0.4},
    {"sparse_topk": 2},
    {"self_loops": False},
    {"direction": "sender"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_sparse_and_dense_propagate_alike(options, reverse):
    dense, sparse = make(**options), make(road().to_sparse(), **options)
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, 5, dense.num_nodes, 3, generator=g, dtype=torch.float64)
    x.requires_grad_()
    results = []
    for module in (dense, sparse):
        out = module.propagation(reverse)(x)
        parts = [x, *(p for p in module.parameters() if p.numel())]
        grads = torch.autograd.grad((out**2).sum(), parts, allow_unused=True)
        results.append([out, *(g for g in grads if g is not None)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_sparse_form_lists_the_same_weights(options):
    dense = make(**{k: v for k, v in options.items() if k != "sparse_topk"})
    if "sparse_topk" in options:
        dense = make(**options)
        (source, target), weight = dense()
        a = torch.zeros(dense.num_nodes, dense.num_nodes, dtype=weight.dtype)
        a[target, source] = weight
    else:
        a = dense()
    (source, target), weight = make(road().to_sparse(), **options)()
    assert (weight != 0).all()
    b = torch.zeros_like(a).index_put((target, source), weight, accumulate=True)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [{}, {"gate": True}, {"mode": "adaptive"}], ids=str)
def test_rows_are_averages(options):
    a = make(**options)()
    torch.testing.assert_close(a.sum(1), torch.ones(N + NV, dtype=a.dtype))


def test_propagation_is_the_product_with_the_matrix():
    module = make()
    x = torch.randn(N + NV, 2, dtype=torch.float64)
    torch.testing.assert_close(module.propagation()(x), module() @ x)


def test_topk_keeps_the_largest_links():
    full, few = make().explain(), make(sparse_topk=1).explain()
    best = full.reads.max(1).values
    torch.testing.assert_close(few.reads.sum(1), best)
    assert ((few.reads > 0).sum(1) <= 1).all()
    mode = make(mode="adaptive", sparse_topk=2)
    _, weight = mode()
    assert len(weight) <= 3 * (N + NV)  # two links and the self loop


def test_one_virtual_node_read_both_ways_connects_all_pairs():
    a = make(num_virtual=1, bidirectional=True)
    assert receptive_field(a(), 2, N) == 1.0
    assert receptive_field(make(num_virtual=1)(), 2, N) < 1.0
    assert receptive_field(make(num_virtual=1, mode="all_ones")(), 2, N) == 1.0


def test_share_of_connected_pairs_of_one_way_links():
    """Without roads a pair meets at one of nv nodes with probability 1/4 each."""
    n, share = 60, {}
    for nv in (1, 10):
        values = [
            receptive_field(
                SemiAdaptiveAdjacency(
                    torch.zeros(n, n),
                    nv,
                    generator=torch.Generator().manual_seed(seed),
                )(),
                2,
                n,
            )
            for seed in range(10)
        ]
        share[nv] = np.mean(values)
    assert share[1] == pytest.approx(0.25, abs=0.02)
    assert share[10] == pytest.approx(1 - 0.75**10, abs=0.03)


def test_the_gate_keeps_the_weight_of_the_roads():
    kept = {}
    roads = torch.diag(torch.ones(29, dtype=torch.float64), 1)
    roads = roads + roads.T
    for gate in (False, True):
        module = make(roads, num_virtual=10, gate=gate)
        a = module().detach()
        kept[gate] = float((a @ a).diagonal()[:30].mean())
    plain = make(roads, mode="distance")
    alone = float((plain().detach() @ plain().detach()).diagonal().mean())
    assert kept[False] < kept[True] < alone
    assert alone - kept[True] < 0.5 * (alone - kept[False])
    share = torch.sigmoid(torch.tensor(-2.0))
    roads = make(roads, num_virtual=10, gate=True)()[:30, :30].sum(1)
    torch.testing.assert_close(roads.detach().float(), (1 - share).expand(30))


@pytest.mark.skipif(
    not os.environ.get("MANIFOLDKIT_DATA"), reason="the traffic archives are not here"
)
@pytest.mark.parametrize(
    ("name", "shares", "kept"),
    [
        ("fetch_metr_la", (0.108, 0.332, 0.939), 0.152),
        ("fetch_the_hague", (0.265, 0.460, 0.951), 0.287),
    ],
)
def test_shares_on_the_real_road_graphs(name, shares, kept):
    from manifoldkit import datasets
    from manifoldkit.exceptions import DatasetNotFoundError

    try:
        data = getattr(datasets, name)(download=False)
    except DatasetNotFoundError:
        pytest.skip("the archive is not here")
    a = torch.as_tensor(data.adjacency)
    n = len(a)
    plain = SemiAdaptiveAdjacency(a, mode="distance")().detach()
    assert receptive_field(plain, 2) == pytest.approx(shares[0], abs=6e-4)
    assert float((plain @ plain).diagonal().mean()) == pytest.approx(kept, abs=6e-4)
    ones = SemiAdaptiveAdjacency(a, 1, mode="all_ones")()
    assert receptive_field(ones, 2, n) == 1
    for nv, expected in zip((1, 10), shares[1:], strict=True):
        found = [
            receptive_field(
                SemiAdaptiveAdjacency(
                    a, nv, generator=torch.Generator().manual_seed(s)
                )(),
                2,
                n,
            )
            for s in range(4)
        ]
        assert np.mean(found) == pytest.approx(expected, abs=0.03)


def test_explain_names_the_strongest_sensors():
    module = make()
    weights = module.explain(k=2)
    assert weights.reads.shape == weights.writes.shape == (N, NV)
    torch.testing.assert_close(weights.total, (weights.reads + weights.writes).sum(0))
    best = (weights.reads + weights.writes).argmax(0)
    assert (weights.top[:, 0] == best).all()
    raw = semi_adaptive_adjacency(
        road(), module.e1.detach(), module.e2.detach(), mode="semi"
    )
    torch.testing.assert_close(weights.reads, raw[:N, N:])
    torch.testing.assert_close(weights.writes, raw[N:, :N].T)


def test_the_map_is_drawn():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = make().plot(np.linspace(0, 1, N), np.linspace(0, 1, N))
    assert ax.get_xlabel() == "longitude (degrees)"
    roads = ax.collections[0].get_segments()
    assert len(roads) == int((road().fill_diagonal_(0) > 0).sum())
    plt.close(ax.figure)
    sparse = make(road().to_sparse()).plot(np.linspace(0, 1, N), np.zeros(N))
    assert len(sparse.collections[0].get_segments()) == len(roads)
    plt.close(sparse.figure)
    with pytest.raises(ValueError, match="node: expected 0 to 2, found 9"):
        make().plot(np.zeros(N), np.zeros(N), node=9)
    with pytest.raises(ValueError, match="lat, lon"):
        make().plot(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="no virtual nodes"):
        make(mode="distance").plot(np.zeros(N), np.zeros(N))


def test_the_module_is_a_good_citizen():
    module = make(road().to_sparse(), gate=True)
    x = torch.randn(N + NV, 2, dtype=torch.float64)
    expected = module.propagation()(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other.propagation()(x), expected)
    fresh = make(road(seed=9).to_sparse(), seed=5, gate=True)
    with pytest.raises(RuntimeError):  # another road graph has another number of edges
        fresh.load_state_dict(module.state_dict())
    dense, other = make(), make(road(seed=9), seed=5)
    other.load_state_dict(dense.state_dict())
    torch.testing.assert_close(other(), dense())
    assert "semi" in repr(dense)
    before = dense.e1.clone()
    dense.reset_parameters(torch.Generator().manual_seed(8))
    assert not torch.equal(before, dense.e1)


def test_gaussian_kernel():
    d = torch.tensor([[0.0, 2.0, torch.inf], [1.0, 0.0, torch.nan], [9.0, 1.0, 0.0]])
    sigma = d[torch.isfinite(d)].double().std(correction=0).item()
    a = gaussian_kernel_adjacency(d)
    assert a[0, 1] == pytest.approx(np.exp(-((2 / sigma) ** 2)), rel=1e-6)
    assert a[0, 2] == a[1, 2] == a[2, 0] == 0
    with pytest.raises(ValueError, match="negative"):
        gaussian_kernel_adjacency(-d)
    with pytest.raises(ValueError, match="found none"):
        gaussian_kernel_adjacency(torch.full((2, 2), torch.inf))
    with pytest.raises(ValueError, match="sigma"):
        gaussian_kernel_adjacency(torch.zeros(2, 2))


def test_an_isolated_sensor_listens_to_itself():
    a = torch.zeros(3, 3)
    assert (SemiAdaptiveAdjacency(a, 0)() == torch.eye(3)).all()
    bare = SemiAdaptiveAdjacency(a, 0, self_loops=False)
    assert (bare() == 0).all()
    assert SemiAdaptiveAdjacency(torch.ones(1, 1), 2)().shape == (3, 3)


def test_no_virtual_link_is_worth_a_warning():
    with pytest.warns(UserWarning, match="no virtual node has a link"):
        make(threshold=100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(num_virtual=0, threshold=100.0)


@pytest.mark.parametrize(
    ("a", "options", "message"),
    [
        (torch.ones(2, 3), {}, "square"),
        (torch.full((2, 2), torch.nan), {}, "not finite"),
        (torch.full((2, 2), torch.inf), {}, "not finite"),
        (-torch.ones(2, 2), {}, r"a_dist\[0, 0\] is -1"),
        (-torch.ones(2, 2).to_sparse(), {}, "none negative"),
        (torch.ones(2, 3).to_sparse(), {}, "square"),
        (torch.eye(2), {"num_virtual": -1}, "num_virtual"),
        (torch.eye(2), {"embed_dim": 0}, "embed_dim"),
        (torch.eye(2), {"mode": "other"}, "mode"),
        (torch.eye(2), {"normalize": "col"}, "normalize"),
        (torch.eye(2), {"gate": True, "normalize": "sym"}, "gate"),
        (torch.eye(2), {"sparse_topk": 0}, "sparse_topk"),
        (torch.eye(2), {"direction": "up"}, "direction"),
        (torch.eye(2).to_sparse(), {"mode": "adaptive"}, "dense"),
    ],
)
def test_bad_input(a, options, message):
    with pytest.raises(ValueError, match=message):
        SemiAdaptiveAdjacency(a, **options)


@pytest.mark.parametrize(
    "a",
    [
        np.eye(2),
        torch.ones(2, 2, dtype=torch.int64),
        torch.ones(2, 2, dtype=torch.int64).to_sparse(),
    ],
    ids=["array", "integers", "sparse integers"],
)
def test_a_road_graph_is_a_tensor_of_floating_point_numbers(a):
    with pytest.raises(TypeError, match="a_dist: expected"):
        SemiAdaptiveAdjacency(a)


def test_bad_weights_to_normalize():
    with pytest.raises(ValueError, match="square"):
        normalize_adjacency(torch.ones(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        normalize_adjacency(torch.full((2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"a\[0, 1, 1\] is -1: expected no negative"):
        normalize_adjacency(torch.diag(torch.tensor([1.0, -1.0]))[None])
    with pytest.raises(ValueError, match="normalize"):
        normalize_adjacency(road(), "column")


@pytest.mark.compile
@pytest.mark.parametrize("options", [{}, {"gate": True}, {"bidirectional": True}])
def test_the_compiler_takes_it_whole(options):
    torch.compiler.reset()
    module = make(**options)
    whole = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(), module())
    e1, e2 = embeddings()

    def weights(e1, e2):
        return normalize_adjacency(semi_adaptive_adjacency(road(), e1, e2))

    compiled = torch.compile(weights, backend="aot_eager")
    torch.testing.assert_close(compiled(e1, e2), weights(e1, e2))


def test_bad_embeddings():
    e1, e2 = embeddings()
    with pytest.raises(ValueError, match="e2 is not finite"):
        semi_adaptive_adjacency(road(), e1, e2 / 0)
    with pytest.raises(ValueError, match=r"e1, e2: expected shape \(N \+ nv, d\)"):
        semi_adaptive_adjacency(road(), *embeddings(N - 1))
    with pytest.raises(ValueError, match="mode"):
        semi_adaptive_adjacency(road(), *embeddings(), mode="some")
    with pytest.raises(TypeError, match="floating-point"):
        semi_adaptive_adjacency(torch.ones(2, 2, dtype=torch.int64), *embeddings())
