"""Every public module: copies, pickles, state dicts, precisions, ``torch.compile``."""

import copy
import importlib
import inspect
import json
import pickle
from pathlib import Path

import pytest
import torch
from geoopt.manifolds.base import Manifold
from torch import nn
from torch_geometric.nn import GCNConv

from manifoldkit import equivariant as eq
from manifoldkit import graphs, lie, manifolds, optim, spd
from manifoldkit.datasets import make_point_clouds

SURFACE = Path(__file__).resolve().parents[1] / "api_surface.json"
PATH, CYCLE = (3, [(0, 1), (1, 2)]), (4, [(0, 1), (1, 2), (2, 3), (3, 0)])
ABSTRACT = {
    "graphs.Monoid",
    "lie.nn.SampledGroup",
}  # nothing to call; no tensor to take


def clouds(n=64):
    made = make_point_clouds(2, n, shapes=("airplane",), random_state=0)
    return torch.from_numpy(made.X).float()


def unit(*shape):
    return nn.functional.normalize(torch.randn(*shape), dim=-1)


def matrices(n, *batch):
    x = torch.randn(*batch, n, 3 * n)
    return x @ x.mT / (3 * n)


def path(n):
    return (torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1))[None]


def roads():
    return graphs.SemiAdaptiveAdjacency(torch.ones(5, 5), num_virtual=2)


def propagate(m):
    surface = torch.rand(2, 30, 4, 14).to(_dtype(m))
    level = eq.SurfaceLevel(surface, torch.randint(9, (2, 30, 4)))
    return m(level, *(torch.randn(2, *s).to(_dtype(m)) for s in ((9, 16), (30, 3))))


def pairs(model):
    return model.score_pairs([PATH, PATH], [CYCLE, PATH])


def samples(n=3):
    group = lie.GLPlus(2)
    g, g_inv, log_weight = lie.nn.LocalBox(0.5, 0.3)(
        group, n, torch.Generator().manual_seed(0), torch.float32
    )
    return lie.nn.GroupSamples(group, g, g_inv, log_weight.softmax(0))


