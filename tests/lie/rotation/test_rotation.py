"""Rotation representations: SciPy, round trips, every finite input, derivatives."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie import rotation
from manifoldkit.lie.closed_forms import so3

CONTINUOUS = ["matrix9", "sixd", "stereo", "sym10"]
OTHERS = ["quaternion", "rotvec", "axis_angle4", "euler", "rodrigues", "mrp", "hopf"]
ALL = [*CONTINUOUS, *OTHERS, "orthogonal"]
ORDERS = [
    "".join(axes)
    for axes in itertools.product("xyz", repeat=3)
    if axes[0] != axes[1] != axes[2]
]
ORDERS += [order.upper() for order in ORDERS]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}


@pytest.fixture
def rotations(generator):
    return rotation.random_rotation(200, generator=generator, dtype=torch.float64)


def defect(r):
    n = r.shape[-1]
    eye = torch.eye(n, dtype=r.dtype)
    return max((r @ r.mT - eye).abs().max(), (torch.linalg.det(r) - 1).abs().max())


def test_agreement_with_scipy(rotations):
    theirs = rotation.to_scipy(rotations)
    wxyz = rotation.matrix_to_quaternion(rotations)
    xyzw = rotation.matrix_to_quaternion(rotations, order="xyzw")
    reference = theirs.as_quat(canonical=True)
    np.testing.assert_allclose(xyzw, reference, atol=1e-14)
    np.testing.assert_allclose(wxyz, np.roll(reference, 1, -1), atol=1e-14)
    for order in ("wxyz", "xyzw"):
        q = rotation.matrix_to_quaternion(rotations, order=order)
        back = rotation.quaternion_to_matrix(q, order=order)
        torch.testing.assert_close(back, rotations)
    np.testing.assert_allclose(
        rotation.matrix_to_rotvec(rotations), theirs.as_rotvec(), atol=1e-13
    )
    np.testing.assert_allclose(
        rotation.encode(rotations, "mrp"), theirs.as_mrp(), atol=1e-13
    )
    torch.testing.assert_close(rotation.from_scipy(theirs), rotations)


@pytest.mark.parametrize("order", ORDERS)
def test_euler_angles_of_all_orders(order, rotations):
    theirs = rotation.to_scipy(rotations)
    angles = rotation.matrix_to_euler(rotations, order, degrees=True)
    np.testing.assert_allclose(angles, theirs.as_euler(order, degrees=True), atol=1e-9)
    back = rotation.euler_to_matrix(angles, order, degrees=True)
    torch.testing.assert_close(back, rotations)
    proper = order[0] == order[2]
    for middle in (0.0, math.pi) if proper else (math.pi / 2, -math.pi / 2):
        locked = torch.tensor([0.3, middle, 0.4], dtype=torch.float64)
        r = rotation.euler_to_matrix(locked, order)
        angles = rotation.matrix_to_euler(r, order)
        assert angles[2] == 0
        torch.testing.assert_close(
            rotation.euler_to_matrix(angles, order), r, rtol=0, atol=1e-7
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_round_trips(n, dtype, generator):
    r = rotation.random_rotation(2500, n=n, generator=generator, dtype=dtype)
    for rep in [*ALL, "angle2"]:
        try:
            size = rotation.dim(rep, n)
        except ValueError:
            continue
        code = rotation.encode(r, rep)
        assert code.shape == (2500, size)
        # Rodrigues' vectors grow without bound towards half turns
        slack = {"rodrigues": 100, "rotvec": 1 if n < 4 else 1e4}.get(rep, 1)
        error = (rotation.decode(code, rep, n) - r).abs().max()
        assert error < slack * TOLERANCE[dtype], rep


@pytest.mark.parametrize("rep", ALL)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_finite_input_gives_a_rotation_and_finite_derivatives(rep, data):
    size = rotation.dim(rep)
    numbers = st.one_of(
        st.sampled_from([0.0, 1.0, -1.0, 1e38, -3e38, 1e-38, 1e-45, 1e-20]),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
    values = data.draw(arrays(np.float32, (2, size), elements=numbers))
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(values, dtype=dtype, requires_grad=True)
        r = rotation.decode(x, rep)
        limit = 4e-6 if dtype == torch.float32 else 2e-14
        unit = (r @ r.mT - torch.eye(3, dtype=dtype)).abs().max()
        assert unit < limit
        if rep != "orthogonal":
            assert torch.linalg.det(r).min() > 0.5
        weights = torch.arange(9.0, dtype=dtype).view(3, 3)
        (grad,) = torch.autograd.grad((r * weights).sum(), x)
        assert grad.isfinite().all()


@pytest.mark.parametrize("n", [2, 4, 5])
@pytest.mark.parametrize("rep", ["matrix9", "sixd", "stereo", "rotvec", "orthogonal"])
def test_every_finite_input_of_other_sizes(rep, n, generator):
    if (rep, n) == ("stereo", 2):
        return
    shape = (40, rotation.dim(rep, n))
    choices = torch.tensor([0.0, 1.0, -1.0, 1e38, -3e38, 1e-38, 1e-45, 1e-20, 0.5])
    pick = torch.randint(len(choices), shape, generator=generator)
    pick[20:] *= (torch.rand(20, shape[1], generator=generator) < 0.3).long()
    values = choices[pick]
    if rep == "rotvec" and n > 3:
        values = values.clamp(-1e3, 1e3)  # a matrix exponential of more overflows
    for dtype in (torch.float32, torch.float64):
        x = values.to(dtype).requires_grad_()
        r = rotation.decode(x, rep, n)
        eye = torch.eye(n, dtype=dtype)
        slack = 1e3 if rep == "rotvec" else 1
        limit = slack * (5e-6 if dtype == torch.float32 else 1e-13)
        assert (r @ r.mT - eye).abs().max() < limit
        weights = torch.arange(1.0 * n * n, dtype=dtype).view(n, n)
        (grad,) = torch.autograd.grad((r * weights).sum(), x)
        assert grad.isfinite().all()


def test_almost_parallel_and_badly_scaled_vectors():
    """Where the usual formulas leave the rotations."""
    generator = torch.Generator().manual_seed(0)
    for dtype, limit in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        a, b = torch.randn(2, 300, 3, dtype=torch.float64, generator=generator)
        for angle in (1e-2, 1e-4, 1e-5, 1e-6, 1e-9, 0.0):
            for first, second in ((1, 1), (1e25, 1), (1e-20, 1e20), (1e-30, 1e-30)):
                x = torch.cat([first * a, second * (a + angle * b)], -1).to(dtype)
                assert defect(rotation.rotation_6d_to_matrix(x)) < limit


CAREFUL = {"sixd": 6, "matrix9": 9, "rotvec": 3}


def awkward(rep, dtype):
    """Ordinary vectors, and between them all that the short formulas refuse."""
    x = torch.randn(12, CAREFUL[rep], generator=torch.Generator().manual_seed(1))
    x = x.to(dtype)
    x[1] = 0
    x[2] *= 1e-25
    x[3] *= 1e20
    x[4] = 1
    x[5] = torch.tensor([1.0, 0, 0] * 3)[: len(x[5])]
    if rep == "matrix9":
        x[6] = torch.diag(torch.tensor([2.0, 1, -1])).flatten()
        x[7] = torch.diag(torch.tensor([2.0, 1, -1 + 1e-4])).flatten()
        x[8] = torch.diag(torch.tensor([-1.0, -1, -1])).flatten()
    return x


@pytest.mark.parametrize("rep", CAREFUL)
def test_short_and_careful_formulas_agree(rep):
    """A batch may be looked at in eager mode; under vmap it may not."""

    def decode(x):
        return rotation.decode(x, rep)

    for x in (awkward(rep, torch.float64)[9:], awkward(rep, torch.float64)):
        careful = torch.func.vmap(decode)(x)
        torch.testing.assert_close(decode(x), careful, rtol=0, atol=1e-9)
        w = torch.randn(len(x), 3, 3, dtype=x.dtype)
        leaf = x.clone().requires_grad_()
        (ours,) = torch.autograd.grad((decode(leaf) * w).sum(), leaf)
        _, pull = torch.func.vjp(torch.func.vmap(decode), x)
        torch.testing.assert_close(ours, pull(w)[0], rtol=1e-6, atol=1e-9)
        (once,) = torch.autograd.grad((decode(leaf) * w).sum(), leaf, create_graph=True)
        (twice,) = torch.autograd.grad(once[9:].square().sum(), leaf)
        torch.testing.assert_close(once, ours, rtol=1e-6, atol=1e-9)
        assert twice.isfinite().all()
    one = torch.stack([decode(v) for v in x])
    torch.testing.assert_close(decode(x), one, rtol=0, atol=1e-12)


def test_nearest_rotation_next_to_where_it_jumps():
    """Matrices U diag(1, 1 + g, -1) V' with smaller and smaller gaps g."""
    generator = torch.Generator().manual_seed(3)
    u, v = rotation.random_rotation(2, 50, generator=generator, dtype=torch.float64)
    for gap in (1.0, 1e-2, 1e-4, 1e-6, 1e-9):
        s = torch.tensor([2.0, 1 + gap, -1.0], dtype=torch.float64)
        r = rotation.special_procrustes((u * s) @ v.mT)
        # the reached trace tr(R'M) is what defines it: 2 + gap
        reached = (r * ((u * s) @ v.mT)).sum((-2, -1))
        torch.testing.assert_close(reached, s.sum().expand(50), rtol=0, atol=1e-13)
        if gap > 1e-6:
            torch.testing.assert_close(r, u @ v.mT, rtol=0, atol=1e-13 / gap)


