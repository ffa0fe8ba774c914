"""Simulated subjects: the mixings and shares that were asked for, and no others."""

import numpy as np
import pytest

from manifoldkit.datasets import make_transfer_eeg


def simulate(**options):
    options = {"n_subjects": 3, "n_epochs": 20, "random_state": 0} | options
    return make_transfer_eeg(**options, return_truth=True)


@pytest.mark.parametrize("mixing", ["symmetric", "general"])
def test_epochs_are_mixed_as_the_truth_says(mixing):
    epochs, truth = simulate(mixing=mixing)
    assert epochs.X.shape == (60, 6, 480)
    np.testing.assert_array_equal(np.bincount(epochs.subject), [0, 20, 20, 20])
    unmixed = np.linalg.solve(truth.mixings[epochs.subject - 1], epochs.X)
    scale = unmixed.std() / truth.common.std()
    np.testing.assert_allclose(unmixed, scale * truth.common, atol=1e-8)
    symmetric = np.allclose(truth.mixings, truth.mixings.swapaxes(1, 2))
    assert symmetric == (mixing == "symmetric")
    assert not epochs.is_real


def test_the_common_epochs_have_the_mean_covariance_identity():
    _, truth = simulate()
    mean = (
        np.einsum("ect,ekt->ck", truth.common, truth.common) / truth.common[:, 0].size
    )
    np.testing.assert_allclose(mean, np.eye(6), atol=1e-10)


def test_no_strength_mixes_nothing():
    _, truth = simulate(strength=0.0)
    np.testing.assert_allclose(truth.mixings, np.tile(np.eye(6), (3, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("shares", "counts"),
    [
        (None, [[10, 10]] * 3),
        ([0.8, 0.2], [[16, 4]] * 3),
        ([[0.5, 0.5], [1.0, 0.0], [0.33, 0.67]], [[10, 10], [20, 0], [7, 13]]),
    ],
)
def test_class_shares(shares, counts):
    epochs, _ = simulate(class_shares=shares)
    for subject, expected in enumerate(counts, 1):
        y = epochs.y[epochs.subject == subject]
        found = [(y == name).sum() for name in ("left_hand", "right_hand")]
        assert found == expected


def test_every_epoch_is_there_once():
    _, truth = simulate(class_shares=[[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])
    sizes = np.linalg.norm(truth.common, axis=(1, 2))
    assert len(np.unique(sizes)) == 60


def test_seeds():
    (a, _), (b, _), (c, _) = simulate(), simulate(), simulate(random_state=1)
    np.testing.assert_array_equal(a.X, b.X)
    assert not np.allclose(a.X, c.X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_shares": [0.5, 0.4]}, "class_shares: expected shares .* sum to one"),
        ({"class_shares": [1.5, -0.5]}, "class_shares: expected shares"),
        ({"class_shares": [0.5, 0.25, 0.25]}, r"class_shares: expected shape \(2,\)"),
        ({"class_shares": [np.nan, 0.5]}, "class_shares: expected shares"),
        ({"mixing": "random"}, "mixing: expected"),
        ({"strength": -1.0}, "strength: expected"),
        ({"n_subjects": 0}, "n_subjects: expected"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        simulate(**options)
