import math

import geoopt
import pytest
import torch

from manifoldkit.manifolds import SPD, Sphere
from manifoldkit.optim import RiemannianSGD, clip_riemannian_grad_norm_


def _with_gradients(problem, name):
    a = problem(name)
    a.loss().backward()
    return a.params


def _lengths(params):
    values = []
    for p in params:
        m = p.manifold
        g = m.egrad2rgrad(p.detach(), p.grad.clone())
        values.append(m.inner(p.detach(), g, keepdim=True).sqrt().flatten())
    return torch.cat(values)


@pytest.mark.parametrize("order", [2.0, math.inf])
def test_total_is_the_norm_of_the_riemannian_lengths(any_manifold, order, problem):
    params = _with_gradients(problem, any_manifold)
    expected = torch.linalg.vector_norm(_lengths(params), order)
    before = [p.grad.clone() for p in params]
    total = clip_riemannian_grad_norm_(params, 1e-3, norm_type=order)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-9)
    after = torch.linalg.vector_norm(_lengths(params), order)
    assert float(after) == pytest.approx(1e-3, rel=1e-2)
    ratios = [(p.grad / g)[g != 0] for p, g in zip(params, before, strict=True)]
    torch.testing.assert_close(
        torch.cat(ratios),
        torch.full_like(torch.cat(ratios), 1e-3 / expected),
        rtol=1e-2,
        atol=0,
    )


def test_small_gradients_and_flat_parameters():
    a = torch.nn.Parameter(torch.zeros(3))
    b = torch.nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 4.0])
    c = torch.nn.Parameter(torch.zeros(2))
    total = clip_riemannian_grad_norm_((p for p in (a, b, c)), 10.0)
    assert float(total) == pytest.approx(5.0)
    assert float(a.grad[0]) == 3.0
    assert float(clip_riemannian_grad_norm_(a, 1.0)) == pytest.approx(3.0)
    assert float(a.grad[0]) == pytest.approx(1.0)
    assert float(clip_riemannian_grad_norm_([c], 1.0)) == 0.0


def test_bad_arguments_and_nonfinite_norms():
    p = geoopt.ManifoldParameter(torch.eye(2), manifold=SPD())
    p.grad = torch.full((2, 2), torch.nan)
    for bad in (0.0, -1.0, None):
        with pytest.raises(ValueError, match="max_norm: expected a positive number"):
            clip_riemannian_grad_norm_([p], bad)
    with pytest.raises(ValueError, match="norm_type"):
        clip_riemannian_grad_norm_([p], 1.0, norm_type=0)
    with pytest.raises(RuntimeError, match="Riemannian norm of order"):
        clip_riemannian_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert torch.isnan(clip_riemannian_grad_norm_([p], 1.0))


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_a_bad_gradient_does_not_clip_the_others_to_nothing(nonfinite):
    """Nor spoil them: what is not finite has no length."""

    def stepped(bad):
        flat = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        point = geoopt.ManifoldParameter(torch.tensor([0.6, 0.8]), manifold=Sphere())
        params = [*flat, point, torch.nn.Parameter(torch.ones(2))]
        for p in params[:3]:
            p.grad = torch.tensor([3.0, 1.0])
        if bad:
            params[3].grad = torch.tensor([torch.nan, 1.0])
        options = {"grad_clip": 1.0, "nonfinite": nonfinite}
        RiemannianSGD(params, lr=0.1, **options).step()
        return [p.detach() for p in params]

    *others, spoiled = stepped(bad=True)
    for found, expected in zip(others, stepped(bad=False), strict=False):
        assert torch.equal(found, expected)
    assert bool(spoiled.isnan().any()) == (nonfinite == "propagate")


def test_a_length_that_overflows_is_clipped():
    p = torch.nn.Parameter(torch.zeros(1))
    point = geoopt.ManifoldParameter(torch.tensor([0.0, 1.0]), manifold=Sphere())
    p.grad, point.grad = torch.ones(1), torch.tensor([1e30, 0.0])
    RiemannianSGD([p, point], lr=1.0, grad_clip=1.0).step()
    assert p.abs() <= 1
    assert point.detach().isfinite().all()
