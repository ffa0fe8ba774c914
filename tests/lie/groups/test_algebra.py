"""Brackets and the Baker-Campbell-Hausdorff series."""

import pytest
import torch
from torch.autograd import gradgradcheck

from manifoldkit.lie import SL, SO, Affine, GLPlus, bch, bracket, rotation

DOUBLE = {"dtype": torch.float64}
GROUPS = [SO(3), SO(4), SL(3), GLPlus(2), Affine(2, SL(2))]


def algebra(group, count, generator):
    v = torch.randn(count, group.dim, generator=generator, **DOUBLE)
    return group.hat(v / v.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("group", GROUPS, ids=repr)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_series_has_its_order(group, order, generator):
    x, y = algebra(group, 20, generator).chunk(2)
    errors = []
    for t in (0.08, 0.04):
        exact = group.exp(t * x) @ group.exp(t * y)
        errors.append((group.exp(bch(t * x, t * y, order=order)) - exact).norm())
    # halving the arguments divides the error by 2 ** (order + 1)
    assert errors[0] / errors[1] > 0.85 * 2 ** (order + 1)


@pytest.mark.parametrize("group", GROUPS, ids=repr)
def test_bracket_is_the_derivative_of_the_adjoint(group, generator):
    x, y, z = algebra(group, 3, generator)
    t = torch.zeros((), **DOUBLE)
    one = torch.ones((), **DOUBLE)
    _, change = torch.func.jvp(
        lambda t: group.adjoint(group.exp(t * x), y), (t,), (one,)
    )
    torch.testing.assert_close(change, bracket(x, y))
    torch.testing.assert_close(bracket(x, y), -bracket(y, x))
    jacobi = bracket(x, bracket(y, z)) + bracket(y, bracket(z, x))
    torch.testing.assert_close(jacobi, -bracket(z, bracket(x, y)))
    g = group.exp(z)
    torch.testing.assert_close(  # the adjoint action preserves brackets
        group.adjoint(g, bracket(x, y)),
        bracket(group.adjoint(g, x), group.adjoint(g, y)),
    )


def test_rotations_in_vectors(generator):
    """Ad_R v = R v, [v, w] = v x w, and the Jacobians are the whole series in one."""
    v, w = 0.3 * torch.randn(2, 5, 3, generator=generator, **DOUBLE)
    group, root = SO(3), 2**0.5
    x, y = group.hat(root * v), group.hat(root * w)
    r = group.exp(x)
    torch.testing.assert_close(
        group.vee(bracket(x, y)), root * torch.linalg.cross(v, w)
    )
    turned = group.vee(group.adjoint(r, y))
    torch.testing.assert_close(turned, root * (r @ w[..., None])[..., 0])
    small = 1e-5 * w
    exact = rotation.matrix_to_rotvec(rotation.rotvec_to_matrix(small) @ r)
    step = rotation.left_jacobian(v, inverse=True) @ small[..., None]
    torch.testing.assert_close(exact - v, step[..., 0], rtol=1e-4, atol=1e-9)


def test_transforms_and_bad_input(generator):
    x, y = algebra(SL(3), 2, generator)
    torch.testing.assert_close(torch.func.vmap(bch)(x[None], y[None])[0], bch(x, y))
    x.requires_grad_()
    assert gradgradcheck(lambda x: bch(x, y, order=4), x)
    half = bch(x.bfloat16(), y.bfloat16())
    assert half.dtype == torch.bfloat16
    assert bch(x[None][:0], y).shape == (0, 3, 3)
    with pytest.raises(ValueError, match="order"):
        bch(x, y, order=5)
    with pytest.raises(ValueError, match="y: expected"):
        bracket(x, torch.eye(2))
    with pytest.raises(TypeError, match="x: expected floating"):
        bracket(torch.eye(3).int(), y)
