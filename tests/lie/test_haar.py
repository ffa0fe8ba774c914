"""Invariant measures, samplers and their weights."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from scipy import stats
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.lie import SL, SO, Affine, GLPlus, Scale, SPDSpace, haar
from manifoldkit.lie.basis import skew_basis

DOUBLE = {"dtype": torch.float64}


def assert_mean(values, expected, errors=4.0):
    """Within four standard errors."""
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - expected) < errors * error, (values.mean(), error)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("points", ["random", "sobol", "stratified"])
def test_moments_of_uniform_rotations(n, points, generator):
    count = 20_000
    r, inverse, log_weight = SO(n).sample(
        count, generator=generator, points=points, **DOUBLE
    )
    assert SO(n).belongs(r, 1e-10).all()
    torch.testing.assert_close(inverse, r.mT)
    assert torch.equal(log_weight, torch.zeros_like(log_weight))
    trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert_mean(trace, 0.0)
    assert_mean(trace**2, 2.0 if n == 2 else 1.0)
    assert_mean(r[:, 0, 0] ** 4, 3 / (n * (n + 2)))
    assert_mean(r[:, 1, 0] ** 2, 1 / n)


def test_even_rotations():
    r, _, _ = SO(2).sample(10, "equidistant", **DOUBLE)
    angle = SO(2).coords(r)[:, 0] / math.sqrt(2)
    turns = torch.sort(angle).values.diff()
    torch.testing.assert_close(turns, torch.full_like(turns, math.pi / 5))
    torch.testing.assert_close(r[0], torch.eye(2, **DOUBLE))
    assert torch.equal(SO(2).sample(1, "equidistant")[0][0], torch.eye(2))
    r = SO(3).sample(2000, "super_fibonacci", **DOUBLE)[0]
    assert SO(3).belongs(r).all()
    trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs((trace**2).mean() - 1) < 1e-3
    assert abs((r[:, 0, 0] ** 4).mean() - 0.2) < 1e-3


@pytest.mark.parametrize("n", [2, 3, 4])
def test_density_of_rotations_in_exponential_coordinates(n, generator):
    """Weighted samples of a box count the measure of the box."""
    group, bound = SO(n), 0.9 * math.pi / math.sqrt(n * (n - 1) / 2)
    r, _, log_weight = group.sample(
        20_000, "loguniform", generator, rotation_bound=bound, **DOUBLE
    )
    log_density = group.haar_log_density(r)
    box = len(skew_basis(n)) * math.log(2 * bound) - haar.rotation_log_volume(n)
    torch.testing.assert_close(log_density + box, log_weight, atol=1e-6, rtol=0)
    uniform = group.sample(20_000, generator=generator, **DOUBLE)[0]
    w = group.coords(uniform) / math.sqrt(2)
    inside = (w.abs() <= bound).all(-1).double()
    share = log_weight.exp()
    error = (inside.var() / 20_000 + share.var() / 20_000).sqrt()
    assert abs(inside.mean() - share.mean()) < 4 * error


def test_volume_of_rotations():
    assert math.isclose(haar.rotation_log_volume(3), math.log(8 * math.pi**2))


@pytest.mark.parametrize("proposal", ["lognormal", "uniform_box", "wishart"])
@pytest.mark.parametrize("n", [2, 3])
def test_multivariate_gamma(n, proposal, generator):
    """The integral of det(S)^a exp(-tr S / c) is Gamma_n(a) c^(n a)."""
    options = {
        "lognormal": {"std": 0.8},
        "uniform_box": {"bound": 3.5},
        "wishart": {"df": 2 * n + 4},
    }[proposal]
    a, c = 3.0 + n, 1 / (3.0 + n)
    s, inverse, log_weight = SPDSpace(n).sample(
        150_000, proposal, generator, **options, **DOUBLE
    )
    torch.testing.assert_close(
        (s @ inverse)[:50], torch.eye(n, **DOUBLE).expand(50, n, n)
    )
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)
    values = torch.exp(log_weight + a * torch.linalg.slogdet(s)[1] - trace / c)
    # orthonormal coordinates count the off-diagonal entries sqrt(2) times
    expected = math.exp(scipy.special.multigammaln(a, n)) * c ** (n * a)
    assert_mean(values / expected, 2 ** (n * (n - 1) / 4))


@pytest.mark.parametrize("n", [2, 3])
def test_wishart_agrees_with_scipy(n, generator):
    s, _, log_weight = SPDSpace(n).sample(50, "wishart", generator, df=7, **DOUBLE)
    density = stats.wishart(7, np.eye(n) / 7).logpdf(s.numpy().transpose(1, 2, 0))
    expected = SPDSpace(n).haar_log_density(s, "matrix") - torch.from_numpy(density)
    expected = expected + n * (n - 1) / 4 * math.log(2)
    torch.testing.assert_close(log_weight, expected)


@pytest.mark.parametrize(
    ("group", "options"),
    [
        (GLPlus(2), {"std": 0.8}),
        (GLPlus(2), {"proposal": "wishart", "df": 6}),
        (SL(2), {"std": 0.8}),
        (SL(2), {"proposal": "wishart", "df": 6}),
        (SL(3), {"std": 0.7}),
        (GLPlus(2), {"std": 0.8, "points": "sobol"}),
        (GLPlus(2), {"std": 0.8, "antithetic": True}),
        (GLPlus(2), {"std": 0.8, "rotation": "equidistant"}),
        (GLPlus(2), {"proposal": "uniform_box", "bound": 2.0}),
    ],
)
def test_weighted_integrals_are_invariant(group, options, generator):
    """f(g), f(h g), f(g h) and f(g^-1) have one integral; without weights not."""
    g, g_inv, log_weight = group.sample(
        100_000, generator=generator, **options, **DOUBLE
    )
    e = group.identity(**DOUBLE)
    torch.testing.assert_close(g @ g_inv, e.expand_as(g), atol=1e-9, rtol=0)
    # a compact bump in the coordinates: zero outside the box of uniform_box
    f = lambda g: (1 - group.coords(g).square().sum(-1) / 0.8).clamp_min(0) ** 2  # noqa: E731
    v = torch.zeros(group.dim, **DOUBLE)
    v[0], v[-1] = 0.25, 0.4
    h = group.from_coords(v)
    w = log_weight.exp()
    base = w * f(g)
    for moved in (h @ g, g @ h, g_inv):
        other = w * f(moved)
        spread = (other - base).std() / len(w) ** 0.5
        assert abs(other.mean() - base.mean()) < 4.5 * spread + 1e-12


def test_unweighted_sums_are_not_invariant(generator):
    group = GLPlus(2)
    g, _, log_weight = group.sample(50_000, generator=generator, weighting="none")
    assert torch.equal(log_weight, torch.zeros_like(log_weight))
    f = lambda g: torch.exp(-2 * group.coords(g)[:, :3].square().sum(-1))  # noqa: E731
    h = torch.diag(torch.tensor([1.6, 1.0]))
    assert abs(f(h @ g).mean() / f(g).mean() - 1) > 0.03


@pytest.mark.parametrize("n", [2, 3])
def test_polar_and_iwasawa_densities_are_jacobians(n, generator):
    """Both charts describe the density |det g|^-n prod dg, up to one constant."""
    group = GLPlus(n)
    size = n * (n + 1) // 2
    skew = torch.stack(skew_basis(n)) * 2**0.5
    upper = torch.triu_indices(n, n)

    def polar_chart(v, r):
        y = torch.zeros(n, n, **DOUBLE).index_put(tuple(upper), v[:size])
        y = y + y.triu(1).mT
        turn = torch.linalg.matrix_exp(torch.einsum("k,kij->ij", v[size:], skew))
        return torch.linalg.matrix_exp(y) @ turn @ r

    def iwasawa_chart(v, k):
        a = torch.diag(v[:n].exp())
        strict = torch.triu_indices(n, n, 1)
        upper_part = torch.eye(n, **DOUBLE)
        upper_part = upper_part.index_put(tuple(strict), v[n:size])
        turn = torch.linalg.matrix_exp(torch.einsum("j,jab->ab", v[size:], skew))
        return k @ turn @ a @ upper_part

    for chart, coords in ((polar_chart, "polar"), (iwasawa_chart, "iwasawa")):
        constants = []
        for _ in range(3):
            v = torch.randn(size + len(skew), generator=generator, **DOUBLE) / 2
            v[size:] = 0
            r = haar.haar_rotations(
                torch.rand(haar.rotation_points_dim(n), generator=generator, **DOUBLE),
                n,
            )
            jacobian = torch.func.jacrev(lambda v, r=r, c=chart: c(v, r))(v)
            volume = torch.linalg.slogdet(jacobian.reshape(n * n, n * n))[1]
            g = chart(v, r)
            lebesgue = group.haar_log_density(g, "matrix") + volume
            constants.append(lebesgue - group.haar_log_density(g, coords))
        torch.testing.assert_close(constants[0], constants[1])
        torch.testing.assert_close(constants[0], constants[2])
    # X = 2 Y, and dR of total one
    absolute = constants_of_polar(n)
    torch.testing.assert_close(
        torch.tensor(haar.polar_haar_log_constant(n), **DOUBLE), absolute
    )


def constants_of_polar(n):
    """log c_n from the Jacobian of the polar chart at the identity."""
    size, turns = n * (n + 1) // 2, n * (n - 1) // 2
    # g = I + X / 2 + A there: dg = 2^-size * 2^turns * 2^(turns / 2) ... by the bases
    columns = []
    for i in range(n):
        for j in range(i, n):
            e = torch.zeros(n, n, **DOUBLE)
            e[i, j] = e[j, i] = 0.5
            columns.append(e.flatten())
    columns += [(a * 2**0.5).flatten() for a in skew_basis(n)]
    assert len(columns) == size + turns
    volume = torch.linalg.slogdet(torch.stack(columns))[1]
    return volume + haar.rotation_log_volume(n)


def test_group_densities_in_coordinates(generator):
    """Those of the charts above, with the rotation's own density."""
    for n in (2, 3, 4):
        group = GLPlus(n)
        g = group.sample(5, generator=generator, **DOUBLE)[0]
        r = torch.linalg.svd(g)[0] @ torch.linalg.svd(g)[2]
        expected = group.haar_log_density(g, "polar") + SO(n).haar_log_density(r)
        torch.testing.assert_close(group.haar_log_density(g), expected)
    s = Scale().exp(torch.tensor([[[0.3]]], **DOUBLE))
    assert Scale().haar_log_density(s).item() == 0
    assert math.isclose(Scale().haar_log_density(s, "matrix").item(), -0.3)
    affine = Affine(2, GLPlus(2))
    g = affine.sample(4, generator=generator, **DOUBLE)[0]
    gap = affine.haar_log_density(g) - affine.haar_log_density(g, side="right")
    torch.testing.assert_close(gap, affine.modular_log(g))
    torch.testing.assert_close(gap, -torch.linalg.slogdet(g)[1])


