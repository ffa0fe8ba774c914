"""Bad input of the SPD functions, layers and estimators, a test for each case.

Every error names the argument, what was found and what was expected.
"""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import symmetrize
from manifoldkit.spd import (
    GBWMDM,
    AugmentedCovariances,
    BiMap,
    GBWBatchNorm,
    GBWTangentSpace,
    LogEig,
    ReEig,
    SPDNet,
    SPDNetClassifier,
    SPDPool,
    SPDResidual,
    gbw_distance,
    gbw_exp,
    gbw_geodesic,
    gbw_log,
    gbw_mean,
    gbw_metric,
    make_batchnorm,
)

NORMS = ["gbw", "bw", "airm", "airm-mean", "lie", "log_euclidean", "log_cholesky"]
CLASSIFIERS = {
    "gbwmdm": GBWMDM(),
    "tangent": GBWTangentSpace(),
    "spdnet": SPDNetClassifier(max_epochs=1, random_state=0),
}
LABELS = np.array(["a", "b"] * 3)
all_norms = pytest.mark.parametrize("name", NORMS)
all_estimators = pytest.mark.parametrize("name", CLASSIFIERS)


def norm(name, n=4, **options):
    return make_batchnorm(name, n, **{"dtype": torch.float64, **options})


def fit(name, X, y=LABELS, **options):
    return CLASSIFIERS[name].fit(X, y, **options)


def changed(x, index, value):
    x = x.copy() if isinstance(x, np.ndarray) else x.clone()
    x[index] = value
    return x


@pytest.fixture
def x(make_spd):
    return make_spd(6)


@pytest.fixture
def X(x):
    return x.numpy()


# NaN and infinity


@all_norms
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_finite_in_a_layer(name, value, make_spd):
    """The index is that of the user's tensor, also with leading dimensions."""
    x = changed(make_spd(2, 3), (1, 2, 0, 0), value)
    with pytest.raises(ValueError, match=r"x\[1, 2\] is not finite: it contains NaN"):
        norm(name)(x)
    with pytest.raises(ValueError, match=r"x\[1, 2\] is not finite"):
        norm(name, n_channels=3)(x)
    with pytest.raises(ValueError, match=r"x\[1, 2\] is not finite"):
        norm(name).init_from_data(x)


@all_estimators
def test_not_finite_in_an_estimator(name, X):
    with pytest.raises(ValueError, match=r"X\[4\] is not finite: it contains NaN"):
        fit(name, changed(X, (4, 1, 1), np.nan))


# asymmetric


