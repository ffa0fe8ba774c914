"""Parameters on manifolds: construction, attaching, and what torch does to modules."""

import copy
import io
import pickle

import geoopt
import pytest
import torch
from torch import nn

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    GLPlus,
    Grassmann,
    ManifoldParameter,
    Oblique,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    as_parameter,
    attach,
    manifold_of,
)


def orthonormal_rows(w, tol=1e-5):
    w = w.detach().flatten(1)
    return torch.allclose(w @ w.mT, torch.eye(len(w), dtype=w.dtype), atol=tol)


# ------------------------------------------------------------------ as_parameter


def test_as_parameter_projects(generator):
    x = torch.randn(2, 5, 3, generator=generator)
    p = as_parameter(x, Stiefel())
    assert isinstance(p, ManifoldParameter)
    assert isinstance(p, nn.Parameter)
    assert p.requires_grad
    assert manifold_of(p) == Stiefel()
    assert Stiefel().check_point_on_manifold(p.data)
    assert not as_parameter(x, Stiefel(), requires_grad=False).requires_grad
    # geoopt's manifolds too
    assert manifold_of(as_parameter(x, geoopt.Sphere())) is not None
    # a point passes untouched without projection
    assert torch.equal(as_parameter(p.data, Stiefel(), project=False).data, p.data)


@pytest.mark.parametrize(
    ("x", "manifold", "error", "match"),
    [
        (torch.ones(2, 3), Stiefel(), ValueError, "n >= p"),
        (torch.ones(2, 3), Grassmann(), ValueError, "n >= p"),
        (torch.ones(2, 3), SPD(), ValueError, "square"),
        (torch.ones(2, 3), SpecialOrthogonal(), ValueError, "square"),
        (torch.ones(2, 3), GLPlus(), ValueError, "square"),
        (torch.diag(torch.tensor([1.0, -1.0])), GLPlus(), ValueError, "det"),
        (torch.diag(torch.tensor([1.0, -1.0])), GLPlus("polar"), ValueError, "det"),
        (torch.diag(torch.tensor([1.0, -1.0])), SpecialLinear(), ValueError, "det"),
        (torch.full((3,), torch.nan), Sphere(), ValueError, "NaN"),
        (torch.full((3, 3), torch.inf), SPD(), ValueError, "infinity"),
        (torch.tensor(1.0), Sphere(), ValueError, "entries"),
        (
            torch.ones(3, dtype=torch.complex64),
            Sphere(),
            NotImplementedError,
            "complex",
        ),
        (torch.ones(3, dtype=torch.int64), Sphere(), TypeError, "floating"),
        ([1.0, 2.0], Sphere(), TypeError, "tensor"),
        (torch.ones(3), "sphere", TypeError, "Manifold"),
    ],
)
def test_as_parameter_refuses(x, manifold, error, match):
    with pytest.raises(error, match=match):
        as_parameter(x, manifold)


def test_errors_name_manifold_shape_and_violation():
    with pytest.raises(NotOnManifoldError) as caught:
        as_parameter(2 * torch.eye(3)[:, :2], Stiefel(), project=False)
    for text in ("(3, 2)", "Stiefel", "3.0e+00", "project=True"):
        assert text in str(caught.value)
    with pytest.raises(NotOnManifoldError, match="positive definite"):
        as_parameter(-torch.eye(2), SPD(), project=False)


def test_projection_of_singular_matrices_is_definite():
    for dtype in (torch.float32, torch.float64):
        for x in (
            torch.zeros(3, 3),
            torch.diag(torch.tensor([1.0, 0, -2])),
            -torch.eye(3),
        ):
            p = as_parameter(x.to(dtype), SPD())
            assert torch.linalg.cholesky_ex(p.data)[1] == 0
    assert torch.isfinite(as_parameter(torch.zeros(3), Sphere())).all()