def test_affine_weights_are_left_invariant(generator):
    group = Affine(2, GLPlus(2))
    g, g_inv, log_weight = group.sample(
        300_000, generator=generator, std=0.7, translation_std=1.0, **DOUBLE
    )
    torch.testing.assert_close(
        g @ g_inv, torch.eye(3, **DOUBLE).expand_as(g), atol=1e-10, rtol=0
    )
    h = group.join(
        torch.tensor([0.3, -0.2], **DOUBLE),
        torch.diag(torch.tensor([1.3, 1.0]).double()),
    )
    f = lambda g: (1 - group.coords(g).square().sum(-1)).clamp_min(0) ** 2  # noqa: E731
    base, moved = log_weight.exp() * f(g), log_weight.exp() * f(h @ g)
    assert abs((moved - base).mean()) < 4.5 * (moved - base).std() / len(g) ** 0.5
    right = log_weight + torch.linalg.slogdet(g)[1]  # the other measure is not
    base, moved = right.exp() * f(g), right.exp() * f(h @ g)
    assert abs((moved - base).mean()) > 6 * (moved - base).std() / len(g) ** 0.5


@pytest.mark.parametrize("group", [GLPlus(3), SL(2), SO(3), SPDSpace(2)], ids=repr)
def test_seeds_splits_and_dtypes(group):
    def draw(*counts, dtype=torch.float64):
        generator = torch.Generator().manual_seed(7)
        draws = [group.sample(c, generator=generator, dtype=dtype) for c in counts]
        parts = [g for g, _, _ in draws]
        return torch.cat(parts)

    whole = draw(40)
    torch.testing.assert_close(draw(40), whole, rtol=0, atol=0)
    torch.testing.assert_close(draw(1, 16, 23), whole, rtol=0, atol=1e-12)
    single = draw(40, dtype=torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=0, atol=1e-5)
    assert group.sample(0)[0].shape == (0, group.n, group.n)