SMALL = {"hidden": 8}
RIS = {"sizes": (32, 16, 8, 8), "channels": (8, 8, 8, 16, 16), "lra_k": 8}
PAROT = {
    **{"n_patches": 16, "k_local": 8, "k_global": 8, "k_intra": 4},
    **{"emb_dims": 16, "n_blocks": 1},
}
SET = (torch.tensor([0, 0, 1, 1, 1]),)
# name: (constructor, inputs), or (constructor, a function that calls the module)
CASES = {
    "equivariant.EqMotion": (
        lambda: eq.EqMotion(8, 4, hidden=8, channels=4, n_layers=2),
        lambda: (torch.randn(2, 3, 8, 3).cumsum(2),),
    ),
    "equivariant.FrameAveraging": (
        lambda: eq.FrameAveraging(nn.Linear(3, 3), out_types="position"),
        lambda: (torch.randn(2, 6, 3),),
    ),
    "equivariant.FrameGNN": (
        lambda: eq.FrameGNN(n_vectors=4, n_layers=1, n_edge=1),
        lambda: (torch.randn(2, 4, 3), torch.randn(2, 4, 3)),
    ),
    "equivariant.FramePointNet": (
        lambda: eq.FramePointNet("classification", 5, width=0.05),
        lambda: (clouds(20),),
    ),
    "equivariant.GraphFrameAveraging": (
        lambda: eq.GraphFrameAveraging(nn.Sequential(nn.Flatten(), nn.Linear(16, 2))),
        lambda: (path(4),),
    ),
    "equivariant.LocalFrames": (
        lambda: eq.LocalFrames(k=4, n_vectors=4, hidden=8),
        lambda: (clouds(12),),
    ),
    "equivariant.PaRotClassifier": (
        lambda: eq.PaRotClassifier(5, **PAROT),
        lambda: (clouds(),),
    ),
    "equivariant.PaRotSegmenter": (
        lambda: eq.PaRotSegmenter(4, 2, **PAROT),
        lambda m: m(clouds().to(_dtype(m)), category=torch.tensor([0, 1])),
    ),
    "equivariant.PointNetBackbone": (
        lambda: eq.PointNetBackbone(width=0.05),
        lambda: (torch.randn(2, 10, 3),),
    ),
    "equivariant.RISurConvClassifier": (
        lambda: eq.RISurConvClassifier(5, **RIS),
        lambda: (clouds(),),
    ),
    "equivariant.RISurConvLayer": (
        lambda: eq.RISurConvLayer(16, 8, 0, 8),
        lambda: (clouds(), unit(2, 64, 3)),
    ),
    "equivariant.RISurConvSegmenter": (
        lambda: eq.RISurConvSegmenter(
            4,
            2,
            sizes=RIS["sizes"],
            channels=(8, 8, 8, 16),
            lra_k=8,
            up_neighbors=(8,) * 4,
        ),
        lambda m: m(clouds().to(_dtype(m)), category=torch.tensor([0, 1])),
    ),
    "equivariant.RadialAxes": (
        lambda: eq.RadialAxes(2, hidden=4),
        lambda: (torch.randn(2, 6, 3),),
    ),
    "equivariant.SurfaceFeatures": (
        lambda: eq.SurfaceFeatures(),
        lambda: (clouds(20), unit(2, 20, 3), torch.randint(20, (2, 5, 4))),
    ),
    "equivariant.SurfacePropagation": (
        lambda: eq.SurfacePropagation(16, 8, 3, 12),
        propagate,
    ),
    "graphs.ExactMonoid": (
        lambda: graphs.ExactMonoid("max"),
        lambda: (torch.randn(4, 3), torch.randn(4, 3)),
    ),
    "graphs.FoldAggregation": (
        lambda: graphs.FoldAggregation(4, 8),
        lambda: (torch.randn(5, 4), *SET),
    ),
    "graphs.GMNMatch": (lambda: graphs.GMNMatch(layers=2), pairs),
    "graphs.GRUMonoid": (
        lambda: graphs.GRUMonoid(4),
        lambda: (torch.randn(3, 4), torch.randn(3, 4)),
    ),
    "graphs.GraphWaveNet": (
        lambda: graphs.GraphWaveNet(
            roads(), 12, 4, blocks=1, channels=4, skip_channels=8, end_channels=8
        ),
        lambda: (torch.randn(2, 12, 5, 3),),
    ),
    "graphs.IsoNet": (lambda: graphs.IsoNet("edge", layers=2), pairs),
    "graphs.IsoNetPP": (lambda: graphs.IsoNetPP("node", rounds=2, layers=2), pairs),
    "graphs.LCMAggregation": (
        lambda: graphs.LCMAggregation(graphs.GRUMonoid(4)),
        lambda: (torch.randn(5, 4), *SET),
    ),
    "graphs.LSTMMonoid": (
        lambda: graphs.LSTMMonoid(4),
        lambda m: m(torch.randn(3, 4).to(_dtype(m)), torch.randn(3, 4).to(_dtype(m))),
    ),
    "graphs.STGCN": (
        lambda: graphs.STGCN(roads(), 12, 4, channels=(4, 2, 4), out_channels=8),
        lambda: (torch.randn(2, 12, 5, 3),),
    ),
    "graphs.SemiAdaptiveAdjacency": (roads, lambda: ()),
    "graphs.SymmetricGRUMonoid": (
        lambda: graphs.SymmetricGRUMonoid(4),
        lambda: (torch.randn(3, 4), torch.randn(3, 4)),
    ),
    "graphs.SymmetricMLPMonoid": (
        lambda: graphs.SymmetricMLPMonoid(4),
        lambda: (torch.randn(3, 4), torch.randn(3, 4)),
    ),
    "graphs.VirtualNodeFeatures": (
        lambda: graphs.VirtualNodeFeatures(2, 2),
        lambda: (torch.randn(5, 2), torch.tensor([-1, -1, -1, 0, 1])),
    ),
    "graphs.VirtualNodeMPNN": (
        lambda: graphs.VirtualNodeMPNN([GCNConv(4, 4), GCNConv(4, 4)], channels=4),
        lambda: (torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])),
    ),
    "graphs.VirtualNodeState": (
        lambda: graphs.VirtualNodeState(4),
        lambda: (torch.randn(5, 4), torch.zeros(2, 4), SET[0]),
    ),
    "spd.BWBatchNorm": (lambda: spd.BWBatchNorm(3), lambda: (matrices(3, 6),)),
    "spd.BiMap": (lambda: spd.BiMap(4, 2), lambda: (matrices(4, 3),)),
    "spd.ConvSPDNet": (
        lambda: spd.ConvSPDNet(
            4, 5, n_spatial=4, n_filters=4, kernel_size=9, dims=(3,)
        ),
        lambda: (torch.randn(3, 4, 60),),
    ),
    "spd.CovariancePool": (spd.CovariancePool, lambda: (torch.randn(2, 3, 20),)),
    "spd.DomainBatchNorm": (
        lambda: spd.DomainBatchNorm(3, unseen="adapt"),
        lambda: (matrices(3, 6), torch.tensor([0, 1, 0, 1, 1, 0])),
    ),
    "spd.EEGNetwork": (
        lambda: spd.EEGNetwork(4, 3, 30, network="covariance"),
        lambda: (torch.randn(6, 4, 30),),
    ),
    "manifolds.ManifoldBatchNorm": (
        lambda: manifolds.ManifoldBatchNorm(manifolds.Sphere(), 4),
        lambda: (unit(6, 4),),
    ),
    "spd.GBWBatchNorm": (lambda: spd.GBWBatchNorm(3), lambda: (matrices(3, 6),)),
    "spd.LogEig": (spd.LogEig, lambda: (matrices(3, 2),)),
    "spd.ReEig": (spd.ReEig, lambda: (matrices(3, 2),)),
    "spd.SPDBatchNorm": (lambda: spd.SPDBatchNorm(3), lambda: (matrices(3, 6),)),
    "spd.SPDNet": (lambda: spd.SPDNet(4, (3,), 2), lambda: (matrices(4, 6),)),
    "spd.SPDPool": (spd.SPDPool, lambda: (matrices(3, 4),)),
    "spd.SPDResidual": (lambda: spd.SPDResidual(4), lambda: (matrices(4, 3),)),
    "spd.SpatioTemporalFilters": (
        lambda: spd.SpatioTemporalFilters(4, 4, 4, 9),
        lambda: (torch.randn(2, 4, 60),),
    ),
    "lie.nn.AffineResNet": (
        lambda: lie.nn.AffineResNet(
            3, channels=4, n_samples=3, kernel_size=3, head=8, **SMALL
        ),
        lambda: (torch.randn(2, 1, 12, 12),),
    ),
    "lie.nn.FourierKernel": (
        lambda: lie.nn.FourierKernel(2, 8, 3),
        lambda: (torch.randn(4, 2),),
    ),
    "lie.nn.GaussianKernel": (
        lambda: lie.nn.GaussianKernel(2, 8, 3),
        lambda: (torch.randn(4, 2),),
    ),
    "lie.nn.GroupConv2d": (
        lambda: lie.nn.GroupConv2d(2, 2, 3, **SMALL),
        lambda m: m(torch.randn(1, 2, 3, 6, 6).to(_dtype(m)), samples()),
    ),
    "lie.nn.GroupPool": (
        lie.nn.GroupPool,
        lambda m: m(torch.randn(1, 2, 3, 6, 6), samples()),
    ),
    "lie.nn.GroupProject2d": (
        lambda: lie.nn.GroupProject2d(2, 2, 1, **SMALL),
        lambda m: m(torch.randn(1, 2, 3, 6, 6).to(_dtype(m)), samples()),
    ),
    "lie.nn.LiftConv2d": (
        lambda: lie.nn.LiftConv2d(1, 2, 3, **SMALL),
        lambda m: m(torch.randn(1, 1, 6, 6).to(_dtype(m)), samples()),
    ),
    "lie.nn.RotationHead": (
        lambda: lie.nn.RotationHead(4),
        lambda: (torch.randn(3, 4),),
    ),
    "optim.LoRALinear": (
        lambda: optim.LoRALinear(6, 5, r=2, manifold="fixed_rank"),
        lambda: (torch.randn(3, 6),),
    ),
    "lie.nn.Siren": (lambda: lie.nn.Siren(2, 8, 3), lambda: (torch.randn(4, 2),)),
}
MANIFOLDS = {
    "Euclidean": lambda: manifolds.Euclidean(1),
    "FixedRank": lambda: manifolds.FixedRank(4, 3, 2),
    "PSDFixedRank": lambda: manifolds.PSDFixedRank(4, 2),
    "Product": lambda: manifolds.Product(
        (manifolds.Sphere(), 3), (manifolds.Stiefel(), (4, 2))
    ),
    **{
        name: getattr(manifolds, name)
        for name in (
            *("GLPlus", "Grassmann", "Oblique", "PositiveReals", "SPD"),
            *("SpecialLinear", "SpecialOrthogonal", "Sphere", "Stiefel"),
        )
    },
}


