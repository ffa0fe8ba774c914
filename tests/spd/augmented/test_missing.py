"""Epochs in which channels are missing, trials of different duration, MNE's epochs."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from manifoldkit.linalg import is_spd
from manifoldkit.spd import (
    GBWMDM,
    AugmentedCovariances,
    GBWTangentSpace,
    SPDNetClassifier,
    make_acm_classifier,
)
from manifoldkit.spd.augmented.missing import fill, reference_covariance

MISSING = "channels are missing"
ESTIMATORS = [
    *("oas", "lwf", "cov", "corr"),
    pytest.param("hub", marks=pytest.mark.slow),  # an iteration each
]


@pytest.fixture
def data(rng):
    """Correlated channels; one class is louder in the first of them."""
    X, y = rng.standard_normal((30, 4, 120)), np.tile(["a", "b"], 15)
    X = np.einsum("cd,ndt->nct", np.eye(4) + 0.6, X)
    X[y == "a", 0] *= 3
    return X, y


def spoiled(X):
    X = X.copy()
    X[3, 2], X[5, 1, 7], X[5, 3] = np.nan, np.nan, np.nan
    return X


@pytest.mark.parametrize("structure", ["stacked", "toeplitz"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.filterwarnings("ignore:Convergence not reached:UserWarning")
def test_other_epochs_do_not_change_and_matrices_stay_definite(
    data, estimator, structure
):
    if structure == "toeplitz" and estimator not in ("oas", "cov", "corr"):
        return
    X, _ = data
    model = AugmentedCovariances(2, 3, estimator, structure).fit(X)
    expected = model.transform(X)
    match = r"2 of 30 epochs.*X\[3\] channel 2; X\[5\] channels 1, 3"
    with pytest.warns(UserWarning, match=match):
        found = model.transform(spoiled(X))
    kept = np.delete(np.arange(30), [3, 5])
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-12)
    assert is_spd(torch.from_numpy(found)).all()
    there = np.array([0, 1, 3, 4, 5, 7])  # observed rows are those without the channel
    alone = AugmentedCovariances(2, 3, estimator, structure)
    alone = alone.fit_transform(X[3:4, [0, 1, 3]])[0]
    np.testing.assert_allclose(found[3][np.ix_(there, there)], alone, rtol=1e-9)
    if estimator == "corr":
        np.testing.assert_allclose(np.diagonal(found, axis1=1, axis2=2), 1)


def test_fit_transform_is_fit_and_transform(data):
    X = spoiled(data[0])
    model = AugmentedCovariances(2, 1)
    with pytest.warns(UserWarning, match=MISSING):
        together = model.fit_transform(X)
    reference = model.reference_
    with pytest.warns(UserWarning, match=MISSING):
        apart = model.fit(X).transform(X)
    np.testing.assert_allclose(together, apart, rtol=1e-10)
    np.testing.assert_allclose(model.reference_, reference, rtol=1e-10)


def test_filling_in_is_the_expectation_under_the_reference(rng):
    """Simulated: mean of C given its observed block, for Gaussian samples."""
    a = rng.standard_normal((3, 6))
    R = torch.from_numpy(a @ a.T)
    factor = torch.linalg.cholesky(R)
    z = factor @ torch.from_numpy(rng.standard_normal((3, 400_000)))
    observed = torch.tensor([0, 2])
    filled = fill((z[observed] @ z[observed].mT / 400_000)[None], observed, R)[0]
    torch.testing.assert_close(filled, z @ z.mT / 400_000, rtol=0.02, atol=0.02)
    torch.testing.assert_close(fill(R[None, :2, :2], torch.arange(2), R)[0], R)


def test_reference_without_any_complete_epoch(rng):
    """Each epoch misses one channel; pairs are all seen somewhere."""
    a = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    X = np.einsum("cd,ndt->nct", a, rng.standard_normal((40, 4, 400)))
    complete = AugmentedCovariances(estimator="cov").fit(X).reference_
    holes = X.copy()
    holes[np.arange(40), np.arange(40) % 4] = np.nan
    model = AugmentedCovariances(estimator="cov").fit(holes)
    error = np.abs(model.reference_ - complete).max() / np.abs(complete).max()
    assert error < 0.1
    parts = [(torch.eye(2)[None].double(), torch.tensor([0, 2]))]
    assert reference_covariance(parts, 3)[1].tolist() == [True, False, True]


@pytest.mark.parametrize("classifier", ["svm", "lr", "mdm", "fgmdm", "gbwmdm"])
def test_classifiers_go_on(data, classifier):
    X, y = data
    with pytest.warns(UserWarning, match=MISSING):
        model = make_acm_classifier(2, 1, classifier).fit(spoiled(X), y)
    with pytest.warns(UserWarning, match=MISSING):
        score = model.score(spoiled(X), y)
    assert score > 0.9
    with pytest.raises(ValueError, match=r"X\[3, 2\] is not finite"):
        make_acm_classifier(classifier=classifier, missing="raise").fit(spoiled(X), y)


def test_what_cannot_be_filled_in_is_named(data):
    X, _ = data
    gone, never = X.copy(), X.copy()
    gone[4], never[:, 1] = np.nan, np.nan
    model = AugmentedCovariances().fit(X)
    for call in (model.transform, AugmentedCovariances().fit):
        with pytest.raises(ValueError, match=r"X\[4\] has no channel without NaN"):
            call(gone)
    with pytest.raises(ValueError, match=r"channel 1 is missing .* in all training"):
        AugmentedCovariances().fit(never)
    infinite = spoiled(X)
    infinite[6, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"X\[6, 0\] is not finite"):
        model.transform(infinite)
    with pytest.raises(ValueError, match="missing: expected one of"):
        AugmentedCovariances(missing="drop").fit(X)


# trials of different duration


def cut(X):
    return [x[:, : 80 + 2 * (i % 10)] for i, x in enumerate(X)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.filterwarnings("ignore:Convergence not reached:UserWarning")
def test_each_trial_is_as_alone(data, estimator):
    trials = cut(data[0])
    model = AugmentedCovariances(2, 2, estimator).fit(trials)
    found = model.transform(trials)
    for C, trial in zip(found, trials, strict=True):
        np.testing.assert_allclose(C, model.transform(trial[None])[0], rtol=1e-12)
    column = np.empty(30, dtype=object)
    for i, trial in enumerate(trials):
        column[i] = trial
    np.testing.assert_array_equal(model.transform(column), found)
    assert (model.n_channels_, model.n_times_) == (4, 80)
    trials[7] = np.where(np.arange(4)[:, None] == 1, np.nan, trials[7])
    with pytest.warns(UserWarning, match=r"X\[7\] channel 1$"):
        again = model.transform(trials)
    np.testing.assert_allclose(np.delete(again, 7, 0), np.delete(found, 7, 0))


@pytest.mark.parametrize("classifier", ["svm", "mdm", "gbwmdm"])
def test_cross_validation_of_trials(data, classifier):
    X, y = data
    model = make_acm_classifier(2, 1, classifier)
    assert cross_val_score(model, cut(X), y, cv=3).mean() > 0.9
    search = make_acm_classifier("auto", 1, classifier, orders=(1, 2), cv=2)
    assert search.fit(cut(X), y).score(cut(X), y) > 0.9


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda t: [t[0], t[1][:3]], r"equally many channels, found 4 in X\[0\] and 3"),
        (lambda t: [t[0], t[1][0]], r"found X\[1\] of shape \(\d+,\)"),
        (lambda t: [t[0], [[1.0, 2.0], [3.0]]], r"X\[1\]: expected a trial of shape"),
        (lambda t: [t[0], np.array(t[1], str)], r"X\[1\]: expected numbers"),
        (lambda t: [t[0], t[1] * 1j], r"X\[1\]: real values only"),
        (lambda t: [t[0], t[1][:, :3]], r"X\[1\]: .*T = 3 samples|T = 3 samples"),
        (lambda t: [t[0], t[1] * np.inf], r"X\[1, 0\] is not finite"),
    ],
)
def test_bad_trials_are_named(data, make, text):
    trials = make(cut(data[0]))
    with pytest.raises((ValueError, TypeError), match=text) as error:
        AugmentedCovariances(2, 3).fit(trials)
    assert "inhomogeneous" not in str(error.value)


def test_number_kinds(data):
    X = np.round(10 * data[0])
    expected = AugmentedCovariances(2, 1).fit_transform(X)
    for kind in (np.int16, np.float16, object, np.longdouble):
        found = AugmentedCovariances(2, 1).fit_transform(X.astype(kind))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(
        AugmentedCovariances(2, 1).fit_transform(X.tolist()), expected
    )


# MNE's epochs, data frames


class StandIn:
    """What an ``mne.Epochs`` does as far as scikit-learn looks."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return StandIn(self.data[np.atleast_1d(index)])

    def get_data(self):
        return self.data