def test_normalized_clipped_and_antithetic_weights(generator):
    group = GLPlus(2)
    _, _, raw = group.sample(100, generator=generator, std=1.0)
    seed = {"generator": torch.Generator().manual_seed(0), "std": 1.0}
    _, _, normalized = group.sample(100, self_normalise=True, **seed)
    torch.testing.assert_close(normalized.exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(normalized, raw - raw.logsumexp(0))
    seed["generator"].manual_seed(0)
    _, _, clipped = group.sample(100, weighting="clipped", **seed)
    limit = raw.logsumexp(0) - math.log(100) + math.log(10)
    torch.testing.assert_close(clipped, torch.minimum(raw, limit))
    s, _, weight = SPDSpace(3).sample(6, antithetic=True, generator=generator, **DOUBLE)
    torch.testing.assert_close(s[::2] @ s[1::2], torch.eye(3, **DOUBLE).expand(3, 3, 3))
    torch.testing.assert_close(weight[::2], weight[1::2])


def test_covariance_and_standard_deviations(generator):
    group = SPDSpace(2)
    cov = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.3]], **DOUBLE)
    s, _, log_weight = group.sample(20_000, generator=generator, cov=cov, **DOUBLE)
    v = group.coords(s)
    torch.testing.assert_close(torch.cov(v.T), cov, atol=0.02, rtol=0)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, **DOUBLE), cov)
    expected = haar.stretch_log_density(group.log(s)) - normal.log_prob(v)
    torch.testing.assert_close(log_weight, expected)
    s = group.sample(20_000, generator=generator, std=[0.1, 0.2, 0.3], **DOUBLE)[0]
    std = group.coords(s).std(0)
    torch.testing.assert_close(
        std, torch.tensor([0.1, 0.2, 0.3]).double(), rtol=0.03, atol=0
    )
    # the reference code's variance of 0.1 is the default
    g = GLPlus(2).sample(20_000, generator=generator, **DOUBLE)[0]
    spread = GLPlus(2).coords(g)[:, :3].std(0)
    torch.testing.assert_close(
        spread, torch.full_like(spread, 0.1**0.5 / 2), rtol=0.03, atol=0
    )


