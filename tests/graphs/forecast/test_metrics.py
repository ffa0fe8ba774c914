import numpy as np
import pytest
import torch

from manifoldkit.graphs.forecast.metrics import ErrorSums, masked_mae


def test_masked_loss_and_its_gradient():
    forecast = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    target = torch.tensor([2.0, torch.nan, 1.0])
    loss = masked_mae(forecast, target, torch.tensor([1.0, 5.0, 2.0]))
    assert loss.item() == (1 + 2 * 2) / 2
    loss.backward()
    assert forecast.grad.tolist() == [-0.5, 0.0, 1.0]
    empty = masked_mae(forecast, torch.full((3,), torch.nan))
    assert empty.item() == 0


def test_errors_against_plain_formulas(rng):
    truth, forecast = rng.uniform(-1, 5, (2, 30, 8, 3))
    sums = ErrorSums(8, mape_floor=1.0)
    for k in range(0, 30, 7):
        sums.add(truth[k : k + 7], forecast[k : k + 7])
    report = sums.report()
    gap = np.abs(truth - forecast)
    assert report.n_windows == 30
    assert report.mae == pytest.approx(gap.mean())
    assert report.overall["rmse"] == pytest.approx(np.sqrt((gap**2).mean()))
    large = np.abs(truth) >= 1
    assert report.overall["mape"] == pytest.approx((gap / abs(truth))[large].mean())
    assert report.last_quarter["mae"] == pytest.approx(gap[:, 6:].mean())
    assert report.rows[2]["mae"] == pytest.approx(gap[:, 2].mean())
    assert [row["step"] for row in sums.report([3, 8]).rows] == [3, 8]


def test_missing_truth_and_zeros_do_not_count():
    truth = np.array([[[0.0, np.nan]], [[2.0, 4.0]]])
    sums = ErrorSums(1)
    sums.add(truth, np.ones((2, 1, 2)))
    report = sums.report()
    assert report.mae == pytest.approx((1 + 1 + 3) / 3)
    assert report.overall["mape"] == pytest.approx((0.5 + 0.75) / 2)
    nothing = ErrorSums(1)
    nothing.add(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    assert np.isnan(nothing.report().overall["mape"])


def test_horizons_are_checked():
    with pytest.raises(ValueError, match="horizons: expected 1 to 4, found 5"):
        ErrorSums(4).report([5])
