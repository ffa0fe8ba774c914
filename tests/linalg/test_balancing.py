import pytest
import torch
from scipy.optimize import linear_sum_assignment

from manifoldkit.linalg import sinkhorn


def logits(*shape, seed=0, scale=1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=g, dtype=dtype)


def literal(log_alpha, tau=0.1, n_iter=20):
    x = log_alpha / tau
    for _ in range(n_iter):
        x = x - x.logsumexp(-1, keepdim=True)
        x = x - x.logsumexp(-2, keepdim=True)
    return x.exp()


@pytest.mark.parametrize("method", ["auto", "log", "scaling"])
def test_agrees_with_the_definition(method):
    x = logits(3, 2, 6, 6)
    torch.testing.assert_close(
        sinkhorn(x, method=method), literal(x), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("method", ["log", "scaling"])
def test_padding_is_one_row_of_mass(method):
    x = logits(4, 5, 8)
    padded = torch.zeros(4, 8, 8, dtype=x.dtype)
    padded[:, :5] = x
    row = torch.nn.functional.pad(x, (0, 0, 0, 1))
    rows = torch.tensor([1.0] * 5 + [3.0], dtype=x.dtype)
    plan = sinkhorn(row, row_mass=rows, column_mass=x.new_ones(8), method=method)
    whole = literal(padded)
    torch.testing.assert_close(plan[:, :5], whole[:, :5])
    torch.testing.assert_close(plan[:, 5], whole[:, 5:].sum(1))


@pytest.mark.parametrize("method", ["log", "scaling"])
def test_what_has_no_mass_is_not_looked_at(method):
    x = logits(2, 4, 4).requires_grad_()
    mass = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=x.dtype)
    wild = torch.full_like(x, 1e6)
    wild = torch.cat([torch.cat([x[:, :3, :3], wild[:, :3, 3:]], 2), wild[:, 3:]], 1)
    plan = sinkhorn(wild, row_mass=mass, column_mass=mass, method=method)
    torch.testing.assert_close(plan[:, :3, :3], literal(x[:, :3, :3]))
    assert (plan[:, 3] == 0).all()
    assert (plan[:, :, 3] == 0).all()
    plan.square().sum().backward()
    assert x.grad.isfinite().all()


def test_gradients_of_the_scaling_form():
    rows = torch.tensor([1.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    columns = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)

    def f(x):
        return sinkhorn(x, 0.7, 6, row_mass=rows, column_mass=columns, method="scaling")

    assert torch.autograd.gradcheck(f, logits(2, 4, 5).requires_grad_())


def test_both_forms_have_the_same_gradients_at_the_published_settings():
    w = logits(3, 7, 7, seed=1)
    grads = []
    for method in ("log", "scaling"):
        x = logits(3, 7, 7).requires_grad_()
        (sinkhorn(x, method=method) * w).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)


def test_sharp_logits_neither_overflow_nor_disturb_their_neighbors():
    x = logits(3, 6, 6, dtype=torch.float32)
    sharp = torch.cat([x, logits(1, 6, 6, scale=200.0, dtype=torch.float32)])
    sharp.requires_grad_()
    plan = sinkhorn(sharp)
    torch.testing.assert_close(plan[:3], sinkhorn(x))
    reference = literal(sharp.detach()[3].double())
    torch.testing.assert_close(plan[3].double(), reference, atol=1e-4, rtol=1e-3)
    plan.sum().backward()
    assert sharp.grad.isfinite().all()


def test_low_temperature_finds_the_best_assignment():
    x = logits(7, 7)
    plan = sinkhorn(x, tau=0.005, n_iter=400)
    row, column = linear_sum_assignment(x.numpy(), maximize=True)
    assert (plan[row, column] > 0.95).all()


def test_noise_is_drawn_only_when_it_is_on():
    x = logits(5, 5)
    state = torch.get_rng_state()
    first = sinkhorn(x)
    assert torch.equal(state, torch.get_rng_state())
    draws = [
        sinkhorn(x, noise=1.0, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])
    assert not torch.allclose(draws[0], first)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_to_align():
    x = torch.zeros(1, 2, 2, dtype=torch.float64)
    none = torch.zeros(2, dtype=torch.float64)
    for method in ("log", "scaling"):
        assert not sinkhorn(x, row_mass=none, column_mass=none, method=method).any()


def test_half_precision_computes_in_float32():
    x = logits(4, 4, dtype=torch.float32)
    half = sinkhorn(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(), sinkhorn(x.bfloat16().float()), atol=1e-2, rtol=1e-2
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sinkhorn(torch.zeros(2, 3)), "square"),
        (lambda: sinkhorn(torch.zeros(2, 2), tau=0.0), "tau"),
        (lambda: sinkhorn(torch.zeros(2, 2), n_iter=0), "n_iter"),
        (lambda: sinkhorn(torch.zeros(2, 2), method="fast"), "method"),
        (lambda: sinkhorn(torch.zeros(2)), "log_alpha"),
        (
            lambda: sinkhorn(
                torch.zeros(2, 2), row_mass=torch.ones(3), column_mass=torch.ones(2)
            ),
            "row_mass",
        ),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_integers_are_refused():
    with pytest.raises(TypeError, match="log_alpha"):
        sinkhorn(torch.zeros(2, 2, dtype=torch.long))


