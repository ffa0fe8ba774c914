"""The laws of Riemannian geometry, written once; every manifold obeys them."""

import copy
import pickle
from dataclasses import dataclass

import geoopt
import pytest
import torch

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
)
from manifoldkit.manifolds.reshaped import Reshaped

M = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.2], [0.0, -0.2, 0.7]]).double()


@dataclass
class Case:
    manifold: geoopt.Manifold
    shape: tuple
    order: int = 1  # order of the retraction
    log: bool = True
    isometric: str = ""  # which of transp, retr, exp carry vectors isometrically
    reach: float = 0.5  # length of vectors inside the injectivity radius

    def __repr__(self):
        return repr(self.manifold)


def square(manifold, n=3, **options):
    return Case(manifold, (n, n), **options)


CASES = [
    Case(Euclidean(1), (4,), 3, isometric="transp"),
    Case(PositiveReals(), (), 3, isometric="transp"),
    Case(Sphere(), (4,), 2),
    Case(Sphere(2.5), (3,), 2),
    Case(Oblique(), (4, 3), 2),
    *(
        Case(Stiefel("euclidean", r), (5, 3), order)
        for r, order in [("cholqr", 1), ("qr", 1), ("polar", 2), ("cayley", 1)]
    ),
    Case(Stiefel("euclidean", "exp"), (5, 2), 3),
    Case(Stiefel("euclidean", "polar"), (4, 4), 2),
    Case(Stiefel("canonical"), (5, 3), 2, isometric="retr"),
    Case(Stiefel("canonical"), (12, 2), 2, isometric="retr"),
    Case(Stiefel("canonical", "exp"), (9, 2), 3),
    Case(Grassmann(), (5, 2), 2),
    Case(Grassmann("exp"), (4, 2), 3),
    square(SpecialOrthogonal(), order=2, isometric="transp"),
    square(SpecialOrthogonal("qr"), 4, isometric="transp"),
    square(SpecialOrthogonal("exp", scale="angle"), 5, order=3, isometric="transp"),
    square(SPD("airm"), order=2, isometric="transp retr"),
    square(SPD("log_euclidean"), order=3, isometric="transp"),
    square(SPD("log_cholesky"), order=3, isometric="transp"),
    square(SPD("bw"), order=3, reach=0.2),
    square(SPD("gbw"), order=3, reach=0.2),
    square(SPD("gbw", M=M), order=3, reach=0.2),
    square(GLPlus(), log=False, isometric="transp"),
    square(GLPlus(retraction="cayley"), log=False, isometric="transp"),
    square(GLPlus(retraction="exp"), order=3, log=False, isometric="transp"),
    square(GLPlus("polar"), order=3, isometric="transp"),
    square(SpecialLinear(), log=False, isometric="transp"),
    Case(Product((Sphere(), 3), (SPD(), (2, 2)), (Euclidean(), 2)), (9,), 2),
    Case(Reshaped(Stiefel(), (2, 4), transpose=True), (2, 4)),
    Case(Reshaped(Sphere(), (2, 1, 3), flatten=True), (2, 1, 3), 2),
]
every_case = pytest.mark.parametrize("case", CASES, ids=repr)
FRAMED = [case for case in CASES if hasattr(case.manifold, "frame_retr")]
BATCH = (2, 3)
COMPACT = [case for case in CASES if getattr(case.manifold, "compact", False)]


def point(case, generator, dtype=torch.float64, batch=BATCH):
    x = case.manifold.random(*batch, *case.shape, dtype=dtype, generator=generator)
    return torch.Tensor(x.data)


def ambient(case, generator, dtype=torch.float64):
    return torch.randn(*BATCH, *case.shape, dtype=dtype, generator=generator)


def tangent(case, x, generator, length=None):
    """Random tangent vector; of the given Riemannian length."""
    u = case.manifold.proju(x, ambient(case, generator, x.dtype))
    if length is not None:
        norm = case.manifold.norm(x, u)
        u = u * (length / norm)[(...,) + (None,) * (u.ndim - norm.ndim)]
    return u


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def same_point(case, a, b, tol=1e-10):
    """Equal points; for subspaces, equal projectors."""
    if isinstance(case.manifold, Grassmann):
        a, b = a @ a.mT, b @ b.mT
    close(a, b, tol)


@every_case
def test_points_and_projection(case, generator):
    x = point(case, generator)
    assert case.manifold.check_point_on_manifold(x, atol=1e-10, rtol=0)
    close(case.manifold.projx(x), x)
    origin = case.manifold.origin(*BATCH, *case.shape, dtype=torch.float64)
    assert case.manifold.check_point_on_manifold(origin, atol=1e-10, rtol=0)
    if not isinstance(case.manifold, GLPlus | SpecialLinear | Product):
        off = ambient(case, generator)
        y = case.manifold.projx(off)
        assert case.manifold.check_point_on_manifold(y, atol=1e-10, rtol=0)
        close(case.manifold.projx(y), y, 1e-9)