def test_half_precision_parameters(generator):
    x = torch.randn(6, 3, generator=generator)
    for dtype in (torch.bfloat16, torch.float16):
        assert as_parameter(x.to(dtype), Stiefel()).dtype == dtype


def test_manifold_of_plain_tensors():
    assert manifold_of(nn.Parameter(torch.ones(2))) == Euclidean()
    assert manifold_of(torch.ones(2)) == Euclidean()


# ------------------------------------------------------------------ attach: layouts


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 3), (3, 7), (4, 4)])
def test_linear_layout(n_in, n_out):
    layer = nn.Linear(n_in, n_out)
    weight = attach(layer, "weight", Stiefel())
    assert weight is layer.weight
    assert weight.shape == (n_out, n_in)
    assert orthonormal_rows(weight if n_out <= n_in else weight.mT)
    assert layer(torch.ones(2, n_in)).shape == (2, n_out)


def test_convolution_layout():
    for layer in (nn.Conv2d(2, 5, 3), nn.Conv1d(2, 8, 3), nn.ConvTranspose2d(2, 3, 2)):
        weight = attach(layer, "weight", Stiefel())
        flat = weight.detach().flatten(1)
        assert orthonormal_rows(flat if flat.shape[0] <= flat.shape[1] else flat.mT)
    layer = nn.Conv2d(2, 5, 3)
    weight = attach(layer, "weight", Sphere()).detach()
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), torch.ones(5))


def test_the_parameter_class_is_that_of_geoopt():
    assert ManifoldParameter is geoopt.ManifoldParameter


def test_views_are_called_by_keyword_too():
    weight = attach(nn.Linear(5, 3, bias=False), "weight", Stiefel())
    u = weight.proju(torch.ones(3, 5)).detach()
    moved = weight.manifold.retr(weight.data, u=0.1 * u)
    torch.testing.assert_close(moved, weight.retr(0.1 * u).detach())
    assert orthonormal_rows(moved)


def test_explicit_layouts():
    layer = nn.Linear(4, 4)
    assert attach(layer, "weight", Oblique(), "transpose") is layer.weight
    torch.testing.assert_close(layer.weight.detach().norm(dim=1), torch.ones(4))
    assert (
        manifold_of(attach(nn.Linear(3, 5), "weight", Stiefel(), "as_is")) == Stiefel()
    )
    with pytest.raises(ValueError, match="n >= p"):
        attach(nn.Linear(5, 3), "weight", Stiefel(), "as_is")
    with pytest.raises(ValueError, match="transpose"):
        attach(nn.Linear(5, 3), "weight", Sphere(), "transpose")
    with pytest.raises(ValueError, match="layout"):
        attach(nn.Linear(5, 3), "weight", Sphere(), "rows")


def test_equal_layouts_group_together():
    a, b, c = nn.Linear(7, 3), nn.Linear(7, 3), nn.Linear(6, 3)
    keys = [attach(m, "weight", Stiefel()).manifold.group_key() for m in (a, b, c)]
    assert keys[0] == keys[1] != keys[2]


def test_submodules_and_bad_names():
    model = nn.Sequential(nn.Linear(5, 3), nn.ReLU())
    weight = attach(model, "0.weight", Stiefel())
    assert weight is model[0].weight
    with pytest.raises(AttributeError, match="'gain'"):
        attach(model[0], "gain", Stiefel())
    with pytest.raises(ValueError, match="lazy"):
        attach(nn.LazyLinear(3), "weight", Stiefel())
    with pytest.raises(TypeError, match="Manifold"):
        attach(model[0], "weight", "stiefel")


