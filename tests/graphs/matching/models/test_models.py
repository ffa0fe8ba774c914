import pickle
import warnings
from copy import deepcopy

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from manifoldkit.graphs import GMNMatch, IsoNet, IsoNetPP, PackedGraphs

CASES = {
    "isonetpp-node": (IsoNetPP, "node", 9, 2498),
    "isonetpp-edge": (IsoNetPP, "edge", 24, 4908),
    "isonet-node": (IsoNet, "node", 9, 1868),
    "isonet-edge": (IsoNet, "edge", 24, 2028),
    "gmn": (GMNMatch, "node", 9, 2050),
}
ALIGNING = {k: v for k, v in CASES.items() if k != "gmn"}


def make(which, semantics="monomorphism", seed=0):
    cls, kind, *_ = CASES[which]
    torch.manual_seed(seed)
    options = {} if which == "gmn" else {"semantics": semantics}
    return cls(kind, **options).double().eval()


@pytest.fixture(scope="module")
def sets(random_graphs):
    return random_graphs(0, 12, 3, 6), random_graphs(1, 12, 5, 9)


@pytest.mark.parametrize("which", CASES)
def test_the_authors_weights_give_the_authors_scores(which, sets, reference):
    cls, kind, padded, count = CASES[which]
    torch.manual_seed(0)
    literal = reference.Literal(which, padded, dtype=torch.float64)
    model = cls.from_upstream_state_dict(
        literal.state_dict(), kind=kind, padded_size=padded
    )
    assert sum(p.numel() for p in model.parameters()) == count
    expected = literal(*sets)
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        model.score_pairs(*sets), expected.detach(), rtol=0, atol=1e-9
    )
    query, corpus = (PackedGraphs(g, dtype=torch.float64) for g in sets)
    index = range(12)
    ours, _ = model(
        query.batch(index, kind == "edge"), corpus.batch(index, kind == "edge")
    )
    w = torch.randn(12, dtype=torch.float64)
    (ours * w).sum().backward()
    (expected * w).sum().backward()
    theirs = literal.prop_layer._message_net[0].weight.grad
    torch.testing.assert_close(model.propagation.message.weight.grad, theirs)
    theirs = literal.encoder["MLP1"][0].weight.grad
    torch.testing.assert_close(model.node_encoder.weight.grad, theirs)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["node", "edge"])
def test_few_rounds_and_layers(kind, layers, rounds, sets, reference):
    torch.manual_seed(0)
    padded = 9 if kind == "node" else 24
    sizes = {"rounds": rounds, "layers": layers}
    literal = reference.Literal(
        f"isonetpp-{kind}", padded, dtype=torch.float64, **sizes
    )
    model = IsoNetPP.from_upstream_state_dict(
        literal.state_dict(), kind=kind, padded_size=padded, **sizes
    )
    expected = literal(*sets).detach()
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(model.score_pairs(*sets), expected, **close)
    torch.testing.assert_close(model.score_matrix(*sets).diagonal(), expected, **close)


@pytest.mark.parametrize("which", ["isonetpp-edge", "isonet-edge"])
def test_edges_are_padded_to_the_most_that_any_graph_has(which, sets, reference):
    cls, kind, *_ = CASES[which]
    largest = max(len(edges) for side in sets for _, edges in side)
    torch.manual_seed(0)
    literal = reference.Literal(which, largest, dtype=torch.float64)
    arrays = {k: v.detach().numpy() for k, v in literal.state_dict().items()}
    model = cls.from_upstream_state_dict(arrays, kind=kind)
    expected = literal(*sets).detach()
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(
        model.score_pairs(*sets, batch_size=5), expected, **close
    )
    matrix = model.score_matrix(*sets, batch_size=5)
    torch.testing.assert_close(matrix.diagonal(), expected, **close)
    batches = [
        PackedGraphs(s, dtype=torch.float64).batch(range(12), True) for s in sets
    ]
    torch.testing.assert_close(model(*batches)[0].detach(), expected, **close)


def test_gradients_follow_the_mode(sets, reference):
    model = IsoNetPP()
    assert model.score_pairs(*sets).requires_grad
    with torch.no_grad():
        assert not model.score_pairs(*sets).requires_grad
    model.eval()
    assert not model.score_pairs(*sets).requires_grad
    assert model.score_pairs(*sets, grad=True).requires_grad
    state = reference.Literal("isonetpp-node", 9).state_dict()
    assert not IsoNetPP.from_upstream_state_dict(state).training


