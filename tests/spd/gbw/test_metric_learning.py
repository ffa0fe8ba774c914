"""Coordinates of the learned metric matrix; ``test_estimators`` has the learning."""

import torch

from manifoldkit.linalg import is_spd
from manifoldkit.spd.gbw.metric_learning import from_log_cholesky, to_log_cholesky


def test_log_cholesky_coordinates_round_trip(make_spd):
    x = make_spd(n=4)
    back = from_log_cholesky(to_log_cholesky(x), 4)
    torch.testing.assert_close(back, x, rtol=1e-13, atol=1e-14)


def test_every_vector_is_a_metric_matrix(generator):
    c = 3 * torch.randn(10, dtype=torch.float64, generator=generator)
    M = from_log_cholesky(c, 4)
    assert bool(is_spd(M))
    torch.testing.assert_close(to_log_cholesky(M), c)