@every_case
def test_tangent_projection(case, generator):
    x = point(case, generator)
    u = tangent(case, x, generator)
    close(case.manifold.proju(x, u), u, 1e-12)
    assert case.manifold.check_vector_on_tangent(x, u, atol=1e-10, rtol=0)
    assert u.shape == x.shape


@every_case
def test_gradient_represents_the_differential(case, generator):
    """<egrad2rgrad(G), u>_x = <G, u>, which fixes the factor of the metric."""
    x = point(case, generator)
    g, u = ambient(case, generator), tangent(case, x, generator)
    rgrad = case.manifold.egrad2rgrad(x, g)
    close(case.manifold.proju(x, rgrad), rgrad)
    expected = (g * u).flatten(2).sum(-1) if case.manifold.ndim else g * u
    close(case.manifold.inner(x, rgrad, u), expected, 1e-9)


@every_case
def test_inner_product(case, generator):
    x = point(case, generator)
    u, v = tangent(case, x, generator), tangent(case, x, generator)
    inner = case.manifold.inner
    close(inner(x, u, v), inner(x, v, u), 1e-9)
    close(inner(x, u + 2 * v, v), inner(x, u, v) + 2 * inner(x, v), 1e-9)
    assert (inner(x, u) > 0).all()
    close(case.manifold.norm(x, u) ** 2, inner(x, u))
    kept = inner(x, u, v, keepdim=True)
    assert kept.ndim == len(BATCH) + case.manifold.ndim
    close(kept.reshape(inner(x, u, v).shape), inner(x, u, v))
    component = case.manifold.component_inner(x, u, v)
    assert torch.broadcast_shapes(component.shape, u.shape) == u.shape


@every_case
def test_retraction_order(case, generator):
    """The error against the geodesic falls as t^(order + 1)."""
    x = point(case, generator)
    u = tangent(case, x, generator, length=1.0)
    close(case.manifold.retr(x, 0 * u), x)
    t = 1e-5
    difference = case.manifold.retr(x, t * u) - case.manifold.retr(x, -t * u)
    close(difference / (2 * t), u, 1e-6)
    errors = []
    for t in (0.04, 0.02):
        y, z = case.manifold.retr(x, t * u), case.manifold.expmap(x, t * u)
        assert case.manifold.check_point_on_manifold(y, atol=1e-9, rtol=0)
        if isinstance(case.manifold, Grassmann):
            y, z = y @ y.mT, z @ z.mT
        errors.append((y - z).abs().max())
    if case.order == 3:
        assert errors[0] < 1e-10
    else:
        slope = torch.log2(errors[0] / errors[1])
        assert abs(slope - (case.order + 1)) < 0.35 or slope > case.order + 1


@every_case
def test_geodesics(case, generator):
    """Constant speed, and the initial velocity u."""
    x = point(case, generator)
    u = tangent(case, x, generator, length=case.reach)
    exp = case.manifold.expmap
    close(exp(x, 0 * u), x)
    assert case.manifold.check_point_on_manifold(exp(x, u), atol=1e-9, rtol=0)
    t = 1e-5
    close((exp(x, t * u) - exp(x, -t * u)) / (2 * t), u, 1e-6)
    velocity = (exp(x, (0.7 + t) * u) - exp(x, (0.7 - t) * u)) / (2 * t)
    y = exp(x, 0.7 * u)
    close(case.manifold.norm(y, velocity), case.manifold.norm(x, u), 1e-6)


@every_case
def test_log_inverts_exp(case, generator):
    x = point(case, generator)
    u = tangent(case, x, generator, length=case.reach)
    y = case.manifold.expmap(x, u)
    if not case.log:
        with pytest.raises(NotImplementedError, match="closed"):
            case.manifold.logmap(x, y)
        return
    close(case.manifold.logmap(x, y), u, 1e-8)
    close(case.manifold.dist(x, y), case.manifold.norm(x, u), 1e-8)
    close(case.manifold.dist(x, y), case.manifold.dist(y, x), 1e-8)
    close(case.manifold.dist(x, x), torch.zeros_like(case.manifold.dist(x, x)), 1e-7)
    same_point(case, case.manifold.geodesic(1.0, x, y), y, 1e-9)
    middle = case.manifold.geodesic(0.5, x, y)
    close(case.manifold.dist(x, middle), case.manifold.dist(middle, y), 1e-8)
    kept = case.manifold.dist(x, y, keepdim=True)
    assert kept.ndim == len(BATCH) + case.manifold.ndim


