"""EqMotion: graphs, variants, options and the habits of a torch module."""

import copy
import pickle

import pytest
import torch

from manifoldkit.equivariant import EqMotion, neighbor_graph
from manifoldkit.equivariant.eqmotion.inputs import dct_matrix

F64 = torch.float64


def tracks(*shape, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype).cumsum(-2)


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalize", ["sum", "mean", "sqrt"])
def test_the_complete_graph_gives_what_all_pairs_give(modes, masked, normalize):
    kw = {"n_modes": modes, "normalize_neighbors": normalize}
    model = EqMotion(5, 4, 6, 5, 2, dtype=F64, **kw)
    x = tracks(3, 4, 5, 3)
    mask = None
    if masked:
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 0]]).bool()
    dense = model(x, mask)
    complete = torch.tensor([(j, i) for i in range(4) for j in range(4)]).T
    for graph in (complete, neighbor_graph(x, k=9, mask=mask)):
        sparse = model(x, mask, edge_index=graph)
        for name in ("pred", "h", "G"):
            torch.testing.assert_close(getattr(sparse, name), getattr(dense, name))
    edges = neighbor_graph(x, k=9, mask=mask)
    sparse = model(x, mask, edge_index=edges)
    b, j, i = edges
    torch.testing.assert_close(sparse.category, dense.category[b, i, j])
    given = model(x, mask, sparse.category, edges)
    torch.testing.assert_close(given.pred, dense.pred)
    torch.testing.assert_close(model(x, mask, dense.category, edges).pred, dense.pred)


def test_a_graph_limits_what_reaches_an_agent():
    model = EqMotion(5, 4, 6, 5, 1, dtype=F64, neighbors="edge_index")
    x = tracks(1, 3, 5, 2)
    edges = torch.tensor([[1], [0]])
    category = torch.tensor([[1.0, 0.0]], dtype=F64)
    far = x.clone()
    # moved inside the scene's mean: agent 1 pulls agent 0, agent 2 pulls nobody
    out = model(x, edge_index=edges, category=category)
    far[:, 2] = far[:, 2].flip(-1) * 2
    shift = (far - x).mean((1, 2), keepdim=True)
    moved = model(far - shift, edge_index=edges, category=category)
    assert not torch.allclose(moved.pred, out.pred)  # by the mean, and so honestly
    with pytest.raises(ValueError, match="needs a graph"):
        model(x)
    none = model(x, edge_index=torch.zeros(2, 0, dtype=torch.long))
    assert none.category.shape == (0, 2)
    assert none.pred.isfinite().all()


def test_graphs_of_different_sizes_in_one_axis():
    model = EqMotion(5, 4, 6, 5, 2, dtype=F64)
    x = tracks(5, 5, 3)
    batch = torch.tensor([0, 1, 1, 0, 1])
    edges = torch.tensor([[0, 3, 1, 2, 4], [3, 0, 2, 4, 1]])
    out = model(x, edge_index=edges, batch=batch)
    first, second = batch == 0, batch == 1
    a = model(x[first], edge_index=torch.tensor([[0, 1], [1, 0]]))
    b = model(x[second], edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]))
    torch.testing.assert_close(out.pred[first], a.pred)
    torch.testing.assert_close(out.pred[second], b.pred)
    torch.testing.assert_close(out.category, torch.cat([a.category, b.category]))
    dense = model(x, batch=batch)
    torch.testing.assert_close(dense.pred[second], model(x[second]).pred)
    with pytest.raises(ValueError, match="joins two graphs"):
        model(x, edge_index=torch.tensor([[0], [1]]), batch=batch)
    with pytest.raises(ValueError, match="batch="):
        model(x[None, :3], edge_index=edges)


