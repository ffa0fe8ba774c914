"""What torch does around an aggregation: torch.func, the compiler, distributed data."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import func, nn
from torch.autograd import forward_ad
from torch_geometric.nn import SAGEConv, aggr
from torch_geometric.nn.resolver import aggregation_resolver

from manifoldkit.graphs import (
    FoldAggregation,
    GRUMonoid,
    LCMAggregation,
    LSTMMonoid,
    SymmetricGRUMonoid,
    SymmetricMLPMonoid,
    register_aggregations,
    segment_tree_reduce,
    segment_tree_scan,
)

INDEX = [0, 0, 2, 2, 2, 0]
LEARNABLE = [GRUMonoid, LSTMMonoid, SymmetricGRUMonoid, SymmetricMLPMonoid]
FOLDS = {
    **{kind.__name__: lambda kind=kind: lcm(kind(4)) for kind in LEARNABLE},
    **{name: lambda name=name: lcm(name) for name in ("max", "product", "logsumexp")},
    "gru": lambda: FoldAggregation(4, 4),
    "lstm": lambda: FoldAggregation(4, 4, "lstm"),
    "reduce": lambda: lambda x, i: segment_tree_reduce(x, i, torch.maximum),
    "scan": lambda: lambda x, i: segment_tree_scan(x, i, torch.mul),
}


def lcm(operator):
    return LCMAggregation(operator, permute="never")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", FOLDS)
def test_transforms_of_torch_func_are_the_derivatives_of_autograd(name):
    fold = FOLDS[name]()
    fold = fold.double() if isinstance(fold, nn.Module) else fold
    x = torch.randn(6, 4, dtype=torch.float64)
    index = torch.tensor(INDEX)

    def loss(
        x,
    ):  # an index that the transform sees being made, and one that it does not
        return (fold(x, torch.tensor(INDEX)) * fold(x, index).sin()).sum()

    rows = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(rows), rows)
    torch.testing.assert_close(func.grad(loss)(x), expected)
    many = torch.stack([x, 2 * x, x])
    torch.testing.assert_close(
        func.vmap(lambda x: fold(x, index))(many),
        torch.stack([fold(x, index) for x in many]),
    )
    torch.testing.assert_close(func.vmap(func.grad(loss))(many)[2], expected)
    tangent = func.jvp(loss, (x,), (x,))[1]
    torch.testing.assert_close(tangent, (expected * x).sum())
    hessian = func.hessian(loss)(x)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, x))
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, x)))
        torch.testing.assert_close(out.tangent, tangent)


@pytest.mark.parametrize("kind", LEARNABLE)
def test_gradients_by_functional_parameters(kind):
    conv = SAGEConv(4, 4, aggr=LCMAggregation(kind(4), permute="never"))
    x, edges = torch.randn(3, 4), torch.tensor([[0, 1, 2, 0], [2, 2, 2, 1]])
    parameters = dict(conv.named_parameters())

    def loss(parameters):
        return func.functional_call(conv, parameters, (x, edges)).square().sum()

    found = func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_items_of_a_vmap_have_the_same_sets():
    x, index = torch.randn(2, 6, 4), torch.tensor([INDEX, INDEX])
    with pytest.raises(ValueError, match="index: expected the same sets"):
        func.vmap(lambda x, i: segment_tree_reduce(x, i, torch.add, 3))(x, index)


SETS = {"full": [0, 0, 1, 1], "empty sets": [0, 0, 3, 3], "single": [2, 0, 1, 4]}


@pytest.mark.parametrize("sets", [*SETS, "nothing"])
@pytest.mark.parametrize("name", ["gru", "mlp", "identity", "fold"])
def test_every_parameter_has_a_gradient_whatever_the_sets(name, sets):
    """DistributedDataParallel refuses a step that leaves one out."""
    fold = {
        "gru": lambda: LCMAggregation("gru", 4, 4),
        "mlp": lambda: LCMAggregation(SymmetricMLPMonoid(4)),
        "identity": lambda: LCMAggregation("max", identity=nn.Parameter(torch.ones(4))),
        "fold": lambda: FoldAggregation(4, 4),
    }[name]()
    x, index = torch.randn(4, 4), torch.tensor(SETS.get(sets, []), dtype=torch.long)
    x = x[: len(index)]
    size = 5 if sets in ("empty sets", "single", "nothing") else 2
    out = fold(x, index, dim_size=size)
    out.square().sum().backward()
    assert all(p.grad is not None for p in fold.parameters())
    with torch.no_grad():
        assert fold.eval()(x, index, dim_size=size).shape == out.shape


def test_a_part_in_the_graph_is_no_part_in_the_value():
    fold = LCMAggregation("gru", 4, permute="never")
    x, index = torch.randn(4, 4), torch.tensor([0, 0, 1, 1])
    expected = fold(x, index)
    with torch.no_grad():
        fold.operator.identity.fill_(torch.nan)
    out = fold(x, index)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert torch.equal(fold.operator.identity.grad, torch.zeros(4))
    with torch.no_grad():
        for parameter in fold.parameters():
            parameter.fill_(torch.inf)
    assert torch.equal(fold(x, torch.arange(4)), x)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.filterwarnings("ignore")  # the compiler looks at .grad of its tensors
def test_a_compiled_step_takes_every_size():
    torch.compiler.reset()
    fold = LCMAggregation("gru", 4, 4)
    twin = copy.deepcopy(fold)
    compiled = torch.compile(fold, backend="eager")
    for size in (5, 7, 9):
        x, index = torch.randn(size, 4), torch.arange(size) // 2
        # of two elements every order gives the same, as the operator commutes
        torch.testing.assert_close(compiled(x, index), twin(x, index))
        compiled(x, index).square().sum().backward()
        twin(x, index).square().sum().backward()
    for a, b in zip(fold.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad / 2, b.grad / 2)


def test_names_of_pyg_stay_those_of_pyg():
    before = {name: aggregation_resolver(name, 4, 4) for name in ("lcm", "gru", "lstm")}
    register_aggregations()
    for name, aggregation in before.items():
        assert type(aggregation_resolver(name, 4, 4)) is type(aggregation)
    assert type(before["lcm"]) is aggr.LCMAggregation
    assert isinstance(aggregation_resolver("lcm_ragged", 4, 4), LCMAggregation)


def test_importing_adds_nothing_to_pyg():
    script = """
import torch_geometric.nn.aggr as theirs
before = set(vars(theirs))
from manifoldkit.graphs import LCMAggregation, register_aggregations
LCMAggregation("sum")
assert set(vars(theirs)) == before
register_aggregations()
assert set(vars(theirs)) - before == {"LCMRaggedAggregation"}
"""
    subprocess.run([sys.executable, "-c", script], check=True)
