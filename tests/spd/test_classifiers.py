"""SPDNetClassifier: scikit-learn's manners, dtypes, saving, and where it runs."""

import json
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from manifoldkit.exceptions import MissingExtraError
from manifoldkit.manifolds import Stiefel, manifold_of
from manifoldkit.spd import AugmentedCovariances, SPDNetClassifier

FAST = {"max_epochs": 3, "random_state": 0}


@pytest.fixture
def epochs(rng):
    """Two classes of epochs that differ in the strength of two channels."""
    y = np.array(["feet", "hands"] * 30)
    X = rng.standard_normal((60, 4, 80))
    X[y == "feet", 0] *= 2.5
    X[y == "hands", 1] *= 2.5
    return X, y


@pytest.fixture
def matrices(epochs):
    X, y = epochs
    return AugmentedCovariances().fit_transform(X), y


@pytest.mark.parametrize("kind", ["covariance", "signal"])
def test_learns_what_is_in_the_data(kind, epochs, matrices):
    X, y = matrices if kind == "covariance" else epochs
    model = SPDNetClassifier((3,), input=kind, max_epochs=25, random_state=0)
    model.fit(X[:40], y[:40])
    assert model.score(X[40:], y[40:]) > 0.9
    losses = [row["train_loss"] for row in model.history_]
    assert losses[-1] < losses[0] / 2
    assert [row["epoch"] for row in model.history_] == list(range(1, 26))
    assert list(model.classes_) == ["feet", "hands"]
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert (model.predict(X) == model.classes_[proba.argmax(1)]).all()
    assert ((model.decision_function(X) > 0) == (proba[:, 1] > 0.5)).all()


def test_signal_equals_covariances_in_front(epochs):
    X, y = epochs
    inside = SPDNetClassifier(input="signal", order=2, lag=3, **FAST).fit(X, y)
    outside = make_pipeline(
        AugmentedCovariances(order=2, lag=3), SPDNetClassifier(**FAST)
    ).fit(X, y)
    np.testing.assert_array_equal(inside.predict_proba(X), outside.predict_proba(X))
    assert inside.n_channels_ == 4
    assert inside.net_.module_.n_in == 8


@pytest.mark.parametrize("name", ["gbw", "bw", "airm", "log_euclidean", None])
def test_normalizations(name, matrices):
    X, y = matrices
    model = SPDNetClassifier(batchnorm=name, **FAST).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


def test_weights_stay_on_their_manifold_and_move(matrices):
    X, y = matrices
    model = SPDNetClassifier(**FAST).fit(X, y)
    weight = model.net_.module_.layers[0].weight
    assert manifold_of(weight) == Stiefel()
    w = weight[0, 0].detach()
    torch.testing.assert_close(w.mT @ w, torch.eye(2, dtype=w.dtype))
    first = model._seed
    start = SPDNetClassifier(max_epochs=1, random_state=0, manifold_lr=1e-12).fit(X, y)
    assert start._seed == first
    begun = start.net_.module_.layers[0].weight
    assert (weight - begun).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_data(dtype, matrices):
    X, y = matrices
    model = SPDNetClassifier(**FAST).fit(X.astype(dtype), y)
    for output in (model.predict_proba(X), model.transform(X)):
        assert output.dtype == dtype
    assert (
        next(model.net_.module_.parameters()).dtype
        == torch.from_numpy(np.zeros(1, dtype)).dtype
    )


def test_units_do_not_matter(matrices):
    X, y = matrices
    one, two = (SPDNetClassifier(**FAST).fit(c * X, y) for c in (1.0, 1e-12))
    np.testing.assert_allclose(
        one.predict_proba(X), two.predict_proba(1e-12 * X), rtol=1e-6
    )


def test_same_seed_same_fit_and_the_global_state_is_untouched(matrices):
    X, y = matrices
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, two = (SPDNetClassifier(**FAST).fit(X, y).predict_proba(X) for _ in "ab")
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, two)
    other = SPDNetClassifier(max_epochs=3, random_state=1).fit(X, y)
    assert not np.array_equal(other.predict_proba(X), one)


