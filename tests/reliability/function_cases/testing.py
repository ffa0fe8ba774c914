"""Valid arguments for the public functions of testing."""

from function_cases.draws import randn, rot
from manifoldkit import testing

CASES = {
    "testing.transform": lambda b, n: {
        "element": testing.Element("turn", matrix=rot(())),
        "x": randn(2, 5, 3),
    },
}
ELSEWHERE = {
    "testing.assert_equivariant",
    "testing.check_equivariance",
    "testing.random_general_linear",
    "testing.random_orthogonal",
    "testing.random_permutation",
    "testing.random_rotation",
}
STRICT = {}
NO_HALF = set()
DECIDES = set()
