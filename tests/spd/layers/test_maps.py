"""BiMap, ReEig, LogEig, pooling and the residual block."""

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import logm, vech
from manifoldkit.manifolds import Stiefel, manifold_of
from manifoldkit.optim import build_optimizer
from manifoldkit.spd.layers.maps import BiMap, LogEig, ReEig, SPDResidual
from manifoldkit.spd.layers.pooling import CovariancePool, SPDPool

DOUBLE = torch.float64


def orthogonal(n, generator):
    x = torch.randn(n, n, dtype=DOUBLE, generator=generator)
    return torch.linalg.qr(x)[0]


# BiMap


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_bimap_is_the_congruence(batch, make_spd, generator):
    layer = BiMap(5, 3, generator=generator, dtype=DOUBLE)
    x = make_spd(*batch, n=5)
    w = layer.weight[0, 0]
    y = layer(x)
    assert y.shape == (*batch, 3, 3)
    torch.testing.assert_close(y, w.mT @ x @ w)
    assert manifold_of(layer.weight) == Stiefel()
    torch.testing.assert_close(w.mT @ w, torch.eye(3, dtype=DOUBLE))


def test_bimap_sums_over_channels(make_spd, generator):
    layer = BiMap(5, 3, 4, 2, generator=generator, dtype=DOUBLE)
    x = make_spd(2, 6, 4, n=5)
    expected = torch.einsum("ocij,...cik,ockl->...ojl", layer.weight, x, layer.weight)
    assert layer(x).shape == (2, 6, 2, 3, 3)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_bimap_gradients(channels, make_spd, generator):
    layer = BiMap(3, 2, *channels, generator=generator, dtype=DOUBLE)
    shape = (2,) if channels == (1, 1) else (2, channels[0])
    x = make_spd(*shape, n=3).requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()

    def run(x, w):
        x = (x + x.mT) / 2  # the layer takes symmetric matrices
        return torch.func.functional_call(layer, {"weight": w}, (x,))

    assert gradcheck(run, (x, weight))