def test_partial_fit_warm_start_and_fit(matrices):
    X, y = matrices
    model = SPDNetClassifier(batch_size=60, **FAST)
    with pytest.raises(ValueError, match="classes: expected in the first call"):
        model.partial_fit(X, y)
    for _ in range(3):
        model.partial_fit(X, y, classes=["hands", "feet"])
    # full batches: only their order, so rounding, can differ
    whole = SPDNetClassifier(batch_size=60, **FAST).fit(X, y)
    np.testing.assert_allclose(
        model.predict_proba(X), whole.predict_proba(X), rtol=1e-8
    )
    assert len(model.history_) == 3
    with pytest.raises(ValueError, match="y: expected labels out of"):
        model.partial_fit(X, np.full(60, "tongue"))
    warm = SPDNetClassifier(batch_size=60, warm_start=True, **FAST).fit(X, y)
    loss = warm.history_[-1]["train_loss"]
    warm.fit(X, y)
    assert len(warm.history_) == 6
    assert warm.history_[-1]["train_loss"] < loss
    cold = SPDNetClassifier(**FAST).fit(X, y).fit(X, y)
    assert len(cold.history_) == 3


def test_early_stopping_keeps_the_best_weights(epochs):
    X, _ = epochs
    y = np.array(["a", "b"] * 30)[np.random.default_rng(1).permutation(60)]  # noise
    model = SPDNetClassifier(
        input="signal",
        max_epochs=60,
        lr=0.1,
        early_stopping=True,
        patience=3,
        validation_fraction=0.3,
        random_state=0,
    ).fit(X, y)
    losses = [row["valid_loss"] for row in model.history_]
    assert len(losses) < 60
    assert len(losses) - np.argmin(losses) >= 3
    assert {"valid_accuracy", "train_loss", "dur"} <= set(model.history_[0])
    # the weights are those of the best epoch: recompute its loss
    from sklearn.model_selection import train_test_split

    _, held = train_test_split(
        np.arange(60),
        test_size=0.3,
        stratify=np.searchsorted(model.classes_, y),
        random_state=model._seed,
    )
    found = log_loss(y[held], model.predict_proba(X[held]), labels=model.classes_)
    np.testing.assert_allclose(found, min(losses), rtol=1e-6)


def test_class_and_sample_weights(matrices):
    X, y = matrices
    few = np.r_[np.flatnonzero(y == "feet"), np.flatnonzero(y == "hands")[:3]]
    plain = SPDNetClassifier(**FAST).fit(X[few], y[few])
    balanced = SPDNetClassifier(class_weight="balanced", **FAST).fit(X[few], y[few])
    share = [m.predict_proba(X)[:, 1].mean() for m in (plain, balanced)]
    assert share[1] > share[0]
    # a class without weight is not learned
    weights = (y == "feet").astype(float)
    model = SPDNetClassifier(max_epochs=20, random_state=0).fit(X, y, weights)
    assert (model.predict(X) == "feet").mean() > 0.75
    by_class = SPDNetClassifier(class_weight={"feet": 2, "hands": 1}, **FAST)
    by_sample = SPDNetClassifier(**FAST).fit(X, y, np.where(y == "feet", 2.0, 1.0))
    np.testing.assert_array_equal(
        by_class.fit(X, y).predict_proba(X), by_sample.predict_proba(X)
    )


def test_a_last_batch_of_one_is_left_out(matrices):
    X, y = matrices
    model = SPDNetClassifier(batch_size=20, **FAST).fit(X[:41], y[:41])
    assert np.isfinite(model.history_[-1]["train_loss"])
    assert model.predict(X[:1]).shape == (1,)


@pytest.mark.parametrize("kind", ["covariance", "signal"])
def test_saving(kind, epochs, matrices, tmp_path):
    X, y = matrices if kind == "covariance" else epochs
    model = SPDNetClassifier(
        (3, 2), input=kind, class_weight={"feet": 2.0, "hands": 1.0}, **FAST
    ).fit(X, y)
    path = tmp_path / "model.v1"
    model.save(path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "model.v1.json",
        "model.v1.safetensors",
    ]
    loaded = SPDNetClassifier.load(path)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert list(loaded.predict(X)) == list(model.predict(X))
    assert loaded.history_ == model.history_
    expected = model.get_params() | {"dims": [3, 2]}
    assert loaded.get_params() == expected
    loaded.partial_fit(X, y)
    assert len(loaded.history_) == 4
    content = json.loads((tmp_path / "model.v1.json").read_text())
    content["format"] = "else"
    (tmp_path / "model.v1.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not hold a manifoldkit"):
        SPDNetClassifier.load(path)
    with pytest.raises(FileNotFoundError):
        SPDNetClassifier.load(tmp_path / "nothing")