@pytest.mark.parametrize("rep", ALL)
def test_arguments_are_left_alone(rep, rotations):
    for size in (1, 5):
        r = rotations[:size].clone()
        x = rotation.encode(r, rep)
        kept = x.clone()
        out = rotation.decode(x, rep)
        out.add_(1)
        assert torch.equal(x, kept)
        assert torch.equal(r, rotations[:size])


@pytest.mark.parametrize("rep", ALL)
def test_autocast_rounds_nothing(rep, rotations):
    r = rotations[:4].float()
    x = rotation.encode(r, rep)
    expected = rotation.decode(x, rep)
    bad = torch.zeros(2, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rotation.encode(r, rep), x, rtol=0, atol=0)
        torch.testing.assert_close(rotation.decode(x, rep), expected, rtol=0, atol=0)
        assert defect(rotation.special_procrustes(bad)) < 1e-6


def test_degenerate_input_is_told():
    x = torch.tensor([[0.0, 0, 0, 1, 0, 0], [1, 0, 0, 2, 0, 0], [1, 0, 0, 0, 1, 0]])
    r, mask = rotation.rotation_6d_to_matrix(x, return_degenerate=True)
    assert mask.tolist() == [True, True, False]
    assert defect(r) < 1e-6
    with pytest.raises(NotOnManifoldError, match=r"x\[0\] is degenerate"):
        rotation.rotation_6d_to_matrix(x, strict=True)
    m = torch.stack([torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 1, -1]))])
    assert rotation.special_procrustes(m, return_degenerate=True)[1].all()
    with pytest.raises(NotOnManifoldError):
        rotation.special_procrustes(m, strict=True)


