"""What EqMotion does with input that is unusual or wrong (one test a case)."""

import numpy as np
import pytest
import torch

from manifoldkit.equivariant import EqMotion, neighbor_graph
from manifoldkit.equivariant.eqmotion.inputs import read_tracks

F64 = torch.float64


def tracks(*shape, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype).cumsum(-2)


@pytest.fixture(params=[1, 3], ids=["one mode", "three modes"])
def model(request):
    torch.manual_seed(0)
    return EqMotion(5, 4, 6, 5, 2, n_modes=request.param, dtype=F64).eval()


@pytest.mark.parametrize("shape", [(5, 3), (1, 2, 3, 5, 3), (2, 3, 5, 0)])
def test_rank(model, shape):
    with pytest.raises(ValueError, match=r"x: expected positions of shape \(B, N, T"):
        model(torch.zeros(shape, dtype=F64))


def test_number_of_steps(model):
    with pytest.raises(ValueError, match=r"past_len = 5 .* found \(2, 3, 6, 3\)"):
        model(tracks(2, 3, 6, 3))


def test_one_step_has_no_velocity():
    with pytest.raises(ValueError, match="past_len: expected an integer >= 2"):
        EqMotion(1, 4)


@pytest.mark.parametrize(
    ("kw", "match"),
    [
        ({"hidden": 7}, "hidden"),
        ({"channels": 0}, "channels"),
        ({"n_null": 2}, "n_null"),
        ({"tau": 0.0}, "tau"),
        ({"angle": "acos"}, "angle"),
        ({"neighbors": "knn"}, "neighbors"),
        ({"missing": "zero"}, "missing"),
        ({"normalize_neighbors": "max"}, "normalize_neighbors"),
        ({"rescale": "box"}, "rescale"),
        ({"n_modes": 2.0}, "n_modes"),
    ],
)
def test_options(kw, match):
    with pytest.raises(ValueError, match=match):
        EqMotion(5, 4, **kw)


def test_one_agent(model):
    out = model(tracks(2, 1, 5, 3))
    assert out.category.shape == (2, 1, 1, 2)
    assert out.pred.isfinite().all()


@pytest.mark.parametrize(("b", "n"), [(0, 3), (2, 0), (0, 0)])
def test_nobody(model, b, n):
    out = model(tracks(b, n, 5, 3))
    modes = (3,) if model.n_modes == 3 else ()
    assert out.pred.shape == (b, n, *modes, 4, 3)
    assert out.category.shape == (b, n, n, 2)
    assert out.h.shape == (b, n, 6)
    assert out.G.shape == (b, n, *modes, 5, 3)


def test_a_sample_without_valid_agents_is_zero_and_harms_no_gradient(model):
    x = tracks(2, 3, 5, 3).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = model(x, mask)
    assert (out.pred[1] == 0).all()
    out.pred.square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[~mask] == 0).all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_padding_is_irrelevant(model, garbage):
    x, mask = tracks(1, 5, 5, 3), torch.tensor([[True, False, True, True, False]])
    expected = model(x[:, mask[0]])
    x[~mask] = garbage
    out = model(x, mask)
    eps = 16 * torch.finfo(F64).eps * expected.pred.abs().max()
    assert (out.pred[:, mask[0]] - expected.pred).abs().max() <= eps
    assert (out.pred[~mask] == 0).all()
    assert (out.category[0, ~mask[0]] == 0).all()
    by_length = model(torch.cat([x[:, mask[0]], x[:, ~mask[0]]], 1), lengths=[3])
    torch.testing.assert_close(by_length.pred[:, :3], expected.pred)


def test_lengths_and_masks(model):
    x = tracks(2, 3, 5, 3)
    with pytest.raises(ValueError, match="found both"):
        model(x, torch.ones(2, 3, dtype=torch.bool), lengths=[3, 3])
    with pytest.raises(ValueError, match="lengths"):
        model(x, lengths=[3, 4])
    with pytest.raises(TypeError, match="booleans"):
        model(x, torch.ones(2, 3))
    with pytest.raises(ValueError, match="mask: expected shape"):
        model(x, torch.ones(3, 2, dtype=torch.bool))


