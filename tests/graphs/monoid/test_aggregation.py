"""The PyG aggregations: parity where PyG is right, independence where it is not."""

import copy

import pytest
import torch
import torch_geometric
from torch_geometric.data import Batch, Data
from torch_geometric.nn import SAGEConv
from torch_geometric.nn.aggr import GRUAggregation, MultiAggregation
from torch_geometric.nn.aggr import LCMAggregation as PyGLCM

from manifoldkit.graphs import (
    ExactMonoid,
    FoldAggregation,
    GRUMonoid,
    LCMAggregation,
    SegmentTreePlan,
    SymmetricMLPMonoid,
    register_aggregations,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def same_weights(dim):
    theirs = PyGLCM(dim, dim, project=False)
    ours = LCMAggregation(GRUMonoid(dim), permute="never")
    ours.operator.cell.load_state_dict(theirs.gru_cell.state_dict())
    return ours, theirs


@pytest.mark.parametrize("size", [1, 2, 5, 8, 13])
def test_equal_to_pyg_on_sets_of_equal_size(size):
    ours, theirs = same_weights(8)
    x, index = torch.randn(6 * size, 8), torch.arange(6).repeat_interleave(size)
    torch.testing.assert_close(ours(x, index), theirs(x, index), rtol=0, atol=1e-6)


def test_pyg_lets_the_company_of_a_set_change_its_value_and_we_do_not():
    """Zero rows pad to the largest set and take part in PyG's tree and recurrence."""
    ours, theirs = same_weights(8)
    small, large = torch.randn(3, 8), torch.randn(9, 8)
    both = torch.cat([small, large])
    alone, index = torch.zeros(3, dtype=torch.long), torch.tensor([0] * 3 + [1] * 9)
    gru = GRUAggregation(8, 8)
    for flawed in (theirs, gru):
        change = flawed(both, index)[0] - flawed(small, alone)[0]
        assert change.abs().max() > 0.05
    for right in (ours, FoldAggregation(8, 8), FoldAggregation(8, 8, "lstm")):
        assert torch.equal(right(both, index)[0], right(small, alone)[0])


def test_the_recurrence_is_torch_s():
    size = 7
    reference = torch.nn.GRU(4, 6, batch_first=True)
    ours = FoldAggregation(4, 6)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(ours.cell, name).data = getattr(reference, f"{name}_l0").data
    x = torch.randn(5, size, 4)
    index = torch.arange(5).repeat_interleave(size)
    torch.testing.assert_close(ours(x.flatten(0, 1), index), reference(x)[1][0])
    ragged = torch.tensor([2, 0, 0, 1, 2, 2, 4])
    rows = torch.randn(7, 4)
    out = ours(rows, ragged, dim_size=6)
    for s in range(6):
        expected = torch.zeros(6)
        if (ragged == s).any():
            expected = reference(rows[ragged == s][None])[1][0, 0]
        torch.testing.assert_close(out[s], expected)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_states_of_the_recurrence_are_its_prefixes(kind):
    fold = FoldAggregation(4, 6, kind, permute="always")
    index = torch.tensor([2, 0, 0, 4, 2, 2, 2])
    x = torch.randn(7, 4)
    states = fold.scan(x, index)
    fold.permute = "never"
    for row in range(7):
        mine = (index == index[row]) & (torch.arange(7) <= row)
        torch.testing.assert_close(states[row], fold(x[mine], index[mine] * 0)[0])
    ptr = torch.tensor([0, 3, 3, 7])
    torch.testing.assert_close(fold.scan(x, ptr=ptr)[[2, 6]], fold(x, ptr=ptr)[[0, 2]])
    assert fold.scan(x[:0], index[:0]).shape == (0, 6)
    with pytest.raises(ValueError, match=r"x: expected shape \(7, 4\)"):
        fold.scan(x[:3], index)


def test_inside_message_passing_and_through_the_resolver():
    edges = torch.tensor([[0, 1, 2, 3, 0], [4, 4, 1, 0, 4]])  # not sorted by target
    x = torch.randn(5, 4)
    conv = SAGEConv(4, 8, aggr=LCMAggregation(SymmetricMLPMonoid(4)))
    assert conv(x, edges).shape == (5, 8)
    sizes = {"in_channels": 4, "out_channels": 4}
    register_aggregations()
    resolved = SAGEConv(4, 8, aggr="lcm_ragged", aggr_kwargs=sizes)
    assert isinstance(resolved.aggr_module, LCMAggregation)
    assert resolved(x, edges).shape == (5, 8)
    assert copy.deepcopy(resolved)(x, edges).shape == (5, 8)


def test_as_a_readout_with_every_form_of_input():
    aggregate = LCMAggregation("gru", 4, 6).eval()
    x = torch.randn(7, 4)
    index = torch.tensor([0, 0, 2, 2, 2, 2, 3])
    out = aggregate(x, index, dim_size=4)
    ptr = torch.tensor([0, 2, 2, 6, 7])
    torch.testing.assert_close(aggregate(x, ptr=ptr), out, rtol=0, atol=0)
    assert torch.equal(out[1], aggregate.operator.identity)
    stacked = aggregate(torch.stack([x, 2 * x]), index, dim_size=4)
    torch.testing.assert_close(stacked[0], out, rtol=0, atol=1e-6)
    assert aggregate(x).shape == (1, 6)
    none = aggregate(x[:0], index[:0], dim_size=3)
    assert none.shape == (3, 6)
    before = [p.clone() for p in aggregate.parameters() if p.dim() > 1]
    aggregate.reset_parameters()
    after = [p for p in aggregate.parameters() if p.dim() > 1]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_random_orders():
    x, index = torch.randn(60, 4), torch.arange(6).repeat_interleave(10)
    generator = torch.Generator().manual_seed(3)
    aggregate = LCMAggregation(GRUMonoid(4), generator=generator)
    assert not torch.equal(aggregate(x, index), aggregate(x, index))
    aggregate.eval()
    assert torch.equal(aggregate(x, index), aggregate(x, index))
    assert aggregate.order_sensitivity(x, index).min() > 0
    assert aggregate.associativity_error(x) > 0
    exact = LCMAggregation("max")
    assert exact.order_sensitivity(x, index).max() == 0
    assert exact.associativity_error(x) == 0
    averaged = LCMAggregation(aggregate.operator, num_orders=64).eval()
    once = LCMAggregation(aggregate.operator, permute="always").eval()
    center = LCMAggregation(aggregate.operator, num_orders=400).eval()(x, index)
    assert (averaged(x, index) - center).norm() < (once(x, index) - center).norm()


def test_half_precision_sums_in_float32():
    x = torch.ones(4096, 1, dtype=torch.bfloat16)
    x[0] = 0.0
    out = LCMAggregation("sum")(x, torch.zeros(4096, dtype=torch.long))
    assert out.dtype == torch.bfloat16
    assert out.item() == torch.tensor(4095.0).bfloat16().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_elements_meet_float32_weights(dtype):
    x, index = torch.randn(9, 4), torch.tensor([0, 0, 0, 2, 2, 2, 2, 2, 3])
    for aggregate in (
        LCMAggregation(GRUMonoid(4), permute="never"),
        LCMAggregation("gru", 4, 6, permute="never"),
        FoldAggregation(4, 6),
    ):
        out = aggregate(x.to(dtype), index)
        assert out.dtype == dtype
        exact = aggregate(x.to(dtype).float(), index)
        assert torch.equal(out, exact.to(dtype))
        same = copy.deepcopy(aggregate).to(dtype)  # weights in half precision as well
        assert same(x.to(dtype), index).dtype == dtype


def test_a_parameter_as_identity_is_learned():
    e = torch.nn.Parameter(torch.ones(2))
    aggregate = LCMAggregation(torch.maximum, identity=e)
    assert [*aggregate.parameters()] == [e]
    out = aggregate(torch.randn(2, 2), torch.tensor([0, 2]), dim_size=3)
    out.sum().backward()
    assert torch.equal(e.grad, torch.ones(2))
    constant = LCMAggregation(torch.maximum, identity=torch.ones(2))
    assert "identity" in constant.state_dict()
    assert not [*constant.parameters()]


def test_triples_are_drawn_from_one_set():
    calls = []

    def remember(a, b):
        calls.append((a, b))
        return a - b

    index = torch.randperm(60) % 7  # not sorted
    x = torch.stack([index.float(), torch.arange(60.0)], 1)
    aggregate = LCMAggregation(remember)
    assert aggregate.associativity_error(x, index, triples=200) > 0
    (a, b), (_, c) = calls[:2]
    assert len(a) == 200
    assert torch.equal(a[:, 0], b[:, 0])
    assert torch.equal(a[:, 0], c[:, 0])
    assert len(set(a[:, 1].tolist())) > 40
    calls.clear()
    aggregate.associativity_error(x, triples=200)
    assert not torch.equal(calls[0][0][:, 0], calls[0][1][:, 0])


def test_beside_other_aggregations_and_as_a_readout_of_a_batch():
    x, edges = torch.randn(6, 4), torch.tensor([[0, 1, 2, 5, 4], [1, 0, 1, 3, 3]])
    several = MultiAggregation(["mean", LCMAggregation(GRUMonoid(4)), "max"])
    conv = SAGEConv(4, 8, aggr=several).eval()
    whole = conv(x, edges)
    assert whole.shape == (6, 8)
    torch.testing.assert_close(conv(x[:3], edges[:, :3]), whole[:3])
    data = [Data(x=torch.randn(n, 4), num_nodes=n) for n in (3, 1, 4)]
    batch = Batch.from_data_list(data)
    readout = LCMAggregation(GRUMonoid(4), permute="never")
    pooled = readout(batch.x, batch.batch, ptr=batch.ptr)
    for graph, row in zip(data, pooled, strict=True):
        assert torch.equal(readout(graph.x)[0], row)


def test_what_pyg_refuses_works():
    ours, theirs = same_weights(4)
    x, index = torch.randn(5, 4), torch.tensor([1, 0, 1, 2, 0])
    with pytest.raises(ValueError, match="sorted"):
        theirs(x, index)
    with pytest.raises(ValueError, match="two-dimensional"):
        theirs(torch.stack([x, x]), index.sort().values)
    with pytest.raises(NotImplementedError):
        theirs(x, ptr=torch.tensor([0, 2, 5]))
    with pytest.raises(ValueError, match="math domain"):
        theirs(x[:0], index[:0], dim_size=2)
    assert ours(x, index).shape == (3, 4)
    assert ours(torch.stack([x, x]), index).shape == (2, 3, 4)
    assert ours(x, ptr=torch.tensor([0, 2, 5])).shape == (2, 4)
    assert torch.equal(ours(x[:0], index[:0], dim_size=2), torch.zeros(2, 4))


@pytest.mark.parametrize("make", [LCMAggregation, FoldAggregation])
def test_in_any_company_through_the_modules(make):
    aggregate = make("gru", 6, 16) if make is LCMAggregation else make(6, 16)
    aggregate.eval()
    x = torch.randn(5000, 6)
    index = torch.randint(0, 1000, (5000,))
    together = aggregate(x, index, dim_size=1000)
    for s in range(20):
        alone = aggregate(x[index == s], index[index == s] * 0, dim_size=1)
        assert torch.equal(alone[0], together[s])


def test_an_operator_that_does_not_commute_is_named_in_debug_mode():
    x, index = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    aggregate = LCMAggregation(torch.sub, permute="never")
    aggregate(x, index)
    with torch_geometric.debug():
        with pytest.warns(UserWarning, match="differ by"):
            aggregate(x, index)
        LCMAggregation(GRUMonoid(3))(x, index)
        LCMAggregation("max")(x[:0], index[:0], dim_size=1)


def test_gradients_of_the_whole_in_double_precision():
    aggregate = LCMAggregation("gru", 3, 4, permute="never").double()
    index = torch.tensor([1, 0, 1, 1, 3])
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def call(x, *_):
        return aggregate(x, index, dim_size=4)

    inputs = (x, *aggregate.parameters())
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["tree", "gru", "lstm"])
def test_the_same_on_a_gpu(kind):
    if kind == "tree":
        aggregate = LCMAggregation(GRUMonoid(8), permute="never")
    else:
        aggregate = FoldAggregation(8, 8, kind)
    x, index = torch.randn(60, 8), torch.randint(0, 9, (60,))
    expected = aggregate(x, index, dim_size=10)
    moved = aggregate.cuda()(x.cuda(), index.cuda(), dim_size=10)
    assert moved.is_cuda
    torch.testing.assert_close(moved.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="permute"):
        LCMAggregation("sum", permute="sometimes")
    with pytest.raises(ValueError, match="in_channels"):
        LCMAggregation("gru")
    with pytest.raises(ValueError, match="project"):
        LCMAggregation("gru", 4, 6, project=False)
    with pytest.raises(TypeError, match="callable"):
        LCMAggregation(3)
    with pytest.raises(ValueError, match="num_orders"):
        LCMAggregation("sum", num_orders=0)
    with pytest.raises(ValueError, match="kind"):
        FoldAggregation(4, 4, "rnn")
    with pytest.raises(ValueError, match="equal lengths"):
        LCMAggregation("sum")(torch.randn(3, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="last dimension"):
        LCMAggregation("sum")(torch.randn(3, 2), torch.tensor([0, 1]), dim=-1)
    assert isinstance(LCMAggregation("sum").operator, ExactMonoid)


def test_errors_of_laws_are_numbers_for_any_elements():
    aggregate = LCMAggregation("sum")
    assert aggregate.associativity_error(torch.zeros(4, 3)) == 0
    with pytest.raises(ValueError, match="expected elements"):
        aggregate.associativity_error(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="orders"):
        aggregate.order_sensitivity(torch.ones(2, 3), torch.tensor([0, 0]), orders=0)


def test_a_plan_does_not_contradict_the_number_of_sets():
    aggregate, x = LCMAggregation("sum"), torch.ones(3, 2)
    plan = SegmentTreePlan(torch.tensor([1, 2]))
    assert aggregate(x, plan=plan, dim_size=2).shape == (2, 2)
    with pytest.raises(ValueError, match="dim_size: expected 2"):
        aggregate(x, plan=plan, dim_size=5)


def test_folds_of_no_features_in_the_middle():
    out = FoldAggregation(3, 4)(torch.zeros(2, 0, 3), torch.tensor([0, 2]), dim=0)
    assert out.shape == (3, 0, 4)