@pytest.mark.parametrize("points", ["sobol", "stratified"])
def test_even_points_integrate_better(points):
    def spread(points):
        means = []
        for seed in range(30):
            generator = torch.Generator().manual_seed(seed)
            g = SL(2).sample(256, generator=generator, points=points, **DOUBLE)[0]
            means.append(SL(2).coords(g).cos().sum(-1).mean())
        return torch.stack(means).std()

    assert spread(points) < 0.5 * spread("random")


def test_densities_are_smooth(generator):
    for n in (2, 3):
        x = torch.randn(n, n, generator=generator, **DOUBLE)
        x = (x + x.mT).requires_grad_()
        assert gradcheck(haar.stretch_log_density, (x,), check_forward_ad=True)
        assert gradgradcheck(haar.stretch_log_density, (x,))
    zero = torch.zeros(2, 2, **DOUBLE, requires_grad=True)
    assert gradcheck(haar.stretch_log_density, (zero,))
    assert gradgradcheck(haar.stretch_log_density, (zero,))
    for n in (3, 4, 5):
        a = torch.randn(n, n, generator=generator, **DOUBLE)
        a = (a - a.mT).requires_grad_()
        assert gradcheck(lambda a: haar.rotation_log_density(a - a.mT), (a,))
    x = torch.tensor([1e-8, 0.0999, 0.1001, 3.0, 700.0], **DOUBLE)
    expected = [0.0, *(math.log(math.sinh(v) / v) for v in x[1:].tolist())]
    torch.testing.assert_close(
        haar.log_sinhc(x), torch.tensor(expected, **DOUBLE), rtol=1e-13, atol=1e-15
    )


def test_bad_options():
    group = GLPlus(2)
    cases = [
        ({"n": -1}, "n: expected an integer >= 0, found -1"),
        ({"n": 2.0}, "n: expected an integer >= 0, found 2.0"),
        ({"n": 3, "antithetic": True}, "come in pairs"),
        ({"n": 2, "proposal": "cauchy"}, "proposal: expected one of"),
        ({"n": 2, "rotation": "left"}, "rotation: expected one of"),
        ({"n": 2, "points": "grid"}, "points: expected one of"),
        ({"n": 2, "weighting": "more"}, "weighting: expected one of"),
        ({"n": 2, "std": -1.0}, "std: expected a positive"),
        ({"n": 2, "std": [1.0, 2.0]}, "std: expected 3 positive"),
        ({"n": 2, "cov": torch.eye(2)}, "cov: expected shape"),
        ({"n": 2, "cov": -torch.eye(3)}, "positive definite"),
        ({"n": 2, "cov": torch.eye(3), "std": 1.0}, "found both"),
        ({"n": 2, "proposal": "wishart", "df": 1}, "df: expected an integer"),
        ({"n": 2, "proposal": "wishart", "antithetic": True}, "wishart"),
        ({"n": 2, "proposal": "uniform_box", "bound": 0.0}, "bound: expected"),
        ({"n": 2, "df": 3}, "df: not an option"),
        ({"n": 2, "rotation": "super_fibonacci"}, "rotations of size 3"),
        ({"n": 2, "rotation": "loguniform", "rotation_bound": 4.0}, "at most pi"),
    ]
    for arguments, text in cases:
        with pytest.raises(ValueError, match=text):
            group.sample(**arguments)
    with pytest.raises(ValueError, match="antithetic"):
        SO(2).sample(2, antithetic=True)
    with pytest.raises(ValueError, match="proposal"):
        SO(2).sample(2, "lognormal")
    with pytest.raises(ValueError, match="coords: expected one of"):
        SL(2).haar_log_density(torch.eye(2), "matrix")
    with pytest.raises(ValueError, match="side: expected one of"):
        Affine(2, SO(2)).haar_log_density(torch.eye(3), side="both")
