"""Valid arguments for the public functions of statistics."""

from function_cases.draws import spd_
from manifoldkit import manifolds

CASES = {
    "statistics.geodesic_kernel": lambda b, n: {
        "manifold": manifolds.SPD("log_euclidean"),
        "x": spd_((*b, 4), n),
        "y": spd_((*b, 2), n),
        "kind": "gauss",
        "gamma": 0.5,
    },
}
ELSEWHERE: set[str] = set()
STRICT = {
    "statistics.geodesic_kernel": {},
}
NO_HALF = {
    "statistics.geodesic_kernel",
}
DECIDES: set[str] = set()
