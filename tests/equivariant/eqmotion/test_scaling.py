"""The unit of the tracks does not change the answer, and scenes may differ in shape."""

import numpy as np
import pytest
import torch
from sklearn.utils import get_tags

from manifoldkit.equivariant import EqMotion, MotionForecaster
from manifoldkit.equivariant.eqmotion.layers import PairLinear, silu_linear
from manifoldkit.equivariant.eqmotion.scaling import oversize, typical_size

F64 = torch.float64
SMALL = {"hidden": 8, "channels": 6, "n_layers": 2, "batch_size": 8, "max_epochs": 2}


def scenes(n=12, agents=3, steps=8, dims=2, seed=0):
    rng = np.random.default_rng(seed)
    start, speed = rng.standard_normal((2, n, agents, 1, dims))
    return 5 * start + 0.4 * speed * np.arange(steps)[:, None]


def tracks(*shape, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype).cumsum(-2)


def forecaster(**kw):
    return MotionForecaster(**({"random_state": 0, "history": 5} | SMALL | kw))


@pytest.mark.parametrize("kw", [{}, {"n_modes": 2}, {"rescale": "speed"}])
@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e3, 1e9, 1e30])
def test_a_network_does_not_see_the_unit(kw, unit):
    torch.manual_seed(0)
    model = EqMotion(5, 4, 16, 8, 2, **kw).eval()
    x = tracks(3, 4, 5, 3, dtype=torch.float32)
    pred = model(unit * x).pred
    torch.testing.assert_close(pred / unit, model(x).pred, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_no_square_of_a_size_overflows_or_vanishes(unit):
    torch.manual_seed(0)
    model = EqMotion(5, 4, 6, 5, 2, dtype=F64).eval()
    x = tracks(2, 3, 5, 2)
    torch.testing.assert_close(model(unit * x).pred / unit, model(x).pred)


def test_only_scenes_beyond_the_limit_are_shrunk():
    x = torch.zeros(3, 1, 2, 2, dtype=F64)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = (
        -torch.tensor([1e-3, 9.0, 5e4]),
        torch.tensor([1e-3, 9.0, 5e4]),
    )
    seen = torch.ones(3, 1, 2, dtype=torch.bool)
    assert oversize(x, seen).flatten().tolist() == [1.0, 1.0, 5e3]


def test_the_default_network_is_finite_on_millimeters_and_for_scenes_at_rest():
    torch.manual_seed(0)
    model = EqMotion(5, 3).eval()
    x = 1000 * tracks(4, 3, 5, 2, dtype=torch.float32)
    x[0] = 7.0
    x[1, 1:] = x[1, :1]  # all agents go together
    assert model(x).pred.isfinite().all()


@pytest.mark.parametrize("unit", [1e-9, 1e3, 1e9])
def test_a_forecaster_does_not_see_the_unit(unit):
    X = scenes()
    one, other = forecaster().fit(X), forecaster().fit(unit * X)
    np.testing.assert_allclose(
        other.predict(unit * X) / unit, one.predict(X), rtol=1e-4, atol=1e-4
    )
    assert other.unit_ == pytest.approx(unit * one.unit_)
    assert other.score(unit * X) == pytest.approx(unit * one.score(X), rel=1e-4)
    losses = [[row["train_loss"] for row in m.history_] for m in (one, other)]
    np.testing.assert_allclose(losses[1], unit * np.array(losses[0]), rtol=1e-4)


def test_a_scene_of_another_size_is_forecast_and_changes_no_other():
    X = scenes()
    model = forecaster(hidden=32, channels=16, n_layers=4).fit(X)
    alone = model.predict(X)
    far = X.copy()
    far[3] *= 1e9
    company = model.predict(far)
    others = np.arange(len(X)) != 3
    np.testing.assert_allclose(company[others], alone[others], atol=1e-5)
    assert np.isfinite(company).all()
    assert np.abs(company[3]).max() < 1e3 * np.abs(far[3]).max()


def test_the_unit_is_the_median_size_whatever_one_scene_does():
    X = scenes(9)
    unit = typical_size(X)
    X[0] *= 1e200
    assert typical_size(X) == pytest.approx(unit, rel=0.5)
    assert typical_size(np.zeros((2, 3, 4, 2))) == 1.0
    X = np.zeros((1, 1, 2, 2))
    X[0, 0, :, 0] = [-3, 3]
    assert typical_size(np.concatenate([X, np.full_like(X, np.nan)])) == 3.0


def test_a_unit_of_ones_own():
    X = scenes()
    assert forecaster(unit=2.5).fit(X).unit_ == 2.5
    assert forecaster(unit=None).fit(X).unit_ is None
    for unit in (0, -1.0, "speed"):
        with pytest.raises(ValueError, match=r"unit \('median'"):
            forecaster(unit=unit).fit(X)
    with pytest.raises(ValueError, match="'rescal'"):
        forecaster(model_options={"rescal": "speed"}).fit(X)


def test_weights_remember_how_they_were_trained():
    x = tracks(2, 3, 5, 2)
    old = EqMotion(5, 4, 6, 5, 2, rescale=None, dtype=F64).eval()
    new = EqMotion(5, 4, 6, 5, 2, dtype=F64).eval()
    assert new.rescale == "radius"
    first = old.state_dict()
    first.pop("rescale_code")  # as version 0.1.0 wrote it
    for state in (first, old.state_dict()):
        fresh = EqMotion(5, 4, 6, 5, 2, dtype=F64).eval()
        fresh.load_state_dict(state)
        assert fresh.rescale is None
        torch.testing.assert_close(fresh(x).pred, old(x).pred)
        again = EqMotion(5, 4, 6, 5, 2, dtype=F64).eval()
        again.load_state_dict(fresh.state_dict())
        torch.testing.assert_close(again(x).pred, old(x).pred)
    fresh.load_state_dict(new.state_dict())
    torch.testing.assert_close(fresh(x).pred, new(x).pred)
    stays = EqMotion(5, 4, 6, 5, 2, rescale="speed", dtype=F64)
    stays.load_state_dict(first)
    assert stays.rescale == "speed"


def ragged(dims=(2, 2, 3, 2)):
    sizes = (3, 1, 4, 2)
    return [
        scenes(1, n, 8, d, seed=i)[0]
        for i, (n, d) in enumerate(zip(sizes, dims, strict=True))
    ]


@pytest.mark.parametrize("dims", [(2, 2, 2, 2), (2, 2, 3, 2)])
@pytest.mark.parametrize("kw", [{}, {"n_modes": 2}, {"agent_embedding": True}])
def test_scenes_of_different_shapes_in_company_and_alone(dims, kw):
    X = ragged(dims)
    model = forecaster(**kw).fit(X)
    found = model.predict(X)
    assert [f.shape[0] for f in found] == [3, 1, 4, 2]
    assert [f.shape[-1] for f in found] == list(dims)
    for one, scene in zip(found, X, strict=True):
        alone = model.predict([scene])[0]
        np.testing.assert_allclose(alone, one, atol=1e-5)
    apart = forecaster(**kw).fit([x[:, :5] for x in X], [x[:, 5:] for x in X])
    np.testing.assert_allclose(apart.predict(X)[0], found[0])
    assert np.isfinite(model.score(X))
    pairs = model.predict_interactions(X)
    assert [p.shape for p in pairs] == [(3, 3, 2), (1, 1, 2), (4, 4, 2), (2, 2, 2)]


def test_scenes_that_do_not_fit_are_named():
    X = ragged()
    with pytest.raises(ValueError, match=r"X\[1\]: expected as many steps as X\[0\]"):
        forecaster().fit([X[0], X[1][:, :6], X[2]])
    with pytest.raises(ValueError, match=r"X\[2\]: expected numbers"):
        forecaster().fit([X[0], X[1], np.array([["a"]])])
    with pytest.raises(ValueError, match="need model='eqmotion'"):
        forecaster(model=lambda p, f: torch.nn.Identity()).fit(X)
    X[2][1, 0, 1] = np.inf
    with pytest.raises(ValueError, match=r"X\[2\]\[1, 0, 1\] is infinite"):
        forecaster().fit(X)


def test_a_second_fit_forgets_the_first():
    model = forecaster(history=None).fit(scenes(steps=8, dims=3))
    model.fit(scenes(steps=12))
    assert (model.history_len_, model.horizon_len_, model.n_dims_) == (6, 6, 2)


def test_tags_tell_scikit_learn_what_is_taken():
    tags = get_tags(MotionForecaster()).input_tags
    assert not tags.two_d_array
    assert tags.allow_nan


VARIANTS = [{}, {"n_modes": 2}, {"angle": "atan2"}, {"n_categories": 3, "n_null": 1}]


@pytest.mark.parametrize("kw", VARIANTS)
@pytest.mark.parametrize("agents", [3, 9])
def test_derivatives_of_all_orders_and_directions_agree(kw, agents):
    torch.manual_seed(0)
    model = EqMotion(4, 2, 4, 3, 2, dtype=F64, **kw).eval()
    x, t = tracks(1, agents, 4, 2), tracks(1, agents, 4, 2, seed=1)

    def total(z):
        return model(z).pred.square().sum()

    gradient = torch.func.grad(total)(x)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(gradient, plain)
    (graph,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
    torch.testing.assert_close(graph, plain)  # another formula of SiLU's derivative
    slope = torch.func.jvp(total, (x,), (t,))[1]
    torch.testing.assert_close(slope, (gradient * t).sum())
    (twice,) = torch.autograd.grad((graph * t).sum(), leaf)
    forward = torch.func.jvp(torch.func.grad(total), (x,), (t,))[1]
    torch.testing.assert_close(twice, forward)
    h = 1e-6
    numeric = (
        torch.func.grad(total)(x + h * t) - torch.func.grad(total)(x - h * t)
    ) / (2 * h)
    torch.testing.assert_close(twice, numeric, rtol=1e-5, atol=1e-5)
    both = torch.stack([x, 2 * x + 1])
    each = torch.stack([torch.func.grad(total)(z) for z in both])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(both), each)


def test_second_derivatives_are_finite_for_agents_at_rest_and_masked_ones():
    torch.manual_seed(0)
    model = EqMotion(4, 2, 4, 3, 2, dtype=F64)
    x = tracks(2, 3, 4, 2)
    x[0, 0] = 1.0
    x.requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, True]])
    (g,) = torch.autograd.grad(model(x, mask).pred.square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert g.isfinite().all()
    assert h.isfinite().all()


def test_silu_linear_has_right_derivatives_of_two_orders():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2, dtype=F64)
    x = torch.randn(4, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: silu_linear(z, layer), x)
    assert torch.autograd.gradgradcheck(lambda z: silu_linear(z, layer), x)
    total = silu_linear(x, layer).square().sum()  # both formulas of the derivative
    (plain,) = torch.autograd.grad(total, x, retain_graph=True)
    (graph,) = torch.autograd.grad(total, x, create_graph=True)
    torch.testing.assert_close(graph, plain)
    assert PairLinear(2, 3, 4).weight.shape == (4, 7)


@pytest.mark.parametrize(
    "kw",
    [
        {},
        pytest.param({"n_modes": 2}, marks=pytest.mark.slow),
        pytest.param({"missing": "linear"}, marks=pytest.mark.slow),
    ],
)
def test_export_equals_eager_for_every_batch_size(kw):
    torch.manual_seed(0)
    model = EqMotion(5, 4, 8, 6, 2, **kw).eval()
    x = tracks(2, 3, 5, 2, dtype=torch.float32)
    seen = torch.ones(2, 3, 5, dtype=torch.bool)
    seen[0, 1] = False
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(
        model, (x, seen), dynamic_shapes=({0: batch}, {0: batch})
    ).module()
    if kw.get("missing"):
        seen[1, 0, 2:4] = False
    more, mask = torch.cat([x, 2 * x, x + 1]), torch.cat([seen] * 3)
    for args in ((x, seen), (more, mask)):
        torch.testing.assert_close(graph(*args)[0], model(*args).pred)