@pytest.mark.parametrize("rep", ALL)
def test_nan_rows_stay_alone(rep, rotations):
    x = rotation.encode(rotations[:3], rep)
    x[1] = torch.nan
    r = rotation.decode(x, rep)
    assert r[1].isnan().any()
    torch.testing.assert_close(r[::2], rotations[:3:2])


@pytest.mark.parametrize("rep", ALL)
def test_derivatives_of_decoders(rep, rotations):
    x = rotation.encode(rotations[:3], rep)
    if rep in ("rotvec", "mrp"):
        x = torch.cat([x, 0 * x[:1], 1e-7 * x[:1]])  # the identity and next to it
    x.requires_grad_()

    def decode(x):
        return rotation.decode(x, rep)

    assert gradcheck(decode, x, check_forward_ad=True)
    # long codes by random projections
    assert gradgradcheck(decode, x, fast_mode=x.shape[-1] > 5)
    batched = torch.func.vmap(decode)(x)
    torch.testing.assert_close(batched, decode(x))


@pytest.mark.parametrize("rep", ["quaternion", "rotvec", "stereo", "mrp", "matrix9"])
def test_derivatives_of_encoders(rep, rotations):
    special = torch.eye(3, dtype=torch.float64)[None]
    near = rotation.rotvec_to_matrix(torch.tensor([[math.pi - 1e-6, 0, 0]]).double())
    for r in (rotations[:2], special, near):
        v = torch.zeros(len(r), 3, dtype=torch.float64, requires_grad=True)

        def encode(v, r=r):
            return rotation.encode(r @ so3.exp_so3(v), rep)

        assert gradcheck(encode, v, check_forward_ad=True)
        assert gradgradcheck(encode, v)


