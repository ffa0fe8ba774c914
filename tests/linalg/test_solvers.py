"""The Lyapunov equation."""

import math

import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

from manifoldkit.linalg import eigh, solve_lyapunov


def test_solves_the_equation_and_agrees_with_scipy(make_spd, generator):
    a = make_spd(2, 3, n=5, condition=1e4)
    q = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=generator)
    x = solve_lyapunov(a, q)
    torch.testing.assert_close(a @ x + x @ a, q, rtol=0, atol=1e-11)
    reference = scipy.linalg.solve_continuous_lyapunov(a[1, 2].numpy(), q[1, 2].numpy())
    torch.testing.assert_close(
        x[1, 2], torch.from_numpy(reference), rtol=1e-9, atol=1e-9
    )


def test_broadcasts_and_keeps_dtype(make_spd):
    a = make_spd(n=3, dtype=torch.float32)
    q = make_spd(4, 2, n=3, dtype=torch.float32)
    x = solve_lyapunov(a, q)
    assert x.shape == (4, 2, 3, 3)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[1, 1], solve_lyapunov(a, q[1, 1]))
    assert solve_lyapunov(a.bfloat16(), q.bfloat16()).dtype == torch.bfloat16
    assert solve_lyapunov(a, q[:0]).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("repeated", [False, True])
def test_derivatives(repeated, make_spd, generator):
    a = 2 * torch.eye(3, dtype=torch.float64) if repeated else make_spd(2, n=3)
    a = a.clone().requires_grad_()
    q = torch.randn(
        2, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True
    )
    assert gradcheck(solve_lyapunov, (a, q), check_forward_ad=True)
    assert gradgradcheck(solve_lyapunov, (a, q), check_fwd_over_rev=True)


def test_reuses_a_given_decomposition(make_spd, monkeypatch):
    a, q = make_spd(2, n=3).requires_grad_(), make_spd(2, n=3)
    eig = eigh(a)

    def refuse(*args, **kwargs):
        raise RuntimeError("eigh was called")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    x = solve_lyapunov(a, q, eig=eig)
    x.sum().backward()
    assert a.grad.isfinite().all()


def test_vmap_and_compile(make_spd):
    a, q = make_spd(3, n=3), make_spd(3, n=3)
    torch.testing.assert_close(vmap(solve_lyapunov)(a, q), solve_lyapunov(a, q))
    one = vmap(solve_lyapunov, in_dims=(None, 0))(a[0], q)
    torch.testing.assert_close(one, solve_lyapunov(a[0], q))
    compiled = torch.compile(solve_lyapunov, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, q), solve_lyapunov(a, q))


def test_one_bad_matrix_leaves_the_others_alone(make_spd):
    a, q = make_spd(3, n=3), make_spd(3, n=3)
    a[1, 0, 0] = math.nan
    x = solve_lyapunov(a, q)
    assert x[1].isnan().all()
    assert x[[0, 2]].isfinite().all()


def test_bad_input(make_spd):
    with pytest.raises(
        ValueError, match=r"q: expected matrices of shape \(..., 3, 3\)"
    ):
        solve_lyapunov(make_spd(n=3), make_spd(n=2))
    with pytest.raises(TypeError, match="a: expected floating-point"):
        solve_lyapunov(torch.eye(2).int(), torch.eye(2))
    with pytest.raises(ValueError, match="a is not positive definite"):
        solve_lyapunov(-torch.eye(2), torch.eye(2), validate=True)


def test_batches_that_do_not_broadcast_are_named():
    a, q = torch.eye(3).expand(4, 3, 3), torch.eye(3).expand(5, 3, 3)
    with pytest.raises(ValueError, match="a, q: expected batch shapes that broadcast"):
        solve_lyapunov(a, q)
