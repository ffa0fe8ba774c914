"""K-means in the generalized Bures-Wasserstein metric."""

import numpy as np
import torch

from manifoldkit.spd import gbw_mean, make_gbw_kmeans


def test_gbw_kmeans_finds_two_clusters(rng):
    centers = np.array([np.diag([1.0, 1, 1]), np.diag([9.0, 1, 1])])
    noise = 0.05 * rng.standard_normal((40, 3, 3))
    truth = np.repeat([0, 1], 20)
    X = centers[truth] + noise @ noise.transpose(0, 2, 1)
    for options in ({}, {"power": 0.5}, {"M": np.diag([2.0, 1.0, 1.0])}):
        model = make_gbw_kmeans(2, random_state=0, n_init=2, **options).fit(X)
        labels = model.predict(X)
        assert set(labels) == {0, 1}
        assert len(set(zip(labels, truth, strict=True))) == 2
        # the centroids are Wasserstein means of their clusters
        M = options.get("M")
        first = gbw_mean(
            torch.from_numpy(X[labels == 0]),
            M=None if M is None else torch.from_numpy(M),
            power=options.get("power", 1.0),
        )
        np.testing.assert_allclose(model.centroids()[0], first, rtol=1e-6, atol=1e-8)