def test_bimap_learns_the_leading_subspace(make_spd, generator):
    """tr W'XW is largest on the leading eigenvectors, and W stays on Stiefel."""
    layer = BiMap(6, 2, generator=generator, dtype=DOUBLE)
    x = make_spd(n=6, condition=50.0)
    optimizer = build_optimizer(layer, "sgd", manifold_lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        (-layer(x).diagonal(dim1=-2, dim2=-1).sum()).backward()
        optimizer.step()
    s = torch.linalg.eigvalsh(x)
    trace = layer(x).diagonal(dim1=-2, dim2=-1).sum()
    torch.testing.assert_close(trace, s[-2:].sum(), rtol=1e-4, atol=0)
    w = layer.weight[0, 0]
    torch.testing.assert_close(w.mT @ w, torch.eye(2, dtype=DOUBLE))


def test_bimap_keeps_its_manifold(tmp_path, generator):
    layer = BiMap(4, 2, generator=generator)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert manifold_of(twin.weight) == Stiefel()
        assert torch.equal(twin.weight, layer.weight)
    other = BiMap(4, 2)
    other.load_state_dict(layer.state_dict(), assign=True)
    assert manifold_of(other.weight) == Stiefel()
    assert torch.equal(other.weight, layer.weight)


def test_bimap_is_reproducible():
    def draw(seed):
        return BiMap(4, 2, generator=torch.Generator().manual_seed(seed)).weight

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


# ReEig and LogEig


def reference(x, f):
    s, u = torch.linalg.eigh(x)
    return (u * f(s)[..., None, :]) @ u.mT


def spread(values, generator):
    u = orthogonal(len(values), generator)
    return (u * torch.tensor(values, dtype=DOUBLE)) @ u.mT


CLUSTERS = [
    [0.01, 0.02, 0.5, 0.7],  # two below
    [0.01, 0.01, 0.5, 0.5],  # repeated on either side
    [0.5, 0.5, 0.5, 0.5],
    [0.01, 0.01, 0.01, 0.01],
    [0.0, -0.3, 2.0, 2.0 + 1e-9],  # not definite, nearly repeated
]


@pytest.mark.parametrize("values", CLUSTERS)
@pytest.mark.parametrize(
    ("kind", "options", "function"),
    [
        (ReEig, {}, lambda s, c: s.clamp_min(0.1 * c)),
        (ReEig, {"maximum": 0.6}, lambda s, c: s.clamp(0.1 * c, 0.6 * c)),
        (LogEig, {"vectorize": False}, lambda s, c: s.clamp_min(0.1 * c).log()),
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_rectification(values, kind, options, function, relative, generator):
    """In parts of the mean eigenvalue, which is the default, or in the input's unit."""
    layer = kind(threshold=0.1, **options, **({} if relative else {"relative": False}))
    x = spread(values, generator)
    unit = sum(values) / len(values) if relative else 1.0
    torch.testing.assert_close(layer(x), reference(x, lambda s: function(s, unit)))
    x = x.requires_grad_()
    assert gradcheck(layer, (x,), eps=1e-6, atol=1e-6)
    assert gradgradcheck(layer, (x,), eps=1e-6, atol=1e-5)


def test_gradient_is_zero_at_and_below_the_threshold(generator):
    x = spread([0.05, 0.1 - 1e-12, 0.5, 0.9], generator).requires_grad_()
    _, u = torch.linalg.eigh(x.detach())
    low = u[:, :2] @ u[:, :2].mT
    ReEig(0.1, relative=False)(x).backward(low)
    assert x.grad.abs().max() < 1e-10
    # as a part of the mean eigenvalue only the unit moves it: 2 * 0.3 tr(dX) / 4
    (grad,) = torch.autograd.grad(ReEig(0.3)(x), x, low)
    torch.testing.assert_close(grad, 0.15 * torch.eye(4, dtype=DOUBLE))


@pytest.mark.parametrize("layer", [ReEig(0.1), LogEig(False, 0.1)])
def test_threshold_is_free_of_units(layer, make_spd):
    x = make_spd(3, n=4, condition=1e3).requires_grad_()
    shift = torch.eye(4, dtype=DOUBLE) * torch.tensor(7.0, dtype=DOUBLE).log()
    y = layer(7 * x)
    expected = layer(x) + shift if isinstance(layer, LogEig) else 7 * layer(x)
    torch.testing.assert_close(y, expected)
    assert gradcheck(layer, (x,), atol=1e-6)


def test_fused_log_equals_the_two_layers(make_spd):
    x = make_spd(4, n=5, condition=1e6).requires_grad_()
    two = LogEig()(ReEig(1e-2)(x))
    one = LogEig(threshold=1e-2)(x)
    torch.testing.assert_close(one, two)
    g = torch.randn_like(one)
    grads = [torch.autograd.grad(y, x, g)[0] for y in (one, two)]
    torch.testing.assert_close(*grads)


def test_fused_log_takes_one_eigendecomposition(make_spd, monkeypatch):
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(
        torch.linalg, "eigh", lambda x: (calls.append(x.shape), eigh(x))[1]
    )
    x = make_spd(4, n=5).requires_grad_()
    LogEig(threshold=1e-2)(x).sum().backward()
    assert len(calls) == 1


def test_logeig_forms(make_spd):
    x = make_spd(2, 3, n=4)
    log = logm(x)
    torch.testing.assert_close(LogEig()(x), vech(log))
    torch.testing.assert_close(LogEig("flat")(x), log.flatten(-2))
    torch.testing.assert_close(LogEig(False)(x), log)
    # an isometry
    torch.testing.assert_close(LogEig()(x).norm(dim=-1), log.flatten(-2).norm(dim=-1))
    assert LogEig().n_features(4) == 10
    assert LogEig("flat").n_features(4) == 16


def test_layers_are_equivariant_under_rotations(make_spd, generator):
    x, q = make_spd(3, n=4, condition=1e4), orthogonal(4, generator)
    for layer in (ReEig(1e-2), ReEig(0.2, True), LogEig(False), LogEig(False, 1e-2)):
        torch.testing.assert_close(layer(q @ x @ q.mT), q @ layer(x) @ q.mT)


# pooling


# residual block


@pytest.mark.parametrize("metric", ["airm", "log_euclidean", "log_cholesky"])
@pytest.mark.parametrize("batch", [(5,), (2, 3)])
def test_residual_moves_by_a_unit_step(metric, batch, make_spd, generator):
    block = SPDResidual(
        4, metric=metric, generator=generator, dtype=DOUBLE, bounds=None
    ).eval()
    x, one = make_spd(*batch, n=4), torch.ones(batch, dtype=DOUBLE)
    y = block(x)
    assert (torch.linalg.eigvalsh(y) > 0).all()
    # of matrices in units of their mean eigenvalue, which log-Cholesky lengths know
    unit = x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    found = block.metric.dist(x / unit, y / unit)
    torch.testing.assert_close(found, one, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(block(1e-9 * x), 1e-9 * y, rtol=1e-9, atol=0)
    block.relative = False
    found = block.metric.dist(x, block(x))
    torch.testing.assert_close(found, one, rtol=1e-6, atol=1e-6)


def test_residual_gradients_and_training(make_spd, generator):
    block = SPDResidual(3, generator=generator, dtype=DOUBLE).eval()
    x = make_spd(2, n=3, condition=20.0).requires_grad_()
    # the clip of the output has its kinks far away
    assert gradcheck(lambda x: block((x + x.mT) / 2), (x,), atol=1e-5)
    block.train()
    block(make_spd(6, n=3)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())
    assert manifold_of(block.basis) == Stiefel()


def test_residual_bounds_eigenvalues(make_spd):
    x = make_spd(8, n=3, condition=1e4)
    unit = x.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    for relative, c in ((True, unit), (False, torch.ones_like(unit))):
        options = {"bounds": (0.5, 1.5), "relative": relative, "dtype": DOUBLE}
        s = torch.linalg.eigvalsh(SPDResidual(3, **options).eval()(x)) / c
        assert (s > 0.5 - 1e-12).all()
        assert (s < 1.5 + 1e-12).all()


# dtypes and bad input


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_in_is_dtype_out(dtype, make_spd):
    x = make_spd(3, n=4).to(dtype)
    layers = [BiMap(4, 3), ReEig(), LogEig(), SPDPool("max"), SPDPool(), SPDResidual(4)]
    for layer in layers:
        y = layer.eval()(x)
        assert y.dtype == dtype, layer
        assert y.isfinite().all()
    assert CovariancePool()(x).dtype == dtype


def test_float32_agrees_with_float64(make_spd, generator):
    x = make_spd(5, n=4, condition=1e3)
    wide = BiMap(4, 3, generator=generator, dtype=DOUBLE)
    narrow = copy.deepcopy(wide).float()
    for layer in (LogEig(threshold=1e-2), ReEig(1e-2)):
        torch.testing.assert_close(
            layer(narrow(x.float())).double(), layer(wide(x)), rtol=1e-4, atol=1e-4
        )


SQUARE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BiMap(3, 4), "n_out: expected at most n_in = 3, found 4"),
        (lambda: BiMap(0, 0), "n_in: expected an integer >= 1, found 0"),
        (lambda: BiMap(4, 2)(SQUARE), r"x: expected matrices of shape \(..., 4, 4\)"),
        (lambda: BiMap(3, 2, 2, 1)(SQUARE), r"x: expected shape \(..., 2, 3, 3\)"),
        (lambda: ReEig(0.0), "threshold: expected a positive number"),
        (lambda: ReEig(1.0, maximum=0.5), "maximum: expected more than"),
        (lambda: ReEig()(torch.zeros(3, 4)), "x: expected square matrices"),
        (lambda: LogEig("vector"), "vectorize: expected one of"),
        (lambda: LogEig()(torch.zeros(3)), "x: expected square matrices"),
        (lambda: CovariancePool(-1.0), "eps: expected a number >= 0, found -1.0"),
        (lambda: CovariancePool()(torch.zeros(3, 1)), "at least 2 times"),
        (lambda: SPDPool("median"), "mode: expected"),
        (lambda: SPDPool(metric="flat"), "metric: expected one of"),
        (lambda: SPDPool()(SQUARE), r"x: expected shape \(..., n_channels, n, n\)"),
        (lambda: SPDPool(kernel_size=2)(SQUARE[None]), "a multiple of 2 channels"),
        (lambda: SPDResidual(3, kernel_size=4), "kernel_size: expected an odd number"),
        (
            lambda: SPDResidual(4)(SQUARE),
            r"x: expected matrices of shape \(..., 4, 4\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("layer", [BiMap(3, 2), ReEig(), LogEig()])
def test_integers_and_complex_numbers_are_refused(layer):
    with pytest.raises(TypeError, match="x: expected floating-point"):
        layer(SQUARE.int())
    with pytest.raises(TypeError, match="real"):
        layer(SQUARE.cfloat())


@pytest.mark.parametrize(
    "layer", [BiMap(3, 2, validate=True), ReEig(validate=True), LogEig(validate=True)]
)
def test_validate_names_the_bad_matrix(layer):
    x = torch.eye(3).repeat(4, 1, 1)
    bad = x.clone()
    bad[2, 0, 0] = -1
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not positive"):
        layer(bad)
    bad = x.clone()
    bad[1, 0, 1] = 0.5
    with pytest.raises(NotOnManifoldError, match=r"x\[1\] is not symmetric"):
        layer(bad)
    bad = x.clone()
    bad[3, 1, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x\[3\] is not finite"):
        layer(bad)


def test_rank_deficient_input_is_rectified():
    x = torch.diag(torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
    y = LogEig(threshold=1e-3)(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.compile
def test_layers_compile_in_one_graph(make_spd):
    net = torch.nn.Sequential(BiMap(4, 3), ReEig(1e-2), LogEig(threshold=1e-2))
    x = make_spd(3, n=4, dtype=torch.float32)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    compiled(x).sum().backward()
    assert net[0].weight.grad.isfinite().all()
