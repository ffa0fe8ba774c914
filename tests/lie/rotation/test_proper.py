"""Matrices that should be rotations: the nearest ones, never those of reflections."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from manifoldkit import lie
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie import losses, rotation

REFLECTION = torch.tensor(
    [[0.15514354, -0.98789194, 0], [-0.98789194, -0.15514354, 0], [0, 0, 1.0]],
    dtype=torch.float64,
)
EYE = torch.eye(3, dtype=torch.float64)
OF_ONE = {
    "rotvec": rotation.matrix_to_rotvec,
    "quaternion": rotation.matrix_to_quaternion,
    "euler": rotation.matrix_to_euler,
    "6d": rotation.matrix_to_rotation_6d,
    "5d": rotation.matrix_to_rotation_5d,
    "scipy": rotation.to_scipy,
    "log": lie.SO(3).log,
    "coords": lie.SO(3).coords,
    **{
        f"encode {rep}": lambda r, rep=rep: rotation.encode(r, rep)
        for rep in ("matrix9", "sixd", "stereo", "rotvec", "sym10", "hopf", "mrp")
    },
    "convert": lambda r: rotation.convert(r, "matrix", "rotvec"),
    "convert to itself": lambda r: rotation.convert(r, "matrix", "matrix"),
}
OF_TWO = {
    "distance": rotation.geodesic_distance,
    "loss": losses.geodesic_loss,
    "rotvec loss": losses.rotvec_loss,
    "slerp": lambda a, b: rotation.slerp(a, b, 0.5),
    "group distance": lie.SO(3).distance,
    "group geodesic": lambda a, b: lie.SO(3).geodesic(a, b, 0.5),
    "mean": lambda a, b: losses.karcher_mean(torch.stack([a, b])),
    "chordal mean": lambda a, b: losses.chordal_mean(torch.stack([a, b])),
}


def noisy(size, count=40, dtype=torch.float64):
    """Rotations and matrices so far from them."""
    generator = torch.Generator().manual_seed(0)
    r = rotation.random_rotation(count, generator=generator, dtype=dtype)
    return r, r + size * torch.randn(r.shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("bad", [REFLECTION, -EYE, torch.diag(torch.ones(3)) * 0])
@pytest.mark.parametrize("name", OF_ONE)
def test_what_is_no_rotation_is_refused(name, bad):
    batch = torch.stack([EYE, bad.double(), EYE])
    with pytest.raises(NotOnManifoldError, match=r"r|g"):
        OF_ONE[name](bad.double())
    with pytest.raises(NotOnManifoldError, match=r"\[1\].*determinant (-1|0|-0)"):
        OF_ONE[name](batch)


@pytest.mark.parametrize("name", OF_TWO)
def test_both_of_a_pair_are_looked_at(name):
    for pair in ((EYE, REFLECTION), (REFLECTION, EYE)):
        with pytest.raises(NotOnManifoldError, match="determinant -1"):
            OF_TWO[name](*pair)


@pytest.mark.parametrize("n", [2, 4, 5])
def test_reflections_of_other_sizes(n):
    bad = torch.eye(n)
    bad[0, 0] = -1
    with pytest.raises(NotOnManifoldError, match="determinant -1"):
        rotation.geodesic_distance(bad, torch.eye(n))
    with pytest.raises(NotOnManifoldError, match="determinant -1"):
        rotation.encode(bad, "sixd")
    with pytest.raises(NotOnManifoldError, match="determinant -1"):
        lie.SO(n).log(bad)
    assert rotation.encode(bad, "orthogonal").shape == (n * n,)


@pytest.mark.parametrize("size", [1e-9, 1e-4, 0.01, 0.1])
def test_the_nearest_rotation_is_that_of_scipy(size):
    _, m = noisy(size)
    peer = Rotation.from_matrix(m.numpy())
    near = torch.from_numpy(peer.as_matrix())
    found = rotation.quaternion_to_matrix(rotation.matrix_to_quaternion(m))
    torch.testing.assert_close(found, near, atol=1e-12, rtol=0)
    torch.testing.assert_close(found, rotation.special_procrustes(m))
    vector = rotation.rotvec_to_matrix(rotation.matrix_to_rotvec(m))
    torch.testing.assert_close(vector, near, atol=1e-12, rtol=0)
    angles = rotation.euler_to_matrix(rotation.matrix_to_euler(m, "ZYX"), "ZYX")
    torch.testing.assert_close(angles, near, atol=1e-9, rtol=0)
    assert rotation.geodesic_distance(m, near).max() < 1e-12
    for rep in ("sixd", "stereo", "sym10", "hopf", "mrp", "axis_angle4", "matrix9"):
        back = rotation.decode(rotation.encode(m, rep), rep)
        torch.testing.assert_close(back, near, atol=1e-9, rtol=0)


def test_company_changes_no_answer():
    r, m = noisy(0.1, 5)
    alone = torch.stack([rotation.matrix_to_rotvec(x) for x in r])
    mixed = torch.cat([r, m])
    assert torch.equal(rotation.matrix_to_rotvec(mixed)[:5], alone)
    with_nan = torch.cat([r, r[:1] * torch.nan])
    assert torch.equal(rotation.matrix_to_rotvec(with_nan)[:5], alone)
    assert rotation.matrix_to_rotvec(with_nan)[5].isnan().all()


@pytest.mark.parametrize("scale", [1e-100, 1e-3, 7.0, 1e100])
def test_a_scaled_rotation_is_the_rotation(scale):
    r, _ = noisy(0.0)
    found = rotation.matrix_to_quaternion(scale * r)
    torch.testing.assert_close(found, rotation.matrix_to_quaternion(r))


def test_transforms_give_nan_for_reflections_and_the_nearest_rotation():
    r, m = noisy(0.05, 6)
    batch = torch.cat([r, m, REFLECTION[None]])
    expected = rotation.matrix_to_rotvec(batch[:-1])
    for found in (
        torch.func.vmap(rotation.matrix_to_rotvec)(batch),
        torch.compile(rotation.matrix_to_rotvec, backend="eager")(batch),
    ):
        torch.testing.assert_close(found[:-1], expected)
        assert found[-1].isnan().all()


@pytest.mark.parametrize("size", [0.0, 0.05])
def test_derivatives_are_those_of_the_nearest_rotation(size):
    _, m = noisy(size, 3)
    x = m.clone().requires_grad_()
    assert gradcheck(rotation.matrix_to_rotvec, x)
    assert gradcheck(rotation.matrix_to_rotvec, x, check_forward_ad=True)
    (grad,) = torch.autograd.grad(rotation.matrix_to_rotvec(x).sum(), x)
    near = rotation.special_procrustes(m)
    # a stretch does not turn the nearest rotation
    assert ((grad.mT @ near) + (grad.mT @ near).mT).abs().max() < 1e-10 or size


def test_to_scipy_says_how_far_a_matrix_is():
    r, m = noisy(0.05, 1)
    with pytest.raises(
        NotOnManifoldError, match=r"\|r r' - I\| up to 0\.\d+ .determin"
    ):
        rotation.to_scipy(m[0])
    with pytest.raises(ValueError, match="finite"):
        rotation.to_scipy(r[0] * torch.nan)
    near = rotation.to_scipy((r + 1e-6)[0]).as_matrix()
    assert np.abs(near - r[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("rep", ["matrix9", "sixd", "stereo", "rotvec"])
@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_codes_are_no_views(rep, layout):
    r, _ = noisy(0.0, 4)
    options = {"layout": layout} if rep == "sixd" else {}
    for n, batch in ((3, r), (4, rotation.random_rotation(4, n=4))):
        keep = batch.clone()
        rotation.encode(batch, rep, **options).add_(1.0)
        rotation.convert(batch, "matrix", "matrix", n=n).add_(1.0)
        assert torch.equal(batch, keep)
    keep = r.clone()
    rotation.matrix_to_rotation_6d(r, layout=layout).mul_(3)
    rotation.matrix_to_rotation_6d(r.numpy(), layout=layout)[:] = 0
    assert torch.equal(r, keep)


def test_sizes_of_random_rotations():
    shapes = [((), (5,)), ((5,), ((5,),)), ((2, 3), ((2, 3),)), ((0,), ([0],))]
    assert rotation.random_rotation().shape == (3, 3)
    for _, arguments in shapes[1:]:
        expected = (*arguments[0], 3, 3)
        assert rotation.random_rotation(*arguments).shape == expected
    for wrong in (2.5, "a", -1, True, None):
        with pytest.raises(ValueError, match="shape: expected an integer >= 0"):
            rotation.random_rotation(wrong)
    with pytest.raises(ValueError, match="n: expected an integer >= 2"):
        rotation.random_rotation(3, n=1)


def test_random_rotations_compile_for_every_size():
    draw = torch.compile(
        lambda x: rotation.random_rotation(x.shape[0]), backend="eager"
    )
    for n in (4, 6, 8):
        assert draw(torch.zeros(n)).shape == (n, 3, 3)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_registration_knows_no_unit(scale, dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, generator=generator, dtype=dtype)
    y = 0.5 * x.roll(1, -1) + torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    one = losses.register(x, y, scale=True)
    other = losses.register(x, scale * y, scale=True)
    torch.testing.assert_close(other.r, one.r)
    torch.testing.assert_close(other.scale / scale, one.scale)
    torch.testing.assert_close(other.t / scale, one.t)
    both = losses.register(scale * x, scale * y, scale=True)
    torch.testing.assert_close(both.scale, one.scale)


@pytest.mark.parametrize("scale", [False, True])
def test_registration_of_nan_is_nan(scale):
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[1, 2, 0] = torch.nan
    found = losses.register(x, y, scale=scale)
    for part in found:
        assert part[0].isfinite().all()
        assert part[1].isnan().all()