def test_svd_is_the_nearest_rotation(generator):
    for n in (2, 3, 4, 5):
        m = torch.randn(300, n, n, dtype=torch.float64, generator=generator)
        u, _, vt = torch.linalg.svd(m)
        d = torch.ones(300, n, dtype=torch.float64)
        d[:, -1] = torch.linalg.det(u @ vt).sign()
        expected = (u * d[:, None]) @ vt
        ours = rotation.special_procrustes(m)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
        single = rotation.special_procrustes(m.float())
        assert defect(single) < 4e-6


def test_layouts_are_transposes(rotations):
    rows = rotation.matrix_to_rotation_6d(rotations, layout="rows")
    assert torch.equal(rows, rotations[:, :2].flatten(1))
    assert torch.equal(
        rotation.matrix_to_rotation_6d(rotations),
        torch.cat([rotations[..., 0], rotations[..., 1]], -1),
    )
    back = rotation.rotation_6d_to_matrix(rows, layout="rows")
    torch.testing.assert_close(back, rotations)


def test_agreement_with_roma(rotations):
    roma = pytest.importorskip("roma")
    x = torch.randn(
        50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    theirs = roma.special_gramschmidt(x.view(50, 2, 3).mT)
    torch.testing.assert_close(rotation.rotation_6d_to_matrix(x), theirs)
    torch.testing.assert_close(
        rotation.matrix_to_rotvec(rotations), roma.rotmat_to_rotvec(rotations)
    )


def test_jacobians_and_slerp(rotations):
    v = torch.randn(
        20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    v = torch.cat([v, 1e-6 * v[:2], 0 * v[:1], 3 * v[:1]])
    d = torch.ones_like(v)
    r, change = torch.func.jvp(so3.exp_so3, (v,), (d,))
    left = so3.vee(change @ r.mT)
    jacobian = rotation.left_jacobian(v)
    torch.testing.assert_close((jacobian @ d[..., None])[..., 0], left)
    inverse = rotation.left_jacobian(v, inverse=True)
    right = rotation.right_jacobian(v)
    torch.testing.assert_close((right @ d[..., None])[..., 0], so3.vee(r.mT @ change))
    torch.testing.assert_close(rotation.right_jacobian(v, inverse=True), inverse.mT)
    eye = torch.eye(3, dtype=torch.float64).expand_as(inverse)
    torch.testing.assert_close(inverse @ jacobian, eye)
    a, b = rotations[:5], rotations[5:10]
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    middle = rotation.slerp(a, b, t)
    torch.testing.assert_close(
        rotation.geodesic_distance(a, middle), t * rotation.geodesic_distance(a, b)
    )
    four = rotation.random_rotation(2, n=4, dtype=torch.float64)
    torch.testing.assert_close(rotation.slerp(four[:1], four[1:], 1.0), four[1:])


def test_haar_moments():
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 4):
        r = rotation.random_rotation(100_000, n=n, generator=generator)
        trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
        assert abs(trace.mean()) < 0.02
        assert abs((trace**2).mean() - (2 if n == 2 else 1)) < 0.05
        assert abs((r[:, 0, 0] ** 4).mean() - 3 / (n * (n + 2))) < 0.01


def test_similarity():
    x = torch.tensor([2.0, 0, 0, 0, 3, 0, 7, 8, 9])
    scale, r, t = rotation.decode_similarity(x)
    assert scale == 2
    torch.testing.assert_close(r, torch.eye(3))
    assert t.tolist() == [7, 8, 9]
    longer = torch.cat([x[:6], torch.tensor([math.log(5.0)]), x[6:]])
    assert rotation.decode_similarity(
        longer, scale="exp"
    ).scale.item() == pytest.approx(5)
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 4):
        size = 0.1 + torch.rand(5, generator=generator)
        r = rotation.random_rotation(5, n=n, generator=generator)
        t = torch.randn(5, n, generator=generator)
        for form in ("norm", "exp"):
            code = rotation.encode_similarity(size, r, t, form=form)
            back = rotation.decode_similarity(code, n, scale=form)
            for ours, expected in zip(back, (size, r, t), strict=True):
                torch.testing.assert_close(ours, expected)


