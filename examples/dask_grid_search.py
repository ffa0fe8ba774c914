"""Spread a grid search over Dask workers; nothing but the joblib backend changes.

    python examples/dask_grid_search.py --workers 2

Needs ``pip install "dask[distributed]"``. A ``Client`` with the address of a cluster
instead of the local one sends the same search there.
"""

import argparse

import joblib
from sklearn.model_selection import GridSearchCV

from manifoldkit.datasets import make_motor_imagery_eeg
from manifoldkit.spd import make_acm_classifier


def make_search() -> GridSearchCV:
    """Order and lag of an augmented covariance, by cross-validation."""
    grid = {"augmented__order": [1, 2], "augmented__lag": [1, 3]}
    return GridSearchCV(make_acm_classifier(1, 1, "mdm"), grid, cv=3)


def main() -> None:
    """Search with one process, then on the workers; both find the same."""
    from dask.distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    X, y = make_motor_imagery_eeg(
        n_epochs=30, n_channels=6, n_times=160, random_state=0, return_X_y=True
    )
    alone = make_search().fit(X, y)
    with (
        LocalCluster(
            n_workers=arguments.workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        spread = make_search().fit(X, y)
    same = alone.cv_results_["mean_test_score"] == spread.cv_results_["mean_test_score"]
    print(f"best: {spread.best_params_}, accuracy {spread.best_score_:.3f}")
    print(f"the same scores as in one process: {bool(same.all())}")


if __name__ == "__main__":
    main()