def test_names_that_share_a_tensor_and_names_that_do_not_fit(reference):
    state = reference.Literal("isonetpp-node", 9).state_dict()
    renamed = {
        k.replace("sinkhorn_feature_layers", "scoring_alignment_preprocessor"): v
        for k, v in state.items()
    }
    twice = {
        k.replace("sinkhorn_feature_layers", "interaction_alignment_preprocessor"): v
        for k, v in state.items()
    }
    model = IsoNetPP.from_upstream_state_dict(renamed | twice)
    assert torch.equal(
        model.align_net[0].weight, state["sinkhorn_feature_layers.0.weight"]
    )
    with pytest.raises(ValueError, match="no place for"):
        IsoNet.from_upstream_state_dict(state, kind="node")
    with pytest.raises(ValueError, match=r"encoder\.MLP2"):
        IsoNetPP.from_upstream_state_dict(state, kind="edge")
    with pytest.raises(ValueError, match="authors' code"):
        IsoNetPP.from_upstream_state_dict({})


def test_parity_enlarges_the_padding_instead_of_cutting(reference, random_graphs):
    state = reference.Literal("isonetpp-node", 30, dtype=torch.float64).state_dict()
    large = random_graphs(2, 2, 25, 30, 0.1)
    model = IsoNetPP.from_upstream_state_dict(state, padded_size=4)
    assert model.score_pairs(large, large).isfinite().all()


@pytest.mark.parametrize("semantics", ["monomorphism", "induced"])
@pytest.mark.parametrize("which", CASES)
def test_a_pair_depends_on_itself_alone(which, semantics, sets, random_graphs):
    model = make(which, semantics)
    alone = torch.cat([model.score_pairs([q], [c]) for q, c in zip(*sets, strict=True)])
    company = random_graphs(3, 4, 12, 15)
    together = model.score_pairs(sets[0] + company, sets[1] + company)[:12]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    # in one batch, with the padding of the largest graph
    packed = [PackedGraphs(s + company, dtype=torch.float64) for s in sets]
    edges = model.kind == "edge"
    index = range(16)
    batch, _ = model(packed[0].batch(index, edges), packed[1].batch(index, edges))
    torch.testing.assert_close(batch[:12], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("semantics", ["monomorphism", "induced"])
@pytest.mark.parametrize("which", CASES)
def test_the_order_of_nodes_and_edges_does_not_matter(which, semantics, sets):
    model, rng = make(which, semantics), np.random.default_rng(0)

    def shuffled(graph):
        n, edges = graph
        edges = rng.permutation(n)[edges][rng.permutation(len(edges))]
        return n, np.where(rng.random((len(edges), 1)) < 0.5, edges, edges[:, ::-1])

    other = [[shuffled(g) for g in side] for side in sets]
    torch.testing.assert_close(
        model.score_pairs(*other), model.score_pairs(*sets), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("semantics", ["monomorphism", "induced"])
@pytest.mark.parametrize("which", CASES)
def test_the_matrix_of_scores_is_that_of_the_pairs(which, semantics, sets):
    model = make(which, semantics)
    pairs = np.stack(np.indices((12, 12)), -1).reshape(-1, 2)
    seen = []
    matrix = model.score_matrix(*sets, batch_size=20, callback=seen.append)
    expected = model.score_pairs(*sets, pairs)
    torch.testing.assert_close(matrix.view(-1), expected, rtol=0, atol=1e-10)
    assert sum(seen) == 144


@pytest.mark.parametrize("which", ALIGNING)
def test_alignments_have_the_sizes_of_the_graphs(which, sets):
    model = make(which)
    plans = model.align_pairs(*sets)
    for rounds, q, c in zip(plans, *sets, strict=True):
        assert len(rounds) == (3 if "pp" in which else 1)
        size = (len(q[1]), len(c[1])) if model.kind == "edge" else (q[0], c[0])
        assert rounds[-1].shape == size
        assert rounds[-1].sum(0).max() < 1 + 1e-9  # columns are exact
        if size[0] <= size[1]:
            assert rounds[-1].sum() == pytest.approx(size[0], rel=0.5)


@pytest.mark.parametrize("which", CASES)
def test_every_weight_has_a_gradient(which, sets):
    model = make(which, "induced")
    model.score_pairs(*sets, grad=True).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        # the last bias of the readout cancels between the two graphs
        assert p.grad.any() or name == "readout.out.bias", name


@pytest.mark.parametrize("kind", ["node", "edge"])
def test_gradients_against_finite_differences(kind, sets):
    torch.manual_seed(1)
    model = IsoNetPP(
        kind, 2, 2, dim=3, message_dim=4, align_dim=3, tau=0.8, semantics="induced"
    ).double()
    query, corpus = (PackedGraphs(s[:3], dtype=torch.float64) for s in sets)
    batches = [g.batch(range(3), kind == "edge") for g in (query, corpus)]
    names = [n for n, _ in model.named_parameters()]

    def f(*values):
        new = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, new, tuple(batches))[0]

    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())
    assert torch.autograd.gradcheck(f, values, fast_mode=True)