def test_numpy_and_half_precision():
    r = Rotation.random(4, random_state=0).as_matrix()
    code = rotation.encode(r, "sixd")
    assert isinstance(code, np.ndarray)
    np.testing.assert_allclose(rotation.decode(code, "sixd"), r, atol=1e-14)
    half = rotation.decode(torch.randn(5, 6, dtype=torch.bfloat16), "sixd")
    assert half.dtype == torch.bfloat16
    assert rotation.convert(code, "sixd", "quaternion").shape == (4, 4)
    np.testing.assert_allclose(rotation.convert(code, "6d", "matrix"), r, atol=1e-14)


def test_empty_batches():
    for rep in ALL:
        out = rotation.decode(torch.zeros(0, rotation.dim(rep)), rep)
        assert out.shape == (0, 3, 3)
        assert rotation.encode(out, rep).shape == (0, rotation.dim(rep))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rotation.decode(torch.zeros(5), "sixd"), ValueError, r"\(\.\.\., 6\)"),
        (
            lambda: rotation.decode(torch.zeros(6), "sevend"),
            ValueError,
            "rep: expected",
        ),
        (lambda: rotation.dim("quaternion", 4), ValueError, "no representation of SO"),
        (lambda: rotation.dim("stereo", 2), ValueError, "no representation of SO"),
        (lambda: rotation.decode(torch.zeros(6).int(), "sixd"), TypeError, "floating"),
        (lambda: rotation.encode(torch.zeros(3, 4), "sixd"), ValueError, "square"),
        (lambda: rotation.matrix_to_rotvec(torch.eye(2)), ValueError, "3"),
        (
            lambda: rotation.quaternion_to_matrix(torch.zeros(4), order="xwyz"),
            ValueError,
            "order",
        ),
        (
            lambda: rotation.rotation_6d_to_matrix(torch.zeros(6), layout="cols"),
            ValueError,
            "layout",
        ),
        (lambda: rotation.euler_to_matrix(torch.zeros(3), "XyZ"), ValueError, "order"),
        (lambda: rotation.euler_to_matrix(torch.zeros(3), "xxy"), ValueError, "order"),
        (lambda: rotation.decode(torch.zeros(3), "mrp", strict=True), TypeError, "mrp"),
        (
            lambda: rotation.slerp(torch.eye(3), torch.eye(4), 0.5),
            ValueError,
            "b: expected matrices",
        ),
        (
            lambda: rotation.geodesic_distance(
                torch.eye(3).expand(2, 3, 3), torch.eye(3).expand(4, 3, 3)
            ),
            ValueError,
            "broadcast",
        ),
        (lambda: rotation.left_jacobian(torch.zeros(2)), ValueError, "v: expected"),
        (
            lambda: rotation.encode_similarity(
                torch.ones(()), torch.eye(3), torch.ones(2)
            ),
            ValueError,
            "t: expected",
        ),
        (lambda: rotation.decode_similarity(torch.ones(8)), ValueError, "9"),
        (lambda: rotation.matrix_to_quaternion([[1.0]]), TypeError, "tensor"),
        (lambda: rotation.special_procrustes(torch.eye(3).int()), TypeError, "float"),
        (lambda: rotation.special_procrustes(torch.zeros(2, 3)), ValueError, "square"),
        (lambda: rotation.to_scipy(2 * torch.eye(3)), NotOnManifoldError, "rotation"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.compile
@pytest.mark.parametrize("rep", ["sixd", "matrix9", "rotvec", "quaternion"])
def test_compiles_without_graph_breaks(rep):
    torch.compiler.reset()
    # the code of 6D is made for the compiler; of the others only the graph matters
    backend = "inductor" if rep == "sixd" else "aot_eager"
    x = torch.randn(8, rotation.dim(rep), requires_grad=True)
    compiled = torch.compile(
        lambda x: rotation.decode(x, rep), fullgraph=True, backend=backend
    )
    out = compiled(x)
    torch.testing.assert_close(out, rotation.decode(x, rep))
    (ours,) = torch.autograd.grad(out[:, 0].sum(), x)
    (plain,) = torch.autograd.grad(rotation.decode(x, rep)[:, 0].sum(), x)
    torch.testing.assert_close(ours, plain)