@every_case
def test_transport(case, generator):
    """Tangent at the target; pairs agree with their parts; isometric where claimed."""
    manifold = case.manifold
    x = point(case, generator)
    u = tangent(case, x, generator, length=case.reach)
    v, w = tangent(case, x, generator), tangent(case, x, generator)
    y, moved = manifold.retr_transp(x, u, v)
    close(y, manifold.retr(x, u), 1e-9)
    close(moved, manifold.transp_follow_retr(x, u, v), 1e-9)
    z, carried = manifold.expmap_transp(x, u, v)
    close(z, manifold.expmap(x, u), 1e-9)
    close(carried, manifold.transp_follow_expmap(x, u, v), 1e-9)
    for target, vector in [(y, moved), (z, carried), (z, manifold.transp(x, z, v))]:
        assert manifold.check_vector_on_tangent(target, vector, atol=1e-8, rtol=0)
    close(manifold.transp(x, x, v), v, 1e-9)
    if "transp" in case.isometric:
        a, b = manifold.transp(x, z, v), manifold.transp(x, z, w)
        close(manifold.inner(z, a, b), manifold.inner(x, v, w), 1e-8)
    if "retr" in case.isometric:
        a, b = (manifold.transp_follow_retr(x, u, t) for t in (v, w))
        close(manifold.inner(y, a, b), manifold.inner(x, v, w), 1e-8)


@pytest.mark.parametrize("case", FRAMED, ids=repr)
def test_frames(case, generator):
    """Frame coordinates are isometric and describe the same gradient and step."""
    manifold = case.manifold
    x = point(case, generator)
    u, g = tangent(case, x, generator, length=0.3), ambient(case, generator)
    frame = manifold.frame(x)
    d = manifold.to_frame(frame, u)
    close(manifold.from_frame(frame, d), u, 1e-9)
    squares = (d**2).flatten(2).sum(-1) if manifold.ndim else d**2
    close(squares, manifold.inner(x, u), 1e-9)
    rgrad = manifold.from_frame(frame, manifold.frame_gradient(frame, g))
    close(rgrad, manifold.egrad2rgrad(x, g), 1e-9)
    y, new = manifold.frame_retr(frame, d)
    close(y, manifold.retr(x, u), 1e-9)
    close(new, manifold.frame(y), 1e-9)
    moved = manifold.from_frame(new, d)
    assert manifold.check_vector_on_tangent(y, moved, atol=1e-9, rtol=0)


@every_case
def test_derivatives_of_exp_log_dist(case, generator):
    """Autograd agrees with finite differences, and is finite at coinciding points."""
    manifold = case.manifold
    x = point(case, generator, batch=())
    u = manifold.proju(x, torch.randn(case.shape, dtype=x.dtype, generator=generator))
    u = case.reach * u / manifold.norm(x, u)[(...,) + (None,) * manifold.ndim]
    y = manifold.expmap(x, u)

    def moved(a):
        """A point near x, by ambient motion in tangent directions only."""
        return manifold.retr(x, manifold.proju(x, a))

    zero = torch.zeros_like(x)
    functions = [lambda a: manifold.expmap(moved(a), manifold.proju(moved(a), u))]
    if case.log:
        functions += [
            lambda a: manifold.dist(moved(a), y),
            lambda a: manifold.dist(y, moved(a)),
        ]
        if not isinstance(manifold, Stiefel) and "Stiefel" not in repr(manifold):
            functions.append(lambda a: manifold.logmap(y, moved(a)))
    for function in functions:
        start = 1e-2 * u.clone()
        assert torch.autograd.gradcheck(function, start.requires_grad_(), atol=1e-5)
    if case.log:
        a = zero.clone().requires_grad_()
        (manifold.dist(x, moved(a)) ** 2).sum().backward()
        assert torch.isfinite(a.grad).all()
        assert a.grad.abs().max() < 1e-6


@every_case
def test_float32_and_batches(case, generator):
    x = point(case, generator, torch.float32)
    u = tangent(case, x, generator, length=0.1)
    y = case.manifold.retr(x, u)
    assert x.dtype == u.dtype == y.dtype == torch.float32
    assert case.manifold.check_point_on_manifold(y)
    z, v = case.manifold.retr_transp(x[0, 0], u[0, 0], u[0, 0])
    close(z, y[0, 0], 1e-5)
    assert v.dtype == torch.float32
    assert case.manifold.expmap(x, u).dtype == torch.float32


