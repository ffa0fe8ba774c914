"""Fitted pipelines as files: the same answers, and nothing that was tampered with."""

import io
import json

import joblib
import numpy as np
import pytest
import safetensors.torch
import sklearn
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from manifoldkit.spd import (
    AugmentedCovariances,
    DomainAligner,
    GBWTangentSpace,
    gbw_metric,
    load_pipeline,
    make_acm_classifier,
    save_pipeline,
)
from manifoldkit.spd.saved_pipelines import checksum


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3, 60)), np.tile(["feet", "hands", "rest"], 10)
    X[y == "feet", 0] *= 2
    X[y == "rest", 1] *= 2
    return X, y


def models():
    yield from (
        make_acm_classifier(2, 2, name, align=True, random_state=0)
        for name in ("svm", "lr", "en", "mdm", "fgmdm", "gbwmdm")
    )
    yield make_acm_classifier("auto", "auto", "lr", orders=(1, 2), lags=(2,), cv=2)
    yield make_acm_classifier("auto", "auto", selection="mdop")
    gbw = gbw_metric(np.diag([1.0, 2.0, 3.0]), power=0.5)
    aligner = DomainAligner(rescale=True, metric=gbw, forgetting=0.1)
    for name in ("mdm", "fgmdm", "lr"):
        yield make_acm_classifier(classifier=name, metric=gbw, align=aligner)
    yield make_pipeline(
        AugmentedCovariances(), GBWTangentSpace(M="mean"), LinearDiscriminantAnalysis()
    )
    yield make_pipeline(
        Covariances("oas"), TangentSpace(), LinearDiscriminantAnalysis()
    )


def answer(model, X):
    if hasattr(model, "predict_proba"):
        return model.predict_proba(X)
    return model.decision_function(X)