@all_norms
@pytest.mark.parametrize("training", [True, False])
def test_asymmetric_in_a_layer(name, training, x):
    layer = norm(name).train(training)
    expected = norm(name).train(training)(x)
    tiny = changed(x, (2, 0, 1), x[2, 0, 1] + 1e-8)
    torch.testing.assert_close(layer(tiny), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not symmetric: max\|x"):
        layer(changed(x, (2, 0, 1), x[2, 0, 1] + 1e-2))
    narrow = norm(name, dtype=torch.float32).train(training)
    narrow(changed(x, (2, 0, 1), x[2, 0, 1] + 1e-5).float())
    with pytest.raises(NotOnManifoldError, match=r"x\[2\] is not symmetric"):
        narrow(changed(x, (2, 0, 1), x[2, 0, 1] + 1e-2).float())


@all_estimators
def test_asymmetric_in_an_estimator(name, X):
    with pytest.raises(ValueError, match=r"X\[2\] is not symmetric.*expected at most"):
        fit(name, changed(X, (2, 0, 1), X[2, 0, 1] + 1e-2))


# not positive definite


@all_estimators
def test_not_positive_definite_in_an_estimator(name, X):
    message = r"X\[3\] is not positive definite: smallest eigenvalue -.*shrinkage.*c \*"
    with pytest.raises(ValueError, match=message):
        fit(name, changed(X, 3, -X[3]))


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_a_mean_that_is_not_positive_definite(power, x):
    """Without validation a bad mean is noticed, with the same advice."""
    layer = GBWBatchNorm(4, power=power, dtype=torch.float64)
    message = r"(mean of )?x(\[0\])? is not positive definite: smallest .*shrinkage"
    with pytest.raises(NotOnManifoldError, match=message):
        layer(-x)
    assert torch.equal(layer.running_mean, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    "layer",
    [*NORMS, BiMap(4, 2, validate=True), SPDNet(4, (3,), 2, validate=True)],
    ids=str,
)
def test_not_positive_definite_in_a_layer_that_validates(layer, x):
    layer = norm(layer, validate=True) if isinstance(layer, str) else layer
    with pytest.raises(NotOnManifoldError, match=r"x\[3\] is not positive definite"):
        layer(changed(x, 3, -x[3]))


@pytest.mark.parametrize("layer", [ReEig(validate=True), LogEig(validate=True)])
def test_not_semidefinite_in_a_rectification_that_validates(layer, x):
    with pytest.raises(NotOnManifoldError, match=r"x\[3\] is not positive"):
        layer(changed(x, 3, -x[3]))


def test_not_finite_in_a_layer_without_statistics():
    """NaN stays with its matrix; no error tells of repeated eigenvalues."""
    x = torch.eye(3).repeat(4, 2, 1, 1)
    x[1, 0, 0, 0] = torch.nan
    pooled = SPDPool("max")(x)
    assert pooled[1].isnan().any()
    assert pooled[[0, 2, 3]].isfinite().all()
    moved = SPDResidual(3).eval()(x[:, 0])
    assert moved[1].isnan().any()
    assert moved[[0, 2, 3]].isfinite().all()


def test_sizes_may_be_numpy_integers():
    layer = GBWBatchNorm(np.int64(3), mean_iterations=np.int64(2))
    assert layer(torch.eye(3).repeat(4, 1, 1)).shape == (4, 3, 3)
    with pytest.raises(ValueError, match="n_in: expected an integer >= 1, found None"):
        BiMap(None, 2)


# positive semidefinite


def test_singular_matrices_are_allowed_but_not_as_a_base(x):
    singular = torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    distance = gbw_distance(x[0], singular)
    # tr G + tr X - 2 tr (G^1/2 X G^1/2)^1/2 by singular values of the factors
    factor = torch.linalg.cholesky(x[0])
    cross = torch.linalg.svdvals(factor.mT @ singular.sqrt()).sum()
    expected = (torch.trace(x[0]) + 3 - 2 * cross).sqrt()
    torch.testing.assert_close(distance, expected)
    v = gbw_log(x[0], singular)
    torch.testing.assert_close(
        gbw_exp(x[0], 0.5 * v), gbw_geodesic(x[0], singular, 0.5)
    )
    layer = GBWBatchNorm(4, dtype=torch.float64)
    batch = changed(x, 0, singular).requires_grad_()
    z = layer(batch)
    z.square().sum().backward()
    assert z.isfinite().all()
    assert batch.grad.isfinite().all()
    for call in (
        lambda: gbw_log(singular, x[0], validate=True),
        lambda: gbw_log(x[1], x[0], singular, validate=True),
        lambda: gbw_distance(x[0], x[1], singular, validate=True),
        lambda: GBWBatchNorm(4, dtype=torch.float64)(singular.expand(3, 4, 4)),
    ):
        with pytest.raises(NotOnManifoldError, match="is not positive definite"):
            call()


# shapes


@all_norms
def test_shapes_in_a_layer(name, x, make_spd):
    layer = norm(name)
    for bad, message in (
        (make_spd(5, n=3), r"\(..., 4, 4\), found shape \(5, 3, 3\)"),
        (x[..., :3], r"square matrices.*\(6, 4, 3\)"),
        (x[0, 0], r"square matrices.*\(4,\)"),
    ):
        with pytest.raises(ValueError, match=f"x: expected .*{message}"):
            layer(bad)
    with pytest.raises(ValueError, match=r"\(..., 3, 4, 4\), found \(6, 4, 4\)"):
        norm(name, n_channels=3)(x)


def test_shapes_in_functions(x, make_spd):
    for call in (
        lambda: gbw_distance(x, make_spd(6, n=3)),
        lambda: gbw_log(x, x, make_spd(n=3)),
        lambda: gbw_mean(x, M=make_spd(n=3)),
    ):
        with pytest.raises(ValueError, match=r"4, 4.*3, 3|3, 3.*4, 4"):
            call()


@all_estimators
def test_shapes_in_an_estimator(name, X):
    for bad in (X[0], X[:, :3], X[None]):
        with pytest.raises(ValueError, match=r"X: expected SPD matrices of shape"):
            fit(name, bad)
    model = fit(name, X)
    with pytest.raises(ValueError, match=r"\(n_matrices, 4, 4\) as in fit, found"):
        model.transform(X[:, :3, :3])


# dtypes


def test_integers_are_refused_in_functions_and_layers(x):
    for bad in (torch.eye(4, dtype=torch.int64).expand(3, 4, 4), x > 0):
        for call in map(norm, NORMS):
            with pytest.raises(TypeError, match="expected floating-point"):
                call(bad)


@all_estimators
def test_integers_are_converted_in_an_estimator(name):
    X = np.array([np.eye(4, dtype=int) * k for k in range(1, 7)])
    a, b = (fit(name, Z).transform(Z) for Z in (X, X.astype(float)))
    np.testing.assert_array_equal(a, b)


@all_norms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype, make_spd):
    x = make_spd(5, dtype=dtype)
    x = ((x + x.mT) / 2).requires_grad_()
    z = norm(name, dtype=torch.float32)(x)
    z.sum().backward()
    assert z.dtype == x.grad.dtype == dtype
    expected = norm(name, dtype=torch.float32)(x.detach().float())
    torch.testing.assert_close(z.float(), expected, rtol=2e-2, atol=2e-2)


