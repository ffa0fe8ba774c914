import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.signal import butter, sosfiltfilt

from manifoldkit.spd.augmented.selection import DelayEmbedding
from manifoldkit.spd.embedding_selection import METHODS, select_delay_embedding

# Workers that have imported torch since their first task restart to give memory back;
# as an error this warning would end joblib's manager thread and the test would hang.
pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped while some jobs")


def var_epochs(n_epochs=6, n_times=800, lag=1, seed=0):
    """Epochs of a two-channel VAR of order 3 at the given lag."""
    rng = np.random.default_rng(seed)
    a = [
        [[0.4, 0.2], [0.0, 0.3]],
        [[-0.3, 0.0], [0.2, -0.2]],
        [[0.3, -0.2], [0.1, 0.4]],
    ]
    start = 3 * lag
    x = rng.standard_normal((n_epochs, 2, n_times + 200 + start))
    for t in range(start, x.shape[2]):
        for k, coefficients in enumerate(a, 1):
            x[:, :, t] += x[:, :, t - k * lag] @ np.transpose(coefficients)
    return x[:, :, -n_times:]


def band_epochs(n_epochs=6, n_channels=3, n_times=640, band=(8, 12), seed=0):
    rng = np.random.default_rng(seed)
    sos = butter(4, band, "bandpass", fs=160, output="sos")
    return sosfiltfilt(sos, rng.standard_normal((n_epochs, n_channels, n_times)))


@pytest.mark.parametrize("method", ["bic", "hq"])
@pytest.mark.parametrize("lag", [1, 3])
def test_criteria_recover_the_order_of_a_var(method, lag):
    X = var_epochs(lag=lag)
    chosen = select_delay_embedding(X, method, lag=lag)
    assert (chosen.order, chosen.lag, chosen.method) == (3, lag, method)
    orders, values = chosen.curves[method]
    assert orders[values.argmin()] == 3
    assert chosen.per_trial["order"].shape == (6,)


def test_criteria_penalties_are_ordered():
    curves = {
        m: select_delay_embedding(var_epochs(), m).curves[m][1]
        for m in ("aic", "hq", "bic")
    }
    # log T > 2 log log T > 2 at T = 800
    assert (np.diff(curves["bic"] - curves["hq"]) > 0).all()
    assert (np.diff(curves["hq"] - curves["aic"]) > 0).all()
    step = (np.log(800) - 2) * 4 / 800
    np.testing.assert_allclose(np.diff(curves["bic"] - curves["aic"]), step, rtol=1e-9)


def test_criteria_stand_an_average_reference():
    X = var_epochs()
    X = np.concatenate([X, -X.sum(1, keepdims=True)], axis=1)
    assert select_delay_embedding(X, "bic").order == 3


def test_afnn_lag_is_a_quarter_period():
    X = band_epochs(n_epochs=12, band=(4.2, 4.8))  # 35.6 samples a period
    chosen = select_delay_embedding(X, "afnn", max_lag=20, random_state=0)
    assert 8 <= chosen.lag <= 10
    assert chosen.curves["mutual_information"][0][0] == 0
    assert chosen.per_trial["cao_e1"].shape[0] == 12


def test_uniform_spans_a_period_of_the_band_edge():
    X = band_epochs()
    chosen = select_delay_embedding(X, "uniform", band_edge=8 / 160)
    # the autocorrelation of a 10 Hz rhythm falls to 1/e after about a fifth of 16
    assert 2 <= chosen.lag <= 4
    assert chosen.order == np.ceil(20 / chosen.lag)
    estimated = select_delay_embedding(X, "uniform")
    assert abs(estimated.order - chosen.order) <= 1


def test_mdop_answers_within_the_bounds():
    X = band_epochs(band=(8, 35))
    chosen = select_delay_embedding(X, "mdop", max_order=50, max_lag=50, random_state=0)
    assert 2 <= chosen.order <= 10
    assert 2 <= chosen.lag <= 30
    mean = chosen.per_trial["order"].mean()
    assert chosen.order == int(mean + 0.5)
    bounded = select_delay_embedding(X, "mdop", max_order=2, max_lag=3, random_state=0)
    assert (bounded.order, bounded.lag) <= (2, 3)


@pytest.mark.parametrize("method", ["mdop", "afnn"])
def test_deterministic_whatever_the_number_of_jobs(method):
    X = band_epochs(n_epochs=3)
    a = select_delay_embedding(X, method, random_state=7)
    b = select_delay_embedding(X, method, random_state=7, n_jobs=2)
    for name, values in a.per_trial.items():
        assert_array_equal(values, b.per_trial[name])
    assert (a.order, a.lag) == (b.order, b.lag)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "grid"])
