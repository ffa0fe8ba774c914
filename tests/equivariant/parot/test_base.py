"""Losses that both networks of PaRot share."""

import torch

from manifoldkit.equivariant import PaRotClassifier
from manifoldkit.equivariant.parot.base import smoothed_cross_entropy

SMALL = {"n_patches": 16, "k_local": 10, "k_global": 12, "k_intra": 5}


def clouds(b=4, n=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, 3, generator=g, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_smoothing_is_spread_over_the_other_classes():
    scores, y = torch.randn(6, 5, generator=seeded()), torch.arange(6) % 5
    target = torch.full((6, 5), 0.2 / 4).scatter(1, y[:, None], 0.8)
    want = -(target * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(scores, y, 0.2), want)


def test_total_is_the_weighted_sum():
    model = PaRotClassifier(5, loss_weights={"feat_local": 0.5}, **SMALL).double()
    losses = model.losses(clouds(), torch.arange(4), seeded())
    want = losses["cls"] + losses["dir_local"] + losses["dir_global"]
    want = want + 0.2 * losses["orth_local"] + 0.1 * losses["orth_global"]
    torch.testing.assert_close(losses["total"], want + 0.5 * losses["feat_local"])