@every_case
def test_identity(case):
    manifold = case.manifold
    twin = pickle.loads(pickle.dumps(manifold))
    for other in (copy.deepcopy(manifold), twin):
        assert other == manifold
        assert hash(other) == hash(manifold)
        assert other.group_key() == manifold.group_key()
        assert type(other) is type(manifold)
    assert repr(twin) == repr(manifold)
    assert isinstance(manifold, geoopt.Manifold)
    assert manifold != geoopt.Euclidean(5)
    assert manifold.point_dims == manifold.ndim
    assert sum(manifold == other.manifold for other in CASES) <= 2


@pytest.mark.parametrize("case", COMPACT, ids=repr)
def test_random_is_uniform(case, generator):
    """First and second moments of the invariant measure."""
    count = 4000
    x = point(case, generator, batch=(count,)).flatten(1)
    deviation = 6 / count**0.5
    assert x.mean(0).abs().max() < deviation * x.std(0).max()
    covariance = x.T @ x / count
    expected = torch.eye(x.shape[1]).double() * (x**2).sum(1).mean() / x.shape[1]
    if not (isinstance(case.manifold, SpecialOrthogonal) and case.shape == (2, 2)):
        assert (covariance - expected).abs().max() < deviation * expected.max() * 1.5


@every_case
def test_decay(case, generator):
    manifold = case.manifold
    x = point(case, generator)
    close(manifold.decay(x, 0.0), x, 1e-9)
    y = manifold.decay(x, 0.25)
    assert manifold.check_point_on_manifold(y, atol=1e-9, rtol=0)
    if getattr(manifold, "compact", False):
        assert torch.equal(y, x)
    elif case.log and not isinstance(manifold, Product):
        origin = manifold.origin(*x.shape, dtype=x.dtype)
        ratio = manifold.dist(origin, y) / manifold.dist(origin, x)
        close(ratio, torch.full_like(ratio, 0.75), 1e-7)


@every_case
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_geoopt_optimizers_run(case, optimizer, generator):
    """A few steps lower a loss and stay on the manifold."""
    manifold = case.manifold
    x = geoopt.ManifoldParameter(point(case, generator), manifold=manifold)
    target = point(case, generator)
    if optimizer == "adam":
        steps = geoopt.optim.RiemannianAdam([x], lr=0.02)
    else:
        steps = geoopt.optim.RiemannianSGD([x], lr=0.005, momentum=0.5)
    losses = []
    for _ in range(6):
        steps.zero_grad()
        loss = ((x - target) ** 2).sum()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert manifold.check_point_on_manifold(x.data)


@every_case
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_member_leaves_the_others_alone(case, bad, generator):
    """Bit-identical results for the rest of the batch, and no exception."""
    manifold = case.manifold
    x = point(case, generator)
    g = 0.1 * ambient(case, generator)
    u = tangent(case, x, generator, length=0.1)
    broken_g, broken_u = g.clone(), u.clone()
    broken_g[0, 1], broken_u[0, 1] = bad, bad
    keep = torch.ones(BATCH, dtype=torch.bool)
    keep[0, 1] = False
    functions = {
        "egrad2rgrad": (manifold.egrad2rgrad, g, broken_g),
        "inner": (manifold.inner, u, broken_u),
        "retr": (manifold.retr, u, broken_u),
        "retr_transp": (lambda x, v: manifold.retr_transp(x, v, v)[1], u, broken_u),
    }
    if hasattr(manifold, "frame_retr"):
        frame = manifold.frame(x)
        functions["frame"] = (
            lambda x, v: manifold.frame_retr(frame, manifold.to_frame(frame, v))[0],
            u,
            broken_u,
        )
    for name, (function, good, broken) in functions.items():
        expected, found = function(x, good), function(x, broken)
        assert torch.equal(expected[keep], found[keep]), name
        assert not torch.isfinite(found[~keep]).all(), name


COMPILED = [
    Case(Sphere(), (4,)),
    Case(Stiefel("euclidean", "cholqr"), (5, 3)),
    Case(Stiefel("euclidean", "polar"), (5, 3)),
    Case(Stiefel("canonical"), (5, 3)),
    square(SpecialOrthogonal()),
    square(SPD("airm")),
    square(SPD("log_cholesky")),
]


@pytest.mark.compile
@pytest.mark.parametrize("case", COMPILED, ids=repr)
def test_steps_compile_without_graph_breaks(case, generator):
    manifold = case.manifold
    x = point(case, generator)
    g = 0.1 * ambient(case, generator)

    def step(x, g):
        u = manifold.egrad2rgrad(x, g)
        return manifold.retr_transp(x, -u, u)

    def framed(x, g):
        frame = manifold.frame(x)
        return manifold.frame_retr(frame, -manifold.frame_gradient(frame, g))

    functions = [step, framed] if hasattr(manifold, "frame_retr") else [step]
    for function in functions:
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        for found, expected in zip(compiled(x, g), function(x, g), strict=True):
            close(found, expected)