def test_laws_of_every_method(method):
    X = band_epochs(n_epochs=3)
    chosen = select_delay_embedding(X, method, random_state=0)
    assert isinstance(chosen, DelayEmbedding)
    assert isinstance(chosen.order, int)
    assert isinstance(chosen.lag, int)
    # units and offsets of the channels do not matter
    scaled = X * np.array([1e-6, 1.0, 1e3])[:, None] + 5e-3
    again = select_delay_embedding(scaled, method, random_state=0)
    assert (again.order, again.lag) == (chosen.order, chosen.lag)
    if method != "uniform":
        # a flat channel of one epoch is left out
        X[1, 2] = 4.0
        select_delay_embedding(X, method, random_state=0)
    kept = select_delay_embedding(X, method, order=2, lag=5, random_state=0)
    assert (kept.order, kept.lag) == (2, 5)
    # half of the epoch remains
    short = select_delay_embedding(X[:, :, :40], method, lag=10, random_state=0)
    assert (short.order - 1) * 10 <= 20


def test_grid_finds_the_lag_that_tells_the_classes_apart():
    rng = np.random.default_rng(0)
    y = np.tile(["feet", "hands"], 15)
    noise = rng.standard_normal((30, 2, 204))
    sign = np.where(y == "feet", 1, -1)[:, None, None]
    X = noise[..., 4:] + 0.6 * sign * noise[..., :-4]  # differs at lag 4 alone
    chosen = select_delay_embedding(
        X, "grid", y=y, max_order=2, max_lag=4, classifier="mdm", random_state=0
    )
    assert (chosen.order, chosen.lag) == (2, 4)
    orders, lags, scores = chosen.curves["score"]
    assert scores.shape == (len(orders), len(lags)) == (2, 4)
    assert scores[1, 3] == scores.max() > 0.9 > scores[0].max()


def test_grid_leaves_out_pairs_that_do_not_fit():
    X, y = band_epochs(n_epochs=6, n_times=40), [0, 1] * 3
    chosen = select_delay_embedding(
        X, "grid", y=y, max_order=4, max_lag=12, order=None, classifier="mdm"
    )
    scores = chosen.curves["score"][2]
    assert np.isfinite(scores[1, 11])
    assert np.isnan(scores[3, 11])


@pytest.mark.parametrize("method", ["mdop", "afnn", "bic", "uniform", "grid"])
def test_plot(method):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    X, y = band_epochs(n_epochs=6, n_times=100), [0, 1] * 3
    chosen = select_delay_embedding(
        X, method, y=y, max_order=2, max_lag=2, classifier="mdm", random_state=0
    )
    try:
        for curve in chosen.curves:
            ax = chosen.plot(curve=curve)
            assert ax.get_xlabel()
            assert chosen.plot(ax=ax, curve=curve) is ax
            ax.figure.canvas.draw()
        with pytest.raises(ValueError, match="curve: expected one of"):
            chosen.plot(curve="none")
    finally:
        plt.close("all")


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"method": "best"}, ValueError, "method: expected one of"),
        ({"method": "grid"}, ValueError, "y: method='grid' needs the labels"),
        ({"max_order": 0}, ValueError, "max_order: expected an integer >= 1, found 0"),
        ({"max_lag": 2.5}, TypeError, "max_lag: expected an integer >= 1, found 2.5"),
        ({"max_delay": 0}, ValueError, "max_delay: expected an integer >= 1, found 0"),
        (
            {"n_reference": 0},
            ValueError,
            "n_reference: expected an integer >= 1, found 0",
        ),
        ({"order": 0}, ValueError, "order: expected an integer >= 1, found 0"),
        ({"lag": "auto"}, TypeError, "lag: expected an integer >= 1, found 'auto'"),
        ({"method": "uniform", "band_edge": 8}, ValueError, "band_edge: expected cyc"),
        ({"order": 90, "lag": 10, "method": "uniform"}, ValueError, "T_eff = -250"),
    ],
)
def test_bad_input(params, error, match):
    with pytest.raises(error, match=match):
        select_delay_embedding(band_epochs(), **params)


def test_bad_epochs():
    X = band_epochs()
    with pytest.raises(ValueError, match="at least 20 samples"):
        select_delay_embedding(X[:, :, :10])
    X[2] = 1.0
    with pytest.raises(ValueError, match=r"X\[2\] has no variation"):
        select_delay_embedding(X)
    X[1, 0, 3] = np.inf
    with pytest.raises(ValueError, match=r"X\[1, 0\] is not finite"):
        select_delay_embedding(X)
    X[1] = np.nan
    with pytest.raises(ValueError, match=r"X\[1\] has no channel without NaN"):
        select_delay_embedding(X)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "grid"])
def test_missing_channels_and_trials_of_different_duration(method):
    X = band_epochs(n_epochs=4)
    options = {"max_order": 4, "max_lag": 4, "random_state": 0}
    # a missing channel is left out as a flat one is
    gone, flat = X.copy(), X.copy()
    gone[1, 2, 5], flat[1, 2] = np.nan, 4.0
    a, b = (select_delay_embedding(Z, method, **options) for Z in (gone, flat))
    assert (a.order, a.lag) == (b.order, b.lag)
    trials = [x[:, : 100 + 10 * i] for i, x in enumerate(X)]
    chosen = select_delay_embedding(trials, method, **options)
    assert 1 <= chosen.order <= 4
    assert 1 <= chosen.lag <= 4
    equal = select_delay_embedding(list(X), method, **options)
    assert equal.order == select_delay_embedding(X, method, **options).order
