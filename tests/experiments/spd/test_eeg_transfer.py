"""Domains left out: what a contestant sees, and the table on a small simulation."""

import numpy as np
import pytest
from rich.console import Console

from manifoldkit.datasets import make_transfer_eeg
from manifoldkit.experiments.result import Result
from manifoldkit.experiments.spd import eeg_transfer
from manifoldkit.experiments.spd.eeg_transfer import (
    OURS,
    PEER,
    PLAIN,
    Task,
    contestants,
    score,
)


@pytest.fixture(scope="module")
def task():
    epochs, truth = make_transfer_eeg(
        3, 30, 4, 240, desynchronization=0.2, random_state=0, return_truth=True
    )
    return Task(
        *("small", epochs.X, epochs.y, epochs.subject), [2, 3], True, truth.common
    )


def test_splits(task):
    for target, (train, test) in zip((2, 3), task.splits(), strict=True):
        assert set(task.domains[test]) == {target}
        assert set(task.domains[train]) == {1, 2, 3} - {target}
    for train, _ in task._replace(others_train=False).splits():
        assert set(task.domains[train]) == {1}


def test_ours_is_what_pyriemann_recenters(task):
    rows = contestants(simulated=True)
    train, test = next(task.splits())
    given = task.X[train], task.y[train], task.domains[train], task.X[test]
    np.testing.assert_allclose(rows[OURS](*given), rows[PEER](*given), atol=1e-6)


def test_alignment_finds_what_no_alignment_loses(task):
    rows = contestants(simulated=True)
    aligned, ideal = score(task, rows[OURS]), score(task, rows[PLAIN], ideal=True)
    plain = score(task, rows[PLAIN])
    mean = {k: np.mean(v["accuracies"]) for k, v in
            {"a": aligned, "i": ideal, "p": plain}.items()}  # fmt: skip
    assert mean["p"] + 0.1 < mean["a"]
    assert abs(mean["a"] - mean["i"]) < 0.1
    assert len(aligned["areas"]) == 2


def test_the_search_chooses_among_pairs(task):
    train, test = next(task.splits())
    given = task.X[train], task.y[train], task.domains[train], task.X[test]
    options = {"classifier": "lr", "align": True, "estimator": "scm"}
    found = eeg_transfer.by_search(*given, pairs=((2, 3), (1, 1)), **options)
    fixed = [
        eeg_transfer.by_pipeline(*given, order=o, lag=k, **options)
        for o, k in ((2, 3), (1, 1))
    ]
    assert any(np.array_equal(found, proba) for proba in fixed)


def test_run(task, tmp_path, monkeypatch):
    monkeypatch.setattr(eeg_transfer, "simulated_tasks", lambda seed, quick: [task])
    monkeypatch.setattr(eeg_transfer, "mamem_subjects", lambda most: {})
    result = eeg_transfer.run(tmp_path, quick=True, console=Console(quiet=True))
    assert result.metrics[0]["pipeline"] == PLAIN
    for row in result.metrics:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert 0 < row["roc_auc"] <= 1
    assert "without any mixing (oracle)" in " ".join(result.remarks)
    assert "mamem" in result.remarks[0]
    assert Result.load(tmp_path).metrics == result.metrics
