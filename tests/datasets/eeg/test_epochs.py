"""The container of epochs: choosing among them, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from manifoldkit.datasets import fetch_physionet_mi


def test_select_and_torch(physionet):
    epochs = fetch_physionet_mi(1, [4, 6], path=physionet)
    part = epochs.select(channels=["C4", "C3"], classes=["left_fist", "both_feet"])
    assert part.X.shape == (4, 2, 480)
    np.testing.assert_array_equal(part.X[:, 1], part.select(channels=["C3"]).X[:, 0])
    assert len(epochs.select(index=epochs.run == 6)) == 4
    X, y = part.to_torch()
    assert X.shape == (4, 2, 480)
    assert [part.classes[i] for i in y] == part.y.tolist()
    with pytest.raises(ValueError, match="Fp9"):
        epochs.select(channels=["Fp9"])
    with pytest.raises(ValueError, match="jump"):
        epochs.select(classes=["jump"])


def test_epochs_of_uneven_length_are_refused(physionet):
    epochs = fetch_physionet_mi(1, 4, path=physionet)
    with pytest.raises(ValueError, match="y: expected one value an epoch, 4, found 3"):
        replace(epochs, y=epochs.y[:3])
    with pytest.raises(ValueError, match="X: expected shape"):
        replace(epochs, X=epochs.X[:, :2])