def test_structure_counts_missing_and_further_edges():
    from manifoldkit.graphs.matching.models.alignment import (
        edge_structure,
        node_structure,
    )

    path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])[None]
    triangle = 1 - torch.eye(3)[None]
    plan = torch.eye(3)[None]
    for q, c, expected in (
        (path, triangle, (0, 1)),
        (triangle, path, (1, 0)),
        (path, path, (0, 0)),
    ):
        missing, extra = node_structure(plan, q, c)
        assert (float(missing), float(extra)) == expected
    edges_path = torch.tensor([[1.0, 1, 0], [0, 1, 1]])[None]
    edges_triangle = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]])[None]
    missing, extra = edge_structure(torch.eye(2, 3)[None], edges_path, edges_triangle)
    assert (float(missing), float(extra)) == (0, 1)
    apart = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])[None]
    missing, extra = edge_structure(torch.eye(2)[None], edges_path, apart)
    assert (float(missing), float(extra)) == (1, 0)


def test_features_of_nodes_and_edges_are_used(sets):
    def featured(graph, scale):
        n, edges = graph
        index = torch.from_numpy(np.concatenate([edges, edges[:, ::-1]]).T.copy())
        attr = scale * torch.arange(len(edges)).float().repeat(2)[:, None]
        return Data(x=torch.eye(9)[:n], edge_index=index, edge_attr=attr)

    torch.manual_seed(0)
    for model in (IsoNetPP("edge", node_dim=9), IsoNet("node", node_dim=9)):
        scores = [
            model.score_pairs(
                [featured(g, s) for g in sets[0]], [featured(g, s) for g in sets[1]]
            )
            for s in (0.0, 1.0)
        ]
        assert not torch.allclose(*scores)
    with pytest.raises(ValueError, match="queries: expected 9 features a node"):
        model.score_pairs(*sets)


