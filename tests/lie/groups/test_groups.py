"""The laws of the matrix groups, their coordinates, and bad input."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap

from manifoldkit.lie import SL, SO, Affine, GLPlus, Scale, SPDSpace

DOUBLE = {"dtype": torch.float64}
GROUPS = [
    *(group(n) for n in (2, 3, 4, 5) for group in (GLPlus, SL, SO)),
    Scale(),
    Affine(2, GLPlus(2)),
    Affine(3, SO(3)),
    Affine(2, Scale()),
    GLPlus(2, alpha=2.5),
]
SPACES = [SPDSpace(2), SPDSpace(4), SPDSpace(2, unimodular=True), SPDSpace(3, True)]
EVERY = GROUPS + SPACES
FORMS = [
    GLPlus(2, angle="periodic"),
    SO(2, angle="periodic"),
    GLPlus(2, convention="rgenn", alpha=3.0),
    SL(2, convention="rgenn"),
    SO(2, convention="rgenn"),
    Affine(2, SL(2, angle="periodic")),
    Affine(2, SL(2, convention="rgenn", alpha=2.0)),
]
ids = {"ids": repr}


def elements(group, count, generator, dtype=torch.float64):
    return group.sample(count, generator=generator, dtype=dtype)[0]


def close(a, b, tol=1e-11, **options):
    torch.testing.assert_close(a, b, rtol=0, atol=tol, **options)


@pytest.mark.parametrize("group", EVERY, **ids)
def test_group_laws(group, generator):
    g, h, k = elements(group, 60, generator).chunk(3)
    e = group.identity(**DOUBLE)
    close(group.compose(group.compose(g, h), k), group.compose(g, group.compose(h, k)))
    close(group.compose(g, e), g)
    close(group.compose(group.inverse(g), g), e.expand_as(g))
    assert group.belongs(group.compose(g, h)).all()
    assert group.belongs(group.inverse(g)).all()
    assert group.belongs(group.identity(2, 3)).shape == (2, 3)
    x = group.hat(torch.randn(20, group.dim, generator=generator, **DOUBLE))
    inverse = group.inverse(g)
    close(group.adjoint(inverse, group.adjoint(g, x)), x, 1e-9)


@pytest.mark.parametrize("group", GROUPS, **ids)
def test_action_and_adjoint(group, generator):
    g, h = elements(group, 40, generator).chunk(2)
    x = torch.randn(20, group.n, generator=generator, **DOUBLE)
    moved = group.act(g, group.act(h, x))
    close(group.act(group.compose(g, h), x), moved)
    # g exp(X) g^-1 = exp(Ad_g X)
    a = 0.3 * group.hat(torch.randn(20, group.dim, generator=generator, **DOUBLE))
    inside = group.compose(group.compose(g, group.exp(a)), group.inverse(g))
    close(group.exp(group.adjoint(g, a)), inside, 1e-9)


@pytest.mark.parametrize("group", SPACES, **ids)
def test_the_space_of_stretches(group, generator):
    s, t = elements(group, 40, generator).chunk(2)
    linear = SL(group.n) if group.unimodular else GLPlus(group.n)
    g = elements(linear, 20, generator)
    moved = group.act(g, s)
    assert group.belongs(moved).all()
    close(group.distance(moved, group.act(g, t)), group.distance(s, t), 1e-9)
    one = group.identity(20, **DOUBLE)
    close(group.distance(one, s), group.coords(s).norm(dim=-1))


@pytest.mark.parametrize("group", EVERY, **ids)
def test_hat_and_vee_are_isometric(group, generator):
    v = torch.randn(7, group.dim, generator=generator, **DOUBLE)
    x = group.hat(v)
    close(group.vee(x), v)
    if not isinstance(group, Affine):
        close(group.alpha * x.square().sum((-2, -1)), v.square().sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", EVERY + FORMS, **ids)
def test_coordinates_round_trip(group, dtype, generator):
    g = elements(group, 600, generator, dtype)
    unit = torch.finfo(dtype).eps
    v = group.coords(g)
    assert v.shape == (600, group.coords_dim)
    assert v.dtype == dtype
    # for n >= 4 rotations close to half turns cost digits
    close(group.from_coords(v), g, (1e3 if group.n < 4 else 1e5) * unit)
    small = 0.2 * torch.randn(50, group.dim, generator=generator, **DOUBLE)
    if group not in FORMS:
        close(group.coords(group.from_coords(small)), small)


def test_order_and_scale_of_coordinates():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], **DOUBLE)
    y = torch.tensor([[0.3, 0.2], [0.2, -0.1]], **DOUBLE)
    g = torch.linalg.matrix_exp(y) @ torch.linalg.matrix_exp(0.4 * turn)
    root = math.sqrt(2)
    expected = torch.tensor([0.3, root * 0.2, -0.1, root * 0.4], **DOUBLE)
    close(GLPlus(2).coords(g), expected)
    close(GLPlus(2, alpha=4.0).coords(g), 2 * expected)
    h = g / torch.linalg.det(g).sqrt()
    close(SL(2).coords(h), root * torch.tensor([0.2, 0.2, 0.4], **DOUBLE))
    close(
        GLPlus(2).coords(g, angle="periodic"),
        torch.cat([expected[:3], torch.tensor([0.4, 0.4], **DOUBLE)]).index_copy(
            0,
            torch.tensor([3, 4]),
            torch.tensor([math.cos(0.4), math.sin(0.4)], **DOUBLE),
        ),
    )
    back = torch.linalg.matrix_exp(-0.01 * turn)
    rgenn = GLPlus(2, convention="rgenn").coords(back)
    close(rgenn, torch.tensor([0, 0, 0, 2 * math.pi - 0.01], **DOUBLE))
    rgenn = SL(2, convention="rgenn").coords(h)
    close(rgenn, torch.tensor([root * 0.2, 0.4, root * 0.2], **DOUBLE))
    w = torch.tensor([0.3, -0.2, 0.5], **DOUBLE)
    r = torch.from_numpy(Rotation.from_rotvec(w.numpy()).as_matrix())
    close(SO(3).coords(r), root * w)
    x = torch.arange(25.0, **DOUBLE).reshape(5, 5) / 30
    skew = SO(5).vee(x - x.T)
    below = [(x - x.T)[i, j] for i in range(5) for j in range(i)]
    close(skew, root * torch.stack(below))
    y = x + x.T
    upper = [(1 if i == j else root) * y[i, j] for i in range(5) for j in range(i, 5)]
    close(GLPlus(5).vee(y)[:15], torch.stack(upper))
    diagonal = torch.diag(torch.tensor([1.0, 1.0, -2.0], **DOUBLE))
    close(SL(3).vee(diagonal)[:3], torch.tensor([0, math.sqrt(6), 0], **DOUBLE))


def test_coordinates_are_continuous_at_the_identity():
    for group in (GLPlus(2), SL(2), SO(2), GLPlus(3), SO(4)):
        v = 1e-9 * torch.linspace(-1, 1, group.dim, **DOUBLE)
        for sign in (1, -1):
            g = group.from_coords(sign * v)
            assert group.coords(g).norm() < 1e-8
    half = torch.tensor([[-1.0, 1e-16], [-1e-16, -1.0]], **DOUBLE)
    close(SO(2).coords(half), torch.tensor([math.sqrt(2) * math.pi], **DOUBLE))


@pytest.mark.parametrize("group", EVERY, **ids)
def test_exponential_and_logarithm(group, generator):
    x = 0.4 * group.hat(torch.randn(12, group.dim, generator=generator, **DOUBLE))
    g = group.exp(x)
    assert group.belongs(g).all()
    expected = np.stack([scipy.linalg.expm(a) for a in x.numpy()])
    np.testing.assert_allclose(g, expected, atol=1e-11)
    log, valid = group.log(g, return_valid=True)
    assert valid.all()
    close(log, x, 1e-10)


@pytest.mark.parametrize("group", [GLPlus(2), SL(2), GLPlus(3), SL(3)], **ids)
def test_elements_without_logarithm(group):
    good = torch.eye(group.n, **DOUBLE)
    first, second = good.clone(), good.clone()
    first[:2, :2] = torch.tensor([[-1.0, 1.0], [0.0, -1.0]])
    second[0, 0], second[1, 1] = -2.0, -0.5
    g = torch.stack([good, first, second])
    assert group.belongs(g).all()
    for mode in ("off", "mask"):
        log, valid = group.log(g, return_valid=True, validate=mode)
        assert valid.tolist() == [True, False, False]
        assert log[0].isfinite().all()
        assert log[1:].isnan().all()
    with pytest.raises(ValueError, match=r"g\[1\] has no principal logarithm"):
        group.log(g, validate="raise")
    with pytest.raises(ValueError, match="logarithm"):
        group.log(g.numpy())
    close(group.from_coords(group.coords(g)), g)  # the chart covers them
    x = g.clone().requires_grad_()
    log = group.log(x, validate="mask")
    (grad,) = torch.autograd.grad(log[0].sum(), x)
    assert grad.isfinite().all()


def test_half_turns_have_logarithms():
    half = torch.diag(torch.tensor([-1.0, -1.0], **DOUBLE))
    close(GLPlus(2).exp(GLPlus(2).log(3 * half)), 3 * half)
    close(SO(2).exp(SO(2).log(half)), half)
    for n in (3, 4, 5):
        r = torch.diag(torch.tensor([-1.0, -1.0] + [1.0] * (n - 2), **DOUBLE))
        close(SO(n).from_coords(SO(n).coords(r)), r)
        close(vmap(SO(n).log)(r[None])[0], SO(n).log(r))


@pytest.mark.parametrize("group", EVERY, **ids)
def test_geodesics_have_constant_speed(group, generator):
    g, h = elements(group, 20, generator).chunk(2)
    close(group.geodesic(g, h, 0.0), g)
    close(group.geodesic(g, h, 1.0), h, 1e-9)
    middle = group.geodesic(g, h, torch.full((10,), 0.25, **DOUBLE))
    assert group.belongs(middle, 1e-8).all()
    distance = group.distance(g, h)
    close(group.distance(g, middle), 0.25 * distance, 1e-9)
    close(group.distance(middle, h), 0.75 * distance, 1e-9)
    close(distance, group.distance(h, g), 1e-9)
    assert group.distance(g, g).max() < 1e-6


@pytest.mark.parametrize("group", EVERY, **ids)
def test_projection(group, generator):
    g = elements(group, 10, generator)
    close(group.project(g), g, 1e-9)
    if not isinstance(group, (GLPlus, Affine)) or isinstance(group, SL):
        x = torch.randn(9, *g.shape[1:], generator=generator, **DOUBLE)
        if isinstance(group, SL):
            x = x[torch.linalg.det(x) > 0]
        assert group.belongs(group.project(x), 1e-6).all()
    if isinstance(group, SO):
        u, _, vt = np.linalg.svd(x[0].numpy())
        d = np.ones(group.n)
        d[-1] = np.linalg.det(u @ vt)
        np.testing.assert_allclose(group.project(x)[0], (u * d) @ vt, atol=1e-10)


DIFFERENTIABLE = [GLPlus(2), SL(3), SO(3), SPDSpace(3), Affine(2, SL(2)), GLPlus(4)]


@pytest.mark.parametrize("group", DIFFERENTIABLE, **ids)
def test_derivatives(group, generator):
    """At a random element and at the identity."""
    e = group.identity(**DOUBLE)
    near = group.from_coords(0.5 * torch.ones(group.dim, **DOUBLE) / group.dim)
    h = elements(group, 1, generator)[0]
    v = torch.zeros(group.dim, **DOUBLE, requires_grad=True)
    for point in (near, e):
        # x moves on the group: the derivative of rotation_log is defined there only
        def lift(v, point=point):
            return group.compose(group.from_coords(v), point)

        for f in (
            lambda v: group.coords(lift(v)),
            lambda v: group.log(lift(v)),
            lambda v: group.inverse(lift(v)),
            lambda v: group.geodesic(lift(v), h, 0.3),
        ):
            # large groups by random projections
            fast = {"fast_mode": group.dim > 3, "atol": 2e-5}
            assert gradcheck(f, (v,), check_forward_ad=True, **fast)
    if group.n < 4:
        fast["atol"] = 2e-4
        assert gradgradcheck(lambda v: group.coords(lift(v)), (v,), **fast)
        assert gradgradcheck(group.from_coords, (v,), **fast)


@pytest.mark.parametrize("group", [GLPlus(2), SO(3), SO(4)], **ids)
def test_derivatives_next_to_half_turns(group):
    v = torch.zeros(group.dim, **DOUBLE)
    v[-1] = math.sqrt(2) * (math.pi - 1e-6)
    v = v.requires_grad_()
    f = lambda v: group.coords(group.from_coords(v))  # noqa: E731
    jacobian = torch.func.jacrev(f)(v)
    close(jacobian, torch.eye(group.dim, **DOUBLE), 1e-3 if group.n > 2 else 1e-9)


@pytest.mark.parametrize("group", EVERY + FORMS[:1], **ids)
def test_vmap_and_forward_mode(group, generator):
    g, h = elements(group, 8, generator).chunk(2)
    for f in (group.coords, group.log, group.inverse, group.project):
        close(vmap(f)(g), f(g), 1e-9, equal_nan=True)
    close(vmap(group.distance)(g, h), group.distance(g, h), 1e-9)
    v = group.coords(g)
    t = torch.randn(v.shape, generator=generator, **DOUBLE)
    _, forward = jvp(group.from_coords, (v,), (t,))
    w = torch.randn(g.shape, generator=generator, **DOUBLE)
    v = v.detach().requires_grad_()
    (back,) = torch.autograd.grad(group.from_coords(v), v, w)
    close((forward * w).sum(), (back * t).sum(), 1e-9)
    close(vmap(group.haar_log_density)(g), group.haar_log_density(g), 1e-9)


@pytest.mark.parametrize("group", EVERY, **ids)
def test_batch_shapes_half_precision_and_arrays(group, generator):
    g = elements(group, 6, generator)
    v = group.coords(g)
    close(group.coords(g.reshape(2, 1, 3, *g.shape[1:])).reshape(6, -1), v)
    close(group.coords(g[0]), v[0])
    empty = torch.empty(0, 4, *g.shape[1:])
    assert group.coords(empty).shape == (0, 4, group.coords_dim)
    assert group.from_coords(group.coords(empty)).shape == empty.shape
    assert group.log(empty).shape == empty.shape
    assert group.distance(empty, empty).shape == (0, 4)
    outer = group.compose(g[:, None], g)
    assert outer.shape == (6, 6, *g.shape[1:])
    for dtype in (torch.float16, torch.bfloat16):
        half = group.coords(g.to(dtype))
        assert half.dtype == dtype
        close(half.double(), v, 0.3)
        assert group.compose(g.to(dtype), g.to(dtype)).dtype == dtype
        assert group.belongs(group.identity(dtype=dtype))
    array = group.coords(g.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, v.numpy())
    assert isinstance(group.belongs(g.numpy()), np.ndarray)


@pytest.mark.parametrize("group", EVERY, **ids)
def test_bad_rows_stay_alone(group, generator):
    g = elements(group, 5, generator)
    clean = group.coords(g)
    g[1, 0, 0] = math.nan
    g[3] = math.inf
    for mode in ("off", "mask"):
        x = g.clone().requires_grad_()
        v = group.coords(x, validate=mode)
        close(v[[0, 2, 4]], clean[[0, 2, 4]])
        assert not v[[1, 3]].isfinite().all(-1).any()
        (grad,) = torch.autograd.grad(v[[0, 2, 4]].sum(), x)
        assert grad[[0, 2, 4]].isfinite().all()
        if mode == "mask":
            assert grad.isfinite().all()
    assert group.belongs(g).tolist() == [True, False, True, False, True]
    with pytest.raises(ValueError, match=r"g\[1\] is not finite"):
        group.coords(g, validate="raise")
    with pytest.raises(ValueError, match=r"g\[1\] is not finite"):
        group.inverse(g.numpy())


def test_matrices_outside_the_group():
    mirror = torch.diag(torch.tensor([1.0, -1.0], **DOUBLE))
    for group in (GLPlus(2), SL(2), SO(2), SPDSpace(2), SPDSpace(2, True)):
        assert not group.belongs(mirror)
        with pytest.raises(ValueError, match="outside the set: expected"):
            group.coords(mirror, validate="raise")
        assert group.coords(mirror, validate="mask").isnan().all()
    for group in (GLPlus(2), SL(2), GLPlus(3)):
        zero = torch.zeros(group.n, group.n)
        assert group.coords(zero).isnan().any()
        assert not group.inverse(zero).isfinite().all()
        assert not group.belongs(zero)
    double = 2 * torch.eye(2)
    assert GLPlus(2).belongs(double)
    assert not SL(2).belongs(double)
    assert not SO(2).belongs(double)
    assert SO(2).belongs(double / 2)
    assert SO(2).belongs(torch.eye(2) + 0.01, atol=0.1)
    shear = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
    assert not SPDSpace(2).belongs(shear)
    assert not SO(2).belongs(shear)
    affine = Affine(2, SO(2))
    assert not affine.belongs(2 * torch.eye(3))
    assert not Scale().belongs(-torch.ones(1, 1))


@pytest.mark.parametrize("group", EVERY, **ids)
def test_shapes_and_dtypes_are_checked(group):
    size = group.matrix_size
    for method in (group.coords, group.inverse, group.log, group.exp, group.vee):
        with pytest.raises(ValueError, match="expected"):
            method(torch.ones(size, size + 1))
        with pytest.raises(ValueError, match="expected"):
            method(torch.eye(size + 1))
        with pytest.raises(TypeError, match="floating-point"):
            method(torch.eye(size, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"v: expected shape .*found"):
        group.hat(torch.ones(group.dim + 1))
    with pytest.raises(ValueError, match=r"v: expected shape .*found"):
        group.from_coords(torch.ones(group.coords_dim + 1))
    with pytest.raises(TypeError, match="floating-point"):
        group.from_coords(torch.ones(group.coords_dim, dtype=torch.long))
    with pytest.raises(ValueError, match="h: expected"):
        group.compose(torch.eye(size), torch.eye(size + 1))


def test_constructors_check():
    for n in (1, 0, -2, 2.0, True, "2"):
        with pytest.raises(ValueError, match="n: expected an integer"):
            GLPlus(n)
    with pytest.raises(ValueError, match="alpha"):
        SL(2, alpha=0)
    with pytest.raises(ValueError, match="expected n = 2"):
        SO(3, angle="periodic")
    with pytest.raises(ValueError, match="angle: expected one of"):
        SO(2, angle="degrees")
    with pytest.raises(ValueError, match="not part of"):
        SL(2, angle="periodic", convention="rgenn")
    with pytest.raises(ValueError, match="matrices of size 3"):
        Affine(3, SO(2))
    with pytest.raises(TypeError, match="linear group"):
        Affine(2, Affine(2, SO(2)))
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., "):
        SO(2).act(torch.eye(2), torch.ones(3))


@pytest.mark.parametrize("group", EVERY + FORMS, **ids)
def test_groups_copy_pickle_and_say_what_they_are(group, generator):
    g = elements(group, 3, generator)
    for other in (copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        assert repr(other) == repr(group)
        assert torch.equal(other.coords(g), group.coords(g))


def test_affine_is_a_semidirect_product(generator):
    group = Affine(2, GLPlus(2))
    g, h = elements(group, 2, generator)
    (x, a), (y, b) = group.split(g), group.split(h)
    z, c = group.split(group.compose(g, h))
    close(z, x + a @ y)
    close(c, a @ b)
    close(group.join(x, a), g)
    shift, linear = group.split(group.inverse(g))
    close(shift, -torch.linalg.solve(a, x))
    close(linear, torch.linalg.inv(a))
    p = torch.tensor([1.0, -2.0], **DOUBLE)
    close(group.act(g, p), a @ p + x)
    scale = Affine(3, Scale())
    g = scale.join(torch.ones(3), torch.full((1, 1), 2.0))
    close(scale.act(g, torch.ones(3)), 3 * torch.ones(3))


@pytest.mark.compile
@pytest.mark.parametrize(
    "group", [GLPlus(2), pytest.param(SL(3), marks=pytest.mark.slow)], **ids
)
def test_compiles_without_graph_breaks(group, generator):
    def relative(g, h):
        k = group.compose(group.inverse(g), h)
        return group.from_coords(group.coords(k)) + group.exp(group.log(k))

    g, h = 0.5 * elements(group, 2, generator) + 0.5 * group.identity(**DOUBLE)
    g, h = group.project(g), group.project(h)
    compiled = torch.compile(relative, fullgraph=True, backend="aot_eager")
    close(compiled(g, h), relative(g, h), 1e-10)


def test_affine_maps_of_the_line(generator):
    """The group of maps ``a x + b``."""
    group = Affine(1, Scale())
    g = group.join(
        torch.tensor([3.0], dtype=torch.float64),
        torch.tensor([[2.0]], dtype=torch.float64),
    )
    x = torch.tensor([5.0], dtype=torch.float64)
    assert group.act(g, x).item() == 13
    torch.testing.assert_close(group.act(group.inverse(g), group.act(g, x)), x)
    expected = torch.tensor([3.0, math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(group.coords(g), expected)
    torch.testing.assert_close(group.from_coords(group.coords(g)), g)
    torch.testing.assert_close(group.exp(group.log(g)), g)
    assert group.haar_log_density(g).item() == pytest.approx(-math.log(2))
    assert group.sample(4, generator=generator)[0].shape == (4, 2, 2)


def test_times_of_another_batch_are_named():
    r = torch.eye(3).expand(2, 3, 3)
    with pytest.raises(ValueError, match="g, h, t: expected batch shapes"):
        SO(3).geodesic(r, r, torch.zeros(3))
