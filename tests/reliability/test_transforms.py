"""Every public function of tensors under ``torch.func`` and ``torch.compile``."""

import pytest
import torch
from function_cases import CASES
from function_cases.draws import G
from test_functions import function, tensors

pytestmark = pytest.mark.filterwarnings(
    "ignore::manifoldkit.exceptions.ConvergenceWarning"
)


def prepared(name, batch=(3,)):
    """The function of its floating-point tensors, and these."""
    G.manual_seed(3)
    arguments = CASES[name](batch, 3)
    keys = [
        key
        for key, value in arguments.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    rest = {key: value for key, value in arguments.items() if key not in keys}

    def run(*values):
        return function(name)(**dict(zip(keys, values, strict=True)), **rest)

    return run, [arguments[key] for key in keys]


def real(value):
    return [t for t in tensors(value) if t.is_floating_point()]


# what is no function of numbers alone: it decides, samples or returns Python's numbers;
# each says so
NO_VMAP = {
    *("optim.karcher_mean", "equivariant.graph_frame"),
    *("equivariant.edge_accuracy", "equivariant.neighbor_graph"),
    *("graphs.gaussian_kernel_adjacency", "graphs.receptive_field"),
    *("graphs.layer_sensitivity", "spd.maskedmean", "spd.nanmean"),
}
# functions of arrays, and those that return no numbers
OTHER = {"linalg.is_spd", "manifolds.manifold_of", "manifolds.as_parameter"}
TENSORS = [name for name in CASES if prepared(name)[1] and name not in OTHER]


def weighted(outputs, seed=0):
    """A scalar of all outputs with a graph."""
    weights = torch.Generator().manual_seed(seed)
    return sum(
        (t * torch.randn(t.shape, generator=weights, dtype=t.dtype)).sum()
        for t in outputs
    )


@pytest.mark.parametrize("name", TENSORS)
def test_forward_and_reverse_derivatives_agree(name):
    """Of a weighted sum of all outputs, also taken by ``torch.func.grad``."""
    run, inputs = prepared(name)
    manifold = CASES[name]((3,), 3).get("manifold")
    outputs = real(run(*(x.clone().requires_grad_() for x in inputs)))
    chosen = [i for i, t in enumerate(outputs) if t.requires_grad]
    if not chosen:
        pytest.skip("no derivative")

    def scalar(*values):
        outputs = real(run(*values))
        return weighted([outputs[i] for i in chosen])

    every = tuple(range(len(inputs)))
    directions = [torch.randn(x.shape, generator=G, dtype=x.dtype) for x in inputs]
    if manifold is not None:  # points move along it
        directions = [
            manifold.proju(x, d) for x, d in zip(inputs, directions, strict=True)
        ]
    leaves = [x.clone().requires_grad_() for x in inputs]
    grads = torch.autograd.grad(scalar(*leaves), leaves, allow_unused=True)
    reverse = sum(
        (g * d).sum() for g, d in zip(grads, directions, strict=True) if g is not None
    )
    pure = torch.func.grad(scalar, argnums=every)(*inputs)
    pure = sum((g * d).sum() for g, d in zip(pure, directions, strict=True))
    _, forward = torch.func.jvp(scalar, tuple(inputs), tuple(directions))
    for found in (pure, forward):
        torch.testing.assert_close(found, reverse, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", TENSORS)
def test_vmap_is_a_loop_or_the_docstring_says_so(name):
    if name in NO_VMAP:
        assert "torch.func.vmap" in function(name).__doc__
        return
    run, inputs = prepared(name)
    stacks = [torch.stack([x, x.flip(0) if x.ndim > 2 else x]) for x in inputs]

    def outputs(*values):
        return tuple(tensors(run(*values)))

    found = torch.func.vmap(outputs)(*stacks)
    for row in (0, 1):
        alone = outputs(*(stack[row] for stack in stacks))
        for a, b in zip(alone, found, strict=True):
            torch.testing.assert_close(b[row], a, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo's about its own tracing
@pytest.mark.parametrize("name", TENSORS)
def test_compiled_functions_agree(name):
    """Values and gradients, traced by Dynamo and run as they are."""
    run, inputs = prepared(name)
    torch.compiler.reset()
    compiled = torch.compile(run, backend="eager")
    both = []
    for call in (run, compiled):
        leaves = [x.clone().requires_grad_() for x in inputs]
        G.manual_seed(2)
        outputs = real(call(*leaves))
        graph = [t for t in outputs if t.requires_grad]
        grads = ()
        if graph:
            grads = torch.autograd.grad(weighted(graph), leaves, allow_unused=True)
        both.append([t.detach() for t in (*outputs, *grads) if t is not None])
    assert len(both[0]) == len(both[1])
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-8, equal_nan=True)