@all_norms
def test_float32_is_native(name, x):
    layer = norm(name, dtype=torch.float32)
    z = layer(x.float())
    assert z.dtype == layer.running_mean.dtype == torch.float32
    torch.testing.assert_close(z.double(), norm(name)(x), rtol=1e-4, atol=1e-4)


def test_complex_is_refused(x, X):
    for call in map(norm, NORMS):
        with pytest.raises(TypeError, match="real"):
            call(x.to(torch.complex128))
    for name in CLASSIFIERS:
        with pytest.raises(TypeError, match="X: real values only"):
            fit(name, X.astype(complex))


# numbers of matrices


@all_norms
def test_one_matrix_in_training(name, x):
    for one in (x[0], x[:1]):
        with pytest.raises(ValueError, match=r"more than 1 matrix.*found 1; call eval"):
            norm(name)(one)
        z = norm(name).eval()(one)
        torch.testing.assert_close(z.reshape(4, 4), norm(name).eval()(x)[0])


@all_norms
def test_empty_batches(name, x):
    assert norm(name).eval()(x[:0]).shape == (0, 4, 4)
    with pytest.raises(ValueError, match=r"more than 1 matrix.*found 0"):
        norm(name)(x[:0])
    assert gbw_distance(x[:0], x[:0]).shape == (0,)
    assert gbw_log(x[:0], x[:0]).shape == (0, 4, 4)
    with pytest.raises(ValueError, match="at least"):
        gbw_mean(x[:0])
    for estimator in CLASSIFIERS:
        with pytest.raises(ValueError, match="X: expected at least one matrix"):
            fit(estimator, x[:0].numpy(), [])


def test_identical_matrices_at_the_identity():
    """The variance is zero and all eigenvalues are equal: exact all the same."""
    layer = GBWBatchNorm(2, dtype=torch.float64, stats_grad=True, eps=0.1)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1).requires_grad_()

    def run(x, *values):
        values = [symmetrize(v) if v.ndim else v for v in values]
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, state, (symmetrize(x),))

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert gradcheck(run, (x, *values), rtol=1e-6, atol=1e-6)
    assert gradgradcheck(run, (x, *values), rtol=1e-4, atol=1e-5)


def test_numbers_of_classes(X):
    y = np.array(["a"] * 5 + ["b"])
    for name in ("gbwmdm", "spdnet"):
        assert set(fit(name, X, y).predict(X)) <= {"a", "b"}
        with pytest.raises(ValueError, match=r"at least 2 classes, found.*'a'|one cl"):
            fit(name, X, np.array(["a"] * 6))


# delay embedding, weights, settings


def test_embeddings_that_do_not_fit(rng):
    X = rng.standard_normal((6, 4, 40))
    for order, lag, n in ((3, 20, 0), (8, 2, 26)):
        for model in (
            AugmentedCovariances(order, lag, estimator="cov"),
            SPDNetClassifier(input="signal", order=order, lag=lag, estimator="cov"),
        ):
            message = rf"T = 40, order = {order}, lag = {lag} give T_eff = {n}"
            message = message if n else rf"{order}.*{lag}.*40|40.*{order}.*{lag}"
            with pytest.raises(ValueError, match=message):
                model.fit(X, LABELS)
    shrunk = AugmentedCovariances(8, 2, estimator="oas").fit(X).transform(X)
    assert np.linalg.eigvalsh(shrunk).min() > 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([-1.0, 1, 1, 1, 1, 1], "-1"),
        ([0.0] * 6, "zero"),
        ([np.nan, 1, 1, 1, 1, 1], "NaN"),
        ([1.0] * 5, "5"),
    ],
)
def test_weights(weights, message, x, X):
    weights = np.array(weights)
    with pytest.raises(ValueError, match=message):
        gbw_mean(x, torch.from_numpy(weights))
    for name in CLASSIFIERS:
        with pytest.raises(ValueError, match=f"(?i){message}"):
            fit(name, X, sample_weight=weights)
    for name in NORMS:
        with pytest.raises(ValueError, match=rf"weights.*{message}|weights.*\(5,\)"):
            norm(name)(x, torch.from_numpy(weights))


def test_one_weight_that_counts(x):
    weights = torch.tensor([0.0, 0, 1, 0, 0, 0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"1 matrix of positive weight.*found 1"):
        norm("gbw")(x, weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GBWBatchNorm(3, power=0.0), "power: expected.*found 0"),
        (lambda: GBWBatchNorm(3, power=1e-4), "power: expected"),
        (lambda: make_batchnorm("airm", 3, power=0.0), "power: expected"),
        (lambda: gbw_metric(power=0.0), "power: expected"),
        (lambda: gbw_metric(np.diag([1.0, -1.0])), "M.*not positive definite"),
        (lambda: GBWBatchNorm(3, momentum=1.5), r"momentum: .*\[0, 1\], found 1.5"),
        (lambda: make_batchnorm("lie", 3, momentum=-0.1), "momentum: .*found -0.1"),
    ],
)
def test_settings_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call()