@pytest.mark.parametrize("model", models(), ids=lambda m: str(m)[:40].split("\n")[0])
def test_answers_as_before(model, data, tmp_path):
    X, y = data
    model.fit(X, y)
    save_pipeline(model, tmp_path / "decoder")
    assert {p.name for p in tmp_path.iterdir()} == {
        "decoder.json",
        "decoder.safetensors",
    }
    again = load_pipeline(tmp_path / "decoder")
    assert getattr(again, "best_estimator_", again) is again
    np.testing.assert_array_equal(answer(again, X), answer(model, X))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.classes_, model.classes_)
    save_pipeline(again, tmp_path / "again")  # and once more the same files
    for end in (".json", ".safetensors"):
        first, second = ((tmp_path / f"{n}{end}") for n in ("decoder", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_goes_on_after_loading(data, tmp_path):
    X, y = data
    domains = np.repeat(["a", "b", "c"], 10)
    model = make_acm_classifier(classifier="gbwmdm", align=True)
    model.fit(X, y, align__domains=domains)
    save_pipeline(model, tmp_path / "decoder")
    again = load_pipeline(tmp_path / "decoder")
    for twin in (model, again):
        matrices = twin["augmented"].transform(X[:5])
        twin["align"].partial_fit(matrices, domains=["a"] * 5)
        twin["classifier"].partial_fit(matrices, y[:5])
    with sklearn.config_context(enable_metadata_routing=True):
        np.testing.assert_array_equal(
            again.predict_proba(X, domains=domains),
            model.predict_proba(X, domains=domains),
        )


def test_requests_are_kept(data, tmp_path):
    X, y = data
    with sklearn.config_context(enable_metadata_routing=True):
        aligner = DomainAligner()
        aligner.set_fit_request(domains="subjects")
        aligner.set_transform_request(domains="subjects")
        model = make_acm_classifier(align=aligner)
        model.fit(X, y, subjects=np.repeat([1, 2], 15))
        save_pipeline(model, tmp_path / "decoder")
        again = load_pipeline(tmp_path / "decoder")
        subjects = np.repeat([2, 1], 15)
        np.testing.assert_array_equal(
            again.decision_function(X, subjects=subjects),
            model.decision_function(X, subjects=subjects),
        )


def test_joblib_keeps_it_too(data):
    X, y = data
    model = make_acm_classifier(2, 2, "lr", align=True).fit(X, y)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    np.testing.assert_array_equal(
        joblib.load(file).predict_proba(X), model.predict_proba(X)
    )


@pytest.fixture
def saved(data, tmp_path):
    X, y = data
    save_pipeline(make_acm_classifier(align=True).fit(X, y), tmp_path / "decoder")
    return tmp_path / "decoder"


def edit(path, change, again=True):
    """Change the JSON half, with the checksum set right as an attacker would."""
    file = path.with_suffix(".json")
    content = json.loads(file.read_text())
    change(content)
    if again:
        content.pop("sha256")
        tensors = safetensors.torch.load_file(path.with_suffix(".safetensors"))
        content["sha256"] = checksum(content, tensors)
    file.write_text(json.dumps(content))


def step(content, i):
    return content["pipeline"]["params"]["steps"]["list"][i]["tuple"][1]


def test_changed_numbers_are_refused(saved):
    file = saved.with_suffix(".safetensors")
    tensors = load_file(file)
    key = next(k for k in tensors if k.endswith("intercept_"))
    tensors[key] = tensors[key] + 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match="another checksum"):
        load_pipeline(saved)


def test_changed_settings_are_refused(saved):
    edit(saved, lambda c: step(c, 0)["params"].update(order=2), again=False)
    with pytest.raises(ValueError, match="another checksum"):
        load_pipeline(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: step(c, 0).update(estimator="Popen"), "unknown estimator 'Popen'"),
        (lambda c: step(c, 0)["state"].update(transform=1), "attribute 'transform'"),
        (lambda c: step(c, 0)["state"].update(__class__=1), "attribute '__class__'"),
        (lambda c: step(c, 1)["state"].update(_move=1), "attribute '_move'"),
        (lambda c: step(c, 0)["params"].update(evil=1), "unexpected keyword"),
        (lambda c: step(c, 0)["params"].update(order={"call": 1}), "unknown kind"),
        (lambda c: c.update(pipeline=3), "found int"),
        (lambda c: c.pop("pipeline"), "KeyError"),
        (lambda c: c.update(format="other"), "does not hold"),
        (
            lambda c: step(c, 3)["state"].update(
                _n_support={"array": "pipeline.steps[3][1].support_", "complex": False}
            ),
            "do not fit together",
        ),
    ],
)
def test_dressed_up_files_are_refused(saved, change, words):
    edit(saved, change)
    with pytest.raises(ValueError, match=words):
        load_pipeline(saved)


def test_broken_files(saved):
    saved.with_suffix(".safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read"):
        load_pipeline(saved)
    saved.with_suffix(".safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        load_pipeline(saved)
    saved.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_pipeline(saved)


def test_another_release_of_scikit_learn_is_told(saved):
    edit(saved, lambda c: c.update({"scikit-learn": "0.1.0"}))
    with pytest.warns(UserWarning, match=r"saved with scikit-learn 0\.1\.0"):
        load_pipeline(saved)


class Stranger(BaseEstimator):
    """No class of the table."""

    def fit(self, X, y=None):
        self.n_ = len(X)
        return self

    def predict(self, X):
        return X


def test_what_cannot_be_saved_is_named(data, tmp_path):
    X, y = data
    own = make_acm_classifier(classifier=KNeighborsClassifier()).fit(X, y)
    for model, words in (
        (own, r"pipeline.steps\[2\]\[1\]: .*KNeighborsClassifier"),
        (make_acm_classifier(estimator=np.cov).fit(X, y), "pipeline.*estimator"),
        (Stranger().fit(X), "pipeline: cannot be saved"),
    ):
        with pytest.raises(TypeError, match=words):
            save_pipeline(model, tmp_path / "decoder")
    with pytest.raises(NotFittedError):
        save_pipeline(make_acm_classifier(), tmp_path / "decoder")
    assert not list(tmp_path.iterdir())
