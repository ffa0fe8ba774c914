"""The unit of the data, and the company of an item, do not change an answer."""

import pytest
import torch
from torch import nn

from manifoldkit.optim import build_optimizer
from manifoldkit.spd import (
    ConvSPDNet,
    CovariancePool,
    LogEig,
    ReEig,
    SPDNet,
    SPDNetClassifier,
    SPDPool,
    SPDResidual,
    make_batchnorm,
)
from manifoldkit.spd.layers.filters import SpatioTemporalFilters

DOUBLE = torch.float64
NORMS = ["gbw", "bw", "airm", "airm-mean", "lie", "log_euclidean", "log_cholesky"]
UNITS = [1e-18, 1e-12, 1e9]


def options(seed=0):
    return {"generator": torch.Generator().manual_seed(seed), "dtype": DOUBLE}


@pytest.fixture
def batch(generator):
    signals = torch.randn(12, 4, 30, dtype=DOUBLE, generator=generator)
    signals[:6, 0] *= 2
    return signals


def covariances(signals):
    return signals @ signals.mT / signals.shape[-1]


def alone(name):
    layers = make_batchnorm(name, 4, dtype=DOUBLE), ReEig(), LogEig()
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Linear(10, 2, dtype=DOUBLE))


def trained(model, x, steps=3):
    targets = (torch.arange(len(x)) >= len(x) // 2).long()
    optimizer = build_optimizer(model, "adam", lr=1e-2, manifold_lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), targets).backward()
        optimizer.step()
    return model.eval()


