"""Constructors and methods refuse what they cannot use, and say why."""

import geoopt
import pytest
import torch

from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    GLPlus,
    Grassmann,
    Oblique,
    PositiveReals,
    Product,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    as_parameter,
)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Sphere(0.0), ValueError, "radius"),
        (lambda: Oblique(float("nan")), ValueError, "radius"),
        (lambda: Stiefel("frobenius"), ValueError, "metric.*'canonical'.*'frobenius'"),
        (lambda: Stiefel(retraction="svd"), ValueError, "retraction"),
        (lambda: Grassmann("cayley"), ValueError, "retraction"),
        (lambda: SpecialOrthogonal(scale="degrees"), ValueError, "scale"),
        (lambda: GLPlus("right"), ValueError, "metric"),
        (lambda: GLPlus(retraction="qr"), ValueError, "retraction"),
        (lambda: SpecialLinear("qr"), ValueError, "retraction"),
        (lambda: SPD("euclid"), ValueError, "metric.*'airm'.*'euclid'"),
        (lambda: SPD("bw", M=torch.eye(2)), ValueError, "gbw"),
        (lambda: SPD("gbw", M=-torch.eye(2)), ValueError, "M is not positive definite"),
        (lambda: SPD("gbw", M=torch.ones(2, 3)), ValueError, "square"),
        (lambda: SPD("gbw", M=torch.eye(2).expand(3, 2, 2)), ValueError, "one matrix"),
        (lambda: SPD("gbw", M=torch.eye(2).int()), TypeError, "floating"),
        (lambda: Product(), ValueError, "at least one"),
        (lambda: Product(Sphere()), TypeError, "pair"),
        (lambda: Product((torch.nn.Linear(2, 2), 3)), TypeError, "Manifold"),
        (lambda: Product((SPD(), (2, 3))), ValueError, "square"),
        (lambda: Sphere().random(3, 1), ValueError, "2 entries"),
        (lambda: SPD("gbw", M=torch.eye(2)).random(3, 3), ValueError, "M is"),
        (lambda: Stiefel().origin(2, 3), ValueError, "n >= p"),
    ],
)
def test_constructors(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_products():
    manifold = Product((Sphere(), 3), (Euclidean(), 2))
    with pytest.raises(ValueError, match="5"):
        geoopt.ManifoldParameter(torch.ones(4), manifold=manifold)
    with pytest.raises(ValueError, match="2 parts"):
        manifold.pack_point(torch.ones(3))
    with pytest.raises(ValueError, match="part 1"):
        manifold.pack_point(torch.ones(3), torch.ones(3))
    ok, reason = manifold.check_point_on_manifold(torch.ones(5), explain=True)
    assert not ok
    assert "factor 0" in reason


@pytest.mark.parametrize(
    ("manifold", "x", "match"),
    [
        (Sphere(), torch.ones(2, 3), "norm"),
        (Stiefel(), torch.ones(3, 2), "x'x"),
        (SpecialOrthogonal(), torch.diag(torch.tensor([1.0, -1.0])), "reflection"),
        (SPD(), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (SPD(), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "x'"),
        (GLPlus(), torch.diag(torch.tensor([1.0, -1.0])), "det"),
        (SpecialLinear(), 2 * torch.eye(2), "det"),
        (PositiveReals(), torch.tensor([1.0, -1.0]), "positive"),
        (Stiefel(), torch.full((3, 2), torch.nan), "NaN"),
    ],
)
def test_checks_explain(manifold, x, match):
    ok, reason = manifold.check_point_on_manifold(x, explain=True)
    assert not ok
    assert match in reason
    with pytest.raises(ValueError, match=manifold.name):
        manifold.assert_check_point_on_manifold(x)


def test_vectors_off_the_tangent_space():
    x = torch.eye(3)[:, :2]
    ok, reason = Stiefel().check_vector_on_tangent(x, x, explain=True)
    assert not ok
    assert "normal part" in reason
    with pytest.raises(ValueError, match="normal part"):
        Sphere().assert_check_vector_on_tangent(x[:, 0], x[:, 0])


def test_stiefel_logarithm_says_when_it_fails():
    """So many unknowns are left to shooting, which misses far points."""
    x = torch.eye(50, dtype=torch.float64)[:, :20]
    with pytest.warns(ConvergenceWarning, match="too far apart"):
        Stiefel().logmap(x, -x, max_iter=3)


def test_empty_batches():
    for manifold, shape in [
        (Sphere(), (0, 3)),
        (SPD(), (0, 2, 2)),
        (Stiefel(), (0, 3, 2)),
    ]:
        x = torch.empty(shape)
        assert manifold.check_point_on_manifold(x)
        assert manifold.retr(x, x).shape == shape
        assert manifold.egrad2rgrad(x, x).shape == shape


def test_points_that_are_not_definite_give_nan_alone():
    """Nothing raises in the middle of a batch."""
    x = torch.stack([torch.eye(2), -torch.eye(2)])
    for metric in ("airm", "log_euclidean", "log_cholesky", "bw"):
        d = SPD(metric).dist(x, 2 * torch.eye(2))
        assert torch.isfinite(d[0])
        assert torch.isnan(d[1])


def test_determinants_that_under_or_overflow_are_no_obstacle():
    for scale in (1e-3, 1e3):
        x = scale * torch.eye(40)
        assert as_parameter(x, GLPlus(), project=False).shape == (40, 40)
        torch.testing.assert_close(as_parameter(x, SpecialLinear()).data, torch.eye(40))
    with pytest.raises(NotOnManifoldError, match="det x <= 0"):
        as_parameter(torch.diag(torch.tensor([1.0, -1.0])), GLPlus())


def test_logarithm_without_a_step_is_refused():
    x = Stiefel().origin(4, 2)
    with pytest.raises(ValueError, match="max_iter: expected an integer >= 1, found 0"):
        Stiefel().logmap(x, x, max_iter=0)