def test_nearest_neighbors_and_radius():
    x = torch.tensor([[0.0, 0], [1, 0], [3, 0], [50, 0]])[:, None]
    pairs = {tuple(p) for p in neighbor_graph(x, k=1)[1:].T.tolist()}
    assert pairs == {(1, 0), (0, 1), (1, 2), (2, 3)}
    pairs = {tuple(p) for p in neighbor_graph(x, radius=2.0)[1:].T.tolist()}
    assert pairs == {(1, 0), (0, 1), (2, 1), (1, 2)}
    mask = torch.tensor([True, False, True, True])
    pairs = {tuple(p) for p in neighbor_graph(x, k=1, mask=mask)[1:].T.tolist()}
    assert pairs == {(2, 0), (0, 2), (2, 3)}
    with pytest.raises(ValueError, match="found neither"):
        neighbor_graph(x)


SKELETON = {"n_categories": 4, "n_null": 2, "n_agents": 22}
PEDESTRIAN = {"n_categories": 4, "n_null": 2, "n_modes": 20}


@pytest.mark.parametrize(
    ("steps", "kw", "published", "dead"),
    [
        ((20, 20), {}, 468166, 78852),
        ((10, 10), {"channels": 32}, 316230, 56068),
        ((10, 10), {"channels": 72, **SKELETON}, 503268, 64512),
        ((25, 25), {"channels": 96, **SKELETON}, 645732, 72192),
        ((8, 12), PEDESTRIAN, 3027268, 1528000),
    ],
    ids=["particles", "molecules", "skeleton", "long skeleton", "pedestrians"],
)
def test_sizes_are_the_authors_without_what_they_never_train(
    steps, kw, published, dead
):
    model = EqMotion(*steps, **kw)
    assert sum(p.numel() for p in model.parameters()) == published - dead


@pytest.mark.parametrize("modes", [1, 3])
def test_every_parameter_is_alive(modes):
    model = EqMotion(6, 4, 8, 6, 3, n_categories=4, n_null=2, n_agents=4, n_modes=modes)
    out = model(tracks(3, 4, 6, 3, dtype=torch.float32))
    out.pred.square().mean().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


@pytest.mark.parametrize("n", range(1, 65))
def test_the_cosine_transform_is_orthonormal(n):
    from scipy.fft import dct

    d = dct_matrix(n)
    torch.testing.assert_close(d @ d.T, torch.eye(n, dtype=F64), atol=1e-13, rtol=0)
    x = tracks(n, 1).squeeze(-1)
    expected = torch.as_tensor(dct(x.numpy(), norm="ortho"))
    torch.testing.assert_close(d @ x, expected, atol=1e-11, rtol=1e-11)


def test_state_dict_pickle_and_copies():
    model = EqMotion(5, 4, 6, 5, 2, n_modes=2)
    x = tracks(2, 3, 5, 2, dtype=torch.float32)
    out = model(x).pred
    other = EqMotion(5, 4, 6, 5, 2, n_modes=2)
    other.load_state_dict(model.state_dict())
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x).pred, out, rtol=0, atol=0)
    assert not any("dct" in name for name in model.state_dict())


def test_reset_parameters_draws_from_the_same_distribution():
    torch.manual_seed(0)
    model = EqMotion(5, 4, 32, 16, 2, n_modes=3, n_agents=3)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    model.reset_parameters()
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name
        if value.numel() > 200:
            assert value.std().item() == pytest.approx(
                before[name].std().item(), rel=0.2
            )


def test_predict_restores_the_mode_and_keeps_no_graph():
    model = EqMotion(5, 4, 6, 5, 2, gumbel=True).train()
    model.layers[0].eval()
    x = tracks(2, 3, 5, 2, dtype=torch.float32)
    out = model.predict(x)
    assert not out.pred.requires_grad
    assert model.training
    assert not model.layers[0].training
    torch.testing.assert_close(out.pred, model.eval()(x).pred)


