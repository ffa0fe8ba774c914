"""``torch.func`` over the distance and the mean: equal to loops and to backward."""

import pytest
import torch

from manifoldkit.spd import gbw_distance, gbw_mean


def _functions(y):
    w = torch.linspace(0, 1, len(y), dtype=y.dtype)
    return {
        "distance": lambda x: gbw_distance(x, y.flip(0)),
        "squared, all pairs": lambda x: gbw_distance(
            x[:, None], y[:2], y[1], 0.5, squared=True
        ),
        "close pairs": lambda x: gbw_distance(x, 1.0001 * x.detach()),
        "mean": gbw_mean,
        "weighted mean": lambda x: gbw_mean(x, w, y[0], 0.5),
        "unrolled mean": lambda x: gbw_mean(x, grad="unrolled", max_iter=3),
    }


@pytest.mark.parametrize("name", _functions(torch.eye(3).expand(5, 3, 3)))
def test_transforms_of_torch_func(name, make_spd):
    y = make_spd(5, n=3)
    f = _functions(y)[name]
    x = torch.stack([make_spd(5, n=3), y])
    loop = torch.stack([f(t) for t in x])
    torch.testing.assert_close(torch.func.vmap(f)(x), loop)

    def cost(t):
        return f(t).square().sum()

    grads = []
    for t in x:
        leaf = t.clone().requires_grad_()
        cost(leaf).backward()
        grads.append(leaf.grad)
    for one, expected in zip(x, grads, strict=True):
        torch.testing.assert_close(torch.func.grad(cost)(one), expected)
    together = torch.func.vmap(torch.func.grad(cost))(x)
    torch.testing.assert_close(together, torch.stack(grads), rtol=1e-9, atol=1e-9)
    forward, backward = torch.func.jacfwd(f)(y), torch.func.jacrev(f)(y)
    torch.testing.assert_close(forward, backward, rtol=1e-8, atol=1e-9)


def test_only_some_arguments_are_mapped(make_spd):
    a, b, M = make_spd(3, 2), make_spd(2), make_spd(3)
    found = torch.func.vmap(gbw_distance, (0, None, 0))(a, b, M)
    torch.testing.assert_close(found, gbw_distance(a, b, M[:, None]))
    found = torch.func.vmap(gbw_distance, (None, 1))(b[0], a)
    torch.testing.assert_close(found, gbw_distance(b[0], a.movedim(1, 0)))
    x = make_spd(4)
    found = torch.func.vmap(lambda m: gbw_mean(x, M=m))(M)
    torch.testing.assert_close(found, gbw_mean(x, M=M))


def test_hessian_of_the_squared_distance(make_spd):
    x, y = make_spd(n=2), make_spd(n=2)

    def cost(t):
        return gbw_distance((t + t.mT) / 2, y, squared=True)

    hessian = torch.func.hessian(cost)(x)
    twice = torch.func.jacrev(torch.func.jacrev(cost))(x)
    torch.testing.assert_close(hessian, twice)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1))


def test_second_derivatives_of_the_mean_name_the_way(make_spd):
    x = make_spd(4).requires_grad_()
    (g,) = torch.autograd.grad(gbw_mean(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='grad="unrolled"'):
        g.sum().backward()


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.parametrize("name", ["squared, all pairs", "weighted mean"])
def test_compiled_equals_eager(name, make_spd):
    f = _functions(make_spd(5, n=3))[name]
    x = make_spd(5, n=3)
    results = []
    for function in (f, torch.compile(f)):
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        value.square().sum().backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results)