def test_what_json_does_not_hold_is_refused(matrices, tmp_path):
    X, y = matrices
    state = np.random.RandomState(0)
    model = SPDNetClassifier(max_epochs=1, random_state=state).fit(X, y)
    with pytest.raises(TypeError, match="random_state: expected a plain value"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_pickle_and_clone(matrices):
    X, y = matrices
    model = SPDNetClassifier(early_stopping=True, **FAST).fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    fresh = clone(model)
    assert fresh.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(X)


def test_transform_gives_named_features(matrices):
    pd = pytest.importorskip("pandas")
    X, y = matrices
    model = SPDNetClassifier((3,), **FAST).fit(X, y).set_output(transform="pandas")
    table = model.transform(X)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == [f"spdnetclassifier{i}" for i in range(6)]


def test_grid_search_with_routed_weights(matrices):
    import sklearn

    X, y = matrices
    with sklearn.config_context(enable_metadata_routing=True):
        model = SPDNetClassifier(**FAST).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=False)
        search = GridSearchCV(model, {"power": [0.5, 1.0], "dims": [(2,), (3,)]}, cv=2)
        search.fit(X, y, sample_weight=np.ones(len(y)))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == y.shape


@pytest.mark.slow
def test_runs_in_worker_processes(matrices):
    X, y = matrices
    scores = [
        cross_val_score(SPDNetClassifier(**FAST), X, y, cv=2, n_jobs=jobs)
        for jobs in (1, 2)
    ]
    np.testing.assert_array_equal(*scores)


@pytest.mark.filterwarnings("ignore")
def test_runs_on_dask(matrices, tmp_path):
    joblib = pytest.importorskip("joblib")
    distributed = pytest.importorskip("distributed")
    X, y = matrices
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_backend("dask"),
    ):
        scores = cross_val_score(SPDNetClassifier(**FAST), X, y, cv=2, n_jobs=-1)
    here = cross_val_score(SPDNetClassifier(**FAST), X, y, cv=2)
    np.testing.assert_array_equal(scores, here)


