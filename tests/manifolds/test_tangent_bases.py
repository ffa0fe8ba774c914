"""Tangent bases, pairwise distances and the volume of the exponential map."""

import geoopt
import pytest
import torch

from manifoldkit.exceptions import NotOnManifoldError
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
    exp_log_volume,
    pairwise_distance,
    tangent_basis,
)
from manifoldkit.manifolds.tangent import coordinates
from manifoldkit.manifolds.volume import differentiated_volume

M = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.5]]).double()
#: name: manifold, shape of a point, dimension
CASES = {
    "euclidean": (Euclidean(1), (3,), 3),
    "circle": (Sphere(), (2,), 1),
    "sphere": (Sphere(), (3,), 2),
    "radius": (Sphere(2.0), (5,), 4),
    "oblique": (Oblique(), (3, 2), 4),
    "stiefel": (Stiefel(), (5, 2), 7),
    "canonical": (Stiefel("canonical"), (5, 2), 7),
    "square": (Stiefel(), (3, 3), 3),
    "grassmann": (Grassmann(), (5, 2), 6),
    "wide": (Grassmann(), (5, 3), 6),
    "turns": (SpecialOrthogonal(), (2, 2), 1),
    "rotations": (SpecialOrthogonal(), (3, 3), 3),
    "angle": (SpecialOrthogonal(scale="angle"), (4, 4), 6),
    "five": (SpecialOrthogonal(), (5, 5), 10),
    "airm": (SPD("airm"), (3, 3), 6),
    "log_euclidean": (SPD("log_euclidean"), (3, 3), 6),
    "log_cholesky": (SPD("log_cholesky"), (3, 3), 6),
    "bw": (SPD("bw"), (3, 3), 6),
    "gbw": (SPD("gbw", M=M), (3, 3), 6),
    "left": (GLPlus(), (3, 3), 9),
    "polar": (GLPlus("polar"), (3, 3), 9),
    "linear": (SpecialLinear(), (2, 2), 3),
    "positive": (PositiveReals(), (), 1),
    "product": (Product((Sphere(), 3), (SPD(), (2, 2))), (7,), 5),
    "lorentz": (geoopt.Lorentz().double(), (4,), 3),
    "ball": (geoopt.PoincareBall().double(), (3,), 3),
}
CLOSED = [
    *("euclidean", "circle", "sphere", "radius", "oblique", "grassmann", "wide"),
    *("turns", "rotations", "angle", "five", "airm", "log_euclidean"),
    *("log_cholesky", "positive", "product"),
]


def draw(name, *batch, dtype=torch.float64):
    manifold, shape, _ = CASES[name]
    g = torch.Generator().manual_seed(0)
    if name in ("lorentz", "ball"):
        origin = manifold.origin(*batch, *shape, dtype=dtype)
        u = torch.randn(*batch, *shape, dtype=dtype, generator=g)
        x = manifold.expmap(origin, 0.5 * manifold.proju(origin, u))
    else:
        x = manifold.random(*batch, *shape, dtype=dtype, generator=g)
    return x.as_subclass(torch.Tensor)


def vectors(basis, scale=0.5):
    """Random tangent vectors (n, *point) of bases (n, d, *point), and coordinates."""
    g = torch.Generator().manual_seed(1)
    c = scale * torch.randn(basis.shape[:2], dtype=basis.dtype, generator=g)
    return torch.einsum("na,na...->n...", c, basis), c


def gram(manifold, x, basis):
    a, b = torch.broadcast_tensors(basis.unsqueeze(2), basis.unsqueeze(1))
    base = x[:, None, None].expand_as(a)
    n, d = basis.shape[:2]
    return manifold.inner(base, a, b, keepdim=True).reshape(n, d, d)


