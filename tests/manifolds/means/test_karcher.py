import geoopt
import pytest
import torch
from pyriemann.geometry.mean import mean_riemann, mean_wasserstein

from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    Grassmann,
    PositiveReals,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from manifoldkit.optim import karcher_mean


def _spd(*batch, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(*batch, n, 2 * n, dtype=torch.float64, generator=generator)
    return a @ a.mT / (2 * n)


@pytest.mark.parametrize(
    ("metric", "peer"), [("airm", mean_riemann), ("bw", mean_wasserstein)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_spd_means_agree_with_pyriemann(metric, peer, weighted):
    y = _spd(12)
    w = torch.linspace(0.1, 2, 12, dtype=torch.float64) if weighted else None
    found = karcher_mean(SPD(metric), y, w)
    options = {"tol": 1e-12, "maxiter": 200}
    weights = None if w is None else w.numpy()
    expected = torch.as_tensor(peer(y.numpy(), sample_weight=weights, **options))
    torch.testing.assert_close(found.mean, expected, rtol=1e-8, atol=1e-8)
    assert bool(found.converged)
    assert found.iterations < 60


def test_airm_mean_converges_in_a_few_steps():
    assert karcher_mean(SPD(), _spd(30, n=8)).iterations <= 15


@pytest.mark.parametrize(
    "manifold",
    [Sphere(), SpecialOrthogonal(), Grassmann(), Stiefel("canonical")],
    ids=repr,
)
def test_the_gradient_vanishes_at_the_mean_of_near_points(manifold):
    shape = (5,) if manifold.ndim == 1 else (5, 5 if "Ortho" in repr(manifold) else 2)
    generator = torch.Generator().manual_seed(0)
    x = manifold.random(*shape, dtype=torch.float64, generator=generator).data
    u = torch.randn(9, *shape, dtype=torch.float64, generator=generator)
    base = x.expand_as(u)
    y = manifold.expmap(base, 0.3 * manifold.proju(base, u))
    found = karcher_mean(manifold, y)
    at = found.mean.expand_as(y)
    logs = manifold.logmap(at, y)
    assert float(logs.mean(0).abs().max()) < 1e-9
    expected = float((manifold.norm(at, logs) ** 2).mean())
    assert float(found.variance) == pytest.approx(expected, rel=1e-9)
    assert float(found.gradient_norm) < 1e-11


def test_batches_equal_single_problems_with_their_weights():
    y = _spd(3, 7)
    w = torch.rand(
        3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    together = karcher_mean(SPD(), y, w)
    for i in range(3):
        alone = karcher_mean(SPD(), y[i], w[i])
        torch.testing.assert_close(together.mean[i], alone.mean, rtol=1e-9, atol=1e-9)
    assert together.converged.shape == (3,)
    one_set = karcher_mean(SPD(), y, w[0])
    torch.testing.assert_close(one_set.mean[0], together.mean[0])


def test_positive_numbers_hyperbolic_space_and_warm_start():
    y = torch.tensor([[1.0, 4.0], [2.0, 8.0]])
    torch.testing.assert_close(
        karcher_mean(PositiveReals(), y).mean, torch.tensor([2.0, 4.0])
    )
    ball = geoopt.PoincareBall()
    points = torch.tensor([[0.3, 0.0], [-0.3, 0.0], [0.0, 0.3], [0.0, -0.3]])
    found = karcher_mean(ball, points)
    torch.testing.assert_close(found.mean, torch.zeros(2), atol=1e-5, rtol=0)
    z = _spd(6)
    mean = karcher_mean(SPD(), z).mean
    assert karcher_mean(SPD(), z, init=mean).iterations == 0


def test_one_point_is_its_own_mean():
    y = _spd(1)
    torch.testing.assert_close(karcher_mean(SPD(), y).mean, y[0])


def test_bad_input_and_unfinished_iterations():
    y = _spd(6)
    with pytest.raises(ValueError, match="points: expected"):
        karcher_mean(SPD(), y[0])
    with pytest.raises(ValueError, match=r"points: not points of SPD"):
        karcher_mean(SPD(), torch.zeros(3, 2, 4))
    with pytest.raises(TypeError, match="points"):
        karcher_mean(SPD(), [1.0])
    with pytest.raises(ValueError, match="not finite"):
        karcher_mean(SPD(), y * torch.nan)
    with pytest.raises(ValueError, match="weights"):
        karcher_mean(SPD(), y, torch.ones(5))
    with pytest.raises(ValueError, match="tol: "):
        karcher_mean(SPD(), y, tol=0.0)
    with pytest.raises(ValueError, match="max_iter"):
        karcher_mean(SPD(), y, max_iter=0)
    with pytest.warns(ConvergenceWarning, match="gradient norm"):
        found = karcher_mean(SPD(), y, max_iter=1)
    assert not bool(found.converged)


def test_points_off_the_manifold_are_no_converged_mean():
    with pytest.raises(
        NotOnManifoldError, match=r"points: not points of SPD.*positive"
    ):
        karcher_mean(SPD(), torch.stack([torch.eye(2), -torch.eye(2)]))
    with pytest.raises(NotOnManifoldError, match=r"points: not points of Sphere.*norm"):
        karcher_mean(Sphere(), torch.ones(4, 3))


def test_a_gradient_that_is_not_a_number_has_not_converged():
    class Broken(Sphere):
        def logmap(self, x, y):
            return super().logmap(x, y) * torch.nan

    y = Sphere().random(4, 3, generator=torch.Generator().manual_seed(0)).data
    with pytest.warns(ConvergenceWarning, match="gradient norm nan"):
        found = karcher_mean(Broken(), y, max_iter=2)
    assert not bool(found.converged)


def test_weights_and_start_of_another_batch_are_named():
    y = Sphere().random(5, 4, 3, generator=torch.Generator().manual_seed(0)).data
    with pytest.raises(ValueError, match=r"weights: .* to \(5, 4\), found \(2, 4\)"):
        karcher_mean(Sphere(), y, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"init: .* to \(5, 3\), found \(2, 3\)"):
        karcher_mean(Sphere(), y, init=y[:2, 0])


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**20, 2.0**60])
@pytest.mark.parametrize("kind", ["bw", "gbw", "log_euclidean", "euclidean", "sphere"])
def test_the_unit_of_the_data_does_not_matter(kind, scale):
    x = _spd(9)
    if kind == "euclidean":
        manifolds = Euclidean(1), Euclidean(1)
        x = x[:, 0] - 1
    elif kind == "sphere":
        manifolds = Sphere(), Sphere(scale)
        x = Sphere().projx(x[:, 0] + 1)
    else:
        manifolds = SPD(kind), SPD(kind)
    one, other = (
        karcher_mean(m, s * x) for m, s in zip(manifolds, (1, scale), strict=True)
    )
    torch.testing.assert_close(other.mean / scale, one.mean, rtol=1e-8, atol=1e-8)
    assert bool(one.converged)
    assert bool(other.converged)
    assert one.iterations == other.iterations


@pytest.mark.parametrize("metric", ["airm", "bw", "log_euclidean", "log_cholesky"])
def test_variance_is_the_mean_squared_distance(metric):
    x, w = _spd(9), torch.linspace(0, 1, 9, dtype=torch.float64)
    found = karcher_mean(SPD(metric), x, w)
    squares = SPD(metric).dist(found.mean.expand_as(x), x) ** 2
    torch.testing.assert_close(found.variance, (w * squares).sum() / w.sum())


def test_a_start_that_is_not_a_number_is_left_for_one_that_is():
    class Fragile(Sphere):
        """No logarithm at the first pole, where the first point lies."""

        def logmap(self, x, y):
            u = super().logmap(x, y)
            return torch.where(x[..., :1] > 0.999, torch.nan, u)

    generator = torch.Generator().manual_seed(0)
    y = Sphere().projx(1 + torch.rand(6, 3, dtype=torch.float64, generator=generator))
    y[0] = torch.tensor([1.0, 0, 0])
    found = karcher_mean(Fragile(), y)
    torch.testing.assert_close(found.mean, karcher_mean(Sphere(), y).mean)


def test_coinciding_points_of_any_size_have_converged():
    for scale in (1e-9, 1.0, 1e9):
        x = scale * _spd(1)[0].expand(5, 5, 5)
        for metric in ("airm", "bw", "log_euclidean", "log_cholesky"):
            found = karcher_mean(SPD(metric), x)
            assert bool(found.converged)
            torch.testing.assert_close(found.mean / scale, x[0] / scale)