def test_masses_that_mean_nothing():
    x, ones = torch.zeros(5, 2, 3), torch.ones(3)
    for wrong in (-1.0, torch.nan, torch.inf):
        with pytest.raises(ValueError, match="row_mass: expected finite"):
            sinkhorn(x, row_mass=torch.tensor([1.0, wrong]), column_mass=ones)
    with pytest.raises(ValueError, match=r"row_mass: expected shape \(..., 2\)"):
        sinkhorn(x, row_mass=torch.ones(4, 2), column_mass=ones)
    with pytest.raises(ValueError, match="n_iter"):
        sinkhorn(torch.eye(2), n_iter=2.5)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)])
def test_no_rows_or_no_matrices(shape):
    assert sinkhorn(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("method", ["auto", "log", "scaling"])
def test_transforms_of_torch_func(method):
    x, w = logits(2, 4, 4), logits(2, 4, 4, seed=1)

    def loss(z):
        return (sinkhorn(z, 0.7, 5, method=method) * w).sum()

    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(torch.func.grad(loss)(x), leaf.grad)
    both = torch.stack([x, 2 * x])
    plans = torch.func.vmap(lambda z: sinkhorn(z, method=method))(both)
    torch.testing.assert_close(plans, sinkhorn(both))
    each = torch.func.vmap(torch.func.grad(loss))(both)
    torch.testing.assert_close(each[0], leaf.grad)
    _, slope = torch.func.jvp(loss, (x,), (w,))
    torch.testing.assert_close(slope, (leaf.grad * w).sum())
    hessian = torch.func.hessian(loss)(x).reshape(32, 32)
    torch.testing.assert_close(hessian, hessian.T)
    assert hessian.abs().max() > 1e-3
    masses = torch.tensor([[1.0, 1.0], [2.0, 0.0]], dtype=x.dtype)
    mapped = torch.func.vmap(lambda z, m: sinkhorn(z, row_mass=m, column_mass=m))(
        x[:, :2, :2], masses
    )
    alone = [
        sinkhorn(z[:2, :2], row_mass=m, column_mass=m)
        for z, m in zip(x, masses, strict=True)
    ]
    torch.testing.assert_close(mapped, torch.stack(alone))


@pytest.mark.compile
def test_compiled_is_as_eager():
    torch.compiler.reset()
    compiled = torch.compile(sinkhorn, backend="eager", fullgraph=True)
    leaves = [logits(2, 4, 4).requires_grad_() for _ in range(2)]
    for f, leaf in zip((compiled, sinkhorn), leaves, strict=True):
        (f(leaf, n_iter=3) * logits(2, 4, 4, seed=1)).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-6, atol=1e-8)
    sharp = logits(2, 4, 4, scale=200.0)
    torch.testing.assert_close(
        compiled(sharp, n_iter=3), sinkhorn(sharp, n_iter=3), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    "spread", [300.0, 599.0, 601.0, 720.0, 740.0, 760.0, 1400.0, 1e5]
)
def test_the_range_of_logits_decides_the_form_not_the_answer(spread):
    """Beyond exp(-745) a logit is no number any more, so 'auto' changes in time."""
    x = torch.zeros(2, 3, 3, dtype=torch.float64)
    x[0, 0, 1:] = x[0, 1, 1] = x[0, 1, 0] = -spread
    x[0, 2, 2] = x[0, 2, 1] = -spread / 2
    x[1] = logits(3, 3)
    for f in (lambda z: sinkhorn(z, 1.0, 4), lambda z: sinkhorn(z / 10, 0.1, 4)):
        torch.testing.assert_close(f(x), literal(x, 1.0, 4), rtol=1e-6, atol=1e-300)
    # a column of which nothing is left in the scaling form
    y = torch.tensor([[0.0, -spread], [0.0, -spread]], dtype=torch.float64)
    plan = sinkhorn(y, 1.0, 3)
    torch.testing.assert_close(plan, torch.full_like(plan, 0.5))
    leaf = y.clone().requires_grad_()
    sinkhorn(leaf, 1.0, 3)[0, 1].backward()
    expected = torch.func.grad(lambda z: sinkhorn(z, 1.0, 3)[0, 1])(y)
    torch.testing.assert_close(leaf.grad, expected, atol=1e-9, rtol=1e-6)


def test_masses_may_be_counts_but_no_complex_numbers():
    x = logits(3, 3)
    ones = torch.ones(3, dtype=torch.long)
    for method in ("log", "scaling"):
        plan = sinkhorn(x, row_mass=ones, column_mass=ones, method=method)
        torch.testing.assert_close(plan, sinkhorn(x))
    for wrong in (torch.ones(3) * 1j, [1, 1, 1]):
        with pytest.raises(TypeError, match="column_mass"):
            sinkhorn(x, row_mass=ones, column_mass=wrong)
    with pytest.raises(TypeError, match="log_alpha"):
        sinkhorn(x * 1j)