def test_identity_ties_and_optimizers_survive():
    """The parameter object stays the same."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight
    optimizer = geoopt.optim.RiemannianAdam(model.parameters(), lr=0.1)
    attach(model, "0.weight", SpecialOrthogonal())
    assert model[1].weight is model[0].weight is before
    assert len(list(model.parameters())) == 1
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    assert SpecialOrthogonal().check_point_on_manifold(before.data)


# ------------------------------------------------------------------ attach: survival


def attached(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3))
    attach(model, "0.weight", Stiefel())
    attach(model, "2.weight", SpecialOrthogonal())
    return model


def constrained(model):
    a, b = model[0].weight, model[2].weight
    assert isinstance(a, ManifoldParameter)
    assert isinstance(b, ManifoldParameter)
    assert a.manifold.check_point_on_manifold(a.detach())
    assert b.manifold.check_point_on_manifold(b.detach())
    return True


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict(assign):
    model, other = attached(0), attached(1)
    state = other.state_dict()
    assert set(state) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    model.load_state_dict(state, assign=assign)
    assert constrained(model)
    torch.testing.assert_close(model[0].weight.data, other[0].weight.data)
    with torch.inference_mode():
        model(torch.ones(1, 6))


@pytest.mark.parametrize("assign", [False, True])
def test_loading_a_plain_checkpoint_projects_and_warns(assign):
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3))
    model = attached()
    with pytest.warns(UserWarning, match=r"Linear\.weight was loaded.*projected"):
        model.load_state_dict(copy.deepcopy(plain.state_dict()), assign=assign)
    assert constrained(model)


def test_deepcopy_pickle_and_torch_save():
    model = attached()
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies.append(torch.load(buffer, weights_only=False))
    for twin in copies:
        assert constrained(twin)
        assert twin[0].weight is not model[0].weight
        assert twin[0].weight.manifold == model[0].weight.manifold
        torch.testing.assert_close(twin[0].weight.data, model[0].weight.data)
        twin.load_state_dict(attached(5).state_dict(), assign=True)
        assert constrained(twin)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    model.load_state_dict(torch.load(buffer, weights_only=True))


def test_conversion():
    model = attached().double()
    assert model[0].weight.dtype == torch.float64
    assert constrained(model)


@pytest.mark.parametrize(
    "flag",
    [
        "set_overwrite_module_params_on_conversion",
        "set_swap_module_params_on_conversion",
    ],
)
def test_conversion_that_replaces_parameters(flag):
    """The constraint is back at the next forward pass."""
    setter = getattr(torch.__future__, flag)
    model = attached()
    setter(True)
    try:
        model = model.double()
    finally:
        setter(False)
    model(torch.ones(1, 6).double())
    assert constrained(model)


def test_learned_metric_matrix(make_spd):
    """M is a parameter of the manifold module and receives gradients."""
    m = as_parameter(make_spd(n=3), SPD())
    model = nn.Module()
    model.geometry = SPD("gbw", M=m)
    assert [name for name, _ in model.named_parameters()] == ["geometry.M"]
    x, y = make_spd(n=3), make_spd(n=3)
    model.geometry.dist(x, y).backward()
    assert m.grad.abs().sum() > 0

    def distance(c):
        return SPD("gbw", M=nn.Parameter(c)).dist(x, y)

    step = torch.zeros(3, 3).double()
    step[0, 1] = step[1, 0] = 1e-6
    slope = (distance(m.data + step) - distance(m.data - step)) / 2e-6
    torch.testing.assert_close(
        (m.grad * step).sum() / 1e-6, slope, rtol=1e-6, atol=1e-8
    )
    twin = copy.deepcopy(model)
    assert twin.geometry.M is not m
    assert twin.geometry != model.geometry  # it learns another matrix
    assert model.geometry == SPD("gbw", M=m)


def test_constant_metric_matrix_follows_the_points(make_spd):
    m = make_spd(n=3)
    manifold = SPD("gbw", M=m)
    assert list(manifold.parameters()) == []
    x = make_spd(n=3, dtype=torch.float32)
    assert manifold.dist(x, 2 * x).dtype == torch.float32
    assert SPD("gbw", M=m.clone()) == manifold
    assert SPD("gbw", M=2 * m) != manifold
