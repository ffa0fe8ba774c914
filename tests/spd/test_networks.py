"""SPDNet with every normalization, and the network on raw epochs."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.manifolds import Stiefel, manifold_of
from manifoldkit.optim import build_optimizer
from manifoldkit.spd import BiMap, ConvSPDNet, LogEig, ReEig, SPDNet, SPDResidual

DOUBLE = torch.float64
NAMES = ["gbw", "bw", "airm", "airm-mean", "log_euclidean", "log_cholesky", None]


def net(*args, **options):
    options.setdefault("generator", torch.Generator().manual_seed(0))
    return SPDNet(*args, dtype=options.pop("dtype", DOUBLE), **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [(6,), (2, 3)])
def test_shapes_gradients_and_statistics(name, batch, make_spd):
    model = net(5, (4, 3), 2, batchnorm=name)
    x = make_spd(*batch, n=5).requires_grad_()
    assert model(x).shape == (*batch, 2)
    assert model.features(x).shape == (*batch, 6)
    model(x).square().sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
    assert x.grad.isfinite().all()
    model.eval()
    assert model(x[0]).shape == (*batch[1:], 2)
    single = model(x.flatten(0, -3)[0])  # one matrix, no batch dimension
    assert single.shape == (2,)
    torch.testing.assert_close(single, model(x).flatten(0, -2)[0])
    assert model(x.detach().flatten(0, -3)[:0]).shape == (0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_training_reduces_the_loss_on_the_manifolds(name, make_spd, generator):
    model = net(5, (4,), 2, batchnorm=name)
    x = make_spd(32, n=5)
    y = (x[:, 0, 0] > x[:, 1, 1]).long()
    optimizer = build_optimizer(model, "adam", lr=2e-2, manifold_lr=2e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    w = model.layers[0].weight[0, 0]
    torch.testing.assert_close(w.mT @ w, torch.eye(4, dtype=DOUBLE))
    for p in model.parameters():
        manifold = manifold_of(p)
        ok, reason = manifold.check_point_on_manifold(
            p, explain=True, atol=1e-6, rtol=1e-6
        )
        assert ok, reason


def test_order_of_layers():
    kinds = {
        position: [
            type(m).__name__ for m in net(5, (4, 3), 2, position=position).layers
        ]
        for position in ("after_bimap", "after_reeig", "before_bimap")
    }
    bn = "GBWBatchNorm"
    # the last ReEig is inside LogEig where nothing stands between them
    assert kinds["after_bimap"] == ["BiMap", bn, "ReEig", "BiMap", bn]
    assert kinds["after_reeig"] == ["BiMap", "ReEig", bn, "BiMap", "ReEig", bn]
    assert kinds["before_bimap"] == [bn, "BiMap", "ReEig", bn, "BiMap"]
    assert net(5, (4,), 2).log.threshold == 1e-4
    assert net(5, (4,), 2, position="after_reeig").log.threshold is None
    assert net(5, (4,), 2, threshold=None).log.threshold is None


def test_equals_the_layers_one_by_one(make_spd):
    model = net(5, (4, 3), 2, batchnorm=None, threshold=0.05)
    x = make_spd(7, n=5, condition=100.0)
    first, _, second = model.layers
    sizes = x.diagonal(dim1=-2, dim2=-1).mean(-1)
    rectify = ReEig(0.05, relative=False)
    y = LogEig()(rectify(second(rectify(first(x / sizes.median())))))
    torch.testing.assert_close(model(x), model.head(y))


@pytest.mark.parametrize("power", [0.5, 1.5, -1.0])
@pytest.mark.parametrize("options", [{}, {"position": "after_reeig"}])
@pytest.mark.parametrize("threshold", [0.3, None])
def test_power_of_the_normalisation_goes_into_the_logarithm(
    power, options, threshold, make_spd, monkeypatch
):
    """The last power, clip and logarithm share one eigendecomposition."""
    options = {**options, "power": power, "rescale": False}
    model = net(5, (4,), 2, threshold=threshold or 1e-4, **options).eval()
    if threshold is None:
        model.log.threshold = None
    x = make_spd(20, n=5, condition=100.0).requires_grad_()
    calls, eigh = [], torch.linalg.eigh

    def count(x):
        calls.append(x.shape[:-2].numel() == 20)
        return eigh(x)

    monkeypatch.setattr(torch.linalg, "eigh", count)
    fused = model.features(x)
    number = sum(calls)
    calls.clear()
    plain = model.log(model.layers(x))
    if power != 0.5 and (power > 0 or model.log.threshold is None):
        assert number == sum(calls) - 1
    torch.testing.assert_close(fused, plain)
    grads = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (fused, plain)]
    torch.testing.assert_close(*grads)


def test_gradcheck_of_the_whole_network(make_spd):
    model = net(4, (3,), 2, batchnorm="gbw", batchnorm_options={"stats_grad": True})
    x = make_spd(4, n=4, condition=5.0).requires_grad_()

    def run(x):
        return model((x + x.mT) / 2)

    assert gradcheck(run, (x,), atol=1e-5)
    model.eval()
    assert gradcheck(run, (x,), atol=1e-5)


def test_channels(make_spd):
    model = net(5, (4, 3), 2, channels=(2, 4, 3))
    x = make_spd(6, 2, n=5)
    assert model(x).shape == (6, 2)
    assert model.features(x).shape == (6, 18)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 2, 5, 5\)"):
        model(x[:, :1])


def test_residual_blocks_and_flat_features(make_spd):
    model = net(5, (4,), 3, n_residual=2, vectorize="flat", threshold=None)
    assert [type(m) for m in model.layers][-2:] == [SPDResidual] * 2
    y = model(make_spd(6, n=5))
    assert y.shape == (6, 3)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_without_a_head_it_returns_features(make_spd):
    x = make_spd(4, n=5)
    model = net(5, (4,), None)
    torch.testing.assert_close(model.eval()(x), model.features(x))
    matrix = net(5, (4,), None, vectorize=False).eval()
    assert matrix(x).shape == (4, 16)


def test_init_from_data_centers_the_batch(make_spd):
    """The metric and bias start at the mean, so outputs start inside the domain."""
    model = net(5, (4,), 2)
    x = 100 * make_spd(20, n=5, condition=1e3)
    assert model.init_from_data(x) is model
    assert model.training
    layer = model.layers[1]
    assert float(layer.domain_margin(model.layers[0](x / model.scale)).min()) > 0
    assert (layer.metric - torch.eye(4, dtype=DOUBLE)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["gbw", "airm", None])
def test_state_dict_deepcopy_and_pickle(name, make_spd):
    model = net(5, (4,), 2, batchnorm=name)
    x = make_spd(8, n=5)
    model(x)  # moves the running statistics
    model.eval()
    other = net(5, (4,), 2, batchnorm=name, generator=torch.Generator().manual_seed(1))
    other.load_state_dict(model.state_dict())
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin.eval()(x), model(x))
        assert manifold_of(twin.layers[0].weight) == Stiefel()


def test_reset_parameters_starts_anew(make_spd):
    model, fresh = net(5, (4,), 2), net(5, (4,), 2)
    model(make_spd(8, n=5))
    model.reset_parameters(torch.Generator().manual_seed(0))
    for key, value in fresh.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=key)


@pytest.mark.parametrize(
    "make",
    [
        lambda g: net(5, (4,), 2, n_residual=1, generator=g),
        lambda g: ConvSPDNet(4, 3, n_spatial=9, n_filters=5, dims=(4,), generator=g),
    ],
)
def test_a_generator_draws_all_weights(make):
    one, two, other = (
        make(torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    for key, value in one.items():
        assert torch.equal(two[key], value), key
    drawn = [k for k in one if k.endswith(("layers.0.weight", "head.weight", "basis"))]
    drawn += [k for k in one if k.endswith(("spatial.weight", "field.0.bias"))]
    assert len(drawn) >= 3
    for key in drawn:
        assert not torch.equal(other[key], one[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype, make_spd):
    model = net(5, (4,), 2, dtype=torch.float32)
    assert model(make_spd(6, n=5).to(dtype)).dtype == dtype


def test_ill_conditioned_input_in_float64(make_spd):
    model = net(8, (6,), 2, threshold=1e-12)
    x = make_spd(16, n=8, condition=1e8)
    model(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_conv_net_on_epochs(generator):
    model = ConvSPDNet(
        4, 3, n_spatial=9, n_filters=5, kernel_size=6, dims=(4,), dtype=DOUBLE
    )
    x = torch.randn(7, 4, 30, dtype=DOUBLE, generator=generator)
    assert model(x).shape == (7, 3)
    assert model.features(x).shape == (7, 10)
    model(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    matrices = model.matrices(x)
    assert matrices.shape == (7, 5, 5)
    assert (torch.linalg.eigvalsh(matrices) > 0).all()
    layered = copy.deepcopy(model)
    layered.filters.folded = False
    torch.testing.assert_close(model.eval()(x), layered.eval()(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SPDNet(5, (6,), 2), "dims: expected sizes that do not increase"),
        (lambda: SPDNet(5, (3, 4), 2), "dims: expected sizes that do not increase"),
        (lambda: SPDNet(5, 3, 2), "dims: expected a sequence of sizes"),
        (lambda: SPDNet(5, (3,), 0), "n_classes: expected an integer >= 1"),
        (lambda: SPDNet(5, (3,), 2, position="end"), "position: expected one of"),
        (lambda: SPDNet(5, (3,), 2, channels=(1,)), "channels: expected 2 numbers"),
        (lambda: SPDNet(5, (3,), 2, batchnorm="layer"), "expected one of"),
        (lambda: SPDNet(5, (3,), 2, power=0.0), "power"),
        (lambda: SPDNet(5, (3,), 2, momentum=2.0), "momentum"),
        (lambda: LogEig(threshold=0.1)(torch.eye(3), -1.0), "power: expected a pos"),
        (lambda: SPDNet(5, (3,), 2)(torch.eye(4)), r"shape \(..., 5, 5\)"),
        (lambda: SPDNet(5, (3,), 2)(torch.eye(5)[None]), "batch|matri"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_validate_names_the_bad_matrix():
    model = SPDNet(3, (2,), 2, validate=True)
    x = torch.eye(3).repeat(4, 1, 1)
    x[2, 1, 1] = -1
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not positive definite"):
        model(x)
    with pytest.raises(TypeError, match="x: expected floating-point"):
        model(torch.eye(3, dtype=torch.int64))


@pytest.mark.compile
@pytest.mark.parametrize("name", ["gbw", None])
def test_compiles(name, make_spd):
    model = net(4, (3,), 2, batchnorm=name, dtype=torch.float32).eval()
    x = make_spd(5, n=4, dtype=torch.float32)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


def test_bimap_comes_first():
    assert isinstance(net(5, (4,), 2).layers[0], BiMap)


def test_trains_as_a_plain_skorch_module(make_spd):
    skorch = pytest.importorskip("skorch")
    x = make_spd(16, n=4).float().numpy()
    y = torch.arange(16).remainder(2).numpy()
    model = skorch.NeuralNetClassifier(
        SPDNet, module__n_in=4, module__dims=(3,), module__n_classes=2,
        criterion=nn.CrossEntropyLoss, optimizer=build_optimizer, lr=1e-2,
        optimizer__param_groups=[("head*", {"lr": 0.5})], max_epochs=2, verbose=0,
        train_split=None,
    )  # fmt: skip
    model.fit(x, y)
    rates = {(g["name"], g["lr"]) for g in model.optimizer_.param_groups}
    assert {("euclidean", 0.5), ("compact", 1e-2), ("manifold", 1e-2)} <= rates
    weight = model.module_.layers[0].weight[0, 0]
    torch.testing.assert_close(weight.mT @ weight, torch.eye(3))