def mne_epochs(X):
    mne = pytest.importorskip("mne")
    info = mne.create_info(X.shape[1], 100.0, "eeg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mne.EpochsArray(X, info, verbose="error")


@pytest.mark.parametrize("make", [StandIn, mne_epochs])
def test_cross_validation_of_mne_epochs(data, make):
    X, y = data
    epochs, model = make(1e-5 * X), make_acm_classifier(2, 1)
    expected = cross_val_score(model, 1e-5 * X, y, cv=3)
    np.testing.assert_array_equal(cross_val_score(model, epochs, y, cv=3), expected)
    assert model.fit(epochs, y).score(epochs, y) > 0.9


def test_network_on_mne_epochs_and_trials(data):
    X, y = data
    net = SPDNetClassifier(input="signal", max_epochs=2, random_state=0)
    for Z in (StandIn(X), cut(X)):
        assert net.fit(Z, y).predict(Z).shape == (30,)
    with pytest.raises(ValueError, match=r"square|n_matrices"):
        SPDNetClassifier(max_epochs=1).fit(cut(X), y)


def test_names_of_mne_channels(data):
    X, y = data
    epochs = mne_epochs(1e-5 * X)
    names = zip(epochs.ch_names, ["F3", "F4", "C3", "C4"], strict=True)
    epochs.rename_channels(dict(names))
    step = AugmentedCovariances(2, 3).fit(epochs)
    expected = ["F3_t0", "F4_t0", "C3_t0", "C4_t0", "F3_t3", "F4_t3", "C3_t3", "C4_t3"]
    assert step.get_feature_names_out().tolist() == expected
    assert step.get_feature_names_out(list("abcd"))[0] == "a_t0"
    expected = step.transform(1e-5 * X)  # an array has no names
    np.testing.assert_array_equal(step.transform(epochs), expected)
    np.testing.assert_array_equal(step.transform([epochs[:3], epochs[3:]]), expected)
    with pytest.raises(ValueError, match="with 'F3' at place 0, found 'C4'"):
        step.transform(epochs.copy().reorder_channels(["C4", "C3", "F4", "F3"]))
    with pytest.raises(ValueError, match="expected 4 channels as in fit"):
        step.transform(epochs.copy().pick(["F3", "F4"]))
    model = make_acm_classifier(2, 3).fit(epochs, y)
    assert model[0].get_feature_names_out()[1] == "F4_t0"
    assert AugmentedCovariances().fit(X).channel_names_ is None


def test_a_list_of_both_is_named(data):
    X, _ = data
    with pytest.raises(TypeError, match=r"a list of both, such as X\[1\], ndarray"):
        AugmentedCovariances().fit([StandIn(X[:1]), X[1]])


def test_names_through_pipelines_and_columns(data):
    pd = pytest.importorskip("pandas")
    X, _ = data
    step = AugmentedCovariances(2, 3).fit(X)
    names = step.get_feature_names_out(["F3", "F4", "C3", "C4"])
    assert names.tolist()[:5] == ["F3_t0", "F4_t0", "C3_t0", "C4_t0", "F3_t3"]
    assert step.get_feature_names_out()[-1] == "x3_t3"
    assert AugmentedCovariances().fit(X).get_feature_names_out(["eeg"])[1] == "eeg_1"
    with pytest.raises(ValueError, match="names of 4 channels, found 3"):
        step.get_feature_names_out(["a", "b", "c"])
    tail = make_pipeline(AugmentedCovariances(), GBWTangentSpace())
    table = tail.set_output(transform="pandas").fit_transform(X)
    assert list(table.columns) == tail.get_feature_names_out().tolist()
    frame = pd.DataFrame({"eeg": list(X), "age": np.arange(30.0)})
    columns = ColumnTransformer(
        [
            ("eeg", make_pipeline(AugmentedCovariances(), GBWTangentSpace()), ["eeg"]),
            ("age", FunctionTransformer(feature_names_out="one-to-one"), ["age"]),
        ]
    )
    table = columns.set_output(transform="pandas").fit_transform(frame)
    assert list(table.columns) == columns.get_feature_names_out().tolist()
    assert table.shape == (30, 11)
    for classifier in ("svm", "mdm", "gbwmdm"):
        front = make_acm_classifier(classifier=classifier)
        front.fit(X, data[1])
        if classifier == "svm":
            assert front[:-1].get_feature_names_out()[0] == "tangentspace0"
        else:
            assert front.transform(X).shape == (30, 2)
    made = make_acm_classifier().set_output(transform="pandas").fit(X, data[1])
    assert made.score(X, data[1]) > 0.9
    assert GBWMDM().fit(step.transform(X), data[1]).get_feature_names_out()[1]
