"""Elements of any dtype and scale, sets without elements, sets with bad ones."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import SAGEConv

from manifoldkit.graphs import (
    ExactMonoid,
    FoldAggregation,
    GRUMonoid,
    LCMAggregation,
    LSTMMonoid,
    SegmentTreePlan,
    SymmetricGRUMonoid,
    SymmetricMLPMonoid,
    segment_tree_reduce,
    segment_tree_scan,
)

EXACT = ["sum", "product", "max", "min", "logsumexp"]
LEARNABLE = [GRUMonoid, LSTMMonoid, SymmetricGRUMonoid, SymmetricMLPMonoid]
INDEX = torch.tensor([0, 3, 0, 3, 3, 0, 1])  # set 2 is empty, 1 has one element


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def folds():
    return [
        *(LCMAggregation(kind, permute="never") for kind in EXACT),
        *(LCMAggregation(kind(4), permute="never") for kind in LEARNABLE),
        LCMAggregation("gru", 4, 6, permute="never"),
        FoldAggregation(4, 6),
        FoldAggregation(4, 6, "lstm"),
    ]


@pytest.mark.parametrize("kind", EXACT)
def test_a_set_without_elements_is_finite_as_in_pyg(kind):
    edges = torch.tensor([[0], [1]])  # nobody sends to nodes 0 and 2
    x = torch.randn(3, 4, requires_grad=True)
    conv = SAGEConv(4, 2, aggr=LCMAggregation(kind))
    out = conv(x, edges)
    assert out.isfinite().all()
    grad = torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])
    assert all(g.isfinite().all() for g in grad)
    theirs = {"product": "mul"}.get(kind, kind)
    if kind != "logsumexp":
        rows = LCMAggregation(kind)(x, INDEX[:3], dim_size=4)
        twin = SAGEConv(4, 2, aggr=theirs).aggr_module
        torch.testing.assert_close(rows, twin(x, INDEX[:3], dim_size=4))


@pytest.mark.parametrize("kind", EXACT)
def test_the_neutral_element_on_request(kind):
    x, neutral = torch.randn(7, 4), ExactMonoid(kind).identity
    for identity in ("operator", neutral, torch.tensor(neutral)):
        out = LCMAggregation(kind, identity=identity)(x, INDEX, dim_size=5)
        assert (out[[2, 4]] == neutral).all()
    nothing = LCMAggregation(kind, identity="operator")(x[:0], INDEX[:0], dim_size=2)
    assert (nothing == neutral).all()
    usual = LCMAggregation(kind)(x[:0], INDEX[:0], dim_size=2)
    assert (usual == (1.0 if kind == "product" else 0.0)).all()
    orders = LCMAggregation(kind, num_orders=3).eval()(x, INDEX, dim_size=5)
    assert orders.isfinite().all()


def test_an_operator_s_own_infinities_are_its_neutral_element_too():
    class Best(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("identity", torch.tensor([-torch.inf, 3.0]))

        def forward(self, a, b):
            return torch.maximum(a, b)

    x, index = torch.randn(2, 2), torch.tensor([0, 2])
    assert LCMAggregation(Best())(x, index)[1].tolist() == [0.0, 3.0]
    exact = LCMAggregation(Best(), identity="operator")(x, index)
    assert exact[1].tolist() == [-torch.inf, 3.0]


@pytest.mark.parametrize("kind", ["max", "min", "sum", "logsumexp"])
def test_gradients_at_infinite_elements_are_finite(kind):
    x = torch.tensor([[-torch.inf], [-torch.inf], [1.0], [-torch.inf]] * 2)
    x.requires_grad_()
    index = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
    if kind == "sum":
        x = x.detach().nan_to_num().requires_grad_()
    out = segment_tree_reduce(x, index, ExactMonoid(kind))
    (grad,) = torch.autograd.grad(out[1:].sum(), x)
    assert grad.isfinite().all()
    if kind == "logsumexp":
        exact = torch.stack([x[index == s].exp().sum() for s in range(3)])
        torch.testing.assert_close(out[:, 0].exp(), exact)

        def first(x):
            return segment_tree_reduce(x, index, ExactMonoid(kind))[0].sum()

        expected = [0.5, 0.5] + [0.0] * 6
        assert torch.autograd.grad(first(x), x)[0].flatten().tolist() == expected
        assert torch.func.grad(first)(x.detach()).flatten().tolist() == expected


def test_bad_elements_stay_in_their_set():
    x = torch.randn(7, 4)
    for bad in (torch.nan, torch.inf, -torch.inf, 3e38):
        spoiled = x.clone()
        spoiled[[1, 4]] = bad
        for fold in folds():
            rows = spoiled.clone().requires_grad_()
            out, expected = fold(rows, INDEX), fold(x, INDEX)
            assert torch.equal(out[:3], expected[:3])
            if bad != bad:
                assert out[3].isnan().all()
            (grad,) = torch.autograd.grad(out[:3].sum(), rows)
            assert grad[[0, 2, 5, 6]].isfinite().all()


def test_a_set_alone_equals_itself_in_company():
    x, index = torch.randn(300, 4), torch.randint(0, 40, (300,))
    close = {"rtol": 1e-6, "atol": 1e-6}
    for fold in folds():
        together = fold(x, index, dim_size=40)
        for s in range(0, 40, 7):
            alone = fold(x[index == s], index[index == s] * 0)[0]
            torch.testing.assert_close(alone, together[s], **close)
    for operator in (torch.mul, GRUMonoid(4), SymmetricMLPMonoid(4)):
        prefixes = segment_tree_scan(x, index, operator)
        for s in range(0, 40, 7):
            alone = segment_tree_scan(x[index == s], index[index == s] * 0, operator)
            torch.testing.assert_close(alone, prefixes[index == s], **close)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30])
def test_the_unit_of_the_elements(scale):
    x = torch.randn(7, 4)
    for kind in ("sum", "max", "min"):
        fold = LCMAggregation(kind, permute="never")
        expected = fold(x, INDEX).double() * scale
        torch.testing.assert_close(
            fold(x * scale, INDEX).double(), expected, atol=0, rtol=1e-5
        )
    shift = LCMAggregation("logsumexp", permute="never")
    moved = (shift(x + 100.0, INDEX) - 100.0)[[0, 1, 3]]
    torch.testing.assert_close(moved, shift(x, INDEX)[[0, 1, 3]], rtol=0, atol=1e-4)
    halves = LCMAggregation(lambda a, b: (a + b) / 2, generator=torch.Generator())
    for measure in (halves.associativity_error, halves.order_sensitivity):
        halves.generator.manual_seed(0)
        small = measure(x, INDEX)
        halves.generator.manual_seed(0)
        large = measure(x * scale, INDEX)
        factor = 1 if measure == halves.associativity_error else scale
        torch.testing.assert_close(
            large.double(), small.double() * factor, rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_elements_meet_wide_weights(dtype):
    x = torch.randn(7, 4).to(dtype)
    for fold in folds():
        fold.double()
        out = fold(x, INDEX)
        assert out.dtype == dtype
        if [*fold.parameters()]:
            assert torch.equal(out, fold(x.double(), INDEX).to(dtype))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.int64, torch.bool, torch.complex64]
)
def test_dtypes_that_do_not_fit_are_named(dtype):
    x = torch.randn(7, 4).to(dtype)
    name = str(dtype).removeprefix("torch.")
    for fold in folds():
        if [*fold.parameters()]:
            with pytest.raises(TypeError, match=f"x: .*{name}"):
                fold(x, INDEX)
    for kind in LEARNABLE:
        with pytest.raises(TypeError, match=name):
            kind(4)(x, x)
        with pytest.raises(TypeError, match=name):
            kind(4)(x.real.float() if x.is_complex() else x.float(), x)
    if dtype.is_complex:
        with pytest.raises(TypeError, match="complex"):
            LCMAggregation("sum")(x, INDEX)
        with pytest.raises(TypeError, match="complex"):
            segment_tree_reduce(x, INDEX, ExactMonoid("max"))


def test_integers_and_booleans_where_the_operation_has_them():
    x = torch.randint(-9, 9, (7, 4))
    brute = {"sum": "sum", "max": "amax", "min": "amin", "product": "prod"}
    for kind, method in brute.items():
        out = LCMAggregation(kind)(x, INDEX)
        assert out.dtype == torch.int64
        for s in (0, 1, 3):
            assert torch.equal(out[s], getattr(x[s == INDEX], method)(0))
    flags = x > 0
    assert torch.equal(LCMAggregation("max")(flags, INDEX)[3], flags[INDEX == 3].any(0))
    for kind in ("sum", "product", "logsumexp"):
        with pytest.raises(TypeError, match="bool"):
            LCMAggregation(kind)(flags[:2], torch.tensor([0, 1]))
    for values in (x, flags):
        with pytest.raises(ValueError, match="identity: expected an integer"):
            segment_tree_reduce(values, INDEX, ExactMonoid("max"))


def test_bad_input_is_named():
    x, two, exact = torch.randn(7, 4), torch.tensor([2]), LCMAggregation("sum")
    cases = [
        ("in_channels=4", ValueError, lambda: FoldAggregation(4, 4)(x[:, :3], INDEX)),
        (
            "in_channels=4",
            ValueError,
            lambda: LCMAggregation("gru", 4)(x[:, 1:], INDEX),
        ),
        ("torch tensor", TypeError, lambda: LCMAggregation("max")(x.numpy(), INDEX)),
        ("torch tensor", TypeError, lambda: GRUMonoid(4)(x.numpy(), x.numpy())),
        ("identity", ValueError, lambda: LCMAggregation("max", identity="zero")),
        ("identity", TypeError, lambda: LCMAggregation("max", identity=[0.0])),
        ("dim_size", ValueError, lambda: segment_tree_reduce(x, INDEX, torch.add, -1)),
        ("dim_size", ValueError, lambda: segment_tree_reduce(x, INDEX, torch.add, 4.5)),
        ("ptr", TypeError, lambda: segment_tree_reduce(x, None, torch.add, 1, ptr=[7])),
        ("triples", ValueError, lambda: exact.associativity_error(x, triples=0)),
        ("lengths", ValueError, lambda: exact.associativity_error(x, INDEX[1:])),
        ("counts", ValueError, lambda: SegmentTreePlan(two.bool())),
        ("order", ValueError, lambda: SegmentTreePlan(two, torch.tensor([1, 1]))),
        ("order", ValueError, lambda: SegmentTreePlan(two, torch.tensor([1, 2]))),
        ("order", ValueError, lambda: SegmentTreePlan(two, torch.ones(2))),
    ]
    for words, error, call in cases:
        with pytest.raises(error, match=words):
            call()
    for identity in (torch.zeros(3), torch.zeros(4) * 1j, torch.zeros(1, 1, 4)):
        with pytest.raises(ValueError, match="identity: expected shape"):
            segment_tree_reduce(x, INDEX, torch.add, identity=identity)