@pytest.mark.parametrize("name", CASES)
def test_a_basis_is_orthonormal_tangent_and_of_the_dimension(name):
    manifold, shape, dimension = CASES[name]
    x = draw(name, 4)
    basis = tangent_basis(manifold, x)
    assert basis.shape == (4, dimension, *shape)
    eye = torch.eye(dimension, dtype=torch.float64).expand(4, -1, -1)
    tol = 5e-12 if name in ("left", "linear") else 5e-14
    torch.testing.assert_close(gram(manifold, x, basis), eye, atol=tol, rtol=0)
    again = manifold.proju(x.unsqueeze(1).expand_as(basis), basis)
    torch.testing.assert_close(again, basis, atol=1e-12, rtol=0)
    # the same alone as in company
    torch.testing.assert_close(tangent_basis(manifold, x[2]), basis[2])
    u, c = vectors(basis)
    found = [coordinates(manifold, x[i], basis[i], u[i]) for i in range(4)]
    torch.testing.assert_close(torch.stack(found), c, atol=1e-11, rtol=0)


def test_bases_are_plain_where_they_can_be():
    eye = torch.eye(3)
    assert torch.equal(tangent_basis(Euclidean(1), torch.randn(3)), eye)
    basis = tangent_basis(SPD("bw"), eye)
    assert int((basis != 0).sum()) == 3 + 2 * 3
    assert tangent_basis(Stiefel(), torch.ones(1, 1)).shape == (0, 1, 1)
    assert tangent_basis(Sphere(), torch.empty(0, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_a_metric_is_no_matter(scale):
    for name in ("airm", "bw"):
        x = scale * draw(name, 2)
        basis = tangent_basis(CASES[name][0], x)
        eye = torch.eye(6).double().expand(2, -1, -1)
        torch.testing.assert_close(gram(CASES[name][0], x, basis), eye)


def test_an_ill_conditioned_metric_keeps_its_dimension():
    x = torch.diag(torch.tensor([1.0, 1e-5, 1e-10])).double()
    basis = tangent_basis(SPD("bw"), x[None])
    eye = torch.eye(6).double()[None]
    torch.testing.assert_close(gram(SPD("bw"), x[None], basis), eye, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_volumes_are_those_of_autograd(name):
    manifold, _, _ = CASES[name]
    x = draw(name, 4)
    u, _ = vectors(tangent_basis(manifold, x))
    found = exp_log_volume(manifold, x, u)
    expected = differentiated_volume(manifold, x, u)
    tol = {"log_euclidean": 1e-13, "five": 6e-15, "angle": 6e-15, "airm": 5e-15}.get(
        name, 3e-15
    )
    torch.testing.assert_close(found, expected, atol=tol, rtol=2e-15)
    assert exp_log_volume(manifold, x, 0 * u).abs().max() < 1e-14


@pytest.mark.parametrize("name", ["stiefel", "bw", "polar"])
def test_other_volumes_against_differences(name):
    """The determinant of differences of the exponential map."""
    manifold, _, d = CASES[name]
    x = draw(name, 1)
    basis = tangent_basis(manifold, x)
    u, _ = vectors(basis, 0.1)
    step, y = 1e-5, manifold.expmap(x, u)
    columns = []
    for a in range(d):
        ends = [manifold.expmap(x, u + s * step * basis[:, a]) for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    g = gram(manifold, y, torch.stack(columns, 1))
    expected = torch.linalg.slogdet(g)[1] / 2
    found = exp_log_volume(manifold, x, u)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_volumes_have_gradients_and_limits():
    x = draw("airm", 3)
    u, _ = vectors(tangent_basis(SPD(), x))
    u.requires_grad_()
    assert torch.autograd.gradcheck(lambda u: exp_log_volume(SPD(), x, u), u)
    r = draw("five", 2)
    a, _ = vectors(tangent_basis(CASES["five"][0], r))
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: exp_log_volume(CASES["five"][0], r, a), a)
    pole = torch.tensor([0.0, 0.0, 1.0])
    far = torch.tensor([[torch.pi, 0.0, 0.0], [0.0, 0.0, 0.0]])
    value = exp_log_volume(Sphere(), pole, far)
    assert value[0] < -10
    assert value[1] == 0


DISTANT = [n for n in CASES if n not in ("left", "linear", "canonical", "square")]


@pytest.mark.parametrize("name", DISTANT)
def test_pairwise_distances_are_distances_of_pairs(name):
    manifold, _, _ = CASES[name]
    x = draw(name, 5)
    n = 3 if name == "stiefel" else 5
    x = x[:n]
    d = pairwise_distance(manifold, x)
    assert torch.equal(d, d.mT)
    assert not d.diagonal().any()
    rows = [
        [manifold.dist(a[None], b[None], keepdim=True).reshape(()) for b in x]
        for a in x
    ]
    expected = torch.stack([torch.stack(r) for r in rows]).fill_diagonal_(0)
    tol = 1e-7 if name in ("lorentz", "ball") else 1e-11
    torch.testing.assert_close(d, expected, atol=tol, rtol=0)
    both = pairwise_distance(manifold, x[:2], x, chunk=2)
    torch.testing.assert_close(both, expected[:2], atol=max(tol, 5e-8), rtol=0)


def test_chunks_and_batches_change_nothing(make_spd):
    x, y = make_spd(2, 7, n=3), make_spd(5, n=3)
    d = pairwise_distance(SPD(), x, y)
    assert d.shape == (2, 7, 5)
    for chunk in (1, 3, 1000):
        torch.testing.assert_close(pairwise_distance(SPD(), x, y, chunk=chunk), d)
        own = pairwise_distance(SPD(), x, chunk=chunk)
        torch.testing.assert_close(own, pairwise_distance(SPD(), x))
    assert pairwise_distance(SPD(), x[:, :1]).shape == (2, 1, 1)


def test_distances_have_gradients_also_of_a_point_to_itself():
    x = draw("sphere", 4).requires_grad_()
    pairwise_distance(Sphere(), x).sum().backward()
    assert x.grad.isfinite().all()
    a = draw("airm", 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a: pairwise_distance(SPD(), (a + a.mT) / 2), a
    )


def test_bad_input():
    x = draw("sphere", 3)
    with pytest.raises(TypeError, match="manifold: expected a geoopt Manifold"):
        tangent_basis("sphere", x)
    with pytest.raises(NotOnManifoldError, match="x: not points"):
        tangent_basis(Sphere(), 2 * x)
    with pytest.raises(ValueError, match=r"x\[1\] is not finite"):
        pairwise_distance(Sphere(), x.index_fill(0, torch.tensor(1), torch.nan))
    with pytest.raises(ValueError, match="y: expected points like those of x"):
        pairwise_distance(Sphere(), x, draw("radius", 2) / 2)
    with pytest.raises(ValueError, match="chunk: expected"):
        pairwise_distance(Sphere(), x, chunk=0)
    with pytest.raises(ValueError, match=r"x: expected .* n >= 1"):
        pairwise_distance(Sphere(), x[0])
    with pytest.raises(NotImplementedError, match="no closed logarithm"):
        pairwise_distance(GLPlus(), draw("left", 2))
    with pytest.raises(TypeError, match=r"u: expected a tensor of torch\.float64"):
        exp_log_volume(Sphere(), x, x.float())
    with pytest.raises(ValueError, match="u: expected vectors at points of shape"):
        exp_log_volume(Sphere(), x, x[:, :2])
    with pytest.raises(ValueError, match="u: expected a shape that broadcasts"):
        exp_log_volume(Sphere(), x, x[:2])


def test_float32(make_spd):
    x = make_spd(3, n=3, dtype=torch.float32)
    basis = tangent_basis(SPD("bw"), x)
    assert basis.dtype == torch.float32
    eye = torch.eye(6).expand(3, -1, -1)
    torch.testing.assert_close(gram(SPD("bw"), x, basis), eye, atol=1e-4, rtol=0)
    d = pairwise_distance(SPD(), x)
    torch.testing.assert_close(
        d.double(), pairwise_distance(SPD(), x.double()), atol=1e-5, rtol=0
    )