@pytest.mark.parametrize("which", CASES)
def test_graphs_with_next_to_nothing(which):
    model = make(which, "induced")
    small = [(0, []), (1, []), (2, [(0, 1)]), nx.path_graph(5), (3, [])]
    pairs = np.stack(np.indices((5, 5)), -1).reshape(-1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scores = model.score_pairs(small, small, pairs).view(5, 5)
    assert scores.isfinite().all()
    if which != "gmn":
        assert (scores[0] == 0).all()  # nothing is contained everywhere
    if model.kind == "edge":
        with pytest.warns(UserWarning, match="without any edge"):
            zero = model.score_pairs([(3, [])], [nx.path_graph(5)])
        assert float(zero) == 0


def test_noise_only_in_training(sets):
    query, corpus = (PackedGraphs(s) for s in sets)
    torch.manual_seed(0)
    model = IsoNetPP(noise=1.0, generator=torch.Generator().manual_seed(0))
    batches = query.batch(range(12)), corpus.batch(range(12))
    noisy, again = model(*batches)[0], model(*batches)[0]
    assert not torch.allclose(noisy, again)
    model.eval()
    torch.testing.assert_close(model(*batches)[0], model(*batches)[0])


def test_copies_and_pickles(sets):
    model = make("isonetpp-edge", "induced")
    expected = model.score_pairs(*sets)
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(copy.score_pairs(*sets), expected)
    other = make("isonetpp-edge", "induced", seed=1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.score_pairs(*sets), expected)
    torch.manual_seed(5)
    other.reset_parameters()
    assert not torch.allclose(other.score_pairs(*sets), expected)


def test_no_pairs_and_no_graphs(sets):
    model = make("isonetpp-node")
    assert model.score_pairs(*sets, np.zeros((0, 2), int)).shape == (0,)
    assert model.score_pairs([], []).shape == (0,)
    assert model.score_matrix([], sets[1]).shape == (0, 12)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: IsoNetPP("face"), "kind"),
        (lambda s: IsoNetPP(rounds=0), "rounds"),
        (lambda s: IsoNetPP(layers=0), "layers"),
        (lambda s: IsoNetPP(semantics="both"), "semantics"),
        (lambda s: IsoNetPP(rounds=2.5), "rounds"),
        (lambda s: IsoNet(layers="5"), "layers"),
        (lambda s: IsoNetPP(noise=-1.0), "noise"),
        (lambda s: IsoNetPP(tau=0.0), "tau"),
        (lambda s: IsoNet(n_iter=0), "n_iter"),
        (lambda s: IsoNetPP(parity=True, semantics="induced"), "parity"),
        (lambda s: GMNMatch("edge"), "GMNMatch attends to nodes"),
        (lambda s: IsoNetPP().score_pairs(s[0][:2], s[1]), "equal length"),
        (lambda s: IsoNetPP().score_pairs(*s, [[0, 12]]), "indices 12 to 12 of corpus"),
        (lambda s: IsoNetPP().score_pairs(*s, [[-1, 0]]), "of queries"),
        (lambda s: IsoNetPP().score_pairs(*s, [0, 1]), r"shape \(P, 2\)"),
    ],
)
def test_bad_input(call, match, sets):
    with pytest.raises(ValueError, match=match):
        call(sets)


def test_weights_that_are_not_finite_are_named(sets):
    model = IsoNetPP()
    with torch.no_grad():
        model.node_encoder.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"node_encoder\.bias is not finite"):
        model.score_pairs(*sets)


def test_training_ranks_a_small_set(random_graphs):
    """A few steps tell graphs that hold a triangle from those that do not."""
    from manifoldkit.graphs import pairwise_ranking_loss

    triangle = (3, [(0, 1), (1, 2), (0, 2)])
    corpus = random_graphs(5, 30, 6, 8, 0.3)
    truth = [bool(any(nx.triangles(nx.Graph(e.tolist())).values())) for _, e in corpus]
    labels = torch.tensor(truth)
    torch.manual_seed(0)
    model = IsoNetPP("edge", 2, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    query, packed = PackedGraphs([triangle] * 30), PackedGraphs(corpus)
    batches = query.batch(range(30), True), packed.batch(range(30), True)
    first = None
    for _ in range(25):
        loss = pairwise_ranking_loss(model(*batches)[0], labels)
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first


@pytest.mark.compile
@pytest.mark.filterwarnings("default")
def test_compiles_without_a_break(sets):
    torch.manual_seed(0)
    kind = "edge"
    model = IsoNetPP(kind, 2, 2)
    batches = [PackedGraphs(s).batch(range(12), kind == "edge") for s in sets]
    expected = model(*batches)[0]
    expected.sum().backward()
    gradient = model.propagation.message.weight.grad.clone()
    model.zero_grad()
    torch.compiler.reset()
    found = torch.compile(model, backend="eager", fullgraph=True)(*batches)[0]
    found.sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(model.propagation.message.weight.grad, gradient, **close)


@pytest.mark.parametrize("network", [IsoNet, IsoNetPP, GMNMatch])
@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("layers", 2.5, "an integer >= 1, found 2.5"),
        ("dim", True, "an integer >= 1, found True"),
        ("padded_size", 0, "an integer >= 1, found 0"),
        ("tau", 0.0, "a positive number, found 0.0"),
    ],
)
def test_bad_sizes_are_named(network, option, value, wanted):
    with pytest.raises(ValueError, match=f"{option}: expected {wanted}"):
        network(**{option: value})


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"noise: expected a number >= 0, found -1\.0"):
        IsoNetPP(noise=-1.0)