def test_partial_tracks_are_refused_by_default(model):
    mask = torch.ones(1, 3, 5, dtype=torch.bool)
    mask[0, 1, 2] = False
    with pytest.raises(ValueError, match=r"mask\[0, 1\]: 4 of 5 steps"):
        model(tracks(1, 3, 5, 3), mask)
    full = model(tracks(1, 3, 5, 3), torch.ones(1, 3, 5, dtype=torch.bool))
    torch.testing.assert_close(full.pred, model(tracks(1, 3, 5, 3)).pred)


def test_partial_tracks_are_completed():
    x = torch.tensor([torch.nan, 2, torch.nan, torch.nan, 8, torch.nan])
    seen = ~x.isnan()

    def complete(how):
        result = read_tracks(
            x[None, None, :, None], seen[None, None], None, 6, None, how, True
        )
        assert result.mask.all()
        return result.x.flatten().tolist()

    assert complete("hold") == [2, 2, 2, 2, 8, 8]
    assert complete("linear") == [2, 2, 4, 6, 8, 8]


def test_partial_tracks_in_the_model():
    model = EqMotion(5, 4, 6, 5, 2, missing="linear", dtype=F64).eval()
    x = tracks(1, 3, 5, 3)
    x[0, 0, 2] = (x[0, 0, 1] + x[0, 0, 3]) / 2
    holes, mask = x.clone(), torch.ones(1, 3, 5, dtype=torch.bool)
    holes[0, 0, 2], mask[0, 0, 2] = torch.nan, False
    torch.testing.assert_close(model(holes, mask).pred, model(x).pred)
    mask[0, 1] = False  # never seen: no agent at all
    out = model(holes, mask)
    assert (out.pred[0, 1] == 0).all()
    torch.testing.assert_close(out.pred[:, [0, 2]], model(x[:, [0, 2]]).pred)


