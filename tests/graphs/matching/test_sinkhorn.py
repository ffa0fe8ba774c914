"""The old place of a function that moved to ``linalg``."""

from manifoldkit import graphs, linalg


def test_the_old_name_is_the_same_function():
    assert graphs.sinkhorn is linalg.sinkhorn
