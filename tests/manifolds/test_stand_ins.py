"""What only stands in for a parameter (functional_call, torch.export) stays as it is."""

import copy

import pytest
import torch
from torch import nn

from manifoldkit.manifolds import (
    SPD,
    ManifoldParameter,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    attach,
)


class Layer(nn.Module):
    """Uses three attached parameters."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.eye(4))
        self.line = nn.Linear(4, 3, bias=False)
        self.metric = nn.Parameter(torch.eye(3))
        attach(self, "turn", SpecialOrthogonal())
        attach(self, "line.weight", Stiefel())
        attach(self, "metric", SPD("log_euclidean"))

    def forward(self, x):
        y = self.line(x @ self.turn)
        return ((y @ self.metric) * y).sum(-1)


def _values(module, kind):
    values = {k: p.detach().clone() for k, p in module.named_parameters()}
    values = {k: v.as_subclass(torch.Tensor) for k, v in values.items()}
    return values if kind is None else {k: kind(v) for k, v in values.items()}


@pytest.mark.parametrize("kind", [None, nn.Parameter])
@pytest.mark.parametrize("copied", [False, True])
def test_functional_call_leaves_the_callers_tensors(kind, copied):
    module = Layer()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = module(x)
    if copied:
        module = copy.deepcopy(module)
        module(x)
    values = _values(module, kind)
    y = torch.func.functional_call(module, values, (x,))
    torch.testing.assert_close(y, expected)
    wanted = torch.Tensor if kind is None else kind
    assert all(type(v) is wanted for v in values.values())
    assert all(type(p) is ManifoldParameter for p in module.parameters())


def test_gradients_and_ensembles_by_torch_func():
    models = [Layer() for _ in range(3)]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    params, buffers = torch.func.stack_module_state(models)

    def loss(p, b):
        return torch.func.functional_call(models[0], (p, b), (x,)).sum()

    grads = torch.func.vmap(torch.func.grad(loss))(params, buffers)
    models[1](x).sum().backward()
    for name, p in models[1].named_parameters():
        torch.testing.assert_close(grads[name][1], p.grad)
    assert all(type(p) is ManifoldParameter for p in models[0].parameters())


@pytest.mark.compile
@pytest.mark.parametrize("strict", [True, False])
def test_export_equals_eager_and_leaves_the_module(strict):
    module = Layer()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(module, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), module(x))
    assert {k for k, _ in program.named_parameters()} == {
        k for k, _ in module.named_parameters()
    }
    assert all(type(p) is ManifoldParameter for p in module.parameters())


def test_a_vector_of_a_sphere_can_be_overwritten_twice():
    """The conversion flags of torch replace the parameter at every conversion."""
    module = nn.Module()
    module.w = nn.Parameter(torch.ones(3))
    module.forward = lambda: module.w.sum()
    attach(module, "w", Sphere())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        for dtype in (torch.float64, torch.float32):
            module.to(dtype)
            module()
            assert type(module.w) is ManifoldParameter
            assert module.w.dtype == dtype
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
