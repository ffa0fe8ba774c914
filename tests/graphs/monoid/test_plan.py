"""Tree reductions of ragged sets: against brute force, bits, gradients, bad input."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from manifoldkit.graphs import (
    ExactMonoid,
    GRUMonoid,
    SegmentTreePlan,
    SymmetricMLPMonoid,
    segment_tree_reduce,
    segment_tree_scan,
)
from manifoldkit.graphs.monoid.reduce import kept_plan, plan_for


def uneven(a, b):
    """Neither associative nor commutative."""
    return 0.7 * a + b * a.cos()


def balanced(rows, operator):
    """The tree by its definition."""
    rows = list(rows)
    while len(rows) > 1:
        last = rows[-1:] if len(rows) % 2 else []
        pairs = zip(rows[::2], rows[1::2], strict=False)
        rows = [operator(a, b) for a, b in pairs] + last
    return rows[0]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("case", range(20))
def test_any_operator_on_unsorted_sets(case):
    generator = torch.Generator().manual_seed(case)
    segments = int(torch.randint(1, 9, (), generator=generator))
    size = int(torch.randint(0, 60, (), generator=generator))
    index = torch.randint(0, segments, (size,), generator=generator)
    x = torch.randn(size, 3, dtype=torch.float64, generator=generator)
    x.requires_grad_()
    empty = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    out = segment_tree_reduce(x, index, uneven, segments, identity=empty)
    expected = torch.stack(
        [
            balanced(x[index == s], uneven) if (index == s).any() else empty
            for s in range(segments)
        ]
    )
    torch.testing.assert_close(out, expected)
    if size:
        weights = torch.randn(out.shape, dtype=out.dtype, generator=generator)
        (ours,) = torch.autograd.grad((out * weights).sum(), x)
        (theirs,) = torch.autograd.grad((expected * weights).sum(), x)
        torch.testing.assert_close(ours, theirs)


def test_work_and_depth(generator):
    counts = torch.randint(0, 200, (300,), generator=generator)
    plan = SegmentTreePlan(counts)
    assert plan.depth == math.ceil(math.log2(int(counts.max())))
    pairs = sum(level.pairs for level in plan.levels)
    assert pairs == int((counts - 1).clamp_min(0).sum())
    rows = sum(level.inverse.numel() for level in plan.levels)
    assert rows <= 2 * plan.num_elements + plan.num_segments * plan.depth


def test_the_forms_of_an_index_agree(generator):
    counts = torch.tensor([3, 0, 5, 1])
    index = torch.arange(4).repeat_interleave(counts)
    x = torch.randn(9, 2, generator=generator)
    expected = segment_tree_reduce(x, index, uneven, 4)
    ptr = torch.tensor([0, 3, 3, 8, 9])
    by_ptr = segment_tree_reduce(x, None, uneven, ptr=ptr)
    plan = SegmentTreePlan(counts)
    by_plan = segment_tree_reduce(x, None, uneven, plan=plan)
    for other in (by_ptr, by_plan, plan.to("cpu").reduce(x, uneven)):
        assert torch.equal(other, expected)
    assert torch.equal(segment_tree_reduce(x, index.int(), uneven, 4), expected)
    flat = segment_tree_reduce(x[:, 0], index, torch.add, 4)
    assert flat.shape == (4,)


def test_any_dimension_and_leading_dimensions(generator):
    index = torch.tensor([1, 0, 1, 1])
    x = torch.randn(5, 4, 3, generator=generator)
    out = segment_tree_reduce(x, index, uneven, dim=1)
    each = torch.stack([segment_tree_reduce(part, index, uneven) for part in x])
    torch.testing.assert_close(out, each)
    with pytest.raises(ValueError, match="last dimension"):
        segment_tree_reduce(x, torch.tensor([0, 1, 1]), uneven, dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["sum", "logsumexp", "gru", "mlp"])
def test_a_set_has_the_same_bits_in_any_company(name, dtype, generator):
    torch.manual_seed(0)
    operator = {"gru": GRUMonoid, "mlp": SymmetricMLPMonoid}.get(name)
    operator = operator(16, dtype=dtype) if operator else ExactMonoid(name)
    index = torch.randint(0, 1000, (6000,), generator=generator)
    x = torch.randn(6000, 16, dtype=dtype, generator=generator)
    together = segment_tree_reduce(x, index, operator, 1000)
    for s in range(30):
        alone = segment_tree_reduce(x[index == s], index[index == s] * 0, operator, 1)
        assert torch.equal(alone[0], together[s])
    prefixes = segment_tree_scan(x, index, operator)
    for s in range(30):
        alone = segment_tree_scan(x[index == s], index[index == s] * 0, operator)
        assert torch.equal(alone, prefixes[index == s])


def test_exact_monoids_are_what_they_say(generator):
    index = torch.randint(0, 6, (40,), generator=generator)
    x = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    brute = {
        "sum": lambda v: v.sum(0),
        "product": lambda v: v.prod(0),
        "max": lambda v: v.amax(0),
        "min": lambda v: v.amin(0),
        "logsumexp": lambda v: v.logsumexp(0),
    }
    for kind, fold in brute.items():
        out = segment_tree_reduce(x, index, ExactMonoid(kind), 7)
        expected = torch.stack([fold(x[index == s]) for s in range(6)])
        torch.testing.assert_close(out[:6], expected)
        assert bool((out[6] == ExactMonoid(kind).identity).all())


def test_derivatives_of_both_orders(generator):
    index = torch.tensor([0, 2, 2, 0, 2, 2, 2])
    x = torch.randn(7, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    e = torch.randn(2, dtype=torch.float64, generator=generator, requires_grad=True)

    def reduce(x, e):
        return segment_tree_reduce(x, index, uneven, 3, identity=e)

    assert torch.autograd.gradcheck(reduce, (x, e), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(reduce, (x, e))


def test_nan_stays_in_its_set(generator):
    index = torch.tensor([0, 0, 0, 1, 1])
    x = torch.randn(5, 4, generator=generator)
    x[1] = torch.nan
    x.requires_grad_()
    torch.manual_seed(0)
    out = segment_tree_reduce(x, index, GRUMonoid(4))
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    (grad,) = torch.autograd.grad(out[1].sum(), x)
    assert grad[3:].isfinite().all()


def test_a_random_order_changes_nothing_but_the_order(generator):
    counts = torch.tensor([4, 0, 7, 1])
    plan = SegmentTreePlan.from_index(torch.tensor([2, 0] * 4 + [2, 3, 2, 2]))
    assert plan.counts.tolist() == counts.tolist()
    shuffled = plan.shuffled(generator)
    x = torch.randn(12, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(plan.reduce(x, torch.add), shuffled.reduce(x, torch.add))
    assert not torch.allclose(plan.reduce(x, uneven), shuffled.reduce(x, uneven))
    again = plan.shuffled(torch.Generator().manual_seed(5)).order
    same = plan.shuffled(torch.Generator().manual_seed(5)).order
    assert torch.equal(again, same)


def test_plans_are_kept_by_index_and_noticed_when_it_changes():
    index = torch.tensor([0, 0, 1])
    plan = plan_for(index)
    assert plan_for(index) is plan
    assert plan_for(index, dim_size=3) is not plan
    index[1] = 1
    changed = plan_for(index)
    assert changed.counts.tolist() == [1, 2]
    with torch.inference_mode():
        assert plan_for(torch.tensor([0])).num_segments == 1
    for size in range(3, 15):
        plan_for(torch.zeros(size, dtype=torch.long))
    assert kept_plan.cache_info().currsize == kept_plan.cache_info().maxsize == 8
    assert plan_for(index) is not changed


def test_views_of_one_memory_are_different_indices():
    base = torch.tensor([0, 0, 1, 1, 2, 2])
    plans = [plan_for(view).counts.tolist() for view in (base[:3], base[::2])]
    assert plans == [[2, 1], [1, 1, 1]]


def test_a_moved_plan_keeps_the_order(generator):
    index = torch.tensor([1, 0, 1, 2, 0, 1])
    x = torch.randn(6, 2, generator=generator)
    plan = SegmentTreePlan.from_index(index)
    assert torch.equal(plan.to("cpu").reduce(x, uneven), plan.reduce(x, uneven))


def test_late_sets_are_shuffled_as_early_ones(generator):
    counts = torch.zeros(1 << 22, dtype=torch.long)
    counts[-400:] = 2
    order = SegmentTreePlan(counts).shuffled(generator).order
    pairs = order.view(400, 2)
    assert torch.equal(pairs.sort(1).values, torch.arange(800).view(400, 2))
    swapped = int((pairs[:, 0] > pairs[:, 1]).sum())
    assert 160 < swapped < 240  # four standard deviations about the half


def test_one_huge_set():
    x = torch.ones(1_000_000, 1)
    out = segment_tree_reduce(x, torch.zeros(len(x), dtype=torch.long), torch.add)
    assert out.item() == 1_000_000


def test_scan_is_every_prefix(generator):
    counts = torch.tensor([1, 0, 8, 5, 13, 2])
    index = torch.arange(6).repeat_interleave(counts)
    shuffle = torch.randperm(29, generator=generator)
    x = torch.randn(29, 2, dtype=torch.float64, generator=generator)
    out = segment_tree_scan(x[shuffle], index[shuffle], torch.add)
    for s in range(6):
        mine = x[shuffle][index[shuffle] == s]
        torch.testing.assert_close(out[index[shuffle] == s], mine.cumsum(0))

    def affine(a, b):  # compose the maps t -> a0 t + a1; associative, not commutative
        return torch.stack([a[:, 0] * b[:, 0], b[:, 0] * a[:, 1] + b[:, 1]], 1)

    out = segment_tree_scan(x, index, affine)
    for s in (2, 3, 4):
        state, rows = None, x[index == s]
        for row, prefix in zip(rows, out[index == s], strict=True):
            state = row if state is None else affine(state[None], row[None])[0]
            torch.testing.assert_close(prefix, state)


def test_bad_input():
    x = torch.randn(3, 2)
    index = torch.tensor([0, 1, 1])
    with pytest.raises(TypeError, match="integers"):
        segment_tree_reduce(x, index.float(), torch.add)
    with pytest.raises(ValueError, match=">= 0, found -1"):
        segment_tree_reduce(x, index - 1, torch.add)
    with pytest.raises(ValueError, match="dim_size=1"):
        segment_tree_reduce(x, index, torch.add, 1)
    with pytest.raises(ValueError, match="expected 2 elements"):
        segment_tree_reduce(x, index[:2], torch.add)
    with pytest.raises(ValueError, match="one dimension"):
        segment_tree_reduce(x, index[None], torch.add)
    with pytest.raises(ValueError, match="exactly one"):
        segment_tree_reduce(x, None, torch.add)
    with pytest.raises(ValueError, match="begin with 0"):
        segment_tree_reduce(x, None, torch.add, ptr=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="expected a result of shape"):
        segment_tree_reduce(x, index, lambda a, b: torch.cat([a, b], 1))
    with pytest.raises(ValueError, match="counts"):
        SegmentTreePlan(torch.tensor([1.0]))
    with pytest.raises(ValueError, match=">= 0"):
        SegmentTreePlan(torch.tensor([1, -1]))
    with pytest.raises(ValueError, match="order"):
        SegmentTreePlan(torch.tensor([2]), torch.tensor([0]))


def test_one_element_is_itself(generator):
    x = torch.randn(1, 3, generator=generator)
    for index, sets in (([0], 1), ([2], 4)):
        out = segment_tree_reduce(x, torch.tensor(index), uneven, sets)
        assert torch.equal(out[index[0]], x[0])
        assert out.shape == (sets, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_the_operator(dtype, generator):
    index = torch.randint(0, 4, (30,), generator=generator)
    x = torch.randn(30, 3, generator=generator).to(dtype).requires_grad_()
    out = segment_tree_reduce(x, index, torch.maximum)
    assert out.dtype == dtype
    exact = segment_tree_reduce(x.float(), index, torch.maximum)
    assert torch.equal(out.float(), exact)
    out.sum().backward()
    assert x.grad.dtype == dtype


def test_memory_layout_and_gradients_do_not_matter(generator):
    index = torch.randint(0, 4, (30,), generator=generator)
    x = torch.randn(3, 60, generator=generator).t()[::2]
    assert not x.is_contiguous()
    out = segment_tree_reduce(x, index, uneven)
    assert torch.equal(out, segment_tree_reduce(x.contiguous(), index, uneven))
    assert not out.requires_grad
    with torch.no_grad():
        again = segment_tree_reduce(x.clone().requires_grad_(), index, uneven)
    assert torch.equal(out, again)
    expanded = torch.repeat_interleave(torch.arange(4), 5)[::2]
    assert not expanded.is_contiguous()
    rows = torch.randn(10, 2, generator=generator)
    expected = segment_tree_reduce(rows, expanded.contiguous(), uneven)
    assert torch.equal(segment_tree_reduce(rows, expanded, uneven), expected)


def test_backward_again(generator):
    index = torch.randint(0, 4, (30,), generator=generator)
    x = torch.randn(30, 3, generator=generator, requires_grad=True)
    out = segment_tree_reduce(x, index, GRUMonoid(3)).square().sum()
    (first,) = torch.autograd.grad(out, x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x)
    assert torch.equal(first, second)


def test_ten_thousand_sets_do_not_change_one(generator):
    operator = GRUMonoid(16)
    lonely = torch.randn(11, 16, generator=generator)
    others = torch.randn(50_000, 16, generator=generator)
    index = torch.randint(0, 10_000, (50_000,), generator=generator) + 1
    together = torch.cat([lonely, others]), torch.cat([torch.zeros(11).long(), index])
    out = segment_tree_reduce(*together, operator)
    alone = segment_tree_reduce(lonely, torch.zeros(11).long(), operator)
    assert torch.equal(out[0], alone[0])


@pytest.mark.parametrize("threads", [8])
def test_plans_are_kept_by_many_threads(threads):
    indices = [torch.arange(n) for n in range(1, 33)]

    def depths(_):
        return [plan_for(i).num_elements for i in indices * 20]

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(depths, range(threads)))
    assert found == [[len(i) for i in indices] * 20] * threads
    assert kept_plan.cache_info().currsize <= 8


@pytest.mark.compile
def test_one_graph_for_the_compiler(generator):
    torch.compiler.reset()
    operator = GRUMonoid(4)
    plan = SegmentTreePlan(torch.tensor([3, 0, 5, 1]))
    x = torch.randn(9, 4, generator=generator)

    def gradient(function):
        rows = x.clone().requires_grad_()
        out = function(rows)
        return out, *torch.autograd.grad(out.square().sum(), rows)

    def reduce(rows):
        return plan.reduce(rows, operator)

    compiled = torch.compile(reduce, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradient(compiled), gradient(reduce))


def test_empty_input():
    none = torch.zeros(0, dtype=torch.long)
    out = segment_tree_reduce(torch.zeros(0, 3), none, torch.add, 4, identity=2.0)
    assert torch.equal(out, torch.full((4, 3), 2.0))
    assert segment_tree_reduce(torch.zeros(0, 3), none, torch.add).shape == (0, 3)