def test_runs_inside_moabb(tmp_path, monkeypatch):
    from manifoldkit.experiments.spd.moabb_evaluation import evaluate

    for name in ("_MNE_FAKE_HOME_DIR", "MNE_DATA", "MOABB_RESULTS"):
        monkeypatch.setenv(name, str(tmp_path))
    pytest.importorskip("moabb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moabb.datasets.fake import FakeDataset

        fake = FakeDataset(
            event_list=["left_hand", "right_hand"],
            n_sessions=2,
            n_subjects=1,
            n_runs=1,
            channels=("C3", "Cz", "C4"),
            seed=0,
        )
    model = SPDNetClassifier(input="signal", order=2, **FAST)
    table = evaluate({"SPDNet": model}, fake, "cross-session", results_folder=tmp_path)
    assert list(table["pipeline"]) == ["SPDNet"] * 2  # a row for each session
    assert table["score"].between(0, 1).all()
    assert (table["samples"] > 0).all()
    assert (table["time"] > 0).all()


@pytest.mark.gpu
def test_trains_on_a_gpu(matrices):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    X, y = matrices
    here, there = (
        SPDNetClassifier(device=device, **FAST).fit(X, y) for device in ("cpu", "cuda")
    )
    assert next(there.net_.module_.parameters()).is_cuda
    assert there.predict_proba(X).shape == here.predict_proba(X).shape


def test_prints_an_epoch_a_line_when_asked(matrices, capsys):
    X, y = matrices
    SPDNetClassifier(**FAST).fit(X, y)
    assert capsys.readouterr().out == ""
    SPDNetClassifier(verbose=1, **FAST).fit(X, y)
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_missing_extra(monkeypatch, matrices):
    monkeypatch.setitem(sys.modules, "skorch", None)
    monkeypatch.delitem(sys.modules, "manifoldkit._faces.training", raising=False)
    with pytest.raises(MissingExtraError, match=r"skorch.*manifoldkit\[train\]"):
        SPDNetClassifier().fit(*matrices)


# section "bad input" of the specification


def change(X, index, value):
    X = X.copy()
    X[index] = value
    return X


EYES = np.broadcast_to(np.eye(3), (6, 3, 3))
LABELS = ["a", "b"] * 3


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (change(EYES, (2, 0, 0), np.nan), LABELS, r"X\[2\] is not finite"),
        (change(EYES, (1, 0, 1), 0.5), LABELS, r"X\[1\] is not symmetric"),
        (change(EYES, (4, 2, 2), 0.0), LABELS, r"X\[4\] is not positive definite"),
        (np.eye(3), LABELS, r"X: expected SPD matrices of shape"),
        (np.ones((6, 3, 4)), LABELS, r"X: expected SPD matrices of shape"),
        (EYES[:0], [], "X: expected at least one matrix"),
        (EYES, ["a"] * 6, "y: expected at least 2 classes, found one class, 'a'"),
        (EYES, None, "requires y to be passed"),
        (EYES, LABELS[:4], "inconsistent numbers of samples"),
        (EYES, np.linspace(0, 1, 6), "Unknown label type"),
    ],
)
def test_bad_data(X, y, message):
    with pytest.raises(ValueError, match=message):
        SPDNetClassifier(**FAST).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "epochs"}, "input: expected one of"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"max_epochs": 0}, "max_epochs: expected an integer >= 1"),
        ({"batch_size": 2.5}, "batch_size: expected an integer"),
        ({"dims": (4,)}, "dims: expected sizes that do not increase from n_in = 3"),
        ({"dims": ()}, "dims: expected a sequence"),
        ({"power": 0.0}, "power"),
        ({"batchnorm": "instance"}, "expected one of"),
        ({"position": "last"}, "position: expected one of"),
        ({"validation_fraction": 1.5}, "validation_fraction: expected"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number >= 0"),
        ({"optimizer": "lion"}, "expected one of"),
        ({"early_stopping": True, "validation_fraction": 0.01}, "early_stopping: the"),
        ({"input": "signal", "order": 9}, "order"),
    ],
)
def test_bad_settings(settings, message):
    X = EYES * np.linspace(1, 2, 6)[:, None, None]
    with pytest.raises(ValueError, match=message):
        SPDNetClassifier(**FAST | settings).fit(X, LABELS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.full(6, -1.0), r"sample_weight\[0\] is -1"),
        (np.zeros(6), "zero"),
        (np.ones(5), "sample_weight"),
        (np.full(6, np.nan), "NaN"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        SPDNetClassifier(**FAST).fit(EYES, LABELS, weights)


def test_other_sizes_and_complex_numbers_after_fit(matrices):
    X, y = matrices
    model = SPDNetClassifier(**FAST).fit(X, y)
    with pytest.raises(ValueError, match=r"shape \(n_matrices, 4, 4\) as in fit"):
        model.predict(np.broadcast_to(np.eye(3), (2, 3, 3)))
    with pytest.raises(TypeError, match="real values only"):
        model.predict(X.astype(complex))
    integers = np.broadcast_to(np.eye(4, dtype=int), (2, 4, 4))
    assert model.predict(integers).shape == (2,)  # converted


def test_one_matrix_batches_cannot_be_normalized(matrices):
    X, y = matrices
    with pytest.raises(ValueError, match="batch"):
        SPDNetClassifier(batch_size=1, **FAST).fit(X, y)
    SPDNetClassifier(batch_size=1, batchnorm=None, **FAST).fit(X[:4], y[:4])


def test_a_class_with_one_sample_is_allowed(matrices):
    X, y = matrices
    rows = np.r_[np.flatnonzero(y == "feet"), np.flatnonzero(y == "hands")[:1]]
    SPDNetClassifier(**FAST).fit(X[rows], y[rows])
