"""Every method of every manifold under ``torch.func``, in company, and compiled."""

import pytest
import torch
from test_laws import CASES

from manifoldkit.manifolds import Stiefel

F64 = torch.float64


def operations(case, seed=0):
    """Yield (name, function of tensors, these tensors): a batch of two."""
    g = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(2, *case.shape, generator=g, dtype=F64)

    m = case.manifold
    x = m.random(2, *case.shape, generator=g, dtype=F64)
    u, v = (m.proju(x, draw()) for _ in range(2))
    size = m.inner(x, u, u, keepdim=True).clamp_min(1e-12).sqrt()
    u = 0.5 * case.reach * u / size
    y = m.expmap(x, u)
    yield "expmap", m.expmap, (x, u)
    yield "retr", m.retr, (x, u)
    yield "transp", m.transp, (x, y, v)
    yield "inner", m.inner, (x, u, v)
    yield "proju", m.proju, (x, draw())
    yield "egrad2rgrad", m.egrad2rgrad, (x, draw())
    if case.log:
        yield "logmap", m.logmap, (x, y)
        yield "dist", m.dist, (x, y)


EACH = [
    pytest.param(name, case, id=f"{case}-{name}")
    for case in CASES
    for name, _, _ in operations(case)
]


def found(case, name):
    return next((f, xs) for n, f, xs in operations(case) if n == name)


@pytest.mark.parametrize(("name", "case"), EACH)
def test_forward_and_reverse_derivatives_agree(name, case):
    f, inputs = found(case, name)
    g = torch.Generator().manual_seed(5)
    # as points move: a matrix that is to be symmetric stays it
    directions = tuple(
        case.manifold.proju(inputs[0], torch.randn(x.shape, generator=g, dtype=F64))
        for x in inputs
    )
    weights = torch.randn(f(*inputs).shape, generator=g, dtype=F64)

    def scalar(*values):
        return (weights * f(*values)).sum()

    leaves = [x.clone().requires_grad_() for x in inputs]
    grads = torch.autograd.grad(scalar(*leaves), leaves, allow_unused=True)
    reverse = sum(
        (a * b).sum() for a, b in zip(grads, directions, strict=True) if a is not None
    )
    pure = torch.func.grad(scalar, argnums=tuple(range(len(inputs))))(*inputs)
    pure = sum((a * b).sum() for a, b in zip(pure, directions, strict=True))
    _, forward = torch.func.jvp(scalar, inputs, directions)
    scale = 1 + float(reverse.abs())
    for value in (pure, forward):
        torch.testing.assert_close(value, reverse, rtol=0, atol=1e-7 * scale)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("name", "case"), EACH)
def test_vmap_is_the_batch_or_the_docstring_says_so(name, case):
    f, inputs = found(case, name)
    if "Stiefel" in repr(case) and name in ("logmap", "dist"):  # iterates
        assert "torch.func.vmap" in Stiefel.logmap.__doc__
        return
    torch.testing.assert_close(
        torch.func.vmap(f)(*inputs), f(*inputs), rtol=1e-9, atol=1e-9
    )


@pytest.mark.filterwarnings("ignore::manifoldkit.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("value", [float("nan"), 1e3])
@pytest.mark.parametrize(("name", "case"), EACH)
def test_a_bad_item_changes_no_other(name, case, value):
    f, inputs = found(case, name)
    expected = f(*inputs)[0]
    spoiled = [x.clone() for x in inputs]
    spoiled[-1][1] *= value
    try:
        result = f(*spoiled)
    except ValueError:  # refused, with a message
        return
    torch.testing.assert_close(result[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo's about its own tracing
@pytest.mark.parametrize(("name", "case"), EACH)
def test_compiled_methods_agree(name, case):
    f, inputs = found(case, name)
    torch.compiler.reset()
    both = []
    for call in (f, torch.compile(f, backend="eager")):
        leaves = [x.clone().requires_grad_() for x in inputs]
        result = call(*leaves)
        weights = torch.linspace(-1, 1, result.numel(), dtype=F64).view(result.shape)
        grads = torch.autograd.grad((weights * result).sum(), leaves, allow_unused=True)
        both.append([result.detach(), *(g for g in grads if g is not None)])
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-8)
