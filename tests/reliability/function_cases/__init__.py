"""Valid arguments for every public function of tensors, a file for each room.

Each file has five tables, which are joined here:

``CASES``
    name: function of (batch shape, size) that returns valid keyword arguments; the
    size is at least one, and what a function does not take it refuses by name.
``ELSEWHERE``
    Public functions whose arguments are not tensors, each tested in its own file.
``STRICT``
    Outside their domain (not definite, singular, not a rotation) the fast functions
    give NaN, as LAPACK does, and refuse it where these arguments ask for that.
``NO_HALF``
    What refuses bfloat16, as its matrices are factored by LAPACK without a copy.
``DECIDES``
    Whose result is discontinuous, or a decision, so that rounding may change it.
"""

from function_cases import (
    equivariant,
    graphs,
    lie,
    linalg,
    manifolds,
    spd,
    statistics,
    testing,
)

TABLES = (linalg, lie, manifolds, statistics, spd, equivariant, graphs, testing)
CASES = {name: case for table in TABLES for name, case in table.CASES.items()}
ELSEWHERE = {name for table in TABLES for name in table.ELSEWHERE}
STRICT = {name: strict for table in TABLES for name, strict in table.STRICT.items()}
NO_HALF = {name for table in TABLES for name in table.NO_HALF}
DECIDES = {name for table in TABLES for name in table.DECIDES}
