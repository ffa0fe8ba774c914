"""Our pipelines in MOABB's three evaluations, on its fabricated data set."""

import sys
import warnings

import numpy as np
import pytest
import typer

from manifoldkit.datasets import make_transfer_eeg
from manifoldkit.exceptions import MissingExtraError
from manifoldkit.experiments.spd import moabb_evaluation
from manifoldkit.experiments.spd.calibration import TARGET, TargetDomain, aligns
from manifoldkit.experiments.spd.moabb_evaluation import (
    PARADIGMS,
    PUBLISHED,
    evaluate,
    main,
    paper_pipelines,
    published_rows,
)
from manifoldkit.spd import make_acm_classifier


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """MOABB's fake data set, with every folder that MNE and MOABB write to."""
    monkeypatch.setenv("_MNE_FAKE_HOME_DIR", str(tmp_path))
    monkeypatch.setenv("MNE_DATA", str(tmp_path))
    monkeypatch.setenv("MOABB_RESULTS", str(tmp_path))
    pytest.importorskip("moabb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moabb.datasets.fake import FakeDataset

        return FakeDataset(
            event_list=["left_hand", "right_hand"],
            n_sessions=2,
            n_subjects=2,
            n_runs=1,
            channels=("C3", "Cz", "C4"),
            seed=0,
        )


@pytest.mark.parametrize(
    "evaluation", ["within-session", "cross-session", "cross-subject"]
)
def test_pipelines_run_inside_moabb(evaluation, fake, tmp_path):
    pipelines = {
        "ACM": make_acm_classifier(order=2, lag=2),
        "ACM+GBWMDM": make_acm_classifier(order=2, lag=2, classifier="gbwmdm"),
    }
    table = evaluate(pipelines, fake, evaluation, results_folder=tmp_path)
    assert set(table["pipeline"]) == set(pipelines)
    assert set(table["subject"]) == {"1", "2"}
    assert table["score"].between(0, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluation", "options"),
    [
        ("within-session", {}),
        ("cross-session", {}),
        ("cross-subject", {}),
        ("cross-subject", {"calibration_size": 0.3}),
        ("cross-subject", {"calibration_size": 0.3, "calibration_labeled": True}),
    ],
)
def test_aligned_pipelines_run_inside_moabb(evaluation, options, fake, tmp_path):
    pipelines = {
        "aligned": make_acm_classifier(order=2, lag=2, classifier="lr", align=True),
        "searched": make_acm_classifier(
            "auto", 2, align=True, orders=(1, 2), cv=2, random_state=0
        ),
    }
    options = {"cv_kwargs": options} if options else {}
    table = evaluate(pipelines, fake, evaluation, results_folder=tmp_path, **options)
    assert set(table["pipeline"]) == set(pipelines)
    assert table["score"].between(0, 1).all()


@pytest.fixture
def two_subjects():
    """Subjects behind mixings; the last is the target."""
    epochs = make_transfer_eeg(
        3, 40, n_times=240, desynchronization=0.2, random_state=0
    )
    rows = epochs.subject == 3
    return (epochs.X[~rows], epochs.y[~rows], epochs.subject[~rows]), (
        epochs.X[rows],
        epochs.y[rows],
    )


def test_target_domain_takes_what_moabb_gives(two_subjects):
    (X, y, subjects), (target, truth) = two_subjects
    aligned = make_acm_classifier(classifier="lr", estimator="scm", align=True)
    assert aligns(aligned)
    assert not aligns(make_acm_classifier())
    assert aligns(make_acm_classifier("auto", align=True))
    model = TargetDomain(aligned).fit(X, y, subjects=subjects)
    assert model.score(target, truth) > 0.8
    assert set(model.pipeline_["align"].centers_) == {"1", "2"}
    calibrated = TargetDomain(aligned).fit(
        X, y, subjects=subjects, X_target_unlabeled=target[:30]
    )
    # with the target's mean known, an answer depends on no other epoch
    np.testing.assert_allclose(
        calibrated.predict_proba(target[30:31]), calibrated.predict_proba(target)[30:31]
    )
    assert calibrated.score(target[30:], truth[30:]) > 0.8
    labeled = TargetDomain(aligned).fit(
        *(X, y),
        subjects=subjects,
        X_target_labeled=target[:30],
        y_target_labeled=truth[:30],
    )
    assert TARGET in labeled.pipeline_["align"].centers_
    assert labeled.score(target[30:], truth[30:]) > 0.8
    assert not hasattr(TargetDomain(make_acm_classifier(align=True)), "predict_proba")


def test_paper_pipelines_fit(rng):
    X = rng.standard_normal((24, 3, 120))
    y = np.array(["left_hand", "right_hand"] * 12)
    for name, model in paper_pipelines(quick=True).items():
        assert model.fit(X, y).predict(X).shape == (24,), name


def test_published_scores_are_complete():
    for (evaluation, paradigm), rows in PUBLISHED.items():
        assert evaluation in ("within-session", "cross-session")
        assert paradigm in PARADIGMS
        assert all(50 < score < 100 for row in rows.values() for score in row)
    rows = published_rows()
    assert len({(row["source"], row["data"]) for row in rows}) == len(rows)
    assert any(row["ACM+TS+SVM (grid)"] < row["TS+SVM"] for row in rows)


@pytest.mark.parametrize(
    ("paradigm", "scoring"), [("left-right", "roc_auc"), ("three-class", "accuracy")]
)
def test_search_uses_the_reported_score(paradigm, scoring):
    assert paper_pipelines(paradigm=paradigm)["ACM+TS+SVM (grid)"].scoring == scoring


@pytest.mark.filterwarnings("ignore")
def test_command_says_errors_in_one_line(capsys):
    pytest.importorskip("moabb")
    with pytest.raises(typer.Exit):
        main(dataset=["NoSuchSet"], quick=True)
    out = capsys.readouterr().out
    assert out == "error: datasets: MOABB has no data set 'NoSuchSet'\n"


def test_command_shows_the_papers_score_beside_ours(monkeypatch, tmp_path, capsys):
    pd = pytest.importorskip("pandas")
    rows = [
        ("BNCI2014-001", "TS+SVM", subject, session, score)
        for subject, session, score in [(1, 0, 0.9), (1, 1, 0.7), (2, 0, 0.6)]
    ] + [("Other", "mine", 1, 0, 0.5)]
    columns = ["dataset", "pipeline", "subject", "session", "score"]
    asked = {}

    def fake(pipelines, datasets, *args, **options):
        asked.update(options, datasets=datasets)
        return pd.DataFrame(rows, columns=columns)

    monkeypatch.setattr(moabb_evaluation, "evaluate", fake)
    main(quick=True, out=tmp_path / "scores.csv", results=tmp_path, overwrite=True)
    lines = capsys.readouterr().out.splitlines()
    # mean over subjects of the means over sessions; the paper's 88.3 beside it
    assert lines[1].split() == ["BNCI2014-001", "TS+SVM", "70.0", "88.3"]
    assert lines[2].split() == ["Other", "mine", "50.0", "-"]
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 4
    assert asked["datasets"] == ["BNCI2014_001"]
    assert asked["results_folder"] == tmp_path
    assert asked["overwrite"]


def test_stored_results_are_used_until_overwritten(fake, tmp_path):
    pipelines = {"ACM": make_acm_classifier(order=2, lag=2)}
    first = evaluate(pipelines, fake, results_folder=tmp_path)
    assert (first["time"] > 0).all()
    fits = []

    class Counted(type(pipelines["ACM"])):
        def fit(self, X, y, **params):
            fits.append(len(X))
            return super().fit(X, y, **params)

    again = {"ACM": Counted(pipelines["ACM"].steps)}
    evaluate(again, fake, results_folder=tmp_path, overwrite=True)
    assert fits
    fits.clear()
    evaluate(again, fake, results_folder=tmp_path)
    assert not fits


def test_missing_extra(monkeypatch):
    for name in ("moabb", "moabb.datasets", "moabb.evaluations"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="moabb"):
        evaluate({})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"evaluation": "leave-one-out"}, "evaluation: expected one of"),
        ({"paradigm": "tongue"}, "paradigm: expected one of"),
        ({"datasets": "NoSuchSet"}, "no data set 'NoSuchSet'"),
    ],
)
def test_bad_input(kwargs, message):
    pytest.importorskip("moabb")
    with pytest.raises(ValueError, match=message):
        evaluate({}, **kwargs)