def test_gumbel_draws_one_category_a_pair():
    torch.manual_seed(0)
    model = EqMotion(5, 4, 6, 5, 2, n_categories=3, gumbel=True, dtype=F64)
    x = tracks(2, 4, 5, 3)
    for out in (model.train()(x), model.eval()(x)):
        assert ((out.category == 0) | (out.category == 1)).all()
        assert (out.category.sum(-1) == 1).all()
    loss = model.train()(x).pred.square().mean()
    loss.backward()
    assert model.reasoning.logit_out.weight.grad.abs().sum() > 0


def test_the_activation_bounds_how_sharp_categories_get():
    sharp = {}
    for activation in ("silu", None):
        torch.manual_seed(0)
        model = EqMotion(5, 4, 6, 5, category_activation=activation, dtype=F64)
        with torch.no_grad():
            model.reasoning.logit_out.bias.copy_(torch.tensor([-50.0, 0.0]))
        sharp[activation] = model(tracks(1, 3, 5, 2)).category[..., 0].max()
    assert sharp["silu"] > 0.3
    assert sharp[None] < 1e-6


@pytest.mark.parametrize("rescale", ["speed", "radius"])
def test_rescaling_adds_equivariance_under_scaling(rescale):
    model = EqMotion(5, 4, 6, 5, 2, rescale=rescale, dtype=F64)
    x = tracks(2, 3, 5, 3)
    torch.testing.assert_close(model(7 * x).pred, 7 * model(x).pred)
    still = torch.zeros(1, 3, 5, 3, dtype=F64)
    assert model(still).pred.isfinite().all()
    plain = EqMotion(5, 4, 6, 5, 2, rescale=None, dtype=F64)
    assert not torch.allclose(plain(7 * x).pred, 7 * plain(x).pred, rtol=1e-3)


def test_angles_are_accurate_where_acos_is_not():
    from manifoldkit.equivariant.eqmotion.inputs import invariants

    true = torch.logspace(-6, 0.49, 50, dtype=F64)
    a = torch.stack([torch.ones_like(true), torch.zeros_like(true)])
    b = torch.stack([true.cos(), true.sin()])
    v = torch.stack([a, b], -1)[:, None].float() * 0.3
    _, angle = invariants(v, "atan2")
    assert (angle[0, :, 1] - true).abs().max() < 3e-7
    # the authors' angle has an epsilon in it: compare with its own formula in float64
    d = v.double()
    speed = d.norm(dim=0)
    cosine = (d[..., 0] * d[..., 1]).sum(0) / (speed + 1e-6).prod(-1)
    _, ours = invariants(v, "reference")
    assert (ours[0, :, 1] - torch.acos(cosine[0])).abs().max() < 1e-6
    single = (v[..., 0] * v[..., 1]).sum(0) / (v.norm(dim=0) + 1e-6).prod(-1)
    assert (torch.acos(single[0]) - torch.acos(cosine[0])).abs().max() > 1e-5


def test_angle_option_keeps_equivariance_and_finite_gradients():
    model = EqMotion(5, 4, 6, 5, 2, angle="atan2", dtype=F64)
    x = tracks(2, 3, 5, 3).requires_grad_()
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=F64))
    torch.testing.assert_close(model(x @ q.T).pred, model(x).pred @ q.T)
    straight = torch.arange(5.0, dtype=F64)[:, None] * torch.ones(1, 2, 1, 3)
    straight = straight.double().requires_grad_()
    (grad,) = torch.autograd.grad(model(straight).pred.sum(), straight)
    assert grad.isfinite().all()


def test_without_the_cosine_transform():
    model = EqMotion(5, 4, 6, 5, 2, use_dct=False, dtype=F64)
    x = tracks(2, 3, 5, 3)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=F64))
    torch.testing.assert_close(model(x @ q.T + 3).pred, model(x).pred @ q.T + 3)


def test_second_derivatives():
    model = EqMotion(3, 2, 4, 3, 2, dtype=F64, n_modes=2)
    x = tracks(1, 3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x).pred, x)
    assert torch.autograd.gradgradcheck(lambda x: model(x).pred.sum(), x, atol=1e-4)
