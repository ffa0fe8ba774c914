"""Valid arguments for the public functions of spd."""

import torch

from function_cases.draws import randn, spd_, sym


def most_of(b, n):
    """Masks in which the first of four matrices misses its first channel."""
    mask = torch.ones(*b, 4, n, dtype=torch.bool)
    mask[..., 0, 0] = n == 1
    return mask


CASES = {
    "spd.gbw_distance": lambda b, n: {"a": spd_(b, n), "b": spd_(b, n)},
    "spd.gbw_log": lambda b, n: {"base": spd_(b, n), "point": spd_(b, n)},
    "spd.gbw_exp": lambda b, n: {"base": spd_(b, n), "tangent": 0.1 * sym(b, n)},
    "spd.gbw_geodesic": lambda b, n: {"a": spd_(b, n), "b": spd_(b, n), "t": 0.3},
    "spd.gbw_mean": lambda b, n: {"x": spd_((*b, 4), n)},
    "spd.maskedmean": lambda b, n: {"x": spd_((*b, 4), n), "mask": most_of(b, n)},
    "spd.nanmean": lambda b, n: {"x": spd_((*b, 4), n)},
    "spd.augmented_covariance": lambda b, n: {
        "x": randn(*b, n, 40),
        "order": 2,
        "lag": 2,
    },
    "spd.yule_walker": lambda b, n: {"x": randn(*b, n, 60), "order": 2},
}
ELSEWHERE = {
    "spd.convert_sync_batchnorm",
    "spd.gbw_metric",
    "spd.load_pipeline",
    "spd.information_maximization",
    "spd.make_acm_classifier",
    "spd.make_batchnorm",
    "spd.make_gbw_kmeans",
    "spd.save_pipeline",
    "spd.select_delay_embedding",
}
STRICT = {
    "spd.gbw_distance": {"validate": True},
    "spd.gbw_log": {"validate": True},
    "spd.gbw_exp": {"validate": True},
    "spd.gbw_geodesic": {"validate": True},
    "spd.gbw_mean": {"validate": True},
}
NO_HALF = set()
DECIDES = {
    "spd.yule_walker",
}