def _dtype(module):
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


def public_modules():
    surface = json.loads(SURFACE.read_text())
    for module, names in surface.items():
        for name in names:
            yield module, name
    yield from (("manifoldkit.lie.nn", name) for name in lie.nn.__all__)


def test_every_public_module_is_in_the_table():
    for module, name in public_modules():
        value = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(value) and issubclass(value, nn.Module)):
            continue
        full = f"{module.removeprefix('manifoldkit.')}.{name}"
        if issubclass(value, Manifold):
            assert name in {*MANIFOLDS, "Manifold"}, f"{name}: add it to MANIFOLDS"
        else:
            assert full in CASES.keys() | ABSTRACT, f"{full}: add it to CASES"


def build(name, seed=0):
    torch.manual_seed(seed)
    return CASES[name][0]().eval()


def call(name, module, seed=1):
    """Run a module on inputs of its own dtype."""
    torch.manual_seed(seed)
    run = CASES[name][1]
    if inspect.signature(run).parameters:
        return [t for t in tensors(run(module)) if t.is_floating_point()]
    dtype = _dtype(module)
    inputs = [_to(value, dtype) for value in run()]
    return [t for t in tensors(module(*inputs)) if t.is_floating_point()]


def _to(value, dtype):
    return value.to(dtype) if value.is_floating_point() else value


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