NETWORKS = {
    **{
        f"net {name}": lambda name=name: SPDNet(
            4, (3,), 2, batchnorm=name, n_residual=int(name == "gbw"), **options()
        )
        for name in [*NORMS, None]
    },
    "power": lambda: SPDNet(4, (3,), 2, power=0.5, **options()),
    **{f"alone {name}": lambda name=name: alone(name) for name in NORMS},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_free_of_the_unit(name, batch):
    x = covariances(batch)
    here = trained(NETWORKS[name](), x)(x)
    assert here.std() > 1e-3
    for c in UNITS:
        there = trained(NETWORKS[name](), c * x)(c * x)
        torch.testing.assert_close(there, here, rtol=1e-7, atol=1e-7)


def test_epochs_in_volts(batch):
    def make():
        return ConvSPDNet(4, 2, n_spatial=3, n_filters=3, kernel_size=4, dims=(2,),
                          **options())  # fmt: skip

    here = trained(make(), batch)(batch)
    for c in (1e-9, 1e-6, 1e9):
        there = trained(make(), c * batch)(c * batch)
        torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_network_divides_extreme_scales_out(dtype, batch):
    x = covariances(batch).to(dtype)
    for c in (1e-36, 1e36) if dtype == torch.float32 else (1e-200, 1e200):
        net = SPDNet(4, (3,), 2, dtype=dtype)
        net(c * x).sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        assert net.eval()(c * x).isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [ReEig(0.3), ReEig(0.3, maximum=1.2), SPDPool(), SPDPool("max"), CovariancePool(),
     SPDResidual(4, **options()).eval()],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("c", [1e-18, 1e-9, 1e9])
def test_layers_are_homogeneous(layer, c, batch):
    signals = isinstance(layer, CovariancePool)
    x = batch[..., :3] if signals else covariances(batch)
    y = layer(x)
    torch.testing.assert_close(
        layer(c * x) / (c**2 if signals else c), y, rtol=1e-10, atol=1e-12
    )


def test_the_logarithm_of_the_unit_is_an_offset(batch):
    x, c = covariances(batch), 1e-12
    offset = torch.tensor(c, dtype=DOUBLE).log() * torch.eye(4, dtype=DOUBLE)
    for layer in (LogEig(False), LogEig(False, threshold=0.3)):
        torch.testing.assert_close(layer(c * x), layer(x) + offset)


@pytest.mark.parametrize("name", ["gbw", "log_cholesky", None])
def test_company_does_not_matter(name, batch):
    x = covariances(batch)
    net = SPDNet(4, (3,), 2, batchnorm=name, **options())
    for steps in (0, 3):  # before and after training
        model = trained(net.train(), x, steps)
        y, loud = model(x), x.clone()
        loud[1:] *= 1e6
        torch.testing.assert_close(model(loud)[0], y[0])
        torch.testing.assert_close(model(x[0]), y[0])


def test_scale_is_learned_once_and_saved(batch):
    x = covariances(batch)
    net = SPDNet(4, (3,), 2, **options())
    assert net.scale == 0
    net(x)
    scale = net.scale.clone()
    torch.testing.assert_close(scale, x.diagonal(dim1=-2, dim2=-1).mean(-1).median())
    net(100 * x)
    assert net.scale == scale
    twin = SPDNet(4, (3,), 2, **options(1))
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(twin.eval()(x), net.eval()(x))
    net.reset_parameters()
    assert net.scale == 0
    net.init_from_data(x)
    assert net.scale == scale


def test_weights_of_the_first_version_keep_their_meaning(batch):
    """They hold no scale: what they were learned on was in the unit of the input."""
    x = covariances(batch)
    old = trained(SPDNet(4, (3,), 2, rescale=False, **options()), x)
    state = old.state_dict()
    assert "scale" not in state
    new = SPDNet(4, (3,), 2, **options(1))
    new.load_state_dict(state)
    torch.testing.assert_close(new.eval()(x), old(x))
    for make in (
        lambda **o: make_batchnorm("gbw", 4, dtype=DOUBLE, **o),
        lambda **o: SPDResidual(4, **o, **options()),
    ):
        state = make(relative=False).state_dict()
        for key in state._metadata:
            state._metadata[key]["version"] = 1
        layer = make()
        layer.load_state_dict(state)
        assert layer.relative is False
    filters = SpatioTemporalFilters(4, 3, 2, 3)
    state = filters.state_dict()
    del state["scale"]
    filters.load_state_dict(state)
    assert filters.scale == 1


@pytest.mark.parametrize("c", [1e-18, 1e9])
def test_classifier(c, batch):
    X, y = covariances(batch).numpy(), ["a"] * 6 + ["b"] * 6
    model = SPDNetClassifier(max_epochs=3, batch_size=6, random_state=0)
    here, there = (model.fit(k * X, y).predict_proba(k * X) for k in (1.0, c))
    torch.testing.assert_close(
        *map(torch.from_numpy, (there, here)), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize(
    "make",
    [
        *(lambda name=name: make_batchnorm(name, 4, dtype=DOUBLE) for name in NORMS),
        lambda: SPDResidual(4, **options()),
        lambda: SPDNet(4, (3,), 2, **options()),
        lambda: SpatioTemporalFilters(4, 3, 2, 3, **options()),
    ],
)
def test_a_bad_item_in_training_is_named_and_harms_nothing(make, batch):
    module = make()
    x = batch if isinstance(module, SpatioTemporalFilters) else covariances(batch)
    module(x)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    for value in (torch.nan, torch.inf):
        bad = x.clone()
        bad[3, 1, 1] = value
        with pytest.raises(ValueError, match=r"x\[3\] is not finite"):
            module(bad)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("condition", [6, 7, 8, 10, 14])
def test_ill_conditioned_float32_stays_finite(condition, generator):
    q = torch.linalg.qr(torch.randn(64, 6, 6, dtype=DOUBLE, generator=generator))[0]
    s = torch.logspace(0, -condition, 6, dtype=DOUBLE)
    x = ((q * s) @ q.mT).float()
    modules = [LogEig(), SPDPool(), SPDResidual(6), SPDNet(6, (4,), 2, power=0.5)]
    modules += [make_batchnorm(name, 6) for name in NORMS if name != "lie"]
    for module in modules:
        leaf = ((x + x.mT) / 2).requires_grad_()
        y = module(leaf)
        y.sum().backward()
        assert y.isfinite().all(), module
        assert leaf.grad.isfinite().all(), module


def test_exact_small_eigenvalues_are_kept():
    x = torch.diag(torch.tensor([1.0, 1e-10, 1e-20]))
    expected = x.diagonal().log()
    torch.testing.assert_close(LogEig(False)(x).diagonal(), expected)
    assert LogEig()(torch.ones(3, 3)).isfinite().all()
    assert LogEig()(torch.diag(torch.tensor([1.0, 0.5, -0.5]))).isnan().any()


def test_precisions_are_converted(batch):
    x = covariances(batch)
    for module in (
        SPDNet(4, (3,), 2), SPDResidual(4), make_batchnorm("gbw", 4),
        ConvSPDNet(4, 2, n_spatial=3, n_filters=3, kernel_size=4, dims=(2,)),
    ):  # fmt: skip
        z = batch if isinstance(module, ConvSPDNet) else x
        for own in (torch.float32, DOUBLE):
            for given in (torch.float16, torch.float32, DOUBLE):
                assert module.to(own)(z.to(given)).dtype == given
        with pytest.raises(TypeError, match="x: expected floating-point"):
            module(z.long())


def test_empty_batches():
    empty = torch.zeros(0, 4, 4)
    for module in (SPDNet(4, (3,), 2), SPDResidual(4), make_batchnorm("gbw", 4)):
        assert module.eval()(empty).shape[0] == 0
        with pytest.raises(ValueError, match="x: expected"):
            module.train()(empty)
