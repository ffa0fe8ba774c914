"""Augmented covariances against MOABB and pyriemann."""

import numpy as np
import torch
from moabb.pipelines.features import AugmentedDataset
from pyriemann.estimation import Covariances

from benchmarks.timing import ratio_row
from manifoldkit.spd.augmented import (
    AugmentedCovariances,
    augmented_covariance,
    augmented_covariance_grid,
)


def _difference(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max())


def run():
    """Return the rows."""
    X = np.random.default_rng(0).standard_normal((100, 22, 1000))
    x = torch.from_numpy(X)
    size = "100 epochs x 22 channels x 1000 samples"
    rows = []
    for order, lag, estimator, target in (
        (10, 1, "cov", "0.56, aim 0.33"),
        (10, 8, "cov", "0.56, aim 0.33"),
        (4, 4, "cov", ""),
        (10, 1, "oas", ""),
    ):
        step = AugmentedCovariances(order, lag, estimator, trim="moabb").fit(X)

        def moabb(order=order, lag=lag, estimator=estimator):
            embedded = AugmentedDataset(order=order, lag=lag).transform(X)
            return Covariances(estimator).transform(embedded)

        def function(order=order, lag=lag, estimator=estimator):
            return augmented_covariance(
                x, order, lag, estimator=estimator, trim="moabb"
            )

        gap = _difference(function(), moabb())
        peer = f'AugmentedDataset + Covariances("{estimator}")'
        for name, ours in (
            ("function", function),
            ("transformer with its checks", lambda step=step: step.transform(X)),
        ):
            rows.append(
                ratio_row(
                    f"{estimator}, order {order}, lag {lag}, {name}, {size}",
                    ours,
                    peer,
                    moabb,
                    target=target,
                    max_abs_diff=gap,
                    note=f"relative difference {gap:.0e}",
                )
            )
    orders = range(1, 11)

    def grid():
        return augmented_covariance_grid(x, orders, 4)

    def singly():
        return {o: augmented_covariance(x, o, 4) for o in orders}

    one = singly()
    gap = max(_difference(c, one[o]) for o, c in grid().items())
    rows.append(
        ratio_row(
            f"orders 1..10 at lag 4, oas, {size}",
            grid,
            "ours, one call an order",
            singly,
            max_abs_diff=gap,
            note=f"relative difference {gap:.0e}",
        )
    )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
