"""Bad input gets one clear error."""

import geoopt
import pytest
import torch

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.manifolds import SPD, GLPlus, Sphere, Stiefel
from manifoldkit.optim import LandingSGD, RiemannianAdam, RiemannianSGD, StiefelMuon

CLASSES = [RiemannianAdam, RiemannianSGD, StiefelMuon, LandingSGD]


def _point():
    return geoopt.ManifoldParameter(torch.eye(4, 2), manifold=Stiefel())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1.0}, "lr: expected a number >= 0, found -1.0"),
        ({"lr": float("nan")}, "lr: expected a number >= 0, found (nan|'fast')"),
        ({"lr": "fast"}, "lr: expected a number >= 0, found (nan|'fast')"),
        ({"lr": torch.ones(2)}, "lr: expected one number"),
        ({"weight_decay": -0.1}, "weight_decay: expected a number >= 0"),
        ({"decay_mode": "L2"}, "decay_mode: expected one of"),
        ({"transport": "parallel"}, "transport: "),
        ({"nonfinite": "ignore"}, "nonfinite: expected one of"),
        ({"stabilize": -3}, "stabilize: expected an integer >= 1, found -3"),
        ({"grad_clip": 0.0}, "grad_clip: expected a positive number"),
        ({"differentiable": True}, "differentiable"),
        ({"views": None}, "views: expected True or False"),
        ({"master_points": 1}, "master_points: expected True or False"),
    ],
)
def test_bad_common_options(cls, options, match):
    with pytest.raises(ValueError, match=match):
        cls([_point()], **options)


@pytest.mark.parametrize("cls", CLASSES)
def test_unknown_options_raise(cls):
    with pytest.raises(TypeError, match="variant"):
        cls([_point()], variant="schedulefree")
    with pytest.raises(TypeError, match=r"unknown options \['learning_rate'\]"):
        cls([{"params": [_point()], "learning_rate": 0.1}])


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (RiemannianAdam, {"betas": (1.0, 0.9)}, r"betas\[0\]: expected a number in"),
        (RiemannianAdam, {"betas": (0.9, -0.1)}, r"betas\[1\]"),
        (RiemannianAdam, {"betas": (0.9,)}, "betas: expected two numbers"),
        (RiemannianAdam, {"eps": -1e-8}, "eps: expected"),
        (RiemannianAdam, {"moment": "matrix"}, "moment: expected one of"),
        (RiemannianSGD, {"momentum": -0.9}, "momentum: expected"),
        (RiemannianSGD, {"nesterov": True}, "nesterov: needs momentum > 0"),
        (
            RiemannianSGD,
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            "nesterov: needs",
        ),
        (StiefelMuon, {"momentum": 1.0}, r"momentum: expected a number in \[0, 1\)"),
        (StiefelMuon, {"lmo": "exact"}, "lmo: expected one of"),
        (StiefelMuon, {"ns_steps": 0}, "ns_steps: expected an integer >= 1"),
        (
            LandingSGD,
            {"eps_safe": 1.5},
            r"eps_safe: expected a number in \(0, 1\), found 1.5",
        ),
        (LandingSGD, {"attraction": -1.0}, "attraction: expected"),
        (LandingSGD, {"retraction": "qr"}, "retraction: LandingSGD has none"),
    ],
)
def test_bad_options_of_one_class(cls, options, match):
    with pytest.raises(ValueError, match=match):
        cls([_point()], **options)


def test_retraction_must_exist():
    with pytest.raises(ValueError, match="retraction: "):
        RiemannianAdam([_point()], retraction="magic")
    sphere = geoopt.ManifoldParameter(torch.eye(3), manifold=Sphere())
    with pytest.raises(ValueError, match=r'retraction: .* offers "exp" or its own'):
        RiemannianAdam([sphere], retraction="qr")


def test_parameters_must_be_points():
    with pytest.raises(ValueError, match="empty parameter list"):
        RiemannianAdam([])
    off = geoopt.ManifoldParameter(2 * torch.eye(4, 2), manifold=Stiefel())
    with pytest.raises(
        NotOnManifoldError,
        match=r"params\[1\] of group 0: a tensor of shape \(4, 2\) is not on Stiefel",
    ):
        RiemannianAdam([_point(), off])
    for manifold in (SPD(), GLPlus()):
        bad = geoopt.ManifoldParameter(
            torch.diag(torch.tensor([1.0, -1.0])), manifold=manifold
        )
        with pytest.raises(NotOnManifoldError):
            RiemannianAdam([bad])
    nan = geoopt.ManifoldParameter(torch.full((3,), torch.nan), manifold=Sphere())
    with pytest.raises(ValueError, match="NaN"):
        RiemannianAdam([nan])


def test_complex_and_integer_points_are_refused():
    z = geoopt.ManifoldParameter(
        torch.eye(3, dtype=torch.complex64), manifold=Sphere(), requires_grad=False
    )
    with pytest.raises(NotImplementedError, match="complex points are not supported"):
        RiemannianAdam([z])
    i = geoopt.ManifoldParameter(
        torch.eye(3, dtype=torch.int64), manifold=Sphere(), requires_grad=False
    )
    with pytest.raises(TypeError, match="expected floating-point numbers"):
        RiemannianAdam([i])


def test_a_refused_group_is_not_added():
    optimizer = RiemannianAdam([_point()])
    off = geoopt.ManifoldParameter(2 * torch.eye(4, 2), manifold=Stiefel())
    with pytest.raises(NotOnManifoldError):
        optimizer.add_param_group({"params": [off]})
    assert len(optimizer.param_groups) == 1
    optimizer.step()


def test_raise_policy_names_the_parameter_and_moves_nothing():
    a, b = _point(), _point()
    a.grad = torch.ones(4, 2)
    b.grad = torch.full((4, 2), torch.nan)
    with pytest.raises(RuntimeError, match=r"params\[1\] of group 0 \(shape \(4, 2\)"):
        RiemannianAdam([a, b], nonfinite="raise").step()
    assert torch.equal(a.data, torch.eye(4, 2))