@pytest.mark.parametrize("name", CASES)
def test_copies_pickles_and_states(name):
    module = build(name)
    expected = call(name, module)
    assert expected
    assert all(t.isfinite().all() for t in expected)
    state = copy.deepcopy(module.state_dict())
    other = build(name, seed=5)
    other.load_state_dict(state)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        for a, b in zip(call(name, twin), expected, strict=True):
            assert torch.equal(a, b)
        assert twin.state_dict().keys() == state.keys()
        assert [type(p) for p in twin.parameters()] == [
            type(p) for p in module.parameters()
        ]


@pytest.mark.parametrize("name", CASES)
def test_training_gives_finite_gradients(name):
    module = build(name).train()
    outputs = call(name, module)
    if not list(module.parameters()):
        pytest.skip("nothing to learn")
    sum(t.square().sum() for t in outputs if t.requires_grad).backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert grads
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("name", CASES)
def test_double_precision(name):
    module = build(name).double()
    outputs = call(name, module)
    if _dtype(module) is torch.float64:
        assert {t.dtype for t in outputs} == {torch.float64}
    assert all(t.isfinite().all() for t in outputs)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_manifolds_are_copied_and_pickled(name):
    manifold = MANIFOLDS[name]()
    twins = (copy.deepcopy(manifold), pickle.loads(pickle.dumps(manifold)))
    for twin in (*twins, MANIFOLDS[name]()):
        assert twin == manifold
        twin.load_state_dict(manifold.state_dict())


