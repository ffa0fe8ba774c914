import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pyriemann.estimation import Covariances, TimeDelayCovariances
from sklearn.exceptions import NotFittedError

from manifoldkit.linalg import is_spd
from manifoldkit.spd.augmented import (
    AugmentedCovariances,
    augmented_covariance,
    delay_embed,
)


@pytest.fixture
def X():
    """Smooth epochs with an offset far above their variation."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((9, 4, 206))
    return 1e3 + sum(noise[..., k : k + 200] for k in range(4))


def stacked(X, order, lag, trim="full"):
    z = delay_embed(X, order, lag, trim=trim)
    return z.reshape(len(X), order * X.shape[1], -1)


def spoiled(X, value):
    X = X.copy()
    X[3, 2, 5] = value
    return X


ORDER_LAG = [(1, 1), (3, 4), (5, 2)]


@pytest.mark.parametrize(("order", "lag"), ORDER_LAG)
@pytest.mark.parametrize("estimator", ["cov", "scm", "corr", "oas", "lwf"])
@pytest.mark.parametrize("trim", ["full", "moabb"])
def test_block_updates_equal_pyriemann(X, order, lag, estimator, trim):
    expected = Covariances(estimator).transform(stacked(X, order, lag, trim))
    found = augmented_covariance(
        torch.from_numpy(X), order, lag, estimator=estimator, trim=trim
    )
    assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(("order", "lag"), ORDER_LAG)
def test_moabb_parity(X, order, lag):
    features = pytest.importorskip("moabb.pipelines.features")
    peer = features.AugmentedDataset(order=order, lag=lag)
    expected = Covariances("cov").transform(peer.transform(X - 1e3))
    found = AugmentedCovariances(order, lag, "cov", trim="moabb").fit_transform(X - 1e3)
    assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_time_delay_covariances_are_circular(X):
    X = X - X.mean(-1, keepdims=True)
    peer = TimeDelayCovariances(delays=2, estimator="cov").transform(X)
    ours = AugmentedCovariances(2, 1, "cov").fit_transform(X)
    # its blocks come latest first, and it pairs the last sample with the first
    rolled = np.concatenate([X, np.roll(X, 1, axis=-1)], axis=1)
    assert_allclose(peer, Covariances("cov").transform(rolled))
    swap = np.r_[4:8, 0:4]
    assert np.abs(peer - ours[:, swap][:, :, swap]).max() > 1e-3
    earlier = np.concatenate([X[..., :-1], X[..., 1:]], axis=1)
    assert_allclose(ours, Covariances("cov").transform(earlier), atol=1e-12)


def test_scaling_the_channels_scales_the_matrix(X):
    scale = np.array([1e-6, 1.0, 10.0, 1e4])[:, None]
    plain = AugmentedCovariances(3, 2, "cov").fit_transform(X)
    scaled = AugmentedCovariances(3, 2, "cov").fit_transform(scale * X)
    d = np.tile(scale[:, 0], 3)
    # the offset of 1000 costs three digits
    assert_allclose(scaled, d[:, None] * plain * d, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("estimator", ["sch", "tyl"])
def test_other_pyriemann_estimators(X, estimator):
    found = AugmentedCovariances(2, 3, estimator).fit_transform(X)
    assert_allclose(found, Covariances(estimator).transform(stacked(X, 2, 3)))


def test_callable_estimator_and_its_parameters(X):
    found = AugmentedCovariances(2, 3, np.cov).fit_transform(X)
    assert_allclose(found, AugmentedCovariances(2, 3, "cov").fit_transform(X))
    params = {"assume_centered": True}
    found = AugmentedCovariances(2, 3, "oas", estimator_params=params).fit_transform(X)
    expected = Covariances("oas", **params).transform(stacked(X, 2, 3))
    assert_allclose(found, expected)


def test_shrinkage_is_towards_the_scaled_identity(X):
    plain = AugmentedCovariances(2, 1, "cov").fit_transform(X)
    found = AugmentedCovariances(2, 1, "cov", shrinkage=0.25).fit_transform(X)
    mu = np.trace(plain, axis1=1, axis2=2)[:, None, None] / 8
    assert_allclose(found, 0.75 * plain + 0.25 * mu * np.eye(8), rtol=1e-12)


def test_default_is_well_conditioned_on_a_narrow_band():
    t = np.arange(640) / 160
    rng = np.random.default_rng(0)
    X = np.sin(2 * np.pi * 10 * t + rng.uniform(0, 6, (5, 6, 1)))
    X = X + 0.05 * rng.standard_normal(X.shape)
    C = AugmentedCovariances(10, 2).fit_transform(X)
    assert np.linalg.cond(C).max() < 1e5
    assert is_spd(torch.from_numpy(C)).all()


def test_float32_epochs_are_summed_in_float64(X):
    X = X.astype(np.float32)
    C = AugmentedCovariances(3, 2, "cov").fit_transform(X)
    assert C.dtype == np.float32
    exact = AugmentedCovariances(3, 2, "cov").fit_transform(X.astype(float))
    assert_allclose(C, exact, rtol=1e-6)


def test_epochs_of_another_length(X):
    model = AugmentedCovariances(3, 4).fit(X)
    assert (model.n_channels_, model.n_times_) == (4, 200)
    assert model.transform(X[:, :, :50]).shape == (9, 12, 12)
    with pytest.raises(ValueError, match=r"T = 8 samples, order = 3, lag = 4"):
        model.transform(X[:, :, :8])
    with pytest.raises(ValueError, match="expected 4 channels as in fit"):
        model.transform(X[:, :3])


def test_one_epoch(X):
    model = AugmentedCovariances(3, 4).fit(X[:1])
    assert_allclose(model.transform(X)[:1], model.transform(X[:1]), rtol=1e-12)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: x.__setitem__((2, 1), 7.0), r"X\[2\]: channel 1 is flat"),
        (
            lambda x: x.__setitem__((2, 3), -2 * x[2, 0]),
            r"X\[2\]: channel 3 duplicates channel 0",
        ),
        (
            lambda x: x.__setitem__(2, x[2] - x[2].mean(0)),
            r"X\[2\]: its channels are linearly dependent \(an average reference",
        ),
        (
            lambda x: x.__setitem__((2, 0), np.arange(200.0) % 2),
            r"X\[2\]: its delay vectors are linearly dependent",
        ),
    ],
    ids=["flat", "duplicate", "reference", "periodic"],
)
def test_singular_channels_are_named_and_repaired(X, spoil, match):
    spoil(X)
    with pytest.raises(ValueError, match=match):
        AugmentedCovariances(4, 2, "cov", on_singular="raise").fit_transform(X)
    model = AugmentedCovariances(4, 2, "cov")
    with pytest.warns(UserWarning, match=match + r".*shrunk by 0.001 \(1 of 9"):
        C = model.fit_transform(X)
    assert is_spd(torch.from_numpy(C)).all()
    untouched = np.delete(np.arange(9), 2)
    exact = augmented_covariance(torch.from_numpy(X), 4, 2, estimator="cov")
    assert_allclose(C[untouched], exact[untouched], rtol=1e-12)
    # an estimator that shrinks needs no repair and no warning
    C = AugmentedCovariances(4, 2, "oas").fit_transform(X)
    assert is_spd(torch.from_numpy(C)).all()
    C = AugmentedCovariances(4, 2, "cov", shrinkage=0.01).fit_transform(X)
    assert is_spd(torch.from_numpy(C)).all()


def test_epoch_without_variation(X):
    X[4] = 3.0
    with pytest.raises(ValueError, match=r"X\[4\] has no variation"):
        AugmentedCovariances(2, 1).fit_transform(X)


@pytest.mark.parametrize("estimator", ["cov", "scm", "tyl"])
def test_fewer_delay_vectors_than_dimensions(X, estimator):
    short = X[:, :, :14]
    match = r"T = 14, order = 3, lag = 2 give T_eff = 10 .* at least 13; use est"
    with pytest.raises(ValueError, match=match):
        AugmentedCovariances(3, 2, estimator).fit(short)
    C = AugmentedCovariances(3, 2, "oas").fit_transform(short)
    assert is_spd(torch.from_numpy(C)).all()
    C = AugmentedCovariances(3, 2, "cov", shrinkage=0.1).fit_transform(short)
    assert is_spd(torch.from_numpy(C)).all()
    # the Toeplitz form pads the ends, so that it stays regular
    C = AugmentedCovariances(3, 2, "cov", structure="toeplitz").fit_transform(short)
    assert is_spd(torch.from_numpy(C)).all()


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"order": 0}, ValueError, "order: expected an integer >= 1, found 0"),
        ({"lag": 1.5}, TypeError, "lag: expected an integer >= 1, found 1.5"),
        ({"order": 9, "lag": 40}, ValueError, "T_eff = -120"),
        ({"order": "best"}, ValueError, "order: expected one of .'auto'"),
        ({"structure": "hankel"}, ValueError, "structure: expected one of"),
        ({"trim": None}, ValueError, "trim: expected one of"),
        ({"on_singular": "ignore"}, ValueError, "on_singular"),
        ({"shrinkage": 2}, ValueError, r"shrinkage: expected a number in \[0, 1\]"),
        ({"estimator": 3}, TypeError, "estimator: expected the name"),
        ({"estimator": "none"}, ValueError, "none"),
        ({"estimator": "lwf", "structure": "toeplitz"}, ValueError, "autocovariances"),
        (
            {"structure": "toeplitz", "estimator_params": {"assume_centered": True}},
            ValueError,
            "estimator_params: structure='toeplitz' takes none",
        ),
        ({"order": "auto", "selection": "x"}, ValueError, "method: expected one of"),
    ],
)
def test_bad_parameters_show_in_fit(X, params, error, match):
    model = AugmentedCovariances(**params)
    with pytest.raises(error, match=match):
        model.fit(X)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda X: X[0], r"n_epochs, n_channels, n_times\), found shape"),
        (lambda X: X[:0], "at least one epoch"),
        (lambda X: spoiled(X, np.nan), r"X\[3, 2\] is not finite"),
        (lambda X: spoiled(X, np.inf), r"X\[3, 2\] is not finite"),
    ],
)
def test_bad_epochs(X, spoil, match):
    model = AugmentedCovariances(missing="raise")
    with pytest.raises(ValueError, match=match):
        model.fit(spoil(X))
    with pytest.raises(ValueError, match=match):
        model.fit(X).transform(spoil(X))


def test_scikit_learn_manners(X):
    model = AugmentedCovariances(2, 3)
    with pytest.raises(NotFittedError):
        model.transform(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, np.zeros(3))
    model.fit(X)
    again = pickle.loads(pickle.dumps(model))
    assert_allclose(again.transform(X), model.transform(X), rtol=0, atol=0)
    assert model.set_output(transform="pandas") is model
    assert isinstance(model.transform(X), np.ndarray)


@pytest.mark.parametrize("selection", ["mdop", "bic", "uniform"])
def test_automatic_choice(X, selection):
    model = AugmentedCovariances(
        "auto", "auto", selection=selection, max_order=4, max_lag=3, random_state=0
    ).fit(X)
    assert 1 <= model.order_ <= 4
    assert 1 <= model.lag_ <= 3
    assert model.selection_.method == selection
    assert model.transform(X).shape == (9, 4 * model.order_, 4 * model.order_)
    fixed = AugmentedCovariances("auto", 3, selection=selection, random_state=0).fit(X)
    assert fixed.lag_ == 3


def test_read_only_epochs(X):
    # joblib maps large arrays read-only into its workers
    X.flags.writeable = False
    before = X.copy()
    AugmentedCovariances(2, 3).fit_transform(X)
    assert np.array_equal(X, before)
