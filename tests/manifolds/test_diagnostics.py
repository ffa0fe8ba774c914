"""The diagnostic passes what is right and names what is wrong."""

import math

import geoopt
import pytest
import torch

from manifoldkit.manifolds import SPD, GLPlus, Sphere, Stiefel, check_manifold


class DoubledGradient(Sphere):
    def egrad2rgrad(self, x, u):
        return 2 * self.proju(x, u)


class LongSteps(Sphere):
    def retr(self, x, u):
        return super().retr(x, 2 * u)


class NoTransport(Sphere):
    def transp(self, x, y, v):
        return v


class WrongDistance(Sphere):
    def dist(self, x, y, *, keepdim=False):
        return (x - y).norm(dim=-1, keepdim=keepdim)


class RawProjection(Sphere):
    def proju(self, x, u):
        return u - x * (x * u).sum(-1, keepdim=True) * 2


@pytest.mark.parametrize(
    ("manifold", "failures"),
    [
        (DoubledGradient(), {"gradient and metric", "gradient slope"}),
        (LongSteps(), {"gradient slope", "retraction slope"}),
        (NoTransport(), {"transport is tangent"}),
        (WrongDistance(), {"dist is the length of log"}),
    ],
)
def test_names_what_is_wrong(manifold, failures):
    report = check_manifold(manifold, 4)
    assert not report
    assert {f.name for f in report.failures} == failures
    assert "FAILED" in repr(report)


def test_wrong_projection_is_found():
    report = check_manifold(RawProjection(), 4)
    assert report["tangent projection"].passed is False


@pytest.mark.parametrize(
    ("manifold", "size", "order"),
    [
        (Sphere(), (4,), 2),
        (Stiefel("canonical"), (6, 2), 2),
        (Stiefel("euclidean"), (6, 2), 1),
        (SPD("log_cholesky"), (3, 3), math.inf),
        (geoopt.PoincareBall(), (3,), 1),
        (geoopt.SymmetricPositiveDefinite(), (3, 3), 2),
        (
            geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.Euclidean(), 2)),
            (5,),
            2,
        ),
        (geoopt.Lorentz(), (4,), math.inf),
    ],
    ids=repr,
)
def test_passes_what_is_right(manifold, size, order):
    report = check_manifold(manifold, *size)
    assert report, report
    found = report["retraction order"].value
    assert found == order or abs(found - order) < 0.2


def test_finds_the_defects_of_geoopts_canonical_stiefel():
    """Its proju doubles the part within the span of x, and so does its retraction."""
    report = check_manifold(geoopt.CanonicalStiefel(), 6, 2)
    names = {f.name for f in report.failures}
    assert {"tangent projection", "retraction slope"} <= names


def test_report_and_arguments():
    point = torch.tensor([0.0, 1.0, 0.0])
    state = torch.random.get_rng_state()
    report = check_manifold(Sphere(), point=point)
    assert torch.equal(state, torch.random.get_rng_state())
    assert "all laws hold" in repr(report)
    assert repr(check_manifold(Sphere(), point=point)) == repr(report)
    with pytest.raises(KeyError, match="retraction order"):
        report["speed"]
    missing = check_manifold(GLPlus(), 3, 3)["log inverts exp"]
    assert missing.passed is None
    assert "closed" in missing.note
    with pytest.raises(TypeError, match=r"geoopt\.Manifold"):
        check_manifold(Sphere, 3)
    with pytest.raises(ValueError, match="size"):
        check_manifold(Sphere())
    with pytest.raises(ValueError, match="square"):
        check_manifold(SPD(), 3, 2)
