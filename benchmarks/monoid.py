"""Monoid aggregation against PyG's operators, and how it scales.

Forward and backward of one aggregation. Skewed sets have ``min(3 u^(-1/1.1), largest)``
elements for uniform u, as neighborhoods of real graphs have; PyG pads all of them to
the largest one. Weights are the same on both sides.
"""

import torch
from torch_geometric.nn.aggr import GRUAggregation, SumAggregation
from torch_geometric.nn.aggr import LCMAggregation as PyGLCM

from benchmarks.memory import memory_row, peak_apart, resident_peak
from benchmarks.timing import compare, row
from manifoldkit.graphs import (
    FoldAggregation,
    GRUMonoid,
    LCMAggregation,
    SegmentTreePlan,
    SymmetricMLPMonoid,
    segment_tree_reduce,
)

CASES = {  # sets, elements of a set or the largest set, features, target, repeats
    "uniform, 4000 sets of 16, F = 64": (4000, 16, 64, "<= 1.1", 5),
    "uniform, 1000 sets of 16, F = 128": (1000, 16, 128, "<= 1.1", 5),
    "skewed, 2000 sets, largest 120, F = 64": (2000, -120, 64, "<= 0.1", 3),
    "skewed, 2000 sets, largest 400, F = 64": (2000, -400, 64, "<= 0.04", 1),
}
WORST = list(CASES)[-1]


def sizes_of(sets, size):
    """Sizes of the sets, at least one of the largest."""
    if size > 0:
        return torch.full((sets,), size)
    u = torch.rand(sets, generator=torch.Generator().manual_seed(0))
    sizes = (3 * u ** (-1 / 1.1)).clamp(max=-size).long()
    sizes[0] = -size
    return sizes


def elements(counts, features):
    """Random elements and their sets."""
    index = torch.repeat_interleave(torch.arange(len(counts)), counts)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(index), features, generator=generator, requires_grad=True)
    return x, index


def step(module, x, index, sets):
    """Forward and backward."""
    x.grad = None
    module.zero_grad()
    module(x, index, dim_size=sets).square().sum().backward()


def same_weights(features):
    """Ours and PyG's with the same GRU."""
    torch.manual_seed(0)
    theirs = PyGLCM(features, features, project=False)
    ours = LCMAggregation(GRUMonoid(features), permute="never")
    ours.operator.cell.load_state_dict(theirs.gru_cell.state_dict())
    return ours, theirs


def _against_pyg():
    rows = []
    for name, (sets, size, features, target, repeats) in CASES.items():
        counts = sizes_of(sets, size)
        x, index = elements(counts, features)
        ours, theirs = same_weights(features)
        t = compare(
            {
                "ours": lambda m=ours, x=x, i=index, n=sets: step(m, x, i, n),
                "theirs": lambda m=theirs, x=x, i=index, n=sets: step(m, x, i, n),
            },
            repeats=repeats,
        )
        note = f"{len(x)} elements"
        rows.append(row(name, t["ours"], "PyG LCM", t["theirs"], target, note))
    return rows


def peak(who, case):
    """Megabytes beyond what was there before the step."""
    torch.set_num_threads(1)
    sets, size, features, *_ = CASES[case]
    ours, theirs = same_weights(features)
    ours.operator.recompute = who == "recompute"
    module = theirs if who == "theirs" else ours
    x, index = elements(torch.tensor([2, 3]), features)
    step(module, x, index, 2)  # libraries are there before
    x, index = elements(sizes_of(sets, size), features)
    before = resident_peak()
    step(module, x, index, sets)
    return (resident_peak() - before) / 1024


def _memory_rows():
    rows = []
    for name in (next(iter(CASES)), WORST):
        theirs = peak_apart("monoid", "theirs", name)
        for who in ("ours", "recompute"):
            ours = peak_apart("monoid", who, name)
            kept = "" if who == "ours" else ", gates recomputed"
            case, target = f"{name}, peak memory{kept}", "<= 0.1"
            target = target if name == WORST else ""
            rows.append(memory_row(case, ours, "PyG LCM", theirs, target))
    return rows


def _operator_rows():
    sets, size, features, *_ = CASES[WORST]
    x, index = elements(sizes_of(sets, size), features)
    gru, _ = same_weights(features)
    mlp = LCMAggregation(SymmetricMLPMonoid(features), permute="never")
    plain, fold = SumAggregation(), FoldAggregation(features, features)
    padded = GRUAggregation(features, features)
    contestants = {
        "tree": lambda: step(gru, x, index, sets),
        "sum": lambda: step(plain, x, index, sets),
        "mlp": lambda: step(mlp, x, index, sets),
        "fold": lambda: step(fold, x, index, sets),
        "padded": lambda: step(padded, x, index, sets),
        "shuffled": lambda: step(LCMAggregation(gru.operator), x, index, sets),
    }
    t = compare(contestants, repeats=1)
    return [
        row("GRU tree, same sets", t["tree"], "PyG sum", t["sum"]),
        row("gated perceptron, same sets", t["mlp"], "GRU tree", t["tree"]),
        row("GRU tree with random orders", t["shuffled"], "GRU tree", t["tree"]),
        row("GRU tree, same sets", t["tree"], "GRU fold (ragged)", t["fold"]),
        row("GRU fold (ragged), same sets", t["fold"], "PyG GRU", t["padded"]),
    ]


def _scaling_rows():
    """Time an element, against the first of a series: one is linear."""
    module, _ = same_weights(64)
    series = {
        "more elements": [sizes_of(1000 * 4**k, -120) for k in range(3)],
        "one larger set, 32768 elements": [
            torch.cat([torch.tensor([n]), torch.full(((32768 - n) // 4,), 4)])
            for n in (4, 64, 1024, 32768)
        ],
    }
    rows = []
    for name, sizes in series.items():
        runs = {}
        for counts in sizes:
            x, index = elements(counts, 64)
            sets, label = len(counts), (len(x), int(counts.max()))
            runs[label] = lambda x=x, i=index, n=sets: step(module, x, i, n)
        t = compare(runs, repeats=3)
        (first, _), base = next(iter(t.items()))
        for (n, largest), seconds in t.items():
            each = 1e6 * seconds / n
            note = f"{n} elements, largest set {largest}: {each:.1f} us an element"
            rows.append(row(name, seconds, "per element", base * n / first, "", note))
    return rows


def _plan_rows():
    x, index = elements(sizes_of(2000, -400), 64)
    index = index[
        torch.randperm(len(index), generator=torch.Generator().manual_seed(1))
    ]
    operator = torch.maximum
    plan = SegmentTreePlan.from_index(index, 2000)
    t = compare(
        {
            "plan": lambda: SegmentTreePlan.from_index(index, 2000),
            "fold": lambda: segment_tree_reduce(x, None, operator, plan=plan),
            "scatter": lambda: torch.zeros(2000, 64).scatter_reduce(
                0, index[:, None].expand(-1, 64), x, "amax", include_self=False
            ),
        }
    )
    return [
        row("plan of an unsorted index", t["plan"], "fold by maximum", t["fold"]),
        row("fold by maximum", t["fold"], "scatter maximum", t["scatter"]),
    ]


def run():
    """Return the rows of the table."""
    return [
        *_against_pyg(),
        *_memory_rows(),
        *_operator_rows(),
        *_scaling_rows(),
        *_plan_rows(),
    ]