def test_values_that_are_not_finite(model):
    x = tracks(2, 3, 5, 3)
    x[1, 2, 0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x\[1, 2, 0\] is not finite"):
        model(x)
    model.train()(x)  # not read while training
    loose = EqMotion(5, 4, 6, 5, 2, validate=None, dtype=F64).eval()
    assert loose(x).pred.isnan().any()


def test_coincident_agents_and_agents_at_rest(model):
    for x in (
        torch.zeros(1, 3, 5, 3, dtype=F64),
        tracks(1, 1, 5, 3).repeat(1, 3, 1, 1),
        torch.arange(5.0, dtype=F64)[:, None].expand(1, 3, 5, 3).clone(),
    ):
        x.requires_grad_()
        out = model(x)
        assert out.pred.isfinite().all()
        (grad,) = torch.autograd.grad(out.pred.square().sum(), x)
        assert grad.isfinite().all()


def test_integers_are_refused_and_arrays_taken(model):
    x = tracks(2, 3, 5, 3)
    with pytest.raises(TypeError, match="floating-point"):
        model(x.long())
    torch.testing.assert_close(model(x.numpy()).pred, model(x).pred)
    assert np.isfinite(model(x.numpy()).pred.detach().numpy()).all()


def test_dtypes_come_back(model):
    x = tracks(2, 3, 5, 3)
    single = EqMotion(5, 4, 6, 5, 2).eval()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for m in (model, single):
            pred = m(x.to(dtype)).pred
            assert pred.dtype == dtype
            assert pred.isfinite().all()


def test_half_precision_input_is_computed_in_single():
    single = EqMotion(5, 4, 6, 5, 2).eval()
    x = tracks(2, 3, 5, 3).half()
    expected = single(x.float()).pred
    torch.testing.assert_close(single(x).pred, expected.half())


def test_strided_input(model):
    x = tracks(2, 3, 5, 3)
    odd = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    torch.testing.assert_close(model(odd).pred, model(x).pred)


def test_far_from_the_origin():
    torch.manual_seed(0)
    single = EqMotion(5, 4, 6, 5, 2).eval()
    x = tracks(2, 3, 5, 3)
    near = single(x.float()).pred.double()
    far = single(x + 1e6).pred - 1e6
    assert (far - near).abs().max() < 1e-3


def test_without_a_batch(model):
    x = tracks(2, 3, 5, 3)
    batched, single = model(x), model(x[1])
    for name in ("pred", "category", "h", "G"):
        torch.testing.assert_close(getattr(single, name), getattr(batched, name)[1])
    mask = torch.tensor([True, False, True])
    assert (model(x[1], mask).pred[1] == 0).all()


def test_given_categories_are_checked(model):
    x = tracks(1, 3, 5, 3)
    wrong = torch.full((1, 3, 3, 3), 1 / 3, dtype=F64)
    with pytest.raises(ValueError, match=r"category: expected shape \(1, 3, 3, 2\)"):
        model(x, category=wrong)
    with pytest.raises(ValueError, match="sum to 1"):
        model(x, category=torch.full((1, 3, 3, 2), 0.6, dtype=F64))
    model(x, category=torch.full((1, 3, 3, 2), 0.50001, dtype=F64))


def test_edges_are_checked(model):
    x = tracks(1, 3, 5, 3)
    with pytest.raises(ValueError, match="edge_index: expected integers"):
        model(x, edge_index=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected agents 0 to 2"):
        model(x, edge_index=torch.tensor([[0], [3]]))
    with pytest.raises(ValueError, match=r"integers of shape \(2, E\).* \(4, 3\)"):
        model(x, edge_index=torch.zeros(4, 3, dtype=torch.long))


def test_named_agents_are_counted():
    model = EqMotion(5, 4, 6, 5, 2, n_agents=4)
    with pytest.raises(ValueError, match="n_agents = 4"):
        model(tracks(1, 3, 5, 3, dtype=torch.float32))


def test_input_is_left_as_it_was(model):
    x = tracks(2, 3, 5, 3)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[0, 1] = False
    category = torch.full((2, 3, 3, 2), 0.5, dtype=F64)
    before = [a.clone() for a in (x, mask, category)]
    model(x, mask, category)
    for a, b in zip((x, mask, category), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(model):
    x, mask = tracks(2, 3, 5, 3), torch.tensor([[True, True, False]] * 2)
    expected, out = model(x, mask), model.cuda()(x.cuda(), mask)
    assert out.pred.is_cuda
    torch.testing.assert_close(out.pred.cpu(), expected.pred)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"batch": torch.tensor([0, 0, -1])}, "batch: expected integers from 0 on"),
        ({"batch": torch.zeros(3)}, "batch: expected integers from 0 on"),
        ({"batch": [0, 0]}, "batch: expected one graph number an agent"),
        (
            {"edge_index": torch.zeros(3, 2).long()},
            r"edge_index: with batch= .* \(2, E\)",
        ),
        (
            {"edge_index": torch.tensor([[0], [7]])},
            "edge_index: expected agents 0 to 2",
        ),
        ({"edge_index": torch.zeros(2, 1)}, "edge_index: expected integers"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"mask: expected shape \(N,\)"),
    ],
)
def test_batched_graphs_that_do_not_fit(model, given, match):
    with pytest.raises(ValueError, match=match):
        model(tracks(3, 5, 3), **({"batch": [0, 0, 1]} | given))


def test_batched_graphs_may_be_arrays(model):
    x, batch = tracks(3, 5, 3), torch.tensor([1, 0, 1])
    mask = np.array([True, False, True])
    wanted = model(x, torch.from_numpy(mask), batch=batch).pred
    assert torch.equal(model(x, mask, batch=batch.numpy()).pred, wanted)


def test_neighbors_of_agents_that_are_there():
    x = tracks(4, 5, 3)
    mask = np.array([True, True, False, True])
    edges = neighbor_graph(x, k=2, mask=mask)
    assert edges.shape == (3, 6)
    assert not (edges[1:] == 2).any()
    for wrong in (torch.ones(4), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="mask: expected booleans of shape"):
            neighbor_graph(x, k=2, mask=wrong)
    with pytest.raises(TypeError, match="k: expected"):
        neighbor_graph(x, k=True)