def batch_inputs(name):
    """Inputs of a module in double precision, if all have the items as first axis."""
    run = CASES[name][1]
    if inspect.signature(run).parameters:
        return None
    torch.manual_seed(1)
    inputs = [_to(value, torch.float64) for value in run()]
    sizes = {value.shape[0] for value in inputs if value.dim()}
    return inputs if len(sizes) == 1 and sizes != {1} else None


# the first axis has the elements of sets or the nodes of one graph, not items
# (or the statistics of a domain that is new come from the whole call)
ONE_OBJECT = {
    "spd.DomainBatchNorm",
    *("graphs.FoldAggregation", "graphs.LCMAggregation", "graphs.VirtualNodeMPNN"),
    *("graphs.VirtualNodeFeatures", "graphs.VirtualNodeState", "spd.SPDPool"),
}
ITEMS = [n for n in CASES if batch_inputs(n) and n not in ONE_OBJECT]


@pytest.mark.parametrize("name", ITEMS)
def test_company_changes_no_answer(name):
    """In evaluation an item gets what it gets alone, whatever the others are."""
    module = build(name).double()
    inputs = batch_inputs(name)
    alone = list(tensors(module(*(value[:1] for value in inputs))))
    for factor in (1.0, 1e6, float("nan")):
        company = [value.clone() for value in inputs]
        company[0][1:] *= factor
        try:
            found = list(tensors(module(*company)))
        except ValueError:  # what cannot be computed may be refused
            if factor == 1.0:
                raise
            continue
        for a, b in zip(alone, found, strict=True):
            if a.dim() and a.shape[0] == 1 and a.is_floating_point():
                size = max(1.0, float(a.detach().abs().max()))
                torch.testing.assert_close(b[:1], a, rtol=0, atol=1e-12 * size)


# power of the unit with which outputs grow: no threshold is in the unit of the data
UNITS = {
    "equivariant.RadialAxes": 1,
    "spd.BiMap": 1,
    "spd.ConvSPDNet": 0,
    "spd.CovariancePool": 2,
    "spd.ReEig": 1,
    "spd.SPDNet": 0,
    "spd.SPDPool": 1,
    "spd.SPDResidual": 1,
    "spd.SpatioTemporalFilters": 0,
}


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e6, 1e9])
@pytest.mark.parametrize("name", UNITS)
def test_the_unit_changes_no_answer(name, factor):
    module = build(name).double()
    (x,) = batch_inputs(name)
    expected, found = module(x), module(factor * x)
    found = found / factor ** UNITS[name]
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * size)


# tracing these takes more than three seconds each
SLOW = {
    *("equivariant.EqMotion", "equivariant.PaRotClassifier", "spd.ConvSPDNet"),
    *("equivariant.PaRotSegmenter", "equivariant.RISurConvClassifier"),
    *("equivariant.RISurConvLayer", "equivariant.RISurConvSegmenter"),
    *("graphs.GraphWaveNet", "lie.nn.AffineResNet"),
    *("spd.DomainBatchNorm", "spd.EEGNetwork"),
}


@pytest.mark.compile
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES],
)
def test_compiled_modules_agree(name):
    module = build(name)
    expected = call(name, module)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager")
    with torch.no_grad():
        found = call(name, compiled)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# points of a manifold do not fit into eight bits; their inputs may have half precision
SINGLE = {
    *("spd.BiMap", "spd.ConvSPDNet", "spd.EEGNetwork", "spd.SPDNet", "spd.SPDResidual"),
    "spd.SpatioTemporalFilters",
}


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_works_or_is_refused(name):
    """In bfloat16 a module answers with finite numbers, or says what it takes."""
    module = build(name).bfloat16()
    if name in SINGLE:
        with pytest.raises(TypeError, match="expected parameters in float32 or"):
            call(name, module)
    else:
        assert all(t.isfinite().all() for t in call(name, module))
